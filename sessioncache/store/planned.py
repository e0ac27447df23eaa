"""What a plan is made of: what a transaction finds, what it does, and what became of each key's log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sessioncache.op import Op


@dataclass(frozen=True, slots=True)
class Log:
    """The head of one key's pending log."""

    session_key: str
    ops: Sequence[Op]


@dataclass(frozen=True, slots=True)
class Route:
    """Where a key stands in the store: its current session id, ``""`` for none, and its version."""

    session_id: str
    version: int


@dataclass(slots=True)
class Standing:
    """What the store knows before a transaction.

    Attributes:
        routes: by session key.
        known: the versions of what was applied, by ``(session id, op id or message id)``.
        refused: the same of what was refused: until an ack has moved them to the dead letters, they are again.
        deleted: ids of deleted sessions.
        keys: the session keys of sessions, by id; last_seqs: the same of their last messages.
    """

    routes: dict[str, Route]
    known: dict[tuple[str, str], int]
    refused: set[tuple[str, str]]
    deleted: set[str]
    keys: dict[str, str] = field(default_factory=dict)
    last_seqs: dict[str, int] = field(default_factory=dict)


class NewMessage(NamedTuple):
    """A message to insert."""

    session_id: str
    seq: int
    message_id: str
    at_ms: int
    packed: bytes


@dataclass(frozen=True, slots=True)
class AppliedOp:
    """An op to remember."""

    session_key: str
    op: Op
    version: int
    refused: bool = False


@dataclass(slots=True)
class Outcome:
    """What became of one key's log. Ops are named as `Op.name` does.

    Attributes:
        version: the key's version in the store.
        refused: with the reason, also those that were refused before, and wait for their ack.
        set_aside: how many are refused for the first time, by reason.
        drop: whether the hot copy is wrong.
    """

    session_key: str
    version: int
    applied: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    set_aside: dict[str, int] = field(default_factory=dict)
    drop: bool = False
    repeats: int = 0
    renumbered: int = 0


@dataclass(slots=True)
class Activity:
    """What happened to one session: messages added, its last seq, times in milliseconds (0: not).

    ``told``: since its last activity the application was told of the coming reset.
    """

    added: int = 0
    last_seq: int = 0
    message_ms: int = 0
    active_ms: int = 0
    accessed_ms: int = 0
    told: bool = False


@dataclass(slots=True)
class Step:
    """Messages to insert, and then changes of messages that stand."""

    messages: list[NewMessage] = field(default_factory=list)
    edits: list[tuple[str, Op]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Kept:
    """A session that begins keeps names of the one it replaces."""

    session_id: str
    replaced: str


@dataclass(frozen=True, slots=True)
class Diverged:
    """An update that got a new version: the seqs that it names may be those of other messages by now."""

    op: Op


@dataclass(slots=True)
class Plan:
    """What one transaction does, for all its keys.

    Attributes:
        starts: sessions that begin, with their keys.
        steps: what happens to messages, in this order.
        updates: what changes what is known of sessions, in the order of their keys' logs.
        ends: when and why sessions end, by id; resumed: those that do not any more.
        left: sessions that leave a key.
    """

    starts: list[tuple[str, Op]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    updates: list[Op | Kept | Diverged] = field(default_factory=list)
    activity: dict[str, Activity] = field(default_factory=dict)
    deletes: dict[str, int] = field(default_factory=dict)
    ends: dict[str, tuple[int, str]] = field(default_factory=dict)
    resumed: set[str] = field(default_factory=set)
    left: list[tuple[str, str]] = field(default_factory=list)
    applied_ops: list[AppliedOp] = field(default_factory=list)
    routes: dict[str, Route] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)

    def step(self, number: int) -> Step:
        """The step of this number, made where it is missing."""
        while len(self.steps) <= number:
            self.steps.append(Step())
        return self.steps[number]

    def end(self, session_id: str, at_ms: int, reason: str) -> None:
        """Let a session end, if there is one."""
        if session_id:
            self.ends[session_id] = (at_ms, reason)
            self.resumed.discard(session_id)
