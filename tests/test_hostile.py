"""Hostile input: every decoder is given garbage; it spoils itself alone, is told of, and is never run.

Mutations start from valid bytes, because what is almost right gets furthest: bits flipped, cut, spliced with what other
decoders take.
"""

from __future__ import annotations

import json
import logging
import random
from contextlib import suppress
from datetime import UTC, datetime

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rq import Callback, Queue
from rq.serializers import JSONSerializer
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError

from sessioncache import (
    ConfigurationError,
    CorruptRecord,
    HotTierRefused,
    InvalidInput,
    LayoutMismatch,
    dead,
    finding,
    hydration,
    records,
    write_behind,
)
from sessioncache import info as infos
from sessioncache import op as ops
from sessioncache import ops as ops_
from sessioncache.borders import translate
from sessioncache.config import Settings, as_environment, settings_from
from sessioncache.elements import HOLE, decoded, in_order
from sessioncache.errors import StoreRefused
from sessioncache.message import element, encode
from sessioncache.migrate import upgrade
from sessioncache.op import new_op_id
from sessioncache.store.apply import apply
from sessioncache.store.engine import prepared
from sessioncache.store.planned import Log
from workers import jobs
from workers.runtime import DrainWorker, OwnJob

NOW = datetime(2026, 11, 21, tzinfo=UTC)
MESSAGE = {"role": "user", "content": "héllo", "n": [1, -2.5, None, True, 2**63], "deep": {"a": [{"b": "c"}]}}
PACKED = encode(MESSAGE, 10**6)
ELEMENT = element(7, 1_790_000_000_000, "telegram-991", PACKED)


def bomb(depth: int) -> bytes:
    """Arrays in arrays that each claim to hold a million more."""
    return b"\xdd\x00\x0f\xff\xff" * depth


# What is dear to fuzzers: extensions, times, binary data, bombs, what claims to be huge, keys that are no text, bad UTF-8.
NASTY = [
    b"", b"\xc1", b"\x00", b"[]", b"{}", b"\xd6\xff\x00\x00\x00\x01", b"\xd4\x01a", b"\xc7\x00\x01", b"\xc4\x00",
    b"\xc4\x01a",
    bomb(900), b"\x91" * 2000, b"\x81\xa1a" * 600, b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x81\x01\x01",
    b"\x81\xc4\x01a\x01", b"\x81\xa1\xff\x01", b"\x81\xa1a\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00", b"\x82\xa1a\x01\xa1a\x02",
    b"\x81\xa3\xed\xa0\x80\x01", b"\x81\xa7content\x05", b"9" * 400, b"-1", b"1e3", b"0x10", b"nan", b"\n", b" ",
    b"\xff\xfe",
    b"cos\nsystem\n(S'touch /tmp/pwned'\ntR.", b"__import__('os').system('false')",
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, *valid: bytes) -> bytes:
    """One of these, with a few bits flipped, pieces cut out, doubled, or replaced by something nasty."""
    data = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        to = min(len(data), at + draw(st.integers(0, 12)))
        match draw(st.sampled_from(["flip", "cut", "tail", "double", "nasty"])):
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at:to]
            case "tail":
                del data[at:]
            case "double":
                data[at:at] = data[at:to]
            case "nasty":
                data[at:to] = draw(st.sampled_from(NASTY))
    return bytes(data)


garbage = st.sampled_from(NASTY) | st.binary(max_size=60)


def is_json(value: object) -> bool:
    """Whether a value has only types that JSON has."""
    if type(value) is dict:
        return all(type(key) is str and is_json(one) for key, one in value.items())
    return all(map(is_json, value)) if type(value) is list else type(value) in {str, int, float, bool, type(None)}


def is_sound(elements: list[bytes], after: int, through: int) -> bool:
    """Whether a read takes them, rather than have them brought back."""
    return in_order(elements, after, through) and decoded(elements) is not None


def read_as_json(raw: bytes) -> None:
    """Any bytes are read without an error; what is sound is the message, or a plain JSON object that is almost it."""
    found = records.record(raw)
    sound = is_sound([raw], -1, 2**53)
    assert type(found.data) is dict
    assert is_json(found.data) or not sound
    assert found.readable or found.data == {}
    data = records.Messages([raw, ELEMENT], 0, 2).data()
    assert data == ([found.data] if found.readable else []) + [MESSAGE] or not sound
    if sound:
        assert found.readable == (raw[raw.index(b"\n") + 1 :] != HOLE)
        assert found.seq >= 0


