"""Which ops the store knows: asked of a table in one statement, by index, one look-up for each.

It is asked for every op of every batch, so that hundreds of parameters would cost more than the answer: PostgreSQL is given
two texts of names, one a line, and is kept from reading the whole table. SQLite has them as VALUES, in a text that needs no
compiling; JSON would cut them at a NUL.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Column, Connection, Select, Text, bindparam, func, select, true

from sessioncache.op import MESSAGE_KINDS, Op
from sessioncache.schema import applied_ops, messages
from sessioncache.store.plan import known_id
from sessioncache.store.planned import Standing
from sessioncache.store.statements import chunks

# An op by its session id, and its own id or its message's.
Name = tuple[str, str]
# Names in one statement of SQLite, which takes 32,766 values.
MOST = 16_000


def know(connection: Connection, log: Iterable[Op], standing: Standing) -> None:
    """Bring forward which of these ops are known: by their messages, by themselves, or as refused."""
    names, appended = [], []
    for op in log:
        name = op.session_id, known_id(op)
        names.append(name)
        if op.kind in MESSAGE_KINDS:
            appended.append(name)
    message, applied = messages.c, applied_ops.c
    for session_id, name, seq in _found(connection, appended, message.message_id, message.seq):
        standing.known[session_id, name] = seq
    for session_id, name, version, refused in _found(connection, names, applied.op_id, applied.version, applied.refused):
        if refused:
            standing.refused.add((session_id, name))
        else:
            standing.known[session_id, name] = version


def _found(connection: Connection, names: Sequence[Name], *columns: Column[Any]) -> Iterable[tuple[Any, ...]]:
    """Session id and these columns, of which the first is the name, of the rows that there are."""
    if not names:
        return []
    if connection.dialect.name == "postgresql":
        session_ids, own = zip(*names, strict=True)
        asked = {"session_ids": "\n".join(session_ids), "names": "\n".join(own)}
        return [tuple(row) for row in connection.execute(_one_by_one(columns), asked)]
    return [
        tuple(row)
        for some in chunks(names, MOST)
        for row in connection.exec_driver_sql(_listed(columns, len(some)), tuple(part for pair in some for part in pair))
    ]


@cache
def _one_by_one(columns: tuple[Column[Any], ...]) -> Select[Any]:
    lines = (func.string_to_array(bindparam(name, type_=Text), "\n") for name in ("session_ids", "names"))
    asked = func.unnest(*lines).table_valued("session_id", "name", name="asked").render_derived()
    session_id = columns[0].table.c.session_id
    same = (session_id == asked.c.session_id, columns[0] == asked.c.name)
    its = select(session_id, *columns).where(*same).limit(1).lateral("its")  # what has a limit is joined row by row
    return select(*its.c).select_from(asked).join(its, true())


def _listed(columns: tuple[Column[Any], ...], count: int) -> str:
    table, named = columns[0].table.name, ", ".join(map(str, columns))
    marks = ", ".join(["(?, ?)"] * count)
    return (
        f"WITH asked (session_id, name) AS (VALUES {marks}) SELECT {table}.session_id, {named} FROM asked"  # noqa: S608 - names of our own
        f" JOIN {table} ON {table}.session_id = asked.session_id AND {columns[0]} = asked.name"
    )
