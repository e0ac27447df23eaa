"""The calls of the whole API, each with what the model says of it: clients of one cache, as servers of their own have."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

from model_driver import CutShort, Driver, Fault
from model_oracle import Answer, Call, Decide, Oracle
from model_world import Effect, Life, Said, World

from sessioncache import (
    Session,
    SessionCache,
    SessionCacheError,
    SessionDeleted,
    SessionExists,
    SessionMoved,
    SessionNotFound,
    TurnLost,
    TurnTimeout,
    VersionConflict,
)
from sessioncache.flow import Flow


def error(kind: type[Exception]) -> Answer:
    return Answer(("error", kind))


def value(told: Any, effect: Effect | None = None) -> Answer:
    return Answer(("value", told), effect)


@dataclass(eq=False)
class Handle:
    """A session that a client has, the turn that it answers in, and the version that it expects."""

    client: Client
    session: Session
    turn: str = ""
    right: AbstractContextManager[Any] | None = None
    mark: tuple[int, int, int] | None = None

    @property
    def key(self) -> str:
        return self.session.key

    @property
    def id(self) -> str:
        return self.session.session_id


class Client:
    """One server: a cache with near copies of its own, whose requests are performed by hand."""

    def __init__(self, oracle: Oracle, driver: Driver, cache: SessionCache) -> None:
        self.oracle, self.driver, self.cache, self.call = oracle, driver, cache, None
        cache._run = cache._connections.run = self.run

    def run(self, flow: Flow[Any]) -> Any:
        """In the call that is being made."""
        call = self.call
        journey = self.driver.begin(flow, partial(self.oracle.saw, call), call.fault)
        call.faulty = call.faulty or bool(call.journey and call.journey.faulty)
        call.journey, call.fault = journey, None
        return self.driver.drive(journey)

    def make(self, name: str, invoke: Callable[[], Any], decide: Decide, fault: Fault | None = None) -> Any:
        """Make a call; what it gave, an error included, None where it was cut short."""
        self.call = call = Call(name, decide, fault)
        self.oracle.begin(call)
        try:
            got = invoke()
        except CutShort:
            return self._cut_short(call, fault)
        except SessionCacheError as told:
            got = told
        return self.oracle.finish(call, got)

    def _cut_short(self, call: Call, fault: Fault) -> None:
        if fault.kind == "parked":
            call.overtaken = True
            self.oracle.parked.append(call)
        else:
            self.oracle.end(call)

    # by key

    def opens(self, verb: str, key: str, owner: str | None, title: str | None, fault: Fault | None) -> Any:
        def decide(world: World) -> list[Answer]:
            now = world.now(key)
            if now is None:
                return [error(SessionNotFound) if verb == "get" else Answer(("begins", (owner, title)), _nothing)]
            if verb == "create":
                return [error(SessionExists)]
            if owner and now.owner != owner:
                return [error(SessionNotFound)]
            if verb == "open" and now.flags.get("suspended"):
                return [Answer(("begins", (owner, title)), _nothing)]
            return [Answer(("session", now.session_id))]

        more = {} if verb == "get" else {"title": title}
        return self.make(verb, lambda: getattr(self.cache, verb)(key, owner=owner, **more), decide, fault)

    def create(self, key: str, session_id: str, fault: Fault | None) -> Any:
        def decide(world: World) -> list[Answer]:
            life = world.lives.get(session_id)
            if world.now(key) is not None:
                return [error(SessionExists)]
            return [Answer(("moves", None), _nothing), *([error(SessionExists)] if life else [])]

        return self.make(f"create {session_id}", lambda: self.cache.create(key, session_id=session_id), decide, fault)

    def deletes_key(self, key: str, fault: Fault | None) -> Any:
        def decide(world: World) -> list[Answer]:
            return [value(told=True, effect=_nothing) if world.now(key) else value(told=False)]

        return self.make("delete key", lambda: self.cache.delete(key), decide, fault)

    # by id

    def resume(self, session_id: str, fault: Fault | None) -> Any:
        def decide(world: World) -> list[Answer]:
            life = world.lives.get(session_id)
            if life is None or life.deleted:
                return [error(SessionNotFound)]
            now = world.now(life.key)
            if now is not None and now.session_id == session_id:
                return [Answer(("session", session_id))]
            others = now is not None and now.owner != life.owner
            return [error(SessionExists) if others else Answer(("moves", None), _nothing)]

        return self.make("resume", lambda: self.cache.resume(session_id), decide, fault)

    def fork(self, session_id: str, key: str, through: int | None, fault: Fault | None) -> Any:
        def decide(world: World) -> list[Answer]:
            life = world.lives.get(session_id)
            there = [error(SessionExists)] if world.now(key) else []
            if life is None or life.deleted:
                return [error(SessionNotFound), *there]
            return there or [Answer(("moves", None), _nothing)]

        return self.make("fork", lambda: self.cache.fork(session_id, key, through=through), decide, fault)

    def reads(self, session_id: str, limit: int | None, fault: Fault | None) -> Any:
        def decide(world: World) -> list[Answer]:
            life = world.lives.get(session_id)
            return [error(SessionNotFound) if life is None or life.deleted else _newest(life, limit)]

        return self.make("read", lambda: self.cache.read(session_id, limit=limit), decide, fault)

    def deletes(self, session_id: str, fault: Fault | None) -> Any:
        return self.make("delete_session", lambda: self.cache.delete_session(session_id), _deletes(session_id), fault)

    def lists(self, fault: Fault | None) -> Any:
        def decide(world: World) -> list[Answer]:
            shown = [one for one in world.lives.values() if world.current.get(one.key) == one.session_id]
            return [value(frozenset(one.session_id for one in shown if not one.flags.get("archived")))]

        return self.make("list", lambda: self.cache.list(fresh=True), decide, fault)

    def flush(self, key: str | None, fault: Fault | None) -> Any:
        return self.make("flush", lambda: self.cache.flush(key) and None, lambda _: [value(None)], fault)

    # by handle

    def change(self, handle: Handle, name: str, invoke: Callable[..., Any], decide: Callable[[Life], list[Answer]],
               fault: Fault | None, **more: Any) -> Any:  # fmt: skip
        """A change of a session, on the terms of its handle."""
        handle = copy(handle)  # its terms as they are now, whatever it expects when this goes on
        if handle.mark:
            more["expected_version"] = handle.mark[0]

        def decided(world: World) -> list[Answer]:
            return self.unless(self.refusals(world, handle), handle, lambda: decide(world.lives[handle.id]))

        return self.make(name, lambda: invoke(**more), decided, fault)

    def refusals(self, world: World, handle: Handle) -> list[Answer]:
        if world.current.get(handle.key) != handle.id:
            return moved(world, handle)
        if handle.mark and self.oracle.events.changes.get(handle.key) != handle.mark[1]:
            return [error(VersionConflict)]
        if handle.turn and self.oracle.turns.get(handle.key) != handle.turn:
            return [error(TurnLost)]
        return []

    def unless(self, refused: list[Answer], handle: Handle, answers: Callable[[], list[Answer]]) -> list[Answer]:
        """The answers, unless it is refused. A version that an op had which is dead may be given out again."""
        if not refused:
            return answers()
        again = handle.mark and handle.mark[2] != self.oracle.deaths and refused[0].told == ("error", VersionConflict)
        return answers() + refused if again else refused

    def append(self, handle: Handle, texts: list[str], ids: list[str] | None, fault: Fault | None) -> Any:
        handle = copy(handle)
        said = [Said(text, ids[at] if ids else None) for at, text in enumerate(texts)]

        def decide(world: World) -> list[Answer]:
            life = world.lives.get(handle.id)
            known = life.known if life else {}
            new = tuple(one for one in said if one.id is None or one.id not in known or ids is None)
            told = Answer(("records", [(known.get(one.id, one) if ids else one, one.text) for one in said]))
            refused = self.refusals(world, handle)
            if not new:
                return [told, *refused]
            appended = Answer(told.told, lambda world: world.lives[handle.id].append(new), new)
            return self.unless(refused, handle, lambda: [appended])

        more = {"expected_version": handle.mark[0]} if handle.mark else {}
        sent = [{"role": "user", "content": text} for text in texts]
        return self.make(f"append {texts}", lambda: handle.session.append(sent, id=ids, **more), decide, fault)

    def replace(self, handle: Handle, texts: list[str], fault: Fault | None) -> Any:
        said = tuple(Said(text) for text in texts)

        def decide(_life: Life) -> list[Answer]:
            def effect(world: World) -> None:
                world.lives[handle.id].messages = [(one, one.text) for one in said]

            return [Answer(("records", [(one, one.text) for one in said]), effect, said)]

        sent = [{"role": "user", "content": text} for text in texts]
        return self.change(handle, f"replace {texts}", partial(handle.session.replace, sent), decide, fault)

    def pop(self, handle: Handle, fault: Fault | None) -> Any:
        def decide(life: Life) -> list[Answer]:
            if not life.messages:
                return [value(None)]
            return [Answer(("records", life.messages[-1:]), _without(handle.id, life.messages[-1][0]))]

        return self.change(handle, "pop", handle.session.pop, decide, fault)

    def truncate(self, handle: Handle, count: int, fault: Fault | None) -> Any:
        def decide(life: Life) -> list[Answer]:
            def effect(world: World) -> None:
                del world.lives[handle.id].messages[count:]

            return [value(count, effect) if count < len(life.messages) else value(len(life.messages))]

        return self.change(handle, f"truncate {count}", partial(handle.session.truncate, count), decide, fault)

    def clear(self, handle: Handle, fault: Fault | None) -> Any:
        return self.change(handle, "clear", handle.session.clear, lambda _: [value(None, _cleared(handle.id))], fault)

    def retain(self, handle: Handle, name: str, count: int, fault: Fault | None) -> Any:
        handle = copy(handle)

        def decide(life: Life) -> list[Answer]:
            gone = len(life.messages) - count
            return [Answer(("retained", {"gone": gone}), _nothing) if gone > 0
                    else value(0 if name == "cap" else len(life.messages))]  # fmt: skip

        def decided(world: World) -> list[Answer]:
            refused = self.refusals(world, handle)
            if not refused or refused[0].told != ("error", TurnLost):
                return self.unless(refused, handle, lambda: decide(world.lives[handle.id]))
            nothing = [one for one in decide(world.lives[handle.id]) if one.effect is None]  # asks for no turn
            return nothing + refused

        more = {"expected_version": handle.mark[0]} if handle.mark else {}
        return self.make(name, lambda: getattr(handle.session, name)(count, **more), decided, fault)

    def edit(self, handle: Handle, said: Said | None, text: str | None, fault: Fault | None) -> Any:
        """Edit a message, or remove it where there is no text."""

        def decide(life: Life) -> list[Answer]:
            def effect(world: World) -> None:
                one = world.lives[handle.id]
                one.messages = [(who, text) if who is said else (who, was) for who, was in one.messages]

            if all(one is not said for one, _ in life.messages):
                return [value(told=False)]
            return [value(told=True, effect=_without(handle.id, said) if text is None else effect)]

        name = said.id if said and said.id else "nobody's"
        sent = () if text is None else ({"role": "user", "content": text},)
        act = handle.session.remove if text is None else handle.session.edit
        return self.change(handle, f"edit {text}", partial(act, name, *sent), decide, fault)

    def update(self, handle: Handle, changes: dict[str, Any], fault: Fault | None) -> Any:
        def effect(world: World) -> None:
            life = world.lives[handle.id]
            life.title = changes.get("title", life.title) or None
            names = {**life.metadata, **changes.get("metadata", {})}
            life.metadata = {name: it for name, it in names.items() if it is not None}
            life.flags = life.flags | {name: it for name, it in changes.items() if type(it) is bool}

        return self.change(handle, f"update {changes}", handle.session.update,
                           lambda _: [Answer(("version", 0), effect)], fault, **changes)  # fmt: skip

    def usage(self, handle: Handle, tokens: int, fault: Fault | None) -> Any:
        def effect(world: World) -> None:
            world.lives[handle.id].tokens += tokens

        return self.change(handle, "usage", handle.session.record_usage,
                           lambda _: [Answer(("version", 0), effect)], fault, input_tokens=tokens)  # fmt: skip

    def consolidate(self, handle: Handle, through: int, fault: Fault | None) -> Any:
        def effect(world: World) -> None:
            life = world.lives[handle.id]
            life.consolidated, life.metadata = through, {**life.metadata, "summary": "s"}

        act = partial(handle.session.consolidate, through, summary="s")
        return self.change(handle, "consolidate", act, lambda _: [Answer(("version", 0), effect)], fault)

    def reset(self, handle: Handle, fault: Fault | None) -> Any:
        begins = Answer(("begins", (None, None)), _nothing)
        return self.change(handle, "reset", handle.session.reset, lambda _: [begins], fault)

    def switch(self, handle: Handle, session_id: str, fault: Fault | None) -> Any:
        handle = copy(handle)

        def decide(world: World) -> list[Answer]:
            life, refused = world.lives.get(session_id), self.refusals(world, handle)
            mine = world.lives.get(handle.id)
            if life is None or life.deleted or (mine and life.owner != mine.owner):
                return [error(SessionNotFound), *refused]
            same = session_id == handle.id
            told = Answer(("session", session_id)) if same else Answer(("moves", None), _nothing)
            return self.unless(refused, handle, lambda: [told])

        more = {"expected_version": handle.mark[0]} if handle.mark else {}
        return self.make("switch", lambda: handle.session.switch(session_id, **more), decide, fault)

    def deletes_handle(self, handle: Handle, fault: Fault | None) -> Any:
        handle = copy(handle)

        def decide(world: World) -> list[Answer]:
            if handle.mark or handle.turn:
                return self.unless(self.refusals(world, handle), handle, lambda: _deletes(handle.id)(world))
            return _deletes(handle.id)(world)

        more = {"expected_version": handle.mark[0]} if handle.mark else {}
        return self.make("delete", lambda: handle.session.delete(**more), decide, fault)

    def history(self, handle: Handle, limit: int | None, fault: Fault | None) -> Any:
        return self.look(
            handle, "messages", lambda: handle.session.messages(limit), lambda life: _newest(life, limit), fault
        )

    def before(self, handle: Handle, seq: int, limit: int, fault: Fault | None) -> Any:
        def decide(life: Life) -> Answer:
            older = [pair for pair in life.messages if pair[0].seq is not None and pair[0].seq < seq]
            return Answer(("history", older[max(0, len(older) - limit) :]))

        return self.look(handle, "page", lambda: handle.session.messages(limit, before=seq), decide, fault)

    def iterate(self, handle: Handle, page: int) -> Any:
        whole = lambda life: Answer(("history", list(life.messages)))  # noqa: E731 - as its siblings
        return self.look(handle, "iterate", lambda: list(handle.session.iterate(page=page)), whole, None)

    def refresh(self, handle: Handle, fault: Fault | None) -> Any:
        def decide(life: Life) -> Answer:
            return Answer(("facts", life.facts))

        return self.look(handle, "refresh", handle.session.refresh, decide, fault)

    def look(self, handle: Handle, name: str, invoke: Callable[[], Any], decide: Callable[[Life], Answer],
             fault: Fault | None) -> Any:  # fmt: skip
        """Read a session, which has to be current."""

        def decided(world: World) -> list[Answer]:
            if world.current.get(handle.key) != handle.id:
                return moved(world, handle)
            return [decide(world.lives[handle.id])]

        return self.make(name, invoke, decided, fault)

    def take_turn(self, handle: Handle) -> Handle | None:
        """Take the turn: the handle that has it, None if it was refused."""

        def decide(world: World) -> list[Answer]:
            if world.current.get(handle.key) != handle.id:
                return moved(world, handle)
            holder = self.oracle.turns.get(handle.key)
            return [Answer(("session", handle.id)), *([error(TurnTimeout)] if holder else [])]

        right = handle.session.turn(timeout=0)
        self.oracle.rights.append(right)
        got = self.make("turn", right.__enter__, decide)
        if not isinstance(got, Session):
            return None
        return Handle(self, got, got._handle.turn, right)

    def end_turn(self, handle: Handle) -> None:
        self.make("end of turn", lambda: handle.right.__exit__(None, None, None), lambda _: [value(None)])


def moved(world: World, handle: Handle) -> list[Answer]:
    """What the holder of a session that is not current is told; which key it belongs to is not always known at once."""
    life = world.lives.get(handle.id)
    if life is not None and life.deleted:
        return [error(SessionDeleted), *([error(SessionMoved)] if life.key != handle.key else [])]
    return [error(SessionMoved)]


def _nothing(_world: World) -> None:
    """What changes is said when it is accepted."""


def _deletes(session_id: str) -> Decide:
    def decide(world: World) -> list[Answer]:
        life = world.lives.get(session_id)
        return [value(told=False) if life is None or life.deleted else value(told=True, effect=_nothing)]

    return decide


def _newest(life: Life, limit: int | None) -> Answer:
    return Answer(("history", life.messages[max(0, len(life.messages) - limit) :] if limit is not None else
                   list(life.messages)))  # fmt: skip


def _without(session_id: str, said: Said | None) -> Effect:
    def effect(world: World) -> None:
        life = world.lives[session_id]
        life.messages = [pair for pair in life.messages if pair[0] is not said]

    return effect


def _cleared(session_id: str) -> Effect:
    def effect(world: World) -> None:
        life = world.lives[session_id]
        life.messages, life.consolidated = [], 0
        life.metadata = {name: it for name, it in life.metadata.items() if name != "summary"}

    return effect
