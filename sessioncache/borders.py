"""The border where foreign errors become ours: one function, the cause kept by the caller's ``raise … from``.

The database's verdicts are told apart by SQLSTATE (PostgreSQL) or result code (SQLite), never by exception class. Texts
of foreign errors are quoted only where they cannot hold a message's content or a secret.
"""

from __future__ import annotations

from redis import exceptions as hot
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

# Error replies that pass by themselves: Redis is loading, failing over, or cannot save for the moment.
_PASSING = ("LOADING", "READONLY", "MISCONF", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "BUSY", "NOREPLICAS")
# https://www.postgresql.org/docs/current/errcodes-appendix.html: data exception, integrity constraint violation.
_REFUSED_CLASSES = ("22", "23")
_MISSING_STATES = frozenset({"42P01", "42703", "3F000"})
_REFUSED_CODES = frozenset({"SQLITE_CONSTRAINT", "SQLITE_TOOBIG", "SQLITE_MISMATCH"})

FOREIGN = (hot.RedisError, OSError, store.SQLAlchemyError)


def translate(error: Exception, *, of_store: bool) -> SessionCacheError:
    """Our error for one of redis, sqlalchemy or the network (`FOREIGN`), met while asking the store or Redis."""
    if isinstance(error, store.SQLAlchemyError):
        return _from_store(error)
    if of_store:
        return StoreUnavailable(f"The database did not answer ({type(error).__name__}); check that it runs.")
    if isinstance(error, hot.ResponseError):
        return _from_reply(error)
    return HotTierUnavailable(
        f"Redis did not answer ({type(error).__name__}); check that it runs and that the URL is right."
    )


def _from_reply(error: hot.ResponseError) -> SessionCacheError:
    text = str(error)
    if isinstance(error, hot.OutOfMemoryError) or "> 'maxmemory'" in text:
        return HotTierFull("Redis has reached maxmemory; flush, or give it more memory.")
    if isinstance(error, hot.ReadOnlyError) or text.startswith(_PASSING):
        return HotTierUnavailable(f"Redis cannot serve this now ({text.split(' ', 1)[0]}); try again.")
    return HotTierRefused(f"Redis refused a command: {text[:200]}")


def _from_store(error: store.SQLAlchemyError) -> SessionCacheError:
    if not isinstance(error, store.DBAPIError):
        return StoreUnavailable(f"The database connection failed ({type(error).__name__}); check the database and its URL.")
    reason = reason_of(error)
    if reason in _MISSING_STATES or "no such table" in str(error.orig) or "no such column" in str(error.orig):
        return SchemaMismatch("The database lacks a table or column; run `sessioncache db upgrade`.")
    if reason[:2] in _REFUSED_CLASSES or any(reason.startswith(code) for code in _REFUSED_CODES):
        return StoreRefused(
            f"The database refused a change for its content ({reason}); look for a constraint or a trigger of your own.",
            reason=reason,
        )
    return StoreUnavailable(f"The database could not do it now ({reason}); check that it runs and can be written to.")


def reason_of(error: store.DBAPIError) -> str:
    """The SQLSTATE or the SQLite result code of a database error, else the name of its class."""
    original = error.orig
    found = getattr(original, "sqlstate", None) or getattr(original, "sqlite_errorname", None)
    return str(found or type(original).__name__)