@pytest.mark.parametrize("payload", NASTY)
@pytest.mark.parametrize("before", [b"", b"\x81\xa1a", b"\x81\xa1a\x91"])
def test_payloads_that_are_nasty_from_the_start(payload, before):
    """Behind a good header, as the message, as a value in it, and in a list in it."""
    raw = b"7 1790000000000 m\n" + before + payload
    read_as_json(raw)
    assert not is_sound([raw], -1, 2**53) or records.record(raw).data or payload == HOLE


@settings(max_examples=400)
@given(mutated(ELEMENT) | garbage)
@example(ELEMENT[:-1])
@example(b"7 1790000000000 m\n" + bomb(1000))
@example(b"7 99999999999999999999 m\n" + PACKED)
@example(b"7 999999999999999 m\n" + PACKED)
def test_elements_of_a_history(raw):
    """Bits flipped, cut, spliced."""
    read_as_json(raw)


def test_a_hole_is_sound_and_rising_seqs_are():
    """Seqs that do not rise, repeat or pass the version are garbage, though each element is good."""
    some = [element(seq, 5, "m", PACKED) for seq in (2, 3, 9)]
    assert is_sound([*some, element(10, 5, "m", HOLE)], 1, 10)
    assert hydration.holes([*some, element(10, 5, "m", HOLE)]) == 1
    for after, through, elements in [(2, 10, some), (-1, 8, some), (-1, 10, some[::-1]), (-1, 10, some[:1] * 2)]:
        assert not is_sound(elements, after, through)


META = {
    "run": b"r", "session_id": b"s", "version": b"7", "revision": b"r", "total": b"3", "count": b"3", "bytes": b"90",
    "ops": b"", "owner": b"alice", "created_ms": b"1790000000000", "updated_ms": b"1790000000000",
    "accessed_ms": b"1790000000000", "touched_ms": b"0", "last_message_ms": b"1790000000000", "title": b"t",
    "origin": infos.packed({"a": 1}), "m:a": infos.packed([1]), "input_tokens": b"5", "cost_nano": b"7", "model": b"m",
    "archived": b"1", "parent_id": b"p", "consolidated_seq": b"2",
}  # fmt: skip


@given(st.dictionaries(st.sampled_from(sorted(META)), mutated(*META.values()) | garbage | st.none(), max_size=4))
def test_fields_of_a_meta(changes):
    """A session, or one of the errors that make its copy a miss."""
    fields = {name: value for name, value in {**META, **changes}.items() if value is not None}
    try:
        found = infos.from_meta("k", fields)
    except (ValueError, KeyError, OverflowError):
        assert changes
    else:
        assert is_json(found.metadata)


OPS = {
    ops.APPEND: b"m-1\n" + PACKED,
    ops.EVENT: b"m-2\n" + PACKED,
    ops.REPLACE: b"",
    ops.TRUNCATE: b"1",
    ops.CLEAR: b"0",
    ops.RETAIN: b"1 m\n2 n\n3 o",
    ops.REMOVE: b"m-1",
    ops.EDIT: b"m-1\n" + PACKED,
    ops.UPDATE: b"1" + infos.packed({"set": {"title": "t"}, "add": {"input_tokens": 2}, "metadata": {"a": 1}}),
    ops.TOUCH: b"",
    ops.TELL: b"",
    ops.START: b"1" + infos.packed({"owner": "alice", "title": "t", "metadata": {"a": [1]}, "origin": {"b": None}}),
    ops.SWITCH: b"",
    ops.LEAVE: b"session_switch",
    ops.DELETE: b"",
}


def logged(version: int, kind: str, payload: bytes, left: int = 0) -> bytes:
    """An element of a pending log."""
    return b"%d %b %d 1790000000000 %b s\n%b" % (version, new_op_id().encode(), left, kind.encode(), payload)


LOGGED = [logged(2, kind, payload) for kind, payload in OPS.items()]


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory):
    engine = prepared(create_engine(f"sqlite:///{tmp_path_factory.mktemp('hostile')}/store.db"))
    with engine.begin() as connection:
        upgrade(connection)
        start = ops.parse(logged(1, ops.START, b"0" + infos.packed({})))
        apply(connection, [Log("k", [start])], NOW)
    yield engine
    engine.dispose()


def stored(engine, elements) -> int:
    """Apply what can be read of a log, and take it back; how many ops there were."""
    found = ops.readable(elements)
    with engine.connect() as connection, connection.begin() as transaction:
        try:
            if found:
                apply(connection, [Log("k", found)], NOW)
        except SQLAlchemyError as error:
            raise translate(error, of_store=True) from error
        finally:
            transaction.rollback()
    return len(found)


