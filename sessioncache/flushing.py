"""Flushing: drain everything, or one key, now; for shutdown, for operators, and for those who want to read SQL."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sessioncache.arguments import seconds
from sessioncache.commit import Drained
from sessioncache.errors import HotTierRefused, HotTierUnavailable, SessionCacheError, StoreUnavailable
from sessioncache.flow import Flow, Pause, Progress, unseen
from sessioncache.hot import draining
from sessioncache.repeat import ask_each, pauses
from sessioncache.state import State
from sessioncache.write_behind import asks_layout, drain_to_end, judge_layout

log = logging.getLogger("sessioncache.flushing")


@dataclass(frozen=True, slots=True)
class Flushed:
    """What a flush did: ops removed from pending logs, ops that are left in them, and keys that are stopped, with why."""

    ops: int
    left: int
    stopped: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Shown(Drained):
    """What was drained, told as it grows, with how much there was in all when the last try began."""

    progress: Progress = unseen
    of: int = 0

    def add(self, other: Drained) -> None:
        Drained.add(self, other)
        self.progress(self.ops, self.of)


def flush(
    state: State, session_key: str | None = None, timeout: float | None = None, progress: Progress = unseen
) -> Flow[Flushed]:
    """Drain what is pending under one key, or any, now, claimed or not.

    With a timeout, in seconds, it is tried until then, whatever fails, and what is left is told; no batch is begun later.
    ``progress`` is told the ops drained, and how many there were.

    Raises:
        StoreUnavailable: the store is down; the logs wait. Without a timeout only.
        StoreRefused, CorruptLog: an op cannot be applied; every other key was drained. Without a timeout only.
    """
    total = _Shown(progress=progress)
    if timeout is None:
        names = yield from _drain(state, session_key, total, math.inf)
        for error in total.stopped.values():
            raise error
    else:
        names = yield from _try_until(state, session_key, total, time.monotonic() + seconds(timeout, "timeout"))
    stopped = {name: str(error) for name, error in total.stopped.items()}
    return Flushed(total.ops, (yield from _left(state, names)), stopped)


def settle(state: State) -> Flow[Mapping[str, SessionCacheError]]:
    """Drain everything that can be, for whoever is about to read SQL; keys that are stopped, and why.

    Raises:
        StoreUnavailable: the store is down.
    """
    total = _Shown()
    yield from _drain(state, None, total, math.inf)
    return total.stopped


def _try_until(state: State, session_key: str | None, total: _Shown, end: float) -> Flow[list[str]]:
    """Drain, again while a tier is away and there is time."""
    waits = pauses()
    while True:
        try:
            return (yield from _drain(state, session_key, total, end))
        except (StoreUnavailable, HotTierUnavailable) as error:
            log.warning("a tier is unavailable, what is pending waits: %s", error)
        if time.monotonic() >= end:
            return (yield from dirty_keys(state)) if session_key is None else [session_key]
        yield Pause(min(next(waits), max(0.0, end - time.monotonic())))


def _drain(state: State, session_key: str | None, total: _Shown, end: float) -> Flow[list[str]]:
    """Add to ``total`` what is drained; the session keys that it was tried with."""
    names = (yield from dirty_keys(state)) if session_key is None else [session_key]
    if total.progress is not unseen:
        total.of = total.ops + (yield from _left(state, names))
    for at in range(0, len(names), state.settings.claim):
        keys = [state.keyspace.of(name) for name in names[at : at + state.settings.claim]]
        yield from drain_to_end(state, keys, total, end)
    return names


def _left(state: State, names: list[str]) -> Flow[int]:
    if not names:
        return 0
    return sum((yield from draining.lengths(state, [state.keyspace.of(name) for name in names])))


def dirty_keys(state: State) -> Flow[list[str]]:
    """Every session key with a pending log, in one round trip.

    Raises:
        HotTierRefused: a dirty index is of another type.
        LayoutMismatch: Redis is laid out for another number of partitions.
    """
    return (yield from dirty_of(state, range(state.settings.partitions)))


def dirty_of(state: State, partitions: Iterable[int]) -> Flow[list[str]]:
    """Every session key of some partitions with a pending log.

    Raises:
        HotTierRefused, LayoutMismatch: as above.
    """
    names: list[str] = []
    asked = {partition: ("ZRANGE", state.keyspace.of_partition(partition).dirty, 0, -1) for partition in partitions}
    *found, layout = yield from ask_each(state, (*asked.values(), asks_layout(state)))
    judge_layout(state, layout)
    for partition, members in zip(asked, found, strict=True):
        if isinstance(members, HotTierRefused):
            raise HotTierRefused(f"The dirty index of partition {partition} is of a wrong type; rename it. See doctor().")
        names += draining.session_keys(members)
    return names
