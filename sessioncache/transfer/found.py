"""What a reader of some store finds, in a stream.

A reader is a function of a path and `Reading` that yields `FoundSession`, one after the other. The messages of each are an
iterator that is read before the next session is asked for, or not at all; so nothing but one message, and what names the
sessions, is in memory at a time.

Guarantee: what cannot be read is reported once, with file and line, and never stops a reader; the rest is found. What is
found can be stored: messages are encoded (`message.encode`), names are checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Any

# Of our own exports.
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that cannot be read: the file, the line (1 is the first; a row's number in SQL; 0: the whole file), why."""

    file: str
    line: int
    why: str


@dataclass(frozen=True, slots=True)
class Reading:
    """How a reader is to read.

    Attributes:
        zone: that of times that name none.
        max_message_bytes: the largest message, encoded.
        damaged: told of each damage.
        advanced: told how many more bytes (or rows) of those that `size` counted were read.
    """

    zone: tzinfo
    max_message_bytes: int
    damaged: Callable[[Damage], None]
    advanced: Callable[[int], object]


@dataclass(frozen=True, slots=True)
class FoundMessage:
    """A message, encoded.

    Attributes:
        message_id: its own, where its store has one.
        created_at: aware; None: that of the message before.
        seq: its own; only exports have one.
        consolidated: whether it belongs to the consolidated prefix.
    """

    packed: bytes
    message_id: str | None = None
    created_at: datetime | None = None
    seq: int | None = None
    consolidated: bool = False


@dataclass(slots=True)
class FoundSession:
    """A session, and where its messages come from.

    Attributes:
        current: whether it is its key's current session, where that has none.
        columns: of the store's table `sessions`, by name; times aware, costs in billionths, flags as they are.
        messages: oldest first.
        version: that of its key; 0 for a store that has none.
    """

    session_id: str
    session_key: str
    current: bool
    created_at: datetime
    updated_at: datetime
    columns: Mapping[str, Any] = field(default_factory=dict)
    messages: Iterator[FoundMessage] = field(default_factory=lambda: iter(()))
    version: int = 0


Reader = Callable[[str, Reading], Iterator[FoundSession]]
