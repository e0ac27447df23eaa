"""Sessions by their ids: where they stand, and their moves between keys (design section 5, *Lifecycle*).

Assumes that what was pending under the key of a session has been drained before it is asked about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, literal, select, update

from sessioncache.schema import applied_ops, messages, routes, sessions
from sessioncache.store.details import GIVEN, titled
from sessioncache.store.statements import chunks, insert_unless_there

# Why a row stands that no key has had as its session yet: it was made for one that crashed, or is about to switch to it.
RESERVED = "reserved"
# How the same begins for a row, counted as deleted, whose messages are being imported; the token of the import follows.
IMPORTING = "importing "


@dataclass(frozen=True, slots=True)
class Place:
    """Where a session stands: its key, how often it was claimed, its owner (``""``: none), whether it was deleted."""

    session_key: str
    claims: int
    owner: str
    message_count: int
    deleted: bool


def place(connection: Connection, session_id: str) -> Place | None:
    """Where a session stands; None for one that the store does not know."""
    column = sessions.c
    wanted = select(column.session_key, column.claims, column.owner, column.message_count, column.deleted)
    found = connection.execute(wanted.where(column.session_id == session_id)).one_or_none()
    return None if found is None else Place(found[0], found[1], found[2] or "", found[3], bool(found[4]))


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim stands on: nothing of it may have changed.

    Attributes:
        session_key: the key that claims the session.
        version: that key's version as it was noted; what made it must be in the store.
        seen: where the session stood since.
        left_by: the op id of the leave that was written under its key, "" where it is this one.
    """

    session_id: str
    session_key: str
    version: int
    seen: Place
    left_by: str


def claim(connection: Connection, wanted: Claim, now: datetime) -> int | None:
    """Make a session a key's; its last seq. None where something changed since it was looked at.

    The count of claims tells a session that came back from one that never left. Its time of access keeps retention away
    until the switch is accepted. Each condition is there because a schedule of the protocol's model fails without it.
    """
    column, seen = sessions.c, wanted.seen
    stands = (column.session_key == seen.session_key, column.claims == seen.claims, ~column.deleted)
    row = select(column.last_seq).where(column.session_id == wanted.session_id, *stands)
    last_seq: int | None = connection.scalar(row.with_for_update())
    version = connection.scalar(select(routes.c.version).where(routes.c.session_key == wanted.session_key)) or 0
    if last_seq is None or version < wanted.version or not _let_go(connection, wanted):
        return None
    mine = update(sessions).where(column.session_id == wanted.session_id)
    connection.execute(mine.values(session_key=wanted.session_key, claims=column.claims + 1, last_accessed=now))
    return last_seq


def _let_go(connection: Connection, wanted: Claim) -> bool:
    """Whether the key that the session belonged to has let it go."""
    theirs = wanted.seen.session_key
    if theirs == wanted.session_key:
        return True
    route = select(routes.c.session_id).where(routes.c.session_key == theirs)
    names = (applied_ops.c.session_id == wanted.session_id, applied_ops.c.op_id == wanted.left_by)
    left = connection.scalar(select(applied_ops.c.version).where(*names))
    return left is not None and connection.scalar(route) != wanted.session_id


def reserve(connection: Connection, session_id: str, session_key: str, columns: Mapping[str, Any], now: datetime) -> bool:
    """Make the row of a session with an id of the caller's; False if there is one, unless it was made so and left."""
    times = {"created_at": now, "updated_at": now, "last_accessed": now, "ended_at": now, "end_reason": RESERVED}
    columns = {**dict.fromkeys(GIVEN), **titled(columns)}
    values = {**columns, **times, "session_id": session_id, "session_key": session_key}
    made = insert_unless_there(connection, sessions).values(**values).returning(sessions.c.session_id)
    if connection.scalar(made) is not None:
        return True
    column = sessions.c
    mine = (column.session_id == session_id, column.session_key == session_key, column.end_reason == RESERVED)
    return connection.execute(update(sessions).where(*mine).values(**columns, **times)).rowcount == 1


_FORKED = ("title", "title_words", "display_name", "platform", "chat_type", "origin", "metadata", "consolidated_seq")


def fork(
    connection: Connection,
    parent_id: str,
    session_id: str,
    session_key: str,
    owner: str | None,
    through: int,
    now: datetime,
) -> bool:
    """Copy a session and its messages up to a seq; False if there is nothing to copy from any more."""
    column = sessions.c
    names = ["session_id", "session_key", "owner", "parent_id", "end_reason", "created_at", "updated_at", "last_accessed",
             "ended_at", *_FORKED]  # fmt: skip
    times = [literal(now, column.created_at.type)] * 4
    values: list[Any] = [
        literal(session_id),
        literal(session_key),
        literal(owner),
        literal(parent_id),
        literal(RESERVED),
        *times,
    ]
    mine = column.session_id == parent_id, ~column.deleted  # locked, so that its messages stay until they are copied
    if connection.scalar(select(column.session_id).where(*mine).with_for_update()) is None:
        return False
    parent = select(*[*values, *(column[name] for name in _FORKED)]).where(*mine)
    connection.execute(insert(sessions).from_select(names, parent))
    others = [one for one in messages.c if one.name != "session_id"]
    ours = select(literal(session_id), *others).where(messages.c.session_id == parent_id, messages.c.seq <= through)
    connection.execute(insert(messages).from_select(["session_id", *(one.name for one in others)], ours))
    _count(connection, session_id, through)
    return True


def _count(connection: Connection, session_id: str, through: int) -> None:
    column, ours = messages.c, messages.c.session_id == session_id
    found = connection.execute(
        select(func.count(), func.coalesce(func.max(column.seq), 0), func.max(column.created_at)).where(ours)
    ).one()
    consolidated = sessions.c.consolidated_seq
    connection.execute(
        update(sessions)
        .where(sessions.c.session_id == session_id)
        .values(
            message_count=found[0],
            last_seq=found[1],
            last_message_at=found[2],
            consolidated_seq=func.least(consolidated, through)
            if connection.dialect.name == "postgresql"
            else func.min(consolidated, through),
        )
    )


def owned(connection: Connection, owner: str) -> list[tuple[str, bool]]:
    """The ids of an owner's sessions, each with whether it was deleted."""
    rows = connection.execute(select(sessions.c.session_id, sessions.c.deleted).where(sessions.c.owner == owner))
    return [(row[0], bool(row[1])) for row in rows]


def forget_owner(connection: Connection, owner: str) -> None:
    """Take an owner's name from tombstones, what was said from the search index, and what is being imported."""
    if connection.dialect.name == "sqlite":
        for index in ("messages_search", "sessions_search"):  # which keeps them until its pieces are merged
            connection.exec_driver_sql(f"INSERT INTO {index}({index}) VALUES('optimize')")
    unfinished = (sessions.c.owner == owner, sessions.c.deleted, sessions.c.end_reason.startswith(IMPORTING))
    theirs = list(connection.scalars(select(sessions.c.session_id).where(*unfinished)))
    forget(connection, theirs)
    connection.execute(update(sessions).where(sessions.c.owner == owner, sessions.c.deleted).values(owner=None))


def forget(connection: Connection, session_ids: Sequence[str]) -> None:
    """Remove sessions without a trace: those that nobody ever had."""
    for some in chunks(session_ids):
        connection.execute(delete(messages).where(messages.c.session_id.in_(some)))
        connection.execute(delete(sessions).where(sessions.c.session_id.in_(some)))
