"""Commands that act, each on a live system with real data: what they print, what is so afterwards, and how they end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import redis
from clock import Clock
from commands import INTERRUPT, SECONDS, on_terminal, run
from sqlalchemy import create_engine, text
from test_backpressure import store_away
from test_housekeeping import DAY, opened
from test_workers import until

from sessioncache import HotTierUnavailable, SessionCache, Settings, UnsafeEviction
from sessioncache.cli.status import FAILED, INTERRUPTED, NOT_FOUND, TERMINATED, UNAVAILABLE, WRONG_USAGE
from sessioncache.config import as_environment

POISON = "CREATE TRIGGER poison BEFORE INSERT ON messages WHEN NEW.text = 'poison' BEGIN SELECT RAISE(ABORT, 'no'); END"


def said(*words: str) -> list[dict]:
    """Messages that say this."""
    return [{"role": "user", "content": word} for word in words]


def in_store(stack, statement: str) -> None:
    """Do something to the database."""
    engine = create_engine(stack.database_url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


@pytest.fixture
def settings(one_stack):
    """Settings of the commands."""
    return one_stack.settings()


@pytest.fixture
def letters(one_stack):
    """Dead letters: of key a three messages, two of them appended at once; of key b an update."""
    with one_stack.cache() as cache:
        a, b = cache.open("a"), cache.open("b")
        a.append(said("fine"))
        b.append(said("fine"))
        cache.flush()
        in_store(one_stack, POISON)
        in_store(one_stack, "CREATE TRIGGER untitled BEFORE UPDATE ON sessions WHEN NEW.title = 'poison' "
                 "BEGIN SELECT RAISE(ABORT, 'no'); END")  # fmt: skip
        a.append(said("poison"), id="mine")
        a.append(said("second", "poison"))
        b.update(title="poison", metadata={"n": 2**60, "gone": None})
        cache.flush()
        assert [(one.session_key, one.kind) for one in cache.dead_letters()] in (
            [("a", "append")] * 3 + [("b", "update")],
            [("b", "update")] + [("a", "append")] * 3,
        )
        yield cache


def mend(stack) -> None:
    """Let the database take everything."""
    in_store(stack, "DROP TRIGGER poison")
    in_store(stack, "DROP TRIGGER untitled")


def test_flush(some_stack):
    """One key, then all; nothing waits afterwards, and everything is in SQL."""
    settings = some_stack.settings()
    with some_stack.cache() as cache:
        for key in "abc":
            cache.open(key).append(said("1", "2"))
        done = run(settings, "flush", "a")
        assert (done.status, done.out, done.err) == (0, "3 ops drained\n", "")
        assert cache.stats().pending == 6
        assert run(settings, "flush", "--timeout", "30").out == "6 ops drained\n"
        assert (cache.stats().pending, cache.stats().messages) == (0, 6)


def test_flush_says_what_it_could_not_do(one_stack, settings):
    """A key that is stopped is named, and no other waits for it; a database that is away ends it with another status."""
    with one_stack.cache() as cache, one_stack.raw() as raw:
        cache.open("good").append(said("1"))
        bad = cache.open("bad")
        bad.append(said("1"))
        keys = cache._state.keyspace.of("bad")
        raw.lset(keys.pending, 0, raw.lindex(keys.pending, 0).replace(b" start ", b" later "))
        done = run(settings, "flush")
        assert (done.status, "session key 'bad'" in done.err, cache.stats().dirty) == (FAILED, True, 1)
        cache.open("good").append(said("2"))
        done = run(settings, "flush", "--timeout", "5")
        assert (done.status, done.out) == (FAILED, "1 ops drained; 2 wait\n")
        assert "session key bad is stopped" in done.err
        raw.delete(keys.pending, keys.dirty)
        cache.open("good").append(said("3"))
    away = replace(settings, database_url="postgresql://nobody@/none?host=/nonexistent", timeout=1.0, redis_timeout=0.5)
    done = run(away, "flush", "--timeout", "0.2")
    assert (done.status, done.out) == (UNAVAILABLE, "0 ops drained; 1 wait\n")
    done = run(away, "flush")
    assert (done.status, done.out, "Traceback" in done.err) == (UNAVAILABLE, "", False)
    assert run(settings, "flush", "--timeout", "soon").status == WRONG_USAGE


def test_flush_waits_for_redis_too(own_server, tmp_path):
    """With a time to try for, a Redis that goes away in the middle is waited for."""
    server = own_server(appendonly="yes")
    settings = Settings(
        redis_url=server.url, database_url=f"sqlite:///{tmp_path}/a.db", report=0, timeout=1.0, redis_timeout=0.5
    )
    with SessionCache(settings=settings) as cache, ThreadPoolExecutor(1) as pool:
        cache.open("a").append(said("1"))
        server.kill()
        flushing = pool.submit(cache.flush, timeout=60)
        time.sleep(2.5)
        server.start()
        assert flushing.result().left == 0
        server.kill()
        with pytest.raises(HotTierUnavailable):
            cache.flush(timeout=0.1)
        server.start()


def test_an_operator_is_not_refused_where_redis_may_evict(own_server, tmp_path):
    """What waits is drained all the same, with a warning; servers and workers do not start there."""
    server = own_server()
    settings = Settings(redis_url=server.url, database_url=f"sqlite:///{tmp_path}/a.db", report=0)
    with SessionCache(settings=settings) as cache:
        cache.open("a").append(said("1"))
    with redis.Redis.from_url(server.url) as raw:
        raw.config_set("maxmemory-policy", "allkeys-lru")
    with SessionCache(settings=settings) as cache, pytest.raises(UnsafeEviction):
        cache.get("a")
    assert run(settings, "flush").out == "2 ops drained\n"
    assert run(settings, "stats", "--json").values[0]["messages"] == 1


def test_evict_and_hydrate(one_stack, settings):
    """What was hot, what was brought back, what is not there; and it is hot afterwards."""
    with one_stack.cache() as cache, one_stack.raw() as raw:
        ids = {key: cache.open(key).session_id for key in ("hot", "cold", "dirty")}
        for key in ids:
            cache.get(key).append(said("1", "2"))
        cache.flush("cold")
        assert run(settings, "evict", "cold").out == "evicted\n"
        assert run(settings, "evict", "cold").out == "there was no hot copy\n"
        assert run(settings, "evict", "dirty").out == "evicted\n"
        assert not raw.exists(cache._state.keyspace.of("cold").history)
        done = run(settings, "hydrate", "hot", "nobody", "cold", "dirty")
        assert done.status == NOT_FOUND
        assert done.out.splitlines() == [
            f"hot  was hot already: session {ids['hot']} with 2 messages",
            "nobody  there is no session under this key",
            f"cold  brought back: session {ids['cold']} with 2 messages",
            f"dirty  brought back: session {ids['dirty']} with 2 messages",
        ]
        assert [raw.llen(cache._state.keyspace.of(key).history) for key in ids] == [2, 2, 2]
        loads = cache.stats().counters["sql_loads"]
        assert cache.get("cold").history() == said("1", "2")
        assert cache.stats().counters["sql_loads"] == loads
        assert run(settings, "hydrate", "hot", "cold").status == 0
        assert run(settings, "hydrate").status == WRONG_USAGE


def test_dead_letters_are_listed_without_what_they_say(letters, settings):
    """Ids, reasons, keys, kinds; of one key; so many at most. No content, nor in JSON."""
    done = run(settings, "dead", "list")
    assert done.status == 0
    found = {one.id: one for one in letters.dead_letters()}
    assert done.out.splitlines()[0].split() == [
        "id",
        "time",
        "reason",
        "session",
        "key",
        "session",
        "id",
        "kind",
        "version",
    ]
    for line in done.out.splitlines()[1:]:
        letter = found[line.split()[0]]
        assert line.split()[2:] == [letter.reason, letter.session_key, letter.session_id, letter.kind, str(letter.version)]
        assert datetime.fromisoformat(line.split()[1]) <= letter.at
    assert len(done.out.splitlines()) == 5
    listed = run(settings, "dead", "list", "--json").values
    assert {one["id"]: one["kind"] for one in listed} == {one.id: one.kind for one in found.values()}
    assert "poison" not in done.out + json.dumps(listed) + done.err
    assert [one["session_key"] for one in run(settings, "dead", "list", "--key", "b", "--json").values] == ["b"]
    few = run(settings, "dead", "list", "--limit", "3", "--json")
    assert (len(few.values), "more than 3" in few.err) == (3, True)
    assert run(settings, "dead", "list", "--limit", "0").status == WRONG_USAGE


def test_dead_letters_are_shown_and_exported(letters, settings, one_stack):
    """With what they hold, decoded; what is no op at all too."""
    with one_stack.raw() as raw:
        raw.rpush(letters._state.keyspace.of("b").dead, b"5 corrupt b\n\xff\x1b[31mgarbage")
    found = letters.dead_letters()
    update, garbage = (next(one for one in found if one.kind == kind) for kind in ("update", ""))
    mine = next(one for one in found if one.message_id == "mine")
    shown = run(settings, "dead", "show", mine.id)
    assert shown.status == 0
    assert re.search(r"^reason +SQLITE_CONSTRAINT_TRIGGER$", shown.out, re.MULTILINE)
    assert '"content": "poison"' in shown.out
    assert run(settings, "dead", "show", update.id, "--json").values == [update.to_dict()]
    assert update.change == {"set": {"title": "poison"}, "metadata": {"n": 2**60, "gone": None}}
    assert "\x1b" not in run(settings, "dead", "show", garbage.id).out
    missing = run(settings, "dead", "show", "0123456789abcdef", mine.id)
    assert (missing.status, missing.err) == (NOT_FOUND, "There is no dead letter 0123456789abcdef.\n")
    assert "poison" in missing.out
    missing = run(settings, "dead", "export", "0123456789abcdef")
    assert (missing.status, missing.out, "There is no dead letter" in missing.err) == (NOT_FOUND, "", True)
    done = run(settings, "dead", "export")
    assert (done.status, done.err) == (0, "5 dead letters exported\n")
    assert {one["id"]: b64decode(one["raw"]) for one in done.values} == {one.id: one.raw for one in found}
    messages = [one["message"] for one in done.values if one["session_key"] == "a"]
    assert messages == said("poison", "second", "poison")
    assert [one["change"] for one in done.values if one["kind"] == "update"] == [update.change]
    assert [one["id"] for one in run(settings, "dead", "export", "--key", "a").values] == [
        one.id for one in found if one.session_key == "a"
    ]
    assert [one["id"] for one in run(settings, "dead", "export", update.id).values] == [update.id]


def test_dead_letters_are_tried_again(letters, settings, one_stack):
    """By id, by key, all: how many were queued, and what stays; then they are stored, once."""
    with one_stack.raw() as raw:
        raw.rpush(letters._state.keyspace.of("b").dead, b"5 corrupt b\ngarbage")
    assert run(settings, "dead", "retry").status == WRONG_USAGE
    assert run(settings, "dead", "retry", "--all", "--key", "a").status == WRONG_USAGE
    assert run(settings, "dead", "retry", "--key", "nobody").out == "0 ops queued again\n"
    mine = next(one for one in letters.dead_letters() if one.message_id == "mine")
    assert run(settings, "dead", "retry", mine.id).out == "1 ops queued again\n"
    letters.flush()
    assert len(letters.dead_letters()) == 5  # the database refuses it still
    mend(one_stack)
    mine = next(one for one in letters.dead_letters() if one.message_id == "mine")
    done = run(settings, "dead", "retry", mine.id, "feedfeedfeedfeed")
    assert (done.status, done.out) == (NOT_FOUND, "1 ops queued again\n")
    assert run(settings, "dead", "retry", "--key", "a").out == "2 ops queued again\n"
    assert run(settings, "dead", "retry", "--all").out == "1 ops queued again; 1 stay\n"
    letters.flush()
    assert [one.reason for one in letters.dead_letters()] == ["corrupt"]
    assert letters.get("a").history() == said("fine", "poison", "second", "poison")
    assert letters.get("b").info.title == "poison"


def test_dead_letters_are_dropped(letters, settings):
    """Not without being told to; those that were named, and no others."""
    refused = run(settings, "dead", "drop", "--all")
    assert (refused.status, refused.out) == (WRONG_USAGE, "")
    assert "no terminal to ask on: Drop 4 dead letters for good? If so, give --yes." in refused.err
    assert run(settings, "dead", "drop", "--yes").status == WRONG_USAGE
    assert len(letters.dead_letters()) == 4
    mine = next(one for one in letters.dead_letters() if one.message_id == "mine")
    assert run(settings, "dead", "drop", mine.id, "--yes").out == "1 dead letters dropped\n"
    gone = run(settings, "dead", "drop", mine.id, "--yes")
    assert (gone.status, gone.out) == (NOT_FOUND, "0 dead letters dropped\n")
    assert run(settings, "dead", "drop", "--key", "b", "--yes").out == "1 dead letters dropped\n"
    assert {one.session_key for one in letters.dead_letters()} == {"a"}
    assert run(settings, "dead", "drop", "--all", "--yes").out == "2 dead letters dropped\n"
    assert run(settings, "dead", "drop", "--all").out == "0 dead letters dropped\n"
    assert letters.dead_letters() == []


@pytest.fixture
def aged(one_stack, monkeypatch):
    """Sessions of all ages: an empty one, an old one, an idle one, one that ended; and two of today."""
    with one_stack.raw() as raw, one_stack.cache(hold=0.1) as cache:
        until(lambda: raw.info("server")["uptime_in_seconds"])  # before that holds may have been lost
        clock = Clock(monkeypatch, raw, datetime.now(UTC))
        opened(cache, clock, "empty", days=1, messages=0)
        opened(cache, clock, "old", days=40)
        opened(cache, clock, "idle", days=100)
        opened(cache, clock, "ended", days=300)
        clock.set(clock.now - timedelta(days=200))
        cache.get("ended").reset()
        clock.set(clock.now + timedelta(days=200))
        cache.get("ended").append(said("b"))
        opened(cache, clock, "young", days=0.01, messages=0)
        cache.flush()
        yield cache


HOUSE = {"hold": 0.1, "empty_after": 3600.0, "archive_after": 30 * DAY, "prune_after": 90 * DAY, "retention": 180 * DAY}
CHORES = {
    "cleanup": ("sessions: 1 {}deleted, 2 {}archived", "30d ago", {"old": "archived", "idle": "archived"}, {"empty"}),
    "prune": ("sessions: 1 {}ended", "90d ago", {"idle": "pruned"}, set()),
    "retention": ("sessions: 1 {}deleted", "180d ago", {}, {"past ended"}),
}


LEFT = "; 0 left alone, in use or changed meanwhile\n"


def stand(cache) -> dict[str, str]:
    """What became of each session, by its key; of the one that ended, under the key's and a mark."""
    found = cache.list(archived=None, ended=None, limit=1000, fresh=True).sessions
    ways = {"session_reset": ("past ", "ended"), "pruned": ("", "pruned"), None: ("", "live")}
    at = [(ways[one.info.end_reason], one.info) for one in found]
    return {mark + info.key: "archived" if info.archived else state for (mark, state), info in at}


