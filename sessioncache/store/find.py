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
    desc,
    exists,
    func,
    literal,
    select,
    tuple_,
    union_all,
)

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
    asked = [*_asked(connection, filters), sessions.c.state.in_(_states(filters))]
    return connection.scalar(_by_key(select(func.count()).select_from(sessions), filters).where(*asked)) or 0


def has_any(connection: Connection, owner: str | None, besides: str | None = None) -> bool:
    """Whether there is a session, of this owner (None: of anyone), besides that one. Sessions that ended count."""
    asked: list[ColumnElement[bool]] = [sessions.c.state.in_(STATES)]
    if owner is not None:
        asked.append(sessions.c.owner == owner)
    if besides is not None:
        asked.append(sessions.c.session_id != besides)
    return bool(connection.scalar(select(exists().where(*asked))))


def _states(filters: Filters) -> list[str]:
    return [state for state in STATES if state in filters.states]


def _of_state(connection: Connection, filters: Filters, state: str, after: tuple[datetime, str] | None) -> Select[Any]:
    """The sessions of one state, in the order of an index."""
    session = sessions.c
    wanted = _by_key(select(*COLUMNS), filters).where(session.state == state, *_asked(connection, filters))
    if after is not None:
        place = tuple_(literal(after[0], Instant), literal(after[1]))
        wanted = wanted.where(tuple_(session.updated_at, session.session_id) < place)
    return wanted.order_by(session.updated_at.desc(), session.session_id.desc())


def _by_key(wanted: Select[Any], filters: Filters) -> Select[Any]:
    """The same. SQLite, which keeps no statistics, would read along the order rather than look up a few keys."""
    if filters.session_key is None and filters.key_prefix is None:
        return wanted
    return wanted.with_hint(sessions, "INDEXED BY sessions_by_key", "sqlite")


def _asked(connection: Connection, filters: Filters) -> list[ColumnElement[bool]]:
    session = sessions.c
    exact = {"owner": filters.owner, "platform": filters.platform, "session_key": filters.session_key}
    asked: list[ColumnElement[bool]] = [session[name] == value for name, value in exact.items() if value is not None]
    if filters.important is not None:
        asked.append(session.important if filters.important else ~session.important)
    if filters.active_since is not None:
        asked.append(session.updated_at >= filters.active_since)
    if filters.key_prefix:
        asked += _begins(session.session_key, filters.key_prefix, connection.dialect.name)
    return asked


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
