"""The machine of the model test: what may happen, in any order.

Three servers, three session keys in two partitions, a hot window of four messages; workers that stop anywhere and go on
when nobody expects them; keys with a TTL that vanish; Redis that restarts or comes back older; a store that is away, or
refuses.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from model_client import Client, Handle
from model_driver import FAULTS, CutShort, Driver, Fault
from model_oracle import Answer, Oracle
from model_place import POISON, Place

from sessioncache import Session, SessionCache, SessionCacheError
from sessioncache.config import Settings
from sessioncache.flow import run
from sessioncache.startup import start
from sessioncache.write_behind import drain_batch

KEYS = ("k0", "k1", "k2")
FEW = {"partitions": 5, "lanes": 1, "window": 4, "near_sessions": 2, "hydration_timeout": 30.0}
CHANGES = ("append", "append", "append", "append ids", "append ids", "poison", "pop", "truncate", "retain", "cap", "clear",
           "replace", "edit", "remove", "title", "metadata", "archived", "suspended", "usage", "consolidate", "reset",
           "switch", "delete")  # fmt: skip
BEFALLS = ("time passes", "time passes", "Redis restarts", "Redis restarts", "snapshot", "snapshot", "Redis is older",
           "Redis is empty", "store goes", "store comes", "store comes")  # fmt: skip
BY_ID = ("create", "resume", "resume", "fork", "read", "delete key", "delete", "list", "flush")
LOOKS = ("history", "history", "newest", "page", "iterate", "refresh", "mark")

number = st.integers(0, 7)
acts = st.tuples(
    number, st.sampled_from((*CHANGES, *LOOKS, *LOOKS, "drain", "drain", "delete one", "resume one", "switch")), number
)
faults = st.one_of(
    st.none(), st.none(), st.none(), st.builds(Fault, st.sampled_from(FAULTS), st.integers(1, 9)),
)  # fmt: skip


class Machine(RuleBasedStateMachine):
    """Subclasses name the place."""

    place: Place

    @initialize()
    def begin(self) -> None:
        self.place.clear()
        self.place.examples += 1
        self.oracle = oracle = Oracle(self.place)
        self.clients: list[Client] = []
        self.handles: list[Handle] = []
        self.ids: list[str] = []
        self.snapshot: Any = None
        self.serial = self.deaths = 0
        for at in range(3):
            # The last one repeats nothing: what Redis does not answer, its caller is told at once.
            settings = Settings(**FEW, report=0.0, redis_timeout=2.0, timeout=2.0 if at == 2 else 5.0)
            cache = SessionCache(self.place.hot, self.place.engine, settings=settings)
            connections = cache._connections
            connections.driver.first._checked = True
            if not at:
                run(start(connections.state), connections.driver.perform)
            driver = self._driver(connections.driver.perform)
            self.clients.append(Client(oracle, driver, cache))
        self._keep(self.clients[0], self.clients[0].opens("open", KEYS[0], None, None, None))

    def _driver(self, perform: Callable[[Any], Any]) -> Driver:
        oracle = self.oracle
        return Driver(perform, self._waited, lambda: oracle.store_down, self.place.graveyard)

    def _waited(self, pauses: int) -> None:
        """Nobody sleeps: what others have for a while ends instead."""
        if pauses % 2 == 0:
            for kind in ("lease:", "titles:"):
                for name in self.place.names(kind):
                    self.place.raw.delete(name)

    def _keep(self, client: Client, got: Any) -> None:
        if isinstance(got, Session):
            self.handles.append(Handle(client, got))
            if got.session_id not in self.ids:
                self.ids.append(got.session_id)

    def _text(self) -> str:
        self.serial += 1
        return f"m{self.serial}"

    def _id(self, n: int) -> str:
        return self.ids[-1 - n % len(self.ids)] if self.ids else "unknown"

    # calls by key and by id

    @rule(who=number, key=st.sampled_from(KEYS), verb=st.sampled_from(["open", "open", "ensure", "create", "get"]),
          owner=st.sampled_from([None, None, "alice"]), fault=faults)  # fmt: skip
    def opens(self, who: int, key: str, verb: str, owner: str | None, fault: Fault | None) -> None:
        client = self.clients[who % 3]
        self._keep(client, client.opens(verb, key, owner, self._text(), fault))

    @rule(who=number, key=st.sampled_from(KEYS), n=number, fault=faults,
          verb=st.sampled_from(BY_ID))  # fmt: skip
    def by_id(self, who: int, key: str, n: int, verb: str, fault: Fault | None) -> None:
        client, session_id = self.clients[who % 3], self._id(n)
        if verb == "create":
            self._keep(client, client.create(key, f"mine{n % 2}", fault))
        elif verb == "resume":
            self._keep(client, client.resume(session_id, fault))
        elif verb == "fork":
            self._keep(client, client.fork(session_id, key, self._seq(session_id, n) if n % 2 else None, fault))
        elif verb == "read":
            client.reads(session_id, n or None, fault)
        elif verb == "delete key":
            client.deletes_key(key, fault)
        elif verb == "delete":
            client.deletes(session_id, fault)
        elif verb == "list":
            client.lists(fault)
        else:
            client.flush(key if n % 2 else None, fault)

    def _said(self, session_id: str) -> list[Any]:
        life = self.oracle.life(session_id)
        return [said for said, _ in life.messages if said.seq is not None and said.id is not None] if life else []

    def _seq(self, session_id: str, n: int) -> int:
        said = self._said(session_id)
        return said[n % len(said)].seq if said else n

    # calls by handle

    def _handle(self, which: int) -> Handle:
        return self.handles[-1 - which % len(self.handles)]

    @precondition(lambda self: self.handles)
    @rule(which=number, what=st.sampled_from(CHANGES), n=number, fault=faults)
    def changes(self, which: int, what: str, n: int, fault: Fault | None) -> None:
        self._change(self._handle(which), what, n, fault)

    def _change(self, handle: Handle, what: str, n: int, fault: Fault | None) -> None:
        if handle.mark and handle.mark[2] != self.oracle.deaths:  # its version was given out for something else since
            handle.mark = None
        client = handle.client
        said = self._said(handle.id)
        one = said[n % len(said)] if said else None
        values = {"title": self._text(), "metadata": {f"n{n % 2}": self.serial if n > 2 else None}}
        calls: dict[str, Callable[[], Any]] = {
            "edit": lambda: client.edit(handle, one, self._text(), fault),
            "remove": lambda: client.edit(handle, one, None, fault),
            "consolidate": lambda: client.consolidate(handle, one.seq if one else 0, fault),
            "replace": lambda: client.replace(handle, [self._text() for _ in range(n)], fault),
            "truncate": lambda: client.truncate(handle, n, fault),
            "usage": lambda: client.usage(handle, 1 + n, fault),
            "delete": lambda: client.deletes_handle(handle, fault),
            "pop": lambda: client.pop(handle, fault),
            "clear": lambda: client.clear(handle, fault),
            "reset": lambda: self._keep(client, client.reset(handle, fault)),
            "switch": lambda: self._keep(client, client.switch(handle, self._id(n), fault)),
            **dict.fromkeys(("append", "poison", "append ids"), lambda: self._append(handle, what, n, fault)),
            **dict.fromkeys(("retain", "cap"), lambda: client.retain(handle, what, 1 + n % 6, fault)),
            **dict.fromkeys(
                ("title", "metadata", "archived", "suspended"),
                lambda: client.update(handle, {what: values.get(what, n % 2 == 1)}, fault),
            ),
        }
        calls[what]()

    def _append(self, handle: Handle, what: str, n: int, fault: Fault | None) -> None:
        if what == "append ids":
            ids = [f"x{at}" for at in range(n % 4, n % 4 + 1 + n // 4)]
            handle.client.append(handle, ids, ids, fault)
        else:
            texts = [self._text() for _ in range(1 + n % 3)]
            if what == "poison":
                texts[-1] = f"{POISON}{self.serial}"
            handle.client.append(handle, texts, None, fault)

    @precondition(lambda self: self.handles)
    @rule(which=number, what=st.sampled_from(LOOKS), n=number, fault=faults)
    def looks(self, which: int, what: str, n: int, fault: Fault | None) -> None:
        self._look(self._handle(which), what, n, fault)

    def _look(self, handle: Handle, what: str, n: int, fault: Fault | None) -> None:
        client = handle.client
        if what in {"history", "newest"}:
            client.history(handle, n if what == "newest" else None, fault)
        elif what == "page":
            client.before(handle, self._seq(handle.id, n), n, fault)
        elif what == "iterate":
            client.iterate(handle, 1 + n)
        else:
            got = client.refresh(handle, fault if what == "refresh" else None)
            if what == "mark" and not isinstance(got, SessionCacheError | None):
                handle.mark = (got.version, self.oracle.events.changes.get(handle.key, 0), self.oracle.deaths)

    @rule(key=st.sampled_from(KEYS[:2]), acts=st.lists(acts, min_size=3, max_size=5),
          at=st.one_of(st.none(), st.integers(2, 9)), gone=st.sampled_from(["", "history", "meta"]),
          drained=st.booleans())  # fmt: skip
    def several(self, key: str, acts: list[tuple[int, str, int]], at: int | None, gone: str, *, drained: bool) -> None:
        """Several servers in one session; perhaps what the first one does is overtaken by what the others do."""
        oracle, parked = self.oracle, []
        for turn, (who, what, n) in enumerate(acts):
            handle = self._handle_of(self.clients[who % 3], key)
            if handle is None:
                continue
            if not turn:
                if gone:
                    self.vanishes(key, gone)
                before = list(oracle.parked)
            self._act(handle, what, n, Fault("parked", at) if at and not turn else None)
            if not turn:
                parked = [one for one in oracle.parked if one not in before]
        if drained:
            self._drain(self.clients[0], None)
        for call in parked:
            if call in oracle.parked:
                oracle.parked.remove(call)
                self._go_on(call, None)

    def _handle_of(self, client: Client, key: str) -> Handle | None:
        current = self.oracle.world.current.get(key)
        for handle in reversed(self.handles):
            if handle.client is client and handle.id == current and handle.key == key and not handle.turn:
                return handle
        count = len(self.handles)
        self._keep(client, client.opens("ensure", key, None, None, None))
        return self.handles[-1] if len(self.handles) > count else None

    def _act(self, handle: Handle, what: str, n: int, fault: Fault | None) -> None:
        if what in LOOKS:
            self._look(handle, what, n, fault)
        elif what == "delete one":
            handle.client.deletes(self._id(n), fault)
        elif what == "resume one":
            self._keep(handle.client, handle.client.resume(self._id(n), fault))
        elif what == "drain":
            self._drain(handle.client, fault)
        else:
            self._change(handle, what, n, fault)

    @precondition(lambda self: self.handles)
    @rule(which=number)
    def turns(self, which: int) -> None:
        handle = self._handle(which)
        if handle.right is not None:
            handle.client.end_turn(handle)
            self.handles.remove(handle)
        elif taken := handle.client.take_turn(handle):
            self.handles.append(taken)

    # workers, and calls that go on

    @rule(who=number, fault=st.one_of(st.none(), st.builds(Fault, st.sampled_from(FAULTS), st.integers(1, 6))))
    def drains(self, who: int, fault: Fault | None) -> None:
        self._drain(self.clients[who % 3], fault)

    def _drain(self, client: Client, fault: Fault | None) -> None:
        flow = drain_batch(client.cache._state, deque(range(5)), "due")
        client.make("drain", lambda: client.run(flow) and None, lambda _: [Answer(("value", None))], fault)

    @precondition(lambda self: self.oracle.parked)
    @rule(which=number, further=st.one_of(st.none(), st.integers(1, 6)))
    def goes_on(self, which: int, further: int | None) -> None:
        call = self.oracle.parked.pop(which % len(self.oracle.parked))
        self._go_on(call, further)

    def _go_on(self, call: Any, further: int | None) -> None:
        journey = call.journey
        journey.fault = Fault("parked", journey.count + further) if further else None
        self.oracle.log.append(f"go on with {call!r}")
        driver = self._driver(self.clients[0].driver.perform)
        try:
            got = driver.drive(journey)
        except CutShort:
            self.oracle.parked.append(call)
        except SessionCacheError as told:
            self.oracle.finish(call, told)
        else:
            self.oracle.finish(call, None if call.name in {"drain", "flush"} else got)

    # what befalls the tiers

    @rule(key=st.sampled_from(KEYS), kind=st.sampled_from(["meta", "history", "both", "lease", "turn", "wake"]))
    def vanishes(self, key: str, kind: str) -> None:
        """A key with a TTL is gone: it ended, was evicted, or somebody removed it (I1)."""
        kinds = ("meta", "history") if kind == "both" else (kind,)
        for one in kinds:
            for name in self.place.names(f"{one}:{key}" if one != "wake" else "wake"):
                assert self.place.raw.ttl(name) > 0
                self.place.raw.delete(name)
        if kind == "turn":
            self.oracle.turns.pop(key, None)

    @rule(what=st.sampled_from(BEFALLS))
    def befalls(self, what: str) -> None:
        """Something befalls a tier."""
        self.oracle.log.append(what)
        if what == "time passes":
            self.place.forward(31)
        elif what == "Redis restarts":
            self.place.new_run()
            self.oracle.turns.clear()
        elif what == "snapshot":
            self.snapshot = self.place.copy()
        elif what in {"Redis is older", "Redis is empty"}:
            self.place.put_back((self.snapshot or {}) if what == "Redis is older" else {})
            self.oracle.fell_back()
        else:
            self.oracle.store_down = what == "store goes"

    # what holds

    @invariant()
    def books_balance(self) -> None:
        if self.clients:
            self.oracle.check()

    def teardown(self) -> None:
        """Whoever is under way comes to an end; then the store has what the model has, and nothing else is left."""
        if not hasattr(self, "clients") or not self.clients:
            return
        for right in self.oracle.rights:  # also of a process that died, whose threads live on here
            right._over.set()
        note("\n".join(self.oracle.log))
        if sys.exc_info()[0] is not None:  # it has failed already
            return
        oracle = self.oracle
        oracle.store_down = False
        for handle in [one for one in self.handles if one.right is not None]:
            handle.client.end_turn(handle)
        while oracle.parked:
            self._go_on(oracle.parked.pop(), None)
        oracle.check()
        self.clients[0].flush(None, None)
        self.place.forward(31)
        while self.place.names("dirty"):
            self._drain(self.clients[0], None)
        self.place.accepted += len(oracle.events.all)
        self._judge()

    def _judge(self) -> None:
        oracle, place = self.oracle, self.place
        world = oracle.world
        assert not place.names("pending:")
        assert not oracle.events.waiting()
        rows, said, current = place.stored()
        assert current == world.current
        assert set(rows) >= set(world.lives)
        for session_id, life in world.lives.items():
            row = rows[session_id]
            assert (row.session_key, bool(row.deleted), row.message_count) == (life.key, life.deleted, len(life.messages))
            assert [one[2] for one in said[session_id]] == [words for _, words in life.messages], session_id
            assert life.deleted or (row.title, row.input_tokens) == (life.title, life.tokens)
        letters = {op for event in oracle.events.all if event.status == "dead" for op in event.ops}
        assert letters <= place.letters()
        for client in self.clients:
            for key in KEYS:
                client.opens("get", key, None, None, None)
        assert not place.names("lease:")
        assert not [name for name in place.names("turn:") if place.raw.get(name).startswith(place.run.encode())]
