"""Writers that do everything that a session allows, at random, and log what they were told: for `test_life_at_once`.

Each call is logged with its time and answer, and with what its requests said: op ids and replies of the scripts, and what
the transactions did that bring sessions to keys. `replay` compares all of it with what Redis really took.
"""

from __future__ import annotations

import os
import random
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from sessioncache import (
    HydrationTimeout,
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
    write_behind,
)
from sessioncache.config import Settings
from sessioncache.connect import BlockingConnections
from sessioncache.flow import Evaluate, Transact
from sessioncache.info import Info
from sessioncache.message import milliseconds
from sessioncache.process import end_with_parent
from sessioncache.schema import messages as message_table
from sessioncache.store import place

KEYS = [f"place:{n}" for n in range(20)]
# Forks and creations begin here; what is here is deleted most often.
FREE = KEYS[14:]
DOCUMENTED = (
    SessionMoved, SessionDeleted, VersionConflict, TurnTimeout, TurnLost, SessionExists, SessionNotFound, HydrationTimeout
)  # fmt: skip
CHANGES = {
    "append", "replace", "pop", "truncate", "retain", "edit", "update", "start", "switch", "leave", "delete", "open"
}  # fmt: skip
# Where the arguments of a change stand (common.lua).
KEY, SESSION, EXPECTED, TURN, OP_ID, FIRST_ITEM = 4, 5, 6, 7, 8, 13


@dataclass(slots=True)
class Sent:
    """One script that changes a session: what it was asked, and the beginning of its reply."""

    verb: str
    op_ids: list[str]
    key: str
    session_id: str
    turn: str
    reply: list[bytes]


@dataclass(slots=True)
class Call:
    """One call of the API: what was asked, when (in seconds), and what was told."""

    who: str
    name: str
    key: str
    session_id: str = ""
    asked: dict[str, Any] = field(default_factory=dict)
    begun: float = 0.0
    ended: float = 0.0
    error: str = ""
    told: Any = None
    sent: list[Sent] = field(default_factory=list)
    stored: list[tuple] = field(default_factory=list)


def plain(record) -> tuple:
    """A record as a plain value."""
    return (record.seq, record.id, milliseconds(record.created_at), repr(record.data))


def facts(info: Info) -> tuple:
    """What is known of a session besides its messages, as a plain value."""
    used = info.usage
    return (
        info.title or "", repr(sorted(info.metadata.items())), info.archived, info.important, info.suspended,
        used.input_tokens, used.output_tokens, round(used.estimated_cost * 10**9), used.last_prompt_tokens,
        used.model or "",
    )  # fmt: skip


def opened(session: Session) -> dict[str, Any]:
    """What a call that gives a session told of it."""
    known = {"facts": facts(session.info), "count": session.info.message_count, "version": session.info.version}
    told = {"session_id": session.session_id, "reason": session.reset_reason, "had_activity": session.had_activity}
    return {**told, **known}


class Recorder:
    """Logs what a cache's requests said, for the call that each thread is in."""

    def __init__(self, cache: SessionCache) -> None:
        self.calls: list[Call] = []
        self.thread = threading.local()
        driver = cache._connections.driver
        self._perform, driver.perform = driver.perform, self.perform

    def perform(self, request):
        call = getattr(self.thread, "call", None)
        if call is None:
            return self._perform(request)
        if isinstance(request, Evaluate) and request.script.verb in CHANGES:
            reply = self._perform(request)
            call.sent.append(self._sent(request, reply))
            return reply
        func = getattr(getattr(request, "work", None), "func", None)
        if func in (place.fork, place.claim, place.reserve):
            return self._stored(call, request)
        return self._perform(request)

    @staticmethod
    def _sent(request: Evaluate, reply: list) -> Sent:
        args, verb = request.args, request.script.verb
        op_ids = list(dict.fromkeys(args[FIRST_ITEM::2])) if verb == "append" else [args[OP_ID]]
        head = reply if verb not in {"open", "start"} else reply[:4]
        return Sent(verb, op_ids, args[KEY], args[SESSION], args[TURN], head)

    def _stored(self, call: Call, request: Transact):
        """The transaction, and a note of what it did."""
        work, notes = request.work, []

        def noted(connection):
            notes.clear()
            result, named = work(connection), work.keywords
            if work.func is place.fork and result:
                column = message_table.c
                ours = select(column.seq, column.message_id, column.created_at, column.body)
                rows = connection.execute(ours.where(column.session_id == named["session_id"]).order_by(column.seq)).all()
                base = [(row[0], row[1], milliseconds(row[2]), row[3]) for row in rows]
                notes.append(("fork", named["session_id"], named["session_key"], named["parent_id"], base))
            elif work.func is place.reserve and result:
                notes.append(("reserve", named["session_id"], named["session_key"]))
            elif work.func is place.claim and result is not None:
                wanted = named["wanted"]
                notes.append(("claim", wanted.session_id, wanted.session_key, wanted.seen.claims + 1, result))
            return result

        result = self._perform(Transact(noted, request.writes))
        call.stored += notes
        return result


