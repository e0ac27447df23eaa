"""Records: stored messages as they are read back, from the elements of a ``history`` list.

Guarantees: what a caller does to a returned object changes no cache (I8), because only bytes are kept and every access
decodes anew; whatever bytes an element holds, reading it raises nothing and runs nothing.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import repeat
from typing import TYPE_CHECKING, Any, overload

from sessioncache.arguments import LAST_MILLISECOND
from sessioncache.elements import Data, decoded, readable
from sessioncache.message import instant

_HEADER = re.compile(rb"(\d{1,16}) (\d{1,15}) ([^\n]+)\n")
_CHUNK = 100  # records that are decoded together


class _Lazy:
    """What a record reads its fields from, once it is asked for them: most records that an append returns never are."""

    __slots__ = ("_raw",)
    _raw: bytes

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """A field that is not there yet."""
            if name in _UNLESS_GIVEN:
                return _UNLESS_GIVEN[name]
            if name not in _READ_BY:
                raise AttributeError(name)
            _READ_BY[name](self)
            return object.__getattribute__(self, name)


@dataclass(frozen=True, slots=True)
class Record(_Lazy):
    """One stored message.

    Attributes:
        seq: its place: strictly increasing within a session, not always by one.
        id: the caller's message id, or one that was made for it.
        created_at: when Redis accepted it, aware UTC.
        data: the message as it was appended; the caller's own copy.
        stale: whether it was read from SQL alone, because Redis was away (the setting ``stale_reads``).
        readable: False where neither tier can give the message back any more; then ``data`` is empty.
        durability: how far it had got when the append returned that gave this record; None for one that was read.
    """

    seq: int
    id: str
    created_at: datetime
    data: dict[str, Any]
    stale: bool = field(default=False, compare=False)
    readable: bool = True
    durability: str | None = field(default=None, compare=False)


_new, _put = object.__new__, object.__setattr__
_put_raw = vars(_Lazy)["_raw"].__set__
_put_data, _put_readable = (vars(Record)[name].__set__ for name in ("data", "readable"))


def record(raw: bytes, durability: str | None = None) -> Record:
    """The record in an element of the ``history`` list; of garbage, one that says that it cannot be read."""
    found = _new(Record)
    _put_raw(found, raw)
    if durability is not None:
        _put(found, "durability", durability)
    return found


def _with_data(raw: bytes, data: Data) -> Record:
    found = _new(Record)
    _put_raw(found, raw)
    _put_data(found, {} if data is None else data)
    _put_readable(found, data is not None)
    return found


def _together(raw: Sequence[bytes], data: Sequence[Data]) -> list[Record]:
    """As `_with_data`, of many that are all readable: one by one they take longer than to decode them."""
    found = list(map(_new, repeat(Record, len(raw))))
    all_readable = repeat(True)  # noqa: FBT003 - a field
    for put, values in (_put_raw, raw), (_put_data, data), (_put_readable, all_readable):
        deque(map(put, found, values), maxlen=0)
    return found


def _read_header(found: Record) -> None:
    header = _HEADER.match(found._raw)  # noqa: SLF001 - its own
    _put(found, "seq", int(header[1]) if header else 0)
    _put(found, "id", header[3].decode(errors="replace") if header else "")
    _put(found, "created_at", instant(min(int(header[2]), LAST_MILLISECOND) if header else 0))


def _read_data(found: Record) -> None:
    raw = found._raw  # noqa: SLF001 - its own
    data = readable([raw])[0] if _HEADER.match(raw) else None
    _put_readable(found, data is not None)
    _put_data(found, {} if data is None else data)


_UNLESS_GIVEN = {"stale": False, "durability": None}
_READ_BY = {"seq": _read_header, "id": _read_header, "created_at": _read_header, "data": _read_data, "readable": _read_data}


class StaleHistory(list[dict[str, Any]]):
    """A list of messages that was read from SQL alone, because Redis was away (the setting ``stale_reads``)."""


class Messages(Sequence[Record]):
    """An immutable sequence of records. It decodes on access, so each access gives the caller a copy of its own.

    Attributes:
        stale: whether it was read from SQL alone, because Redis was away (the setting ``stale_reads``).
    """

    __slots__ = ("_raw", "_start", "_stop", "stale")

    def __init__(self, raw: list[bytes], start: int, stop: int, *, stale: bool = False) -> None:
        """``raw`` may grow behind ``stop``, as a near copy does; what lies before ``stop`` never changes."""
        self._raw, self._start, self._stop, self.stale = raw, start, stop, stale

    def __len__(self) -> int:
        return self._stop - self._start

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Record, ...]: ...
    def __getitem__(self, index: int | slice) -> Record | tuple[Record, ...]:
        if isinstance(index, slice):
            return tuple(self._record(self._start + at) for at in range(*index.indices(len(self))))
        return self._record(range(self._start, self._stop)[index])

    def __iter__(self) -> Iterator[Record]:
        for first in range(self._start, self._stop, _CHUNK):
            raw = self._raw[first : min(first + _CHUNK, self._stop)]
            data = readable(raw)
            records = _together(raw, data) if all(data) else map(_with_data, raw, data)
            yield from map(_marked, records) if self.stale else records

    def _record(self, at: int) -> Record:
        found = record(self._raw[at])
        return _marked(found) if self.stale else found

    def data(self, newest: list[dict[str, Any]] | None = None, among: int = 0) -> list[dict[str, Any]]:
        """The messages alone, as they were appended, but for unreadable ones; a `StaleHistory` if they are stale.

        Args:
            newest: those that can be read among the newest ones, where they are decoded already and nobody's yet.
            among: how many newest ones that were.
        """
        if newest is None or among > len(self):
            newest, among = [], 0
        older = self._raw[self._start : self._stop - among]
        data = [*_readable(older), *newest] if older else newest
        return StaleHistory(data) if self.stale else data

    def __repr__(self) -> str:
        return f"<Messages: {len(self)} records{', stale' if self.stale else ''}>"


def _readable(elements: list[bytes]) -> list[dict[str, Any]]:
    found = decoded(elements)
    return [one for one in readable(elements) if one is not None] if found is None else found


def _marked(found: Record) -> Record:
    _put(found, "stale", True)  # noqa: FBT003 - a field
    return found
