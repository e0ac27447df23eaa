"""What the first layout left, in SQL and in Redis, is read, drained and gone on with; its servers may write beside ours.

The fixtures in `tests/data` were recorded with the code of the first release on real servers: the rows of SQLite and of
PostgreSQL at schema 0001, every key of Redis, what was acknowledged, and two of its scripts. Rows of kinds that it did not
write yet, but had columns for, were put in by SQL.
"""

from __future__ import annotations

import json
import sqlite3
from base64 import b64decode
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack
import pytest
from click.testing import CliRunner
from conftest import Stack
from sqlalchemy import create_engine

from sessioncache import LayoutMismatch, SchemaMismatch, SessionCache, SessionDeleted, SessionNotFound, repartition
from sessioncache.cli.main import cli
from sessioncache.config import Settings, as_environment

DATA = Path(__file__).parent / "data"
EXPECTED = json.loads((DATA / "first_layout.json").read_text())
AT = datetime(2026, 1, 1, 12, tzinfo=UTC)


@dataclass
class First:
    """A stack as the first release left it, its database not upgraded yet."""

    stack: Stack
    settings: Settings

    def cache(self) -> SessionCache:
        return SessionCache(settings=self.settings)

    def restore(self, *, run: bytes | None = None) -> None:
        """Put the keys of Redis back; with ``run``, hot copies are those of a running server."""
        with self.stack.raw() as raw:
            for line in (DATA / "first_layout_redis.jsonl").read_text().splitlines():
                key = json.loads(line)
                name, value = key["name"], key["value"]
                match key["type"]:
                    case "hash":
                        fields = {field: b64decode(one) for field, one in value.items()}
                        raw.hset(name, mapping=fields | ({"run": run} if run and "run" in fields else {}))
                    case "list":
                        raw.rpush(name, *map(b64decode, value))
                    case "zset":
                        raw.zadd(name, value)
                    case "string":
                        raw.set(name, b64decode(value))
                if key["ttl_ms"]:
                    raw.pexpire(name, key["ttl_ms"])

    def upgrade(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As an operator does."""
        for name, value in as_environment(self.settings).items():
            monkeypatch.setenv(name, value)
        done = CliRunner().invoke(cli, ["db", "upgrade"])
        assert done.exit_code == 0, done.output


@pytest.fixture
def first(some_stack, request, tmp_path):
    """SQL and Redis as they were."""
    if some_stack.name.endswith("sqlite"):
        url = f"sqlite:///{tmp_path}/first.db"
        with closing(sqlite3.connect(tmp_path / "first.db")) as connection:
            connection.executescript((DATA / "first_layout_sqlite.sql").read_text())
    else:
        url = request.getfixturevalue("empty_postgres")
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.connection.cursor().execute((DATA / "first_layout_postgresql.sql").read_text())
        engine.dispose()
    return First(some_stack, replace(some_stack.settings(), database_url=url))


def run_id(raw: Any) -> bytes:
    return str(raw.info("server")["run_id"]).encode()


def check_histories(cache: SessionCache) -> None:
    for key, expected in EXPECTED["histories"].items():
        session = cache.get(key)
        assert session.session_id == EXPECTED["session_ids"][key]
        found = session.history()
        assert found == expected
        assert [json.dumps(one) for one in found] == [json.dumps(one) for one in expected]
        seqs = [one.seq for one in session.messages()]
        assert seqs == sorted(set(seqs))
    assert cache.get("chat:empty").history() == []


def check_rows(cache: SessionCache) -> None:
    """What only SQL has: sessions that were over, those that were deleted, what a search finds."""
    assert [one.data["content"] for one in cache.read("ended-1")] == ["Straße 1 你好", "Straße 2 你好"]
    info = cache.info("ended-1", owner="alice")
    usage = info.usage
    assert (info.title, info.platform, info.chat_type, info.owner) == ("Reise nach Köln 你好", "telegram", "dm", "alice")
    assert (info.archived, info.important, info.suspended) == (True, True, False)
    assert (info.metadata, info.created_at) == ({"mood": [1, None]}, AT)
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens) == (10, 20, 30, 40)
    assert cache.info("child-1").suspended
    for session_id in EXPECTED["deleted"]:
        with pytest.raises((SessionNotFound, SessionDeleted)):
            cache.read(session_id)
    found = {hit.info.session_id for hit in cache.search("straße 你好", owner="alice")}
    assert found == {"ended-1"}
    assert {one.raw for one in cache.dead_letters()} == {b64decode(one) for one in EXPECTED["letters"][0]}


@pytest.mark.parametrize("copies", ["of a Redis that was restarted", "that are valid"])
def test_everything_that_the_first_layout_left(first, monkeypatch, copies):
    """Upgraded, read, drained by the new code, read again from SQL alone; and gone on with."""
    with first.stack.raw() as raw:
        first.restore(run=run_id(raw) if copies == "that are valid" else None)
        with first.cache() as early, pytest.raises(SchemaMismatch, match=r"behind \(0001"):
            early.get("chat:both")
        first.upgrade(monkeypatch)
        with first.cache() as cache:
            check_histories(cache)
            for key in ("chat:deleting", "chat:deleted"):
                with pytest.raises(SessionNotFound):
                    cache.get(key)
            repeated = cache.get("chat:both").append({"content": "with an id too"}, id="telegram-2")
            assert repeated[0].id == "telegram-2"
            cache.get("chat:new").append({"content": "goes on"})
            assert cache.flush().left == 0
        with first.cache() as cold:
            for key in EXPECTED["session_ids"]:
                cold.evict(key)
            newest = cold.get("chat:new").messages()[-1]
            assert newest.data == {"content": "goes on"}
            cold.get("chat:new").remove(newest.id)
            check_histories(cold)
            check_rows(cold)
            cold.flush()
        left = {name.split(b":")[2] for name in raw.scan_iter("sc:{*") if raw.ttl(name) < 0}
        assert left == {b"dead", b"layout"}


def old_append(raw: Any, cache: SessionCache, key: str, session_id: str, contents: list[str]) -> list[Any]:
    """An append of a server of the first release, by its script."""
    keys = cache._state.keyspace.of(key)
    five = (keys.meta, keys.history, keys.pending, keys.dirty, keys.wake)
    arguments = [3_600_000, 10_000, 100_000, 10_000, 2**24, 64, key, session_id, ""]
    for content in contents:
        op_id = (content.replace(" ", "_") + "A" * 16)[:16]
        arguments += [op_id, f"{op_id}\n".encode() + msgpack.packb({"content": content})]
    return raw.eval((DATA / "first_append.lua").read_text(), 5, *five, *arguments)


def old_read(raw: Any, cache: SessionCache, key: str) -> list[str]:
    """A read of a server of the first release, by its script."""
    keys = cache._state.keyspace.of(key)
    five = (keys.meta, keys.history, keys.pending, keys.dirty, keys.wake)
    reply = raw.eval(
        (DATA / "first_read.lua").read_text(),
        5,
        *five,
        3_600_000,
        10_000,
        100_000,
        3_600_000,
        "B" * 16,
        key,
        -1,
        "",
        "",
        "",
        "",
    )
    elements = [one for one in reply if isinstance(one, bytes) and b"\n" in one]
    return [msgpack.unpackb(one.split(b"\n", 1)[1])["content"] for one in elements]


def test_servers_of_the_first_release_beside_ours(some_stack):
    """They write into our hot copies and logs and read ours: nothing is lost, and counts are right when all is drained."""
    with some_stack.cache() as cache, some_stack.raw() as raw:
        session, expected = cache.open("k"), []
        for n in range(3):
            session.append({"content": f"new {n}"})
            reply = old_append(raw, cache, "k", session.session_id, [f"old {n} a", f"old {n} b"])
            assert reply[0] == b"ok"
            expected += [f"new {n}", f"old {n} a", f"old {n} b"]
            assert [one["content"] for one in session.history()] == expected == old_read(raw, cache, "k")
            if n == 1:
                assert cache.flush().left == 0
        again = old_append(raw, cache, "k", session.session_id, ["old 2 a"])
        assert again[0] == b"ok"
        assert cache.flush().left == 0
        cache.evict("k")
        assert old_append(raw, cache, "k", session.session_id, ["late"])[0] == b"miss"
        assert [one["content"] for one in session.history()] == expected
        assert old_read(raw, cache, "k") == expected
        keys = cache._state.keyspace.of("k")
        assert not raw.exists(keys.backlog, keys.oldest, keys.dirty, keys.pending)


def test_servers_of_the_first_release_write_what_waits_while_ours_drain(one_stack):
    """A log that began without counts is drained, and bounds go on being kept."""
    with one_stack.cache(max_pending=4) as cache, one_stack.raw() as raw:
        session = cache.open("k")
        cache.flush()
        old_append(raw, cache, "k", session.session_id, ["a", "b"])
        session.append({"content": "c"})
        assert cache.flush().left == 0
        session.append([{"content": one} for one in "defg"])
        with pytest.raises(Exception, match="max_pending"):
            session.append({"content": "h"})
        assert [one["content"] for one in session.history()] == list("abcdefg")


@pytest.mark.parametrize("tier", ["Redis", "The database"])
def test_a_later_layout_is_refused(some_stack, tier):
    """At the start, by a server that runs at its next miss, and by a change of partitions; nothing is written."""
    with some_stack.cache() as running, some_stack.raw() as raw:
        running.open("k").append({"content": "a"})
        running.flush()
        running.evict("k")
        if tier == "Redis":
            raw.hset("sc:{000}:layout", "version", 2)
        else:
            with running._connections.driver.engine.begin() as connection:
                connection.exec_driver_sql("UPDATE layout SET version = 2")
            with pytest.raises(LayoutMismatch, match="The database has layout 2"):
                running.get("k")
        before = set(raw.scan_iter("sc:*"))
        with some_stack.cache() as late, pytest.raises(LayoutMismatch, match=f"{tier} has layout 2, this package writes"):
            late.open("new")
        with some_stack.cache() as late, pytest.raises(LayoutMismatch, match=f"{tier} has layout 2"):
            late._connections.run_apart(repartition.repartition(late._state, 7))
        assert set(raw.scan_iter("sc:*")) == before


def test_the_fixtures_are_of_the_first_schema():
    """Whoever records them anew sees that they still are what they say."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript((DATA / "first_layout_sqlite.sql").read_text())
        assert connection.execute("SELECT version_num FROM sessioncache_version").fetchone() == ("0001",)
