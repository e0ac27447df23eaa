"""From logs that were read to the store: applied in one transaction, and acknowledged.

Where the store refuses an op for its content, the batch is halved until what was appended at once with it stands alone:
that is remembered as refused, and goes to the dead letters; everything else is applied. Where not even that can be
remembered, the key is stopped, loudly, and tried again later.

Assumes nothing of who else does the same at the same time: the store knows which ops it has (I3), and an ack removes only
what it names (I2).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from sessioncache.errors import CorruptRecord, SessionCacheError, StoreRefused
from sessioncache.flow import Flow, Transact
from sessioncache.hot import draining
from sessioncache.state import State
from sessioncache.store.apply import apply
from sessioncache.store.planned import Log, Outcome

log = logging.getLogger("sessioncache.write_behind")


@dataclass(slots=True)
class Drained:
    """What a drain did.

    Attributes:
        keys: session keys that were claimed or named.
        ops: ops removed from pending logs.
        stopped: keys whose log holds an op that cannot be applied, and why.
        more: whether a batch left behind what it could have taken, for want of room.
    """

    keys: int = 0
    ops: int = 0
    stopped: dict[str, SessionCacheError] = field(default_factory=dict)
    more: bool = False

    def add(self, other: Drained) -> None:
        """Count another drain in."""
        self.keys += other.keys
        self.ops += other.ops
        self.stopped.update(other.stopped)


def commit(state: State, logs: Sequence[Log]) -> Flow[Drained]:
    """Apply logs in one transaction and acknowledge it; where the store refuses something, the same in halves."""
    if not logs:
        return Drained()
    try:
        return (yield from _applied(state, logs))
    except CorruptRecord as error:
        if len(logs) == 1:
            return stopped(state, logs[0].session_key, error)
        halves = _halves(logs)
    except StoreRefused as error:
        halves = _halves(logs)
        if not halves:
            return (yield from _refuse(state, logs[0], error))
    drained = Drained()
    for half in halves:
        drained.add((yield from commit(state, half)))
    return drained


def _applied(state: State, logs: Sequence[Log], reason: str = "") -> Flow[Drained]:
    known = {"keys": len(logs), "ops": sum(len(one.ops) for one in logs)}
    return state.traced("drain", _apply(state, logs, reason), known, lambda drained: {"removed": drained.ops})


def _apply(state: State, logs: Sequence[Log], reason: str) -> Flow[Drained]:
    begun = time.perf_counter()
    work = partial(apply, logs=logs, now=datetime.now(UTC), reason=reason)
    outcomes: list[Outcome] = yield Transact(work, writes=True)
    _count(state, outcomes)
    state.counters.observe("batch_ops", sum(len(one.ops) for one in logs))
    drained = Drained(len(outcomes), (yield from acknowledge(state, outcomes)))
    state.counters.observe("drain_seconds", time.perf_counter() - begun)
    return drained


def _halves(logs: Sequence[Log]) -> list[Sequence[Log]]:
    """The logs in two parts, in order; of a single log its ops, whole groups; nothing where that cannot be parted."""
    if len(logs) > 1:
        return [logs[: len(logs) // 2], logs[len(logs) // 2 :]]
    key, ops = logs[0].session_key, logs[0].ops
    ends = [at for at, one in enumerate(ops, 1) if not one.left and at < len(ops)]
    if not ends:
        return []
    middle = min(ends, key=lambda at: abs(at - len(ops) / 2))
    return [[Log(key, ops[:middle])], [Log(key, ops[middle:])]]


def _refuse(state: State, one: Log, error: StoreRefused) -> Flow[Drained]:
    """Set aside what was appended at once, because the store refuses it."""
    try:
        return (yield from _applied(state, [one], error.reason))
    except StoreRefused as again:
        return stopped(state, one.session_key, again)


def stopped(state: State, session_key: str, error: SessionCacheError) -> Drained:
    """Count and tell of a key that is stopped."""
    state.counters.add("refused")
    about = {"session_key": session_key, "reason": type(error).__name__}
    log.error("session key is stopped until this is mended: %s", error, extra=about)
    return Drained(1, 0, {session_key: error})


def _count(state: State, outcomes: Iterable[Outcome]) -> None:
    add = state.counters.add
    add("transactions")
    for outcome in outcomes:
        add("repeats", outcome.repeats)
        for reason, count in outcome.set_aside.items():
            dead(state, outcome.session_key, count, reason)
        if outcome.renumbered:
            add("renumbered", outcome.renumbered)
            log.warning(
                "Redis came back older than the store: %d ops got new versions",
                outcome.renumbered,
                extra={"session_key": outcome.session_key, "version": outcome.version, "ops": outcome.renumbered},
            )


def acknowledge(state: State, outcomes: Sequence[Outcome]) -> Flow[int]:
    """Acknowledge, in one round trip; the number of ops removed."""
    acks = [
        draining.Ack(state.keyspace.of(one.session_key), one.applied, one.refused, one.version, one.drop)
        for one in outcomes
    ]
    removed = yield from draining.ack(state, acks)
    state.counters.add("ops_drained", removed)
    return removed


def dead(state: State, session_key: str, count: int, reason: str) -> None:
    """Count and tell of ops that became dead letters."""
    state.counters.add("dead_letters", count)
    about = {"session_key": session_key, "ops": count, "reason": reason}
    log.error("%d ops are dead letters: %s", count, reason, extra=about)
