"""Flows: each story is written once, as a generator of requests, and performed by one of two drivers.

A flow yields requests to the outside world (evaluate a script, run a transaction, ring, pause) and is sent the replies.
`run` has them performed by blocking, `arun` by awaiting (`drivers`). An error of the outside world is ours by then
(`borders`), and is thrown into the flow at the request that met it.

Assumes: any request may fail after it took effect (a lost reply, an unknown commit); flows repeat what is idempotent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from sqlalchemy import Connection

from sessioncache.durability import Wait
from sessioncache.errors import SessionCacheError
from sessioncache.scripts import Script

T = TypeVar("T")

# The execution option that makes SQLite take its write lock at BEGIN (see `store.engine`).
WRITES = "sessioncache_writes"


class Evaluate(NamedTuple):
    """Run a script; its reply is sent back as redis-py gives it: bytes, integers and lists.

    With ``wait`` a pair is sent back: the script's reply, and what Redis said, on the same connection, to what it was asked
    then: its last answer, an error of ours for an error reply, None where the script did not answer ``ok``.
    """

    script: Script
    keys: tuple[str, ...]
    args: tuple[str | bytes | int, ...]
    wait: Wait | None = None


class Command(NamedTuple):
    """Run plain Redis commands in one round trip; the list of their replies is sent back.

    Where a key is of a wrong type, or a script is not there, a `HotTierRefused` stands in the place of the reply, and the
    other commands have theirs.
    """

    commands: tuple[tuple[str | bytes | int, ...], ...]


@dataclass(frozen=True, slots=True)
class Transact:
    """Run ``work`` in one transaction, committed when it returns; its result is sent back.

    A transaction that does not write sees one snapshot of the store. Unless it is to be ``checked``, it may run in a store
    that was not made for these settings.
    """

    work: Callable[[Connection], Any]
    writes: bool
    checked: bool = True


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


@dataclass(frozen=True, slots=True)
class Apart:
    """Call a function of ours that blocks, in a thread of its own under asyncio; its result is sent back."""

    function: Callable[[], Any]


# Told how much is done, and of how much, where that is known.
Progress = Callable[[int, int | None], object]


def unseen(_done: int, _of: int | None) -> None:
    """Nobody looks on."""


Request = Evaluate | Command | Transact | Ring | Pause | Call | Apart
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


class Interrupted(BaseException):
    """Thrown into a flow whose caller was cancelled or interrupted: time for one clean-up, no more."""
