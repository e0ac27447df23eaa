"""Conversation memory for chat and agent applications that run on more than one server.

    from sessioncache import SessionCache

    cache = SessionCache.from_url("redis://localhost:6379/0", "postgresql://localhost/app")
    session = cache.open("telegram:dm:42", owner="alice")
    session.append({"role": "user", "content": "hello"})
    session.history()

`AsyncSessionCache` has the same names, awaited. Every error is a `SessionCacheError`.
"""

from sessioncache.client import SessionCache
from sessioncache.client_async import AsyncSessionCache
from sessioncache.config import Settings
from sessioncache.conversation.key import SessionAddress, build_session_key, parse_session_key, storage_name
from sessioncache.conversation.platforms import PLATFORMS, Platform
from sessioncache.conversation.policy import ResetPolicies, ResetPolicy
from sessioncache.conversation.prompt import HomeChannel, SessionContext, build_session_context_prompt
from sessioncache.conversation.source import SessionSource
from sessioncache.dead import DeadLetter
from sessioncache.diagnosis import Finding
from sessioncache.durability import Replicated, Synced
from sessioncache.errors import (
    Backpressure,
    ConfigurationError,
    CorruptLog,
    CorruptRecord,
    DurabilityNotReached,
    DurabilityUnavailable,
    HookFailed,
    HotTierFull,
    HotTierRefused,
    HotTierUnavailable,
    HydrationTimeout,
    InvalidInput,
    InvalidKey,
    InvalidMessage,
    LayoutMismatch,
    Repartitioning,
    SchemaMismatch,
    SessionCacheError,
    SessionDeleted,
    SessionExists,
    SessionMoved,
    SessionNotFound,
    StoreRefused,
    StoreUnavailable,
    TurnLost,
    TurnTimeout,
    UnsafeEviction,
    VersionConflict,
)
from sessioncache.finding import Listed, Page
from sessioncache.flushing import Flushed
from sessioncache.housekeeping import Kept
from sessioncache.info import Info, Usage
from sessioncache.lifecycle.deleting import Erased
from sessioncache.lifecycle.opening import Begins
from sessioncache.ops import Stats
from sessioncache.records import Messages, Record, StaleHistory
from sessioncache.session import Session
from sessioncache.session_async import AsyncSession
from sessioncache.store.search import Hit

__version__ = "0.1.0"

__all__ = [
    "PLATFORMS",
    "AsyncSession",
    "AsyncSessionCache",
    "Backpressure",
    "Begins",
    "ConfigurationError",
    "CorruptLog",
    "CorruptRecord",
    "DeadLetter",
    "DurabilityNotReached",
    "DurabilityUnavailable",
    "Erased",
    "Finding",
    "Flushed",
    "Hit",
    "HomeChannel",
    "HookFailed",
    "HotTierFull",
    "HotTierRefused",
    "HotTierUnavailable",
    "HydrationTimeout",
    "Info",
    "InvalidInput",
    "InvalidKey",
    "InvalidMessage",
    "Kept",
    "LayoutMismatch",
    "Listed",
    "Messages",
    "Page",
    "Platform",
    "Record",
    "Repartitioning",
    "Replicated",
    "ResetPolicies",
    "ResetPolicy",
    "SchemaMismatch",
    "Session",
    "SessionAddress",
    "SessionCache",
    "SessionCacheError",
    "SessionContext",
    "SessionDeleted",
    "SessionExists",
    "SessionMoved",
    "SessionNotFound",
    "SessionSource",
    "Settings",
    "StaleHistory",
    "Stats",
    "StoreRefused",
    "StoreUnavailable",
    "Synced",
    "TurnLost",
    "TurnTimeout",
    "UnsafeEviction",
    "Usage",
    "VersionConflict",
    "__version__",
    "build_session_context_prompt",
    "build_session_key",
    "parse_session_key",
    "storage_name",
]
