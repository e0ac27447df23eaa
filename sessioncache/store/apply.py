"""Draining, the store's half: pending logs applied in one transaction.

Guarantee (I3): every op takes effect exactly once, however often its log is delivered, because the keys' ``routes`` rows
are locked, in a fixed order, before it is asked which ops are known; and what makes an op known is written in the same
transaction. A duplicate (session id, seq) would be a bug, and raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, bindparam, func, insert, select, update

from sessioncache.message import instant
from sessioncache.schema import applied_ops, messages, sessions
from sessioncache.store import details, edits, routes
from sessioncache.store.columns import message_row
from sessioncache.store.plan import known_id, plan
from sessioncache.store.planned import AppliedOp, Log, Outcome, Plan, Standing, Step
from sessioncache.store.statements import chunks, matching


def apply(connection: Connection, logs: Sequence[Log], now: datetime, reason: str = "") -> list[Outcome]:
    """Apply the heads of some keys' pending logs; what became of each, in order.

    Args:
        connection: in a transaction that writes.
        logs: one for each key, whole groups.
        now: the time from which op ids are remembered, aware.
        reason: why none of these ops is to be applied, but remembered as refused; empty: they are applied.
    """
    made = plan(logs, _standing(connection, logs), reason)
    if made.starts:
        connection.execute(insert(sessions), [details.row_of(key, op) for key, op in made.starts])
    if made.applied_ops:
        connection.execute(insert(applied_ops), [_remembered(one, now) for one in made.applied_ops])
    for step in made.steps:
        _take(connection, step, now)
    _record_activity(connection, made)
    details.change(connection, made.updates)
    details.end(connection, made.ends, made.resumed)
    for key, session_id in made.left:
        edits.recall(connection, key, session_id, now)
    for session_id, at_ms in made.deletes.items():
        edits.bury(connection, session_id, instant(at_ms), now)
    routes.move(connection, made.routes)
    return made.outcomes


def _take(connection: Connection, step: Step, now: datetime) -> None:
    if step.messages:
        connection.execute(insert(messages), [message_row(one) for one in step.messages])
    for key, op in step.edits:
        edits.edit(connection, key, op, now)


def _standing(connection: Connection, logs: Sequence[Log]) -> Standing:
    standing = Standing(routes.locked(connection, sorted(log.session_key for log in logs)), {}, set(), set())
    named = sorted({(op.session_id, known_id(op)) for log in logs for op in log.ops})
    for some in chunks(named):
        found = connection.execute(matching(messages.c.message_id, some, messages.c.seq))
        standing.known.update(((row[0], row[1]), row[2]) for row in found)
        for row in connection.execute(matching(applied_ops.c.op_id, some, applied_ops.c.version, applied_ops.c.refused)):
            if row[3]:
                standing.refused.add((row[0], row[1]))
            else:
                standing.known[row[0], row[1]] = row[2]
    _see_sessions(connection, sorted({session_id for session_id, _ in named}), standing)
    return standing


def _see_sessions(connection: Connection, session_ids: Sequence[str], standing: Standing) -> None:
    """Locked in a fixed order, so that none changes its key meanwhile."""
    column = sessions.c
    stand = select(column.session_id, column.session_key, column.deleted, column.last_seq).order_by(column.session_id)
    for some in chunks(session_ids):
        for row in connection.execute(stand.where(column.session_id.in_(some)).with_for_update()):
            standing.keys[row[0]], standing.last_seqs[row[0]] = row[1], row[3]
            if row[2]:
                standing.deleted.add(row[0])


def _record_activity(connection: Connection, made: Plan) -> None:
    """What happened to each session, in one statement for all; what is not given stays."""
    rows = [
        {
            "id": session_id,
            "added": seen.added,
            "seq": seen.last_seq or None,
            "message_at": instant(seen.message_ms) if seen.message_ms else None,
            "active_at": instant(seen.active_ms) if seen.active_ms else None,
            "seen_at": instant(seen.accessed_ms) if seen.accessed_ms else None,
            "was_told": seen.told if seen.told or seen.active_ms else None,
        }
        for session_id, seen in sorted(made.activity.items())
    ]
    if rows:
        connection.execute(_ACTIVITY, rows)


def _or_as_it_was(column: Column[Any], name: str) -> Any:
    return func.coalesce(bindparam(name, type_=column.type), column)


_ACTIVITY = (
    update(sessions)
    .where(sessions.c.session_id == bindparam("id"))
    .values(
        message_count=sessions.c.message_count + bindparam("added", type_=BigInteger),
        last_seq=_or_as_it_was(sessions.c.last_seq, "seq"),
        last_message_at=_or_as_it_was(sessions.c.last_message_at, "message_at"),
        updated_at=_or_as_it_was(sessions.c.updated_at, "active_at"),
        last_accessed=_or_as_it_was(sessions.c.last_accessed, "seen_at"),
        told=_or_as_it_was(sessions.c.told, "was_told"),
    )
)


def _remembered(one: AppliedOp, now: datetime) -> dict[str, Any]:
    return {
        "session_id": one.op.session_id,
        "op_id": known_id(one.op),
        "session_key": one.session_key,
        "version": one.version,
        "refused": one.refused,
        "applied_at": now,
    }
