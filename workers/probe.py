"""A look at the whole system, for a probe or a monitoring system: what answers, what waits, who reports.

Guarantees: every look ends within a few seconds, whichever tier is away; what could not be found out is left out, and never
told from an earlier look. Many askers at once share a look. Nothing of ours is written.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sessioncache import ops, reports
from sessioncache.checks import store
from sessioncache.config import Settings
from sessioncache.connect import BlockingConnections
from sessioncache.errors import SessionCacheError, StoreUnavailable
from sessioncache.flow import Flow, Transact, run
from sessioncache.registered import registered
from sessioncache.reports import Report
from sessioncache.schema import HEAD
from sessioncache.store import load
from sessioncache.store.facts import StoreFacts, store_facts

T = TypeVar("T")

# How long each tier may take to answer, in seconds, unless the settings say less.
PATIENCE = 2.0
# A look serves all who ask within this time.
SHARED_SECONDS = 0.5


@dataclass(slots=True)
class Sight:
    """What one look found; ``wrong`` says what is not right, by name: ``redis``, ``store``, ``schema``, ``layout``.

    Attributes:
        values: of the whole system, by the names of Prometheus without prefix; only those that are known.
        processes: those that reported lately; None where that is not known.
    """

    wrong: dict[str, str] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    processes: list[Report] | None = None

    @property
    def tiers(self) -> dict[str, bool]:
        """Whether each tier answers."""
        return {tier: tier not in self.wrong for tier in ("redis", "store")}

    def kinds(self) -> dict[str, int] | None:
        """How many processes of each kind reported."""
        if self.processes is None:
            return None
        return {"server": 0, "worker": 0, **Counter(one.kind for one in self.processes)}


class Probe:
    """Looks, over connections of its own that are impatient."""

    def __init__(self, settings: Settings) -> None:
        impatient = {name: min(PATIENCE, getattr(settings, name)) for name in ("redis_timeout", "database_timeout")}
        self._settings = replace(settings, **impatient, timeout=impatient["redis_timeout"], pool_size=1, report=0.0)
        self._connections = BlockingConnections(self._settings, kind="worker")
        self._state = self._connections.state
        self._lock, self._sight, self._seen = threading.Lock(), Sight(), float("-inf")

    def look(self) -> Sight:
        """How the system stands now."""
        with self._lock:
            if time.monotonic() - self._seen > SHARED_SECONDS:
                self._sight = self._looked()
                self._seen = time.monotonic()
            return self._sight

    def close(self) -> None:
        """Close its connections."""
        self._connections.close()

    def _looked(self) -> Sight:
        sight = Sight()
        self._try(sight, "redis", self._backlog)
        if "redis" not in sight.wrong:
            self._try(sight, "redis", self._fleet)
        self._try(sight, "store", self._schema)
        if "store" not in sight.wrong:
            self._try(sight, "", self._stored)
            self._try(sight, "layout" if sight.tiers["redis"] else "", self._layout)
        self._count_workers(sight)
        return sight

    def _try(self, sight: Sight, name: str, look: Callable[[Sight], Flow[None]]) -> None:
        """Look; what is met is wrong with what is named, if anything is."""
        try:
            run(look(sight), self._connections.driver.perform)
        except SessionCacheError as error:
            if name:
                sight.wrong[name] = str(error)

    def _backlog(self, sight: Sight) -> Flow[None]:
        found = ops.waiting_in((yield from ops.backlogs(self._state)))
        sight.values |= {
            "pending_ops": found.pending,
            "pending_bytes": found.pending_bytes,
            "dirty_sessions": found.dirty,
            "oldest_pending_seconds": found.oldest_pending,
            "dead_letters": found.dead,
        }

    def _fleet(self, sight: Sight) -> Flow[None]:
        sight.processes = yield from reports.fleet(self._state)

    def _schema(self, sight: Sight) -> Flow[None]:
        facts: StoreFacts = yield Transact(store_facts, writes=False, checked=False)
        if facts.schema != HEAD:
            what = facts.schema or "none"
            sight.wrong["schema"] = f"The schema of the database is {what}, not {HEAD}; run sessioncache db upgrade."
        if facts.is_replica:
            raise StoreUnavailable("The database is a replica, which takes no writes; point database_url at the primary.")

    def _layout(self, sight: Sight) -> Flow[None]:
        found = yield from store.layout(self._state)
        errors = [f"{one.found} {one.advice}" for one in found if one.severity == "error"]
        if errors:
            sight.wrong["layout"] = " ".join(errors)

    def _stored(self, sight: Sight) -> Flow[None]:
        sessions, messages = yield Transact(load.counts, writes=False, checked=False)
        sight.values |= {"stored_sessions": sessions, "stored_messages": messages}

    def _count_workers(self, sight: Sight) -> None:
        try:
            sight.values["workers"] = len(run(registered(self._state), self._connections.driver.perform))
        except SessionCacheError as error:
            why = type(error.__cause__).__name__
            sight.wrong.setdefault("queue", f"The Redis of the queue did not answer ({why}).")
