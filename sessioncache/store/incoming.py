"""Sessions that come from another store, written in bulk, past the pending logs.

A session is stored whole in one transaction, or in parts. While parts are missing its row says ``importing`` and by which
import, and counts as deleted: nobody finds it, and whoever imports it again begins it anew; an import that finds it taken
over stops. What stands already is left as it is, also a tombstone.

An imported session becomes current where its key has no session; else it is one of the key's ended ones.

Assumes that what was pending under the keys was drained, and that the hot copies of the keys are dropped afterwards. That
one process imports at a time spares work; nothing depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from sessioncache.errors import TurnLost
from sessioncache.message import instant
from sessioncache.schema import messages, sessions
from sessioncache.store import routes
from sessioncache.store.columns import message_row
from sessioncache.store.layouts import confirm
from sessioncache.store.place import IMPORTING, RESERVED, forget
from sessioncache.store.planned import NewMessage, Route
from sessioncache.store.statements import chunks, insert_unless_there

IMPORTED = "imported"


@dataclass(slots=True)
class Incoming:
    """A session, or a part of it.

    Attributes:
        token: of the import.
        row: columns of `sessions`, but for those that follow from the messages.
        current: whether it is to be current, where its key has no session; version: that of its key then, at least.
        messages: with seqs that rise, over all parts.
        last_seq, count, given: the last seq, how many messages, and how many with those of repeated ids, so far.
        first, last: whether the session begins, and ends, with this part.
    """

    token: str
    row: dict[str, Any]
    current: bool
    version: int
    last_seq: int = 0
    count: int = 0
    given: int = 0
    messages: list[NewMessage] = field(default_factory=list)
    first: bool = True
    last: bool = False

    @property
    def session_id(self) -> str:
        """The session's id."""
        return str(self.row["session_id"])

    @property
    def session_key(self) -> str:
        """Its session key."""
        return str(self.row["session_key"])


def there(connection: Connection, session_ids: Sequence[str]) -> dict[str, bool]:
    """Which of these sessions have a row, and whether it is one that an import left unfinished."""
    column, found = sessions.c, dict[str, bool]()
    for some in chunks(session_ids):
        rows = select(column.session_id, column.end_reason, column.deleted).where(column.session_id.in_(some))
        found.update((row[0], bool(row[2]) and _is_ours(row[1])) for row in connection.execute(rows))
    return found


def _is_ours(reason: str | None) -> bool:
    return (reason or "").startswith(IMPORTING)


@dataclass(frozen=True, slots=True)
class Stored:
    """What storing did: messages of each session that is complete now, and the sessions that stood already."""

    complete: dict[str, int]
    there: set[str]


def add(connection: Connection, parts: Sequence[Incoming], now: datetime, partitions: int) -> Stored:
    """Store sessions, or parts of them. One that stands already is left as it is, unless an import left it unfinished.

    Raises:
        TurnLost: a session that goes on here is another import's by now, or was erased; nothing of these was stored.
        Repartitioning, LayoutMismatch: the hot copies that this makes wrong are elsewhere by now; nothing was stored.
    """
    confirm(connection, partitions)
    standing, wanted, twice = there(connection, [part.session_id for part in parts if part.first]), [], set()
    begun: set[str] = set()
    for part in parts:
        if part.first and part.session_id in begun:
            twice.add(part.session_id)
        elif not part.first or standing.get(part.session_id, True):
            begun.add(part.session_id)
            wanted.append(part)
    forget(connection, [part.session_id for part in wanted if part.first and part.session_id in standing])
    _hold(connection, [part for part in wanted if not part.first])
    counts = _store(connection, wanted, now)
    return Stored(counts, {session_id for session_id, unfinished in standing.items() if not unfinished} | twice)


def _hold(connection: Connection, parts: Sequence[Incoming]) -> None:
    """Lock the rows of sessions that go on: nobody else may have taken them over, finished or erased them."""
    for part in parts:
        column = sessions.c
        mine = (column.session_id == part.session_id, column.deleted, column.end_reason == IMPORTING + part.token)
        if connection.scalar(select(column.session_id).where(*mine).with_for_update()) is None:
            raise TurnLost("Another import has taken over, or the owner was erased; import again.")


def _store(connection: Connection, parts: Sequence[Incoming], now: datetime) -> dict[str, int]:
    current = _take_routes(connection, [part for part in parts if part.last and part.current])
    begun = [_row(part, current, now) if part.last else _unfinished(part) for part in parts if part.first]
    if begun:
        connection.execute(insert(sessions), begun)
    new = [message_row(message) for part in parts for message in part.messages]
    if new:
        connection.execute(insert_unless_there(connection, messages), new)
    ended = [part for part in parts if part.last]
    return {part.session_id: part.count if part.first else _finish(connection, part, current, now) for part in ended}


def _take_routes(connection: Connection, parts: Sequence[Incoming]) -> set[str]:
    """Make these sessions their keys' current ones, where those have none; the ids of those that are."""
    stand = routes.locked(connection, sorted({part.session_key for part in parts}))
    moved: dict[str, Route] = {}
    for part in parts:
        route = moved.get(part.session_key, stand[part.session_key])
        if not route.session_id:
            moved[part.session_key] = Route(part.session_id, max(route.version, part.version, part.last_seq))
    if moved:
        routes.move(connection, moved)
    return {route.session_id for route in moved.values()}


def _row(part: Incoming, current: set[str], now: datetime) -> dict[str, Any]:
    """The row of a session that is whole in this part."""
    last = instant(part.messages[-1].at_ms) if part.messages else None
    return {**part.row, **_end(part, current, now), **_sums(part, len(part.messages), last)}


def _sums(part: Incoming, count: int, last: datetime | None) -> dict[str, Any]:
    return {
        "message_count": count,
        "last_seq": part.last_seq,
        "last_message_at": part.row["last_message_at"] or last,
        "consolidated_seq": min(part.row["consolidated_seq"], part.last_seq),
    }


def _end(part: Incoming, current: set[str], now: datetime) -> dict[str, Any]:
    """When and why it ended, if it is not current: if nobody ended it before, it ends now, for retention's sake."""
    if part.session_id in current:
        return {"ended_at": None, "end_reason": None}
    reason = part.row["end_reason"]
    said = reason and reason != RESERVED and not _is_ours(reason)
    return {"ended_at": part.row["ended_at"] or now, "end_reason": reason if said else IMPORTED}


def _unfinished(part: Incoming) -> dict[str, Any]:
    return {**part.row, "ended_at": part.row["created_at"], "end_reason": IMPORTING + part.token, "deleted": True}


def _finish(connection: Connection, part: Incoming, current: set[str], now: datetime) -> int:
    """Let a session that came in parts be what it was; how many messages it has."""
    column = messages.c
    found = select(func.count(), func.max(column.created_at)).where(column.session_id == part.session_id)
    count, last = connection.execute(found).one()
    final = update(sessions).where(sessions.c.session_id == part.session_id)
    connection.execute(final.values(**_end(part, current, now), **_sums(part, count, last), deleted=False))
    return int(count)
