"""Where a session key stands in the store, for an operator: its version, its sessions, and one of them."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from sessioncache.info import Info
from sessioncache.schema import routes
from sessioncache.store import find
from sessioncache.store.find import STATES, Filters


@dataclass(frozen=True, slots=True)
class Standing:
    """What the store knows of a session key.

    Attributes:
        version: None for a key that it does not know.
        current: the id of its current session, if there is one.
        sessions: how many it has, ended ones counting, deleted ones not.
        info: the session that was asked for; None for none.
    """

    version: int | None
    current: str | None
    sessions: int
    info: Info | None


def standing(connection: Connection, session_key: str, session_id: str | None) -> Standing:
    """Where a key stands, and the session of this id, or (None) its current one."""
    route = connection.execute(select(routes).where(routes.c.session_key == session_key)).one_or_none()
    current = route.session_id if route else None
    sessions = find.count(connection, Filters(session_key=session_key, states=STATES))
    wanted = session_id or current
    info = find.one(connection, wanted) if wanted else None
    return Standing(route.version if route else None, current, sessions, info)
