"""The RQ jobs. Any ``rq worker`` with the JSON serializer can run them; settings come from ``SESSIONCACHE_*`` variables.

A job carries no data but which lane to drain, or where to go on keeping house; whatever its arguments say, it can do
nothing else. Each works for a bounded slice of time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from sessioncache import housekeeping, nudge, serving
from sessioncache.arguments import LAST_MILLISECOND
from sessioncache.config import Settings, settings_from
from sessioncache.connect import BlockingConnections
from sessioncache.errors import ConfigurationError

# The dotted names of the jobs that the schedule enqueues.
KEEP_HOUSE, TELL_EXPIRING = "workers.jobs.keep_house", "workers.jobs.tell_expiring"

_CHORES = frozenset(chore.name for chore in housekeeping.CHORES)

# Set by the runtime at SIGTERM: finish the batch in hand, acknowledge it, end.
stopping = threading.Event()


@lru_cache(maxsize=1)
def connections() -> BlockingConnections:
    """The connections of this process, kept from job to job."""
    return BlockingConnections(settings_from({}), kind="worker")


@contextmanager
def _connections_of(prefix: str) -> Iterator[BlockingConnections]:
    """Our connections, if they are those of this prefix; afterwards what nudges wait are sent.

    Raises:
        ConfigurationError: the job is for another prefix.
    """
    ours = connections()
    if prefix != ours.settings.prefix:
        raise ConfigurationError(f"This worker drains prefix {ours.settings.prefix!r}; give it SESSIONCACHE_PREFIX.")
    try:
        yield ours
    finally:
        ours.settle()  # RQ ends the process that ran a job without waiting for threads


def drain_lane(prefix: str, lane: int, lanes: int) -> int:
    """Drain a lane for a slice of time, unless another job does; the number of ops drained.

    Raises:
        ConfigurationError: the job is for another prefix, or there is no such lane.
    """
    with _connections_of(prefix) as ours:
        _check_lane(lane, lanes, ours.settings.partitions)
        return ours.run(serving.serve_lane(ours.state, lane, lanes, stopping.is_set)).ops


def _check_lane(lane: int, lanes: int, partitions: int) -> None:
    if type(lane) is not int or type(lanes) is not int or not 0 <= lane < lanes <= partitions:
        raise ConfigurationError("A drain job names a lane from 0 to below the number of lanes.")


def keep_house(prefix: str, place: list[str | int] | None = None) -> dict[str, int]:
    """Keep house for a slice of time; what was done, by name. Enqueues itself again where more is to be done.

    Raises:
        ConfigurationError: the job is for another prefix, or there is no such place.
    """
    with _connections_of(prefix) as ours:
        kept = ours.run(housekeeping.keep_house(ours.state, place=_place(place), seconds=ours.settings.slice))
        if kept.place:
            _go_on(ours.settings, kept.place)
        return {name: getattr(kept, name) for name in ("deleted", "archived", "pruned", "retired", "left")}


def _place(given: list[str | int] | None) -> housekeeping.Place | None:
    match given:
        case None:
            return None
        case [str(name), int(at_ms), str(session_id)] if name in _CHORES and 0 <= at_ms <= LAST_MILLISECOND:
            return name, at_ms, session_id
    raise ConfigurationError("A housekeeping job names a chore, a time in milliseconds and a session id, or nothing.")


def _go_on(settings: Settings, place: housekeeping.Place) -> None:
    connection = nudge.queue_connection(settings)
    try:
        nudge.enqueue_chore(connection, settings, KEEP_HOUSE, list(place))
    finally:
        connection.close()


def tell_expiring(prefix: str) -> int:
    """Call ``on_expiring`` for sessions that are about to be reset; how many.

    Raises:
        ConfigurationError: the job is for another prefix, or the hook is none.
    """
    with _connections_of(prefix) as ours:
        return ours.run(housekeeping.tell_expiring(ours.state))
