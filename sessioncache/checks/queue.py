"""Checks of RQ: its Redis, its queue, the workers that serve it, and the schedule."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import redis
from rq import Queue, Worker
from rq.serializers import JSONSerializer

from sessioncache.borders import FOREIGN
from sessioncache.checks.server import REPLICA, eviction
from sessioncache.config import Settings
from sessioncache.diagnosis import Finding, error, info, ok, warning
from sessioncache.errors import HotTierRefused
from sessioncache.flow import Apart, Flow
from sessioncache.hot.server import facts_in
from sessioncache.nudge import queue_connection
from sessioncache.repeat import ask
from sessioncache.state import State

T = TypeVar("T")

# Jobs that wait beyond this number are told of: each lane has one at most, and chores are few.
MANY_JOBS = 100
# RQ's workers give a sign of life more often than this.
SILENT = timedelta(minutes=10)


def asked(settings: Settings, work: Callable[[redis.Redis], T]) -> T:
    """What ``work`` finds in the Redis of the queue, over a connection of its own.

    Raises:
        RedisError, OSError: it does not answer.
        HotTierRefused: what RQ keeps there cannot be read.
    """
    connection = queue_connection(settings)
    try:
        return work(connection)
    except FOREIGN:
        raise
    except Exception as unreadable:
        what = f"What RQ keeps in the queue's Redis cannot be read ({type(unreadable).__name__}); look at its rq:* keys."
        raise HotTierRefused(what) from unreadable
    finally:
        connection.close()


def queue(state: State) -> Flow[list[Finding]]:
    """The Redis of the queue, and how many jobs wait."""
    settings = state.settings
    facts_: dict[str, Any] = yield Apart(partial(asked, settings, _info))
    facts = facts_in(facts_)
    waiting: int = yield Apart(partial(asked, settings, partial(_waiting, name=settings.queue)))
    found = [ok("queue", f"The queue {settings.queue} answers; {waiting} jobs wait.")]
    if waiting > MANY_JOBS:
        what = f"{waiting} jobs wait in the queue {settings.queue}."
        found = [warning("queue", what, "Start workers, and give other applications a queue of their own.")]
    if facts.role == REPLICA:
        found.append(error("queue", "Its Redis is a replica, which takes no jobs.", "Point queue_url at the primary."))
    return found + (eviction("queue", facts, allowed=settings.allow_eviction) if settings.queue_url else [])


def _info(connection: redis.Redis) -> Any:
    return connection.info()


def _waiting(connection: redis.Redis, name: str) -> int:
    return Queue(name, connection=connection, serializer=JSONSerializer).count


def workers(state: State) -> Flow[list[Finding]]:
    """The workers that serve the queue, and whether somebody runs the schedule."""
    settings = state.settings
    alive: int = yield Apart(partial(asked, settings, partial(_alive, name=settings.queue)))
    (schedule,) = yield from ask(state, (("EXISTS", state.keyspace.schedule),))
    found = []
    if not alive:
        what = f"No worker serves the queue {settings.queue}: what is appended waits in Redis."
        found.append(warning("workers", what, "Run sessioncache worker, under a supervisor that restarts it."))
    elif alive < settings.lanes:
        what = f"{alive} workers serve {settings.lanes} lanes: lanes wait for each other."
        found.append(info("workers", what, f"Run {settings.lanes} worker processes."))
    else:
        found.append(ok("workers", f"{alive} workers serve {settings.lanes} lanes."))
    if not schedule:
        who = "Workers run, but nobody runs the schedule" if alive else "Nobody runs the schedule"
        what = f"{who}: work whose nudge was lost is not found, nor is house kept."
        advice = "Run sessioncache worker, or restart it where it runs already; plain rq workers do not run the schedule."
        found.append(warning("workers", what, advice))
    return found


def _alive(connection: redis.Redis, name: str) -> int:
    jobs = Queue(name, connection=connection, serializer=JSONSerializer)
    since = datetime.now(UTC) - SILENT
    beats = [worker.last_heartbeat for worker in Worker.all(queue=jobs, serializer=JSONSerializer)]
    return sum(beat is not None and aware(beat) > since for beat in beats)


def aware(moment: datetime) -> datetime:
    """A time of RQ's, in UTC: before 2.2 it leaves the zone out."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
