"""Finding sessions: lists, counts and single ones. Sessions that were deleted are never found.

A list is in the order of an index, page by page: by owner and state, or by state; platform, importance and time are looked
at along that order. With a session key, or the beginning of one, the index of keys is used, and what it finds is sorted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    CompoundSelect,
    Connection,
    Select,
    UnaryExpression,
    desc,
    func,
    literal,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.sql.operators import custom_op

from sessioncache.info import Info
from sessioncache.schema import Instant, sessions
from sessioncache.store.rows import COLUMNS, info_of

STATES = ("live", "archived", "ended")

LAST_CHARACTER, BEFORE_SURROGATES, AFTER_SURROGATES = "\U0010ffff", "\ud7ff", "\ue000"


@dataclass(frozen=True, slots=True)
class Filters:
    """Which sessions; None asks for nothing in particular.

    Attributes:
        active_since: updated at this time or later.
        key_prefix: how its session key begins, exactly; no character in it is special.
        states: of ``live``, ``archived`` and ``ended``.
    """

    owner: str | None = None
    platform: str | None = None
    active_since: datetime | None = None
    important: bool | None = None
    key_prefix: str | None = None
    session_key: str | None = None
    states: tuple[str, ...] = ("live",)


def listed(connection: Connection, filters: Filters, limit: int, after: tuple[datetime, str] | None = None) -> list[Info]:
    """A page of sessions, newest activity first.

    Args:
        connection: in a transaction.
        filters: which.
        limit: how many at most.
        after: ``updated_at`` and ``session_id`` of the last one of the page before.
    """
    each = [_of_state(connection, filters, state, after).limit(limit) for state in _states(filters)]
    if not each:
        return []
    page: Select[Any] | CompoundSelect[Any] = each[0]
    if len(each) > 1:
        page = union_all(*(select(one.subquery()) for one in each))
        page = page.order_by(desc("updated_at"), desc("session_id")).limit(limit)
    return [info_of(row) for row in connection.execute(page)]


def one(connection: Connection, session_id: str) -> Info | None:
    """One session; None, if there is none or it was deleted."""
    wanted = select(*COLUMNS).where(sessions.c.session_id == session_id, ~sessions.c.deleted)
    row = connection.execute(wanted).one_or_none()
    return None if row is None else info_of(row)


def count(connection: Connection, filters: Filters) -> int:
    """The number of sessions that a list would show in all."""
    state = _beside_key(connection, filters, sessions.c.state)
    asked = [*_asked(connection, filters), state.in_(_states(filters))]
    return connection.scalar(select(func.count()).select_from(sessions).where(*asked)) or 0


def has_any(connection: Connection, owner: str | None, besides: str | None = None) -> bool:
    """Whether there is a session, of this owner (None: of anyone), besides that one. Sessions that ended count."""
    newest = listed(connection, Filters(owner=owner, states=STATES), 2)
    return any(info.session_id != besides for info in newest)


def _states(filters: Filters) -> list[str]:
    return [state for state in STATES if state in filters.states]


def _of_state(connection: Connection, filters: Filters, state: str, after: tuple[datetime, str] | None) -> Select[Any]:
    """The sessions of one state, in the order of an index."""
    session = sessions.c
    asked = [_beside_key(connection, filters, session.state) == state, *_asked(connection, filters)]
    if after is not None:
        place = tuple_(literal(after[0], Instant), literal(after[1]))
        asked.append(tuple_(session.updated_at, session.session_id) < place)
    return select(*COLUMNS).where(*asked).order_by(session.updated_at.desc(), session.session_id.desc())


def titles(connection: Connection, owner: str | None, base: str, besides: str) -> list[str]:
    """The titles of an owner's sessions, but for one, that begin so; ended ones count."""
    session = sessions.c
    mine = session.owner.is_(None) if owner is None else session.owner == owner
    begins = func.substr(session.title, 1, len(base)) == base
    wanted = select(session.title).where(mine, begins, ~session.deleted, session.session_id != besides)
    return [str(title) for title in connection.scalars(wanted)]


def _asked(connection: Connection, filters: Filters) -> list[ColumnElement[bool]]:
    session = sessions.c
    owner = _beside_key(connection, filters, session.owner)
    exact = ((owner, filters.owner), (session.platform, filters.platform), (session.session_key, filters.session_key))
    asked: list[ColumnElement[bool]] = [column == value for column, value in exact if value is not None]
    if filters.important is not None:
        asked.append(session.important if filters.important else ~session.important)
    if filters.active_since is not None:
        asked.append(session.updated_at >= filters.active_since)
    if filters.key_prefix:
        asked += _begins(session.session_key, filters.key_prefix, connection.dialect.name)
    return asked


def _beside_key(connection: Connection, filters: Filters, column: Column[str]) -> ColumnElement[str]:
    """The column. Without statistics, SQLite prefers other indexes to that of keys; a ``+`` keeps it from this column's."""
    if connection.dialect.name == "postgresql" or (filters.session_key is None and not filters.key_prefix):
        return column
    return UnaryExpression(column, operator=custom_op("+"), type_=column.type)


def _begins(column: Column[str], prefix: str, dialect: str) -> list[ColumnElement[bool]]:
    """As a range of bytes: in any locale of PostgreSQL, and without the characters that LIKE gives a meaning to."""
    least, below = ("~>=~", "~<~") if dialect == "postgresql" else (">=", "<")
    bounds = [(least, prefix), (below, _successor(prefix))]
    return [column.op(sign, is_comparison=True, return_type=Boolean())(bound) for sign, bound in bounds if bound]


def _successor(prefix: str) -> str:
    """The least text after all that begin so; ``""`` for none."""
    stem = prefix.rstrip(LAST_CHARACTER)
    if not stem:
        return ""
    return stem[:-1] + (AFTER_SURROGATES if stem[-1] == BEFORE_SURROGATES else chr(ord(stem[-1]) + 1))
