"""Moving in and out: imports of each layout, exports, and back; what is live, what is damaged, what is killed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from inspect import signature
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import THE_OTHER_LATER
from contract import BEGINS, EDGES, said
from contract_conversation import GROUP, TURNS
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text
from stores import (
    HERMES_DATABASE,
    ODYSSEUS_DATABASE,
    damage,
    write_hermes,
    write_hermes_database,
    write_nanobot,
    write_odysseus,
)

from sessioncache import SessionCache, SessionDeleted, SessionNotFound, TurnLost, TurnTimeout, Usage
from sessioncache.cli.main import cli
from sessioncache.config import Settings, as_environment
from sessioncache.message import encode
from sessioncache.migrate import upgrade
from sessioncache.store.engine import blocking
from sessioncache.transfer import exported, importing
from sessioncache.transfer.exporting import write_out
from sessioncache.transfer.found import Damage, FoundMessage, FoundSession, Reading
from sessioncache.transfer.importing import Imported, bring_in

# Older releases of click mix what is printed, unless they are told not to.
APART = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
AT = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
STRANGE = [
    "", "null", "[]", '{"role": "user"}', '"quoted"', "nul \x00 in it", "\u202eright to left\u200f",
    "e\u0301\u0323 combining",
    "👩‍👩‍👧‍👦🏳️‍🌈\U0010ffff", "line\r\nbreaks\u2028\u2029\x0b\x0c\x85", "\ufeffmark", "%3A:%", "x" * 1_000_000,
]  # fmt: skip


@pytest.fixture
def runs(some_stack, monkeypatch):
    """Runs a command over a stack: its exit status, output and errors."""

    def run(*arguments: str, stack=some_stack):
        for name, value in as_environment(stack.settings()).items():
            monkeypatch.setenv(name, value)
        done = CliRunner(**APART).invoke(cli, [str(one) for one in arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout, done.stderr

    return run


def found(name: str, *contents: object, key: str = "", **more) -> FoundSession:
    """A session as a reader finds it."""
    messages = (FoundMessage(encode({"role": "user", "content": one}, 2**21), created_at=AT) for one in contents)
    return FoundSession(
        name, key or f"key of {name}", current=True, created_at=AT, updated_at=AT, messages=messages, **more
    )


def brought(cache: SessionCache, *sessions: FoundSession, damaged: list[Damage] | None = None, **named) -> Imported:
    """What importing these did."""
    damaged = [] if damaged is None else damaged
    return cache._run(bring_in(cache._state, sessions, damaged.append, **named))


def written(cache: SessionCache, **named) -> str:
    """An export."""
    lines: list[bytes] = []
    damaged: list[Damage] = []
    cache._run(write_out(cache._state, lines.append, damaged.append, **named))
    assert not damaged
    return b"".join(lines).decode()


def read_back(cache: SessionCache, path: Path) -> tuple[Imported, list[Damage]]:
    """What importing an export did."""
    damaged: list[Damage] = []
    reading = Reading(UTC, cache.settings.max_message_bytes, damaged.append, lambda _: None)
    return cache._run(bring_in(cache._state, exported.read(str(path), reading), damaged.append)), damaged


def other_store(stack, tmp_path: Path, name: str = "other") -> Settings:
    """Settings for another place: the same Redis under another prefix, and an empty SQLite file."""
    settings = replace(stack.settings(prefix=name), database_url=f"sqlite:///{tmp_path}/{name}.db")
    engine = blocking(settings)
    with engine.begin() as connection:
        upgrade(connection)
    engine.dispose()
    return settings


def tables(url: str) -> dict[str, list]:
    """All rows of the store, but for what is only ours to count."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    named = {
        "sessions": "session_id", "messages": "session_id, seq", "routes": "session_key",
    }  # fmt: skip
    with engine.connect() as connection:
        rows = {
            name: [dict(row) for row in connection.execute(text(f"SELECT * FROM {name} ORDER BY {order}")).mappings()]
            for name, order in named.items()
        }
    engine.dispose()
    for row in rows["sessions"]:
        del row["claims"]
    for row in (*rows["sessions"], *rows["messages"]):
        row.pop("id", None)
    return rows


# Each layout.

WRITERS = {
    "nanobot": (write_nanobot, "nanobot", ""),
    "hermes": (write_hermes, "hermes", ""),
    "hermes database": (write_hermes_database, "hermes", HERMES_DATABASE),
    "odysseus": (write_odysseus, "odysseus", ODYSSEUS_DATABASE),
}


def a_store(kind: str, directory: Path, sessions: int, messages: int) -> tuple[str, Path, dict[str, list]]:
    """A store of some layout: the layout's name, what to import, and what is in it."""
    write, layout, file = WRITERS[kind]
    directory.mkdir()
    content = write(directory, sessions, messages)
    return layout, directory / file, content


