"""Reads: again after two new messages, whole by a process that has nothing yet, the newest 50; and what near copies take.

    PYTHONPATH=tests python benchmarks/reading.py [--quick]

Every figure of a time is measured at both doors. The bare way is redis-py with hiredis over a list of the same messages as
plain msgpack: `LRANGE`, and each decoded. The peers (`peers`) read a history of the same length whole each time, to which
nothing is added: they can do no other. Beside them stands the `floor`: of a cold read with the bare way's decoding, of a
second read the same request again and again, with nothing decoded.

- *read again after 2 new messages*: a server that has read a history reads it once more, after another one appended two
  messages. By ``messages()`` alone, compared from the shortest history to the longest: flat where only what is new is
  transferred and touched; then with every message's data used; and by ``history()``, which gives new dicts.
- *round trips* and *bytes* of the first of these, counted by a proxy.
- *whole history, cold* and *newest 50*: of a session that is hot, by a cache that keeps nothing near.
- *memory of near copies*: a process of its own reads sessions that are some times as large as ``near_bytes`` allows; by how
  much its memory grew from when it had opened them all and read one, as a share of that bound.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from inspect import isawaitable
from pathlib import Path
from secrets import token_hex
from time import perf_counter
from typing import Any

import floor
import msgpack
import peers
import redis
import redis.asyncio
from bench import alone
from measuring import OURS, Bar, Figure, Way, rounds
from place import Place, Scale, history, message
from proxy import Proxy

from sessioncache import AsyncSession, AsyncSessionCache, Session, SessionCache, Settings
from sessioncache.config import as_environment

LENGTHS = (10, 100, 1_000, 10_000)
SHORT, LONG = LENGTHS[0], LENGTHS[-1]
WHOLE, NEWEST = 1_000, 50
READS = 20  # of a round; two messages are new to each of them
FEW_READS = 3  # the same, of what takes milliseconds
SESSION = 100  # messages of a session that is kept near
NEAR_BYTES = 32 * 2**20
OVER = 3  # how often as large as the bound what is read near is
LARGE = 10  # how often as large as other messages large ones are
BATCH = 1_000
BARE = "LRANGE and decoding"
NEAR = "--near"

__all__ = ["figures"]

Doors = SessionCache | AsyncSessionCache
Bare = redis.Redis | redis.asyncio.Redis
Read = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Reader:
    """One way to read a history that another server adds to.

    Attributes:
        cut: brings the history back to its length.
        add: appends two messages.
        read: what is timed; awaited, if that is to be awaited.
    """

    cut: Callable[[], object]
    add: Callable[[], object]
    read: Read


async def outcome(found: Any) -> Any:
    """What was found, awaited if it must be."""
    return await found if isawaitable(found) else found


def again(reader: Reader, repeat: int) -> Way:
    """Seconds of one read after two new messages, where all before them was read."""

    async def way() -> float:
        reader.cut()
        await outcome(reader.read())
        taken = 0.0
        for _ in range(repeat):
            reader.add()
            start = perf_counter()
            found = reader.read()
            if isawaitable(found):
                await found
            taken += perf_counter() - start
        return taken / repeat

    return way


def again_floor(reader: Reader, session: Session | AsyncSession, cache: Doors, repeat: int) -> Way:
    """Seconds of what the first of several reads by `again` asks of Redis, alone."""

    async def way() -> float:
        reader.cut()
        await outcome(reader.read())
        reader.add()
        return await over(floor.sent(cache, floor.of_messages(session)), repeat)()

    return way


def cold_floor(cache: Doors, session: Session | AsyncSession, limit: int | None = None) -> Read:
    """What a history asks of Redis, and decoding the messages, as the bare way does."""
    send = floor.sent(cache, floor.of_history(session, limit))

    def decoded(replies: list[Any]) -> list[Any]:
        return [msgpack.unpackb(one.partition(b"\n")[2]) for one in replies[1]]

    async def read() -> list[Any]:
        return decoded(await send())

    return read if isinstance(cache, AsyncSessionCache) else lambda: decoded(send())


def over(read: Read, repeat: int) -> Callable[[], Awaitable[float]]:
    """Seconds of one read, of the same every time."""

    async def way() -> float:
        start = perf_counter()
        for _ in range(repeat):
            found = read()
            if isawaitable(found):
                await found
        return (perf_counter() - start) / repeat

    return way


@dataclass(frozen=True, slots=True)
class Hot:
    """Histories that are hot, and who writes them: as sessions, and as lists of plain msgpack."""

    place: Place
    scale: Scale
    settings: Settings
    writer: SessionCache
    raw: redis.Redis
    postgres: str

    def history(self, length: int) -> str:
        """The name of one of so many messages; made, where it is not there."""
        name = f"{self.settings.prefix}-of-{length}"
        if not self.raw.exists(f"plain:{name}"):
            messages, session = history(self.scale, length), self.writer.open(name)
            for first in range(0, length, BATCH):
                session.append(messages[first : first + BATCH])
            self.raw.rpush(f"plain:{name}", *map(msgpack.packb, messages))
        return name

    def new(self) -> list[dict[str, Any]]:
        """What is appended between two reads."""
        return [message(self.scale, serial=serial) for serial in range(2)]

    def session(self, length: int, read: Read) -> Reader:
        """A way to read a session."""
        session, new = self.writer.get(self.history(length)), self.new()
        return Reader(lambda: session.truncate(length), lambda: session.append(new), read)

    def plain(self, length: int, read: Read) -> Reader:
        """A way to read a list."""
        name, new = f"plain:{self.history(length)}", list(map(msgpack.packb, self.new()))
        return Reader(lambda: self.raw.ltrim(name, 0, length - 1), lambda: self.raw.rpush(name, *new), read)


@contextmanager
def hot(where: Place, scale: Scale) -> Iterator[Hot]:
    """Histories under keys of their own."""
    settings = where.settings(window=2 * LONG, max_pending=10**7, max_backlog=10**7)
    with where.postgres.database() as url, SessionCache(settings=settings) as writer, where.raw() as raw:
        yield Hot(where, scale, settings, writer, raw, url)


DOORS: dict[str, tuple[type[Doors], type[Bare]]] = {
    "sync": (SessionCache, redis.Redis),
    "asyncio": (AsyncSessionCache, redis.asyncio.Redis),
}


async def session_of(cache: Doors, name: str) -> Session | AsyncSession:
    """A session that is there."""
    found: Session | AsyncSession = await outcome(cache.get(name))
    return found


def every_data(session: Session | AsyncSession) -> Read:
    """Reads ``messages()``, and uses the data of each."""
    if isinstance(session, Session):
        return lambda: [one.data for one in session.messages()]

    async def read() -> list[dict[str, Any]]:
        return [one.data for one in await session.messages()]

    return read


def decoded(client: Bare, name: str, first: int = 0) -> Read:
    """The bare way: a list from this place on."""
    if isinstance(client, redis.Redis):
        return lambda: [msgpack.unpackb(one) for one in client.lrange(f"plain:{name}", first, -1)]

    async def read() -> list[Any]:
        return [msgpack.unpackb(one) for one in await client.lrange(f"plain:{name}", first, -1)]

    return read


async def flat(kind: str, data: Hot, cache: Doors) -> Figure:
    """``messages()`` of each length."""
    ways: dict[str, Way] = {}
    for length in LENGTHS:
        session = await session_of(cache, data.history(length))
        ways[OURS if length == LONG else f"of {length:,}"] = again(data.session(length, session.messages), READS)
    measure = f"read again after 2 new messages, history of {LONG:,}, {kind}: messages()"
    bars = [Bar(f"of {SHORT}", most=1.5)]
    return Figure(measure, "µs", micro(await rounds(ways, data.scale.rounds)), bars, "flat in the length of the history")


async def others(kind: str, data: Hot, length: int, stack: AsyncExitStack) -> dict[str, Read]:
    """The peers of a door, each with a history of so many messages."""
    name = f"{data.settings.prefix}-{token_hex(4)}"
    found: list[peers.Awaiting | peers.Blocking] = []
    found += peers.blocking(data.place, name) if kind == "sync" else peers.awaiting(data.place, name, data.postgres)
    for peer in found:
        stack.push_async_callback(outcome_of, peer.close)
        messages = history(data.scale, length)
        for first in range(0, length, BATCH):
            await outcome(peer.append(messages[first : first + BATCH]))
    return {peer.name: peer.read for peer in found}


async def outcome_of(call: Callable[[], Any]) -> None:
    """Call, and await what must be."""
    await outcome(call())


async def again_of(kind: str, data: Hot, cache: Doors, client: Bare, length: int, stack: AsyncExitStack) -> list[Figure]:
    """Each way to use what was read again."""
    name, repeat = data.history(length), FEW_READS if length == LONG else READS
    session = await session_of(cache, name)
    reads = {"messages()": session.messages, "every message's data": every_data(session), "history()": session.history}
    ways = {use: again(data.session(length, read), repeat) for use, read in reads.items()}
    ways[BARE] = again(data.plain(length, decoded(client, name)), repeat)
    ways[floor.FLOOR] = again_floor(data.session(length, session.messages), session, cache, repeat)
    theirs = await others(kind, data, length, stack)
    ways |= {peer: over(read, 1) for peer, read in theirs.items()}
    most = dict.fromkeys(reads, 1 / 2) | ({"messages()": 1 / 50} if length == LONG else {})
    found = micro(await rounds(ways, data.scale.rounds))
    return [
        Figure(
            f"read again after 2 new messages, history of {length:,}, {kind}: {use}",
            "µs",
            {OURS: found[use]} | {name: values for name, values in found.items() if name not in reads},
            [Bar(peer, most=most[use]) for peer in theirs if use != "messages()" or length == LONG],
        )
        for use in reads
    ]


async def cold(kind: str, data: Hot, cache: Doors, client: Bare, stack: AsyncExitStack) -> list[Figure]:
    """By a cache that keeps nothing near: a whole history, and the newest of a long one."""
    whole, long = data.history(WHOLE), data.history(LONG)
    first, second = await session_of(cache, whole), await session_of(cache, long)
    theirs = await others(kind, data, WHOLE, stack)
    bare = {BARE: over(decoded(client, whole), READS), floor.FLOOR: over(cold_floor(cache, first), READS)}
    bare |= {peer: over(read, 1) for peer, read in theirs.items()}
    bars = [Bar(BARE, most=1.3), *(Bar(peer, most=1.0) for peer in theirs)]
    figures = []
    for use, read in {"history()": first.history, "messages()": first.messages}.items():
        found = micro(await rounds({OURS: over(read, READS), **bare}, data.scale.rounds))
        measure = f"whole history of {WHOLE:,}, cold, {kind}: {use}"
        figures.append(Figure(measure, "µs", found, bars))
    ways = {
        OURS: over(lambda: second.history(NEWEST), 3 * READS),
        BARE: over(decoded(client, long, -NEWEST), 3 * READS),
        floor.FLOOR: over(cold_floor(cache, second, NEWEST), 3 * READS),
    }
    measure = f"newest {NEWEST} of {LONG:,}, cold, {kind}: history()"
    return [*figures, Figure(measure, "µs", micro(await rounds(ways, data.scale.rounds)), [Bar(BARE, most=1.5)])]


def micro(found: dict[str, list[float]]) -> dict[str, list[float]]:
    """Microseconds of seconds."""
    return {name: [1e6 * value for value in values] for name, values in found.items()}


async def counted(kind: str, data: Hot, door: type[Doors]) -> list[Figure]:
    """What travels for ``messages()`` after two new messages, at each length."""
    proxy = Proxy(Path(data.settings.redis_url.removeprefix("unix://")))
    cache = door(settings=replace(data.settings, redis_url=proxy.url, queue_url=data.settings.redis_url))
    found: dict[str, dict[str, list[float]]] = {"round trips": {}, "bytes up": {}, "bytes down": {}}
    try:
        for length in LENGTHS:
            session = await session_of(cache, data.history(length))
            reader = data.session(length, session.messages)
            travelled = await travel(reader, proxy)
            for unit, value in zip(found, travelled, strict=True):
                found[unit][OURS if length == LONG else f"of {length:,}"] = [float(value)]
    finally:
        await outcome(cache.close())
        proxy.close()
    measure = f"read again after 2 new messages, history of {LONG:,}, {kind}"
    bars = {"round trips": [Bar(most=1)]}
    flat_bars = [Bar(f"of {SHORT}", most=1.5)]
    return [Figure(f"{measure}: {unit}", unit, values, bars.get(unit, flat_bars)) for unit, values in found.items()]


async def travel(reader: Reader, proxy: Proxy) -> tuple[int, int, int]:
    """Round trips, and bytes up and down, of one read after two new messages."""
    reader.cut()
    await outcome(reader.read())
    reader.add()
    before = proxy.trips, proxy.up, proxy.down
    await outcome(reader.read())
    return proxy.trips - before[0], proxy.up - before[1], proxy.down - before[2]


def near_memory(where: Place, scale: Scale, times: int) -> Figure:
    """How far a process grows that reads much more than it may keep, of messages ``times`` as large as others."""
    bound, size = round(NEAR_BYTES * max(scale.share, 0.15)), scale.message * times
    settings = where.settings(near_bytes=bound, near_sessions=10**6)
    count = OVER * bound // (SESSION * size)
    with SessionCache(settings=settings) as writer:
        messages = history(replace(scale, message=size), SESSION)
        for number in range(count):
            writer.open(f"near {number}").append(messages)
    command = [sys.executable, __file__, NEAR, str(count)]
    done = subprocess.run(  # noqa: S603 - this file
        command, env=os.environ | as_environment(settings), capture_output=True, check=True
    )
    measure = f"memory of near copies, messages of {size:,} bytes"
    note = f"near_bytes is {bound:,}; {count:,} sessions of {SESSION} messages are read"
    found = {OURS: [int(done.stdout) / bound]}
    return Figure(measure, "share of near_bytes", found, [Bar(most=1.1), Bar(least=0.9)], note)


def grown(count: int) -> int:
    """By how many bytes reading so many sessions makes this process grow."""
    with SessionCache.from_url() as cache:
        sessions = [cache.get(f"near {number}") for number in range(count)]
        for _ in range(SESSION):
            sessions[0].history()
        before = private()
        for session in sessions:
            session.history()
        return private() - before


def private() -> int:
    """Bytes of memory that only this process has."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))


async def measured(data: Hot) -> list[Figure]:
    """All but the memory."""
    figures: list[Figure] = []
    for kind, (door, bare) in DOORS.items():
        warm, none = door(settings=data.settings), door(settings=replace(data.settings, near_sessions=0))
        client = bare.from_url(data.place.redis_url)
        figures.append(await flat(kind, data, warm))
        async with AsyncExitStack() as stack:
            for length in LENGTHS:
                figures += await again_of(kind, data, warm, client, length, stack)
            figures += await cold(kind, data, none, client, stack)
        figures += await counted(kind, data, door)
        for each in (warm.close, none.close, client.aclose if isinstance(client, redis.asyncio.Redis) else client.close):
            await outcome(each())
    return figures


def figures(place: Place, scale: Scale) -> list[Figure]:
    """Of every measure above."""
    with hot(place, scale) as data:
        found = asyncio.run(measured(data))
    return [*found, *(near_memory(place, scale, times) for times in (1, LARGE))]


if __name__ == "__main__":
    if NEAR in sys.argv:
        print(grown(int(sys.argv[-1])))  # noqa: T201 - the process that measured reads it
    else:
        alone(figures)
