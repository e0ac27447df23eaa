"""A Redis with much to show: a session of 100,000 messages, and backlog and dead letters in each of 1,000 partitions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Self

import msgpack
import redis

from sessioncache import SessionCache, Settings, functions
from sessioncache.flow import run
from sessioncache.keys import Keyspace

LONG = "telegram:dm:42"
MESSAGES = 100_000
PARTITIONS = 1_000
# The most that is shown, and contents of about that size that are slow to show.
MOST = 2**18
CONTENTS = {
    "values": msgpack.packb([None] * (MOST - 100)),
    "no text": msgpack.packb(b"\xff" * (MOST - 100)),
    "umlauts": msgpack.packb("ä " * (MOST // 3 - 100)),
    "escapes": msgpack.packb("\x01\x85" * (MOST // 3 - 100)),
    "one string": msgpack.packb("x" * (MOST - 100)),
}


def install(cache: SessionCache) -> None:
    """Install the functions of this version."""
    run(functions.install(cache._state), cache._connections.driver.perform)


def settings(redis_url: str, database_url: str) -> Settings:
    """For a session that stays hot whole, and whose ops all wait."""
    room = {"window": 2 * MESSAGES, "window_bytes": 2**30, "max_pending": 2 * MESSAGES, "max_pending_bytes": 2**30}
    return Settings(
        redis_url=redis_url, database_url=database_url, queue_url="redis://127.0.0.1:1/0", partitions=PARTITIONS, lanes=1,
        **room, redis_timeout=20.0, timeout=60.0,
    )  # fmt: skip


def fill(cache: SessionCache, raw: redis.Redis, messages: int = MESSAGES) -> None:
    """Write it all."""
    session = cache.open(LONG)
    for first in range(0, messages, 1000):
        session.append([{"role": "user", "content": f"message {first + n} of many"} for n in range(1000)])
    for name, content in CONTENTS.items():
        cache.open(name).append({"content": "a"})
        keys = cache._state.keyspace.of(name)
        raw.lset(keys.history, 0, b"2 1700000000000 m\n" + content)
    space, since = Keyspace("sc", PARTITIONS), 1_700_000_000_000
    with raw.pipeline(transaction=False) as pipeline:
        for partition in range(PARTITIONS):
            keys = space.of_partition(partition)
            waiting = {f"waiting {partition} {n}": since + n for n in range(20)}
            pipeline.zadd(keys.dirty, waiting)
            pipeline.zadd(keys.oldest, waiting)
            letter = b"%d 22001 k\n7 AAAAAAAAAAAAAAAA 0 %d append s\nm\nx" % (since, since)
            pipeline.rpush(keys.dead, *[letter] * 10)
        pipeline.execute()


CALLS: dict[str, tuple[str | int, ...]] = {
    "sc_show": ("sc_show", 0, LONG),
    "sc_tail": ("sc_tail", 0, LONG),
    "sc_tail, 1,000 messages": ("sc_tail", 0, LONG, 1000, MOST),
    **{f"sc_tail, 256 KiB of {name}": ("sc_tail", 0, name, 1, MOST) for name in CONTENTS},
    "sc_pending": ("sc_pending", 0, LONG),
    "sc_pending, 1,000 ops": ("sc_pending", 0, LONG, 1000),
    "sc_summary": ("sc_summary", 0),
    "sc_lanes": ("sc_lanes", 0, 8),
    "sc_dirty": ("sc_dirty", 0),
    "sc_dirty, 1,000 session keys": ("sc_dirty", 0, 1000),
    "sc_dead": ("sc_dead", 0),
    "sc_dead, 1,000 letters": ("sc_dead", 0, 1000),
}


@dataclass(frozen=True)
class Measured:
    """One call: how long Redis was at it, and how long another connection waited at most, in milliseconds; the reply."""

    name: str
    busy: float
    waited: float
    lines: list[bytes]


class _Other:
    """Another connection, which asks all the time; ``longest`` is how long it waited for an answer."""

    def __init__(self, make: Callable[[], redis.Redis]) -> None:
        self.longest, self._make, self._ended = 0.0, make, threading.Event()
        self._thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        with closing(self._make()) as raw:
            raw.ping()
            while not self._ended.is_set():
                before = time.perf_counter()
                raw.ping()
                self.longest = max(self.longest, time.perf_counter() - before)
                time.sleep(0.0005)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def measure(make: Callable[[], redis.Redis]) -> list[Measured]:
    """Each call once, the slowest first."""
    with closing(make()) as raw:
        found = [_measured(raw, make, name, call) for name, call in CALLS.items()]
    return sorted(found, key=lambda one: -one.busy)


def _measured(raw: redis.Redis, make: Callable[[], redis.Redis], name: str, call: tuple[str | int, ...]) -> Measured:
    raw.config_resetstat()
    with _Other(partial(make)) as other:
        time.sleep(0.01)
        other.longest = 0.0
        lines = raw.execute_command("FCALL_RO", *call)
    busy = raw.info("commandstats")["cmdstat_fcall_ro"]["usec"] / 1000
    return Measured(name, busy, other.longest * 1000, lines)


def table(found: list[Measured]) -> str:
    """The figures as text, the slowest call first."""
    rows = [f"{'call':32} {'Redis busy':>12} {'others waited':>14} {'lines':>7} {'bytes':>9}"]
    rows += [
        f"{one.name:32} {one.busy:9.2f} ms {one.waited:11.2f} ms {len(one.lines):7} {sum(map(len, one.lines)):9}"
        for one in found
    ]
    return "\n".join(rows)