@settings(max_examples=150)
@given(mutated(*LOGGED) | garbage)
def test_elements_of_a_pending_log(sqlite, raw):
    """It is an op and is applied, or refused for its payload; or it is none, and that is told: never another error."""
    log = [raw, logged(9, ops.APPEND, b"last\n" + PACKED)]
    try:
        assert stored(sqlite, log) or ops.corrupt_in(log) or ops.parsed(raw) is None
    except StoreRefused as refused:
        assert refused.reason in {"payload", "SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"}


@pytest.mark.parametrize("kind", sorted(OPS))
def test_every_kind_with_every_nasty_payload(sqlite, kind):
    """And with nasty numbers in its header: never another error than the refusal of that op."""
    for nasty in NASTY:
        head = {ops.START: b"1", ops.UPDATE: b"1", ops.RETAIN: b"1 m\n2 n\n3"}.get(kind, b"m\n")
        refused_or_done(sqlite, logged(2, kind, nasty))
        if OPS[kind]:
            refused_or_done(sqlite, logged(2, kind, head + nasty))
        refused_or_done(sqlite, logged(2, kind, OPS[kind]).replace(b"1790000000000", nasty or b"9" * 20, 1))
        refused_or_done(sqlite, logged(2, kind, OPS[kind]).replace(b"2", nasty or b"9" * 20, 1))


def refused_or_done(engine, raw: bytes) -> None:
    """What any element may come to."""
    with suppress(StoreRefused):
        stored(engine, [raw])


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NAMED = st.sampled_from(["set", "add", "metadata", "title", "owner", "deleted", "session_id", "archived", "cost_nano"])


@settings(max_examples=150)
@given(
    st.sampled_from([ops.START, ops.UPDATE, ops.APPEND, ops.EDIT]),
    st.dictionaries(NAMED, JSON_VALUES | st.dictionaries(NAMED, JSON_VALUES, max_size=2), max_size=3),
)
@example(ops.UPDATE, {"set": {"deleted": True}})
@example(ops.UPDATE, {"set": {"session_id": "x"}})
@example(ops.START, {"no such column": 1})
def test_payloads_of_other_types(sqlite, kind, payload):
    """Well-formed msgpack with names and types that no op has: refused for the payload, or harmless."""
    head = {ops.START: b"1", ops.UPDATE: b"1"}.get(kind, b"m-1\n")
    try:
        stored(sqlite, [logged(2, kind, head + msgpack.packb(payload))])
    except StoreRefused as refused:
        assert refused.reason in {"payload", "SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"}
    else:
        if kind == ops.UPDATE:
            assert not {"deleted", "session_id", "state"} & set(payload.get("set", {}))


def test_a_group_that_does_not_count_down():
    """A number of followers that was altered costs its own element, not the key."""
    good = [logged(2, ops.REPLACE, b"", 1), logged(3, ops.APPEND, b"m\n" + PACKED, 0)]
    assert len(ops.readable(good)) == 2
    assert ops.corrupt_in(good) is None
    for bad in (logged(2, ops.APPEND, b"a\n" + PACKED, 5), logged(2, ops.APPEND, b"a\n" + PACKED, 999_999_999)):
        assert ops.readable([bad, *good]) == []
        assert ops.corrupt_in([bad, *good]) == bad
        assert ops.corrupt_in([*good, bad]) == bad


@given(mutated(b"1790000000000 22001 k\n" + LOGGED[0], b"1790000000000 corrupt k\nx") | garbage)
@example(b"1790000000000 22001 k\n" + logged(2, ops.APPEND, b"m\n\x81\xa1a\xc4\x00"))
@example(b"1790000000000 22001 k\n" + logged(2, ops.APPEND, b"m\n\x81\xc4\x00\xa1a"))
def test_dead_letters(raw):
    """Each is shown, as far as it can be read, and as JSON."""
    found = dead._letter(raw)
    assert found.raw == raw
    json.dumps(found.to_dict())


@given(st.text(max_size=40) | st.binary(max_size=40) | st.none().map(lambda _: 5))
@example("WzEsMl0=")
@example("W1tdLHt9XQ==")
@example("WzFlOTk5LCJhIl0=")
@example("Wzk5OTk5OTk5OTk5OTk5OTk5OTk5LCJhIl0=")
def test_cursors(cursor):
    """A cursor of nobody's is refused."""
    with pytest.raises(InvalidInput, match="cursor"):
        finding._place(cursor)


NAMES = sorted(as_environment(Settings()))


