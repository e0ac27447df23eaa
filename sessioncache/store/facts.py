"""What a database says of itself; nothing in it is changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, false, func, inspect, select, text, update

from sessioncache.schema import HEAD, layout, metadata
from sessioncache.store.check import schema_version
from sessioncache.store.layouts import recorded


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """A database as it was at one instant.

    Attributes:
        product: ``SQLite 3.45.1``, ``PostgreSQL 16.2``.
        schema: the migration that it stands at; None if it was never set up.
        layout: layout version and partitions; None where none is recorded.
        moving_to: the number of partitions it is being changed to; None if it is not.
        now: its clock; None for SQLite, which has none of its own.
        is_replica: whether it only follows another one.
        journal: SQLite's journal mode; ``""`` elsewhere.
    """

    product: str
    schema: str | None
    layout: tuple[int, int] | None
    moving_to: int | None
    now: datetime | None
    is_replica: bool
    journal: str


def store_facts(connection: Connection) -> StoreFacts:
    """Ask a database what it is."""
    schema = schema_version(connection)
    known = (schema, *_layout(connection, schema))
    if connection.dialect.name == "sqlite":
        version = connection.scalar(select(func.sqlite_version()))
        journal = str(connection.exec_driver_sql("PRAGMA journal_mode").scalar())
        return StoreFacts(f"SQLite {version}", *known, None, is_replica=False, journal=journal)
    now: datetime | None = connection.scalar(select(func.clock_timestamp()))
    version = str(connection.scalar(text("SHOW server_version"))).split(" ")[0]
    replica = bool(connection.scalar(select(func.pg_is_in_recovery())))
    utc = now.astimezone(UTC) if now else None
    return StoreFacts(f"PostgreSQL {version}", *known, utc, is_replica=replica, journal="")


def _layout(connection: Connection, schema: str | None) -> tuple[tuple[int, int] | None, int | None]:
    """Layout version and partitions, and what the latter are being changed to, as far as this schema knows."""
    if schema == HEAD and (found := recorded(connection)):
        return found[:2], found.moving_to
    if schema is None or schema == HEAD or not inspect(connection).has_table(layout.name):
        return None, None
    known = connection.execute(select(layout.c.version, layout.c.partitions)).first()
    return (known[0], known[1]) if known else None, None


def write_nothing(connection: Connection) -> None:
    """Change no row of each of our tables: what may not be written to refuses that too.

    Raises:
        DatabaseError: some table cannot be written to.
    """
    for table in metadata.sorted_tables:
        column = next(iter(table.primary_key))
        connection.execute(update(table).where(false()).values({column.name: column}))
        connection.execute(delete(table).where(false()))