@pytest.mark.parametrize("name", CHORES)
def test_keeping_house(aged, one_stack, name):
    """Said before, asked for, done; each does its own and no more."""
    counts, age, become, go = CHORES[name]
    settings, before = one_stack.settings(**HOUSE), stand(aged)
    dry = run(settings, name, "--dry-run")
    assert (dry.status, dry.out) == (0, counts.format("would be ", "would be ") + LEFT)
    refused = run(settings, name)
    assert (refused.status, age in refused.err, refused.out) == (WRONG_USAGE, True, "")
    assert stand(aged) == before
    done = run(settings, name, "--yes")
    assert (done.status, done.out) == (0, dry.out.replace("would be ", ""))
    assert stand(aged) == {key: state for key, state in (before | become).items() if key not in go}


def test_how_old_is_old(aged, one_stack):
    """Without a setting it must be said, and what is said goes before the setting; nonsense is refused."""
    bare = one_stack.settings(hold=0.1)
    for name in CHORES:
        done = run(bare, name, "--yes")
        assert (done.status, "Say it by --older-than" in done.err) == (WRONG_USAGE, True)
        for nonsense in ("0", "-1d", "1y", "", "1e9", "9999999d"):
            assert run(bare, name, "--older-than", nonsense, "--dry-run").status == WRONG_USAGE
    assert run(bare, "cleanup", "--older-than", "39d", "--dry-run").out == (
        f"sessions: 0 would be deleted, 2 would be archived{LEFT}"
    )
    assert run(bare, "prune", "--older-than", "50w", "--dry-run").out == f"sessions: 0 would be ended{LEFT}"
    assert run(bare, "prune", "--older-than", "5w", "--yes").out == f"sessions: 2 ended{LEFT}"
    strict = one_stack.settings(**{**HOUSE, "retention": 1000 * DAY})
    assert run(strict, "retention", "--dry-run").out == f"sessions: 0 would be deleted{LEFT}"
    assert run(strict, "retention", "--older-than", "180.5d", "--yes").out == f"sessions: 1 deleted{LEFT}"


