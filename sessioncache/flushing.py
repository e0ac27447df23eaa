"""Flushing: drain everything, or one key, now; for shutdown, for operators, and for those who want to read SQL."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from sessioncache.flow import Flow
from sessioncache.hot import draining
from sessioncache.repeat import ask
from sessioncache.state import State
from sessioncache.write_behind import Drained, drain_to_end

EVERY_KEY = 2**31


@dataclass(frozen=True, slots=True)
class Flushed:
    """What a flush did: ops removed from pending logs, and ops that are left in them."""

    ops: int
    left: int


def flush(state: State, session_key: str | None = None, timeout: float | None = None) -> Flow[Flushed]:
    """Drain what is pending under one key, or any, now, claimed or not; no further batch after ``timeout`` seconds.

    Raises:
        StoreUnavailable: the store is down; the logs wait.
        StoreRefused, CorruptLog: an op cannot be applied; every other key was drained.
    """
    end = math.inf if timeout is None else time.monotonic() + timeout
    names = (yield from dirty_keys(state)) if session_key is None else [session_key]
    total = Drained()
    for at in range(0, len(names), state.settings.claim):
        keys = [state.keyspace.of(name) for name in names[at : at + state.settings.claim]]
        total.add((yield from drain_to_end(state, keys, end)))
    for error in total.stopped.values():
        raise error
    if not names:
        return Flushed(0, 0)
    left = yield from ask(state, tuple(("LLEN", state.keyspace.of(name).pending) for name in names))
    return Flushed(total.ops, sum(left))


def dirty_keys(state: State) -> Flow[list[str]]:
    """Every session key with a pending log."""
    names: list[str] = []
    for partition in range(state.settings.partitions):
        backlog = yield from draining.stats(state, state.keyspace.of_partition(partition), EVERY_KEY)
        names += backlog.session_keys
    return names
