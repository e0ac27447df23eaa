"""Importing: what a reader finds goes to the store in bulk, past Redis.

Guarantees: a session that stands already is not changed; so a second import adds nothing. A session is seen when all of it
is stored; what an import that was ended left of one is begun anew by the next, and one that had only stalled stops. A
session that is live keeps its key: one that is imported for the same key becomes one of its ended ones. Memory is bounded
by one batch.

One process imports at a time. What is pending under a key is drained before its sessions are stored, and its hot copy,
which may say that there is no session, is dropped afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from secrets import token_hex
from typing import Any

from sessioncache import info
from sessioncache.errors import CorruptLog, StoreRefused, TurnTimeout
from sessioncache.flow import Flow, Transact
from sessioncache.hot import leases
from sessioncache.keys import SessionKeys
from sessioncache.message import milliseconds
from sessioncache.repeat import ask
from sessioncache.schema import sessions
from sessioncache.state import State
from sessioncache.store import incoming
from sessioncache.store.details import titled
from sessioncache.store.incoming import Incoming, Stored
from sessioncache.store.planned import NewMessage
from sessioncache.transfer.found import Damage, FoundMessage, FoundSession
from sessioncache.write_behind import drain_key

# Messages of one transaction, and bytes: what is in memory.
BATCH, BATCH_BYTES = 5_000, 16 * 2**20
# How long the right to import lasts without renewal, in seconds: longer than any transaction.
EXCLUSIVE = 60.0
# The last millisecond of the year 9999.
LAST_MS = 253_402_300_799_999

_NOTHING = {
    column.name: False
    if column.name in {*info.FLAGS, "deleted", "told"}
    else 0
    if column.server_default is not None
    else None
    for column in sessions.c
    if column.name != "state"
}


@dataclass(slots=True)
class Imported:
    """What an import did, or would do.

    Attributes:
        sessions, messages: that were added.
        there: sessions that stood already.
        repeated: messages whose id another one of their session has.
    """

    sessions: int = 0
    messages: int = 0
    there: int = 0
    repeated: int = 0


def bring_in(
    state: State, found: Iterable[FoundSession], damaged: Callable[[Damage], None], *, dry_run: bool = False
) -> Flow[Imported]:
    """Store what a reader finds; with ``dry_run`` nothing is written.

    A session whose key is stopped is told to ``damaged``, and left out.

    Raises:
        TurnTimeout: another process imports. TurnLost: it took over, because this one had stalled.
        StoreUnavailable, HotTierUnavailable: what was stored stays; import again.
    """
    intake = _Intake(state, damaged, dry_run=dry_run)
    try:
        for session in found:
            yield from intake.take(session)
        yield from intake.store()
    finally:
        yield from intake.end()
    return intake.done


class _Intake:
    """Gathers what is found, and stores it batch by batch."""

    def __init__(self, state: State, damaged: Callable[[Damage], None], *, dry_run: bool) -> None:
        self.state, self.done, self._damaged, self._dry_run = state, Imported(), damaged, dry_run
        self._rehearsed: set[str] = set()
        self._token = token_hex(8)
        self._parts: list[Incoming] = []
        self._messages = self._bytes = 0

    def take(self, session: FoundSession) -> Flow[None]:
        """Take in one session, storing what is full meanwhile; its messages are read no further if it stands already."""
        part = _first_part(session, self._token)
        yield from self._make_room()
        self._begin(part, _weight(part.row))
        ids: set[str] = set()
        at_ms = milliseconds(session.created_at)
        for position, message in enumerate(session.messages, 1):
            there = yield from self._make_room()
            if session.session_id in there:
                return
            if not self._parts or self._parts[-1] is not part:
                part, ids = _next_part(part), set()
                self._begin(part, 0)
            part.given = position
            new = _numbered(session, message, position, at_ms)
            at_ms = new.at_ms
            if new.message_id not in ids:
                ids.add(new.message_id)
                self._add(part, new, consolidated=message.consolidated)
        part.last = True

    def _make_room(self) -> Flow[set[str]]:
        full = self._messages + len(self._parts) >= BATCH or self._bytes >= BATCH_BYTES
        return (yield from self.store()) if full else set()

    def _begin(self, part: Incoming, weight: int) -> None:
        self._parts.append(part)
        self._bytes += weight

    def _add(self, part: Incoming, new: NewMessage, *, consolidated: bool) -> None:
        part.messages.append(new)
        part.count += 1
        part.last_seq = max(part.last_seq, new.seq)
        if consolidated:
            part.row["consolidated_seq"] = new.seq
        self._messages += 1
        self._bytes += len(new.packed)

    def store(self) -> Flow[set[str]]:
        """Store what was taken in; the ids of the sessions that stood already."""
        parts, self._parts, self._messages, self._bytes = self._parts, [], 0, 0
        if not parts:
            return set()
        stored = yield from (self._rehearse(parts) if self._dry_run else self._write(parts))
        self.done.sessions += len(stored.complete)
        self.done.messages += sum(stored.complete.values())
        self.done.there += len(stored.there)
        given = {part.session_id: part.given for part in reversed(parts) if part.last}
        self.done.repeated += sum(given[session_id] - count for session_id, count in stored.complete.items())
        return stored.there

    def _write(self, parts: list[Incoming]) -> Flow[Stored]:
        state = self.state
        if not (yield from leases.exclusive(state, state.keyspace.importing, self._token, EXCLUSIVE)):
            raise TurnTimeout(
                "Another process imports into this store or changes its partitions, or was killed within the last minute; "
                "try again."
            )
        keys = [state.keyspace.of(key) for key in sorted({part.session_key for part in parts if part.last})]
        pending = yield from ask(state, tuple(("LLEN", key.pending) for key in keys))
        stopped = yield from self._drain([key for key, ops in zip(keys, pending, strict=True) if ops])
        parts = [part for part in parts if part.session_key not in stopped or not part.last]
        stored: Stored = yield Transact(
            partial(incoming.add, parts=parts, now=datetime.now(UTC), partitions=state.settings.partitions), writes=True
        )
        yield from ask(state, tuple(("DEL", key.meta, key.history) for key in keys))
        return stored

    def _drain(self, keys: list[SessionKeys]) -> Flow[set[str]]:
        """Drain keys with a pending log; those that are stopped, whose sessions have to be left out."""
        stopped = set()
        for key in keys:
            try:
                yield from drain_key(self.state, key.session_key)
            except (StoreRefused, CorruptLog) as error:
                stopped.add(key.session_key)
                self._damaged(Damage(key.session_key, 0, f"its sessions are left out until it is mended: {error}"))
        return stopped

    def _rehearse(self, parts: list[Incoming]) -> Flow[Stored]:
        """What storing these would do."""
        first = [part.session_id for part in parts if part.first]
        standing: dict[str, bool] = yield Transact(partial(incoming.there, session_ids=first), writes=False)
        there = {session_id for session_id, unfinished in standing.items() if not unfinished}
        complete: dict[str, int] = {}
        for part in parts:
            if part.first and part.session_id in self._rehearsed:
                there.add(part.session_id)
            elif part.session_id not in there:
                self._rehearsed.add(part.session_id)
                complete |= {part.session_id: part.count} if part.last else {}
        return Stored(complete, there)

    def end(self) -> Flow[None]:
        """Let others import."""
        if not self._dry_run:
            yield from leases.exclusive(self.state, self.state.keyspace.importing, self._token, 0)


def _first_part(session: FoundSession, token: str) -> Incoming:
    """A session without its messages, as a row of the store."""
    known = {"last_accessed": session.updated_at, **session.columns}
    names = {"session_id": session.session_id, "session_key": session.session_key}
    times = {"created_at": session.created_at, "updated_at": session.updated_at}
    row = titled({**_NOTHING, **known, **names, **times})
    return Incoming(token, row, session.current, session.version, row["last_seq"])


def _weight(row: Mapping[str, Any]) -> int:
    """About how many bytes of memory a row takes that others do not."""
    return len(info.packed([row["metadata"], row["origin"]]))


def _next_part(part: Incoming) -> Incoming:
    """The part of the same session that follows."""
    return replace(part, messages=[], first=False)


def _numbered(session: FoundSession, message: FoundMessage, position: int, at_ms: int) -> NewMessage:
    """A message with all that it lacks: one without a time came a millisecond after the one before."""
    own = min(at_ms + 1, LAST_MS) if message.created_at is None else milliseconds(message.created_at)
    seq = position if message.seq is None else message.seq
    return NewMessage(session.session_id, seq, message.message_id or f"import.{position}", own, message.packed)
