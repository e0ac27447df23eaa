"""Functions for redis-cli: exact, readable, read-only, bounded; installed, compared, removed; what doctor says of them."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from calendar import isleap
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgpack
import pytest
import redis
import showing
from click.testing import CliRunner
from conftest import _stack, binary_of, missing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import RedisServer
from test_doctor import free_port

from sessioncache import SessionCache, Settings, elements, functions, message
from sessioncache.cli.main import cli
from sessioncache.cli.status import DONE, FAILED, UNHEALTHY
from sessioncache.config import as_environment
from sessioncache.errors import HotTierRefused
from sessioncache.hot import partitions
from sessioncache.hot.server import server_facts
from sessioncache.keys import Keyspace, check_session_key
from sessioncache.scripts import LEASE

KEY = "telegram:dm:42"
NOBODY = "redis://127.0.0.1:1/0"
QUICKLY = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(params=["valkey9-sqlite", "redis7-sqlite"])
def some_stack(request):
    """Functions ask Redis alone: each of them, beside the store that is quickest to make."""
    yield from _stack(request, request.param)


class Shown:
    """A stack with functions, where nobody drains; calls them as redis-cli does."""

    def __init__(self, cache: SessionCache, raw: redis.Redis) -> None:
        self.cache, self.raw = cache, raw

    def __call__(self, name: str, *arguments: str | int, keys: tuple[str, ...] = ()) -> list[str]:
        return [line.decode() for line in self.raw.execute_command("FCALL_RO", name, len(keys), *keys, *arguments)]

    def facts(self, key: str = KEY, **more) -> dict[str, str]:
        """What sc_show says, by name."""
        return {line[:13].strip(): line[14:] for line in self("sc_show", *(() if more else (key,)), **more)}

    def keys(self, key: str = KEY):
        return self.cache._state.keyspace.of(key)

    def plant(self, *packed: bytes) -> None:
        """Put other messages into the hot copy."""
        keys = self.keys()
        self.raw.delete(keys.history)
        self.raw.rpush(keys.history, *(b"%d 1700000000123 m%d\n%b" % (n + 2, n, one) for n, one in enumerate(packed)))
        self.raw.hset(keys.meta, mapping={"count": len(packed), "total": len(packed)})

    def data(self, *packed: bytes) -> list[dict]:
        """The lines of sc_tail for these messages."""
        self.plant(*packed)
        return [json.loads(line) for line in self("sc_tail", KEY, len(packed), 2**18)]


@pytest.fixture
def shown(some_stack):
    """A session with one message, on each hot tier."""
    with some_stack.cache(queue_url=NOBODY) as cache, some_stack.raw() as raw:
        showing.install(cache)
        cache.open(KEY, owner="alice").append({"content": "hello"})
        yield Shown(cache, raw)
        raw.function_flush()


INTEGERS = st.integers(message.SMALLEST_INTEGER, message.LARGEST_INTEGER)
VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=5), inner, max_size=20),
    max_leaves=40,
)


@QUICKLY
@given(values=st.lists(VALUES, min_size=1, max_size=5))
def test_messages_are_shown_exactly(shown, values):
    """Numbers, floats, nulls, any text, nested: of the same types and order, what Python packed is read from JSON."""
    found = shown.data(*(msgpack.packb({"content": None, "value": value}) for value in values))
    assert repr([one["data"]["value"] for one in found]) == repr(values)
    assert [one["seq"] for one in found] == [*range(2, len(values) + 2)]


def nested(depth: int) -> object:
    value: object = "x"
    for _ in range(depth):
        value = [value] if depth % 2 else {"a": value}
    return value


EDGES = [
    *(sign * 2**power + step for power in (0, 5, 7, 8, 15, 16, 31, 32, 52, 53, 54, 62, 63) for step in (-1, 0, 1)
      for sign in (1, -1) if sign * 2**power + step >= -(2**63)),
    2**64 - 1, 2**64 - 2**32, 2**64 - 10**6, 999_999, 1_000_000, 10**18, -(10**18), 10**19,
    0.0, -0.0, 1.0, 0.1, 1e22, 1e300, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 0.1 + 0.2, 1 / 3,
    *("x" * size for size in (0, 31, 32, 255, 256, 65_535, 65_536)), "\x00", "\u2028\x7f\x85\x9b31m",
    "\U0010ffff\ud7ff\ue000",
    *([None] * size for size in (0, 15, 16, 40_000)), {str(n): n for n in range(70)}, {}, nested(99), nested(98),
]  # fmt: skip


def test_edges_are_shown_exactly(shown):
    """Each form of msgpack at both its ends, and nesting as deep as a message may have."""
    for value in EDGES:
        (found,) = shown.data(message.encode({"value": value}, 2**20))
        assert repr(found["data"]) == repr({"value": value}), repr(value)[:80]
    (single,) = shown.data(b"\xca" + bytes.fromhex("3dcccccd"))
    assert single["data"] == 0.10000000149011612
    for packed, says in ((b"\xcb\x7f\xf8" + bytes(6), "NaN"), (b"\xcb\xff\xf0" + bytes(6), "-Infinity")):
        assert shown.data(packed)[0]["data"] == says


@QUICKLY
@given(binary=st.lists(st.binary(max_size=60) | st.text().map(str.encode), min_size=1, max_size=5))
def test_what_is_no_text_is_escaped(shown, binary):
    """Binary data, and text that is not UTF-8: each byte can be told from what is shown, and no terminal obeys it."""
    packed = [msgpack.packb(one, use_bin_type=n % 2 == 0) for n, one in enumerate(binary)]
    found = shown.data(*packed)
    assert [one["data"].encode("utf-8", "surrogateescape") for one in found] == binary
    for line in shown("sc_tail", KEY, len(binary)):
        assert line.isascii() or not any(ord(one) < 32 or 127 <= ord(one) < 160 for one in line)


def test_what_python_takes_for_text_is_text(shown):
    """Overlong forms, surrogates, what is cut off or beyond Unicode: as Python judges, byte by byte."""
    for second in (0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0):
        tried = [bytes([first, second, *rest]) for first in range(0x80, 0x100) for rest in (b"\x80", b"\x80\x80a", b"a")]
        found = shown.data(*(msgpack.packb(one) for one in tried))
        assert [one["data"] for one in found] == [one.decode("utf-8", "surrogateescape") for one in tried]


@QUICKLY
@given(garbage=st.lists(st.binary(max_size=50), min_size=1, max_size=5))
def test_garbage_is_shown_as_such(shown, garbage):
    """Whatever bytes are among the messages, each is a line of JSON, and a good message beside them is shown."""
    good = message.encode({"content": "good"}, 100)
    found = shown.data(*garbage, good)
    assert found[-1]["data"] == {"content": "good"}
    for one, raw in zip(found, garbage, strict=False):
        try:
            wanted = message.decode(raw)
        except ValueError:
            assert "data" in one or one["readable"] is False
        else:
            assert one["data"] == wanted
    shown.raw.delete(shown.keys().history)
    shown.raw.rpush(shown.keys().history, *garbage)
    shown.raw.hset(shown.keys().meta, mapping={"count": len(garbage)})
    found = [json.loads(line) for line in shown("sc_tail", KEY)]
    assert [one["bytes"] for one in found if not one.get("readable", True)] == [
        len(one) for one, line in zip(garbage, found, strict=True) if not line.get("readable", True)
    ]


UNREADABLE = [
    elements.HOLE, b"", b"\x92\x01", b"\x01\x01", b"\xdd\xff\xff\xff\xff", b"\xc7\x00\x01", b"\xcb\x00", b"\xdb\x00\x00",
    b"\x91" * 200 + b"\xc0",
]  # fmt: skip


def test_what_cannot_be_read_says_so(shown):
    """Holes, what is cut off, followed by more, or nested beyond any message."""
    found = shown.data(*UNREADABLE)
    for n, (one, packed) in enumerate(zip(found, UNREADABLE, strict=True)):
        assert (one["seq"], one["id"], one["readable"], one["bytes"]) == (n + 2, f"m{n}", False, len(packed)), packed
        assert one["raw"].encode("utf-8", "surrogateescape") == packed[:200]


def test_keys_that_are_no_text(shown):
    """They are shown as the text of their JSON."""
    (found,) = shown.data(msgpack.packb({1: "a", (2, None): "b", "c": {2.5: True}}))
    assert found["data"] == {"1": "a", "[2, null]": "b", "c": {"2.5": True}}


def test_tail_shows_the_newest(shown):
    """As many as asked for, oldest first, with id and time, as the library gives them."""
    session = shown.cache.get(KEY)
    session.append([{"content": f"müde {n}", "n": n} for n in range(30)], durability="cached")
    records = list(session.messages())
    for asked, wanted in (((), 10), ((3,), 3), ((1000,), 31)):
        lines = [json.loads(line) for line in shown("sc_tail", KEY, *asked)]
        assert [(line["seq"], line["id"], line["data"]) for line in lines] == [
            (one.seq, one.id, one.data) for one in records[-wanted:]
        ]
        assert lines[-1]["created_at"] == records[-1].created_at.isoformat(timespec="milliseconds")


def test_bytes_bound_the_tail(shown):
    """Older messages are left out; of one that is larger alone, the size is shown."""
    shown.cache.get(KEY).append([{"content": "x" * 1000} for _ in range(5)])
    assert len(shown("sc_tail", KEY, 5, 2500)) == 2
    (one,) = [json.loads(line) for line in shown("sc_tail", KEY, 5, 900)]
    assert (one["shown"], one["seq"], one["bytes"] > 1000) == (False, 7, True)
    (heavy,) = shown.data(msgpack.packb([None] * 60_000))
    assert (heavy["shown"], heavy["bytes"]) == (False, 60_003)


DAYS = [
    datetime(year, month, day, 23, 59, 59, 999_000, tzinfo=UTC)
    for year in (*range(1970, 2110), 2199, 2200, 2399, 2400, 2401, 9999)
    for month, day in ((1, 1), (2, 28), (3, 1), (12, 31), *([(2, 29)] if isleap(year) else []))
]


def test_times_are_those_of_the_calendar(shown):
    """The days where calendars go wrong, to the year 9999, in UTC."""
    keys = shown.keys()
    shown.raw.delete(keys.history)
    shown.raw.rpush(keys.history, *(b"%d %d m\n\xc0" % (n + 1, message.milliseconds(day)) for n, day in enumerate(DAYS)))
    shown.raw.hset(keys.meta, mapping={"count": len(DAYS), "total": len(DAYS)})
    found = [json.loads(line)["created_at"] for line in shown("sc_tail", KEY, 1000)]
    assert found == [day.isoformat(timespec="milliseconds") for day in DAYS]


def _is_key(key: str) -> bool:
    try:
        return bool(check_session_key(key))
    except ValueError:
        return False


KEYS = st.text(min_size=1, max_size=60).filter(_is_key)


@QUICKLY
@given(key=KEYS, partitions=st.integers(1, 1000))
def test_partitions_are_found_as_clients_find_them(shown, key, partitions):
    """Whatever the session key is made of, and however many there are."""
    shown.raw.hset("sc:{000}:layout", "partitions", partitions)
    assert shown.facts(key)["partition"] == f"{Keyspace('sc', partitions).partition_of(key):03d}"


HARD_KEYS = [
    "a b  c",
    "{x}:{001}:meta:y",
    'it\'s "quoted" \\ $HOME `x`',
    "Grüße, Zoë 😀",
    "--raw",
    "%s %n",
    "sc:{020}:meta:x",
]


def test_hard_session_keys(shown):
    """Spaces, braces, quotes, umlauts: the same session by its key, and by the name of a Redis key of it."""
    for key in HARD_KEYS:
        session = shown.cache.open(key)
        session.append({"content": key})
        keys = shown.keys(key)
        for kind in ("meta", "history", "pending", "lease", "turn"):
            assert shown.facts(keys=(getattr(keys, kind),))["session"] == session.session_id
        facts = shown.facts(key)
        assert (facts["session key"], facts["state"], facts["session"]) == (key, "hot", session.session_id)
        assert json.loads(shown("sc_tail", key, 1)[0])["data"] == {"content": key}
        assert any(line.endswith(f"  {key}") for line in shown("sc_dirty"))
        assert len(shown("sc_pending", keys=(keys.pending,))) == 2
        assert any(line.endswith(f"  {key}") for line in shown("sc_dirty", keys=(keys.dirty,)))


def test_redis_cli_takes_hard_session_keys(shown, some_stack):
    """As a shell hands them on; a terminal gets the same line, numbered."""
    program = shutil.which("redis-cli") or missing("redis-cli")
    for key in HARD_KEYS:
        shown.cache.open(key).append({"content": key})
        for mode, number in (("--raw", ""), ("--no-raw", " 1) ")):
            command = shlex.join([program, "-s", str(some_stack.server.socket), mode, "FCALL_RO", "sc_show", "0", key])
            printed = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout
            assert printed.splitlines()[0] == f"{number}session key   {key}"


def test_another_prefix_is_that_of_the_layout(some_stack):
    """Two applications on one Redis."""
    with some_stack.cache(queue_url=NOBODY, prefix="app", partitions=7) as cache, some_stack.raw() as raw:
        showing.install(cache)
        session = cache.open(KEY)
        shown = Shown(cache, raw)
        layout = (cache._state.keyspace.layout,)
        assert layout == ("app:{000}:layout",)
        found = shown("sc_show", KEY, keys=layout)
        assert any(session.session_id in line for line in found)
        assert shown("sc_summary", keys=layout)[0] == "partitions    7, 1 of them dirty"
        with pytest.raises(redis.ResponseError, match=r"^there is no key sc:\{000\}:layout that says .* another prefix"):
            shown("sc_show", KEY)
        raw.function_flush()


def test_show_says_where_a_session_stands(shown):
    """Everything that is known of it, as the library knows it."""
    session = shown.cache.get(KEY)
    session.update(title="Grüße \x85", important=True)
    info = shown.cache.get(KEY).info
    facts = shown.facts()
    assert facts["session"] == session.session_id
    assert (facts["owner"], facts["title"], facts["flag"]) == ("alice", info.title, "important")
    assert facts["version"] == str(info.version)
    assert facts["messages"].startswith("1 in all, the newest 1 here, ")
    assert facts["updated"] == info.updated_at.isoformat(timespec="milliseconds")
    assert facts["created"] == info.created_at.isoformat(timespec="milliseconds")
    minutes = int(facts["hot"].split(" h ")[-1].split(" min")[0].removeprefix("for ")) + 60 * ("h" in facts["hot"])
    assert abs(minutes - 60) <= 7
    assert facts["pending"].startswith("3 ops, ")
    assert facts["dirty"].startswith("due for ")
    assert (facts["lease"], facts["turn"]) == ("nobody hydrates it", "nobody has it")
    assert facts["drainer"].startswith("one is about")
    shown.cache.flush()
    facts = shown.facts()
    assert facts["pending"] == "nothing"
    assert "dirty" not in facts


def test_show_says_who_has_it(shown):
    """Turn, holds, lease, a claim; and what is left of an earlier run of Redis counts for nothing."""
    session, keys, raw = shown.cache.get(KEY), shown.keys(), shown.raw
    beside = next(key for n in range(1000) if shown.keys(key := f"k{n}").partition == keys.partition)
    with session.turn(), session.hold("summary"), shown.cache.open(beside).hold("else"):
        assert sum(line.startswith("hold ") for line in shown("sc_show", KEY)) == 1
        facts = shown.facts()
        assert facts["turn"].startswith("somebody has it for ")
        assert facts["hold"].startswith("summary for ")
        assert facts["hold"].endswith(" more")
        raw.set(keys.turn, "earlier:token", px=10_000)
        assert "earlier run" in shown.facts()["turn"]
    raw.delete(keys.meta)
    raw.eval(LEASE.text, 4, keys.meta, keys.history, keys.pending, keys.lease, "somebody", 60_000)
    assert shown.facts()["lease"].startswith("somebody hydrates it, at most for ")
    raw.zadd(keys.dirty, {KEY: time.time() * 1000 + 90_000})
    assert shown.facts()["dirty"].startswith("claimed, due again in 1 min ")


def test_show_says_why_a_session_is_not_hot(shown):
    """Evicted, half gone, of an earlier run, garbage; or that there is none."""
    keys, raw = shown.keys(), shown.raw
    raw.hset(keys.meta, "version", "many")
    assert shown.facts()["state"] == "miss: it holds garbage; the next read brings it from SQL"
    raw.hset(keys.meta, "count", 5)
    assert "its history has 1 messages, not 5" in shown.facts()["state"]
    raw.hset(keys.meta, "run", "earlier")
    assert "an earlier run of Redis" in shown.facts()["state"]
    raw.delete(keys.meta)
    assert "its meta is gone" in shown.facts()["state"]
    raw.set(keys.meta, "x")
    assert "of another type" in shown.facts()["state"]
    raw.delete(keys.meta, keys.history)
    facts = shown.facts()
    assert "no copy is here" in facts["state"]
    assert facts["pending"].startswith("2 ops, ")
    with pytest.raises(redis.ResponseError, match=r"no valid hot copy \(no copy is here\); the next read"):
        shown("sc_tail", KEY)
    with pytest.raises(LookupError):
        shown.cache.get("nobody")
    assert shown.facts("nobody")["state"] == "hot: there is no session under this key"


def test_pending_shows_what_waits(shown):
    """In order, with its group; garbage too; a number of them at most."""
    session = shown.cache.get(KEY)
    session.append([{"content": "a"}, {"content": "b"}])
    session.clear()
    lines = [line.split() for line in shown("sc_pending", KEY)]
    assert [(line[0], line[1]) for line in lines] == [("1", "start"), ("2", "append"), ("3", "append"), ("4", "append"),
                                                      ("5", "clear")]  # fmt: skip
    assert all(session.session_id in " ".join(line) for line in lines)
    assert " ".join(lines[2]).endswith(", 1 more of its group")
    assert shown("sc_pending", KEY, 2)[2:] == ["and 3 more"]
    shown.raw.lset(shown.keys().pending, 0, b"x\x1b[31m\xff")
    assert shown("sc_pending", KEY, 1)[0] == 'garbage      7 bytes  "x\\u001b[31m\\udcff"'
    assert shown("sc_pending", "nobody") == ["nothing waits"]
    session = shown.cache.open("large")
    for _ in range(6):
        session.append({"content": "x" * 1_000_000})
    assert shown("sc_pending", "large")[5:] == ["and 2 more"]


def test_what_waits_by_partition_and_lane(shown):
    """sc_summary, sc_dirty and sc_lanes agree with the library; the oldest stands first."""
    for n in range(12):
        shown.cache.open(f"k{n}").append({"content": "x" * n})
    stats, space = shown.cache.stats(), shown.cache._state.keyspace
    keys = space.of("k7")
    shown.raw.zadd(keys.oldest, {"k7": time.time() * 1000 - 3_750_000})
    summary = {line[:13].strip(): line[14:] for line in shown("sc_summary")}
    dirty = {space.partition_of(key) for key in [KEY, *(f"k{n}" for n in range(12))]}
    assert summary["partitions"] == f"64, {len(dirty)} of them dirty"
    assert summary["session keys"] == f"{stats.dirty} wait for SQL"
    assert summary["pending"].startswith(f"{stats.pending} ops, ")
    assert summary["oldest"] == "waits for 1 h 2 min"
    assert (summary["dead letters"], summary["holds"]) == ("0", "0")
    assert summary["drainers"] == f"about, or nudged, in {len(dirty)} partitions"
    assert summary["schedule"] == "nobody runs it"
    assert summary["memory"].endswith("without a bound, noeviction")
    lines = shown("sc_dirty")
    assert lines[0].startswith(f"partition {keys.partition:03d}: ")
    assert lines[1].split()[-1] == "k7"
    assert {line.split()[-1] for line in lines if line.startswith("  ")} == {KEY, *(f"k{n}" for n in range(12))}
    few = shown("sc_dirty", 3)
    assert sum(line.startswith("  ") for line in few) == 3
    assert few[-1] == "and 10 session keys more"
    lanes = [line.split() for line in shown("sc_lanes", 3)]
    assert sum(int(words[2]) for words in lanes) == stats.dirty
    assert "1 h 2 min" in " ".join(lanes[keys.partition % 3])
    shown.cache.flush()
    assert shown("sc_dirty") == ["nothing waits"]
    assert {line.split("  ")[-1] for line in shown("sc_lanes")} == {"nothing waits"}


def test_a_change_of_partitions_is_shown(shown):
    """While it lasts, or was broken off."""
    shown.raw.hset("sc:{000}:layout", partitions.MOVING_TO, 96)
    assert shown("sc_summary")[1] == "moving        to 96 partitions: `sessioncache repartition` ends it"


def test_a_backlog_that_is_not_counted(shown):
    """Of a version that counted nothing, or of another type: shown all the same."""
    keys = shown.keys()
    shown.raw.delete(keys.backlog, keys.oldest)
    assert "2 ops  0 bytes  age unknown  due" in shown("sc_dirty")[1]
    shown.raw.set(keys.backlog, "x")
    shown.raw.set(keys.holds, "x")
    assert shown.facts()["pending"].startswith("2 ops, 0 bytes")
    assert shown("sc_summary")[2] == "pending       0 ops, 0 bytes"
    assert len(shown("sc_lanes")) == 4


def test_dead_letters_are_shown(shown):
    """Reason, age, kind, session key, op; garbage too."""
    keys = shown.keys()
    at = int(time.time() * 1000) - 90_000
    shown.raw.rpush(keys.dead, b"%d 22001 %b\n7 AAAAAAAAAAAAAAAA 0 %d append s1\nm\nx" % (at, KEY.encode(), at), b"\xff")
    found = shown("sc_dead")
    assert found[0].startswith(f"{keys.partition:03d}  ?  ")
    assert found[1].split("  ")[:2] == [f"{keys.partition:03d}", "22001"]
    assert re.search(r"  1 min \d+ s ago  ", found[1])
    assert found[1].endswith(f"append  {KEY}  op AAAAAAAAAAAAAAAA of session s1")
    assert shown("sc_dead", 1)[1:] == ["and 1 more"]
    assert shown("sc_dead", keys=("sc:{021}:dead",)) == ["there is none"]


WRONG = [
    (("sc_show",), "name a session key"),
    (("sc_show", "x" * 513), "name a session key"),
    (("sc_tail", KEY, "0"), "messages must be a whole number from 1 to 1000, not"),
    (("sc_tail", KEY, "1001"), "messages must be"),
    (("sc_tail", KEY, "1e9"), "messages must be"),
    (("sc_tail", KEY, "10", "999999"), "bytes must be a whole number from 1 to 262144"),
    (("sc_pending", KEY, "-1"), "ops must be"),
    (("sc_dirty", "many"), "session keys must be"),
    (("sc_lanes", "0"), "lanes must be"),
    (("sc_dead", "\x1b[31m"), r"letters must be .* not .\\u001b"),
]


def test_wrong_arguments_are_refused(shown):
    """With a sentence that says what they are to be."""
    for call, says in WRONG:
        with pytest.raises(redis.ResponseError, match=says):
            shown(*call)


def test_wrong_keys_are_refused(shown):
    """A key that is none of ours, two of them, or the key of a partition where a session is asked for."""
    for keys in (("other",), ("sc:{020}:dirty", "sc:{020}:dead")):
        with pytest.raises(redis.ResponseError, match="as `sessioncache keys KEY` prints it"):
            shown("sc_dirty", keys=keys)
    with pytest.raises(redis.ResponseError, match="name the layout, a key of the session, or none"):
        shown("sc_show", KEY, keys=("sc:{020}:dirty",))


def test_they_only_read(shown):
    """Every function is registered so, changes nothing, and one that would write is refused."""
    keys = sorted(shown.raw.keys("*"))
    before = [shown.raw.dump(key) for key in keys]
    for name in functions.NAMES:
        shown(name, *([KEY] if name in {"sc_show", "sc_tail", "sc_pending"} else []))
    assert sorted(shown.raw.keys("*")) == keys
    assert [shown.raw.dump(key) for key in keys] == before
    (library,) = shown.raw.function_list("sessioncache")
    listed = library[library.index(b"functions") + 1] if isinstance(library, list) else library[b"functions"]
    flat = [one if isinstance(one, list) else [part for pair in one.items() for part in pair] for one in listed]
    assert {one[one.index(b"name") + 1].decode() for one in flat} == set(functions.NAMES)
    assert all(list(one[one.index(b"flags") + 1]) == [b"no-writes"] for one in flat)
    planted = functions.TEXT.replace(
        "local function show(keys, args)\n", "local function show(keys, args)\n  redis.call('SET', 'x', '1')\n"
    )
    assert planted != functions.TEXT
    shown.raw.function_load(planted, replace=True)
    with pytest.raises(redis.ResponseError, match="Write commands are not allowed from read-only scripts"):
        shown("sc_show", KEY)
    assert not shown.raw.exists("x")


def test_they_work_on_a_full_redis(shown):
    """At maxmemory, when appends are refused."""
    try:
        shown.raw.config_set("maxmemory", 1)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            shown.raw.set("x", "1")
        assert shown.facts()["state"] == "hot"
        assert json.loads(shown("sc_tail", KEY)[0])["data"] == {"content": "hello"}
        for name in ("sc_summary", "sc_dirty", "sc_lanes", "sc_dead"):
            assert shown(name)
    finally:
        shown.raw.config_set("maxmemory", 0)


def test_a_user_who_may_only_read(shown):
    """The rights that docs/redis-cli.md names are enough, and no more than reading."""
    rules = ["on", ">secret", "~sc:*", "+@read", "+fcall_ro", "+info", "+time"]
    shown.raw.execute_command("ACL", "SETUSER", "operator", *rules)
    try:
        with closing(redis.Redis(connection_pool=redis.ConnectionPool.from_url(
            shown.cache.settings.redis_url, username="operator", password="secret"
        ))) as operator:  # fmt: skip
            reading = Shown(shown.cache, operator)
            assert reading.facts()["state"] == "hot"
            assert reading("sc_tail", KEY)
            assert reading("sc_summary")
            with pytest.raises(redis.exceptions.NoPermissionError):
                operator.delete(shown.keys().meta)
    finally:
        shown.raw.acl_deluser("operator")


@pytest.mark.long
def test_in_a_cluster_a_key_names_the_partition(tmp_path):
    """Without one they say how; with one all is as elsewhere."""
    server = RedisServer(binary_of("valkey9"), **{"cluster-enabled": "yes", "port": str(free_port())}).start()
    try:
        with closing(redis.Redis.from_url(server.url)) as raw:
            raw.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
            deadline = time.monotonic() + 60
            while "ok" not in str(raw.execute_command("CLUSTER INFO")).partition("cluster_state")[2][:8]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            options = {"redis_url": server.url, "database_url": f"sqlite:///{tmp_path}/a.db", "queue_url": NOBODY}
            with SessionCache(settings=Settings(**options)) as cache:
                showing.install(cache)
                session = cache.open(KEY)
                shown, keys = Shown(cache, raw), cache._state.keyspace.of(KEY)
                for call in (("sc_show", KEY), ("sc_tail", KEY), ("sc_summary",), ("sc_dirty",)):
                    with pytest.raises(redis.ResponseError, match="a Redis Cluster finds a function by a key: name one"):
                        shown(*call)
                assert shown.facts(keys=(keys.meta,))["session"] == session.session_id
                assert shown("sc_summary", keys=(keys.dirty,))[1] == "session keys  1 wait for SQL"
                assert shown("sc_dirty", keys=(keys.dirty,))[1].endswith(KEY)
    finally:
        server.close()


@pytest.mark.long
def test_a_replica_says_that_it_is_one(some_stack, own_server):
    """What is hot, its primary knows."""
    primary, replica, port = own_server(), own_server(), free_port()
    with (
        closing(redis.Redis.from_url(primary.url)) as raw,
        closing(redis.Redis.from_url(replica.url)) as copy,
        SessionCache(settings=replace(some_stack.settings(), redis_url=primary.url, queue_url=NOBODY)) as cache,
    ):
        raw.config_set("port", port)
        showing.install(cache)
        cache.open(KEY).append({"content": "hello"})
        copy.replicaof("127.0.0.1", port)
        deadline = time.monotonic() + 60
        while not copy.exists(cache._state.keyspace.of(KEY).meta):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        shown = Shown(cache, copy)
        assert shown.facts()["state"].startswith("miss: this is a replica; ask its primary")
        assert shown("sc_summary")[1] == "session keys  1 wait for SQL"


def commands_run(raw: redis.Redis, call: tuple) -> dict[str, int]:
    """How often each command was run by a call, and in it."""
    raw.config_resetstat()
    raw.execute_command("FCALL_RO", *call)
    return {name: found["calls"] for name, found in raw.info("commandstats").items() if "config" not in name}


def test_work_does_not_grow_with_a_session(shown, monkeypatch):
    """Ten times the messages and ops, the same commands; none that is as long as the list."""
    session = shown.cache.get(KEY)
    session.append([{"content": "a"}] * 2_000)
    asked = [
        ("sc_show", 0, KEY),
        ("sc_tail", 0, KEY, 1000),
        ("sc_pending", 0, KEY, 1000),
        ("sc_summary", 0),
        ("sc_dirty", 0),
    ]
    before = [commands_run(shown.raw, call) for call in asked]
    for _ in range(9):
        session.append([{"content": "a"}] * 2_000)
    assert shown.raw.llen(shown.keys().pending) > 20_000
    assert [commands_run(shown.raw, call) for call in asked] == before
    assert not any("lrange" in name or "hgetall" in name for found in before for name in found)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("hot", ["valkey9", "redis7"])
def test_a_hundred_thousand_messages(tmp_path, record_property, hot):
    """Every function is called beside another connection, replies are bounded, and the slowest is reported, not judged."""
    server = RedisServer(binary_of(hot)).start()
    make = partial(redis.Redis.from_url, server.url)
    try:
        with (
            SessionCache(settings=showing.settings(server.url, f"sqlite:///{tmp_path}/a.db")) as cache,
            closing(make()) as raw,
        ):
            showing.fill(cache, raw)
            showing.install(cache)
            assert raw.llen(Keyspace("sc", showing.PARTITIONS).of(showing.LONG).history) == showing.MESSAGES
            found = showing.measure(make)
    finally:
        server.close()
    record_property("the slowest first", showing.table(found))
    assert {one.name for one in found} == set(showing.CALLS)
    for one in found:
        assert 0 < len(one.lines) <= (2001 if "1,000" in one.name else 42), one.name
        assert sum(map(len, one.lines)) <= 6 * showing.MOST + 1000, one.name


def test_every_file_is_part_of_the_library():
    """And its first line is the one that Redis wants."""
    folder = Path(functions.__file__).parent / "lua" / "functions"
    assert {f"functions/{path.stem}" for path in folder.iterdir()} == {one for one in functions._PARTS if "/" in one}
    assert functions.TEXT.startswith("#!lua name=sessioncache\n")
    assert functions.TEXT.startswith(functions._OURS)


def test_either_protocol_names_the_code():
    """FUNCTION LIST is flat or a mapping."""
    flat = [b"library_name", b"sessioncache", b"functions", [], b"library_code", b"text"]
    assert functions._code(flat) == functions._code(dict(zip(flat[::2], flat[1::2], strict=True))) == "text"


def invoke(*words: str):
    return CliRunner().invoke(cli, ["functions", *words])


@pytest.fixture
def at_stack(some_stack, monkeypatch):
    """The command works on this stack, whose database is away: functions need Redis alone."""
    away = replace(some_stack.settings(), database_url="postgresql://nobody@/none?host=/nonexistent")
    for name, value in as_environment(away).items():
        monkeypatch.setenv(name, value)
    yield some_stack
    with some_stack.raw() as raw:
        raw.function_flush()


def test_load_check_and_unload(at_stack):
    """The statuses of check; load and unload do nothing twice; nothing of the layout is written."""
    assert (missing := invoke("check")).exit_code == UNHEALTHY
    assert missing.output == "the functions are missing\n"
    assert invoke("unload").output == "there were none\n"
    assert invoke("load").output == f"{', '.join(functions.NAMES)} are installed\n"
    assert invoke("load").output.endswith("are there already\n")
    assert (done := invoke("check")).exit_code == DONE
    assert done.output == "the functions are current\n"
    assert json.loads(invoke("check", "--json").output) == {
        "library": "sessioncache", "installed": "current", "functions": list(functions.NAMES),
    }  # fmt: skip
    with at_stack.raw() as raw:
        assert raw.keys("sc:*") == []
    assert invoke("unload").output == "removed\n"
    assert invoke("check").exit_code == UNHEALTHY


def test_an_old_version_is_replaced_and_a_foreign_library_is_not(at_stack):
    """Nor is it removed; and a function's name that another library has is told of."""
    with at_stack.raw() as raw:
        raw.function_load(functions.TEXT.replace("waits", "waited"))
        assert (old := invoke("check")).exit_code == UNHEALTHY
        assert old.output == "the functions are of another version\n"
        assert invoke("load").output.endswith("are installed\n")
        assert invoke("check").exit_code == DONE
        register = "redis.register_function('{}', function() return 1 end)"
        raw.function_load("#!lua name=sessioncache\n" + register.format("theirs"), replace=True)
        assert (foreign := invoke("check")).exit_code == UNHEALTHY
        assert foreign.output == "the functions are not ours\n"
        for command in ("load", "unload"):
            assert "is not ours" in str(invoke(command).exception)
        assert raw.fcall("theirs", 0) == 1
        raw.function_flush()
        raw.function_load("#!lua name=other\n" + register.format("sc_show"))
        assert isinstance(refused := invoke("load").exception, HotTierRefused)
        assert "sc_show already exists" in str(refused)


