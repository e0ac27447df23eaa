"""What housekeeping may have to do with: one question each, a page at a time, oldest first.

Each page comes from an index, in its order, and is no more than a proposal: a session that was found may have moved on
since, and what is done about it goes through its key's log. ``after`` lets a run go on past those that it had to leave.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Select, literal, select, text, tuple_, union_all

from sessioncache.schema import EMPTY, ENDED, UNTOLD, Instant, sessions

After = tuple[datetime, str]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A session to look at; ``after`` stands for the place behind it."""

    session_key: str
    session_id: str
    after: After


def empty(connection: Connection, before: datetime, limit: int, after: After | None = None) -> list[Candidate]:
    """Live sessions without a message, created before this time."""
    return _found(connection, _page(sessions.c.created_at, before, limit, after, text(EMPTY)))


def old(connection: Connection, before: datetime, limit: int, after: After | None = None) -> list[Candidate]:
    """Live sessions with messages, not important, that nobody opened, read or wrote since.

    In the order of their last activity, which is never later than the last access: no index of accesses is needed.
    """
    column = sessions.c
    asked = column.state == "live", ~column.important, column.message_count > 0, column.last_accessed < before
    return _found(connection, _page(column.updated_at, before, limit, after, *asked))


def idle(connection: Connection, before: datetime, limit: int, after: After | None = None) -> list[Candidate]:
    """Current sessions, live or archived and not suspended, without activity since: their routes may be pruned."""
    column = sessions.c
    of_states = [
        _page(column.updated_at, before, limit, after, column.state == state, ~column.suspended)
        for state in ("live", "archived")
    ]
    both = union_all(*(select(one.subquery()) for one in of_states)).order_by("at", "session_id").limit(limit)
    return _found(connection, both)


def ended(connection: Connection, before: datetime, limit: int, after: After | None = None) -> list[Candidate]:
    """Sessions that ended before this time and that nobody read since."""
    column = sessions.c
    return _found(connection, _page(column.ended_at, before, limit, after, text(ENDED), column.last_accessed < before))


def untold(connection: Connection, before: datetime, limit: int, after: After | None = None) -> list[Candidate]:
    """Live sessions without activity since, of whose coming reset the application was not told."""
    return _found(connection, _page(sessions.c.updated_at, before, limit, after, text(UNTOLD)))


def _page(time: Column[datetime], before: datetime, limit: int, after: After | None, *asked: Any) -> Select[Any]:
    session_id = sessions.c.session_id
    wanted = select(sessions.c.session_key, session_id, time.label("at")).where(*asked, time < before)
    if after is not None:
        wanted = wanted.where(tuple_(time, session_id) > tuple_(literal(after[0], Instant), literal(after[1])))
    return wanted.order_by(time, session_id).limit(limit)


def _found(connection: Connection, page: Any) -> list[Candidate]:
    return [Candidate(row.session_key or "", row.session_id, (row.at, row.session_id)) for row in connection.execute(page)]
