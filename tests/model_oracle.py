"""Watches every request of every call, and says what each caller must be told.

A call *decides*, on a world, what it would be told if it happened there, and what it would change. It happens at the
instant at which Redis accepts its op: then the answer is fixed. What changes nothing may be told of any instant of the
call. What the store alone does, and what it has, is watched at its transactions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from model_driver import CutShort, Driver, Fault, Journey
from model_place import Place
from model_world import DEAD, LOST, STORED, WAITS, Effect, Event, Events, Life, Said, World

from sessioncache import HotTierUnavailable, Session, SessionCacheError, SessionDeleted, SessionMoved, StoreUnavailable
from sessioncache.finding import Page
from sessioncache.flow import Command, Evaluate, Transact
from sessioncache.info import Info
from sessioncache.lifecycle.opening import Opening
from sessioncache.records import Record

AWAY = (HotTierUnavailable, StoreUnavailable)
Told = tuple[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a caller is told, and what changes: nothing, or an effect on one session."""

    told: Told
    effect: Effect | None = None
    said: tuple[Said, ...] = ()


Decide = Callable[[World], list[Answer]]


@dataclass(eq=False)
class Call:
    """A call under way: what it may be told, and once it has happened, what it is told."""

    name: str
    decide: Decide
    fault: Fault | None = None
    fixed: Told | None = None
    possible: list[Answer] = field(default_factory=list)
    journey: Journey | None = None
    faulty: bool = False
    overtaken: bool = False

    def __repr__(self) -> str:
        return f"{self.name}{f' that {self.fault.kind} at {self.fault.at}' if self.fault else ''}"


def found(got: Any) -> Told:  # noqa: PLR0911 - one for each kind
    """What a caller was told, in the model's words."""
    if isinstance(got, SessionCacheError):
        return "error", type(got)
    if isinstance(got, Opening):
        return "session", got.handle.session_id
    if isinstance(got, Session):
        return "session", got.session_id
    if isinstance(got, Info):
        return "facts", facts(got)
    if isinstance(got, Page):
        return "value", frozenset(one.info.session_id for one in got.sessions)
    if isinstance(got, Record):
        return "records", [got]
    if isinstance(got, Sequence) and all(isinstance(one, Record) for one in got):
        return "records", list(got)
    return "value", got


def facts(info: Info) -> dict[str, Any]:
    """As `Life.facts`."""
    return {
        "owner": info.owner, "title": info.title, "metadata": info.metadata, "tokens": info.usage.input_tokens,
        "consolidated": info.consolidated_seq, "count": info.message_count, "archived": info.archived,
        "suspended": info.suspended,
    }  # fmt: skip


def agree(told: Told, got: Told) -> bool:
    """Whether a caller was told this."""
    kind, wanted = told
    if kind == "version":
        return got[0] == "value" and type(got[1]) is int
    if kind in {"records", "history"} and got[0] == "records":
        pairs = list(zip(wanted, got[1], strict=False))
        seqs = [record.seq for record in got[1]]
        same = all(
            record.data["content"] == text and said.id in (None, record.id) and said.seq in (None, record.seq)
            for (said, text), record in pairs
        )
        return len(wanted) == len(got[1]) and same and (kind == "records" or seqs == sorted(set(seqs)))
    return told == got


def learn(told: Told, got: Told) -> None:
    """Keep the ids and seqs that a caller was told."""
    if told[0] in {"records", "history"}:
        for (said, _), record in zip(told[1], got[1], strict=True):
            said.id, said.seq = record.id, record.seq