@given(st.dictionaries(st.sampled_from(NAMES), st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=3))
@example({"SESSIONCACHE_PARTITIONS": "9" * 5000})
@example({"SESSIONCACHE_RESET": "[" * 100_000})
@example({"SESSIONCACHE_TTL": "nan"})
@example({"SESSIONCACHE_DATABASE_URL": "sqlite://[::1"})
@example({"SESSIONCACHE_REDIS_URL": "redis://[::1"})
def test_settings(environment):
    """Whatever the environment says, the settings are good or a `ConfigurationError` names what is not."""
    try:
        settings_from({}, environment)
    except ConfigurationError as error:
        assert str(error).endswith(".")


def damaged(stack, statement: str, *values: object) -> None:
    """Do damage in SQL."""
    engine = create_engine(stack.database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement, values)
    engine.dispose()


# Fields of meta in which one word is as good as another.
WORDS = {b"session_id", b"owner", b"revision", b"title", b"display_name", b"platform", b"chat_type", b"answer", b"began"}


def altered(data: bytes, nasty: bytes, rng: random.Random) -> bytes:
    """Cut short, or with something nasty in the middle. (A message id that was altered is another good message id)."""
    cut = rng.randrange(len(data) + 1)
    return rng.choice([data[:cut], data[:cut] + nasty + data[cut:]])


def spoil(raw, name: str, how: str, rng: random.Random) -> None:
    """Damage one Redis key, as a slip of an operator or a bug elsewhere would."""
    kind = raw.type(name)
    nasty = rng.choice(NASTY)
    match how:
        case "type":
            raw.delete(name)
            raw.lpush(name, b"x") if kind != b"list" else raw.set(name, b"x")
        case "element" if kind == b"list":
            at = rng.randrange(raw.llen(name))
            head, _, packed = raw.lindex(name, at).partition(b"\n")
            numbers, _, message_id = head.rpartition(b" ")
            raw.lset(name, at, rng.choice([
                nasty,
                altered(numbers, nasty, rng) + b" " + message_id + b"\n" + packed,
                head + b"\n" + altered(packed, nasty, rng),
            ]))  # fmt: skip
        case "field" if kind == b"hash":
            field = rng.choice(sorted(raw.hkeys(name)))
            raw.hdel(name, field) if field in WORDS or rng.random() < 0.3 else raw.hset(name, field, nasty)


def history_is(session, wanted) -> bool:
    return [one["content"] for one in session.history()] == wanted


CALLS = {
    "append": lambda session: session.append({"role": "user", "content": "new"}),
    "history": lambda session: session.history(),
    "messages": lambda session: [one.id for one in session.messages(2)],
    "context": lambda session: session.context(),
    "refresh": lambda session: session.refresh(),
    "pop": lambda session: session.pop(),
    "edit": lambda session: session.edit("m1", {"content": "edited"}),
    "remove": lambda session: session.remove("m1"),
    "truncate": lambda session: session.truncate(2),
    "retain": lambda session: session.retain(2),
    "replace": lambda session: session.replace([{"content": "r"}]),
    "clear": lambda session: session.clear(),
    "usage": lambda session: session.record_usage(input_tokens=1),
    "update": lambda session: session.update(title="t"),
    "consolidate": lambda session: session.consolidate(1),
    "reset": lambda session: session.reset(),
}
MUST_BE = {
    "append": ["0", "1", "2", "3", "new"], "pop": ["0", "1", "2"], "remove": ["0", "2", "3"], "truncate": ["0", "1"],
    "edit": ["0", "edited", "2", "3"], "retain": ["2", "3"], "replace": ["r"], "clear": [], "reset": [],
}  # fmt: skip


def one_round(cache, raw, stack, key: str, call: str, rng: random.Random) -> None:
    """A session whose hot copy is damaged before a call: the call does what it does, and nothing else is seen later."""
    session = cache.open(key, owner="alice", metadata={"a": 1})
    session.append([{"role": "user", "content": str(n)} for n in range(4)], id=[f"m{n}" for n in range(4)])
    if rng.random() < 0.5:
        cache.flush(key)
    if rng.random() < 0.3:
        session.history()
    keys = cache._state.keyspace.of(key)
    for _ in range(rng.randint(1, 2)):
        name = rng.choice([keys.meta, keys.history])
        if raw.exists(name):
            spoil(raw, name, rng.choice(["type", "element", "field"]), rng)
    for name in (keys.lease, keys.turn):
        if rng.random() < 0.2:
            raw.delete(name)
            raw.rpush(name, "x")
    after = CALLS[call](session)
    cache.flush(key)
    cache.evict(key)
    found = cache.get(key)
    assert found.owner == "alice"
    assert history_is(found, MUST_BE.get(call, ["0", "1", "2", "3"])), (call, after)
    assert raw.llen(keys.dead) == 0


