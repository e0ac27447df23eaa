"""Engines: how the store is connected to.

Guarantees: SQLite runs in WAL mode, commits are on disk before they are reported (``synchronous=FULL``), and a
transaction that writes takes its lock at once (``BEGIN IMMEDIATE``): a deferred one that reads and then writes fails
without waiting. PostgreSQL connections have a time limit for connecting, for locks, for statements, and for a network that
swallows packets. Pooled
connections never cross a fork. Parameters, which hold messages, are never shown in errors.
"""

from __future__ import annotations

import os
import sqlite3
import time
import weakref
from typing import Any

from sqlalchemy import Connection, Engine, Pool, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from sessioncache.config import Settings, database_url
from sessioncache.flow import WRITES

WAL_TRIES, WAL_PAUSE = 200, 0.02
# The last byte of an SQLite result code; the rest says more about it.
PRIMARY_CODE = 0xFF

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
    return create_engine(url, **_options(url, settings))


def awaiting(settings: Settings) -> AsyncEngine:
    """An engine for `Awaiting`."""
    url = database_url(settings.database_url, awaiting=True)
    return create_async_engine(url, **_options(url, settings))


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
        "connect_timeout": max(2, round(settings.database_timeout)),
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
