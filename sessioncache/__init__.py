"""Conversation memory for chat and agent applications that run on more than one server.

    from sessioncache import SessionCache

    cache = SessionCache.from_url("redis://localhost:6379/0", "postgresql://localhost/app")
    session = cache.open("telegram:dm:42", owner="alice")
    session.append({"role": "user", "content": "hello"})
    session.history()

`AsyncSessionCache` has the same names, awaited. Every error is a `SessionCacheError`.
"""

from sessioncache.client import Session, SessionCache
from sessioncache.client_async import AsyncSession, AsyncSessionCache
from sessioncache.config import Settings
from sessioncache.errors import (
    Backpressure,
    ConfigurationError,
    CorruptLog,
    HotTierFull,
    HotTierRefused,
    HotTierUnavailable,
    HydrationTimeout,
    InvalidInput,
    InvalidKey,
    InvalidMessage,
    LayoutMismatch,
    SchemaMismatch,
    SessionCacheError,
    SessionDeleted,
    SessionMoved,
    SessionNotFound,
    StoreRefused,
    StoreUnavailable,
    VersionConflict,
)
from sessioncache.message import Messages, Record
from sessioncache.ops import Stats

__version__ = "0.1.0"

__all__ = [
    "AsyncSession",
    "AsyncSessionCache",
    "Backpressure",
    "ConfigurationError",
    "CorruptLog",
    "HotTierFull",
    "HotTierRefused",
    "HotTierUnavailable",
    "HydrationTimeout",
    "InvalidInput",
    "InvalidKey",
    "InvalidMessage",
    "LayoutMismatch",
    "Messages",
    "Record",
    "SchemaMismatch",
    "Session",
    "SessionCache",
    "SessionCacheError",
    "SessionDeleted",
    "SessionMoved",
    "SessionNotFound",
    "Settings",
    "Stats",
    "StoreRefused",
    "StoreUnavailable",
    "VersionConflict",
    "__version__",
]
