"""Is this database of the schema and layout that this library was made for?

An empty SQLite file is set up by itself; a PostgreSQL database is set up, and any database upgraded, by
``sessioncache db upgrade`` alone.
"""

from __future__ import annotations

from sqlalchemy import Connection, column, inspect, select, table

from sessioncache.errors import SchemaMismatch
from sessioncache.keys import LAYOUT_VERSION
from sessioncache.migrate import revisions, upgrade
from sessioncache.schema import HEAD, TABLES, VERSION_TABLE, layout
from sessioncache.store.layouts import confirm, recorded
from sessioncache.store.statements import insert_unless_there


def check(connection: Connection, partitions: int) -> None:
    """Check schema and layout; record the layout where none is.

    Raises:
        SchemaMismatch: the schema is missing, behind or ahead.
        LayoutMismatch: the database was laid out otherwise.
        Repartitioning: that is being changed.
    """
    check_schema(connection)
    if recorded(connection) is None:
        ours = insert_unless_there(connection, layout).values(version=LAYOUT_VERSION, partitions=partitions)
        connection.execute(ours)
    confirm(connection, partitions)


def check_schema(connection: Connection) -> None:
    """Check the schema; set an empty SQLite file up.

    Raises:
        SchemaMismatch: the schema is missing, behind or ahead.
    """
    found = schema_version(connection)
    if found is None and connection.dialect.name == "sqlite" and not inspect(connection).get_table_names():
        upgrade(connection)
        found = HEAD
    _compare_schema(found)


def schema_version(connection: Connection) -> str | None:
    """The migration this database stands at; None if it was never set up."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.scalar(select(column("version_num")).select_from(table(VERSION_TABLE)))
    return found


def _compare_schema(found: str | None) -> None:
    if found == HEAD:
        return
    if found is None:
        raise SchemaMismatch("The database has no sessioncache schema; run `sessioncache db upgrade`.")
    if found in revisions():
        raise SchemaMismatch(f"The database schema is behind ({found}, not {HEAD}); run `sessioncache db upgrade`.")
    raise SchemaMismatch(f"The database schema is ahead ({found}, not {HEAD}); upgrade the sessioncache package.")


def foreign_tables(connection: Connection) -> list[str]:
    """Tables of our names that are not ours, in a database that was never set up."""
    return sorted(TABLES & set(inspect(connection).get_table_names()))
