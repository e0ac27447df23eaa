"""What the model takes a cache for: events in an order, played on plain lists and dicts. No code of the library.

A *world* is what the events that count have made of sessions and keys. An event counts while it waits in a pending log or
stands in the store. It is *dead* once the store refused it and its letter is written, *lost* if Redis came back older and
the store did not have it. What an event finds gone (a deleted session, one of another key) it leaves as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

WAITS, STORED, DEAD, LOST = "waits", "stored", "dead", "lost"


@dataclass(eq=False)
class Said:
    """One message that was appended. Id and seq are learned from what callers are told, and stay so."""

    text: str
    id: str | None = None
    seq: int | None = None


@dataclass
class Life:
    """One session as it stands. A message is told from others by what was said, and has a text of now."""

    session_id: str
    key: str
    owner: str | None = None
    messages: list[tuple[Said, str]] = field(default_factory=list)
    known: dict[str, Said] = field(default_factory=dict)
    title: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, bool] = field(default_factory=dict)
    tokens: int = 0
    consolidated: int = 0
    deleted: bool = False

    def append(self, said: Iterable[Said]) -> None:
        """Append what is not known by its id."""
        for one in said:
            if one.id is None or one.id not in self.known:
                self.messages.append((one, one.text))
                if one.id is not None:
                    self.known[one.id] = one

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of it besides its messages."""
        return {
            "owner": self.owner, "title": self.title, "metadata": self.metadata, "tokens": self.tokens,
            "consolidated": self.consolidated, "count": len(self.messages),
            **{name: self.flags.get(name, False) for name in ("archived", "suspended")},
        }  # fmt: skip


@dataclass
class World:
    """All sessions by id, and which one is current under a key."""

    lives: dict[str, Life] = field(default_factory=dict)
    current: dict[str, str] = field(default_factory=dict)

    def now(self, key: str) -> Life | None:
        """The current session of a key."""
        return self.lives.get(self.current.get(key, ""))

    def start(self, key: str, session_id: str, owner: str | None, title: str | None) -> None:
        """A session begins, and keeps the owner of the one it replaces."""
        before = self.now(key)
        owner = owner or (before.owner if before else None)
        self.lives[session_id] = Life(session_id, key, owner, title=title)
        self.current[key] = session_id

    def leave(self, key: str, session_id: str) -> None:
        """A session is not current under a key any more."""
        if self.current.get(key) == session_id:
            del self.current[key]

    def switch(self, key: str, session_id: str) -> None:
        """A session is current under a key."""
        self.current[key] = session_id
        self.lives[session_id].flags["suspended"] = False

    def delete(self, key: str, session_id: str) -> None:
        """A session is deleted, by the key that it belongs to."""
        life = self.lives.get(session_id)
        if life is not None and life.key == key:
            life.deleted = True
            life.messages.clear()
            self.leave(key, session_id)


Effect = Callable[[World], None]


@dataclass(eq=False)
class Event:
    """What was accepted once. ``session_id`` is empty for what does not change one session of its key."""

    key: str
    session_id: str
    effect: Effect
    ops: frozenset[str]
    serial: int
    status: str = WAITS
    refused: bool = False
    said: tuple[Said, ...] = ()

    def play(self, world: World) -> None:
        """Do it, unless what it is for is gone."""
        if self.session_id:
            life = world.lives.get(self.session_id)
            if life is None or life.deleted or life.key != self.key:
                return
        self.effect(world)


class Events:
    """Every event that there was, and the world that those make that count."""

    def __init__(self) -> None:
        self.all: list[Event] = []
        self.by_op: dict[str, Event] = {}
        self.stored: list[Event] = []
        self.changes: dict[str, int] = {}
        self.epoch = self._serial = 0
        self._made: tuple[int, World] | None = None

    def add(self, key: str, session_id: str, effect: Effect, ops: Iterable[str], said: Iterable[Said] = ()) -> Event:
        """An event was accepted."""
        self._serial += 1
        event = Event(key, session_id, effect, frozenset(ops), self._serial, said=tuple(said))
        self.all.append(event)
        self.by_op.update(dict.fromkeys(event.ops, event))
        self.changes[key] = self.changes.get(key, 0) + 1
        self.epoch += 1
        return event

    def add_stored(self, key: str, effect: Effect) -> None:
        """The store alone did something."""
        self.store(self.add(key, "", effect, ()))

    def store(self, event: Event) -> None:
        """An event is in the store."""
        if event.status == LOST:  # somebody who had read it before Redis came back older brought it
            self._serial += 1
            event.serial = self._serial
        if event.status != STORED:
            event.status = STORED
            self.stored.append(event)
            self.epoch += 1

    def bury(self, event: Event) -> None:
        """An event is a dead letter."""
        event.status = DEAD
        self.changes[event.key] = self.changes.get(event.key, 0) + 1
        self.epoch += 1

    def waiting(self) -> list[Event]:
        """Those that only Redis has."""
        return [event for event in self.all if event.status == WAITS]

    def fall_back(self, waiting: list[str], letters: set[str]) -> None:
        """Redis holds these ops and these letters and no others: what it does not have, and the store neither, is lost."""
        for event in self.all:
            if event.status in (WAITS, DEAD):
                event.status = LOST
        again = list(dict.fromkeys(self.by_op[op] for op in waiting if op in self.by_op))
        for serial, event in enumerate([*self.stored, *(one for one in again if one.status != STORED)], self._serial + 1):
            event.serial = self._serial = serial
            if event.status != STORED:
                event.status = WAITS
                for said in event.said:
                    said.seq = None
        for op in letters & self.by_op.keys():
            if self.by_op[op].status == LOST:
                self.by_op[op].status = DEAD
        self.changes = {key: count + 1 for key, count in self.changes.items()}
        self.epoch += 1

    def world(self, *, stored: bool = False) -> World:
        """What the events have made; those in the store alone, if asked."""
        if not stored and self._made is not None and self._made[0] == self.epoch:
            return self._made[1]
        world = World()
        counts = (STORED,) if stored else (STORED, WAITS)
        for event in sorted((one for one in self.all if one.status in counts), key=lambda one: one.serial):
            event.play(world)
        if not stored:
            self._made = self.epoch, world
        return world
