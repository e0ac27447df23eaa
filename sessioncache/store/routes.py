"""Routes: which session is current under which key, and the key's version. Whoever changes a key holds its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from sessioncache.arguments import MAX_NUMBER
from sessioncache.errors import CorruptRecord
from sessioncache.schema import routes
from sessioncache.store.planned import Route
from sessioncache.store.statements import UpdateOfEach, chunks, insert_unless_there

# Made once: of little work that comes steadily, making its statements is much.
_OF_KEYS = routes.c.session_key.in_(bindparam("keys", expanding=True))
_THERE = select(routes.c.session_key).where(_OF_KEYS)
_LOCKED = select(routes).where(_OF_KEYS).order_by(routes.c.session_key).with_for_update()


def locked(connection: Connection, keys: Sequence[str]) -> dict[str, Route]:
    """Lock the routes of these keys, made where they are missing; first all inserts, then all locks, each in order."""
    there: set[str] = set()
    for some in chunks(keys):
        there.update(connection.scalars(_THERE, {"keys": some}))
    missing = [{"session_key": key, "version": 0} for key in keys if key not in there]
    if missing:
        connection.execute(insert_unless_there(connection, routes), missing)
    found: dict[str, Route] = {}
    for some in chunks(keys):
        found.update(_found(connection.execute(_LOCKED, {"keys": some})))
    return found


def _found(rows: Any) -> dict[str, Route]:
    return {row.session_key: Route(row.session_id or "", checked_version(row.session_key, row.version)) for row in rows}


def checked_version(session_key: str, version: object) -> int:
    """The version in a route.

    Raises:
        CorruptRecord: it is none; SQLite keeps anything in any column.
    """
    if type(version) is not int or not 0 <= version < MAX_NUMBER:
        raise CorruptRecord(
            f"The version of session key {session_key!r} in the table routes cannot be read; set it above every seq of its "
            "sessions' messages."
        )
    return version


def move(connection: Connection, moved: Mapping[str, Route]) -> None:
    """Let keys have these sessions and versions; their rows are locked."""
    rows = [{"key": key, "id": to.session_id or None, "at_version": to.version} for key, to in moved.items()]
    _MOVE.execute(connection, rows)


_MOVE = UpdateOfEach(
    {"key": routes.c.session_key.type, "id": routes.c.session_id.type, "at_version": routes.c.version.type},
    lambda to: (
        update(routes).where(routes.c.session_key == to["key"]).values(session_id=to["id"], version=to["at_version"])
    ),
)
