"""Appending: what one message costs the caller, beside a bare RPUSH of the same message's msgpack on the same server.

    PYTHONPATH=tests python benchmarks/appending.py [--quick]

The bare way is redis-py as it comes (`from_url`), with hiredis; it pushes to a list of its own and does nothing else: it
can neither tell a repeat nor keep anything in order for SQL. Every message is encoded anew, but in the `floor`. Sessions
are warm; what is appended is not drained meanwhile. The figures:

- *append, asyncio* and *append, sync*: seconds of one call after the other, over one connection.
- the same with messages ten times as long: what of the difference grows with the message.
- *append, 64 tasks*: messages a second of 64 tasks on one loop, each with a session of its own, each way with a pool of
  connections.
- *Redis's own time*: microseconds in which Redis executes one append and does nothing else, as its `INFO commandstats` has
  it. It is the part that no client can make quicker.
- *round trips* and *bytes* of one append, both directions together, counted by a proxy.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import floor
import msgpack
import peers
import redis
import redis.asyncio
from bench import alone
from measuring import OURS, Bar, Figure, Way, in_rounds, rounds
from place import Place, Scale, message
from proxy import Proxy

from sessioncache import AsyncSessionCache, SessionCache

BARE = "bare RPUSH"
TASKS = 64
LONGER = 10

Append = Callable[[dict[str, Any]], object]
Awaited = Callable[[dict[str, Any]], Awaitable[object]]
# Makes the calls of one round, before it is timed.
Calls = Callable[[], list[Callable[[], Any]]]


def figures(place: Place, scale: Scale) -> list[Figure]:
    """Everything of this module."""
    longer = replace(scale, message=scale.message * LONGER, repeat=scale.repeat // 2)
    return [
        *asyncio.run(_awaiting(place, scale, longer)),
        *_blocking(place, scale, longer),
        _executed(place, scale),
        *_counted(place, scale),
    ]


async def _awaiting(place: Place, scale: Scale, longer: Scale) -> list[Figure]:
    bars = [Bar(BARE, most=1.5), Bar(peers.OPENAI_REDIS, most=1 / 5)]
    async with AsyncExitStack() as stack:
        one_by_one = await awaiting_ways(place, stack, 1)
        one_by_one |= peers_awaiting(place, stack, stack.enter_context(place.postgres.database()))
        at_once = await awaiting_ways(place, stack, TASKS)
        lowest = {floor.FLOOR: await _floor_awaiting(place, stack, scale)}
        short, long = (
            {name: _awaited(_same(appends[0], size)) for name, appends in one_by_one.items()} for size in (scale, longer)
        )
        return [
            await _timed("append, asyncio", short | lowest, scale, bars),
            await _timed("append, asyncio, long messages", long, longer, []),
            await _crowded(at_once, scale),
        ]


async def awaiting_ways(place: Place, stack: AsyncExitStack, count: int) -> dict[str, list[Awaited]]:
    """For each way, what appends to so many sessions, by awaiting."""
    return {OURS: await ours_awaiting(place, stack, count), BARE: bare_awaiting(place, stack, count)}


def peers_awaiting(place: Place, stack: AsyncExitStack, postgres: str) -> dict[str, list[Awaited]]:
    """A session of each peer that awaits."""
    found = {}
    for peer in peers.awaiting(place, f"peer-{id(stack)}", postgres):
        stack.push_async_callback(peer.close)
        found[peer.name] = [partial(_alone, peer.append)]
    return found


def _alone(append: Callable[[list[dict[str, Any]]], Any], one: dict[str, Any]) -> Any:
    return append([one])


def peers_blocking(place: Place, stack: ExitStack) -> dict[str, Append]:
    """A session of each peer that blocks."""
    found = {}
    for peer in peers.blocking(place, f"peer-{id(stack)}"):
        stack.callback(peer.close)
        found[peer.name] = partial(_alone, peer.append)
    return found


async def ours_awaiting(place: Place, stack: AsyncExitStack, count: int) -> list[Awaited]:
    """Sessions of the awaiting door."""
    cache = await stack.enter_async_context(AsyncSessionCache(settings=place.settings()))
    return [(await cache.open(f"append:{number}")).append for number in range(count)]


def bare_awaiting(place: Place, stack: AsyncExitStack, count: int) -> list[Awaited]:
    """Lists, pushed to by redis-py."""
    client: Any = redis.asyncio.Redis.from_url(place.redis_url)
    stack.push_async_callback(client.aclose)

    def pushed(key: str) -> Awaited:
        return lambda one: client.rpush(key, msgpack.packb(one))

    return [pushed(f"bare:{id(client)}:{number}") for number in range(count)]


async def _floor_awaiting(place: Place, stack: AsyncExitStack, scale: Scale) -> Way:
    cache = await stack.enter_async_context(AsyncSessionCache(settings=place.settings()))
    session, one = await cache.open("floor"), message(scale)
    return _awaited(lambda: [floor.sent(cache, floor.of_append(session, one)) for _ in range(scale.repeat)])


def _same(append: Append | Awaited, scale: Scale) -> Calls:
    """The same append again and again."""
    return lambda: [partial(append, message(scale))] * scale.repeat


def _awaited(calls: Calls) -> Way:
    """Microseconds of each of these calls."""

    async def way() -> float:
        made = calls()
        start = time.perf_counter()
        for call in made:
            await call()
        return (time.perf_counter() - start) / len(made) * 1e6

    return way


async def _timed(measure: str, ways: Mapping[str, Way], scale: Scale, bars: list[Bar]) -> Figure:
    return Figure(_sized(measure, scale), "µs", await rounds(ways, scale.rounds), bars)


async def _crowded(ways: Mapping[str, list[Awaited]], scale: Scale) -> Figure:
    one, each = message(scale), max(1, scale.repeat // 10)

    async def task(append: Awaited) -> None:
        for _ in range(each):
            await append(one)

    def crowded(appends: list[Awaited]) -> Way:
        async def way() -> float:
            start = time.perf_counter()
            await asyncio.gather(*map(task, appends))
            return len(appends) * each / (time.perf_counter() - start)

        return way

    found = await rounds({name: crowded(appends) for name, appends in ways.items()}, scale.rounds)
    return Figure(_sized(f"append, {TASKS} tasks", scale), "messages/s", found, [Bar(BARE, least=0.65)])


def _blocking(place: Place, scale: Scale, longer: Scale) -> list[Figure]:
    with ExitStack() as stack:
        ways = blocking_ways(place, stack)
        ways |= peers_blocking(place, stack)
        bars = [Bar(BARE, most=1.5), Bar(peers.LANGCHAIN, most=1 / 1.3)]
        lowest = {floor.FLOOR: _floor_blocking(place, stack, scale)}
        short, long = ({name: _blocked(_same(append, size)) for name, append in ways.items()} for size in (scale, longer))
        return [
            asyncio.run(_timed("append, sync", short | lowest, scale, bars)),
            asyncio.run(_timed("append, sync, long messages", long, longer, [])),
        ]


def blocking_ways(place: Place, stack: ExitStack, **changes: str) -> dict[str, Append]:
    """For each way, what appends to one session, by blocking; with changes to our settings."""
    return {OURS: ours(place, stack, **changes), BARE: bare(place, stack)}


def ours(place: Place, stack: ExitStack, **changes: str) -> Append:
    """A session."""
    return stack.enter_context(SessionCache(settings=place.settings(**changes))).open("append").append


def bare(place: Place, stack: ExitStack) -> Append:
    """A list, pushed to by redis-py."""
    client = stack.enter_context(redis.Redis.from_url(place.redis_url))
    return lambda one: client.rpush(f"bare:{id(client)}", msgpack.packb(one))


def _floor_blocking(place: Place, stack: ExitStack, scale: Scale) -> Way:
    cache, one = stack.enter_context(SessionCache(settings=place.settings())), message(scale)
    session = cache.open("floor")
    return _blocked(lambda: [floor.sent(cache, floor.of_append(session, one)) for _ in range(scale.repeat)])


def _blocked(calls: Calls) -> Way:
    """The same, without awaiting."""

    def way() -> float:
        made = calls()
        start = time.perf_counter()
        for call in made:
            call()
        return (time.perf_counter() - start) / len(made) * 1e6

    return way


def _executed(place: Place, scale: Scale) -> Figure:
    one, commands = message(scale), {OURS: "cmdstat_evalsha", BARE: "cmdstat_rpush"}
    with ExitStack() as stack:
        raw, appends = stack.enter_context(place.raw()), blocking_ways(place, stack)

        def took(name: str) -> float:
            said = raw.info("commandstats").get(commands[name], {"usec": 0})
            return float(said["usec"])

        def executed(name: str) -> float:
            before = took(name)
            for _ in range(scale.repeat):
                appends[name](one)
            return (took(name) - before) / scale.repeat

        found = in_rounds({name: partial(executed, name) for name in appends}, scale.rounds)
    return Figure(_sized("append, Redis's own time", scale), "µs", found)


def _counted(place: Place, scale: Scale) -> list[Figure]:
    one, trips, sent = message(scale), dict[str, list[float]](), dict[str, list[float]]()
    with closing(Proxy(Path(place.redis_url.removeprefix("unix://")))) as proxy, ExitStack() as stack:
        behind = replace(place, redis_url=proxy.url)
        # Nudges go out behind the caller's back, over a connection of their own.
        for name, append in blocking_ways(behind, stack, queue_url=place.redis_url).items():
            append(one)
            before = proxy.trips, proxy.up + proxy.down
            for _ in range(scale.repeat):
                append(one)
            trips[name] = [(proxy.trips - before[0]) / scale.repeat]
            sent[name] = [(proxy.up + proxy.down - before[1]) / scale.repeat]
    return [
        Figure(_sized("append, round trips", scale), "round trips", trips, [Bar(most=1)]),
        Figure(_sized("append, both directions", scale), "bytes", sent),
    ]


def _sized(measure: str, scale: Scale) -> str:
    return f"{measure}, {scale.message:,} bytes"


if __name__ == "__main__":
    alone(figures)
