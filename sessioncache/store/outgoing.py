"""Sessions on their way out: rows as they stand, one session after the other, in bounded memory.

Deleted sessions are left out, and rows that no key has had as its session yet. Within one transaction that sees one
snapshot, what is given is the store at one moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import ColumnElement, Connection, LargeBinary, Text, and_, cast, collate, func, select

from sessioncache.schema import messages, routes, sessions
from sessioncache.store.place import RESERVED

# Sessions, and messages, that are in memory at a time.
SESSIONS, MESSAGES = 200, 500
JSON_COLUMNS = ("origin", "metadata")
# What follows from other columns, or is of no use elsewhere.
DERIVED = frozenset({"state", "title_words", "deleted", "claims", "message_count"})
COLUMNS = tuple(str(column.name) for column in sessions.c if column.name not in DERIVED)


def outgoing(connection: Connection, owner: str | None, session_id: str | None) -> Iterator[Any]:
    """The rows of sessions, by id: `COLUMNS` (JSON as text), and ``version``: that of the key where it is current."""
    column = sessions.c
    wanted = [~column.deleted, func.coalesce(column.end_reason, "") != RESERVED]
    if owner is not None:
        wanted.append(column.owner == owner)
    if session_id is not None:
        wanted.append(column.session_id == session_id)
    shown = [cast(column[name], Text).label(name) if name in JSON_COLUMNS else column[name] for name in COLUMNS]
    route = and_(routes.c.session_key == column.session_key, routes.c.session_id == column.session_id)
    rows = select(*shown, routes.c.version).join_from(sessions, routes, route, isouter=True).where(*wanted)
    ordered = rows.order_by(_by_bytes(connection, column.session_id)).execution_options(yield_per=SESSIONS)
    yield from connection.execute(ordered)


def _by_bytes(connection: Connection, name: ColumnElement[str]) -> ColumnElement[str]:
    """An order that is the same in every database, whatever its locale."""
    return collate(name, "C" if connection.dialect.name == "postgresql" else "BINARY")


def messages_of(connection: Connection, session_id: str) -> Iterator[Any]:
    """Seq, message id, time and body (JSON, as text or bytes) of each message, in order."""
    column, after = messages.c, -1
    # SQLite gives text that is no UTF-8 only as bytes, and else fails the whole page.
    body = column.body if connection.dialect.name == "postgresql" else cast(column.body, LargeBinary).label("body")
    wanted = select(column.seq, column.message_id, column.created_at, body).where(column.session_id == session_id)
    while True:
        rows = connection.execute(wanted.where(column.seq > after).order_by(column.seq).limit(MESSAGES)).all()
        yield from rows
        if len(rows) < MESSAGES:
            return
        after = rows[-1].seq
