"""Statements that several places need and that databases say differently."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Insert,
    Select,
    String,
    Table,
    and_,
    column,
    select,
    values,
)
from sqlalchemy.dialects import postgresql, sqlite

# Values in one statement: SQLite takes 32,766 at most.
CHUNK = 1000


def insert_unless_there(connection: Connection, table: Table) -> Insert:
    """An INSERT that leaves existing rows alone."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The values in pieces that fit one statement."""
    return (values[at : at + CHUNK] for at in range(0, len(values), CHUNK))


def matching(name: Column[Any], pairs: Sequence[tuple[str, Any]], *more: ColumnElement[Any]) -> Select[Any]:
    """Those of the pairs (session id, name) that the table of ``name`` has, and ``more``: by index, one look-up for each.

    A join, because SQLite answers ``(a, b) IN (…)`` by reading the whole table.
    """
    kind = String if isinstance(name.type, String) else BigInteger
    asked = values(column("a", String), column("b", kind), name="asked").data(list(pairs)).cte("asked")
    session_id = name.table.c.session_id
    return select(session_id, name, *more).join_from(asked, name.table, and_(session_id == asked.c.a, name == asked.c.b))
