"""Engines: how the store is connected to.

Guarantees: SQLite runs in WAL mode, commits are on disk before they are reported (``synchronous=FULL``), and a
transaction that writes takes its lock at once (``BEGIN IMMEDIATE``): a deferred one that reads and then writes fails
without waiting. PostgreSQL connections have a time limit for connecting, for locks, for statements, and for a server or a
network that swallows what it is sent: the server's own limits bind only one that still runs. A pooled connection is asked
whether it lives before it is used (one round trip for each transaction, of many ops), so that one that was dropped while it
was idle is never noticed; that and connecting anew share one ``database_timeout``. One to a server that takes no writes is
left, because the next one may lead to another. Pooled connections never cross a fork. Parameters, which hold messages, are
never shown in errors.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import time
import weakref
from collections.abc import Generator
from functools import partial
from selectors import PollSelector
from typing import Any

from sqlalchemy import Connection, Engine, Pool, create_engine, event
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from sessioncache.addresses import database_url
from sessioncache.config import Settings
from sessioncache.flow import WRITES

WAL_TRIES, WAL_PAUSE = 200, 0.02
# The last byte of an SQLite result code; the rest says more about it.
PRIMARY_CODE = 0xFF
# How much longer than a statement may take, in seconds, its answer is waited for.
ANSWER_ON_ITS_WAY = 0.5
# How long a connection waits for an answer, in seconds; kept in its pool record.
PATIENCE = "sessioncache_patience"
# SQLSTATE read_only_sql_transaction.
READ_ONLY = "25006"

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


# Kept for ever in a forked child: SQLite must not even close there what the parent opened.
_of_parent: list[Pool] = []


def _after_fork() -> None:
    for engine in list(_engines):
        _of_parent.append(engine.pool)
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_after_fork)


def blocking(settings: Settings) -> Engine:
    """An engine for `Blocking`."""
    url = database_url(settings.database_url)
    return _impatient(create_engine(url, **_options(url, settings)), settings)


def patient(settings: Settings) -> Engine:
    """An engine for migrations, which take as long as they take: no statement has a limit of time."""
    return prepared(create_engine(database_url(settings.database_url), hide_parameters=True))


def awaiting(settings: Settings) -> AsyncEngine:
    """An engine for `Awaiting`."""
    url = database_url(settings.database_url, awaiting=True)
    engine = create_async_engine(url, **_options(url, settings))
    _impatient(engine.sync_engine, settings)
    return engine


def prepared(engine: Engine) -> Engine:
    """The engine, made here or handed in, with what each of our connections needs; its errors show no parameters."""
    engine.hide_parameters = True
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        event.listen(engine, "invalidate", _roll_back_sqlite)
    _engines.add(engine)
    return engine


def _options(url: URL, settings: Settings) -> dict[str, Any]:
    common: dict[str, Any] = {"hide_parameters": True, "pool_timeout": settings.database_timeout}
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": settings.database_timeout}, "hide_parameters": True}
    limit, asked = round(settings.database_timeout * 1000), url.query.get("options", "")
    connect = {
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": limit,
        "connect_timeout": max(2, round(settings.database_timeout / 2)),
        "options": f"-c statement_timeout={limit} -c lock_timeout={limit} -c timezone=UTC {asked}",
    }
    return {**common, "pool_size": settings.pool_size, "pool_pre_ping": True, "connect_args": connect}


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # Text that is no UTF-8 would fail the whole page it stands on.
    getattr(connection, "driver_connection", connection).text_factory = _readable_text
    connection.isolation_level = None  # pysqlite's own BEGIN comes too late; `_begin_sqlite` sends ours
    cursor = connection.cursor()
    _to_wal(cursor)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _readable_text(text: bytes) -> str:
    return text.decode(errors="replace")


def _to_wal(cursor: Any) -> None:
    """Put a new database in WAL mode. Where others use it at the same moment, SQLite refuses this without waiting."""
    for _ in range(WAL_TRIES):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & PRIMARY_CODE != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(WAL_PAUSE)
        else:
            return
    cursor.execute("PRAGMA journal_mode=WAL")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITES, True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _roll_back_sqlite(connection: Any, _record: object, error: BaseException | None) -> None:
    """Roll back what was interrupted: closed alone, it keeps its lock while anything refers to a statement of it."""
    if error is not None and not isinstance(error, Exception):
        connection.rollback()


def _impatient(engine: Engine, settings: Settings) -> Engine:
    """The engine; its connections to PostgreSQL wait for no answer that is not coming."""
    if engine.dialect.name == "postgresql":
        limit = settings.database_timeout
        event.listen(engine, "connect", partial(_bound_waits, limit=limit, awaits=engine.dialect.is_async), insert=True)
        event.listen(engine, "checkout", lambda _connection, record, _fairy: _be_patient(record, limit + ANSWER_ON_ITS_WAY))
        event.listen(engine, "checkin", lambda _connection, record: _be_patient(record, limit / 2))
        event.listen(engine, "handle_error", _leave_if_read_only)
    return engine


def _leave_if_read_only(context: ExceptionContext) -> None:
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
        context.is_disconnect = True


def _be_patient(record: Any, seconds: float) -> None:
    record.info[PATIENCE] = seconds


def _bound_waits(_connection: object, record: Any, limit: float, *, awaits: bool) -> None:
    _be_patient(record, limit)
    info, connection = record.info, record.driver_connection
    driver, waits = weakref.ref(connection), weakref.WeakMethod(connection.wait)
    if awaits:
        connection.wait = lambda work, **_: waits()(_timed(work, driver(), info[PATIENCE]))  # type: ignore[misc]  # it lives
    else:
        connection.wait = lambda work, **_: _waited(work, driver(), info[PATIENCE])


def _timed(work: Generator[Any, Any, Any], driver: Any, seconds: float) -> Generator[Any, Any, Any]:
    """What psycopg waits for, on an event loop; when time is up the connection ends."""
    timer = asyncio.get_running_loop().call_later(seconds, _cut, driver)
    try:
        return (yield from work)
    finally:
        timer.cancel()


def _waited(work: Generator[Any, Any, Any], driver: Any, seconds: float) -> Any:
    """The same by blocking, as psycopg's own wait has no end in some of its releases.

    Interrupted, it leaves the statement to the server's own limit, and the connection to SQLAlchemy, which closes it.
    """
    deadline = time.monotonic() + seconds
    try:
        wanted = next(work)
        with PollSelector() as selector:
            while True:
                selector.register(driver.fileno(), wanted)
                ready = selector.select(deadline - time.monotonic())
                if not ready:
                    _cut(driver)
                    ready = selector.select()
                selector.unregister(driver.fileno())
                wanted = work.send(ready[0][1])
    except StopIteration as done:
        return done.value


def _cut(driver: Any) -> None:
    """Let a connection find itself closed by the server."""
    with socket.socket(fileno=os.dup(driver.fileno())) as connected:
        connected.shutdown(socket.SHUT_RDWR)
