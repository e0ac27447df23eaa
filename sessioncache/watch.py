"""A look at the whole system, for a screen that is looked at for hours: `sample` of Redis and RQ, `stored` of SQL.

Guarantees: a look is a bounded number of commands and round trips, however much waits and however many sessions there are;
it writes nothing, needs no `startup`, and never fails for what it meets: what cannot be had is None, with the reason in
``trouble``. SQL is apart, because a database that hangs must not keep anybody from seeing what waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sessioncache import ops, reports
from sessioncache.errors import HotTierUnavailable, SessionCacheError
from sessioncache.flow import Command, Flow, Transact
from sessioncache.hot import draining
from sessioncache.hot.server import facts_in
from sessioncache.keys import LAYOUT_VERSION
from sessioncache.ops import PartitionBacklog
from sessioncache.registered import RegisteredWorker, registered
from sessioncache.reports import Report
from sessioncache.state import State
from sessioncache.store import load
from sessioncache.store.layouts import compare_layout

T = TypeVar("T")

REDIS, BACKLOG, PROCESSES, QUEUE, STORE = "redis", "backlog", "processes", "queue", "store"


@dataclass(frozen=True, slots=True)
class HotTier:
    """Redis, by its own word.

    Attributes:
        used, maxmemory: bytes; 0 where there is no bound.
        clients: connections to it.
        commands: per second.
        evicted: keys evicted since it started.
    """

    product: str
    version: str
    used: int
    maxmemory: int
    clients: int
    commands: int
    evicted: int


@dataclass(frozen=True, slots=True)
class Stored:
    """The store: sessions that are not deleted, and their messages."""

    sessions: int
    messages: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The system at one instant; None stands for what could not be had, and ``trouble`` says why, by part.

    Attributes:
        at_ms: by Redis's clock; by this host's while Redis is away.
        backlogs: of every partition.
        reports: of every process that told of itself lately.
        workers: RQ workers of our queue.
        trouble: sentences, under ``redis``, ``backlog``, ``processes`` and ``queue``.
    """

    at_ms: int
    hot: HotTier | None = None
    backlogs: list[PartitionBacklog] | None = None
    reports: list[Report] | None = None
    workers: list[RegisteredWorker] | None = None
    trouble: dict[str, str] = field(default_factory=dict)


def sample(state: State) -> Flow[Sample]:
    """How the system stands now, but for SQL."""
    trouble: dict[str, str] = {}
    at_ms, hot = (yield from _told(_hot(), REDIS, trouble)) or (round(time.time() * 1000), None)
    backlogs = yield from _told(_backlogs(state), BACKLOG, trouble)
    fleet = yield from _told(reports.fleet(state), PROCESSES, trouble)
    workers = yield from _told(registered(state), QUEUE, trouble)
    return Sample(at_ms, None if REDIS in trouble else hot, backlogs, fleet, workers, trouble)


def _told(asked: Flow[T], part: str, trouble: dict[str, str]) -> Flow[T | None]:
    """What a flow finds; None where it fails, with the reason under the name of this part.

    A Redis that was away a moment ago is not asked for more.
    """
    if part != QUEUE and REDIS in trouble:
        asked.close()
        return None
    try:
        return (yield from asked)
    except HotTierUnavailable as error:
        trouble[QUEUE if part == QUEUE else REDIS] = str(error)
    except SessionCacheError as error:
        trouble[part] = str(error)
    return None


def _hot() -> Flow[tuple[int, HotTier]]:
    """Asked once: who looks again soon has no need of repeats."""
    clock, info = yield Command((("TIME",), ("INFO",)))
    return int(clock[0]) * 1000 + int(clock[1]) // 1000, _hot_tier(info)


def _hot_tier(info: Mapping[str, Any]) -> HotTier:
    facts = facts_in(info)
    clients, commands = (int(info.get(name, 0)) for name in ("connected_clients", "instantaneous_ops_per_sec"))
    return HotTier(facts.product, facts.version, facts.used, facts.maxmemory, clients, commands, facts.evicted)


def _backlogs(state: State) -> Flow[list[PartitionBacklog]]:
    """Of every partition, where Redis has as many as the settings say; else they would be the wrong ones."""
    partitions = state.settings.partitions
    recorded = yield from draining.layout(state, LAYOUT_VERSION, partitions, record=False)
    if recorded:
        compare_layout("Redis", recorded, (LAYOUT_VERSION, partitions))
    return (yield from ops.backlogs(state))


def stored() -> Flow[Stored]:
    """What the store holds. It counts all sessions, which takes a while where there are millions.

    Raises:
        StoreUnavailable: it does not answer.
        SchemaMismatch: it is not set up.
    """
    sessions, messages = yield Transact(load.counts, writes=False, checked=False)
    return Stored(sessions, messages)