def spoiled(path: Path) -> set[tuple[str, int]]:
    """Spoil one line or row of a hundred, in several ways; file and line of each."""
    if path.is_dir():
        return {(file.name, line) for file in path.glob("*.jsonl") for line in damage(file, 0.01, seed=4)}
    table = "messages" if path.name == HERMES_DATABASE else "chat_messages"
    with closing(sqlite3.connect(path)) as connection, connection:
        rows = [row[0] for row in connection.execute(f"SELECT rowid FROM {table} WHERE rowid % 100 = 7")]
        for turn, row in enumerate(rows):
            change = ["timestamp = 'never'", "content = CAST(x'ff00' AS TEXT)", "role = CAST(x'c3' AS TEXT)"][turn % 3]
            connection.execute(f"UPDATE {table} SET {change} WHERE rowid = ?", (row,))
    return {(f"{path.name}:{table}", row) for row in rows}


@pytest.mark.parametrize("kind", WRITERS)
def test_each_layout(some_stack, runs, tmp_path, kind):
    """All that was written comes in, current under its key, in order; a second run adds nothing, a dry one neither."""
    layout, path, content = a_store(kind, tmp_path / "store", 12, 40)
    counts = "12 sessions and 480 messages"
    assert f"{counts} would be added" in runs("import", layout, path, "--dry-run")[0]
    with some_stack.cache() as cache:
        assert cache.count() == 0
    out, err = runs("import", layout, path)
    assert out == f"{counts} added; 0 sessions stood already; 0 messages were repeats; 0 lines could not be read\n"
    assert err == ""
    with some_stack.cache() as cache:
        assert {one.info.session_id for one in cache.list(ended=None).sessions} == set(content)
        current = [session_id for session_id in content if cache.info(session_id).end_reason is None]
        assert len(current) == (6 if kind == "hermes database" else 12)
        for session_id, messages in content.items():
            info = cache.info(session_id)
            assert (cache.read(session_id).data(), info.message_count) == (messages, 40)
            if session_id in current:
                session = cache.get(info.key)
                assert (session.session_id, session.history()) == (session_id, messages)
        session.append({"role": "user", "content": "and on"})
        cache.flush()
        assert session.history() == [*content[session.session_id], {"role": "user", "content": "and on"}]
        before = tables(some_stack.database_url)
    assert "0 sessions and 0 messages added; 12 sessions stood already" in runs("import", layout, path)[0]
    assert tables(some_stack.database_url) == before


@pytest.mark.parametrize("kind", WRITERS)
def test_one_line_in_a_hundred_is_damaged(some_stack, runs, tmp_path, kind):
    """Counts are exact, each damage is told with file and line, the rest is complete, and a second run adds nothing."""
    layout, path, content = a_store(kind, tmp_path / "store", 5, 400)
    lost = spoiled(path)
    assert len(lost) == 20
    out, err = runs("import", layout, path)
    counts = f"5 sessions and {2000 - len(lost)} messages added; 0 sessions stood already; 0 messages were repeats; "
    assert out == f"{counts}{len(lost)} lines could not be read\n"
    told = [line.split(": ")[0].rsplit(":", 1) for line in err.splitlines()]
    assert {(Path(file).name, int(line)) for file, line in told} == lost
    with some_stack.cache() as cache:
        for session_id, messages in content.items():
            left = cache.read(session_id).data()
            assert 380 <= len(left) <= 400
            kept = iter(messages)
            assert all(any(one == other for other in kept) for one in left), "in order, and each as it was"
    assert runs("import", layout, path)[0].startswith("0 sessions and 0 messages added; 5 sessions stood already")


