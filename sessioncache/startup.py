"""Startup: is this the Redis and the database that the settings were made for?

Run once for each process, before its first call. Layout version and number of partitions stand in Redis and in SQL; a
client configured otherwise would look for sessions where they are not, so it refuses to start; so it does where Redis may
evict what only Redis knows. A Redis that knows no layout (new or emptied) is given that of SQL. Where Redis knows it and
the database is away, hot sessions are served and the database is checked as soon as it answers.
"""

from __future__ import annotations

import logging

from sqlalchemy import Connection

from sessioncache.errors import StoreUnavailable, UnsafeEviction
from sessioncache.flow import Flow, Transact
from sessioncache.hot import draining
from sessioncache.hot.partitions import moving_to
from sessioncache.hot.server import eviction_refusal, server_facts
from sessioncache.keys import LAYOUT_VERSION
from sessioncache.state import State
from sessioncache.store.layouts import compare_layout, moving

log = logging.getLogger("sessioncache.startup")


def _nothing(_connection: Connection) -> None:
    """The driver checks the store before the first transaction of a process, whatever that is."""


def start(state: State) -> Flow[None]:
    """Check Redis and the store.

    Raises:
        Repartitioning: the number of partitions is being changed; nothing was written.
        UnsafeEviction: Redis may evict what only Redis knows, and ``allow_eviction`` is off; nothing was written.
        LayoutMismatch, SchemaMismatch: they were made for something else; nothing was written.
        HotTierUnavailable: Redis does not answer.
        StoreUnavailable: the database does not answer, and Redis is new.
    """
    yield from _no_eviction(state)
    partitions = state.settings.partitions
    recorded = yield from draining.layout(state, LAYOUT_VERSION, partitions, record=False)
    if recorded:
        if recorded[1] != partitions and (to := (yield from moving_to(state))):
            raise moving(to)
        compare_layout("Redis", recorded, (LAYOUT_VERSION, partitions))
    try:
        yield Transact(_nothing, writes=True)
    except StoreUnavailable as error:
        if not recorded:
            raise
        log.warning("the store is unavailable, hot sessions are served: %s", error)
    if not recorded:
        yield from draining.layout(state, LAYOUT_VERSION, partitions, record=True)


def _no_eviction(state: State) -> Flow[None]:
    refusal = eviction_refusal((yield from server_facts(state)))
    if refusal and not state.settings.allow_eviction:
        raise UnsafeEviction(refusal)
    if refusal:
        log.warning("it is gone on with all the same: %s", refusal)
