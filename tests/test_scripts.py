"""Single scripts, on fakeredis: fast, and never a proof of an invariant."""

from __future__ import annotations

import threading
from functools import partial

import fakeredis
import pytest

from sessioncache import message, op
from sessioncache.config import Settings
from sessioncache.drivers import Blocking, FirstTransaction
from sessioncache.flow import Ring, run
from sessioncache.hot import draining, reading, writing
from sessioncache.hot.change import Change
from sessioncache.op import new_op_id, parse
from sessioncache.snapshot import Snapshot
from sessioncache.state import State


class Rings:
    """Counts nudges."""

    def __init__(self):
        self.lanes = []

    def ring(self, lane):
        self.lanes.append(lane)


class Bench:
    """The hot tier alone, over fakeredis, which lacks INFO: it gets a run id from here."""

    RUN = "a" * 40

    def __init__(self, monkeypatch, **changes):
        self.client = fakeredis.FakeRedis()
        self.rings = Rings()
        self.state = State.of(Settings(**changes))
        self.keys = self.state.keyspace.of("k")
        self.partition = self.state.keyspace.of_partition(self.keys.partition)
        self.driver = Blocking(self.client, None, self.rings, FirstTransaction(lambda _: None), 2.0)
        original = self.client.execute_command

        def execute(name, *arguments, **options):
            if name == "EVALSHA":
                name, script = "EVAL", self.script
                text = script.text.replace("redis.call('INFO', 'server')", f"'run_id:{self.RUN}'")
                arguments = (text, *arguments[1:])
            return original(name, *arguments, **options)

        monkeypatch.setattr(self.client, "execute_command", execute)

    def perform(self, request):
        self.script = getattr(request, "script", None)
        return self.driver.perform(request)

    def __call__(self, function, *arguments, **named):
        return run(function(self.state, *arguments, **named), self.perform)

    def warm(self, session_id="s", version=0):
        assert self(reading.lease, self.keys, "t") is True
        snapshot = Snapshot(session_id, version, 0, "", 0, 0, 0, [], [])
        assert self(reading.publish, self.keys, "t", snapshot) == "ok"

    def append(self, *texts, ids=None, session_id="s", expected=None):
        op_ids = [op.op_id_of(session_id, one) for one in ids] if ids else [new_op_id()] * len(texts)
        messages = [b"m%d\n" % n + message.encode({"content": text}, 10**6) for n, text in enumerate(texts)]
        return self(writing.append, self.keys, Change(session_id, "", expected), op.APPEND, op_ids, messages)

    def log(self):
        return [parse(one) for one in self.client.lrange(self.keys.pending, 0, -1)]


@pytest.fixture
def bench(monkeypatch):
    return Bench(monkeypatch, window=5)


def test_everything_misses_without_a_hot_copy(bench):
    """Append, start, delete and read alike; nothing is written."""
    assert bench.append("a") is None
    assert bench(writing.start, bench.keys, Change("", new_op_id()), "s", b"", {}) is None
    assert bench(partial(writing.delete, if_current=True), bench.keys, Change("s", new_op_id())) is None
    assert bench(reading.read, bench.keys, -1, None, new_op_id()) is None
    assert bench.client.keys("*") == []


def test_a_copy_of_another_run_is_a_miss(bench):
    """A Redis that came back, from a snapshot or as a replica, is not believed (design section 4)."""
    bench.warm()
    bench.append("a")
    bench.RUN = "b" * 40
    assert bench.append("b") is None
    assert bench(reading.read, bench.keys, -1, None, new_op_id()) is None


def test_elements_are_those_of_python(bench):
    """The scripts, `message.element` and `message.stamped` write the same bytes; a log parses back."""
    bench.warm()
    reply = bench.append("a", "b")
    assert bench.client.lrange(bench.keys.history, 0, -1) == reply.elements
    for index, element in enumerate(reply.elements):
        packed, at_ms = message.encode({"content": "ab"[index]}, 10**6), int(element.split()[1])
        assert element == message.element(index + 1, at_ms, f"m{index}", packed)
        assert op.message_of(bench.log()[index]) == (f"m{index}", packed)
    assert [(one.kind, one.session_id, one.left) for one in bench.log()] == [("append", "s", 1), ("append", "s", 0)]


def test_the_doorbell_rings_once(bench):
    """Until it is let go in the script that finds nothing due."""
    bench.warm()
    bench.append("a")
    bench.append("b")
    assert len(bench.rings.lanes) == 1
    assert bench(draining.claim, [bench.partition], 10, "due") == [["k"]]
    assert bench(draining.claim, [bench.partition], 10, "due") == [[]]
    bench.append("c")
    assert len(bench.rings.lanes) == 1
    assert bench(draining.claim, [bench.partition], 10, "last") == [[]]
    bench.append("d")
    assert len(bench.rings.lanes) == 2


def test_an_ack_removes_only_what_it_names(bench):
    """From the head, by op id; late, repeated and empty acks change nothing; what is left is due at once."""
    bench.warm()
    for text in "abc":
        bench.append(text)
    first, second, third = [one.name for one in bench.log()]
    bench(draining.claim, [bench.partition], 10, "due")

    def acknowledge(*names, version=3):
        return bench(draining.ack, [draining.Ack(bench.keys, list(names), [], version, drop=False)])

    assert acknowledge(second, third) == 0
    assert acknowledge(first) == 1
    assert acknowledge(first) == 0
    assert bench(draining.claim, [bench.partition], 10, "due") == [["k"]]
    assert acknowledge() == 0
    assert bench(draining.claim, [bench.partition], 10, "due") == [["k"]]
    assert acknowledge(second, third, "9 nothing") == 2
    assert not bench.client.exists(bench.keys.pending, bench.keys.dirty)
    assert bench.client.exists(bench.keys.meta)
    acknowledge(version=4)
    assert not bench.client.exists(bench.keys.meta, bench.keys.history)


