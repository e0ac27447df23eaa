"""Draining, the store's half: pending logs applied in one transaction.

Guarantee (I3): every op takes effect exactly once, however often its log is delivered, because the keys' ``routes`` rows
are locked, in a fixed order, before it is asked which ops are known; and what makes an op known is written in the same
transaction. A duplicate (session id, seq) would be a bug, and raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgpack
from sqlalchemy import (
    Connection,
    bindparam,
    delete,
    insert,
    literal,
    null,
    select,
    update,
)

from sessioncache import op as ops
from sessioncache.errors import StoreRefused
from sessioncache.message import decode, instant, plain_text, to_json
from sessioncache.schema import Instant, applied_ops, messages, routes, sessions
from sessioncache.store.plan import AppliedOp, Log, NewMessage, Outcome, Plan, Route, Standing, known_id, plan
from sessioncache.store.statements import chunks, insert_unless_there, matching
from sessioncache.store.words import searchable

ROLE_CHARACTERS = 255


def apply(connection: Connection, logs: Sequence[Log], now: datetime) -> list[Outcome]:
    """Apply the heads of some keys' pending logs; what became of each, in order.

    Args:
        connection: in a transaction that writes.
        logs: one for each key, whole groups.
        now: the time from which op ids are remembered, aware.
    """
    made = plan(logs, _standing(connection, logs))
    _start(connection, made)
    _insert_messages(connection, made.messages)
    _record_activity(connection, made)
    for session_id, at_ms in made.deletes.items():
        _bury(connection, session_id, at_ms, now)
    if made.applied_ops:
        connection.execute(insert(applied_ops), [_remembered(one, now) for one in made.applied_ops])
    _move_routes(connection, made.routes)
    return made.outcomes


def _standing(connection: Connection, logs: Sequence[Log]) -> Standing:
    standing = Standing(_lock_routes(connection, sorted(log.session_key for log in logs)), {}, set(), set())
    named = sorted({(op.session_id, known_id(op)) for log in logs for op in log.ops})
    for some in chunks(named):
        found = connection.execute(matching(messages.c.message_id, some, messages.c.seq))
        standing.known.update(((row[0], row[1]), row[2]) for row in found)
        for row in connection.execute(matching(applied_ops.c.op_id, some, applied_ops.c.version, applied_ops.c.refused)):
            if row[3]:
                standing.refused.add((row[0], row[1]))
            else:
                standing.known[row[0], row[1]] = row[2]
    for some in chunks(sorted({session_id for session_id, _ in named})):
        dead = select(sessions.c.session_id).where(sessions.c.session_id.in_(some), sessions.c.deleted)
        standing.deleted.update(connection.scalars(dead))
    return standing


def _lock_routes(connection: Connection, keys: Sequence[str]) -> dict[str, Route]:
    """Lock the routes of these keys, made where they are missing; first all inserts, then all locks, each in order."""
    there: set[str] = set()
    for some in chunks(keys):
        there.update(connection.scalars(select(routes.c.session_key).where(routes.c.session_key.in_(some))))
    missing = [{"session_key": key, "version": 0} for key in keys if key not in there]
    if missing:
        connection.execute(insert_unless_there(connection, routes), missing)
    found: dict[str, Route] = {}
    locked = select(routes).order_by(routes.c.session_key).with_for_update()
    for some in chunks(keys):
        found.update(_routes(connection.execute(locked.where(routes.c.session_key.in_(some)))))
    return found


def _routes(rows: Any) -> dict[str, Route]:
    return {row.session_key: Route(row.session_id or "", row.version) for row in rows}


def _start(connection: Connection, made: Plan) -> None:
    if made.starts:
        connection.execute(insert(sessions), [_session(key, op) for key, op in made.starts])
    if made.ends:
        ended = update(sessions).where(sessions.c.session_id == bindparam("id")).values(ended_at=bindparam("at"))
        connection.execute(ended, [{"id": key, "at": instant(at_ms)} for key, at_ms in made.ends.items()])


def _session(session_key: str, op: ops.Op) -> dict[str, Any]:
    begun = _unpacked(op.payload)
    at = instant(op.at_ms)
    times = {"created_at": at, "updated_at": at, "last_accessed": at}
    return {"session_id": op.session_id, "session_key": session_key, "owner": begun.get("owner"), **times}


def _unpacked(packed: bytes) -> dict[str, Any]:
    try:
        return decode(packed)
    except (ValueError, msgpack.UnpackException) as error:
        raise StoreRefused("The payload of an op cannot be read; look at it with redis-cli.", reason="payload") from error


def _insert_messages(connection: Connection, new: Sequence[NewMessage]) -> None:
    if new:
        connection.execute(insert(messages), [_message(one) for one in new])


def _message(new: NewMessage) -> dict[str, Any]:
    data = _unpacked(new.packed)
    role, text = data.get("role"), _storable(plain_text(data))
    return {
        "session_id": new.session_id,
        "seq": new.seq,
        "message_id": new.message_id,
        "role": _storable(role)[:ROLE_CHARACTERS] if isinstance(role, str) else None,
        "body": to_json(data),
        "text": text,
        "words": searchable(text),
        "created_at": instant(new.at_ms),
    }


def _storable(text: str) -> str:
    """Text for a column that people search; PostgreSQL takes no NUL there. The message itself keeps it."""
    return text.replace("\x00", "\ufffd")


def _record_activity(connection: Connection, made: Plan) -> None:
    appended = [(key, seen) for key, seen in made.activity.items() if seen.added]
    if appended:
        counted = update(sessions).where(sessions.c.session_id == bindparam("id"))
        counted = counted.values(
            message_count=sessions.c.message_count + bindparam("added"),
            last_seq=bindparam("seq"),
            last_message_at=bindparam("at"),
            updated_at=bindparam("at"),
        )
        connection.execute(
            counted,
            [{"id": key, "added": s.added, "seq": s.last_seq, "at": instant(s.message_ms)} for key, s in appended],
        )
    if made.activity:
        seen = update(sessions).where(sessions.c.session_id == bindparam("id")).values(last_accessed=bindparam("at"))
        connection.execute(seen, [{"id": key, "at": instant(s.accessed_ms)} for key, s in made.activity.items()])


def _bury(connection: Connection, session_id: str, at_ms: int, now: datetime) -> None:
    """Leave a tombstone, and remember the ids of the messages that go."""
    at = instant(at_ms)
    remembered = (
        select(
            messages.c.session_id,
            messages.c.message_id,
            sessions.c.session_key,
            messages.c.seq,
            literal(value=False),
            literal(now, Instant),
        )
        .join(sessions, sessions.c.session_id == messages.c.session_id)
        .where(messages.c.session_id == session_id)
    )
    columns = ["session_id", "op_id", "session_key", "version", "refused", "applied_at"]
    connection.execute(insert(applied_ops).from_select(columns, remembered))
    connection.execute(delete(messages).where(messages.c.session_id == session_id))
    nothing = dict.fromkeys(("owner", "title", "platform", "chat_type", "origin", "metadata"), null())
    tombstone = update(sessions).where(sessions.c.session_id == session_id)
    connection.execute(tombstone.values(deleted=True, message_count=0, ended_at=at, end_reason="deleted", **nothing))


def _remembered(one: AppliedOp, now: datetime) -> dict[str, Any]:
    return {
        "session_id": one.op.session_id,
        "op_id": known_id(one.op),
        "session_key": one.session_key,
        "version": one.version,
        "refused": one.refused,
        "applied_at": now,
    }


def _move_routes(connection: Connection, moved: dict[str, Route]) -> None:
    statement = update(routes).where(routes.c.session_key == bindparam("key"))
    statement = statement.values(session_id=bindparam("id"), version=bindparam("at_version"))
    rows = [{"key": key, "id": to.session_id or None, "at_version": to.version} for key, to in moved.items()]
    connection.execute(statement, rows)
