"""The border where foreign errors become ours: one function, the cause kept by the caller's ``raise … from``.

The database's verdicts are told apart by SQLSTATE (PostgreSQL) or result code (SQLite), never by exception class; where a
connection failed and the driver knows no code, by phrases of the text. Texts of foreign errors are quoted only where they
cannot hold a message's content, a secret, or the name of a host, a user or a database.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis import exceptions as hot
from redis.asyncio.sentinel import MasterNotFoundError as AwaitedMasterNotFoundError
from redis.sentinel import MasterNotFoundError
from sqlalchemy import exc as store

from sessioncache.errors import (
    HotTierFull,
    HotTierRefused,
    HotTierUnavailable,
    SchemaMismatch,
    SessionCacheError,
    StoreRefused,
    StoreUnavailable,
)

# Error replies that pass by themselves: Redis is loading, failing over, or cannot save for the moment. Redis 6 puts those
# that a script met into the middle of a text.
_PASSING = "LOADING|READONLY|MISCONF|MASTERDOWN|TRYAGAIN|CLUSTERDOWN|BUSY|NOREPLICAS|UNBLOCKED"
_CODE = re.compile(rf"^-?({_PASSING})(?= )|: -({_PASSING})(?= )")
# What redis-py takes the code off.
_NAMED = {
    hot.ReadOnlyError: "READONLY",
    hot.MasterDownError: "MASTERDOWN",
    hot.TryAgainError: "TRYAGAIN",
    hot.ClusterDownError: "CLUSTERDOWN",
}
# https://www.postgresql.org/docs/current/errcodes-appendix.html. Refused for its content is what the same change would meet
# again on a healthy server: data exception, integrity constraint violation, WITH CHECK OPTION violation, program limit
# exceeded (a row or an index entry too large), and what a trigger raises of its own accord. Everything else passes, by
# itself or once somebody mends the server (a right that was taken, a full disk, a function that is missing): it says
# nothing of the change, and an op that waits is better than one set aside.
_REFUSED_CLASSES = ("22", "23", "44", "54", "P0")
_MISSING_STATES = frozenset({"42P01", "42703", "3F000"})
# `DataError` without a code is a driver's: a value that cannot be sent at all.
_REFUSED_CODES = ("SQLITE_CONSTRAINT", "SQLITE_TOOBIG", "SQLITE_MISMATCH", "DataError")

# libpq tells of a connection that failed in text alone. Phrases of PostgreSQL, libpq and psycopg, what the server said
# first; the SQLSTATE that it has, or that stands for it; and what we say of it. In another language none of them is met.
_UNCONNECTED = (
    ("password authentication failed|no password supplied", "28P01", "it refused the user or the password; check its URL"),
    ('database ".*" does not exist', "3D000", "it has no database of this name; check its URL"),
    ("too many c|connection slots are|no more connections", "53300", "it has no connection left; end idle ones"),
    ("system is (starting|shutting|in recovery|not )", "57P03", "it is starting or stopping; try again"),
    ("permission denied for database", "42501", "the user may not connect to it; grant that"),
    (
        'role ".*" does not exist|not permitted to log in|pg_hba.conf|authentication failed', "28000",
        "it does not let the user in; check its URL, that the user exists, and pg_hba.conf",
    ),
    (
        "resolve host|translate host name|Name or service not known", "08001",
        "the name of its host is not known; check its URL",
    ),
    ("timeout expired", "08001", "it did not answer in time; check that it runs and can be reached"),
    ("Is the server running|No route|unreachable", "08001", "nothing answers there; check that it runs, and its URL"),
    (
        "closed the connection|connection is (lost|closed)|closed unexpectedly|consuming input|receive data", "08006",
        "the connection was cut; check that it runs and can be reached",
    ),
    ("SSL|certificate", "08001", "no encrypted connection came about; check sslmode and the certificates"),
)  # fmt: skip

# What SQLite says, which has one code for it and much else.
_UNSPECIFIC = frozenset({"SQLITE_ERROR", "OperationalError"})
_LACKING = re.compile("no such (table|column)")

FOREIGN = (hot.RedisError, OSError, store.SQLAlchemyError)


@contextmanager
def interruptions() -> Iterator[None]:
    """What a signal handler raises while a transaction of SQLAlchemy ends comes out as it is.

    SQLAlchemy asserts that the transaction has ended, and so hides it. What was being handled already is none of it.
    """
    handled = sys.exception()
    try:
        yield
    except AssertionError as error:
        interruption = error.__context__
        if interruption is None or interruption is handled or isinstance(interruption, Exception):
            raise
        raise interruption from None


def translate(error: Exception, *, of_store: bool) -> SessionCacheError:
    """Our error for one of redis, sqlalchemy or the network (`FOREIGN`), met while asking the store or Redis."""
    if isinstance(error, store.SQLAlchemyError):
        return _from_store(error)
    if of_store:
        return StoreUnavailable(f"The database did not answer ({type(error).__name__}); check that it runs.")
    if isinstance(error, hot.ResponseError):
        return _from_reply(error)
    return _from_connection(error)


def _from_connection(error: Exception) -> SessionCacheError:
    if hot.AuthenticationError in {type(error), type(error.__cause__)}:  # redis-py wraps it where it awaits
        return HotTierRefused("Redis refused the user or the password; check those of its URL.")
    if isinstance(error, hot.BusyLoadingError):
        return HotTierUnavailable("Redis cannot serve this now (LOADING); try again.")
    if isinstance(error, MasterNotFoundError | AwaitedMasterNotFoundError):
        return HotTierUnavailable("No Sentinel names a primary; check that they run, and the service's name in the URL.")
    return HotTierUnavailable(
        f"Redis did not answer ({type(error).__name__}); check that it runs and that the URL is right."
    )


def in_place(commands: Sequence[Sequence[str | bytes | int]], replies: Sequence[Any]) -> list[Any]:
    """The replies to some commands, our error in the place of each that met a key of a wrong type, or no such script.

    Raises:
        ResponseError: another error reply, still foreign.
    """
    found: list[Any] = []
    for command, reply in zip(commands, replies, strict=True):
        if not isinstance(reply, hot.ResponseError):
            found.append(reply)
        elif "WRONGTYPE" in str(reply) or isinstance(reply, hot.NoScriptError):
            found.append(HotTierRefused(f"Redis refused {' '.join(map(str, command[:2]))}: {reply}"))
        else:
            raise reply
    return found


def _from_reply(error: hot.ResponseError) -> SessionCacheError:
    text = str(error)
    if isinstance(error, hot.OutOfMemoryError) or "> 'maxmemory'" in text:
        return HotTierFull("Redis has reached maxmemory; flush, or give it more memory.")
    found = _CODE.search(text)
    code = _NAMED.get(type(error)) or (found and (found[1] or found[2]))
    if code:
        return HotTierUnavailable(f"Redis cannot serve this now ({code}); try again.")
    return HotTierRefused(f"Redis refused a command: {text[:200]}")


def _from_store(error: store.SQLAlchemyError) -> SessionCacheError:
    if not isinstance(error, store.DBAPIError):
        return StoreUnavailable(f"The database connection failed ({type(error).__name__}); check the database and its URL.")
    reason = reason_of(error)
    if reason in _MISSING_STATES or (reason in _UNSPECIFIC and _LACKING.search(str(error.orig))):
        return SchemaMismatch("The database lacks a table or column; run `sessioncache db upgrade`.")
    if reason[:2] in _REFUSED_CLASSES or reason.startswith(_REFUSED_CODES):
        return StoreRefused(
            f"The database refused a change for its content ({reason}); look for a constraint or a trigger of your own.",
            reason=reason,
        )
    told = _unconnected(error)
    why = f": {told[1]}." if told else "; check that it runs and can be written to."
    return StoreUnavailable(f"The database could not do it now ({reason}){why}")


def reason_of(error: store.DBAPIError) -> str:
    """The SQLSTATE or the SQLite result code of a database error, else the name of its class."""
    told = _unconnected(error)
    return told[0] if told else _code(error) or type(error.orig).__name__


def _code(error: store.DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None) or ""


def _unconnected(error: store.DBAPIError) -> tuple[str, str] | None:
    """The SQLSTATE of a connection that failed, and what we say of it; None for anything else."""
    if _code(error) or not isinstance(error, store.OperationalError):
        return None
    text = str(error.orig)
    return next(((state, words) for phrase, state, words in _UNCONNECTED if re.search(phrase, text)), None)
