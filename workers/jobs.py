"""The RQ job. Any ``rq worker`` with the JSON serializer can run it; its settings come from ``SESSIONCACHE_*`` variables.

A job carries no data but which lane to drain; whatever its arguments say, it can do nothing else.
"""

from __future__ import annotations

import threading
from functools import lru_cache

from sessioncache import write_behind
from sessioncache.config import settings_from
from sessioncache.connect import BlockingConnections
from sessioncache.errors import ConfigurationError

# Set by the runtime at SIGTERM: finish the batch in hand, acknowledge it, end.
stopping = threading.Event()


@lru_cache(maxsize=1)
def connections() -> BlockingConnections:
    """The connections of this process, kept from job to job."""
    return BlockingConnections(settings_from({}))


def drain_lane(prefix: str, lane: int, lanes: int) -> int:
    """Drain a lane for a slice of time; the number of ops drained.

    Raises:
        ConfigurationError: the job is for another prefix, or there is no such lane.
    """
    ours = connections()
    if prefix != ours.settings.prefix:
        raise ConfigurationError(f"This worker drains prefix {ours.settings.prefix!r}; give it SESSIONCACHE_PREFIX.")
    if type(lane) is not int or type(lanes) is not int or not 0 <= lane < lanes <= ours.settings.partitions:
        raise ConfigurationError("A drain job names a lane from 0 to below the number of lanes.")
    try:
        return ours.run(write_behind.drain_lane(ours.state, lane, lanes, stopping.is_set)).ops
    finally:
        ours.settle()  # RQ ends the process that ran a job without waiting for threads
