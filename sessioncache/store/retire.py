"""Retention: ended sessions go, in bulk, with their rows locked against a switch that would bring one back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, select

from sessioncache.schema import routes, sessions
from sessioncache.store.edits import bury


def retire(connection: Connection, session_ids: Sequence[str], before: datetime, now: datetime) -> dict[str, str | None]:
    """Delete those of these sessions that ended before a time, and were not accessed since; by id, their owners."""
    column = sessions.c
    wanted = select(column.session_id, column.owner).where(
        column.session_id.in_(session_ids), column.state == "ended", column.ended_at < before, column.last_accessed < before
    )
    found = {row[0]: row[1] for row in connection.execute(wanted.with_for_update(skip_locked=True))}
    current = select(routes.c.session_id).join(sessions, sessions.c.session_key == routes.c.session_key)
    for session_id in connection.scalars(current.where(column.session_id.in_(list(found)))):
        found.pop(session_id, None)
    for session_id in found:
        bury(connection, session_id, now, now)
    return found