class Actor:
    """One thread of a server, which does anything."""

    def __init__(self, cache: SessionCache, recorder: Recorder, name: str, common: dict[str, deque]) -> None:
        self.cache, self.recorder, self.name, self.common = cache, recorder, name, common
        self.chance = random.Random(name)
        self.handles: dict[str, Session] = {}
        self.seen: dict[str, list[tuple]] = {}
        self.versions: dict[str, int] = {}
        self.number = 0
        self.calls: list[Call] = []

    # What a call is made with.

    def words(self) -> dict[str, Any]:
        self.number += 1
        return {"role": "user", "content": f"{self.name} {self.number}"}

    def any_id(self) -> str:
        known = self.common["ids"]
        return self.chance.choice(list(known)) if known else "nobody"

    def message_id(self, session: Session) -> str:
        seen = self.seen.get(session.session_id)
        return self.chance.choice(seen)[1] if seen and self.chance.random() < 0.95 else "nobody"

    def expected(self, session: Session) -> int | None:
        return self.versions.get(session.session_id, session.info.version) if self.chance.random() < 0.1 else None

    # One call, logged.

    def call(self, name: str, key: str, function: Callable[[], Any], session_id: str = "", **asked: Any) -> Any:
        """The answer; None for what was refused."""
        call = Call(self.name, name, key, session_id, asked)
        self.calls.append(call)
        self.recorder.thread.call = call
        call.begun = time.time()
        answer = None
        try:
            answer = function()
        except DOCUMENTED as error:
            call.error = type(error).__name__
            call.told = {name: getattr(error, name) for name in ("current", "expected") if hasattr(error, name)}
            call.told["said"] = str(error)
        except Exception:  # noqa: BLE001 - judged by the test
            call.error = traceback.format_exc()
        finally:
            call.ended = time.time()
            self.recorder.thread.call = None
        if call.error in {"SessionMoved", "SessionDeleted"} and self.chance.random() < 0.8:
            self.handles.pop(key, None)
        if not call.error:
            call.told = self._told(answer)
        return answer

    @staticmethod
    def _told(answer: Any) -> Any:
        if isinstance(answer, Session):
            return opened(answer)
        if isinstance(answer, Info):
            return {"session_id": answer.session_id, "facts": facts(answer), "count": answer.message_count}
        if hasattr(answer, "created_at"):
            return plain(answer)
        if isinstance(answer, list) or hasattr(answer, "data"):
            return [plain(one) if hasattr(one, "seq") else one for one in answer]
        return answer

    def take(self, key: str, session: Session | None) -> Session | None:
        if session is not None:
            self.handles[key] = session
            self.common["ids"].append(session.session_id)
        return session

    # The operations.

    def step(self) -> None:
        """One operation."""
        key = self.chance.choice(KEYS)
        session = self.handles.get(key)
        if key in FREE and session is None and self.chance.random() < 0.5:
            getattr(self, self.chance.choice(["fork", "fork", "create", "create_of_id"]))(key, session)
        elif session is None or self.chance.random() < 0.05:
            verb = self.chance.choice(["open", "open", "ensure", "get"])
            session = self.take(key, self.call(verb, key, lambda: getattr(self.cache, verb)(key)))
        if session is not None:
            name = self.chance.choices(list(OPERATIONS), list(OPERATIONS.values()))[0]
            getattr(self, name)(key, session)

    def on(self, name: str, key: str, session: Session, function: Callable[[], Any], **asked: Any) -> Any:
        return self.call(name, key, function, session.session_id, **asked)

    def append(self, key, session, holder: Session | None = None):
        count = self.chance.choice((1, 1, 2, 3, 8))
        sent, version, activity = [self.words() for _ in range(count)], self.expected(session), self.chance.random() < 0.9
        into = holder or session
        records = self.on(
            "append", key, session, lambda: into.append(sent, expected_version=version, activity=activity),
            sent=[repr(one) for one in sent], version=version,
        )  # fmt: skip
        if records:
            self.versions[session.session_id] = records[-1].seq

    def append_with_ids(self, key, session):
        sent = [self.words() for _ in range(self.chance.choice((1, 1, 3)))]
        ids = [f"id of {one['content']}" for one in sent]
        self._append_with_ids(key, session, sent, ids)
        self.common["sent"].append((key, session, sent, ids))

    def repeat(self, key, session):
        if self.common["sent"]:
            self._append_with_ids(*self.chance.choice(list(self.common["sent"])))

    def _append_with_ids(self, key, session, sent, ids):
        asked = {"sent": [repr(one) for one in sent], "ids": ids}
        self.on("append_with_ids", key, session, lambda: session.append(sent, id=ids), **asked)

    def pop(self, key, session):
        version = self.expected(session)
        self.on("pop", key, session, lambda: session.pop(expected_version=version), version=version)

    def truncate(self, key, session):
        keep, version = self.chance.randrange(45), self.expected(session)
        self.on(
            "truncate", key, session, lambda: session.truncate(keep, expected_version=version), keep=keep, version=version
        )

    def retain(self, key, session):
        count, version = self.chance.randrange(1, 45), self.expected(session)
        self.on(
            "retain", key, session, lambda: session.retain(count, expected_version=version), count=count, version=version
        )

    def clear(self, key, session):
        version = self.expected(session)
        self.on("clear", key, session, lambda: session.clear(expected_version=version), version=version)

    def replace(self, key, session):
        sent, version = [self.words() for _ in range(self.chance.randrange(6))], self.expected(session)
        asked = {"sent": [repr(one) for one in sent], "version": version}
        self.on("replace", key, session, lambda: session.replace(sent, expected_version=version), **asked)

    def edit(self, key, session):
        name, message, version = self.message_id(session), self.words(), self.expected(session)
        asked = {"id": name, "sent": repr(message), "version": version}
        self.on("edit", key, session, lambda: session.edit(name, message, expected_version=version), **asked)

    def remove(self, key, session):
        name, version = self.message_id(session), self.expected(session)
        self.on("remove", key, session, lambda: session.remove(name, expected_version=version), id=name, version=version)

    def update(self, key, session):
        self.number += 1
        metadata = {self.chance.choice("abcd"): self.chance.choice((None, self.number, f"{self.name} {self.number}"))}
        changes = {
            "title": {"title": f"{self.name} {self.number}"},
            "metadata": {"metadata": metadata},
            "summary": {"metadata": {"summary": self.number}},
            "important": {"important": self.chance.random() < 0.5},
            "archived": {"archived": self.chance.random() < 0.5},
            "suspended": {"suspended": self.chance.random() < 0.2},
        }[self.chance.choice(["title", "metadata", "metadata", "summary", "important", "archived", "suspended"])]
        version = self.expected(session)
        self.on(
            "update", key, session, lambda: session.update(**changes, expected_version=version), changes=changes,
            version=version,
        )  # fmt: skip

    def usage(self, key, session):
        used = {"input_tokens": self.chance.randrange(1, 100), "output_tokens": self.chance.randrange(1, 100)}
        used |= {"estimated_cost": self.chance.randrange(1000) / 10**6, "last_prompt_tokens": self.chance.randrange(9)}
        used |= {"model": f"model {self.name}"} if self.chance.random() < 0.5 else {}
        version = self.expected(session)
        self.on(
            "usage",
            key,
            session,
            lambda: session.record_usage(**used, expected_version=version),
            used=used,
            version=version,
        )

    def reset(self, key, session):
        version, title = self.expected(session), self.chance.choice((None, f"title of {self.name}"))
        function = lambda: session.reset(expected_version=version, title=title)  # noqa: E731 - as its siblings
        self.take(key, self.on("reset", key, session, function, version=version, title=title))

    def switch(self, key, session):
        target, version = self.any_id(), self.expected(session)
        function = lambda: session.switch(target, expected_version=version)  # noqa: E731 - as its siblings
        self.take(key, self.on("switch", key, session, function, target=target))

    def resume(self, key, session):
        target = self.any_id()
        found = self.call("resume", "", lambda: self.cache.resume(target), target=target)
        if found is not None:
            self.take(found.key, found)

    def fork(self, key, session):
        to, target = self.chance.choice(FREE), self.any_id()
        seen = self.seen.get(target)
        through = self.chance.choice(seen)[0] if seen and self.chance.random() < 0.5 else None
        function = lambda: self.cache.fork(target, to, through=through)  # noqa: E731 - as its siblings
        self.take(to, self.call("fork", to, function, target=target, through=through))

    def create(self, key, session):
        to, title = self.chance.choice(FREE), f"title of {self.name}"
        self.take(to, self.call("create", to, lambda: self.cache.create(to, title=title), title=title))

    def create_of_id(self, key, session):
        to, number = self.chance.choice(FREE), self.chance.randrange(100)
        name = f"given {number}" if number < 20 else f"given {self.name} {self.number}"
        function = lambda: self.cache.create(to, session_id=name)  # noqa: E731 - as its siblings
        self.take(to, self.call("create_of_id", to, function, target=name))

    def delete(self, key, session):
        key = self.chance.choice((key, *FREE))
        session = self.handles.get(key, session)
        if self.chance.random() < 0.3:
            self.call("delete_key", key, lambda: self.cache.delete(key))
        elif self.chance.random() < 0.5:
            target = self.any_id() if self.chance.random() < 0.3 else session.session_id
            self.call("delete_id", key, lambda: self.cache.delete_session(target), target=target)
        else:
            asked = {"target": session.session_id}
            self.call("delete", session.key, session.delete, session.session_id, **asked)

    def turn(self, key, session):
        with_turn: list[Session] = []
        right = session.turn(timeout=0.3)

        def take():
            with_turn.append(right.__enter__())

        self.on("turn", key, session, take)
        if with_turn:
            for _ in range(self.chance.randrange(1, 4)):
                self.append(key, session, with_turn[0])
            self.on("end of turn", key, session, lambda: right.__exit__(None, None, None))

    def hold(self, key, session):
        with session.hold("test"):
            self.history(key, session)

    def history(self, key, session):
        limit = self.chance.choice((None, None, None, 5, 30, 60))
        found = self.on("messages", key, session, lambda: session.messages(limit), limit=limit)
        if found is not None:
            self.seen[session.session_id] = [(one.seq, one.id) for one in found]

    def page(self, key, session):
        seen = self.seen.get(session.session_id)
        if seen:
            before, limit = self.chance.choice(seen)[0], self.chance.choice((None, 3, 30))
            function = lambda: session.messages(limit, before=before)  # noqa: E731 - as its siblings
            self.on("page", key, session, function, before=before, limit=limit)

    def iterate(self, key, session):
        seen = self.seen.get(session.session_id)
        after = self.chance.choice(seen)[0] if seen else 0
        self.on("iterate", key, session, lambda: list(session.iterate(after=after, page=5000)), after=after)

    def read(self, key, session):
        target, limit = self.any_id(), self.chance.choice((None, 7))
        self.call("read", "", lambda: self.cache.read(target, limit=limit), target=target, limit=limit)

    def refresh(self, key, session):
        self.on("refresh", key, session, session.refresh)

    def past(self, key, session):
        found = self.call("past", key, lambda: [one.session_id for one in self.cache.past(key)])
        self.common["ids"].extend(found or [])

    def find(self, key, session):
        self.call("list", key, lambda: len(self.cache.list(limit=5, ended=None).sessions))
        self.call("search", key, lambda: len(self.cache.search(self.name, limit=3)))

    def evict(self, key, session):
        self.call("evict", key, lambda: self.cache.evict(key))

    def flush(self, key, session):
        where = key if self.chance.random() < 0.8 else None
        self.call("flush", key, lambda: self.cache.flush(where).left)