def rounds(stack, seed: int, count: int) -> None:
    """Many rounds, from a seed."""
    rng = random.Random(seed)
    with stack.cache(hydration_timeout=20.0) as cache, stack.raw() as raw:
        for number in range(count):
            call = rng.choice(sorted(CALLS))
            try:
                one_round(cache, raw, stack, f"k{number}", call, rng)
            except Exception as error:
                error.add_note(f"seed {seed}, round {number}, {call}")
                raise
        for number in range(3):
            raw.delete(*(raw.keys("sc:*:lease:*") or ["x"]))
            assert cache.open(f"other {number}").history() == []


@pytest.mark.parametrize("near", [False, True])
def test_a_damaged_element_is_brought_back(stack, caplog, near):
    """The read that meets it gives the whole history, counts it once, and warns without content; also of what is new."""
    with stack.cache() as cache, stack.raw() as raw:
        session = cache.open("k")
        session.append([{"content": "secret"}, {"content": "b"}])
        if near:
            session.history()
            with stack.cache() as other:
                other.get("k").append({"content": "c"})
        keys = cache._state.keyspace.of("k")
        raw.lset(keys.history, -1, raw.lindex(keys.history, -1)[:-1])
        with caplog.at_level(logging.WARNING, "sessioncache"):
            texts = [one["content"] for one in session.history()]
        assert texts == ["secret", "b", "c"][: 2 + near]
        assert cache.stats().counters["corrupt_elements"] == 1
        assert "a hot copy holds what cannot be read" in caplog.text
        assert "secret" not in caplog.text
        assert len(session.history()) == len(texts)
        assert cache.stats().counters["corrupt_elements"] == 1


@pytest.mark.parametrize("seed", range(2))
def test_garbage_in_a_hot_copy(some_stack, seed):
    """Whatever stands in meta, history, lease or turn: every call does what it should; what was acknowledged is kept."""
    rounds(some_stack, seed, 30)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(100, 104))
def test_garbage_in_a_hot_copy_for_long(some_stack, seed):
    """The same, for longer."""
    rounds(some_stack, seed, 500)


CALLED: list[object] = []


def called(*_: object) -> None:
    """What a job of somebody else wants to have called."""
    CALLED.append(_)


