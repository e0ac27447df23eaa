"""Keeping house: what old sessions come to, as the settings say; nothing by default.

Empty sessions are deleted, those nobody opened for long archived, routes without activity for long pruned (the session
ends; its messages stay), ended sessions deleted after their retention. SQL only proposes: a session that looks empty there
may have messages pending. What is done to a *current* session goes through its key's log, on the version it was looked at,
and only while nothing is pending and nobody holds the key; whatever was written meanwhile wins. Ended sessions, which no
hot copy can hold, are handled in SQL. Everything is done in bounded batches, so a run that dies midway is simply run again.

Untouched: sessions that are dirty or held; suspended ones (prune); important ones (archive).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import Protocol, cast

from sqlalchemy import Connection

from sessioncache import hooks, hydration, info
from sessioncache.conversation import policy
from sessioncache.errors import HotTierUnavailable, SessionCacheError, StoreUnavailable, VersionConflict
from sessioncache.flow import Call, Flow, Progress, Transact, unseen
from sessioncache.hot import draining, reading, writing
from sessioncache.hot.change import Busy, Change, Moved
from sessioncache.hot.reading import Refused
from sessioncache.hot.writing import Opened
from sessioncache.info import Info
from sessioncache.lifecycle.deleting import delete_current, tell_deleted
from sessioncache.lifecycle.handle import Handle
from sessioncache.message import instant, milliseconds
from sessioncache.op import new_op_id
from sessioncache.state import State, ms
from sessioncache.store import candidates
from sessioncache.store.candidates import After, Candidate
from sessioncache.store.retire import retire

log = logging.getLogger("sessioncache.housekeeping")

BATCH = 100
PRUNED = "pruned"


class Find(Protocol):
    """A page of candidates, as `candidates` finds them."""

    def __call__(self, connection: Connection, /, *, before: datetime, limit: int, after: After | None) -> list[Candidate]:
        """Those before a time, behind a place."""


# Where a run broke off: the name of a chore, and the time (milliseconds) and session id to go on after.
Place = tuple[str, int, str]


@dataclass(slots=True)
class Kept:
    """What a run did, or would do.

    Attributes:
        deleted: empty sessions.
        retired: ended sessions that were deleted.
        left: candidates that were in use, or had changed.
        failed: sessions that could not be looked after, by id, and why.
        place: where to go on, if the run broke off.
    """

    deleted: int = 0
    archived: int = 0
    pruned: int = 0
    retired: int = 0
    left: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one chore: what it looks after is older than ``before``."""

    before: datetime
    dry_run: bool
    kept: Kept
    progress: Progress


@dataclass(frozen=True, slots=True)
class Chore:
    """One thing to look after.

    Attributes:
        name: the field of `Kept` that counts it.
        age: the setting that says how old is old, in seconds.
        find: what SQL proposes.
        act: what is done to a batch; how many it was done to.
    """

    name: str
    age: str
    find: Find
    act: Callable[[State, Sequence[Candidate], Run], Flow[int]]


def keep_house(
    state: State,
    *,
    dry_run: bool = False,
    place: Place | None = None,
    seconds: float = math.inf,
    ages: Mapping[str, float] | None = None,
    progress: Progress = unseen,
) -> Flow[Kept]:
    """Look after all sessions, as the settings say, from a place on, for so many seconds.

    With ``ages``, seconds by the names of chores, only those are done, to what is older than that. ``progress`` is told
    how many sessions a chore has looked at.

    Raises:
        StoreUnavailable, HotTierUnavailable: a tier is away; what was done is done.
    """
    kept, end = Kept(), time.monotonic() + seconds
    names = [chore.name for chore in CHORES]
    for chore in CHORES[names.index(place[0]) if place else 0 :]:
        age = getattr(state.settings, chore.age) if ages is None else ages.get(chore.name, 0.0)
        if age:
            run = Run(datetime.now(UTC) - timedelta(seconds=age), dry_run, kept, progress)
            after = (instant(place[1]), place[2]) if place and place[0] == chore.name else None
            kept.place = yield from _look_after(state, chore, run, after, end)
        if kept.place:
            return kept
    return kept


def _look_after(state: State, chore: Chore, run: Run, after: After | None, end: float) -> Flow[Place | None]:
    looked_at = 0
    while time.monotonic() < end:
        work = partial(chore.find, before=run.before, limit=BATCH, after=after)
        found: list[Candidate] = yield Transact(work, writes=False)
        done = (yield from chore.act(state, found, run)) if found else 0
        setattr(run.kept, chore.name, getattr(run.kept, chore.name) + done)
        run.kept.left += len(found) - done
        looked_at += len(found)
        run.progress(looked_at, None)
        if len(found) < BATCH:
            return None
        after = found[-1].after
    return (chore.name, milliseconds(after[0]), after[1]) if after else (chore.name, 0, "")


@dataclass(frozen=True, slots=True)
class Care:
    """What is done to a current session, and which ones it is for."""

    fits: Callable[[Info, datetime], bool]
    act: Callable[[State, Handle, Change], Flow[bool]]


