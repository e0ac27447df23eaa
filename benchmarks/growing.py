"""Growth: whether one call costs the same however many sessions are live.

    PYTHONPATH=tests python benchmarks/growing.py [--quick]

Two servers of the same kind take turns: on one 1,000 sessions are live, on the other 100,000 (``--quick``: 10,000), each of
two short messages. They are the hot copy of one session, put under as many session keys by DUMP and RESTORE, so that the
fill takes seconds; what is measured are calls of the blocking door on sessions drawn from all of them. A figure is
microseconds of one call, the median of those of a round:

- *append*: one message. *Warm read*: `Session.messages` of a session that this process has read before. *Open*: of a
  session that is hot.
- *hold*: a hold is taken and let go, where every live session has one already.
- *open, held*: of a session that the reset policy would end if nobody held it, where every live session is held.

The other way is the server with fewer sessions.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import bench
import redis
from measuring import OURS, Bar, Figure, Way, in_rounds
from place import Place, Scale, hot_server

from sessioncache import Session, SessionCache
from sessioncache.keys import Keyspace

FEW, MANY = 1_000, 100_000
MOST = 1.2
FILLED_AT_ONCE = 1_000
SAMPLE = 200
A_WHILE_MS = 3_600_000
# Shorter than the server has run when it is measured: until then every session counts as held.
HOLD_SECONDS = 2.0
STRICT = '{"default": {"mode": "idle", "idle_minutes": 1}}'
SAID = {"role": "user", "content": "What was said, in few words."}


@dataclass(slots=True)
class Live:
    """A server with live sessions.

    Attributes:
        strict: a cache whose policy ends every session that nobody holds.
        keys: session keys.
        sample: sessions drawn from them, which were read.
    """

    cache: SessionCache
    strict: SessionCache
    keys: list[str]
    sample: list[Session]

    def session(self) -> Session:
        """One of the sample."""
        return random.choice(self.sample)  # noqa: S311 - which one does not matter

    def key(self) -> str:
        """Any session key."""
        return random.choice(self.keys)  # noqa: S311 - the same


def append(live: Live) -> Callable[[], object]:
    """One message."""
    return partial(live.session().append, SAID)


def warm_read(live: Live) -> Callable[[], object]:
    """Nothing is new, or what was appended."""
    return live.session().messages


def opened(live: Live) -> Callable[[], object]:
    """A session that is hot."""
    return partial(live.cache.open, live.key())


def hold(live: Live) -> Callable[[], object]:
    """Taken and let go."""
    session = live.session()

    def held() -> None:
        with session.hold("bench"):
            pass

    return held


def open_held(live: Live) -> Callable[[], object]:
    """The policy asks whether it is held."""
    return partial(live.strict.open, live.key())


# What is measured, prepared: on which session is decided before the clock runs.
CALLS: dict[str, Callable[[Live], Callable[[], object]]] = {
    "open, held": open_held, "warm read": warm_read, "append": append, "open": opened, "hold": hold,
}  # fmt: skip


def timed(live: Live, prepared: Callable[[Live], Callable[[], object]], repeat: int) -> float:
    """Microseconds of one call, the median of some."""
    took = []
    for _ in range(repeat):
        call = prepared(live)
        begun = time.perf_counter()
        call()
        took.append(time.perf_counter() - begun)
    return 1e6 * median(took)


def fill(raw: redis.Redis, space: Keyspace, origin: str, keys: list[str]) -> None:
    """Put the hot copy of one session, held, under all of these keys."""
    one = space.of(origin)
    raw.hset(one.meta, "updated_ms", 0)
    copies: list[Any] = [raw.dump(one.meta), raw.dump(one.history)]
    ends = time.time() * 1000 + A_WHILE_MS
    for at in range(0, len(keys), FILLED_AT_ONCE):
        with raw.pipeline(transaction=False) as pipeline:
            for key in keys[at : at + FILLED_AT_ONCE]:
                named = space.of(key)
                for name, copy in zip((named.meta, named.history), copies, strict=True):
                    pipeline.restore(name, A_WHILE_MS, copy)
                pipeline.zadd(named.holds, {f"{key}\nbench {key}": ends})
                pipeline.zadd(named.held, {f"{key}\nbench {key}": 0})
            pipeline.execute()


@contextmanager
def served(place: Place, count: int) -> Iterator[Live]:
    """A server with so many live sessions, all of them held."""
    server = hot_server()
    settings = replace(place.settings(queue_url=place.redis_url, hold=HOLD_SECONDS), redis_url=server.url)
    keys = [f"bench:live:{number}" for number in range(count)]
    try:
        with (
            SessionCache(settings=settings) as cache,
            SessionCache(settings=replace(settings, reset=STRICT)) as strict,
            redis.Redis.from_url(server.url) as raw,
        ):
            cache.open("bench:origin").append([SAID, SAID])
            fill(raw, Keyspace(settings.prefix, settings.partitions), "bench:origin", keys)
            sample = [cache.get(key) for key in random.sample(keys, SAMPLE)]
            for session in sample:
                session.messages()
            while raw.info("server")["uptime_in_seconds"] <= HOLD_SECONDS:
                time.sleep(0.1)
            yield Live(cache, strict, keys, sample)
            if any(strict.open(key).reset_reason for key in keys[:SAMPLE]):
                raise SystemExit("A session was reset that was held.")
    finally:
        server.close()


def figures(place: Place, scale: Scale) -> list[Figure]:
    """Each call, on both servers."""
    many, found = round(MANY * scale.share), []
    with served(place, FEW) as few, served(place, many) as all_of_them:
        for name, call in CALLS.items():
            ways: dict[str, Way] = {
                f"{FEW:,} live": partial(timed, few, call, scale.repeat),
                OURS: partial(timed, all_of_them, call, scale.repeat),
            }
            rounds = in_rounds(ways, scale.rounds)
            note = f"ours: {many:,} live sessions; the other way: {FEW:,}"
            found.append(Figure(f"{name}, {many:,} live sessions", "µs", rounds, [Bar(f"{FEW:,} live", most=MOST)], note))
    return found


if __name__ == "__main__":
    bench.alone(figures)
