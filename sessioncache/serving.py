"""Serving a lane: what an RQ job does, one at a time for each lane.

A lane's partitions ring one by one, so that its first messages may bring several jobs. The second one ends at once: it must
not keep a worker from another lane for a slice of time. That is a courtesy, as claims are: two drainers at once are
harmless.

The right to serve ends by itself after a slice, however its holder ended. It is given back before doorbells are let go, so
that a nudge that comes after that finds it free.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sessioncache.commit import Drained
from sessioncache.errors import SessionCacheError
from sessioncache.flow import Flow, Interrupted
from sessioncache.hot import leases
from sessioncache.op import new_op_id
from sessioncache.state import State
from sessioncache.write_behind import drain_lane


def serve_lane(state: State, lane: int, lanes: int, stop: Callable[[], bool]) -> Flow[Drained]:
    """Drain a lane for a slice of time, unless another job does.

    Raises:
        LayoutMismatch: Redis is laid out for another number of partitions; nothing was claimed.
    """
    right = partial(leases.exclusive, state, state.keyspace.lane(lane, lanes), new_op_id())
    if not (yield from right(state.settings.slice)):
        return Drained()
    try:
        return (yield from drain_lane(state, lane, lanes, stop, partial(right, 0)))
    except (SessionCacheError, Interrupted):
        yield from right(0)
        raise