def _each(state: State, found: Sequence[Candidate], run: Run, care: Care) -> Flow[int]:
    """Do to each session what is to be done, if it still fits; dirty ones are left, before anything is brought in."""
    lengths, done = (yield from draining.lengths(state, [state.keyspace.of(one.session_key) for one in found])), 0
    for one, pending in zip(found, lengths, strict=True):
        done += 0 if pending else (yield from _tried(one, _looked_after(state, one, run, care), run.kept.failed))
    return done


def _tried(one: Candidate, work: Flow[bool], failed: dict[str, str]) -> Flow[bool]:
    """What comes of work on one session: False if it is in use. One that fails is noted, and stops no other."""
    try:
        return (yield from work)
    except VersionConflict:
        return False
    except (StoreUnavailable, HotTierUnavailable):
        raise
    except SessionCacheError as error:
        failed[one.session_id] = str(error)
        about = {"session_key": one.session_key, "session_id": one.session_id, "reason": type(error).__name__}
        log.warning("session could not be looked after: %s", error, extra=about)
        return False


def _looked_after(state: State, one: Candidate, run: Run, care: Care) -> Flow[bool]:
    """Do to one session what is to be done. A copy that was brought in for this has no messages, and goes again."""
    keys, misses = state.keyspace.of(one.session_key), count()
    look = partial(reading.look, state, keys)
    looked = yield from hydration.warm(state, keys, look, window=0, missed=partial(next, misses))
    try:
        snapshot = looked.info
        if looked.held or snapshot is None or snapshot.session_id != one.session_id:
            return False
        if not care.fits(snapshot, run.before):
            return False
        handle = Handle(keys, one.session_id, snapshot.owner or "")
        terms = handle.change(snapshot.version)._replace(quiet=True)
        return run.dry_run or (yield from care.act(state, handle, terms))
    finally:
        if next(misses):
            yield from reading.evict(state, keys)


def _archive(state: State, handle: Handle, terms: Change) -> Flow[bool]:
    payload = info.packed({"set": {"archived": True}})
    attempt = partial(writing.update, state, handle.keys, terms, payload, ("set", "archived", "1"), activity=False)
    return not isinstance((yield from hydration.warm(state, handle.keys, attempt, window=0)), Moved | Busy)


def _prune(state: State, handle: Handle, terms: Change) -> Flow[bool]:
    attempt = partial(writing.leave, state, handle.keys, terms, PRUNED)
    return not isinstance((yield from hydration.warm(state, handle.keys, attempt, window=0)), Moved | Busy)


def _is_empty(it: Info, before: datetime) -> bool:
    spared = it.message_count or it.important or it.suspended or it.usage.total_tokens or it.usage.estimated_cost
    return not spared and it.created_at < before and it.last_accessed < before


def _is_old(it: Info, before: datetime) -> bool:
    return bool(it.message_count) and not it.important and not it.archived and it.last_accessed < before


def _is_idle(it: Info, before: datetime) -> bool:
    return not it.suspended and it.updated_at < before


def _retire(state: State, found: Sequence[Candidate], run: Run) -> Flow[int]:
    if run.dry_run:
        return len(found)
    work = partial(retire, session_ids=[one.session_id for one in found], before=run.before, now=datetime.now(UTC))
    gone: dict[str, str | None] = yield Transact(work, writes=True)
    for one in found:
        if one.session_id in gone:
            told = tell_deleted(state, one.session_id, one.session_key, gone[one.session_id])
            yield from _tried(one, told, run.kept.failed)
    return len(gone)


CHORES = (
    Chore("deleted", "empty_after", candidates.empty, partial(_each, care=Care(_is_empty, delete_current))),
    Chore("archived", "archive_after", candidates.old, partial(_each, care=Care(_is_old, _archive))),
    Chore("pruned", "prune_after", candidates.idle, partial(_each, care=Care(_is_idle, _prune))),
    Chore("retired", "retention", candidates.ended, _retire),
)


def tell_expiring(state: State) -> Flow[int]:
    """Call ``on_expiring`` once for each session that the policy is about to reset; how many it was.

    Raises:
        StoreUnavailable, HotTierUnavailable: a tier is away; those called for so far are not called for again.
    """
    settings, told, after, failed = state.settings, 0, None, dict[str, str]()
    ahead = datetime.now(UTC) + timedelta(seconds=settings.expiring_ahead)
    cutoff = policy.cutoff(state.policies, ahead)
    if not settings.on_expiring or cutoff is None:
        return 0
    while True:
        work = partial(candidates.untold, before=cutoff, limit=BATCH, after=after)
        found: list[Candidate] = yield Transact(work, writes=False)
        for one in found:
            told += yield from _tried(one, _told(state, one), failed)
        if len(found) < BATCH:
            return told
        after = found[-1].after


def _told(state: State, one: Candidate) -> Flow[bool]:
    keys, op_id = state.keyspace.of(one.session_key), new_op_id()
    around = datetime.now(UTC) + timedelta(seconds=state.settings.expiring_ahead)
    ahead_ms = ms(state.settings.expiring_ahead)
    while True:
        rows = policy.rows(state.policies, around)
        attempt = partial(reading.tell, state, keys, one.session_id, op_id, ahead_ms, rows)
        reply = cast("Opened | Refused", (yield from hydration.warm(state, keys, attempt)))
        if isinstance(reply, Opened):
            yield Call(hooks.resolved(state.settings.on_expiring), (reply.info,))
            return True
        if reply.why != "clock":
            return False
        around = instant(reply.at_ms)
