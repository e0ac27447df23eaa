"""Statements that several places need and that databases say differently."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Insert,
    Select,
    String,
    Table,
    Text,
    Update,
    and_,
    bindparam,
    cast,
    column,
    func,
    select,
    values,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.types import TypeEngine

# Values in one statement: SQLite takes 32,766 at most.
CHUNK = 1000


def insert_unless_there(connection: Connection, table: Table) -> Insert:
    """An INSERT that leaves existing rows alone."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


class UpdateOfEach:
    """An UPDATE of many rows, each by values of its own: in PostgreSQL one statement for all, elsewhere one repeated.

    Assumes that the rows are locked already, so that their order does not matter.
    """

    def __init__(self, given: Mapping[str, TypeEngine[Any]], made: Callable[[Mapping[str, Any]], Update]) -> None:
        """``made`` makes it of what is given for a row, by name."""
        self._repeated = made({name: bindparam(name, type_=kind) for name, kind in given.items()})
        rows = func.json_to_recordset(cast(bindparam("rows", type_=Text), JSON))
        columns = (column(name, kind) for name, kind in given.items())
        self._at_once = made(dict(rows.table_valued(*columns, name="given").render_derived(with_types=True).c.items()))

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Update these rows; times among the values are aware."""
        if not rows:
            return
        if connection.dialect.name == "postgresql":
            connection.execute(self._at_once, {"rows": orjson.dumps(rows).decode()})
        else:
            connection.execute(self._repeated, rows)


def chunks(values: Sequence[Any], size: int = CHUNK) -> Iterator[Sequence[Any]]:
    """The values in pieces that fit one statement."""
    return (values[at : at + size] for at in range(0, len(values), size))


def matching(name: Column[Any], pairs: Sequence[tuple[str, Any]], *more: ColumnElement[Any]) -> Select[Any]:
    """Those of the pairs (session id, name) that the table of ``name`` has, and ``more``: by index, one look-up for each.

    A join, because SQLite answers ``(a, b) IN (…)`` by reading the whole table.
    """
    kind = String if isinstance(name.type, String) else BigInteger
    asked = values(column("a", String), column("b", kind), name="asked").data(list(pairs)).cte("asked")
    session_id = name.table.c.session_id
    return select(session_id, name, *more).join_from(asked, name.table, and_(session_id == asked.c.a, name == asked.c.b))