# ruff: noqa: ARG002 - each operation is called with a key and a session, of which it may need neither
# The operations, and how often each is chosen.
OPERATIONS = {
    "append": 30, "append_with_ids": 6, "repeat": 4, "pop": 5, "truncate": 2.5, "retain": 2.5, "clear": 0.6, "replace": 1.5,
    "edit": 4, "remove": 4, "update": 5, "usage": 8, "reset": 0.6, "switch": 1.2, "resume": 0.5, "fork": 0.8, "create": 0.3,
    "create_of_id": 0.4, "delete": 2, "turn": 2, "hold": 0.7, "history": 14, "page": 3, "iterate": 1, "read": 3,
    "refresh": 3, "past": 0.7, "find": 0.4, "evict": 3, "flush": 1.5,
}  # fmt: skip


def live(settings: Settings, name: str, threads: int, end: float) -> list[Call]:
    """Be a server whose threads do anything until then; every call they made."""
    common: dict[str, deque] = {"ids": deque(maxlen=60), "sent": deque(maxlen=6)}
    with SessionCache(settings=settings) as cache:
        recorder = Recorder(cache)
        actors = [Actor(cache, recorder, f"{name}.{n}", common) for n in range(threads)]

        def act(actor: Actor) -> None:
            while time.time() < end:
                actor.step()

        running = [threading.Thread(target=act, args=(actor,)) for actor in actors]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    return [call for actor in actors for call in actor.calls]


def drain_until(settings: Settings, end: float) -> int:
    """Be a drainer until then; the number of ops drained."""
    end_with_parent(os.getppid())
    connections = BlockingConnections(settings)
    drained = 0
    while time.time() < end:
        drained += connections.run(write_behind.drain_lane(connections.state, 0, 1, lambda: time.time() > end)).ops
    connections.close()
    return drained


def ready(seconds: float) -> None:
    """Be there: everything is imported by now. It takes a while, so that every process of a pool has one to do."""
    time.sleep(seconds)


def failures(calls: list[Call]) -> list[str]:
    """Errors that are not documented for what was called."""
    names = {kind.__name__ for kind in DOCUMENTED}
    return [f"{call.name}: {call.error}" for call in calls if call.error and call.error not in names]


__all__ = ["KEYS", "Call", "Sent", "SessionCacheError", "drain_until", "failures", "live", "ready"]
