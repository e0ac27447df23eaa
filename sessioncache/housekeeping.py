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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import cast

from sqlalchemy import Connection

from sessioncache import hooks, info, read_through
from sessioncache.conversation import policy
from sessioncache.errors import SessionCacheError, VersionConflict
from sessioncache.flow import Call, Flow, Transact
from sessioncache.hot import reading, writing
from sessioncache.hot.change import Busy, Change, Moved
from sessioncache.hot.reading import Refused
from sessioncache.hot.writing import Opened
from sessioncache.info import Info
from sessioncache.lifecycle.deleting import delete_current
from sessioncache.lifecycle.handle import Handle
from sessioncache.message import instant
from sessioncache.op import new_op_id
from sessioncache.repeat import ask
from sessioncache.state import State, ms
from sessioncache.store import candidates
from sessioncache.store.candidates import After, Candidate
from sessioncache.store.retire import retire

log = logging.getLogger("sessioncache.housekeeping")

BATCH = 100
PRUNED = "pruned"

Find = Callable[[Connection, datetime, int, After | None], list[Candidate]]


@dataclass(slots=True)
class Kept:
    """What a run did, or would do; ``left``: candidates that were in use, or had changed.

    Attributes:
        deleted: empty sessions.
        retired: ended sessions that were deleted.
    """

    deleted: int = 0
    archived: int = 0
    pruned: int = 0
    retired: int = 0
    left: int = 0
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chore:
    """One thing to look after: what it counts as, how candidates are found, which of them it is for, what is done."""

    counts_as: str
    find: Find
    fits: Callable[[Info, datetime], bool]
    act: Callable[[State, Handle, Change], Flow[bool]]


def keep_house(state: State, *, dry_run: bool = False, now: datetime | None = None) -> Flow[Kept]:
    """Look after all sessions, as the settings say.

    Raises:
        StoreUnavailable, HotTierUnavailable: a tier is away; what was done is done.
    """
    settings, kept, now = state.settings, Kept(), now or datetime.now(UTC)
    for seconds, chore in (
        (settings.empty_after, EMPTY),
        (settings.archive_after, OLD),
        (settings.prune_after, IDLE),
    ):
        if seconds:
            yield from _look_after(state, chore, now - timedelta(seconds=seconds), kept, dry_run=dry_run)
    if settings.retention:
        yield from _retire(state, now - timedelta(seconds=settings.retention), kept, dry_run=dry_run)
    return kept


def _look_after(state: State, chore: Chore, before: datetime, kept: Kept, *, dry_run: bool) -> Flow[None]:
    after: After | None = None
    while True:
        found: list[Candidate] = yield Transact(
            partial(_asked, find=chore.find, before=before, limit=BATCH, after=after), writes=False
        )
        dirty = yield from _dirty(state, found)
        for one in found:
            done = one.session_key not in dirty and (yield from _tried(state, chore, one, before, kept, dry_run=dry_run))
            name = chore.counts_as if done else "left"
            setattr(kept, name, getattr(kept, name) + 1)
        if len(found) < BATCH:
            return
        after = found[-1].after


def _asked(connection: Connection, find: Find, before: datetime, limit: int, after: After | None) -> list[Candidate]:
    return find(connection, before, limit, after)


def _dirty(state: State, found: Sequence[Candidate]) -> Flow[set[str]]:
    """Which of these keys have something pending; asked first, so that nothing is drained or brought in for them."""
    if not found:
        return set()
    names = [one.session_key for one in found]
    lengths = yield from ask(state, tuple(("LLEN", state.keyspace.of(name).pending) for name in names))
    return {name for name, length in zip(names, lengths, strict=True) if length}


def _tried(state: State, chore: Chore, one: Candidate, before: datetime, kept: Kept, *, dry_run: bool) -> Flow[bool]:
    """Do to one session what is to be done; False if it is in use. One that cannot be read stops no other."""
    try:
        return (yield from _looked_after(state, chore, one, before, dry_run=dry_run))
    except VersionConflict:
        return False
    except SessionCacheError as error:
        kept.failed[one.session_id] = str(error)
        log.warning("session could not be looked after: %s", error, extra={"session_key": one.session_key})
        return False


