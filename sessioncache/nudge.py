"""Nudges: an RQ job that says "there is work in this lane". A hint, never the truth.

`Nudger.ring` puts a lane in a queue of this process and returns; a daemon thread enqueues the job. A nudge that cannot
be sent costs seconds, not data: the schedule finds overdue work by itself. A lane whose job waits in RQ's queue already
gets no second one, so the number of jobs does not grow with the number of messages. RQ uses its JSON serializer (I10).
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from secrets import token_hex
from typing import Any
from zlib import crc32

import redis
from redis.exceptions import RedisError
from rq import Queue
from rq.serializers import JSONSerializer

from sessioncache.config import Settings
from sessioncache.metrics import Counters
from sessioncache.pools import queue_pool

log = logging.getLogger("sessioncache.nudge")

# A nudge older than this is of no use: the sweep has been there.
JOB_TTL = 60
# What a job may take beyond its slice before RQ ends it: one transaction and its retries.
JOB_GRACE = 60
FAILURE_TTL = 3600
# A queue that is away is said once in this time, not for every nudge.
WARN_SECONDS = 60.0


def queue_connection(settings: Settings) -> redis.Redis:
    """A connection of RQ's own: RQ changes the timeouts of the pool it is given.

    Raises:
        ConfigurationError: the URL cannot be used.
    """
    return redis.Redis(connection_pool=queue_pool(settings))


def enqueue(connection: redis.Redis, settings: Settings, lane: int) -> bool:
    """Enqueue the drain job of a lane, unless one waits already; True if it did.

    Raises:
        RedisError: the queue's Redis cannot do it.
    """
    return _enqueue(connection, settings, f"drain-{lane}-of-{settings.lanes}", settings.job, lane, settings.lanes)


def enqueue_chore(connection: redis.Redis, settings: Settings, job: str, *arguments: Any) -> bool:
    """Enqueue another job of this prefix by its dotted name, unless one waits already; True if it did.

    Raises:
        RedisError: the queue's Redis cannot do it.
    """
    return _enqueue(connection, settings, job.replace(".", "-"), job, *arguments)


def _enqueue(connection: redis.Redis, settings: Settings, what: str, job: str, *arguments: Any) -> bool:
    jobs = Queue(settings.queue, connection=connection, serializer=JSONSerializer)
    name = f"{what}-{crc32(settings.prefix.encode()):08x}-"
    if any(job_id.startswith(name) for job_id in jobs.job_ids):
        return False
    jobs.enqueue(
        job,
        settings.prefix,
        *arguments,
        job_id=name + token_hex(8),
        job_timeout=round(settings.slice) + JOB_GRACE,
        ttl=JOB_TTL,
        result_ttl=0,
        failure_ttl=FAILURE_TTL,
    )
    return True


class Nudger:
    """Sends nudges from a thread of its own, started at the first one, and again after a fork."""

    def __init__(self, settings: Settings, counters: Counters) -> None:
        self._settings, self._counters = settings, counters
        self._warn_next = 0.0
        self.renew()

    def renew(self) -> None:
        """Begin with a connection, a lock and no thread: in a forked child, too, whose parent's thread is not there."""
        self._connection = queue_connection(self._settings)
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def ring(self, lane: int) -> None:
        """Send a nudge for this lane soon. Never blocks on RQ, never raises."""
        if self._thread is None or not self._thread.is_alive():
            self._start()
        self._waiting.put(lane)

    def close(self) -> None:
        """Send what waits, and end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._waiting.put(None)
                thread.join(self._settings.redis_timeout)

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self._waiting = queue.SimpleQueue()
            self._thread = threading.Thread(
                target=self._work, args=(self._waiting,), name="sessioncache-nudger", daemon=True
            )
            self._thread.start()

    def _work(self, waiting: queue.SimpleQueue[int | None]) -> None:
        while (lane := waiting.get()) is not None:
            self._send(lane)
        self._connection.close()

    def _send(self, lane: int) -> None:
        try:
            self._counters.add("nudges", int(enqueue(self._connection, self._settings, lane)))
        except (RedisError, OSError) as error:
            if time.monotonic() >= self._warn_next:
                reason = type(error).__name__
                log.warning("nudges cannot be sent, the schedule will find the work: %s", reason, extra={"reason": reason})
                self._warn_next = time.monotonic() + WARN_SECONDS
        except Exception:
            log.exception("a nudge could not be sent, the schedule will find the work")
