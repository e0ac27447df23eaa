"""Draining, the store's half: pending logs applied in one transaction, by as many statements however many ops they hold.

Guarantee (I3): every op takes effect exactly once, however often its log is delivered, because the keys' ``routes`` rows
are locked, in a fixed order, before it is asked which ops are known; and what makes an op known is written in the same
transaction. A duplicate (session id, seq) would be a bug, and raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Update, bindparam, func, insert, select, update

from sessioncache.message import instant
from sessioncache.schema import applied_ops, sessions
from sessioncache.store import details, edits, routes
from sessioncache.store.bulk import add_messages
from sessioncache.store.known import know
from sessioncache.store.plan import known_id, plan
from sessioncache.store.planned import AppliedOp, Log, Outcome, Plan, Standing, Step
from sessioncache.store.statements import UpdateOfEach, chunks


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
        add_messages(connection, step.messages)
    for key, op in step.edits:
        edits.edit(connection, key, op, now)


def _standing(connection: Connection, logs: Sequence[Log]) -> Standing:
    standing = Standing(routes.locked(connection, sorted(log.session_key for log in logs)), {}, set(), set())
    know(connection, (op for log in logs for op in log.ops), standing)
    _see_sessions(connection, sorted({op.session_id for log in logs for op in log.ops}), standing)
    return standing


_STAND = (
    select(sessions.c.session_id, sessions.c.session_key, sessions.c.deleted, sessions.c.last_seq)
    .where(sessions.c.session_id.in_(bindparam("ids", expanding=True)))
    .order_by(sessions.c.session_id)
    .with_for_update()
)


def _see_sessions(connection: Connection, session_ids: Sequence[str], standing: Standing) -> None:
    """Locked in a fixed order, so that none changes its key meanwhile."""
    for some in chunks(session_ids):
        for row in connection.execute(_STAND, {"ids": some}):
            standing.keys[row[0]], standing.last_seqs[row[0]] = row[1], row[3]
            if row[2]:
                standing.deleted.add(row[0])


def _record_activity(connection: Connection, made: Plan) -> None:
    """What happened to each session; what is not given stays."""
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
    _ACTIVITY.execute(connection, rows)


def _activity(given: Mapping[str, Any]) -> Update:
    columns = sessions.c
    kept = {name: func.coalesce(given[new], columns[name]) for name, new in _KEPT_UNLESS.items()}
    return (
        update(sessions)
        .where(columns.session_id == given["id"])
        .values(message_count=columns.message_count + given["added"], **kept)
    )


# What an op may say anew of a session, else it stays; and how it is called where it is given.
_KEPT_UNLESS = {
    "last_seq": "seq",
    "last_message_at": "message_at",
    "updated_at": "active_at",
    "last_accessed": "seen_at",
    "told": "was_told",
}
_ACTIVITY = UpdateOfEach(
    {"id": sessions.c.session_id.type, "added": sessions.c.message_count.type}
    | {given: sessions.c[name].type for name, given in _KEPT_UNLESS.items()},
    _activity,
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
