"""What an operator, the demo and the schedule ask and do: evict, hydrate, look, sweep, forget."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain, count
from typing import Any

from sessioncache import hydration
from sessioncache.errors import HotTierRefused, StoreUnavailable
from sessioncache.flow import Flow, Transact
from sessioncache.hot import reading
from sessioncache.info import Info
from sessioncache.keys import PartitionKeys
from sessioncache.repeat import ask_each
from sessioncache.state import State
from sessioncache.store import load
from sessioncache.write_behind import asks_layout, judge_layout

Commands = tuple[tuple[str | int, ...], ...]

FORGET_BATCH = 1000
# What the scripts count of a partition (see common.lua): ops and bytes.
_TOTAL = re.compile(rb"(\d{1,16}) (\d{1,16})")


def evict(state: State, session_key: str) -> Flow[bool]:
    """Drop the hot copy and the near copy of a key; True if there was a hot one. Nothing is lost (I1)."""
    keys = state.keyspace.of(session_key)
    state.near.drop(session_key)
    return (yield from reading.evict(state, keys))


@dataclass(frozen=True, slots=True)
class Hydrated:
    """What became of a key that was to be hot: whether it was already, and its current session, None where it has none."""

    was_hot: bool
    info: Info | None


def hydrate(state: State, session_key: str) -> Flow[Hydrated]:
    """Bring the hot copy of a key back from the store, unless there is one.

    Raises:
        HydrationTimeout, HotTierFull, StoreUnavailable: it could not be brought back.
    """
    keys, misses = state.keyspace.of(session_key), count()
    found = yield from hydration.warm(state, keys, partial(reading.look, state, keys), missed=partial(next, misses))
    return Hydrated(next(misses) == 0, found.info)


@dataclass(frozen=True, slots=True)
class PartitionBacklog:
    """What waits for the store in one partition, as the scripts count it; 0 where there is nothing, or it cannot be read.

    Attributes:
        dirty: session keys with ops that are not in the store.
        pending, pending_bytes: those ops, and their size.
        oldest_pending: age of the oldest of them, in seconds.
        overdue: for how long a key has been due for a claim, in seconds.
        dead: dead letters.
    """

    partition: int
    dirty: int
    pending: int
    pending_bytes: int
    oldest_pending: float
    overdue: float
    dead: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for the store, of all partitions.

    Attributes:
        dirty: session keys with ops that are not in the store.
        pending, pending_bytes: those ops.
        oldest_pending: the lag: the age of the oldest of them.
        overdue: for how long a key has been due.
        dead: dead letters.
        partitions: those where something waits or is dead, the worst first: the oldest op, then the most of them.
    """

    dirty: int
    pending: int
    pending_bytes: int
    oldest_pending: float
    overdue: float
    dead: int
    partitions: list[PartitionBacklog]


def backlogs(state: State) -> Flow[list[PartitionBacklog]]:
    """What waits for the store, by partition; in one round trip, which takes no longer for a larger backlog.

    Raises:
        LayoutMismatch: Redis is laid out for another number of partitions.
    """
    now_ms, known = yield from _asked(state, _about)
    return [_partition(number, now_ms, *replies) for number, replies in enumerate(known)]


def _asked(state: State, about: Callable[[PartitionKeys], Commands]) -> Flow[tuple[int, list[list[Any]]]]:
    """The time in milliseconds, and the replies to some commands about each partition; None for keys of other types.

    Raises:
        LayoutMismatch: Redis is laid out for another number of partitions.
    """
    commands = [about(state.keyspace.of_partition(number)) for number in range(state.settings.partitions)]
    time, *replies, layout = yield from ask_each(state, (("TIME",), *chain(*commands), asks_layout(state)))
    judge_layout(state, layout)
    known = (None if isinstance(reply, HotTierRefused) else reply for reply in replies)
    return int(time[0]) * 1000 + int(time[1]) // 1000, [[next(known) for _ in asked] for asked in commands]


def _about(keys: PartitionKeys) -> Commands:
    return (
        ("ZCARD", keys.dirty),
        *_due(keys),
        ("ZRANGE", keys.oldest, 0, 0, "WITHSCORES"),
        ("HGET", keys.backlog, "total"),
        ("LLEN", keys.dead),
    )


