"""Doctor: are these the servers that the settings need, and is all well with them?

Guarantees: every check stands alone: what one of them meets, an unreachable tier too, is a finding, never an exception, and
stops no other but those that would ask the same tier in vain. It runs where `startup` refuses. Nothing is written, but
that SQLite makes an empty file where there is none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from sessioncache.checks import functions, queue, server, store
from sessioncache.diagnosis import Finding, error, info
from sessioncache.errors import HotTierUnavailable, SessionCacheError, StoreUnavailable
from sessioncache.flow import Flow
from sessioncache.state import State

log = logging.getLogger("sessioncache.doctor")

REDIS, DATABASE, QUEUE = "redis", "database", "queue"
_AWAY = {
    REDIS: "Start Redis, and see that redis_url names it, with user and password where it wants them.",
    DATABASE: "Start the database, and see that database_url names it, with user and password where it wants them.",
    QUEUE: "Start the queue's Redis, and see that queue_url names it.",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name in findings, which tiers it asks, how it looks, and what to do where it is refused."""

    name: str
    tiers: tuple[str, ...]
    look: Callable[[State], Flow[list[Finding]]]
    advice: str


_ACL = "Give this Redis user the commands of the scripts, EVAL, EVALSHA, INFO and TIME, on all keys of the prefix."
_TABLES = "Run sessioncache db upgrade, and see that this database user may use all our tables."
CHECKS = (
    Check("redis", (REDIS,), server.redis, _ACL),
    Check("scripts", (REDIS,), server.runs_scripts, _ACL),
    Check("keys", (REDIS,), server.types, _ACL),
    Check("backlog", (REDIS,), server.backlog, _ACL),
    Check("functions", (REDIS,), functions.functions, _ACL),
    Check("database", (DATABASE,), store.database, _TABLES),
    Check("layout", (REDIS, DATABASE), store.layout, "See the field that it names."),
    Check("clocks", (REDIS,), store.redis_clock, _ACL),
    Check("clocks", (DATABASE,), store.database_clock, _TABLES),
    Check("queue", (QUEUE,), queue.queue, _ACL),
    Check("workers", (QUEUE, REDIS), queue.workers, _ACL),
)


def examine(state: State, *, has_queue: bool) -> Flow[list[Finding]]:
    """What all checks found, in a fixed order."""
    found: list[Finding] = []
    away: set[str] = set()
    for check in CHECKS:
        if not has_queue and QUEUE in check.tiers:
            continue
        if not away & set(check.tiers):
            found += yield from _alone(state, check, away)
    if not has_queue:
        what = "Clients were handed in without queue_url: this process sends no nudges, the schedule finds the work."
        found.append(info("queue", what, "Set queue_url to the Redis of RQ."))
    return found


def _alone(state: State, check: Check, away: set[str]) -> Flow[list[Finding]]:
    try:
        return (yield from check.look(state))
    except (HotTierUnavailable, StoreUnavailable) as unavailable:
        tier = DATABASE if isinstance(unavailable, StoreUnavailable) else check.tiers[0]
        away.add(tier)
        return [error(check.name, str(unavailable), _AWAY[tier])]
    except SessionCacheError as refused:
        return [error(check.name, str(refused), check.advice)]
    except Exception as unforeseen:
        log.exception("the check %s failed", check.name)
        what = f"The check met something unforeseen ({type(unforeseen).__name__})."
        return [error(check.name, what, "Look at what it asks about with redis-cli or psql; the log has more.")]