def test_a_late_ack_takes_no_repeat(bench):
    """It names ops by version and op id: the same op id under another version is for the drainer that reads it."""
    bench.warm()
    bench.append("a", ids=["one"])
    bench.append("b")
    first, second = bench.log()
    element = bench.client.lindex(bench.keys.pending, 0)
    bench.client.delete(bench.keys.pending)
    bench.client.rpush(bench.keys.pending, element.replace(b"1 ", b"7 ", 1))
    late = draining.Ack(bench.keys, [first.name, second.name], [], 2, drop=False)
    assert bench(draining.ack, [late]) == 0
    assert [one.version for one in bench.log()] == [7]


def test_an_ack_moves_what_was_refused_to_the_dead_letters(bench):
    """In the same script, with the reason, the session key and the op as it was."""
    bench.warm()
    bench.append("a", "b")
    element = bench.client.lindex(bench.keys.pending, 0)
    refused = [(one.name, "why") for one in bench.log()]
    assert bench(draining.ack, [draining.Ack(bench.keys, [], refused, 0, drop=True)]) == 2
    letter = bench.client.lindex(bench.keys.dead, 0)
    header, _, rest = letter.partition(b"\n")
    assert header.split(b" ", 2)[1:] == [b"why", b"k"]
    assert rest == element
    assert bench.client.llen(bench.keys.dead) == 2


def test_peek_takes_whole_groups_within_its_bounds(monkeypatch):
    """By ops and by bytes; the first group whatever its size."""
    bench = Bench(monkeypatch)
    bench.warm()
    bench.append("a")
    bench.append(*"bcdef")
    bench.append("g")
    for limit, taken in [(1, 1), (2, 6), (6, 6), (7, 7), (100, 7)]:
        assert len(bench(draining.peek, [bench.keys], limit, 2000)[0]) == taken
    bench.append("x" * 3000)
    bench.append("y")
    assert len(bench(draining.peek, [bench.keys], 100, 2000)[0]) == 8
    other = bench.state.keyspace.of("other")
    assert [len(log) for log in bench(draining.peek, [bench.keys, other], 100, 2000)] == [8, 0]


def entries(bench):
    return bench.client.hget(bench.keys.meta, "ops").replace(b";", b" ").split()


def test_remembered_ops_are_few(monkeypatch):
    """The last 64, about 1.5 KB, and some while versions grow longer; a group is remembered whole as long as it is one."""
    bench = Bench(monkeypatch)
    bench.warm()
    for n in range(100):
        bench.append("a", ids=[f"id-{n}"])
        assert min(n + 1, 64) <= len(entries(bench)) <= 68
    assert len(bench.client.hget(bench.keys.meta, "ops")) < 1500
    group = {"ids": [f"new-{n}" for n in range(100)]}
    first = bench.append(*"abcdefghij" * 10, **group)
    for n in range(63):
        bench.append("b", ids=[f"later-{n}"])
        assert bench.append(*"abcdefghij" * 10, **group).elements == first.elements
    assert len(entries(bench)) == 163
    bench.append("b", ids=["last"])
    assert len(entries(bench)) == 64


def test_a_claim_takes_what_a_clock_step_left_in_the_future(bench):
    """A due time beyond any visibility counts as due."""
    bench.client.zadd(bench.keys.dirty, {"soon": 9e12, "k": 0})
    assert sorted(*bench(draining.claim, [bench.partition], 10, "due")) == ["k", "soon"]
    assert bench(draining.claim, [bench.partition], 10, "due") == [[]]


def test_a_lease_is_held_by_one(bench):
    """The same token again is ours; a publish without it, or with a log, is refused."""
    assert bench(reading.lease, bench.keys, "a") is True
    assert bench(reading.lease, bench.keys, "a") is True
    assert bench(reading.lease, bench.keys, "b") is False
    snapshot = Snapshot("s", 1, 0, "", 0, 0, 0, [], [])
    assert bench(reading.publish, bench.keys, "b", snapshot) == "lost"
    bench.client.rpush(bench.keys.pending, "x")
    assert bench(reading.publish, bench.keys, "a", snapshot) == "dirty"
    bench.client.delete(bench.keys.pending)
    bench(reading.release, bench.keys, "b")
    assert bench(reading.publish, bench.keys, "a", snapshot) == "ok"
    assert bench(reading.lease, bench.keys, "b") is None
    bench(reading.evict, bench.keys)
    assert bench(reading.lease, bench.keys, "a") is True
    bench.RUN = "c" * 40
    assert bench(reading.lease, bench.keys, "b") is True


def test_a_read_touches_now_and_then(monkeypatch):
    """A read writes no op, but one `touch` when SQL has not heard of the session for long."""
    bench = Bench(monkeypatch, touch=2.0)
    bench.warm()
    bench.append("a")
    assert [one.kind for one in bench.log()] == ["append"]
    for _ in range(3):
        bench(reading.read, bench.keys, -1, None, new_op_id())
    assert [one.kind for one in bench.log()] == ["append"]
    threading.Event().wait(2.05)
    for _ in range(3):
        bench(reading.read, bench.keys, -1, None, new_op_id())
    assert [one.kind for one in bench.log()] == ["append", "touch"]
    assert bench.append("b").before == 2


def test_ring_requests_name_the_lane(bench):
    """The lane of the partition."""
    assert Ring(bench.state.lane_of(bench.keys.partition)).lane == bench.keys.partition % 4