def test_delete(some_stack):
    """The current session of a key, any one by its id; not without being told to, and nothing else."""
    settings = some_stack.settings()
    with some_stack.cache() as cache:
        first = cache.open("a", owner="alice")
        first.append(said("1"))
        second = first.reset()
        other = cache.open("b")
        other.append(said("keep"))
        for wrong in ([], ["a", "--session", first.session_id]):
            assert run(settings, "delete", *wrong, "--yes").status == WRONG_USAGE
        refused = run(settings, "delete", "a")
        assert (refused.status, f"Delete session {second.session_id} with 0 messages of key a" in refused.err) == (
            WRONG_USAGE, True,
        )  # fmt: skip
        assert cache.get("a").session_id == second.session_id
        done = run(settings, "delete", "--session", first.session_id, "--yes")
        assert (done.status, done.out) == (0, f"deleted session {first.session_id} with 1 messages of key a\n")
        assert run(settings, "delete", "a", "--yes").status == 0
        for gone in (["a"], ["--session", first.session_id], ["nobody"]):
            done = run(settings, "delete", *gone, "--yes")
            assert (done.status, done.out, "Traceback" in done.err) == (NOT_FOUND, "", False)
        assert cache.past("a") == []
        assert cache.get("b").history() == said("keep")


def test_a_deletion_while_the_database_is_away(one_stack):
    """It is done, and says what is not: the session is gone at once, and from lists when the database is back."""
    with one_stack.cache() as cache:
        cache.open("a").append(said("1"))
        cache.flush()
        cache.get("a")
        with store_away(one_stack):
            done = run(one_stack.settings(database_timeout=0.3), "delete", "a", "--yes")
            assert (done.status, "is deleted, but stands in lists" in done.err) == (UNAVAILABLE, True)
        assert run(one_stack.settings(), "flush").status == 0
        assert run(one_stack.settings(), "show", "a").status == NOT_FOUND