def test_what_comes_along(some_stack, runs, tmp_path):
    """Times, the consolidated prefix, metadata; usage, origin and names."""
    nanobot = tmp_path / "nanobot"
    nanobot.mkdir()
    header = {
        "_type": "metadata", "key": "telegram:42", "created_at": "2026-01-02T03:04:05", "updated_at": "2026-01-03T00:00:00",
        "metadata": {"goal_state": "g"}, "last_consolidated": 2,
    }  # fmt: skip
    rows = [header, *({**one, "timestamp": f"2026-01-02T03:05:0{n}"} for n, one in enumerate(TURNS[:6]))]
    (nanobot / "telegram_42.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs("import", "nanobot", nanobot, "--zone", "Europe/Berlin")
    hermes = tmp_path / "hermes"
    hermes.mkdir()
    entry = {
        "session_key": "agent:main:telegram:group:-100:7", "session_id": "20260101_000000_abcdef12", "suspended": True,
        "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z", "display_name": "Trip",
        "platform": "telegram", "chat_type": "group", "origin": GROUP.to_dict(), "input_tokens": 5, "cache_read_tokens": 2,
        "estimated_cost_usd": 0.25, "cost_status": "estimated", "last_prompt_tokens": 9,
    }  # fmt: skip
    (hermes / "sessions.json").write_text(json.dumps({entry["session_key"]: entry}))
    runs("import", "hermes", hermes)
    with some_stack.cache() as cache:
        session = cache.get("telegram:42")
        assert session.info.created_at == AT.replace(microsecond=0) - timedelta(hours=1)
        assert session.context() == TURNS[2:6]
        assert (session.info.goal, session.info.platform) == ("g", "telegram")
        assert session.messages()[0].created_at == datetime(2026, 1, 2, 2, 5, tzinfo=UTC)
        info = cache.get(GROUP).info
        assert (info.session_id, info.display_name, info.suspended) == (entry["session_id"], "Trip", True)
        used = Usage(5, 0, 2, 0, last_prompt_tokens=9, estimated_cost=0.25, cost_status="estimated")
        assert info.usage == used
        assert cache.open(GROUP).was_reset  # it was suspended


# What stands.


def test_a_live_session_keeps_its_key(some_stack):
    """One that is hot and not yet in SQL, one that is only in SQL, and a key whose session was deleted."""
    with some_stack.cache() as cache:
        hot, cold, gone = (cache.open(key) for key in ("hot", "cold", "gone"))
        for session in (hot, cold, gone):
            session.append(said("live"))
        cache.flush("cold")
        cache.evict("cold")
        gone.delete()
        done = brought(cache, *(found(f"old {key}", "old", key=key) for key in ("hot", "cold", "gone", "free")))
        assert done == Imported(sessions=4, messages=4)
        for session in (hot, cold):
            assert session.history() == said("live")
            assert session.append(said("more"))
            assert session.pop()
            old = next(info for info in cache.past(session.key) if info.session_id != session.session_id)
            assert (old.session_id, old.end_reason) == (f"old {session.key}", "imported")
            assert datetime.now(UTC) - old.ended_at < timedelta(minutes=1)  # as retention counts
            assert cache.read(old.session_id).data() == said("old")
            assert cache.resume(old.session_id).history() == said("old")
        for key in ("gone", "free"):
            assert cache.get(key).session_id == f"old {key}"
            cache.get(key).append(said("new"))
        with pytest.raises(SessionDeleted):
            gone.append(said("late"))
        cache.flush()
        cache.evict("gone")
        assert cache.get("gone").history() == said("old", "new")


def test_what_was_deleted_stays_deleted(some_stack):
    """An id that left a tombstone is not brought in again."""
    with some_stack.cache() as cache:
        assert brought(cache, found("a", "one")) == Imported(1, 1)
        assert cache.delete("key of a")
        assert brought(cache, found("a", "one")) == Imported(there=1)
        with pytest.raises(SessionNotFound):
            cache.info("a")


def test_a_key_that_was_asked_for_before(some_stack):
    """That it has no session is known to Redis for a while; after the import it is not said any more."""
    with some_stack.cache(unknown_ttl=60) as cache, some_stack.cache(unknown_ttl=60) as other:
        with pytest.raises(SessionNotFound):
            other.get("key of a")
        brought(cache, found("a", "one"))
        assert other.get("key of a").history() == said("one")


def test_a_session_that_is_opened_while_its_key_is_imported(some_stack):
    """Between the look and the commit: the new session stays current, the imported one is among the past ones."""
    with some_stack.cache() as cache, some_stack.cache() as other:
        original, opened = cache._connections.driver.perform, []

        def perform(request):
            if getattr(getattr(request, "work", None), "func", None) is importing.incoming.add and not opened:
                opened.append(other.open("key of a"))
                opened[0].append(said("live"))
            return original(request)

        cache._connections.driver.perform = perform
        assert brought(cache, found("a", *map(str, range(50)))) == Imported(1, 50)
        cache._connections.driver.perform = original
        cache.flush()
        live = other.get("key of a")
        assert (live.session_id, live.history()) == (opened[0].session_id, said("live"))
        live.append(said("more"))
        cache.flush()
        assert other.get("key of a").history() == said("live", "more")
        assert len(cache.read("a")) == 50
        assert cache.stats().dead == 0


def test_one_imports_at_a_time(some_stack):
    """The second is told so, and changes nothing; the right ends with the import, also with one that failed."""
    with some_stack.cache() as cache, some_stack.cache() as other:

        def sessions() -> Iterator[FoundSession]:
            yield found("a", *("x" * 100 for _ in range(importing.BATCH + 1)))
            with pytest.raises(TurnTimeout):
                brought(other, found("b", "b"))
            raise KeyError("the reader failed")

        with pytest.raises(KeyError):
            cache._run(bring_in(cache._state, sessions(), print))
        assert brought(other, found("b", "b")) == Imported(1, 1)
        with some_stack.raw() as raw:
            assert not raw.exists(cache._state.keyspace.importing)


def test_repeated_ids(some_stack, monkeypatch):
    """The first message of an id stays, in one batch or across; the others are counted."""
    monkeypatch.setattr(importing, "BATCH", 10)
    with some_stack.cache() as cache:
        names = [*(f"m{n}" for n in range(8)), "m3", *(f"m{n}" for n in range(5, 25)), "m0", "end"]
        messages = (FoundMessage(encode({"content": str(at)}, 99), message_id=name) for at, name in enumerate(names))
        session = FoundSession("a", "k", current=True, created_at=AT, updated_at=AT, messages=messages)
        assert brought(cache, session) == Imported(1, 26, repeated=5)
        records = cache.get("k").messages()
        assert [one.id for one in records] == [*(f"m{n}" for n in range(25)), "end"]
        assert (records[0].data, cache.get("k").info.message_count) == ({"content": "0"}, 26)
        assert sorted(one.created_at for one in records) == [one.created_at for one in records]


def test_a_repeat_of_what_was_imported(some_stack):
    """An append with the id of an imported message adds nothing."""
    with some_stack.cache() as cache:
        messages = iter([FoundMessage(encode({"content": "a"}, 99), message_id="telegram-1", created_at=AT)])
        brought(cache, FoundSession("a", "k", current=True, created_at=AT, updated_at=AT, messages=messages))
        session = cache.get("k")
        assert session.append({"content": "again"}, id="telegram-1")[0].created_at == AT
        assert session.history() == [{"content": "a"}]


def test_imported_at_one_time(some_stack):
    """Thousands of messages of one time make no heavier hot copy."""
    with some_stack.cache() as cache, some_stack.raw() as raw:
        brought(cache, found("a", *map(str, range(3000))))
        session = cache.get("key of a")
        assert len(session.history()) == 3000
        keys = cache._state.keyspace.of("key of a")
        assert len(raw.hget(keys.meta, "ops")) < 40_000
        session.append(said("new"))
        assert len(raw.hget(keys.meta, "ops")) < 40_000


@THE_OTHER_LATER
@pytest.mark.parametrize("killed_at", [0.1, 0.4, 0.8])
def test_an_import_that_is_killed(some_stack, tmp_path, killed_at):
    """No session is ever seen in part; the next run brings in the rest, once."""
    lines = [{"type": "sessioncache", "format": 1}]
    for number, count in enumerate([300, 12_000, 300]):
        name = f"s{number}"
        lines.append({"type": "session", "session_id": name, "session_key": name, "version": 0,
                      "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"})  # fmt: skip
        lines += (
            {"type": "message", "session_id": name, "seq": seq, "id": f"m{seq}", "created_at": "2026-01-01T00:00:00Z",
             "data": {"role": "user", "content": f"{name} {seq}"}}
            for seq in range(1, count + 1)
        )  # fmt: skip
    path = tmp_path / "export.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with some_stack.cache() as cache:
        assert cache.count() == 0
    environment = {**os.environ, **as_environment(some_stack.settings())}
    command = [sys.executable, "-c", "from sessioncache.cli.main import main; main()", "import", "jsonl", str(path)]
    running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    engine = create_engine(some_stack.database_url)
    stored, end = 0, time.monotonic() + 60
    while stored < killed_at * 12_600 and running.poll() is None and time.monotonic() < end:
        with engine.connect() as connection:
            stored = connection.execute(text("SELECT count(*) FROM messages")).scalar_one()
    running.send_signal(signal.SIGKILL)
    running.wait()
    engine.dispose()
    with some_stack.cache() as cache, some_stack.raw() as raw:
        listed = {one.info.session_id: one.info.message_count for one in cache.list(ended=None).sessions}
        for name, count in {"s0": 300, "s1": 12_000, "s2": 300}.items():
            if name in listed:
                assert (listed[name], len(cache.get(name).history()), len(cache.read(name))) == (count, count, count)
            else:
                for look in (cache.get, cache.read, cache.info, cache.resume):
                    with pytest.raises(SessionNotFound):
                        look(name)
        raw.delete(cache._state.keyspace.importing)  # it would end by itself, within a minute
        done, damaged = read_back(cache, path)
        assert (done.sessions, done.there, damaged) == (3 - len(listed), len(listed), [])
        assert [len(cache.get(name).history()) for name in ("s0", "s1", "s2")] == [300, 12_000, 300]
        assert read_back(cache, path)[0] == Imported(there=3)


# Out, and back.


def lively(cache: SessionCache) -> None:
    """Sessions with all that they may have."""
    whole = cache.open("k:whole", **BEGINS)
    whole.append([{"role": "user", "content": one} for one in STRANGE])
    whole.append([{"role": "user", "content": None, **EDGES}, {"any": "thing"}], id=["telegram-1", "ünïcode 👩‍👩‍👧‍👦"])
    whole.record_usage(
        input_tokens=3, output_tokens=4, estimated_cost=0.1, model="m", cost_source="s", last_prompt_tokens=7
    )
    whole.update(metadata={"summary": "s", "nul": "\x00", "deep": EDGES}, important=True, suspended=True)
    whole.consolidate(whole.messages()[4].seq)
    turns = cache.open(GROUP, owner="bob")
    records = turns.append(TURNS)
    turns.remove(records[3].id)
    turns.pop()
    turns.update(archived=True)
    fresh = turns.reset()
    fresh.append(said("new"))
    cache.open("k:empty", owner="alice")
    forked = fresh.fork("k:forked")
    forked.append(said("on"))
    cache.open("k:gone").delete()
    cache.open("k:switch").reset().append(said("b"))
    cache.create("k:mine", session_id="MINE -1")
    cache.create("k:other", session_id="mine +1")


def test_there_and_back(some_stack, runs, tmp_path):
    """Export, import into an empty store, export: byte-identical, between SQLite and PostgreSQL too; an equal store."""
    with some_stack.cache() as cache:
        lively(cache)
        cache.flush()
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    assert "9 sessions and 29 messages exported" in runs("export", "--output", first)[1]
    with SessionCache(settings=other_store(some_stack, tmp_path)) as other:
        done, damaged = read_back(other, first)
        assert (damaged, done) == ([], Imported(9, 29))
        second.write_text(written(other))
        theirs = tables(other.settings.database_url)
    assert first.read_bytes() == second.read_bytes()
    ours = tables(some_stack.database_url)
    deleted = {row["session_id"] for row in ours["sessions"] if row["deleted"]}
    assert len(deleted) == 1
    if some_stack.database_url.startswith("sqlite"):
        assert theirs["sessions"] == [row for row in ours["sessions"] if row["session_id"] not in deleted]
        assert theirs["messages"] == ours["messages"]
        assert theirs["routes"] == [row for row in ours["routes"] if row["session_id"]]
    else:
        assert [row["body"] for row in theirs["messages"]] == [row["body"] for row in ours["messages"]]


def test_the_other_store_goes_on(some_stack, tmp_path):
    """What was moved reads, takes messages, finds, resumes and repeats as where it came from."""
    path = tmp_path / "export.jsonl"
    with some_stack.cache() as cache:
        lively(cache)
        path.write_text(written(cache))
        with SessionCache(settings=other_store(some_stack, tmp_path)) as other:
            read_back(other, path)
            for key in ("k:whole", "k:forked", "k:switch", "k:empty", "k:mine"):
                ours, theirs = cache.get(key), other.get(key)
                assert list(ours.messages()) == list(theirs.messages())
                seen = [one.info.__class__ for one in (ours, theirs)]
                assert seen[0] is seen[1]
                for name in ("title", "owner", "metadata", "origin", "usage", "consolidated_seq", "important", "suspended",
                             "created_at", "updated_at", "last_message_at", "message_count", "parent_id"):  # fmt: skip
                    assert getattr(ours.info, name) == getattr(theirs.info, name), name
                assert ours.append(said("next"))[0].seq <= theirs.append(said("next"))[0].seq + 1
            whole = other.get("k:whole")
            first = next(one for one in whole.messages() if one.id == "telegram-1")
            assert whole.append({"content": "again"}, id="telegram-1")[0].seq == first.seq
            assert [hit.info.session_id for hit in other.search("combining")] == [whole.session_id]
            ended = next(info for info in other.past(cache.get("k:switch").key) if info.ended_at)
            assert other.resume(ended.session_id).history() == []


def test_exporting_a_part(some_stack, runs, tmp_path):
    """One owner's sessions, or one; an id that is not there is an error, and no file is left."""
    with some_stack.cache() as cache:
        lively(cache)
        fresh = cache.get(GROUP)
        cache.open("k:pending", owner="bob").append(said("pending"))
    lines = [json.loads(line) for line in runs("export", "--owner", "bob")[0].splitlines()]
    assert {line["owner"] for line in lines if line["type"] == "session"} == {"bob"}
    assert sum(line["type"] == "session" for line in lines) == 4
    assert {"role": "user", "content": "pending"} in [line.get("data") for line in lines]
    lines = [json.loads(line) for line in runs("export", "--session", fresh.session_id)[0].splitlines()]
    assert [line["type"] for line in lines] == ["sessioncache", "session", "message"]
    path = tmp_path / "none.jsonl"
    with pytest.raises(SessionNotFound):
        runs("export", "--session", "nobody", "--output", path)
    assert not path.exists()
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_export(some_stack, tmp_path):
    """Each damaged line is told; no message goes to another session, and a session whose line is lost loses no other."""
    with some_stack.cache() as cache:
        for name in "abc":
            brought(cache, found(name, *(f"{name}{n}" for n in range(5))))
        lines = written(cache).splitlines()
    first = [n for n, line in enumerate(lines) if '"type":"session"' in line]
    spoiled = list(lines)
    spoiled[first[1]] = spoiled[first[1]][:40]  # b is lost
    spoiled[first[0] + 2] = spoiled[first[0] + 2].replace('"seq":2', '"seq":"2"')
    spoiled[first[2] + 3] = spoiled[first[2] + 2]  # twice the same
    spoiled[first[2] + 4] = '{"type":"who knows"}'
    path = tmp_path / "damaged.jsonl"
    path.write_text("\n".join(spoiled) + "\n")
    with SessionCache(settings=other_store(some_stack, tmp_path)) as other:
        done, damaged = read_back(other, path)
        assert done == Imported(sessions=2, messages=7)
        wrong = [first[0] + 2, *range(first[1], first[2]), first[2] + 3, first[2] + 4]
        assert [one.line for one in damaged] == [at + 1 for at in wrong]
        assert other.get("key of a").history() == said("a0", "a2", "a3", "a4")
        assert other.get("key of c").history() == said("c0", "c1", "c4")
        assert not any("a0" in one.why or "c0" in one.why for one in damaged)


HEADERS = st.dictionaries(
    st.sampled_from(["owner", "title", "metadata", "origin", "archived", "version", "consolidated_seq", "created_at",
                     "ended_at", "end_reason", "parent_id", "last_seq", "told", "cost_nano", "unknown", "state",
                     "deleted"]),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just({}) | st.just([1]),
    max_size=4,
)  # fmt: skip


@hypothesis_settings(max_examples=60)
@given(header=HEADERS, data=st.none() | st.integers() | st.dictionaries(st.text(max_size=2), st.text(max_size=2)))
def test_any_export_is_read_to_its_end(tmp_path_factory, header, data):
    """Whatever a line says, what follows it is found, and a session that is found can be stored."""
    path = tmp_path_factory.mktemp("any") / "any.jsonl"
    times = {"created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}
    good = {"type": "session", "session_id": "good", "session_key": "good", **times}
    odd = {**good, "session_id": "odd", **header}
    message = {"type": "message", "session_id": "odd", "seq": 1, "id": "m", "created_at": times["created_at"], "data": data}
    path.write_text("".join(json.dumps(line) + "\n" for line in (odd, message, good)))
    damaged: list[Damage] = []
    names = []
    for session in exported.read(str(path), Reading(UTC, 2**20, damaged.append, lambda _: None)):
        names.append(session.session_id)
        list(session.messages)
        assert set(session.columns) <= {column.name for column in importing.sessions.c} - {"state", "deleted"}
    assert names[-1] == "good"
    assert (len(names) == 2) or damaged


@pytest.mark.parametrize("layout", ["nanobot", "hermes", "jsonl"])
def test_strange_text_survives(some_stack, runs, tmp_path, layout):
    """From each text layout into the store, through Redis, out and in again."""
    contents = [None, *STRANGE[:-1], "x" * 1_000_000]
    rows = [{"role": "user", "content": one} for one in contents]
    store = tmp_path / "store"
    store.mkdir()
    for number, row in enumerate(rows):
        ascii_only = bool(number % 2)
        line = json.dumps(row, ensure_ascii=ascii_only) + "\n"
        name = {"nanobot": "web_1.jsonl", "hermes": "web_1.jsonl", "jsonl": "export"}[layout]
        if number == 0:
            header = json.dumps({"_type": "metadata", "key": "web:1"}) + "\n"
            (store / name).write_text(header if layout == "nanobot" else "", newline="")
        with (store / name).open("a", newline="") as file:
            file.write(line if layout != "jsonl" else "")
    if layout == "jsonl":
        with some_stack.cache(prefix="first") as cache:
            cache.open("hermes:web_1").append(rows)
            (store / "export").write_text(written(cache), newline="")
            cache.delete("hermes:web_1")
        with SessionCache(settings=other_store(some_stack, tmp_path)) as other:
            assert read_back(other, store / "export")[0] == Imported(1, len(rows))
            assert other.get("hermes:web_1").history() == rows
        return
    out, err = runs("import", layout, store)
    assert (out.split(";")[0], err) == (f"1 sessions and {len(rows)} messages added", "")
    with some_stack.cache() as cache:
        session = cache.get("web:1" if layout == "nanobot" else "hermes:web_1")
        assert session.history() == rows
        session.append(rows)
        cache.flush()
        cache.evict(session.key)
        assert session.history() == rows * 2
        assert len(session.context(max_messages=100)) == len(rows) * 2


# What a hostile reading found.


def parts_of(name: str, count: int, **columns) -> FoundSession:
    """A session whose messages come one by one."""
    messages = (FoundMessage(encode({"n": n}, 99), created_at=AT, consolidated=n < 25) for n in range(count))
    return FoundSession(name, name, current=True, created_at=AT, updated_at=AT, columns=columns, messages=messages)


@pytest.mark.parametrize("then", ["finished by another", "deleted since", "erased"])
def test_an_import_that_stalled(some_stack, monkeypatch, then):
    """Its right ran out, and another import took over: it stops, and changes nothing of what stands."""
    monkeypatch.setattr(importing, "BATCH", 10)
    with some_stack.cache() as cache, some_stack.cache() as other, some_stack.raw() as raw:

        def stalling() -> Iterator[FoundMessage]:
            for n in range(40):
                if n == 25:
                    raw.delete(cache._state.keyspace.importing)
                    if then == "erased":
                        other.delete_owner("alice")
                    else:
                        assert brought(other, parts_of("a", 30)) == Imported(1, 30)
                    if then == "deleted since":
                        other.delete("a")
                    elif then == "finished by another":
                        other.get("a").truncate(3)
                        other.get("a").append(said("mine"))
                        other.flush()
                    raw.delete(cache._state.keyspace.importing)
                yield FoundMessage(encode({"n": n}, 99), created_at=AT)

        session = parts_of("a", 0, owner="alice")
        session.messages = stalling()
        with pytest.raises(TurnLost):
            brought(cache, session)
        if then == "finished by another":
            assert other.get("a").history() == [{"n": 0}, {"n": 1}, {"n": 2}, *said("mine")]
            assert other.list().sessions[0].info.message_count == 4
        else:
            for look in (other.get, other.read, other.info):
                with pytest.raises(SessionNotFound):
                    look("a")
        stored = tables(some_stack.database_url)
        assert len(stored["messages"]) == (4 if then == "finished by another" else 0)
        assert not any(row["owner"] for row in stored["sessions"])


def test_a_prefix_that_is_longer_than_a_batch(some_stack, monkeypatch):
    """The consolidated pointer is that of all parts; one beyond the last message counts as its seq."""
    monkeypatch.setattr(importing, "BATCH", 10)
    with some_stack.cache() as cache:
        brought(cache, parts_of("a", 40), found("b", "one", columns={"consolidated_seq": 500}))
        assert cache.get("a").info.consolidated_seq == 25
        session = cache.get("key of b")
        session.append(said("two"))
        assert session.context() == said("two")


def test_a_past_session_with_high_seqs(some_stack):
    """It makes the hot copy of its key's live session no heavier."""
    with some_stack.cache() as cache, some_stack.raw() as raw:
        live = cache.open("k")
        live.append(said("live"))
        brought(cache, found("past", *map(str, range(3000)), key="k"))
        cache.evict("k")
        assert live.history() == said("live")
        assert len(raw.hget(cache._state.keyspace.of("k").meta, "ops")) < 5_000


def test_a_session_that_comes_twice(some_stack, monkeypatch):
    """In one batch, or in several: the first one counts, also in a rehearsal."""
    for batch in (5000, 2):
        monkeypatch.setattr(importing, "BATCH", batch)
        with some_stack.cache() as cache:
            twice = [lambda b=batch: found(f"a{b}", "1", "2", "3"), lambda b=batch: found(f"a{b}", "x", "y", "z", "u")]
            for dry_run in (True, False):
                done = brought(cache, *(one() for one in twice), dry_run=dry_run)
                assert done == Imported(1, 3, there=1)
            assert cache.read(f"a{batch}").data() == said("1", "2", "3")


@pytest.mark.parametrize("reason", ["importing", "importing x", "reserved"])
def test_reserved_words(some_stack, reason):
    """A session that says it ended so is an ordinary one: it stands after the first import."""
    with some_stack.cache() as cache:
        session = lambda *texts: found("a", *texts, columns={"end_reason": reason, "ended_at": AT})  # noqa: E731
        ended = session("1", "2")
        ended.current = False
        assert brought(cache, ended) == Imported(1, 2)
        assert brought(cache, session("1")) == Imported(there=1)
        assert cache.info("a").end_reason == ("importing" if reason == "importing" else "imported")
        assert '"session_id":"a"' in written(cache)
        assert cache.resume("a").history() == said("1", "2")


def test_the_end_of_time(some_stack):
    """A message without a time after one at the end of the year 9999."""
    with some_stack.cache() as cache:
        last = datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)
        messages = [FoundMessage(encode({"n": n}, 99), created_at=last if not n else None) for n in range(3)]
        session = FoundSession("a", "a", current=True, created_at=last, updated_at=last, messages=iter(messages))
        assert brought(cache, session) == Imported(1, 3)
        assert {one.created_at for one in cache.get("a").messages()} == {last}


def test_batches_count_rows_too(some_stack, monkeypatch):
    """Sessions without messages, and with much metadata, come in bounded batches."""
    with some_stack.cache() as cache:
        sizes, original = [], cache._connections.driver.perform

        def perform(request):
            if getattr(getattr(request, "work", None), "func", None) is importing.incoming.add:
                sizes.append(len(request.work.keywords["parts"]))
            return original(request)

        cache._connections.driver.perform = perform
        monkeypatch.setattr(importing, "BATCH", 10)
        brought(cache, *(found(str(n)) for n in range(35)))
        assert sizes == [10, 10, 10, 5]
        monkeypatch.setattr(importing, "BATCH_BYTES", 10_000)
        sizes.clear()
        brought(cache, *(found(f"m{n}", columns={"metadata": {"a": "x" * 4000}}) for n in range(7)))
        assert sizes == [3, 3, 1]


def test_a_stopped_key_is_left_out(some_stack):
    """It is told, all others come in, and it comes in once its log is mended."""
    with some_stack.cache() as cache, some_stack.raw() as raw:
        keys = cache._state.keyspace.of("key of b")
        raw.rpush(keys.pending, b"9 AAAAAAAAAAAAAAAA 0 5 retitle s\n")
        damaged: list[Damage] = []
        assert brought(cache, *(found(name, "1") for name in "abc"), damaged=damaged) == Imported(2, 2)
        assert [one.file for one in damaged] == ["key of b"]
        raw.delete(keys.pending)
        assert brought(cache, *(found(name, "1") for name in "abc")) == Imported(1, 1, there=2)


def test_much_metadata_comes_back(some_stack, tmp_path):
    """Put together from many calls, it is more than one may give."""
    path = tmp_path / "export.jsonl"
    with some_stack.cache(max_message_bytes=65_536) as cache:
        session = cache.open("a")
        for n in range(30):
            session.update(metadata={f"k{n}": "z" * 60_000})
        session.append(said("hello"))
        path.write_text(written(cache))
        with SessionCache(settings=other_store(some_stack, tmp_path)) as other:
            assert read_back(other, path) == (Imported(1, 1), [])
            assert len(other.get("a").info.metadata) == 30


def test_rows_that_were_damaged_by_hand(one_stack, runs_on, tmp_path):
    """They are told and left out; all others are exported, and the exit status says so."""
    bodies = ['{"content":NaN}', '{"content":1e999}', '{"content":"\\ud800"}', "[1]", "{", "\\xff"]
    with one_stack.cache() as cache:
        session = cache.open("a", metadata={"a": 1})
        session.append(said(*map(str, range(8))))
        cache.open("b").append(said("b"))
        cache.flush()
    with closing(sqlite3.connect(one_stack.database_url.removeprefix("sqlite:///"))) as connection, connection:
        for seq, body in enumerate(bodies, 2):
            value = "CAST(x'7bff7d' AS TEXT)" if body == "\\xff" else "?"
            connection.execute(f"UPDATE messages SET body = {value} WHERE seq = {seq} AND text != 'b'",
                               () if "CAST" in value else (body,))  # fmt: skip
        connection.execute("UPDATE sessions SET metadata = '{\"a\": NaN}' WHERE session_key = 'a'")
    status, out, err = runs_on(one_stack, "export")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["data"]["content"] for line in lines if line["type"] == "message"] == ["6", "7", "b"] or len(lines) == 6
    assert (status, err.count("cannot be read from the database")) == (1, 7)
    assert "2 sessions and 3 messages exported; 7 could not be read" in err


