"""Backpressure: what becomes of a write that is refused because too much waits for the store.

By the setting ``backpressure`` it raises at once, waits for room until a deadline, or makes room: the process that writes
drains one batch, of its key or of the oldest of the partition, by the code that all draining runs, and tries again.

Assumes that the write is idempotent, so that it may be tried as often as there is hope.
"""

from __future__ import annotations

import time

from sessioncache.errors import Backpressure, StoreUnavailable
from sessioncache.flow import Flow, Pause
from sessioncache.hot import draining
from sessioncache.keys import SessionKeys
from sessioncache.repeat import pauses
from sessioncache.state import State
from sessioncache.write_behind import drain_some

# Rounds of making room in which nothing could be drained, before it is given up: others may be at it meanwhile.
IDLE_ROUNDS = 5


class Relief:
    """Finds room for one write under a key, as often as it is refused."""

    def __init__(self, state: State, keys: SessionKeys) -> None:
        self._state, self._keys = state, keys
        self._end: float | None = None
        self._waits, self._idle = pauses(), 0
        self._stopped: set[str] = set()

    def find(self, refused: Backpressure) -> Flow[None]:
        """Return when it is worth trying again.

        Raises:
            Backpressure: it is not.
        """
        self._state.counters.add("backpressure")
        policy = self._state.settings.backpressure
        if policy == "raise" or not refused.waiting:  # it does not fit in however little waits
            raise refused
        yield from self._wait(refused) if policy == "wait" else self._drain(refused)

    def _wait(self, refused: Backpressure) -> Flow[None]:
        now = time.monotonic()
        if self._end is None:
            self._end = now + self._state.settings.backpressure_wait
        if now >= self._end:
            raise refused
        yield Pause(min(next(self._waits), self._end - now))

    def _drain(self, refused: Backpressure) -> Flow[None]:
        try:
            drained = yield from drain_some(self._state, (yield from self._crowd(refused)))
        except StoreUnavailable as error:
            raise refused from error
        if self._keys.session_key in drained.stopped:
            raise refused from drained.stopped[self._keys.session_key]
        self._stopped.update(drained.stopped)
        self._idle = 0 if drained.ops else self._idle + 1
        if self._idle >= IDLE_ROUNDS:
            raise refused
        if self._idle:
            yield Pause(next(self._waits))

    def _crowd(self, refused: Backpressure) -> Flow[list[SessionKeys]]:
        """The keys to drain: this one, or those of its partition whose ops are the oldest."""
        if refused.bound.startswith("max_pending"):
            return [self._keys]
        most = self._state.settings.claim + len(self._stopped)
        partition = self._state.keyspace.of_partition(self._keys.partition)
        names = yield from draining.oldest(self._state, partition, most)
        return [self._state.keyspace.of(name) for name in names if name not in self._stopped]