def _looked_after(state: State, chore: Chore, one: Candidate, before: datetime, *, dry_run: bool) -> Flow[bool]:
    """The same. A copy that was brought in for this has no messages, and goes again."""
    keys, was_hot = state.keyspace.of(one.session_key), True
    fields = yield from reading.look(state, keys)
    if fields is None:
        was_hot = False
        fields = yield from read_through.warm(state, keys, partial(reading.look, state, keys), window=0)
    try:
        if fields.get("session_id", b"").decode() != one.session_id:
            return False
        snapshot = info.from_meta(one.session_key, fields)
        if not chore.fits(snapshot, before):
            return False
        handle = Handle(keys, one.session_id, snapshot.owner or "")
        terms = replace(handle.change(snapshot.version), quiet=True)
        return dry_run or (yield from chore.act(state, handle, terms))
    finally:
        if not was_hot:
            yield from reading.evict(state, keys)


def _delete(state: State, handle: Handle, terms: Change) -> Flow[bool]:
    return delete_current(state, handle, terms)


def _archive(state: State, handle: Handle, terms: Change) -> Flow[bool]:
    payload = info.packed({"set": {"archived": True}})
    attempt = partial(writing.update, state, handle.keys, terms, payload, ("set", "archived", "1"), activity=False)
    return not isinstance((yield from read_through.warm(state, handle.keys, attempt, window=0)), Moved | Busy)


def _prune(state: State, handle: Handle, terms: Change) -> Flow[bool]:
    attempt = partial(writing.leave, state, handle.keys, terms, PRUNED)
    return not isinstance((yield from read_through.warm(state, handle.keys, attempt, window=0)), Moved | Busy)


EMPTY = Chore("deleted", candidates.empty, lambda it, before: not it.message_count and it.created_at < before, _delete)
OLD = Chore(
    "archived",
    candidates.old,
    lambda it, before: bool(it.message_count) and not it.important and not it.archived and it.last_accessed < before,
    _archive,
)
IDLE = Chore("pruned", candidates.idle, lambda it, before: not it.suspended and it.updated_at < before, _prune)


def _retire(state: State, before: datetime, kept: Kept, *, dry_run: bool) -> Flow[None]:
    after: After | None = None
    while True:
        work = partial(_asked, find=candidates.ended, before=before, limit=BATCH, after=after)
        found: list[Candidate] = yield Transact(work, writes=False)
        gone = found if dry_run else (yield from _retired(state, found, before))
        kept.retired, kept.left = kept.retired + len(gone), kept.left + len(found) - len(gone)
        if len(found) < BATCH:
            return
        after = found[-1].after


def _retired(state: State, found: Sequence[Candidate], before: datetime) -> Flow[list[Candidate]]:
    work = partial(retire, session_ids=[one.session_id for one in found], before=before, now=datetime.now(UTC))
    gone: dict[str, str | None] = yield Transact(work, writes=True)
    for one in found:
        if one.session_id in gone and state.settings.on_delete:
            yield Call(hooks.resolved(state.settings.on_delete), (one.session_id, one.session_key, gone[one.session_id]))
    return [one for one in found if one.session_id in gone]


def tell_expiring(state: State, *, now: datetime | None = None) -> Flow[int]:
    """Call ``on_expiring`` once for each session that the policy is about to reset; how many it was.

    Raises:
        StoreUnavailable, HotTierUnavailable: a tier is away; those called for so far are not called for again.
    """
    settings, told, after = state.settings, 0, None
    ahead = (now or datetime.now(UTC)) + timedelta(seconds=settings.expiring_ahead)
    cutoff = policy.cutoff(state.policies, ahead)
    if not settings.on_expiring or cutoff is None:
        return 0
    while True:
        work = partial(_asked, find=candidates.untold, before=cutoff, limit=BATCH, after=after)
        found: list[Candidate] = yield Transact(work, writes=False)
        for one in found:
            told += yield from _told(state, one)
        if len(found) < BATCH:
            return told
        after = found[-1].after


def _told(state: State, one: Candidate) -> Flow[bool]:
    keys, op_id, around = state.keyspace.of(one.session_key), new_op_id(), datetime.now(UTC)
    payload, ahead_ms = info.packed({"set": {"told": True}}), ms(state.settings.expiring_ahead)
    while True:
        rows = policy.rows(state.policies, around)
        attempt = partial(reading.tell, state, keys, one.session_id, op_id, payload, ahead_ms, rows)
        reply = cast("Opened | Refused", (yield from read_through.warm(state, keys, attempt)))
        if isinstance(reply, Opened):
            yield Call(hooks.resolved(state.settings.on_expiring), (info.from_meta(one.session_key, reply.fields),))
            return True
        if reply.why != "clock":
            return False
        around = instant(reply.at_ms)