def _partition(
    partition: int, now_ms: int, dirty: int | None, due: Any, oldest: Any, total: bytes | None, dead: int | None
) -> PartitionBacklog:
    counts = _TOTAL.fullmatch(total or b"")
    pending, pending_bytes = (int(counts[1]), int(counts[2])) if counts and dirty else (0, 0)
    waits, overdue = (_age(now_ms, oldest), _age(now_ms, due)) if dirty else (0.0, 0.0)
    return PartitionBacklog(partition, dirty or 0, pending, pending_bytes, waits, overdue, dead or 0)


def _age(now_ms: int, first: Any) -> float:
    """How long ago the time was that the first member of a sorted set is scored by, in seconds; 0 for none, or later."""
    pair = first[0] if first and isinstance(first[0], list) else first  # RESP3 has pairs
    return max(0.0, (now_ms - float(pair[1])) / 1000) if pair else 0.0


def waiting_in(backlogs: Sequence[PartitionBacklog]) -> Waiting:
    """What waits, of all these partitions."""
    worst = sorted(backlogs, key=lambda one: (-one.oldest_pending, -one.pending, -one.dead, one.partition))
    return Waiting(
        dirty=sum(one.dirty for one in backlogs),
        pending=sum(one.pending for one in backlogs),
        pending_bytes=sum(one.pending_bytes for one in backlogs),
        oldest_pending=max((one.oldest_pending for one in backlogs), default=0.0),
        overdue=max((one.overdue for one in backlogs), default=0.0),
        dead=sum(one.dead for one in backlogs),
        partitions=[one for one in worst if one.dirty or one.pending or one.dead],
    )


@dataclass(frozen=True, slots=True)
class Stats:
    """How the two tiers stand, and what this process did.

    Attributes:
        dirty: session keys with ops that are not in the store.
        pending, pending_bytes: those ops, and their size.
        oldest_pending: age of the oldest of them, in seconds; 0 if there is none.
        dead: dead letters.
        sessions, messages: in the store; None while it is away.
        counters: what this process did since it started; the names are in `sessioncache.metrics`.
    """

    dirty: int
    pending: int
    pending_bytes: int
    oldest_pending: float
    dead: int
    sessions: int | None
    messages: int | None
    counters: dict[str, int]


def stats(state: State) -> Flow[Stats]:
    """How the two tiers stand."""
    found = waiting_in((yield from backlogs(state)))
    sessions, messages = yield from _stored()
    return Stats(
        dirty=found.dirty,
        pending=found.pending,
        pending_bytes=found.pending_bytes,
        oldest_pending=found.oldest_pending,
        dead=found.dead,
        sessions=sessions,
        messages=messages,
        counters=state.counters.snapshot(),
    )


def _stored() -> Flow[tuple[int | None, int | None]]:
    try:
        found: tuple[int, int] = yield Transact(load.counts, writes=False)
    except StoreUnavailable:
        return None, None
    return found


def overdue_lanes(state: State) -> Flow[dict[int, float]]:
    """For each lane, how long a key of it has been due, in seconds; one command for each partition.

    Raises:
        LayoutMismatch: Redis is laid out for another number of partitions.
    """
    now_ms, known = yield from _asked(state, _due)
    lanes = dict.fromkeys(range(state.settings.lanes), 0.0)
    for number, (due,) in enumerate(known):
        lane = state.lane_of(number)
        lanes[lane] = max(lanes[lane], _age(now_ms, due))
    return lanes


def _due(keys: PartitionKeys) -> Commands:
    return (("ZRANGE", keys.dirty, 0, 0, "WITHSCORES"),)


def forget_ops(state: State) -> Flow[int]:
    """Forget op ids older than ``op_retention``, in bounded transactions; how many."""
    before = datetime.now(UTC) - timedelta(seconds=state.settings.op_retention)
    total = 0
    while True:
        forgotten: int = yield Transact(partial(load.forget_ops, before=before, limit=FORGET_BATCH), writes=True)
        total += forgotten
        if forgotten < FORGET_BATCH:
            return total