FOREIGN = [
    ("workers.jobs.drain_lane", ["another", 0, 4]),
    ("workers.jobs.drain_lane", [["sc"], 0, 4]),
    ("workers.jobs.drain_lane", ["sc", -1, 4]),
    ("workers.jobs.drain_lane", ["sc", 4, 4]),
    ("workers.jobs.drain_lane", ["sc", True, 4]),
    ("workers.jobs.drain_lane", ["sc", 0, 10**30]),
    ("workers.jobs.drain_lane", ["sc", "0", "4"]),
    ("workers.jobs.drain_lane", ["sc", 0, 4, "more"]),
    ("workers.jobs.drain_lane", []),
    ("workers.jobs.keep_house", ["sc", ["deleted", 10**30, "s"]]),
    ("workers.jobs.keep_house", ["sc", ["os.system", 1, "s"]]),
    ("workers.jobs.keep_house", ["sc", {"deleted": 1}]),
    ("workers.jobs.keep_house", ["sc", [["deleted"], 1, "s"]]),
    ("pathlib.Path.touch", ["{path}"]),
    ("os.mkdir", ["{path}"]),
    ("workers.jobs.connections", []),
    ("workers.jobs._go_on", ["x", "y"]),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:rq")
def test_jobs_of_others(one_stack, tmp_path, monkeypatch, caplog):
    """Real jobs with foreign arguments, functions and callbacks: refused, nothing called, nothing drained; ours go on."""
    path = tmp_path / "touched"
    for name, value in as_environment(one_stack.settings()).items():
        monkeypatch.setenv(name, value)
    jobs.connections.cache_clear()
    with one_stack.cache() as cache, one_stack.raw() as raw:
        cache.open("k").append({"content": "a"})
        pending = raw.llen(cache._state.keyspace.of("k").pending)
        queue = Queue("hostile", connection=raw, serializer=JSONSerializer)
        sent = [queue.enqueue(name, *(str(path) if one == "{path}" else one for one in given)) for name, given in FOREIGN]
        sent.append(queue.enqueue("workers.jobs.drain_lane", "another", 0, 4, on_failure=Callback(f"{__name__}.called")))
        worker = DrainWorker([queue], connection=raw, serializer=JSONSerializer, job_class=OwnJob)
        worker.work(burst=True, logging_level="CRITICAL")
        for job in sent:
            job.refresh()
            assert job.get_status() == "failed", job.description
        assert not path.exists()
        assert not CALLED
        assert raw.llen(cache._state.keyspace.of("k").pending) == pending
        lanes = range(one_stack.settings().lanes)
        ours = [queue.enqueue("workers.jobs.drain_lane", "sc", lane, len(lanes), result_ttl=60) for lane in lanes]
        DrainWorker([queue], connection=raw, serializer=JSONSerializer, job_class=OwnJob).work(burst=True)
        assert sum(job.return_value(refresh=True) for job in ours) >= pending
    jobs.connections().close()
    jobs.connections.cache_clear()


ROWS = [
    ("UPDATE messages SET body = ? WHERE seq = ?", "{"),
    ("UPDATE messages SET body = ? WHERE seq = ?", "[]"),
    ("UPDATE messages SET body = ? WHERE seq = ?", '{"a": NaN}'),
    ("UPDATE messages SET body = ? WHERE seq = ?", '{"a": 99999999999999999999999}'),
    ("UPDATE messages SET body = ? WHERE seq = ?", '{"a": "\\ud800"}'),
    ("UPDATE messages SET body = ? WHERE seq = ?", '{"a":' + "[" * 5000 + "]" * 5000 + "}"),
    ("UPDATE messages SET body = ? WHERE seq = ?", b'{"a": "\xff"}'),
    ("UPDATE messages SET body = CAST(? AS TEXT) WHERE seq = ?", b'{"a": "\xff"}'),
    ("UPDATE messages SET body = ? WHERE seq = ?", 5),
    ("UPDATE messages SET message_id = ? WHERE seq = ?", b"\xff\n"),
    ("UPDATE messages SET message_id = ? WHERE seq = ?", "a\nb"),
    ("UPDATE messages SET created_at = ? WHERE seq = ?", "yesterday"),
    ("UPDATE messages SET created_at = ? WHERE seq = ?", "9999-12-31 00:00:00"),
    ("UPDATE messages SET created_at = ? WHERE seq = ?", 5),
    ("UPDATE messages SET text = ?, role = 5 WHERE seq = ?", b"\xff"),
    ("UPDATE sessions SET metadata = ? WHERE ? > 0", b"\xff{"),
    ("UPDATE sessions SET metadata = ? WHERE ? > 0", "[" * 5000),
    ("UPDATE sessions SET origin = ? WHERE ? > 0", '["a"]'),
    ("UPDATE sessions SET message_count = ? WHERE ? > 0", -5),
    ("UPDATE sessions SET message_count = ? WHERE ? > 0", "many"),
    ("UPDATE sessions SET message_count = ? WHERE ? > 0", 99),
    ("UPDATE sessions SET input_tokens = ? WHERE ? > 0", "many"),
    ("UPDATE sessions SET cost_nano = ? WHERE ? > 0", -(2**60)),
    ("UPDATE sessions SET consolidated_seq = ? WHERE ? > 0", b"x"),
    ("UPDATE sessions SET title = CAST(? AS TEXT) WHERE ? > 0", b"\xff"),
    ("UPDATE sessions SET title = ? WHERE ? > 0", b"\xff"),
    ("UPDATE sessions SET updated_at = ? WHERE ? > 0", "now"),
    ("UPDATE sessions SET last_message_at = ? WHERE ? > 0", 12),
    ("UPDATE sessions SET archived = ? WHERE ? > 0", 7),
]


@pytest.mark.parametrize("window", [3, 10_000])
def test_rows_of_sqlite(one_stack, window):
    """SQLite keeps anything in any column: each call does its work, and only what cannot be read is left out."""
    with one_stack.cache(window=window) as cache:
        found = {f"k{number}": cache.open(f"k{number}", title="t") for number in range(len(ROWS) + 1)}
        for session in found.values():
            session.append([{"role": "user", "content": f"{n}"} for n in range(6)])
        cache.flush()
        for (statement, value), session in zip(ROWS, found.values(), strict=False):
            cache.evict(session.key)
            damaged(one_stack, statement.replace("WHERE", f"WHERE session_id = '{session.session_id}' AND"), value, 4)
        for (statement, value), session in zip(ROWS, found.values(), strict=False):
            try:
                whole_but_for_what_is_damaged(cache, session, "body" in statement)
            except Exception as error:
                error.add_note(f"{statement} {value!r:.60}")
                raise
        assert {one.info.key for one in cache.list(archived=None, fresh=True).sessions} == set(found)
        cache.search("5")
        assert len(found[f"k{len(ROWS)}"].history()) == 6
        assert cache.flush().left == 0


def whole_but_for_what_is_damaged(cache, session, one_gone) -> None:
    """Every kind of read gives what is there; a write goes on after it."""
    texts = [str(n) for n in range(6) if not (one_gone and n == 2)]
    assert history_is(session, texts)
    assert len(session.messages()) == len(cache.read(session.session_id)) == len(list(session.iterate(page=2))) == 6
    assert session.context()[-1]["content"] == "5"
    session.refresh()
    session.record_usage(input_tokens=1)
    session.append({"role": "user", "content": "6"})
    cache.info(session.session_id)
    cache.evict(session.key)
    assert [one["content"] for one in session.history(2)] == ["5", "6"]


def test_a_seq_that_cannot_be_read(one_stack):
    """It has no place: a typed error for its session; no other suffers."""
    with one_stack.cache() as cache:
        session, good = cache.open("k"), cache.open("good")
        for one in (session, good):
            one.append([{"content": "a"}, {"content": "b"}])
        cache.flush()
        for key in ("k", "good"):
            cache.evict(key)
        damaged(one_stack, f"UPDATE messages SET seq = 'x' WHERE session_id = '{session.session_id}' AND seq = 3")
        with pytest.raises(CorruptRecord, match="seq"):
            session.history()
        assert len(good.history()) == 2


def test_a_version_that_was_set_back_by_hand(one_stack):
    """Versions go on after the last seq."""
    with one_stack.cache() as cache:
        session = cache.open("k")
        session.append([{"content": "a"}, {"content": "b"}])
        cache.flush()
        cache.evict("k")
        damaged(one_stack, "UPDATE routes SET version = 1")
        assert len(session.history()) == 2
        assert session.append({"content": "c"})[0].seq == 4
        cache.flush()
        assert len(session.history()) == 3


@pytest.mark.parametrize("value", ["x", -1, 2**62, b"\xff"])
def test_a_route_that_cannot_be_read(one_stack, value):
    """Where a key stands is not guessed: that key is stopped, and no other."""
    with one_stack.cache() as cache:
        session, good = cache.open("k"), cache.open("good")
        session.append({"content": "a"})
        cache.flush()
        session.append({"content": "b"})
        good.append({"content": "c"})
        damaged(one_stack, "UPDATE routes SET version = ? WHERE session_key = 'k'", value)
        with pytest.raises(CorruptRecord, match="table routes"):
            cache.flush()
        cache.evict("good")
        assert good.history() == [{"content": "c"}]
        cache.evict("k")
        with pytest.raises(CorruptRecord, match="table routes"):
            session.history()
        damaged(one_stack, "UPDATE routes SET version = 9 WHERE session_key = 'k'")
        assert session.history() == [{"content": "a"}, {"content": "b"}]


@pytest.mark.parametrize("kind", ["pending", "dirty", "dead", "holds", "wake", "layout"])
def test_a_key_without_a_ttl_of_a_wrong_type(one_stack, kind):
    """Only Redis knows what is in these, so none is dropped: a typed error, no half of a write, all others go on."""
    with one_stack.cache(partitions=2, lanes=1, timeout=2.0) as cache, one_stack.raw() as raw:
        keys = cache._state.keyspace.of("k")
        other = next(name for name in map(str, range(99)) if cache._state.keyspace.of(name).partition != keys.partition)
        session, good = cache.open("k"), cache.open(other)
        session.append({"content": "a"})
        good.append({"content": "b"})
        cache.flush()
        name = cache._state.keyspace.layout if kind == "layout" else getattr(keys, kind)
        raw.delete(name)
        raw.zadd(name, {"x": 1}) if kind in {"pending", "dead"} else raw.rpush(name, "x")
        before = session.history()
        try:
            session.append({"content": "c"})
            before = [*before, {"content": "c"}]
        except HotTierRefused:
            assert kind in {"pending", "dirty"}
        good.append({"content": "d"})
        for _ in range(2):
            with suppress(HotTierRefused):
                cache.flush()
        connections = cache._connections
        connections.run(write_behind.drain_lane(connections.state, 0, 1, lambda: False))
        assert cache.stats().dirty <= 1
        assert connections.run(ops_.overdue_lanes(connections.state))
        cache.evict(other)
        assert good.history() == [{"content": "b"}, {"content": "d"}]
        raw.delete(name)
        assert session.history() == before
        session.append({"content": "e"})
        cache.flush()
        cache.evict("k")
        assert session.history() == [*before, {"content": "e"}]


def test_a_log_of_a_wrong_type_among_good_ones(one_stack):
    """The drain job empties the logs of the other keys of its partition."""
    with one_stack.cache(partitions=1, lanes=1) as cache, one_stack.raw() as raw:
        bad_key, good = cache.open("bad"), cache.open("good")
        cache.flush()
        bad_key.append({"content": "a"})
        good.append({"content": "b"})
        keys = cache._state.keyspace.of("bad")
        raw.rename(keys.pending, "kept")
        raw.set(keys.pending, "x")
        connections = cache._connections
        connections.run(write_behind.drain_lane(connections.state, 0, 1, lambda: False))
        assert not raw.exists(cache._state.keyspace.of("good").pending)
        raw.rename("kept", keys.pending)
        cache.evict("bad")
        assert bad_key.history() == [{"content": "a"}]


def test_dead_letters_that_are_no_list(one_stack):
    """Nothing is taken from a log that cannot be put there (I2)."""
    with one_stack.cache(partitions=1, lanes=1) as cache, one_stack.raw() as raw:
        session = cache.open("k")
        cache.flush()
        keys = cache._state.keyspace.of("k")
        element_ = logged(2, ops.APPEND, b"m\n\xc1").replace(b" s\n", b" " + session.session_id.encode() + b"\n")
        for garbage_ in (element_, b"no op"):
            raw.rpush(keys.pending, garbage_)
            raw.zadd(keys.dirty, {"k": 0})
            raw.set(keys.dead, "x")
            with pytest.raises(HotTierRefused, match="WRONGTYPE"):
                cache.flush()
            assert raw.lrange(keys.pending, 0, -1) == [garbage_]
            raw.delete(keys.dead)
            cache.flush()
            assert raw.llen(keys.pending) == 0
            assert raw.lpop(keys.dead).endswith(garbage_)


@pytest.mark.parametrize("kind", ["backlog", "oldest"])
@pytest.mark.parametrize("payload", [b"m\n\xc1", b""])
def test_counts_of_a_wrong_type(one_stack, kind, payload):
    """Nothing is taken from a log whose dead letters could not be kept (I2), of the store's refusal or of no op."""
    with one_stack.cache(partitions=1, lanes=1) as cache, one_stack.raw() as raw:
        session = cache.open("k")
        cache.flush()
        keys = cache._state.keyspace.of("k")
        element_ = logged(2, ops.APPEND, payload).replace(b" s\n", b" " + session.session_id.encode() + b"\n")
        garbage_ = element_ if payload else b"no op"
        raw.rpush(keys.pending, garbage_)
        raw.zadd(keys.dirty, {"k": 0})
        raw.delete(getattr(keys, kind))
        raw.set(getattr(keys, kind), "x")
        with pytest.raises(HotTierRefused, match="WRONGTYPE"):
            cache.flush()
        assert raw.lrange(keys.pending, 0, -1) == [garbage_]
        raw.delete(getattr(keys, kind))
        cache.flush()
        assert (raw.llen(keys.pending), raw.llen(keys.dead)) == (0, 1)


@pytest.mark.parametrize("fields", [{"version": "x"}, {"version": 1, "partitions": "many"}, {"version": 1}])
def test_a_layout_that_cannot_be_read(one_stack, fields):
    """It refuses to start, and says what to set."""
    with one_stack.raw() as raw:
        raw.hset("sc:{000}:layout", mapping=fields)
        with one_stack.cache() as cache, pytest.raises(LayoutMismatch, match="HSET"):
            cache.open("k")


def test_members_that_are_no_session_keys(one_stack, caplog):
    """In the dirty index, the holds and the dead letters: passed over, told of, never in the way."""
    with one_stack.cache(partitions=2, lanes=1) as cache, one_stack.raw() as raw:
        key = next(name for name in map(str, range(99)) if cache._state.keyspace.of(name).partition == 0)
        session = cache.open(key)
        session.append({"content": "a"})
        for member in (b"\xff", b"", b"a\nb", b"x" * 600, b"\x00"):
            raw.zadd("sc:{000}:dirty", {member: 0})
            raw.zadd("sc:{000}:holds", {member: 9e15})
            raw.rpush("sc:{000}:dead", member)
        assert cache.flush().ops == 2
        assert raw.llen(f"sc:{{000}}:pending:{key}") == 0
        with caplog.at_level(logging.WARNING):
            cache.flush()
        assert "an index of session keys holds" in caplog.text
        letters = cache.dead_letters()
        assert len(letters) == 5
        assert cache.retry_dead(letters) == 0
        assert cache.drop_dead(letters) == 5
        assert session.history() == [{"content": "a"}]
