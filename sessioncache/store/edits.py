"""Changes of messages that stand: one function for each kind of op.

Guarantee: the id of a message that goes is remembered in the same transaction, as the op that appended it is, so that
neither is ever taken for new (I3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, delete, insert, literal, null, or_, select, update

from sessioncache import op as ops
from sessioncache.info import LABELS
from sessioncache.op import Op, remembered
from sessioncache.schema import Instant, applied_ops, messages, sessions
from sessioncache.store.columns import body_columns
from sessioncache.store.payloads import count_of, ends_of, text_of
from sessioncache.store.statements import chunks, insert_unless_there

# How many of a session's last messages are remembered for a key that it leaves: what a caller may still repeat.
RECALLED = 100


def edit(connection: Connection, session_key: str, op: Op, now: datetime) -> None:
    """Do what one op does to messages."""
    _EFFECTS[op.kind](connection, session_key, op, now)


def _replace(connection: Connection, session_key: str, op: Op, now: datetime) -> None:
    _remove_from(connection, session_key, op.session_id, 0, now)


def _truncate(connection: Connection, session_key: str, op: Op, now: datetime) -> None:
    column = messages.c
    place = select(column.seq).where(column.session_id == op.session_id).order_by(column.seq)
    first = connection.scalar(place.offset(count_of(op)).limit(1))
    if first is not None:
        _remove_from(connection, session_key, op.session_id, first, now)


def _retain(connection: Connection, session_key: str, op: Op, now: datetime) -> None:
    """Its ends are seqs and message ids. A message that has a higher seq here was given one that Redis gave out again."""
    column, ends = messages.c, ends_of(op)
    named = select(column.message_id, column.seq).where(
        column.session_id == op.session_id, column.message_id.in_([name for _, name in ends])
    )
    here = {row[0]: row[1] for row in connection.execute(named)}
    first, last, seen = (max(seq, here.get(name, 0)) for seq, name in ends)
    gone = or_(column.seq < first, and_(column.seq > last, column.seq <= seen))
    _remove(connection, session_key, op.session_id, (column.session_id == op.session_id) & gone, now)


def _remove_from(connection: Connection, session_key: str, session_id: str, seq: int, now: datetime) -> None:
    ours = (messages.c.session_id == session_id) & (messages.c.seq >= seq)
    _remove(connection, session_key, session_id, ours, now)


def _remove_one(connection: Connection, session_key: str, op: Op, now: datetime) -> None:
    ours = (messages.c.session_id == op.session_id) & (messages.c.message_id == text_of(op))
    _remove(connection, session_key, op.session_id, ours, now)


def _remove(connection: Connection, session_key: str, session_id: str, ours: Any, now: datetime) -> None:
    gone = connection.execute(select(messages.c.message_id, messages.c.seq).where(ours)).all()
    if not gone:
        return
    _remember(connection, session_key, session_id, [(row[0], row[1]) for row in gone], now)
    connection.execute(delete(messages).where(ours))
    left = update(sessions).where(sessions.c.session_id == session_id)
    connection.execute(left.values(message_count=sessions.c.message_count - len(gone)))


def _remember(
    connection: Connection, session_key: str, session_id: str, gone: Sequence[tuple[str, int]], now: datetime
) -> None:
    """Remember messages by their ids, and by the ids of the ops that appended them."""
    versions = dict(gone)
    for message_id, seq in gone:
        op_id, first = remembered(session_id, message_id, seq)
        versions.setdefault(op_id, first)
    rows = [
        {"session_id": session_id, "op_id": op_id, "session_key": session_key, "version": version, "applied_at": now}
        for op_id, version in versions.items()
    ]
    for some in chunks(rows):
        connection.execute(insert_unless_there(connection, applied_ops), list(some))


def _edit(connection: Connection, session_key: str, op: Op, now: datetime) -> None:  # noqa: ARG001 - as its siblings
    message_id, packed = ops.message_of(op)
    one = update(messages).where(messages.c.session_id == op.session_id, messages.c.message_id == message_id)
    connection.execute(one.values(**body_columns(packed)))


_EFFECTS: dict[str, Callable[[Connection, str, Op, datetime], None]] = {
    ops.REPLACE: _replace,
    ops.CLEAR: _replace,
    ops.TRUNCATE: _truncate,
    ops.RETAIN: _retain,
    ops.REMOVE: _remove_one,
    ops.EDIT: _edit,
}


def recall(connection: Connection, session_key: str, session_id: str, now: datetime) -> None:
    """Let a key that a session leaves still know what was appended under it lately."""
    column = messages.c
    newest = select(column.message_id, column.seq).where(column.session_id == session_id).order_by(column.seq.desc())
    rows = connection.execute(newest.limit(RECALLED)).all()
    _remember(connection, session_key, session_id, [(row[0], row[1]) for row in rows], now)


def bury(connection: Connection, session_id: str, at: datetime, now: datetime) -> None:
    """Leave a tombstone, and remember the ids of the messages that go. The owner stays, until all of that owner goes."""
    known = (
        select(
            messages.c.session_id,
            messages.c.message_id,
            sessions.c.session_key,
            messages.c.seq,
            literal(value=False),
            literal(now, Instant),
        )
        .join(sessions, sessions.c.session_id == messages.c.session_id)
        .where(messages.c.session_id == session_id, messages.c.message_id.not_in(_known_already(session_id)))
    )
    columns = ["session_id", "op_id", "session_key", "version", "refused", "applied_at"]
    connection.execute(insert(applied_ops).from_select(columns, known))
    connection.execute(delete(messages).where(messages.c.session_id == session_id))
    names = ("title", "title_words", "display_name", "platform", "chat_type", "origin", "metadata", "parent_id")
    nothing = dict.fromkeys((*names, *LABELS), null())
    tombstone = update(sessions).where(sessions.c.session_id == session_id)
    connection.execute(tombstone.values(deleted=True, message_count=0, ended_at=at, end_reason="deleted", **nothing))


def _known_already(session_id: str) -> Any:
    return select(applied_ops.c.op_id).where(applied_ops.c.session_id == session_id)
