"""Near copies: the messages that this process has read, still encoded, so that the next read transfers what is new.

Guarantees: never stale, because every read checks session id, revision and version in Redis and replaces what does not
match; never damaged by a caller, because only bytes are kept and each access decodes anew (I8); bounded by sessions and
by bytes, the least recently used going first.

Mechanism: under one revision messages are only ever appended, so a copy is a growing list and a length. Two readers that
extend the same list agree on every element; a reader that came earlier keeps its length.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from sessioncache.records import Messages

# Bytes of memory that CPython takes besides those of the elements: for each one (its object, what the allocator rounds it
# up to, its place in the list), and for each copy (its names, numbers and places).
PER_ELEMENT = 56
PER_COPY = 600


class Copy(NamedTuple):
    """The newest messages of a session as of one version.

    Attributes:
        total: messages of the session, also those older than the copy holds.
        raw: elements of the ``history`` list, oldest first; may grow behind ``length``. What they hold is sound.
        headed: of how many of them, from the first on, it is known that their headers are in order.
    """

    session_id: str
    revision: str
    version: int
    total: int
    raw: list[bytes]
    length: int
    size: int
    headed: int = 0

    def covers(self, limit: int | None) -> bool:
        """Whether the newest ``limit`` messages (None: all) are in it, also after more were appended."""
        return self.length == self.total or (limit is not None and self.length >= limit)

    def newest(self, limit: int | None) -> Messages:
        """The newest ``limit`` messages, or all there are."""
        start = 0 if limit is None else max(0, self.length - limit)
        return Messages(self.raw, start, self.length)


def size_of(elements: Sequence[bytes]) -> int:
    """Bytes of memory that these elements take."""
    return sum(map(len, elements)) + PER_ELEMENT * len(elements)


def copied(session_id: str, revision: str, version: int, total: int, raw: list[bytes], headed: int) -> Copy:
    """A copy of these elements."""
    return Copy(session_id, revision, version, total, raw, len(raw), PER_COPY + size_of(raw), headed)


def _extended(copy: Copy, version: int, added: Sequence[bytes], headed: int) -> Copy:
    """A copy with what came after it, which another reader may have put there already."""
    missing = copy.length + len(added) - len(copy.raw)
    if missing > 0:
        copy.raw.extend(added[len(added) - missing :])
    total, length, size = copy.total + len(added), copy.length + len(added), copy.size + size_of(added)
    return Copy(copy.session_id, copy.revision, version, total, copy.raw, length, size, headed)


class NearCopies:
    """The near copies of one process. Safe to use from any thread."""

    def __init__(self, max_sessions: int, max_bytes: int) -> None:
        self._max_sessions, self._max_bytes = max_sessions, max_bytes
        self.renew()

    def renew(self) -> None:
        """Begin empty, with a lock of its own: after a fork a thread that is not there may hold the other."""
        self._lock = threading.Lock()
        self._copies: OrderedDict[str, Copy] = OrderedDict()
        self._bytes = 0

    def get(self, session_key: str) -> Copy | None:
        """The copy of this session key, if there is one."""
        with self._lock:
            if session_key in self._copies:
                self._copies.move_to_end(session_key)
            return self._copies.get(session_key)

    def kept(self) -> tuple[int, int]:
        """How many sessions are kept, and their size in bytes."""
        with self._lock:
            return len(self._copies), self._bytes

    def put(self, session_key: str, copy: Copy) -> None:
        """Keep this copy, unless a newer one of the same revision is kept already, or it alone is too large."""
        with self._lock:
            kept = self._copies.get(session_key)
            if kept is None or kept.raw is not copy.raw or kept.version <= copy.version:
                self._keep(session_key, copy)

    def _keep(self, session_key: str, copy: Copy) -> None:
        self._forget(session_key)
        if copy.size <= self._max_bytes:
            self._bytes += copy.size
            self._copies[session_key] = copy
            while self._copies and (len(self._copies) > self._max_sessions or self._bytes > self._max_bytes):
                self._bytes -= self._copies.popitem(last=False)[1].size

    def extend(self, copy: Copy, version: int, added: Sequence[bytes], headed: int) -> Copy:
        """The copy with the messages that came after it, as of a later version."""
        with self._lock:
            return _extended(copy, version, added, headed)

    def follow(
        self, session_key: str, session_id: str, revision: str, before: int, version: int, added: Sequence[bytes]
    ) -> None:
        """Extend the copy that is kept of this session by the messages that came right after it, if it is one."""
        with self._lock:
            copy = self._copies.get(session_key)
            if copy and copy.version == before and copy.revision == revision and copy.session_id == session_id:
                self._keep(session_key, _extended(copy, version, added, copy.headed))

    def drop(self, session_key: str) -> None:
        """Forget this session key."""
        with self._lock:
            self._forget(session_key)

    def _forget(self, session_key: str) -> None:
        kept = self._copies.pop(session_key, None)
        self._bytes -= kept.size if kept else 0