class Oracle:
    """All calls, and all that was accepted."""

    def __init__(self, place: Place) -> None:
        self.place, self.events = place, Events()
        self.active: list[Call] = []
        self.parked: list[Call] = []
        self.turns: dict[str, str] = {}
        self.rights: list[Any] = []
        self.store_down = False
        self.log: list[str] = []
        self.deaths = 0

    @property
    def world(self) -> World:
        """The world as it is now."""
        return self.events.world()

    def life(self, session_id: str) -> Life | None:
        """A session, as it is now."""
        return self.world.lives.get(session_id)

    # calls

    def begin(self, call: Call) -> None:
        """A call begins."""
        call.possible = call.decide(self.world)
        self.active.append(call)
        self.log.append(f"{call!r}")

    def end(self, call: Call) -> None:
        """Nothing more will come of a call."""
        self.active.remove(call)

    def finish(self, call: Call, got: Any) -> Any:
        """A caller is told something: it must be so."""
        self.end(call)
        told = found(got)
        self.log.append(f"  {call.name} -> {told[1] if told[0] != 'records' else [one.data['content'] for one in told[1]]}")
        away = bool(call.faulty or (call.journey and call.journey.faulty))
        if away and isinstance(got, (*AWAY, SessionMoved)):
            return got
        moves = call.name.split()[0] in {"resume", "switch", "fork", "create"}
        if moves and call.overtaken and isinstance(got, SessionMoved | SessionDeleted):
            return got  # others went on with the key, or deleted what was brought there, before it could be given
        wanted = [call.fixed] if call.fixed else [one.told for one in call.possible if one.effect is None]
        for one in wanted:
            if agree(one, told):
                learn(one, told)
                return got
        raise AssertionError(f"{call!r} was told {told}; right is {shown(wanted)}") from (
            got if isinstance(got, BaseException) else None
        )

    # requests

    def saw(self, call: Call, request: Any, reply: Any) -> None:
        """A request of a call was performed."""
        before = self.events.epoch, dict(self.turns)
        if isinstance(request, Evaluate):
            verb = request.script.verb
            if verb in _CHANGES and reply[0] == b"ok":
                self._accepted(call, verb, request.args, reply)
            elif verb == "ack":
                self._acknowledged()
            elif verb == "turn":
                self._turn(request, reply)
        elif isinstance(request, Command):
            self._acknowledged()
        elif isinstance(request, Transact) and isinstance(request.work, partial):
            stored = _STORES.get(request.work.func.__name__)
            if stored is not None and reply is not None and reply is not False:
                stored(self, reply, **request.work.keywords)
        if (self.events.epoch, self.turns) != before:
            for one in self.active:
                one.possible += one.decide(self.world)

    def _accepted(self, call: Call, verb: str, args: Sequence[Any], reply: Sequence[Any]) -> None:
        ops = args[13::2] if verb == "append" else [args[8]]
        fresh = [op for op in ops if not self._counts(op)]
        if verb in _MOVES:
            if fresh:
                _MOVES[verb](self, call, args, reply)
            return
        key, session_id = args[4], args[5]
        answers = call.decide(self.world)
        answer = next((one for one in answers if one.effect), answers[0])
        if not fresh:
            if call.fixed is None:
                call.fixed = answer.told
            return
        assert answer.told[0] != "error", f"{call!r} was accepted; right is {shown([one.told for one in answers])}"
        if verb == "retain":
            answer = self._retained(call, session_id, gone=int(args[15]))
        call.fixed = answer.told
        if answer.effect:
            self.events.add(key, session_id, answer.effect, fresh, answer.said)

    def _counts(self, op: str) -> bool:
        event = self.events.by_op.get(op)
        return event is not None and event.status not in (DEAD, LOST)

    def _retained(self, call: Call, session_id: str, gone: int) -> Answer:
        """Of what the caller saw, the oldest go; what came since stays."""
        life = self.world.lives[session_id]
        assert gone in {one.told[1]["gone"] for one in call.possible if one.told[0] == "retained"}, (call, gone)
        going = [said for said, _ in life.messages[:gone]]
        left = len(life.messages) - gone

        def effect(world: World) -> None:
            one = world.lives[session_id]
            one.messages = [pair for pair in one.messages if pair[0] not in going]

        return Answer(("value", gone if call.name == "cap" else left), effect)

    def _begun(self, call: Call, args: Sequence[Any], session_id: str) -> None:
        if any(one.told[0] == "begins" for one in call.decide(self.world)):
            key, (owner, title) = args[4], next(one.told[1] for one in call.decide(self.world) if one.told[0] == "begins")
            call.fixed = "session", session_id
            self.events.add(key, "", lambda world: world.start(key, session_id, owner, title), [args[8]])
            self.turns.pop(key, None)
        else:
            raise AssertionError(f"{call!r} began a session; right is {shown([one.told for one in call.possible])}")

    def _opened(self, call: Call, args: Sequence[Any], reply: Sequence[Any]) -> None:
        if reply[3] != b"found":
            self._begun(call, args, args[5])

    def _started(self, call: Call, args: Sequence[Any], _reply: Sequence[Any]) -> None:
        self._begun(call, args, args[10])

    def _switched(self, call: Call, args: Sequence[Any], _reply: Sequence[Any]) -> None:
        key, target = args[4], args[10]
        call.fixed = "session", target
        self.events.add(key, target, lambda world: world.switch(key, target), [args[8]])
        self.turns.pop(key, None)

    def _left(self, _call: Call, args: Sequence[Any], _reply: Sequence[Any]) -> None:
        key, session_id = args[4], args[5]
        self._gone(key, session_id)
        self.events.add(key, "", lambda world: world.leave(key, session_id), [args[8]])

    def _deleted(self, call: Call, args: Sequence[Any], reply: Sequence[Any]) -> None:
        key, session_id = args[4], args[5]
        life = self.life(session_id)
        if life is not None and life.key == key and not life.deleted:
            call.fixed = "value", True
        assert reply[2] == (b"1" if self.world.current.get(key) == session_id else b"0"), call
        self._gone(key, session_id)
        self.events.add(key, "", lambda world: world.delete(key, session_id), [args[8]])

    def _gone(self, key: str, session_id: str) -> None:
        if self.world.current.get(key) == session_id:
            self.turns.pop(key, None)

    def _turn(self, request: Evaluate, reply: bytes) -> None:
        key, (verb, token) = request.keys[0].rpartition(":")[2], request.args[:2]
        if verb == "take" and reply == b"ours":
            assert self.turns.get(key) in (None, token), "two have the turn"
            self.turns[key] = token
        elif verb == "end" and self.turns.get(key) == token:
            del self.turns[key]

    # the store

    def _applied(self, outcomes: Sequence[Any], logs: Sequence[Any], **_: Any) -> None:
        for log, outcome in zip(logs, outcomes, strict=True):
            refused = {name for name, _ in outcome.refused}
            for op in log.ops:
                event = self.events.by_op.get(op.op_id)
                if event is None:
                    assert op.kind == "touch", op
                elif op.name in refused:
                    event.refused = True
                elif event.status != DEAD:
                    event.refused = False
                    self.events.store(event)

    def _acknowledged(self) -> None:
        """What was refused is dead as soon as it is not pending any more."""
        refused = [event for event in self.events.all if event.refused and event.status == WAITS]
        if refused:
            pending = set(self.place.pending())
            for event in refused:
                if not event.ops & pending:
                    self.deaths += 1
                    self.events.bury(event)

    def _claimed(self, _last_seq: int, wanted: Any, **_: Any) -> None:
        def effect(world: World) -> None:
            world.lives[wanted.session_id].key = wanted.session_key

        self.events.add_stored(wanted.session_key, effect)

    def _reserved(self, _done: bool, session_id: str, session_key: str, **_: Any) -> None:  # noqa: FBT001 - a reply
        def effect(world: World) -> None:
            world.lives[session_id] = Life(session_id, session_key)

        self.events.add_stored(session_key, effect)

    def _forked(self, _done: bool, parent_id: str, session_id: str, session_key: str, owner: Any, through: int,  # noqa: FBT001
                **_: Any) -> None:  # fmt: skip
        parent = self.events.world(stored=True).lives[parent_id]
        last = max((said.seq for said, _ in parent.messages if said.seq), default=0)
        messages = [pair for pair in parent.messages if through >= last or (pair[0].seq or 0) <= through]
        known = {said.id: said for said, _ in messages if said.id}
        kept = replace(
            parent, session_id=session_id, key=session_key, owner=owner, tokens=0, flags={}, known=known,
            consolidated=min(parent.consolidated, through),
        )  # fmt: skip

        def effect(world: World) -> None:
            world.lives[session_id] = replace(kept, messages=list(messages), known=dict(known), flags={})

        self.events.add_stored(session_key, effect)

    # what happens to Redis

    def fell_back(self) -> None:
        """Redis is as it was, or empty; whoever was under way is gone."""
        for call in list(self.active):
            self.end(call)
        self.parked.clear()
        self.events.fall_back(self.place.pending(), self.place.letters())
        self.turns.clear()
        self.deaths += 1

    # what holds at all times

    def check(self) -> None:
        """Nothing that waits is missing in Redis (I2); a hot copy that counts is whole and right (I5)."""
        waiting = self.events.waiting()
        if waiting:
            pending = set(self.place.pending())
            missing = [event for event in waiting if not event.ops & pending]
            assert not missing, f"acknowledged, and nowhere: {missing}"
        for name in self.place.names("meta:"):
            self._check_hot(name)

    def _check_hot(self, name: bytes) -> None:
        raw, history = self.place.raw, name.replace(b":meta:", b":history:")
        meta, elements = raw.hgetall(name), raw.lrange(history, 0, -1)
        if meta.get(b"run") != self.place.run.encode() or int(meta[b"count"]) != len(elements):
            return
        key = name.rpartition(b":")[2].decode()
        session_id = meta[b"session_id"].decode()
        assert session_id == self.world.current.get(key, ""), f"{key}: {session_id} is hot, not {self.world.current}"
        if session_id:
            stand = [text for _, text in self.world.lives[session_id].messages]
            hot = [one.partition(b"\n")[2].partition(b"content")[2][1:].decode() for one in elements]
            right = int(meta[b"total"]) == len(stand) and hot == stand[len(stand) - len(hot) :]
            assert right, f"{key}: {hot} of {meta[b'total']} are hot, not {stand}"


def shown(answers: Sequence[Told]) -> str:
    """Answers as they are read."""
    return (
        " or ".join(f"{kind} {[text for _, text in it] if kind in {'records', 'history'} else it}" for kind, it in answers)
        or "none"
    )


_MOVES: dict[str, Callable[..., None]] = {
    "open": Oracle._opened, "start": Oracle._started, "switch": Oracle._switched, "leave": Oracle._left,
    "delete": Oracle._deleted,
}  # fmt: skip
_CHANGES = {"append", "pop", "truncate", "replace", "retain", "edit", "update", *_MOVES}
_STORES: dict[str, Callable[..., None]] = {
    "apply": Oracle._applied, "claim": Oracle._claimed, "reserve": Oracle._reserved, "fork": Oracle._forked,
}  # fmt: skip
__all__ = ["STORED", "Answer", "Call", "CutShort", "Driver", "Event", "Oracle"]
