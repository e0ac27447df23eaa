"""What a pending log does to the store: decided here, as a pure function, and done by `apply`.

Rules (design section 5, *Draining*), tried in the protocol's model:

- An op whose id is known is a repeat and skipped; every other op is new and takes effect. An append is known by its
  message, or by its message id among the applied ops, if the message was removed since (I3).
- A new op at or below the key's version was given its version by a Redis that came back older: it gets a new version
  after the key's, with all that follow, and the hot copy is dropped.
- An op for a deleted session becomes a dead letter (I6); one for a session that is no longer current is kept under the
  session it was written for. In both cases the hot copy is dropped.

Assumes that the log is in version order and whole groups, and that the key's route is locked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from sessioncache import op as ops
from sessioncache.op import Op

DELETED = "session_deleted"


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
    """

    routes: dict[str, Route]
    known: dict[tuple[str, str], int]
    refused: set[tuple[str, str]]
    deleted: set[str]


@dataclass(frozen=True, slots=True)
class NewMessage:
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
    """What became of one key's log.

    Attributes:
        applied: names of the ops that the store has, repeats included, in log order.
        refused: names of the ops that go to the dead letters, with the reason.
        version: the key's version in the store.
        drop: whether the hot copy is wrong.
    """

    session_key: str
    version: int
    applied: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    drop: bool = False
    repeats: int = 0
    renumbered: int = 0


@dataclass(slots=True)
class Activity:
    """What happened to one session: messages added, its last seq, times in milliseconds (0: not)."""

    added: int = 0
    last_seq: int = 0
    message_ms: int = 0
    accessed_ms: int = 0


@dataclass(slots=True)
class Plan:
    """What one transaction does, for all its keys."""

    starts: list[tuple[str, Op]] = field(default_factory=list)
    messages: list[NewMessage] = field(default_factory=list)
    activity: dict[str, Activity] = field(default_factory=dict)
    deletes: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    applied_ops: list[AppliedOp] = field(default_factory=list)
    routes: dict[str, Route] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)


def known_id(op: Op) -> str:
    """The id by which the store remembers an op."""
    return ops.message_of(op)[0] if op.kind == ops.APPEND else op.op_id


def plan(logs: Sequence[Log], standing: Standing) -> Plan:
    """What these logs do to a store that stands so. ``standing`` is brought forward."""
    made = Plan()
    for log in logs:
        _KeyPlan(log.session_key, standing, made).follow(log.ops)
    return made


class _KeyPlan:
    """Follows one key's log."""

    def __init__(self, session_key: str, standing: Standing, made: Plan) -> None:
        route = standing.routes.get(session_key, Route("", 0))
        self.key, self.standing, self.made = session_key, standing, made
        self.current, self.version = route.session_id, route.version
        self.outcome = Outcome(session_key, route.version)

    def follow(self, log: Sequence[Op]) -> None:
        """Add to the plan what these ops do."""
        for op in log:
            self._one(op)
        self.outcome.version = self.version
        self.made.routes[self.key] = Route(self.current, self.version)
        self.made.outcomes.append(self.outcome)

    def _one(self, op: Op) -> None:
        name = (op.session_id, known_id(op))
        if name in self.standing.refused:
            self._refuse(op)
        elif name in self.standing.known:
            self.outcome.repeats += 1
            # Redis took a repeat for new, or gave its version out again: its hot copy does not tell what is stored.
            self.outcome.drop |= op.version != self.standing.known[name]
            self.outcome.applied.append(op.name)
        elif op.session_id in self.standing.deleted:
            self.made.applied_ops.append(AppliedOp(self.key, op, self.version, refused=True))
            self._refuse(op)
        else:
            self._apply(op)
            self.outcome.applied.append(op.name)

    def _refuse(self, op: Op) -> None:
        self.standing.refused.add((op.session_id, known_id(op)))
        self.outcome.drop = True
        self.outcome.refused.append((op.name, DELETED))

    def _apply(self, op: Op) -> None:
        if op.version <= self.version or self.outcome.renumbered:
            self.outcome.renumbered += 1
            self.outcome.drop = True
        self.version = self.version + 1 if self.outcome.renumbered else op.version
        self.standing.known[op.session_id, known_id(op)] = self.version
        if op.kind != ops.APPEND:
            self.made.applied_ops.append(AppliedOp(self.key, op, self.version))
        self._EFFECTS[op.kind](self, op)

    def _append(self, op: Op) -> None:
        message_id, packed = ops.message_of(op)
        self.made.messages.append(NewMessage(op.session_id, self.version, message_id, op.at_ms, packed))
        seen = self.made.activity.setdefault(op.session_id, Activity())
        seen.added += 1
        seen.last_seq, seen.message_ms, seen.accessed_ms = self.version, op.at_ms, op.at_ms
        self.outcome.drop |= op.session_id != self.current

    def _start(self, op: Op) -> None:
        if self.current:
            self.made.ends[self.current] = op.at_ms
        self.made.starts.append((self.key, op))
        self.current = op.session_id

    def _delete(self, op: Op) -> None:
        self.made.deletes[op.session_id] = op.at_ms
        self.standing.deleted.add(op.session_id)
        if self.current == op.session_id:
            self.current = ""

    def _touch(self, op: Op) -> None:
        seen = self.made.activity.setdefault(op.session_id, Activity())
        seen.accessed_ms = op.at_ms

    _EFFECTS: ClassVar[dict[str, Callable[[_KeyPlan, Op], None]]] = {
        ops.APPEND: _append,
        ops.START: _start,
        ops.DELETE: _delete,
        ops.TOUCH: _touch,
    }
