"""Hydration: from the store to the hot copy on a miss, and what is asked of a hot copy, as often as it takes.

*A miss* takes the lease or waits for its holder (I7); drains the key first, so that SQL alone is the truth (I4); loads
one snapshot; publishes it if the lease is still ours under the same run and the log is still empty. Appends cannot slip
in meanwhile: without a valid hot copy they miss too (I5).

*A write* that is refused because too much waits for the store is tried again as the policy says (`pressure`).

*Garbage* in a hot copy, whoever wrote it, makes it a miss: it is dropped and brought back from the store, counted and
warned of (I1). A message that the store itself cannot give back is a hole (`elements`), which spoils no other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sessioncache.elements import HOLE
from sessioncache.errors import Backpressure, HotTierFull, HydrationTimeout, SessionCacheError
from sessioncache.flow import Flow, Interrupted, Pause, Transact
from sessioncache.hot import reading
from sessioncache.hot.server import server_facts
from sessioncache.keys import SessionKeys
from sessioncache.op import new_op_id
from sessioncache.pressure import Relief
from sessioncache.repeat import pauses
from sessioncache.snapshot import Snapshot
from sessioncache.state import State
from sessioncache.store import load
from sessioncache.write_behind import drain_key

T = TypeVar("T")

log = logging.getLogger("sessioncache.hydration")

FIRST_WAIT = 0.004
LONGEST_WAIT = 0.05
# So many copies may vanish during one call before it is asked why.
LOSSES = 2


def warm(
    state: State,
    keys: SessionKeys,
    attempt: Callable[[], Flow[T | None]],
    *,
    window: int | None = None,
    missed: Callable[[], object] = int,
) -> Flow[T]:
    """What ``attempt`` finds in a valid hot copy, hydrating as often as it misses; with at most ``window`` messages.

    It misses where it finds None, or garbage, which goes then; at the first time ``missed`` is called.

    Raises:
        HydrationTimeout: there was no valid hot copy within ``hydration_timeout``.
        HotTierFull: Redis has no room for one, or evicts it at once.
        Backpressure: too much waits for the store, and the policy found no room.
    """
    misses = relief = None
    while True:
        try:
            if (reply := (yield from attempt())) is not None:
                return reply
        except Backpressure as refused:
            relief = relief or Relief(state, keys)
            yield from relief.find(refused)
            if misses:
                misses.deadline = _deadline(state)
            continue
        except SessionCacheError:
            raise
        except (ValueError, KeyError, OverflowError):
            yield from drop_garbage(state, keys)
        if misses is None:
            misses = _Misses(_deadline(state), pauses(FIRST_WAIT, LONGEST_WAIT))
            state.counters.add("misses")
            missed()
        yield from _brought_back(state, keys, state.settings.window if window is None else window, misses)


def _deadline(state: State) -> float:
    return time.monotonic() + state.settings.hydration_timeout


@dataclass(slots=True)
class _Misses:
    """Those of one call: until when there may be more, the pauses between them, and the copies it brought, and lost.

    ``evicted``: how many keys Redis had evicted when that was looked at.
    """

    deadline: float
    waits: Iterator[float]
    copies: int = 0
    evicted: int | None = None

    def looked_at(self, state: State, keys: SessionKeys) -> Flow[None]:
        """Nothing, unless one copy after the other goes and Redis evicts meanwhile: bringing more would not help."""
        if self.copies < LOSSES:
            return
        evicted = (yield from server_facts(state)).evicted
        if self.evicted is not None and evicted > self.evicted:
            raise HotTierFull(
                f"Redis has reached maxmemory and evicts the copy of session key {keys.session_key!r} as soon as it is "
                "brought back; flush, or give it more memory."
            )
        self.evicted = evicted


def _brought_back(state: State, keys: SessionKeys, window: int, misses: _Misses) -> Flow[None]:
    """Return when there may be a hot copy again."""
    if time.monotonic() > misses.deadline:
        raise HydrationTimeout(
            f"Session key {keys.session_key!r} was not hydrated within {state.settings.hydration_timeout} s; "
            "see whether the database is slow, or raise hydration_timeout."
        )
    yield from misses.looked_at(state, keys)
    if not (yield from _hydrate(state, keys, window, misses)):
        state.counters.add("hydration_waits")
        yield Pause(next(misses.waits))


def _hydrate(state: State, keys: SessionKeys, window: int, misses: _Misses) -> Flow[bool]:
    """Bring the hot copy back, if nobody else is at it; True if there may be one now."""
    token = new_op_id()
    try:
        ours = yield from reading.lease(state, keys, token)
    except Interrupted:  # it may be ours all the same
        yield from reading.release(state, keys, token)
        raise
    if not ours:
        return ours is None
    misses.copies += 1
    try:
        work = _load_and_publish(state, keys, token, window)
        return (yield from state.traced("hydrate", work, {"partition": keys.partition}, _told))
    except Interrupted:
        yield from reading.release(state, keys, token)
        raise
    except SessionCacheError:
        with suppress(SessionCacheError):  # where Redis is away too, the lease ends by itself
            yield from reading.release(state, keys, token)
        raise


def _told(published: bool) -> dict[str, str | int]:  # noqa: FBT001 - what a flow found
    return {"published": published}


def _load_and_publish(state: State, keys: SessionKeys, token: str, window: int) -> Flow[bool]:
    settings, begun = state.settings, time.perf_counter()
    work = partial(
        load.snapshot,
        session_key=keys.session_key,
        window=window,
        window_bytes=settings.window_bytes,
        keep_ops=settings.keep_ops,
        partitions=settings.partitions,
    )
    verdict = "dirty"
    while verdict == "dirty":
        yield from drain_key(state, keys.session_key)
        if not (yield from reading.lease(state, keys, token)):  # again ours, and for its full time
            return False
        snapshot: Snapshot = yield Transact(work, writes=False)
        noted(state, snapshot.elements)
        state.counters.add("sql_loads")
        verdict = yield from reading.publish(state, keys, token, snapshot)
    if verdict != "ok":
        return False
    state.counters.observe("hydrate_seconds", time.perf_counter() - begun)
    state.counters.add("hydrations")
    return True


def drop_garbage(state: State, keys: SessionKeys) -> Flow[None]:
    """Drop a hot copy that cannot be read, counted and warned of."""
    state.counters.add("corrupt_elements")
    log.warning(
        "a hot copy holds what cannot be read; it is brought back from the store", extra={"session_key": keys.session_key}
    )
    state.near.drop(keys.session_key)
    yield from reading.evict(state, keys)


def holes(elements: list[bytes]) -> int:
    """How many of these sound elements are holes."""
    return sum(one.endswith(HOLE) and one.index(b"\n") == len(one) - 2 for one in elements)


def noted(state: State, elements: list[bytes]) -> list[bytes]:
    """Elements that the store gave, once what it cannot give back is counted."""
    state.counters.add("corrupt_elements", holes(elements))
    return elements
