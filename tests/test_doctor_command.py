"""`sessioncache doctor`: each fault is planted on real servers, named, and gone once what it advises was done."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from alembic import command
from clock import Clock
from commands import run
from conftest import Stack
from sqlalchemy import create_engine
from test_doctor import configured, until
from test_workers import workers

from sessioncache import functions, migrate
from sessioncache.checks import store as store_checks
from sessioncache.cli.status import UNHEALTHY
from sessioncache.config import Settings
from sessioncache.store.engine import prepared

# What a stack of the tests that nobody works for has to say for itself: no append-only file, no worker, no schedule.
BARE = 3


def faults(settings: Settings) -> list[dict]:
    """The errors and warnings that it names, in JSON; the text says the same, in the same order."""
    text, found = run(settings, "doctor"), run(settings, "doctor", "--json").values
    order = [one["severity"] for one in found]
    assert order == sorted(order, key=["error", "warning", "info", "ok"].index)
    lines = text.out.splitlines()
    said = [f"{one['severity']:8} {one['check']:10} " for one in found]
    assert [line[:20] for line in lines[:-1] if line[:20].strip()] == said
    wrong = [one for one in found if one["severity"] in {"error", "warning"}]
    assert lines[-1] == f"{order.count('error')} errors, {order.count('warning')} warnings"
    assert text.status == (UNHEALTHY if wrong else 0)
    assert all(one["advice"] for one in wrong)
    return wrong


def named(settings: Settings, check: str, severity: str, words: str, way_out: str) -> None:
    """Assert that it names this fault, and this way out."""
    (wanted,) = [one for one in faults(settings) if one["check"] == check and words in one["found"]]
    assert wanted["severity"] == severity
    assert way_out in wanted["advice"]


def gone(settings: Settings, words: str) -> None:
    """Assert that it does not name this."""
    assert not [one for one in faults(settings) if words in one["found"]]


@pytest.fixture
def settings(one_stack):
    """A stack that was in use."""
    with one_stack.cache(partitions=8) as cache:
        cache.open("k").append({"content": "a"})
        cache.flush()
    return one_stack.settings(partitions=8)


def test_a_bare_stack(settings):
    """The rest is told from this."""
    assert len(faults(settings)) == BARE


def test_eviction_of_everything(one_stack, settings):
    """`allkeys-lru`."""
    with one_stack.raw() as raw, configured(raw, maxmemory_policy="allkeys-lru"):
        named(settings, "redis", "error", "maxmemory-policy is allkeys-lru", "CONFIG SET maxmemory-policy volatile-lru")
        raw.config_set("maxmemory-policy", "volatile-lru")
        gone(settings, "maxmemory-policy")


def test_no_persistence(one_stack, settings):
    """No append-only file, and no snapshots either."""
    named(settings, "redis", "warning", "after a crash it knows nothing", "appendonly yes and appendfsync everysec")
    with one_stack.raw() as raw, configured(raw, appendonly="yes", appendfsync="everysec"):
        gone(settings, "append-only file")


def test_another_number_of_partitions(settings):
    """In either tier; it is told though every other command is refused."""
    other = replace(settings, partitions=16)
    assert "SESSIONCACHE_PARTITIONS=8" in run(other, "flush").err
    for where in ("Redis is", "The database is"):
        named(other, "layout", "error", f"{where} laid out for 8 partitions, not 16", "SESSIONCACHE_PARTITIONS=8")
    gone(settings, "laid out")


def set_up_as_first(url: str) -> None:
    """Set a database up as the first schema was."""
    engine = prepared(create_engine(url))
    with engine.begin() as connection, migrate.as_file(migrate.files("sessioncache") / "migrations") as folder:
        config = migrate._config(str(folder))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_old_schema(one_stack, tmp_path, request, kind):
    """That of the first version."""
    url = f"sqlite:///{tmp_path}/old.db" if kind == "sqlite" else request.getfixturevalue("empty_postgres")
    set_up_as_first(url)
    settings = replace(one_stack.settings(), database_url=url)
    named(settings, "database", "error", "Its schema is behind (0001", "Run sessioncache db upgrade.")
    assert run(settings, "db", "upgrade").status == 0
    gone(settings, "schema")


@contextmanager
def stopped(process):
    """A process stands still."""
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def test_workers_and_the_schedule(one_stack: Stack):
    """Nobody works; all is well; the schedule has stopped while workers go on; it goes on again."""
    quick = {"slice": 0.5, "retry_pause": 0.1, "database_timeout": 1.0, "sweep": 0.2}
    settings = one_stack.settings(partitions=8, lanes=1, **quick)
    with one_stack.raw() as raw, configured(raw, appendonly="yes", maxmemory="100mb"):
        named(settings, "workers", "warning", "No worker serves the queue", "Run sessioncache worker")
        named(settings, "workers", "warning", "Nobody runs the schedule", "Run sessioncache worker")
        with workers(settings, "--processes", "1") as supervisor:
            until(lambda: run(settings, "doctor").status == 0)
            assert faults(settings) == []
            with stopped(supervisor):
                until(lambda: run(settings, "doctor").status == UNHEALTHY)
                (fault,) = faults(settings)
                assert fault["found"].startswith("Workers run, but nobody runs the schedule")
                assert "restart" in fault["advice"]
            until(lambda: run(settings, "doctor").status == 0)


@pytest.mark.parametrize("apart", [5, -5])
def test_clocks_that_are_apart(postgres_stack, monkeypatch, apart):
    """By five seconds, of this host and either server."""
    settings = postgres_stack.settings()
    with postgres_stack.cache() as cache:
        cache.open("k")
    gone(settings, "clock")
    monkeypatch.setattr(store_checks, "time_now", lambda: datetime.now(UTC) + timedelta(seconds=apart))
    for whose in ("Redis", "the database"):
        named(settings, "clocks", "warning", f"The clock of {whose} and this host's are", "NTP")


def test_dead_letters(one_stack, settings):
    """The way out is the command that it names."""
    with one_stack.cache(partitions=8) as cache, one_stack.raw() as raw:
        keys = cache._state.keyspace.of("k")
        cache.get("k").append({"content": "b"})
        raw.lpush(keys.pending, "no op")
        cache.flush()
    named(settings, "backlog", "warning", "There are 1 dead letters", "sessioncache dead list")
    (letter,) = run(settings, "dead", "list", "--json").values
    assert letter["reason"] == "corrupt"
    assert run(settings, "dead", "drop", letter["id"], "--yes").status == 0
    gone(settings, "dead letters")


def test_a_lag_beyond_the_bound(one_stack, settings, monkeypatch):
    """Also where somebody has claimed the key, again and again, and could not do anything about it."""
    with one_stack.cache(partitions=8) as cache, one_stack.raw() as raw, monkeypatch.context() as patched:
        clock = Clock(patched, raw, datetime.now(UTC) - timedelta(seconds=100))
        session = cache.open("k")
        session.append({"content": "b"})
        raw.zadd(cache._state.keyspace.of("k").dirty, {"k": (time.time() + 30) * 1000})
        clock.forward(seconds=50)
        cache.open("young").append({"content": "b"})
    named(settings, "backlog", "warning", "2 session keys wait for SQL, the first of them for 1", "sessioncache flush")
    gone(replace(settings, ready_lag=1000.0), "wait for SQL")
    assert run(settings, "flush", "k").status == 0
    gone(settings, "wait for SQL")


def test_functions_that_are_missing_or_old(one_stack, settings):
    """Missing is worth knowing, another version is to be looked into; `functions load` mends both."""
    with one_stack.raw() as raw:
        try:
            (missing,) = [one for one in run(settings, "doctor", "--json").values if one["check"] == "functions"]
            assert (missing["severity"], missing["advice"]) == ("info", "Run sessioncache functions load.")
            raw.function_load(functions.TEXT + "-- of last year\n")
            named(settings, "functions", "warning", "of another version", "sessioncache functions load")
            assert run(settings, "functions", "load").status == 0
            gone(settings, "functions")
        finally:
            raw.function_flush()


def test_tiers_that_are_away(settings, tmp_path):
    """Status and advice, in time."""
    away = replace(settings, redis_url=f"unix://{tmp_path}/none.sock", redis_timeout=0.5, timeout=1.0)
    named(away, "redis", "error", "Redis did not answer", "Start Redis")
    away = replace(
        settings, database_url="postgresql://nobody:secret@/none?host=/nonexistent", redis_timeout=0.5, timeout=1.0
    )
    named(away, "database", "error", "database", "Start the database")
    assert "secret" not in run(away, "doctor").out


def test_it_asks_as_often_whatever_the_number_of_partitions(one_stack, proxy):
    """A bounded number of round trips."""
    counter, trips = proxy(one_stack.server.socket), []
    for partitions in (1, 64, 1000):
        before = counter.trips
        asked = replace(one_stack.settings(partitions=partitions, lanes=1), redis_url=counter.url)
        run(asked, "doctor")
        trips.append(counter.trips - before)
    assert max(trips[:2]) < 40, trips
    assert trips[2] < 100, trips  # of so many questions the last are sent after the first answers came
