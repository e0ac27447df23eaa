"""What an operator, the demo and the schedule ask and do: evict, look, sweep, forget."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from sessioncache import op
from sessioncache.errors import StoreUnavailable
from sessioncache.flow import Flow, Transact
from sessioncache.hot import draining, reading
from sessioncache.repeat import ask
from sessioncache.state import State
from sessioncache.store import load

# Dirty keys of a partition that are looked into for the size and age of their logs.
SAMPLE = 1000
FORGET_BATCH = 1000


def evict(state: State, session_key: str) -> Flow[bool]:
    """Drop the hot copy and the near copy of a key; True if there was a hot one. Nothing is lost (I1)."""
    keys = state.keyspace.of(session_key)
    state.near.drop(session_key)
    return (yield from reading.evict(state, keys))


@dataclass(frozen=True, slots=True)
class Stats:
    """How the two tiers stand, and what this process did.

    Attributes:
        dirty: session keys with ops that are not in the store.
        pending: those ops (counted for the first 1,000 dirty keys of each partition).
        oldest_pending: age of the oldest of them, in seconds; 0 if there is none.
        dead: dead letters.
        sessions, messages: in the store; None while it is away.
        counters: what this process did since it started; the names are in `sessioncache.metrics`.
    """

    dirty: int
    pending: int
    oldest_pending: float
    dead: int
    sessions: int | None
    messages: int | None
    counters: dict[str, int]


def stats(state: State) -> Flow[Stats]:
    """How the two tiers stand."""
    dirty = pending = dead = 0
    oldest = 0.0
    for partition in range(state.settings.partitions):
        backlog = yield from draining.stats(state, state.keyspace.of_partition(partition), SAMPLE)
        dirty, dead = dirty + backlog.dirty, dead + backlog.dead
        if backlog.session_keys:
            length, heads = yield from _logs(state, backlog.session_keys)
            pending += length
            oldest = max([oldest, *((backlog.now_ms - head.at_ms) / 1000 for head in heads)])
    sessions, messages = yield from _stored()
    return Stats(dirty, pending, oldest, dead, sessions, messages, state.counters.snapshot())


def _stored() -> Flow[tuple[int | None, int | None]]:
    try:
        found: tuple[int, int] = yield Transact(load.counts, writes=False)
    except StoreUnavailable:
        return None, None
    return found


def _logs(state: State, session_keys: list[str]) -> Flow[tuple[int, list[op.Op]]]:
    """The number of ops in the pending logs of these keys, and the first op of each."""
    names = [state.keyspace.of(key).pending for key in session_keys]
    commands = [command for name in names for command in (("LLEN", name), ("LINDEX", name, 0))]
    replies = yield from ask(state, tuple(commands))
    heads = (op.parsed(head) for head in replies[1::2] if head is not None)
    return sum(replies[::2]), [head for head in heads if head is not None]


def overdue_lanes(state: State) -> Flow[dict[int, float]]:
    """For each lane, how long a key of it has been due, in seconds."""
    lanes: dict[int, float] = {}
    for partition in range(state.settings.partitions):
        backlog = yield from draining.stats(state, state.keyspace.of_partition(partition), 1)
        lane = state.lane_of(partition)
        lanes[lane] = max(lanes.get(lane, 0.0), backlog.overdue)
    return lanes


def forget_ops(state: State) -> Flow[int]:
    """Forget op ids older than ``op_retention``, in bounded transactions; how many."""
    before = datetime.now(UTC) - timedelta(seconds=state.settings.op_retention)
    total = 0
    while True:
        forgotten: int = yield Transact(partial(load.forget_ops, before=before, limit=FORGET_BATCH), writes=True)
        total += forgotten
        if forgotten < FORGET_BATCH:
            return total
