"""Messages in bulk: by COPY where psycopg is the driver, elsewhere by one INSERT that is executed for each.

Guarantee: errors are SQLAlchemy's, as of any other statement. COPY takes rows while the next ones are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

from sqlalchemy import Connection, insert
from sqlalchemy.exc import DBAPIError

from sessioncache.schema import as_text, messages
from sessioncache.store.columns import MESSAGE, message_row, message_values
from sessioncache.store.planned import NewMessage

COPY = f"COPY messages ({', '.join(MESSAGE)}) FROM STDIN"
_INSERT = f"INSERT INTO messages ({', '.join(MESSAGE)}) VALUES ({', '.join('?' * len(MESSAGE))})"  # noqa: S608 - our own names
# SQLAlchemy's names of psycopg, blocking and awaiting.
_PSYCOPG = frozenset({"psycopg", "psycopg_async"})


def add_messages(connection: Connection, new: Sequence[NewMessage]) -> None:
    """Insert messages; one that is there already is an error.

    Raises:
        StoreRefused: one cannot be read.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(_INSERT, [_as_sqlite_keeps_it(message_values(one)) for one in new])
        return
    if connection.dialect.driver not in _PSYCOPG:
        connection.execute(insert(messages), [message_row(one) for one in new])
        return
    border = connection.dialect.loaded_dbapi.Error
    try:
        _copy(connection, new)
    except border as error:
        raise DBAPIError.instance(  # as SQLAlchemy makes it of what its own statements meet
            COPY, None, _without_row(error), border, hide_parameters=True, dialect=connection.dialect
        ) from None
    except BaseException as error:
        if not isinstance(error, Exception):  # what was interrupted is not over: no other statement can follow it
            connection.invalidate(error)
        raise


def _without_row(error: Any) -> Any:
    """The same error without the lines in which PostgreSQL shows the row that it met, a message's content."""
    if not error.sqlstate:
        return error
    told = type(error)(error.diag.message_primary)
    told.sqlstate = error.sqlstate
    return told


def _as_sqlite_keeps_it(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same with its time as text, without compiling and binding each column anew."""
    return *values[:-1], _as_text(values[-1])


_as_text = lru_cache(maxsize=1024)(as_text)  # what came at once has one time


def _copy(connection: Connection, new: Sequence[NewMessage]) -> None:
    pooled = connection.connection
    if connection.dialect.is_async:
        pooled.dbapi_connection.run_async(partial(_copied_awaiting, new))  # type: ignore[union-attr]  # an adapter's
        return
    with pooled.driver_connection.cursor() as cursor, cursor.copy(COPY) as copy:  # type: ignore[union-attr]  # psycopg's
        for one in new:
            copy.write_row(message_values(one))


async def _copied_awaiting(new: Sequence[NewMessage], driver: Any) -> None:
    async with driver.cursor() as cursor, cursor.copy(COPY) as copy:
        for one in new:
            await copy.write_row(message_values(one))
