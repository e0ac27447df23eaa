"""Flows: each story is written once, as a generator of requests, and performed by one of two drivers.

A flow yields requests to the outside world (evaluate a script, run a transaction, ring, pause) and is sent the replies.
`run` performs them by blocking, `arun` by awaiting; nothing else in this package knows which. An error of the outside
world is translated (`borders.py`) and thrown into the flow at the request that met it.

Assumes: any request may fail after it took effect (a lost reply, an unknown commit); flows repeat what is idempotent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any, ClassVar, Protocol, TypeVar

import redis.asyncio
from redis.exceptions import NoScriptError
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from sessioncache.borders import FOREIGN, translate
from sessioncache.errors import HookFailed, SessionCacheError
from sessioncache.scripts import Script

T = TypeVar("T")

# The execution option that makes SQLite take its write lock at BEGIN (see `store.engine`).
WRITES = "sessioncache_writes"


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Run a script; its reply is sent back as redis-py gives it: bytes, integers and lists."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[str | bytes | int, ...]


@dataclass(frozen=True, slots=True)
class Command:
    """Run plain Redis commands in one round trip; the list of their replies is sent back."""

    commands: tuple[tuple[str | int, ...], ...]


@dataclass(frozen=True, slots=True)
class Transact:
    """Run ``work`` in one transaction, committed when it returns; its result is sent back.

    A transaction that does not write sees one snapshot of the store.
    """

    work: Callable[[Connection], Any]
    writes: bool


@dataclass(frozen=True, slots=True)
class Ring:
    """Send a nudge for a lane, behind the caller's back."""

    lane: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait, in seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Call:
    """Call a function of the application; a coroutine is awaited or run to its end. ``outcome``: what is so if not."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    outcome: str = "what it was called about is done all the same"


Request = Evaluate | Command | Transact | Ring | Pause | Call
Flow = Generator[Request, Any, T]


class Run(Protocol):
    """Runs a flow by blocking."""

    def __call__(self, flow: Flow[T], /) -> T:
        """Its result."""


class RunAwaited(Protocol):
    """Runs a flow by awaiting."""

    def __call__(self, flow: Flow[T], /) -> Awaitable[T]:
        """Its result, awaited."""


class Bell(Protocol):
    """What sends nudges; it never blocks and never raises."""

    def ring(self, lane: int) -> None:
        """Send a nudge for this lane soon."""


def run(flow: Flow[T], perform: Callable[[Request], Any]) -> T:
    """Drive a flow to its result by blocking."""
    try:
        request = next(flow)
        while True:
            try:
                reply = perform(request)
            except SessionCacheError as error:
                request = flow.throw(error)
            except BaseException:
                run(_cleaned_up(flow), perform)
                raise
            else:
                request = flow.send(reply)
    except StopIteration as done:
        result: T = done.value
        return result


async def arun(flow: Flow[T], perform: Callable[[Request], Awaitable[Any]]) -> T:
    """Drive a flow to its result by awaiting."""
    try:
        request = next(flow)
        while True:
            try:
                reply = await perform(request)
            except SessionCacheError as error:
                request = flow.throw(error)
            except BaseException:
                await asyncio.shield(arun(_cleaned_up(flow), perform))
                raise
            else:
                request = flow.send(reply)
    except StopIteration as done:
        result: T = done.value
        return result


def _cleaned_up(flow: Flow[Any]) -> Flow[None]:
    """What an interrupted flow still wants done: one request, whatever becomes of it."""
    try:
        request = flow.throw(Interrupted())
    except (Interrupted, StopIteration):
        return
    with suppress(SessionCacheError):
        yield request
    flow.close()


def _isolation(engine: Engine, *, writes: bool) -> dict[str, Any]:
    if engine.dialect.name == "postgresql":
        return {"isolation_level": "READ COMMITTED" if writes else "REPEATABLE READ"}
    return {WRITES: writes}


@contextmanager
def _hook(request: Call) -> Iterator[None]:
    """Whatever the application's function raises becomes our error, its cause kept."""
    try:
        yield
    except Exception as error:
        name = getattr(request.function, "__name__", "a hook")
        raise HookFailed(f"{name} raised {type(error).__name__}; {request.outcome}.") from error