@pytest.fixture
def runs_on():
    """Runs a command in a process of its own: its exit status, output and errors."""

    def run(stack, *arguments: str, **options):
        environment = {**os.environ, **as_environment(stack.settings()), **options.pop("environment", {})}
        command = [sys.executable, "-c", "from sessioncache.cli.main import main; main()", *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False, **options)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return run


def test_what_the_commands_answer(one_stack, runs_on, tmp_path):
    """A sentence and an exit status for each wrong path, zone and output; no traceback, no file left."""
    with one_stack.cache() as cache:
        cache.open("a").append(said("ü"))
        cache.flush()
    (tmp_path / "empty").mkdir()
    fails = {
        ("import", "jsonl", tmp_path / "empty"): (1, "No session was found"),
        ("import", "nanobot", tmp_path / "empty"): (1, "No session was found"),
        ("import", "odysseus", tmp_path / "empty"): (1, "No session was found"),
        ("import", "nanobot", tmp_path / "nowhere"): (2, "does not exist"),
        ("import", "nanobot", tmp_path / "empty", "--zone", "Nowhere"): (2, "time zone"),
        ("export", "--output", tmp_path / "no" / "where"): (1, "cannot be written"),
        ("export", "--output", tmp_path / ("x" * 250)): (0, "exported"),
        ("export", "--session", "nobody"): (3, "There is no session nobody"),
    }
    for arguments, (expected, sentence) in fails.items():
        status, _, err = runs_on(one_stack, *arguments)
        assert (status, "Traceback" in err) == (expected, False), err
        assert sentence in err
    assert not list(tmp_path.glob(".*"))
    _, plain, _ = runs_on(one_stack, "export")
    assert runs_on(one_stack, "export", environment={"PYTHONIOENCODING": "latin-1", "LC_ALL": "C"})[1] == plain
    assert "ü" in plain
    if Path("/dev/full").exists():
        status, _, err = runs_on(one_stack, "export", "--output", "/dev/full")
        assert (status, "cannot be written" in err) == (1, True)


