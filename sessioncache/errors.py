"""Every error that crosses the door, as one tree of named situations.

Guarantee: no exception of redis, rq or sqlalchemy reaches a caller. Foreign errors are translated at one border
(`borders.py`) and kept as ``__cause__``. A message is a sentence that says what to do next; it never holds a secret
or a message's content.
"""

from __future__ import annotations

from typing import Any


class SessionCacheError(Exception):
    """The root of the tree: ``except SessionCacheError`` catches all of it."""


class ConfigurationError(SessionCacheError):
    """A setting, URL or handed-in client cannot be used; nothing was started."""


class UnsafeEviction(ConfigurationError):
    """Redis may evict what only Redis knows; nothing was written."""


class LayoutMismatch(ConfigurationError):
    """Redis or SQL was laid out with another number of partitions or another layout version."""


class Repartitioning(SessionCacheError):
    """The number of partitions is being changed; the call may be tried again soon, with the new number.

    A call of one step wrote nothing. One of several (a fork, a switch to another key's session) may have done the first.
    """


class SchemaMismatch(ConfigurationError):
    """The database schema is missing, behind or ahead of this library."""


class InvalidInput(SessionCacheError, ValueError):
    """The caller's argument is refused; nothing was written."""


class InvalidMessage(InvalidInput):
    """A message that JSON cannot say, or that is too large; names the path of the offending value."""


class InvalidKey(InvalidInput):
    """A session key, message id or owner outside its limits."""


class SessionNotFound(SessionCacheError, LookupError):
    """No session is current under this key, or it belongs to another owner."""


class SessionMoved(SessionCacheError):
    """Another session is current under this key now.

    Attributes:
        session_id: the id the caller meant.
        current: the id that is current now.
    """

    def __init__(self, message: str, *, session_id: str, current: str) -> None:
        super().__init__(message)
        self.session_id = session_id
        self.current = current


class SessionDeleted(SessionCacheError):
    """The session was deleted; nothing was written."""


class VersionConflict(SessionCacheError):
    """The key's version is not the expected one; nothing was written.

    Attributes:
        expected: the version the caller named.
        current: the key's version now.
    """

    def __init__(self, message: str, *, expected: int, current: int) -> None:
        super().__init__(message)
        self.expected = expected
        self.current = current


class SessionExists(SessionCacheError):
    """There is a session under this key already, or one of this id; nothing was written."""


class TurnLost(SessionCacheError):
    """Another server has the turn by now; nothing was written."""


class TurnTimeout(SessionCacheError):
    """Another server had the turn all the time that was waited for it."""


class HookFailed(SessionCacheError):
    """A function of the application raised; the sentence says what is done all the same."""


class Backpressure(SessionCacheError):
    """Too much waits for the store, which has not kept up; nothing was written.

    Attributes:
        bound: the setting that says how much may wait.
        waiting: what waits already, in its unit: ops, bytes, or the age of the oldest op in seconds.
    """

    def __init__(self, message: str, *, bound: str, waiting: float) -> None:
        super().__init__(message)
        self.bound = bound
        self.waiting = waiting


class DurabilityUnavailable(SessionCacheError):
    """Redis cannot tell whether it reached this level of durability; nothing was written."""


class DurabilityNotReached(SessionCacheError):
    """What was appended is accepted, but is not known to have reached the level that was asked for, in time.

    Attributes:
        durability: that level.
        records: the records, as the append would have returned them.
    """

    def __init__(self, message: str, *, durability: str, records: list[Any]) -> None:
        super().__init__(message)
        self.durability = durability
        self.records = records


class HydrationTimeout(SessionCacheError):
    """The history could not be brought back from the store within the deadline."""


class HotTierUnavailable(SessionCacheError):
    """Redis did not answer within the configured time. Whether a write took effect is unknown; repeat it with its id."""


class HotTierFull(SessionCacheError):
    """Redis has reached ``maxmemory`` and refused the write whole."""


class HotTierRefused(SessionCacheError):
    """Redis answered with an error that repeating does not mend."""


class StoreUnavailable(SessionCacheError):
    """The database did not answer, or not in time. Whether a transaction was committed is unknown."""


class CorruptLog(SessionCacheError):
    """A pending log holds something that is no op this version knows; its key is stopped, no other."""


class CorruptRecord(SessionCacheError):
    """What the database says of the place of a session key, or of a message, cannot be read; that key waits, no other."""


class StoreRefused(SessionCacheError):
    """The database refused a change for its content.

    Attributes:
        reason: the database's own code: an SQLSTATE, or the name of an SQLite result code.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
