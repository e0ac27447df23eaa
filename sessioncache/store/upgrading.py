"""Bringing a database to the schema of this version, while others use it.

Guarantees: in one transaction; never backwards; two at once do it one after the other. Tables that somebody uses are not
queued for: they are asked for again and again, so that whoever came first goes on, and so do those who come later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from sessioncache.borders import interruptions, reason_of
from sessioncache.errors import ConfigurationError, SchemaMismatch
from sessioncache.migrate import lock_migrations, lock_tables, revisions, upgrade
from sessioncache.schema import HEAD
from sessioncache.store.check import foreign_tables, schema_version

# SQLSTATE lock_not_available and deadlock_detected, and SQLite's SQLITE_BUSY in its kinds.
_IN_USE = ("55P03", "40P01", "SQLITE_BUSY")


def bring_up(engine: Engine, waits: Iterator[float], wait: Callable[[float], None]) -> str:
    """Set the database up or upgrade it, as soon as nobody is in the way; the schema version.

    ``wait`` is called with seconds from ``waits`` each time that somebody is.

    Raises:
        SchemaMismatch: the database is of a later version; nothing was changed.
        ConfigurationError: it has tables of our names that are not ours; nothing was changed.
        DBAPIError: the database refused something else.
    """
    while True:
        try:
            with interruptions(), engine.begin() as connection:
                _bring_up(connection)
        except DBAPIError as error:
            if not reason_of(error).startswith(_IN_USE):
                raise
            wait(next(waits))
        else:
            return HEAD


def _bring_up(connection: Connection) -> None:
    lock_migrations(connection)
    found = schema_version(connection)
    if found == HEAD:
        return
    foreign = foreign_tables(connection) if found is None else []
    if foreign:
        raise ConfigurationError(
            f"The database has tables named {', '.join(foreign)} that are not ours; give sessioncache a database "
            "or a schema of its own (PostgreSQL: add ?options=-csearch_path%3Dsessioncache to the URL)."
        )
    if found is not None and found not in revisions():
        raise SchemaMismatch(
            f"The database schema is ahead ({found}, not {HEAD}) and is left as it is, for there is no way back; upgrade "
            "the sessioncache package."
        )
    lock_tables(connection, found)
    upgrade(connection)