def test_delete_owner(letters, settings, one_stack):
    """Everything of one owner, dead letters too, and nothing of another; it says what it was."""
    for n in range(3):
        letters.open(f"alice {n}", owner="alice").append(said("1", "2"))
    letters.get("alice 0").append(said("poison"))
    letters.get("alice 1").reset()
    letters.open("bob", owner="bob").append(said("keep"))
    refused = run(settings, "delete-owner", "alice")
    assert (refused.status, "give --yes" in refused.err) == (WRONG_USAGE, True)
    assert letters.count(owner="alice", fresh=True) == 3
    done = run(settings, "delete-owner", "alice", "--yes")
    assert (done.status, done.out) == (0, "4 sessions, 6 messages and 1 dead letters erased\n")
    again = run(settings, "delete-owner", "alice", "--yes")
    assert (again.status, again.out) == (NOT_FOUND, "0 sessions, 0 messages and 0 dead letters erased\n")
    assert letters.get("bob").history() == said("keep")
    assert len(letters.dead_letters()) == 4


def test_on_a_terminal_it_asks(letters, settings):
    """An answer of no, the wrong name: nothing is done. Yes, and the right name: it is."""
    letters.open("alice", owner="alice").append(said("1"))
    letters.flush()
    refused = run(settings, "dead", "drop", "--all", typed="n\n")
    assert (refused.status, refused.out.strip()) == (INTERRUPTED, "")
    assert "Drop 4 dead letters for good? [y/N]:" in refused.err
    assert len(letters.dead_letters()) == 4
    assert run(settings, "dead", "drop", "--key", "b", typed="y\n").status == 0
    assert len(letters.dead_letters()) == 3
    refused = run(settings, "delete-owner", "alice", typed="bob\n")
    assert (refused.status, "nothing was done" in refused.err) == (INTERRUPTED, True)
    assert letters.count(owner="alice") == 1
    with on_terminal(settings, "delete-owner", "alice") as terminal:
        terminal.wait_for("Type the owner's name again: ")
        terminal.type("alice\n")
        terminal.wait_for("1 sessions, 1 messages and 0 dead letters erased")
        assert terminal.status() == 0
        assert "erasing" in terminal.shown
    assert letters.count(owner="alice") == 0