def test_a_redis_without_functions(at_stack, monkeypatch):
    """Older than 7: a sentence that says so, and doctor has nothing to say against it."""

    def older(state):
        return replace((yield from server_facts(state)), product="redis", version="6.2.14")

    monkeypatch.setattr(functions, "server_facts", older)
    for command in ("load", "check", "unload"):
        refused = invoke(command).exception
        assert isinstance(refused, HotTierRefused), command
        assert "Redis 7 or Valkey" in str(refused)
    assert finding(at_stack) == ("ok", "")


def test_a_user_without_the_right(at_stack, monkeypatch):
    """The sentence names what is missing, as the command ends with 1; for doctor it is no fault."""
    with at_stack.raw() as raw:
        raw.execute_command("ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-function")
        try:
            monkeypatch.setenv("SESSIONCACHE_REDIS_URL", f"{at_stack.redis_url}?username=app&password=secret")
            command = [sys.executable, "-c", "from sessioncache.cli.main import main; main()", "functions", "load"]
            done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == FAILED
            assert "FUNCTION LOAD, LIST and DELETE" in done.stderr
            assert "Traceback" not in done.stderr
            assert "secret" not in done.stderr
            assert finding(at_stack, redis_url=os.environ["SESSIONCACHE_REDIS_URL"])[0] == "info"
        finally:
            raw.acl_deluser("app")


def finding(stack, **changes) -> tuple[str, str]:
    """Severity and advice of doctor's finding on functions."""
    with SessionCache(settings=replace(stack.settings(), **changes)) as cache:
        (one,) = [found for found in cache.doctor() if found.check == "functions"]
    return one.severity, one.advice


def test_what_doctor_says(at_stack):
    """Missing, current, of another version, not ours; each with the way out."""
    assert finding(at_stack) == ("info", "Run sessioncache functions load.")
    invoke("load")
    assert finding(at_stack) == ("ok", "")
    with at_stack.raw() as raw:
        raw.function_load(functions.TEXT + "\n", replace=True)
        assert finding(at_stack) == ("warning", "Run sessioncache functions load.")
        raw.function_load("#!lua name=sessioncache\nredis.register_function('x', function() end)", replace=True)
        severity, advice = finding(at_stack)
        assert (severity, "FUNCTION DELETE sessioncache" in advice) == ("warning", True)
