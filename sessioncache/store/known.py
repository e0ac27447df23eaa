"""Which ops the store knows: asked of one table, in one statement, by index, one look-up for each.

It is asked for every op of every batch, so that hundreds of parameters would cost more than the answer: PostgreSQL is given
two texts of names, one a line. SQLite has them as VALUES, in a text that needs no compiling; JSON would cut them at a NUL.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Column, Connection, Select, Text, and_, bindparam, func, select

from sessioncache.schema import applied_ops, messages
from sessioncache.store.planned import Standing
from sessioncache.store.statements import chunks

# An op by its session id, and its own id or its message's.
Name = tuple[str, str]
# Names in one statement of SQLite, which takes 32,766 values.
MOST = 16_000


def know_ops(connection: Connection, names: Sequence[Name], standing: Standing) -> None:
    """Bring forward which of these ops are known as ops, or as messages that were removed; and which as refused."""
    known = applied_ops.c
    for session_id, name, version, refused in _found(connection, names, known.op_id, known.version, known.refused):
        if refused:
            standing.refused.add((session_id, name))
        else:
            standing.known[session_id, name] = version


def know_messages(connection: Connection, names: Sequence[Name], standing: Standing) -> None:
    """Bring forward which of these ops are known by the message that they appended; what is known as an op stays so."""
    for session_id, name, seq in _found(connection, names, messages.c.message_id, messages.c.seq):
        standing.known.setdefault((session_id, name), seq)


def _found(connection: Connection, names: Sequence[Name], *columns: Column[Any]) -> Iterable[tuple[Any, ...]]:
    """Session id and these columns, of which the first is the name, of the rows that there are."""
    if not names:
        return []
    if connection.dialect.name == "postgresql":
        session_ids, own = zip(*names, strict=True)
        asked = {"session_ids": "\n".join(session_ids), "names": "\n".join(own)}
        return [tuple(row) for row in connection.execute(_joined(columns), asked)]
    return [
        tuple(row)
        for some in chunks(names, MOST)
        for row in connection.exec_driver_sql(_listed(columns, len(some)), tuple(part for pair in some for part in pair))
    ]


@cache
def _joined(columns: tuple[Column[Any], ...]) -> Select[Any]:
    lines = (func.string_to_array(bindparam(name, type_=Text), "\n") for name in ("session_ids", "names"))
    asked = func.unnest(*lines).table_valued("session_id", "name", name="asked").render_derived()
    table = columns[0].table
    same = and_(table.c.session_id == asked.c.session_id, columns[0] == asked.c.name)
    return select(table.c.session_id, *columns).select_from(asked).join(table, same)


def _listed(columns: tuple[Column[Any], ...], count: int) -> str:
    table, named = columns[0].table.name, ", ".join(f"its.{column.name}" for column in columns)
    marks = ", ".join(["(?, ?)"] * count)
    return (
        f"WITH asked (session_id, name) AS (VALUES {marks}) SELECT its.session_id, {named} FROM asked JOIN {table} AS its"  # noqa: S608 - names of our own
        f" ON its.session_id = asked.session_id AND its.{columns[0].name} = asked.name"
    )