@pytest.mark.parametrize(
    ("arguments", "title"),
    [(["flush"], "flushing"), pytest.param(["delete-owner", "o", "--yes"], "erasing", marks=pytest.mark.long)],
)
def test_interrupted_in_the_middle(one_stack, arguments, title):
    """A bar while it lasts; Ctrl-C ends it, without a traceback; given again it does the rest, and all is there once."""
    count = 1000
    with one_stack.cache() as cache:
        for n in range(count):
            cache.open(f"k{n}", owner="o").append(said("1"))
        if title == "erasing":
            cache.flush()
        with on_terminal(one_stack.settings(batch=1), *arguments) as terminal:
            terminal.wait_for(title)
            while not re.search(r"[1-9]\d*%", terminal.shown):
                terminal.wait_for("%")
            terminal.type(INTERRUPT)
            terminal.wait_for("^C")
            assert terminal.status() == INTERRUPTED, terminal.shown
        assert "Traceback" not in terminal.shown
        left = cache.stats().pending if title == "flushing" else cache.count(owner="o")
        assert 0 < left < 2 * count
        assert run(one_stack.settings(), *arguments).status == 0
        stats = cache.stats()
        assert (stats.pending, stats.messages) == (0, count if title == "flushing" else 0)
        assert [one.info.message_count for one in cache.list(owner="o", limit=count).sessions] == (
            [1] * count if title == "flushing" else []
        )


COMES = """
from sqlalchemy import event, pool
from sessioncache.cli.main import main

def come(*_):
    raise {signal}

event.listen(pool.Pool, "reset", come)
main()
"""


@pytest.mark.parametrize(
    ("signal", "ended"),
    [("KeyboardInterrupt", (INTERRUPTED, "sessioncache: aborted")), (f"SystemExit({TERMINATED})", (TERMINATED, ""))],
)
def test_interrupted_as_a_connection_is_given_back(settings, signal, ended):
    """SQLAlchemy logs what comes there as an error, with its traceback; the command says how it ended, and no more."""
    command = [sys.executable, "-c", COMES.format(signal=signal), "flush"]
    environment = {**os.environ, **as_environment(settings)}
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stderr.strip()) == ended
