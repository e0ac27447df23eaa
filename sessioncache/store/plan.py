"""What a pending log does to the store: decided here, as a pure function, and done by `apply`.

Rules (design section 5, *Draining*), tried in the protocol's model:

- An op whose id is known is a repeat and skipped; every other op is new and takes effect. An append is known by its
  message, or by its message id among the applied ops, if the message was removed since (I3).
- A new op at or below the key's version was given its version by a Redis that came back older: it gets a new version
  after the key's, with all that follow, and the hot copy is dropped. It moves no
  consolidated pointer: at the seq that it names another message may stand, and what came meanwhile nobody summarised.
- An op for a deleted session becomes a dead letter (I6); one for a session that is no longer current is kept under the
  session it was written for. In both cases the hot copy is dropped.
- An op for a session that the store does not have becomes a dead letter: so did its start.
- An op for a session that has become another key's becomes a dead letter too; a deletion of it is ignored, because
  whoever deletes looks whether it worked. A session that is not current keeps its order: what comes late for it gets a
  seq after its last one.

Assumes that the log is in version order and whole groups, and that the key's route is locked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from sessioncache import op as ops
from sessioncache.op import Op
from sessioncache.store.payloads import text_of
from sessioncache.store.planned import Activity, AppliedOp, Diverged, Kept, Log, NewMessage, Outcome, Plan, Route, Standing

DELETED, MOVED, MISSING = "session_deleted", "session_moved", "session_missing"
RESET, SWITCHED = "session_reset", "session_switch"


def known_id(op: Op) -> str:
    """The id by which the store remembers an op."""
    return op.message_id if op.kind in ops.MESSAGE_KINDS else op.op_id


def plan(logs: Sequence[Log], standing: Standing, reason: str = "") -> Plan:
    """What these logs do to a store that stands so, which is brought forward. With a reason, their ops are refused."""
    made = Plan()
    for log in logs:
        _KeyPlan(log.session_key, standing, made, reason).follow(log.ops)
    return made


class _KeyPlan:
    """Follows one key's log."""

    def __init__(self, session_key: str, standing: Standing, made: Plan, reason: str) -> None:
        route = standing.routes.get(session_key, Route("", 0))
        self.key, self.standing, self.made = session_key, standing, made
        self.current, self.version = route.session_id, route.version
        self.outcome, self.reason = Outcome(session_key, route.version), reason
        self.step = 0

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
        elif reason := self._reason_to_refuse(op):
            self.made.applied_ops.append(AppliedOp(self.key, op, self.version, refused=True))
            self.outcome.set_aside[reason] = self.outcome.set_aside.get(reason, 0) + 1
            self._refuse(op, reason)
        else:
            self._apply(op, name)
            self.outcome.applied.append(op.name)

    def _reason_to_refuse(self, op: Op) -> str:
        if self.reason:
            return self.reason
        if op.kind in (ops.LEAVE, ops.DELETE, ops.START):
            return DELETED if op.kind == ops.START and op.session_id in self.standing.deleted else ""
        if op.session_id in self.standing.deleted:
            return DELETED
        key = self.standing.keys.get(op.session_id)
        if key is None:
            return MISSING
        return MOVED if key != self.key else ""

    def _refuse(self, op: Op, reason: str = DELETED) -> None:
        self.standing.refused.add((op.session_id, known_id(op)))
        self.outcome.drop = True
        self.outcome.refused.append((op.name, reason))

    def _apply(self, op: Op, name: tuple[str, str]) -> None:
        is_message = op.kind in ops.MESSAGE_KINDS
        newest = self.version
        if is_message:
            newest = max(newest, self.standing.last_seqs.get(op.session_id, 0))
        if op.version <= newest or self.outcome.renumbered:
            self.outcome.renumbered += 1
            self.outcome.drop = True
            self.version = newest + 1
        else:
            self.version = op.version
        self.standing.known[name] = self.version
        if not is_message:
            self.made.applied_ops.append(AppliedOp(self.key, op, self.version))
        self._EFFECTS[op.kind](self, op)

    def _activity_of(self, session_id: str) -> Activity:
        found = self.made.activity.get(session_id)
        if found is None:
            found = self.made.activity[session_id] = Activity()
        return found

    def _seen(self, op: Op) -> Activity:
        seen = self._activity_of(op.session_id)
        seen.accessed_ms = op.at_ms
        return seen

    def _active(self, op: Op) -> None:
        seen = self._seen(op)
        seen.active_ms, seen.told = op.at_ms, False

    def _append(self, op: Op) -> None:
        message_id, packed = ops.message_of(op)
        step = self.made.step(self.step)
        if step.edits:
            self.step += 1
            step = self.made.step(self.step)
        step.messages.append(NewMessage(op.session_id, self.version, message_id, op.at_ms, packed))
        self.standing.last_seqs[op.session_id] = self.version
        seen = self._seen(op)
        seen.added += 1
        seen.last_seq, seen.message_ms = self.version, op.at_ms
        if op.kind == ops.APPEND:
            seen.active_ms, seen.told = op.at_ms, False
        self.outcome.drop |= op.session_id != self.current

    def _edit(self, op: Op) -> None:
        self.made.step(self.step).edits.append((self.key, op))
        if op.kind == ops.CLEAR:
            self.made.updates.append(op)
        self._seen(op)
        self.outcome.drop |= op.session_id != self.current

    def _update(self, op: Op) -> None:
        self.made.updates.append(Diverged(op) if self.outcome.renumbered else op)
        self._seen(op)
        if op.payload.startswith(b"1"):
            self._active(op)

    def _start(self, op: Op) -> None:
        if self.current and op.payload.startswith(b"1"):
            self.made.updates.append(Kept(op.session_id, self.current))
        self.made.end(self.current, op.at_ms, RESET)
        self.made.starts.append((self.key, op))
        self.standing.keys[op.session_id] = self.key
        self.current = op.session_id

    def _switch(self, op: Op) -> None:
        if self.current != op.session_id:
            self.made.end(self.current, op.at_ms, SWITCHED)
        self.made.ends.pop(op.session_id, None)
        self.made.resumed.add(op.session_id)
        self.made.updates.append(op)
        self._active(op)  # or the policy would end it again at the next opening
        self.current = op.session_id

    def _leave(self, op: Op) -> None:
        self.made.left.append((self.key, op.session_id))
        if self.current == op.session_id:
            self.made.end(op.session_id, op.at_ms, text_of(op))
            self.current = ""

    def _delete(self, op: Op) -> None:
        if self.standing.keys.get(op.session_id) != self.key:
            self.outcome.drop = True
            return
        self.made.deletes[op.session_id] = op.at_ms
        self.standing.deleted.add(op.session_id)
        if self.current == op.session_id:
            self.current = ""

    def _touch(self, op: Op) -> None:
        self._seen(op)

    def _tell(self, op: Op) -> None:
        self._activity_of(op.session_id).told = True

    _EFFECTS: ClassVar[dict[str, Callable[[_KeyPlan, Op], None]]] = {
        **dict.fromkeys(ops.MESSAGE_KINDS, _append),
        **dict.fromkeys((ops.REPLACE, ops.TRUNCATE, ops.CLEAR, ops.RETAIN, ops.REMOVE, ops.EDIT), _edit),
        ops.UPDATE: _update,
        ops.START: _start,
        ops.SWITCH: _switch,
        ops.LEAVE: _leave,
        ops.DELETE: _delete,
        ops.TOUCH: _touch,
        ops.TELL: _tell,
    }
