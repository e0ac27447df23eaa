"""Write-behind: from the pending logs to the store.

The drain job, a flush, a miss on a dirty key: all run `_commit`. Read the heads of some keys' logs, apply them in one
transaction, acknowledge what the store has. No lock is needed for any of this to be right: two drainers at once, a job
delivered twice or a worker killed anywhere change nothing, because the store knows which ops it has (I3) and an ack
removes only what it names (I2).

Store down: nothing is acknowledged and the log waits. Store refuses an op for its content: the batch is halved until what
was appended at once with it stands alone; that goes to the dead letters, and everything else goes on. What is no op at all
is a dead letter too; an op of a later version of this library stops its key, loudly, and no other.

Assumes that whoever calls has claimed the keys if it wants to work alone; a claim is a courtesy, not a lock.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence

from sessioncache import op
from sessioncache.commit import Drained, acknowledge, commit, stopped
from sessioncache.errors import HotTierRefused, StoreUnavailable
from sessioncache.flow import Flow, Pause, Ring
from sessioncache.heads import Room, claimed, heads
from sessioncache.keys import LAYOUT_VERSION, SessionKeys
from sessioncache.repeat import ask_each, pauses
from sessioncache.state import State
from sessioncache.store.layouts import compare_layout
from sessioncache.store.planned import Log, Outcome

log = logging.getLogger("sessioncache.write_behind")


def drain_key(state: State, session_key: str) -> Flow[int]:
    """Drain what is pending under one key now; the number of ops removed.

    Raises:
        StoreUnavailable: the store is down; the log waits.
        StoreRefused, CorruptLog: an op of this key cannot be applied.
        LayoutMismatch: Redis is laid out for another number of partitions; its log is elsewhere.
    """
    drained = Drained()
    yield from drain_to_end(state, [state.keyspace.of(session_key)], drained)
    for error in drained.stopped.values():
        raise error
    return drained.ops


def drain_to_end(
    state: State, keys: Sequence[SessionKeys], total: Drained, end: float = math.inf, *, any_layout: bool = False
) -> Flow[None]:
    """Drain the logs of some keys as far as they reach now; what comes in meanwhile is not waited for.

    What is drained is added to ``total``, whatever comes after it. No further batch is begun at ``end``, by the monotonic
    clock. With ``any_layout`` it is done whatever Redis is laid out for: by whoever changes that.

    Raises:
        LayoutMismatch: Redis is laid out for another number of partitions; their logs are elsewhere.
    """
    ends = yield from _ends(state, keys, total, any_layout=any_layout)
    while ends and time.monotonic() < end:
        room, drained, logs = yield from _drain_heads(state, list(ends))
        total.add(drained)
        reached = {one.session_key: one.ops[-1].version for one in logs}
        # A key without a log was either not looked at, for want of room, or has been drained by another.
        otherwise = -1 if room.full else sys.maxsize
        stopped = drained.stopped
        ends = {
            key: end
            for key, end in ends.items()
            if reached.get(key.session_key, otherwise) < end and key.session_key not in stopped
        }


def _ends(state: State, keys: Sequence[SessionKeys], drained: Drained, *, any_layout: bool) -> Flow[dict[SessionKeys, int]]:
    """The newest version in each of these keys' logs, where there is any. What is no list is stopped, alone."""
    found = {}
    *tails, layout = yield from ask_each(state, (*(("LINDEX", key.pending, -1) for key in keys), asks_layout(state)))
    if not any_layout:
        judge_layout(state, layout)
    for key, tail in zip(keys, tails, strict=True):
        if isinstance(tail, HotTierRefused):
            drained.add(stopped(state, key.session_key, tail))
        elif tail is not None:
            found[key] = _version(tail)
    return found


def drain_some(state: State, keys: Sequence[SessionKeys]) -> Flow[Drained]:
    """Drain the heads of the logs of some keys, the first ones first: one batch."""
    _, drained, _ = yield from _drain_heads(state, keys)
    return drained