def test_an_output_that_is_no_plain_file(one_stack, runs_on, tmp_path):
    """A link's target is replaced, not the link; a pipe is written to."""
    with one_stack.cache() as cache:
        cache.open("a").append(said("hello"))
    target, link, pipe = tmp_path / "target", tmp_path / "link", tmp_path / "pipe"
    target.write_text("old")
    link.symlink_to(target)
    assert runs_on(one_stack, "export", "--output", link)[0] == 0
    assert link.is_symlink()
    assert "hello" in target.read_text()
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        assert runs_on(one_stack, "export", "--output", pipe)[0] == 0
        assert b"hello" in reader.stdout.read()
    assert pipe.is_fifo()


def test_numbers_at_the_edge(some_stack, tmp_path):
    """What leaves no room for more is damage; a column that cannot be kept takes nothing else along."""
    with some_stack.cache() as cache:
        brought(cache, found("a", "1", "2"))
        head, line, *messages = written(cache).splitlines()
    odd = {
        "version": 2**53,
        "last_seq": 2**53,
        "input_tokens": 2**53,
        "model": "x" * 256,
        "end_reason": "y" * 65,
        "title": "\n",
    }
    with SessionCache(settings=other_store(some_stack, tmp_path)) as other:
        for number, (name, value) in enumerate(odd.items()):
            session = {**json.loads(line), name: value, "session_id": str(number), "session_key": f"k{number}"}
            renamed = [json.dumps({**json.loads(one), "session_id": str(number)}) for one in messages]
            path = tmp_path / f"{name}.jsonl"
            path.write_text("\n".join([head, json.dumps(session), *renamed]) + "\n")
            done, damaged = read_back(other, path)
            assert len(damaged) == (3 if name == "version" else 1), damaged
            if name != "version":
                assert done == Imported(1, 2)
                again = other.get(f"k{number}")
                first, second = (one.seq for one in again.append(said("3", "4")))
                assert 2 < first == second - 1 < 9
                again.record_usage(input_tokens=5)
