"""The two drivers: what performs the requests of flows, by blocking or by awaiting; nothing else knows which.

An error of the outside world is translated here (`borders`) and raised as ours, its cause kept. One request to Redis takes
``patience`` seconds at most, with all that it waits for; of a blocking client handed in, only its own timeouts bound that.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import isawaitable
from typing import Any, TypeVar

import redis.asyncio
from redis.exceptions import NoScriptError, ResponseError
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from sessioncache.borders import FOREIGN, in_place, interruptions, translate
from sessioncache.bounded import within
from sessioncache.clients import exchanged, exchanged_awaited
from sessioncache.deadlines import Deadlines
from sessioncache.durability import Wait
from sessioncache.errors import HookFailed
from sessioncache.flow import WRITES, Apart, Bell, Call, Command, Evaluate, Pause, Request, Ring, Transact
from sessioncache.scripts import Script
from sessioncache.waits import Talk, following, talk

T = TypeVar("T")

# The method of a driver that performs each request.
PERFORMED_BY: dict[type, str] = {
    Apart: "_apart",
    Evaluate: "_evaluate",
    Command: "_command",
    Transact: "_transact",
    Ring: "_ring",
    Pause: "_pause",
    Call: "_call",
}


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


class FirstTransaction:
    """Checks the store before the first transaction of a process, in that transaction; ``done`` once that is committed."""

    def __init__(self, check: Callable[[Connection], None]) -> None:
        self._check, self.done = check, False

    def checked(self, work: Callable[[Connection], T], connection: Connection) -> T:
        """The result of ``work``, after the check if that is still to do."""
        if not self.done:
            self._check(connection)
        return work(connection)

    def committed(self) -> None:
        """Nothing is to do any more: what was checked, and perhaps set up, stands."""
        self.done = True


class Gate:
    """What threads pass through and one closes, waiting until nobody is inside."""

    def __init__(self) -> None:
        self._condition, self._inside, self._closed = threading.Condition(), 0, False

    def __enter__(self) -> None:
        with self._condition:
            self._condition.wait_for(lambda: not self._closed)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._condition:
            self._inside -= 1
            self._condition.notify_all()

    def close(self, timeout: float) -> None:
        """Let nobody in any more, and wait for those inside, at most so many seconds."""
        with self._condition:
            self._closed = True
            self._condition.wait_for(lambda: not self._inside, timeout)

    def open(self) -> None:
        """Let everybody in again."""
        with self._condition:
            self._closed = False
            self._condition.notify_all()


class Blocking:
    """Performs requests by blocking. While ``gate`` is closed no transaction begins."""

    def __init__(self, hot: redis.Redis, engine: Engine, bell: Bell, first: FirstTransaction, patience: float) -> None:
        self.hot, self.engine, self.bell, self.first, self.patience = hot, engine, bell, first, patience
        self.gate, self._in_time = Gate(), within(patience)

    def perform(self, request: Request) -> Any:
        """The reply to one request."""
        try:
            return getattr(self, PERFORMED_BY[type(request)])(request)
        except FOREIGN as error:
            raise translate(error, of_store=type(request) is Transact) from error

    def _evaluate(self, request: Evaluate) -> Any:
        if request.wait is not None:
            return self._wait(talk(request, request.wait))
        script, keys, args, _ = request
        with self._in_time:
            try:
                return self.hot.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
            except NoScriptError:
                return self.hot.execute_command("EVAL", script.text, len(keys), *keys, *args)

    def _wait(self, said: Talk) -> tuple[Any, Any]:
        with self._in_time:
            held = self.hot.client()
        with held:
            try:
                command = next(said)
                while True:
                    command = following(said, self._answer(held.connection, command))
            except StopIteration as done:
                found: tuple[Any, Any] = done.value
                return found

    def _answer(self, connection: Any, command: tuple[Any, ...]) -> Any:
        """A reply, or an error reply. What is sent here is never sent again on another connection."""
        with self._in_time:
            try:
                connection.send_command(*command, check_health=False)
                return connection.read_response()
            except ResponseError as error:
                return error
            except BaseException:
                connection.disconnect()  # a reply may be unread
                raise

    def _command(self, request: Command) -> list[Any]:
        with self._in_time:
            return in_place(request.commands, exchanged(self.hot, request.commands))

    def _transact(self, request: Transact) -> Any:
        with self.gate, interruptions(), self._connected(request) as connection, connection.begin():
            result = self.first.checked(request.work, connection) if request.checked else request.work(connection)
        if request.checked:
            self.first.committed()
        return result

    def _connected(self, request: Transact) -> Connection:
        return self.engine.connect().execution_options(**_isolation(self.engine, writes=request.writes))

    def _ring(self, request: Ring) -> None:
        self.bell.ring(request.lane)

    def _pause(self, request: Pause) -> None:
        time.sleep(request.seconds)

    def _call(self, request: Call) -> None:
        with _hook(request):
            result = request.function(*request.arguments)
            if isawaitable(result):
                asyncio.run(result)  # type: ignore[arg-type]  # what is no coroutine fails as a hook

    def _apart(self, request: Apart) -> Any:
        return request.function()


class Awaiting:
    """Performs requests by awaiting. A cancellation that came meanwhile is always raised.

    What is awaited may swallow it: `asyncio.wait_for`, which redis-py sends by, does in Python 3.11.
    """

    def __init__(
        self, hot: redis.asyncio.Redis, engine: AsyncEngine, bell: Bell, first: FirstTransaction, patience: float
    ) -> None:
        self.hot, self.engine, self.bell, self.first, self.patience = hot, engine, bell, first, patience
        self._deadlines = Deadlines(patience)

    async def perform(self, request: Request) -> Any:
        """The reply to one request."""
        task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # what a flow awaits, it awaits in a task
        before = task.cancelling()
        try:
            reply = await getattr(self, PERFORMED_BY[type(request)])(request)
        except Exception as error:
            if task.cancelling() > before:
                raise asyncio.CancelledError from error
            if isinstance(error, FOREIGN):
                raise translate(error, of_store=type(request) is Transact) from error
            raise
        if task.cancelling() > before:
            raise asyncio.CancelledError
        return reply

    async def _evaluate(self, request: Evaluate) -> Any:
        if request.wait is not None:
            return await self._wait(talk(request, request.wait))
        return await self._deadlines.within(self._evaluated(*request))

    async def _evaluated(
        self, script: Script, keys: tuple[str, ...], args: tuple[str | bytes | int, ...], _wait: Wait | None
    ) -> Any:
        try:
            return await self.hot.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await self.hot.execute_command("EVAL", script.text, len(keys), *keys, *args)

    async def _wait(self, said: Talk) -> tuple[Any, Any]:
        held = self.hot.client()
        async with asyncio.timeout(self.patience):
            await held.initialize()
        async with held:
            try:
                command = next(said)
                while True:
                    command = following(said, await self._answer(held.connection, command))
            except StopIteration as done:
                found: tuple[Any, Any] = done.value
                return found

    async def _answer(self, connection: Any, command: tuple[Any, ...]) -> Any:
        """As above."""
        async with asyncio.timeout(self.patience):
            try:
                await connection.send_command(*command, check_health=False)
                return await connection.read_response()
            except ResponseError as error:
                return error
            except BaseException:
                await connection.disconnect(nowait=True)
                raise

    async def _command(self, request: Command) -> list[Any]:
        replies = await self._deadlines.within(exchanged_awaited(self.hot, request.commands))
        return in_place(request.commands, replies)

    async def _transact(self, request: Transact) -> Any:
        options = _isolation(self.engine.sync_engine, writes=request.writes)
        async with self.engine.connect() as connection:
            connection = await connection.execution_options(**options)  # noqa: PLW2901 - the same connection
            async with connection.begin():
                if not request.checked:
                    return await connection.run_sync(request.work)
                result = await connection.run_sync(lambda plain: self.first.checked(request.work, plain))
        self.first.committed()
        return result

    async def _ring(self, request: Ring) -> None:
        self.bell.ring(request.lane)

    async def _pause(self, request: Pause) -> None:
        await asyncio.sleep(request.seconds)

    async def _call(self, request: Call) -> None:
        with _hook(request):
            result = request.function(*request.arguments)
            if isawaitable(result):
                await result

    async def _apart(self, request: Apart) -> Any:
        return await asyncio.to_thread(request.function)