def _drain_heads(state: State, keys: Sequence[SessionKeys]) -> Flow[tuple[Room, Drained, list[Log]]]:
    room, drained = Room.of(state), Drained()
    logs = yield from heads(state, keys, room, drained)
    drained.add((yield from commit(state, logs)))
    return room, drained, logs


def _version(element: bytes) -> int:
    """The version of an op; beyond all others for what is no op."""
    found = op.parsed(element)
    return sys.maxsize if found is None else found.version


def drain_lane(
    state: State, lane: int, lanes: int, stop: Callable[[], bool], ending: Callable[[], Flow[object]] | None = None
) -> Flow[Drained]:
    """Drain the partitions of a lane for a slice of time, whoever else does; ``ending`` is run before it may end.

    Serves the due keys of its partitions in turn, batch by batch, keeping their doorbells pressed; pauses where a batch
    took all there was, so that few large transactions do what many small ones would; lingers a little for more; at the end
    lets each doorbell go in the same script that finds nothing due, so that no append falls between two jobs. Where work
    is left when the slice is over or ``stop`` says so, it sends a nudge for the next job.

    Raises:
        LayoutMismatch: Redis is laid out for another number of partitions; nothing was claimed.
    """
    yield from confirm_layout(state)
    settings, total = state.settings, Drained()
    partitions = deque(range(lane, settings.partitions, lanes))
    trouble = pauses(longest=settings.retry_pause)
    end = time.monotonic() + settings.slice
    quiet_since = time.monotonic()
    drained = Drained()
    while time.monotonic() < end and not stop():
        last = not drained.keys and time.monotonic() - quiet_since >= settings.linger
        if last and ending:
            yield from ending()
        try:
            drained = yield from drain_batch(state, partitions, "last" if last else "due")
        except StoreUnavailable as error:
            about = {"lane": lane, "reason": type(error).__name__}
            log.warning("the store is unavailable, ops wait in Redis: %s", error, extra=about)
            yield Pause(next(trouble))
            quiet_since = time.monotonic()
            continue
        total.add(drained)
        if drained.keys:
            quiet_since = time.monotonic()
        elif last:
            return total
        if not drained.more:
            yield Pause(settings.poll)
    if ending:
        yield from ending()
    yield Ring(lane)
    return total


def confirm_layout(state: State) -> Flow[None]:
    """Nothing, if Redis is laid out as the settings say; for whoever goes on for long, and would claim what is not there.

    Raises:
        LayoutMismatch: it is laid out for another number of partitions by now.
    """
    (found,) = yield from ask_each(state, (asks_layout(state),))
    judge_layout(state, found)


def asks_layout(state: State) -> tuple[str, ...]:
    """The command whose reply `judge_layout` judges, for the end of a pipeline that looks for what is pending.

    What the commands before it found was where the settings look for it, and nobody wrote elsewhere before it was answered.
    """
    return ("HGET", state.keyspace.layout, "partitions")


def judge_layout(state: State, found: object) -> None:
    """Nothing, if Redis is laid out as the settings say, or does not know; it may be unreadable, which startup tells of.

    Raises:
        LayoutMismatch: it is laid out for another number of partitions by now.
    """
    if isinstance(found, bytes) and found.isdigit():
        compare_layout("Redis", (LAYOUT_VERSION, int(found)), (LAYOUT_VERSION, state.settings.partitions))


def drain_batch(state: State, partitions: deque[int], mode: str) -> Flow[Drained]:
    """Claim keys of these partitions up to one batch of ops, and drain that batch in one transaction.

    ``mode`` as in claim.lua. Partitions whose keys were looked at go to the end of the line.
    """
    room, drained = Room.of(state), Drained()
    taken, logs = yield from claimed(state, partitions, mode, room, drained)
    try:
        drained.add((yield from commit(state, logs)))
    except StoreUnavailable:
        yield from acknowledge(state, [Outcome(keys.session_key, -1) for keys in taken])
        raise
    drained.keys = len(taken)
    without_log = {keys.session_key for keys in taken} - {one.session_key for one in logs} - set(drained.stopped)
    yield from acknowledge(state, [Outcome(name, -1) for name in without_log])
    return drained
