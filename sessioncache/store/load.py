"""Reading the store: what a hydration needs, pages below the hot window, and single questions.

Each function is called in one transaction that sees one snapshot. Reads are bounded: by the hot window, by a page, or to
one row.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    LargeBinary,
    Select,
    Text,
    and_,
    bindparam,
    cast,
    delete,
    func,
    select,
    tuple_,
    type_coerce,
)
from sqlalchemy.types import NullType

from sessioncache import info
from sessioncache.arguments import LAST_MILLISECOND, MAX_NUMBER
from sessioncache.elements import HOLE
from sessioncache.errors import CorruptRecord, InvalidKey
from sessioncache.keys import check_name
from sessioncache.message import element, from_json, milliseconds
from sessioncache.schema import applied_ops, messages, milliseconds_of, routes, sessions
from sessioncache.snapshot import Snapshot
from sessioncache.store.details import readable_object
from sessioncache.store.layouts import confirm
from sessioncache.store.recent import HAS_OTHERS, Loaded, recent_ops
from sessioncache.store.routes import checked_version
from sessioncache.store.rows import number_of, text_of
from sessioncache.store.statements import chunks, matching

log = logging.getLogger("sessioncache.store")

FIRST_PAGE = 200
# More messages than any session has.
EVERY = 2**53
LARGEST_PAGE = 2000


def snapshot(
    connection: Connection, session_key: str, window: int, window_bytes: int, keep_ops: int, partitions: int
) -> Snapshot:
    """The current session of a key and its newest messages, at most ``window`` and ``window_bytes`` of them.

    Raises:
        Repartitioning, LayoutMismatch: the store is not laid out for so many partitions (any more).
    """
    confirm(connection, partitions)
    found = connection.execute(_CURRENT, {"session_key": session_key, "keep": keep_ops}).one_or_none()
    if found is None:
        return Snapshot("", 0, 0, "", 0, 0, 0, [], [])
    checked_version(session_key, found.version)
    if found.session_id is None:
        ops = recent_ops(connection, session_key, found.version, keep_ops)
        return Snapshot("", found.version, 0, "", 0, 0, 0, ops, [])
    created, updated, accessed = map(milliseconds, (found.created_at, found.updated_at, found.last_accessed))
    elements, is_all = newest(connection, found.session_id, window, window_bytes)
    loaded = None if found.has_others else Loaded(found.session_id, elements, is_all)
    ops = recent_ops(connection, session_key, found.version, keep_ops, loaded)
    last = int(elements[-1].split(b" ", 1)[0]) if elements else 0
    return Snapshot(
        found.session_id,
        max(found.version, last),  # somebody may have changed one by hand
        len(elements) if is_all else _total(connection, found, len(elements)),
        text_of(found, "owner") or "",
        created,
        updated,
        accessed,
        ops,
        elements,
        _fields(found, updated),
    )


def _total(connection: Connection, session: Any, at_least: int) -> int:
    """The messages of a session of which there are more than these; counted, where its row cannot be right."""
    if type(session.message_count) is int and session.message_count > at_least:
        return int(session.message_count)
    counted = select(func.count()).select_from(messages).where(messages.c.session_id == session.session_id)
    return connection.scalar(counted) or 0


_TEXTS = ("title", *info.NAMES, *info.LABELS, "parent_id")
_OTHERS = (*_TEXTS, *info.FLAGS, *info.COUNTERS)
_KNOWN = [
    sessions.c[name]
    for name in (
        "session_id",
        "owner",
        "message_count",
        "created_at",
        "updated_at",
        "last_accessed",
        "last_message_at",
        "told",
    )
] + [cast(sessions.c.origin, Text).label("origin_text"), *(sessions.c[name] for name in _OTHERS)]
# Statements are made once: to make one takes as long as to execute it.
_CURRENT = (
    select(
        routes.c.version, cast(sessions.c.metadata, Text).label("metadata_text"), HAS_OTHERS.label("has_others"), *_KNOWN
    )
    .join_from(routes, sessions, and_(sessions.c.session_id == routes.c.session_id, ~sessions.c.deleted), isouter=True)
    .where(routes.c.session_key == bindparam("session_key"))
)


def _fields(row: Any, updated_ms: int) -> dict[str, str | bytes | int]:
    """What ``meta`` holds of a session besides what every script knows; only what is not empty."""
    columns = {name: getattr(row, name) for name in _OTHERS}
    columns.update({name: number_of(row, name) for name in info.COUNTERS})
    columns.update({name: text_of(row, name) for name in _TEXTS})
    columns["metadata"] = readable_object(row.metadata_text, row.session_id)
    columns["origin"] = None if row.origin_text is None else readable_object(row.origin_text, row.session_id)
    columns["last_message_ms"] = milliseconds(row.last_message_at) if row.last_message_at else None
    columns["told"] = updated_ms if row.told else None
    return {name: value for name, value in info.fields(columns).items() if value != "" and columns.get(name) != 0}


def newest(connection: Connection, session_id: str, count: int, max_bytes: int) -> tuple[list[bytes], bool]:
    """The newest messages as elements, oldest first, and whether they are all; read in pages sized by what came before."""
    found: list[bytes] = []
    size, page, before = 0, FIRST_PAGE, None
    while len(found) < count:
        asked = min(page, count - len(found))
        rows = older(connection, session_id, before, asked)
        for row in reversed(rows):
            size += len(row)
            if size > max_bytes and found:
                return found[::-1], False
            found.append(row)
        if len(rows) < asked:
            return found[::-1], True
        before = int(rows[0].split(b" ", 1)[0])
        page = max(1, min(LARGEST_PAGE, (max_bytes - size) * len(found) // max(1, size) + 1))
    return found[::-1], False


def older(connection: Connection, session_id: str, before: int | None, limit: int) -> list[bytes]:
    """The newest ``limit`` messages with a seq below ``before`` (None: of all), as elements, oldest first."""
    bounds = {"session_id": session_id, "count": limit, **({} if before is None else {"seq": before})}
    return _page(connection, "newest" if before is None else "below", bounds)[::-1]


def newer(connection: Connection, session_id: str, after: int, limit: int) -> list[bytes]:
    """The first ``limit`` messages with a seq above ``after``, as elements, oldest first."""
    return _page(connection, "above", {"session_id": session_id, "count": limit, "seq": after})


def _page(connection: Connection, which: str, bounds: dict[str, Any]) -> list[bytes]:
    rows = connection.execute(_select(connection.dialect.name, which), bounds).all()
    return [_element(bounds["session_id"], *row) for row in rows]


@cache
def _select(dialect: str, which: str) -> Select[Any]:
    """What reads a page of messages, times as the driver gives them. SQLite tells text that is no UTF-8 only as bytes."""
    column, seq = messages.c, bindparam("seq", type_=BigInteger)
    body = cast(column.body, LargeBinary) if dialect == "sqlite" else column.body
    rows = select(column.seq, column.message_id, type_coerce(column.created_at, NullType()), body)
    rows = rows.where(column.session_id == bindparam("session_id")).limit(bindparam("count", type_=BigInteger))
    if which == "above":
        return rows.where(column.seq > seq).order_by(column.seq)
    return (rows if which == "newest" else rows.where(column.seq < seq)).order_by(column.seq.desc())


def _element(session_id: str, seq: Any, message_id: Any, created_at: Any, body: Any) -> bytes:
    """A row as an element: a hole, with a warning, where its message cannot be read.

    Raises:
        CorruptRecord: its seq is none, so that it has no place.
    """
    if type(seq) is not int or not 0 <= seq <= MAX_NUMBER:
        raise CorruptRecord(f"A message of session {session_id} has a seq that is none; remove its row.")
    try:
        packed = from_json(body)
    except ValueError:
        log.warning("message %d cannot be read and is left out: mend or remove its row", seq, extra=_named(session_id))
        packed = HOLE
    at_ms = milliseconds_of(created_at)
    if not 0 <= at_ms <= LAST_MILLISECOND:
        at_ms = 0 if at_ms < 0 else LAST_MILLISECOND
    try:
        return element(seq, at_ms, check_name(message_id, "message id"), packed)
    except InvalidKey:
        log.warning("the id of message %d cannot be read: mend or remove its row", seq, extra=_named(session_id))
        return element(seq, at_ms, f"unreadable-{seq}", packed)


def _named(session_id: str) -> dict[str, str]:
    return {"session_id": session_id}


def has_message(connection: Connection, session_id: str, message_id: str) -> bool:
    """Whether the session has this message."""
    wanted = select(messages.c.seq).where(messages.c.session_id == session_id, messages.c.message_id == message_id)
    return connection.scalar(wanted) is not None


def current(connection: Connection, session_key: str) -> str | None:
    """The id of the session that is current under a key, if there is one."""
    found: str | None = connection.scalar(select(routes.c.session_id).where(routes.c.session_key == session_key))
    return found


def missing(connection: Connection, session_id: str, message_ids: Sequence[str]) -> int:
    """How many of these messages the session neither has nor had, as far as that is remembered."""
    known: set[str] = set()
    for some in chunks([(session_id, one) for one in message_ids]):
        known.update(row[1] for row in connection.execute(matching(messages.c.message_id, some, messages.c.seq)))
        applied = connection.execute(matching(applied_ops.c.op_id, some, applied_ops.c.refused))
        known.update(row[1] for row in applied if not row[2])
    return len(message_ids) - len(known)


def is_deleted(connection: Connection, session_id: str) -> bool:
    """Whether this session left a tombstone."""
    return bool(connection.scalar(select(sessions.c.deleted).where(sessions.c.session_id == session_id)))


def counts(connection: Connection) -> tuple[int, int]:
    """The number of sessions that are not deleted, and of their messages."""
    total = func.coalesce(func.sum(sessions.c.message_count), 0)
    row = connection.execute(select(func.count(), total).where(~sessions.c.deleted)).one()
    return int(row[0]), int(row[1])


def forgive(connection: Connection, names: Sequence[tuple[str, str]]) -> None:
    """Forget that ops were refused, by session id and op id or message id: they are new from now on."""
    for some in chunks(names):
        refused = tuple_(applied_ops.c.session_id, applied_ops.c.op_id).in_(some)
        connection.execute(delete(applied_ops).where(refused, applied_ops.c.refused))


def forget_ops(connection: Connection, before: datetime, limit: int) -> int:
    """Forget at most ``limit`` op ids that were applied before this time; how many it were."""
    name = tuple_(applied_ops.c.session_id, applied_ops.c.op_id)
    old = select(applied_ops.c.session_id, applied_ops.c.op_id).where(applied_ops.c.applied_at < before).limit(limit)
    return connection.execute(delete(applied_ops).where(name.in_(old))).rowcount
