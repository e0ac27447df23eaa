"""Checks of the store, and of what both tiers must agree on: layout, schema, clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sessioncache.diagnosis import Finding, error, info, ok, warning
from sessioncache.errors import LayoutMismatch, SessionCacheError
from sessioncache.flow import Flow, Transact
from sessioncache.hot import draining
from sessioncache.keys import LAYOUT_VERSION
from sessioncache.message import instant
from sessioncache.migrate import revisions
from sessioncache.repeat import ask
from sessioncache.schema import HEAD
from sessioncache.state import State
from sessioncache.store.facts import StoreFacts, store_facts, write_nothing
from sessioncache.store.layouts import compare_layout

# Clocks that differ by more are told of.
APART, FAR_APART = timedelta(seconds=2), timedelta(minutes=5)


def _facts() -> Flow[StoreFacts]:
    found: StoreFacts = yield Transact(store_facts, writes=False, checked=False)
    return found


def database(state: State) -> Flow[list[Finding]]:  # noqa: ARG001 - as its siblings
    """The database: what it is, its schema, and whether it can be written to."""
    facts = yield from _facts()
    found = [ok("database", f"{facts.product} answers."), _schema(facts)]
    if facts.is_replica:
        found.append(error("database", "It is a replica, which takes no writes.", "Point database_url at the primary."))
    if facts.journal not in {"", "wal", "memory"}:
        what = f"SQLite's journal mode is {facts.journal}, not wal: readers and the writer stop each other."
        found.append(warning("database", what, "Put its file on a local disk; WAL does not work on network file systems."))
    if facts.schema is not None and not facts.is_replica:
        found.append((yield from _writable()))
    return found


def _schema(facts: StoreFacts) -> Finding:
    if facts.schema == HEAD:
        return ok("database", f"Its schema is at {HEAD}.")
    if facts.schema is None:
        if facts.product.startswith("SQLite"):
            return info("database", "It has no schema yet; an empty SQLite file gets one at the first call.")
        return error("database", "It has no sessioncache schema.", "Run sessioncache db upgrade.")
    if facts.schema in revisions():
        what = f"Its schema is behind ({facts.schema}, not {HEAD})."
        return error("database", what, "Run sessioncache db upgrade.")
    what = f"Its schema is ahead ({facts.schema}, not {HEAD})."
    return error("database", what, "Upgrade the sessioncache package.")


def _writable() -> Flow[Finding]:
    try:
        yield Transact(write_nothing, writes=True, checked=False)
    except SessionCacheError as refused:
        advice = "See that it is not read-only, that its disk has room, and that this user may change all our tables."
        return error("database", f"It cannot be written to. {refused}", advice)
    return ok("database", "It can be written to.")


def layout(state: State) -> Flow[list[Finding]]:
    """Layout version and partitions, as Redis, the database and the settings have them."""
    partitions = state.settings.partitions
    in_redis = yield from draining.layout(state, LAYOUT_VERSION, partitions, record=False)
    found = _compared("Redis", in_redis, partitions)
    facts = yield from _facts()
    if facts.moving_to is not None:
        what = f"The number of partitions is being changed to {facts.moving_to}, or that was interrupted."
        advice = f"Where no sessioncache repartition is running, run sessioncache repartition {facts.moving_to} again."
        found.append(error("layout", what, advice))
    return [*found, *_compared("The database", facts.layout, partitions)]


def _compared(where: str, recorded: tuple[int, int] | None, partitions: int) -> list[Finding]:
    if recorded is None:
        return [info("layout", f"{where} has no layout recorded yet; the first call records that of the settings.")]
    try:
        compare_layout(where, recorded, (LAYOUT_VERSION, partitions))
    except LayoutMismatch as mismatch:
        found, _, advice = str(mismatch).partition("; ")
        return [error("layout", f"{found}.", advice[:1].upper() + advice[1:])]
    return [ok("layout", f"{where} is laid out for {partitions} partitions, as the settings say.")]


def time_now() -> datetime:
    """This host's clock."""
    return datetime.now(UTC)


def redis_clock(state: State) -> Flow[list[Finding]]:
    """This host's clock against that of Redis, which times are taken from."""
    before = time_now()
    (reply,) = yield from ask(state, (("TIME",),))
    at = instant(int(reply[0]) * 1000 + int(reply[1]) // 1000)
    return [_apart("Redis", at, before, time_now())]


def database_clock(state: State) -> Flow[list[Finding]]:  # noqa: ARG001 - as its siblings
    """This host's clock against that of the database."""
    before = time_now()
    at = (yield from _facts()).now
    return [] if at is None else [_apart("the database", at, before, time_now())]


def _apart(whose: str, at: datetime, before: datetime, after: datetime) -> Finding:
    """How far a clock is from this host's, at least: it was read at some moment between two."""
    apart = max(before - at, at - after, timedelta(0))
    if apart <= APART:
        return ok("clocks", f"The clock of {whose} and this host's agree.")
    made = error if apart > FAR_APART else warning
    what = f"The clock of {whose} and this host's are {apart.total_seconds():.0f} s apart."
    return made("clocks", what, "Let both follow NTP; resets, retention and active_within go by them.")
