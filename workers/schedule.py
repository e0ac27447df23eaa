"""The schedule: finds work that no nudge announced, one process at a time however many run it.

Every ``sweep`` seconds whoever has the turn looks for keys that have been due for longer than that, and sends a nudge for
their lanes. Where RQ itself cannot write, or work was left lying all the same, it drains directly: draining depends on no
job. Once an hour it forgets old op ids. Where the settings ask for it, it enqueues the jobs that keep house and that tell
of sessions about to be reset, the first ones at once.
"""

from __future__ import annotations

import logging
import threading
import time
from secrets import token_hex

from redis.exceptions import RedisError

from sessioncache import housekeeping, nudge, ops, write_behind
from sessioncache.connect import BlockingConnections
from sessioncache.errors import SessionCacheError
from sessioncache.hot import leases
from workers import jobs

log = logging.getLogger("workers.schedule")

_FORGET, FORGET_SECONDS = "forget", 3600.0
# Sweeps after which work that was announced is not left to RQ any more.
LEFT_LYING = 4


class Schedule:
    """The schedule of one process."""

    def __init__(self, connections: BlockingConnections, stopping: threading.Event) -> None:
        self._connections, self._stopping = connections, stopping
        self._state, self._settings = connections.state, connections.settings
        self._queue = nudge.queue_connection(connections.settings)
        self._token = token_hex(8)
        self._next = dict.fromkeys((_FORGET, jobs.KEEP_HOUSE, jobs.TELL_EXPIRING), 0.0)

    def run(self) -> None:
        """Take turns until it is time to stop."""
        try:
            while not self._stopping.is_set():
                try:
                    self.tick()
                except SessionCacheError as error:
                    log.warning("a sweep failed, the next one is soon: %s", error)
                except Exception:
                    log.exception("a sweep failed, the next one is soon")
                self._stopping.wait(self._settings.sweep)
        finally:
            self._give_back()
            self._queue.close()

    def tick(self) -> bool:
        """One sweep, if it is this process's turn; whether it was."""
        run = self._connections.run
        run(write_behind.confirm_layout(self._state))  # nor is the turn kept from those of another number of partitions
        if not self._has_turn():
            return False
        late = {lane: age for lane, age in run(ops.overdue_lanes(self._state)).items() if age > self._settings.sweep}
        for lane, overdue in late.items():
            if not self._has_turn():
                return False
            if overdue > LEFT_LYING * self._settings.sweep or not self._nudged(lane):
                run(write_behind.drain_lane(self._state, lane, self._settings.lanes, self._stopping.is_set))
        if self._is_time(_FORGET, FORGET_SECONDS):
            run(ops.forget_ops(self._state))
        self._enqueue_chores()
        return True

    def _is_time(self, what: str, every: float) -> bool:
        """Whether it is time for this again; then the next time is set."""
        due = time.monotonic() >= self._next[what]
        if due:
            self._next[what] = time.monotonic() + every
        return due

    def _enqueue_chores(self) -> None:
        settings = self._settings
        keeps = any(getattr(settings, chore.age) for chore in housekeeping.CHORES)
        wanted = []
        if keeps and self._is_time(jobs.KEEP_HOUSE, settings.housekeeping):
            wanted.append(jobs.KEEP_HOUSE)
        if settings.on_expiring and self._is_time(jobs.TELL_EXPIRING, max(settings.sweep, settings.expiring_ahead / 10)):
            wanted.append(jobs.TELL_EXPIRING)
        for job in wanted:
            try:
                nudge.enqueue_chore(self._queue, settings, job)
            except (RedisError, OSError) as error:
                self._next[job] = 0.0
                log.warning("RQ cannot write (%s), %s waits", type(error).__name__, job)

    def _has_turn(self) -> bool:
        """Whether it is this process's turn, which then lasts as long as anything that is done in it."""
        settings = self._settings
        turn = settings.slice + settings.retry_pause + settings.database_timeout + 2 * settings.sweep
        return self._connections.run(leases.exclusive(self._state, self._state.keyspace.schedule, self._token, turn))

    def _nudged(self, lane: int) -> bool:
        try:
            nudge.enqueue(self._queue, self._settings, lane)
        except (RedisError, OSError) as error:
            log.warning("RQ cannot write (%s), draining directly", type(error).__name__)
            return False
        return True

    def _give_back(self) -> None:
        try:
            self._connections.run(leases.exclusive(self._state, self._state.keyspace.schedule, self._token, 0))
        except SessionCacheError as error:
            log.info("the turn ends by itself: %s", error)