class Interrupted(BaseException):
    """Thrown into a flow whose caller was cancelled or interrupted: time for one clean-up, no more."""


class FirstTransaction:
    """Checks the store before the first transaction of a process, in that transaction."""

    def __init__(self, check: Callable[[Connection], None]) -> None:
        self._check, self._checked = check, False

    def checked(self, work: Callable[[Connection], T], connection: Connection) -> T:
        """The result of ``work``, after the check if that is still to do."""
        if self._checked:
            return work(connection)
        self._check(connection)
        result = work(connection)
        self._checked = True
        return result


class Blocking:
    """Performs requests by blocking."""

    def __init__(self, hot: redis.Redis, engine: Engine, bell: Bell, first: FirstTransaction) -> None:
        self.hot, self.engine, self.bell, self.first = hot, engine, bell, first

    def perform(self, request: Request) -> Any:
        """The reply to one request."""
        try:
            return self._performers[type(request)](self, request)
        except FOREIGN as error:
            raise translate(error, of_store=type(request) is Transact) from error

    def _evaluate(self, request: Evaluate) -> Any:
        script = request.script
        try:
            return self.hot.execute_command("EVALSHA", script.sha, len(request.keys), *request.keys, *request.args)
        except NoScriptError:
            return self.hot.execute_command("EVAL", script.text, len(request.keys), *request.keys, *request.args)

    def _command(self, request: Command) -> list[Any]:
        with self.hot.pipeline(transaction=False) as pipeline:
            for command in request.commands:
                pipeline.execute_command(*command)
            return pipeline.execute()

    def _transact(self, request: Transact) -> Any:
        options = _isolation(self.engine, writes=request.writes)
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            return self.first.checked(request.work, connection)

    def _ring(self, request: Ring) -> None:
        self.bell.ring(request.lane)

    def _pause(self, request: Pause) -> None:
        time.sleep(request.seconds)

    def _call(self, request: Call) -> None:
        with _hook(request):
            result = request.function(*request.arguments)
            if isawaitable(result):
                asyncio.run(result)  # type: ignore[arg-type]  # what is no coroutine fails as a hook

    _performers: ClassVar[dict[type, Callable[[Any, Any], Any]]] = {
        Evaluate: _evaluate,
        Command: _command,
        Transact: _transact,
        Ring: _ring,
        Pause: _pause,
        Call: _call,
    }


class Awaiting:
    """Performs requests by awaiting."""

    def __init__(self, hot: redis.asyncio.Redis, engine: AsyncEngine, bell: Bell, first: FirstTransaction) -> None:
        self.hot, self.engine, self.bell, self.first = hot, engine, bell, first

    async def perform(self, request: Request) -> Any:
        """The reply to one request."""
        try:
            return await self._performers[type(request)](self, request)
        except FOREIGN as error:
            raise translate(error, of_store=type(request) is Transact) from error

    async def _evaluate(self, request: Evaluate) -> Any:
        script = request.script
        try:
            return await self.hot.execute_command("EVALSHA", script.sha, len(request.keys), *request.keys, *request.args)
        except NoScriptError:
            return await self.hot.execute_command("EVAL", script.text, len(request.keys), *request.keys, *request.args)

    async def _command(self, request: Command) -> list[Any]:
        async with self.hot.pipeline(transaction=False) as pipeline:
            for command in request.commands:
                pipeline.execute_command(*command)
            return await pipeline.execute()

    async def _transact(self, request: Transact) -> Any:
        options = _isolation(self.engine.sync_engine, writes=request.writes)
        async with self.engine.connect() as connection:
            connection = await connection.execution_options(**options)  # noqa: PLW2901 - the same connection
            async with connection.begin():
                return await connection.run_sync(lambda plain: self.first.checked(request.work, plain))

    async def _ring(self, request: Ring) -> None:
        self.bell.ring(request.lane)

    async def _pause(self, request: Pause) -> None:
        await asyncio.sleep(request.seconds)

    async def _call(self, request: Call) -> None:
        with _hook(request):
            result = request.function(*request.arguments)
            if isawaitable(result):
                await result

    _performers: ClassVar[dict[type, Callable[[Any, Any], Any]]] = {
        Evaluate: _evaluate,
        Command: _command,
        Transact: _transact,
        Ring: _ring,
        Pause: _pause,
        Call: _call,
    }
