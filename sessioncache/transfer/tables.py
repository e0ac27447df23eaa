"""SQLite stores: a table of sessions and one of messages.

The table of messages is gone through once for what orders it: session, time, row. That goes into a temporary database on
disk; each message is then read by its row. So neither memory nor time suffers from many sessions or messages, no index is
needed, and a row that is damaged spoils no other.

Guarantees: of two sessions with the same id the first counts, of two messages of a session with the same id too; a message
whose session is missing is reported, and so is every row that cannot be read; of a row, reports say only its number.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import partial
from typing import Any

from sessioncache.errors import InvalidKey
from sessioncache.keys import check_name
from sessioncache.message import instant, milliseconds
from sessioncache.transfer.database import NOT_TEXT, Database, connected, why
from sessioncache.transfer.files import Unreadable, shown
from sessioncache.transfer.found import Damage, FoundMessage, FoundSession, Reading
from sessioncache.transfer.lines import moment

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a session besides its row.

    Attributes:
        zone: that of times that name none.
        first, last: the times of its messages; None where they tell none.
        changed: when the store was written last.
        refused: told, in a sentence, of each value that is left out.
    """

    zone: tzinfo
    first: datetime | None
    last: datetime | None
    changed: datetime
    refused: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a store's tables are like.

    Attributes:
        sessions, messages: the names of the tables.
        session_columns, message_columns: what is read of them, where they have it, besides ``id``, and of messages
            ``session_id`` and ``timestamp``.
        by_time: whether messages are ordered by ``timestamp``, then by row; else by row alone.
        zone: that of times that name none; None: what `Reading` says.
        session: a session without its messages; `InvalidKey`: it is left out.
        message: a message, encoded; `Unreadable`: it is damaged; None: it is not to be found.
        message_id: a message's id, from that of its row.
    """

    sessions: str
    messages: str
    session_columns: Sequence[str]
    message_columns: Sequence[str]
    by_time: bool
    zone: tzinfo | None
    session: Callable[[Values, About], FoundSession]
    message: Callable[[Values, Reading], bytes | None]
    message_id: Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class _Store:
    """A store that is being read.

    Attributes:
        places: the temporary database.
        session_columns, message_columns: those that are there.
        ids_differ: whether no two messages can have the same id, so that none needs to be remembered.
    """

    layout: Layout
    database: Database
    places: sqlite3.Connection
    session_columns: Sequence[str]
    message_columns: Sequence[str]
    ids_differ: bool

    @property
    def zone(self) -> tzinfo:
        return self.layout.zone or self.database.reading.zone


def size(path: str, layout: Layout) -> int:
    """How many rows there are; 0 if that cannot be told."""
    silent = Reading(UTC, 0, _nobody, _nobody)
    try:
        database = connected(path, silent)
        with closing(database.connection):
            return database.count(layout.sessions) + database.count(layout.messages)
    except (OSError, sqlite3.Error, Unreadable):
        return 0


def read(path: str, reading: Reading, layout: Layout) -> Iterator[FoundSession]:
    """The sessions of a store, in the order of their rows."""
    try:
        database = connected(path, reading)
    except (OSError, sqlite3.Error, Unreadable) as error:
        reading.damaged(Damage(shown(path), 0, why(error)))
        return
    with closing(database.connection), closing(sqlite3.connect("", isolation_level=None)) as places:
        try:
            store = _store(layout, database, places)
        except (sqlite3.Error, Unreadable) as error:
            reading.damaged(Damage(database.file.name, 0, why(error)))
            return
        _place(store)
        yield from _sessions(store)


def _store(layout: Layout, database: Database, places: sqlite3.Connection) -> _Store:
    sessions = database.columns(layout.sessions, ("id", *layout.session_columns))
    messages = database.columns(layout.messages, ("id", "session_id", "timestamp", *layout.message_columns))
    if "id" not in sessions or "session_id" not in messages:
        raise Unreadable("its tables have no ids")
    return _Store(layout, database, places, sessions, messages, database.is_key(layout.messages, "id"))


def _place(store: _Store) -> None:
    """Write down the place of each message that names a session."""
    store.places.execute("PRAGMA synchronous = OFF")
    store.places.execute(
        "CREATE TABLE places (session TEXT, position INTEGER, row INTEGER, at INTEGER, "
        "PRIMARY KEY (session, position, row)) WITHOUT ROWID"
    )
    store.places.execute("BEGIN")
    store.places.executemany("INSERT INTO places VALUES (?, ?, ?, ?)", _places(store))
    store.places.execute("COMMIT")


def _places(store: _Store) -> Iterator[tuple[str, int, int, int | None]]:
    table = store.layout.messages
    names = tuple(name for name in ("session_id", "timestamp") if name in store.message_columns)
    for row, values in store.database.rows(table, names):
        if type(values["session_id"]) is not str:
            store.database.damaged(table, row, "it names no session")
            continue
        at = _milliseconds(values.get("timestamp"), store.zone)
        yield values["session_id"], (at or 0) if store.layout.by_time else 0, row, at


def _milliseconds(told: object, zone: tzinfo) -> int | None:
    """When a message was written; None if that cannot be told, which is reported when it is read."""
    try:
        return None if told is None else milliseconds(moment(told, zone))
    except Unreadable:
        return None


def _sessions(store: _Store) -> Iterator[FoundSession]:
    database, table, ids = store.database, store.layout.sessions, set[str]()
    for row, values in database.rows(table, store.session_columns):
        database.reading.advanced(1)
        session = _session(store, row, values, ids)
        if session is not None:
            yield session
    for session_id, row in store.places.execute("SELECT session, row FROM places"):
        if session_id not in ids:
            database.reading.advanced(1)
            database.damaged(store.layout.messages, row, "its session is missing")


def _session(store: _Store, row: int, values: Values, ids: set[str]) -> FoundSession | None:
    table, session_id = store.layout.sessions, values["id"]
    if session_id in ids:
        store.database.damaged(table, row, "the session is left out: another has the same id")
        return None
    if type(session_id) is str:
        ids.add(session_id)
    try:
        session = store.layout.session(values, _about(store, row, session_id))
    except InvalidKey:
        store.database.damaged(table, row, "the session is left out: its id, key or owner cannot be one")
        return None
    session.messages = _messages(store, session.session_id)
    return session


def _about(store: _Store, row: int, session_id: object) -> About:
    statement = "SELECT min(at), max(at) FROM places WHERE session = ?"
    told = session_id if type(session_id) is str else None
    first, last = (None if at is None else instant(at) for at in store.places.execute(statement, (told,)).fetchone())
    refused = partial(store.database.damaged, store.layout.sessions, row)
    return About(store.zone, first, last, store.database.file.changed, refused)


def _messages(store: _Store, session_id: str) -> Iterator[FoundMessage]:
    statement = "SELECT row FROM places WHERE session = ? ORDER BY position, row"
    seen: set[str] = set()
    for (row,) in store.places.execute(statement, (session_id,)):
        store.database.reading.advanced(1)
        try:
            message = _message(store, row, seen)
        except (sqlite3.Error, Unreadable) as error:
            store.database.damaged(store.layout.messages, row, why(error))
        else:
            if message is not None:
                yield message


def _message(store: _Store, row: int, seen: set[str]) -> FoundMessage | None:
    values = store.database.row(store.layout.messages, store.message_columns, row)
    if NOT_TEXT in values.values():
        raise Unreadable("it is not UTF-8")
    told = values.get("timestamp")
    created_at = None if told is None else moment(told, store.zone)
    body = store.layout.message(values, store.database.reading)
    if body is None:
        return None
    message_id = _message_id(store, row, values.get("id"))
    if message_id in seen:
        raise Unreadable("duplicate id")
    if message_id is not None and not store.ids_differ:
        seen.add(message_id)
    return FoundMessage(body, message_id, created_at)


def _message_id(store: _Store, row: int, told: object) -> str | None:
    if told is None:
        return None
    try:
        return check_name(store.layout.message_id(told) if type(told) in (str, int) else told, "message id")
    except InvalidKey:
        store.database.damaged(store.layout.messages, row, "its id cannot be kept and is left out")
        return None


def _nobody(_what: object) -> None:
    """Nobody is told."""
