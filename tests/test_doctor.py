"""Doctor: every finding is provoked on real servers, each check stands alone, and a healthy stack has nothing to mend."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import pytest
import redis
from rq import Queue
from rq.serializers import JSONSerializer
from servers import python
from sqlalchemy import create_engine, text

from sessioncache import AsyncSessionCache, Finding, SessionCache, UnsafeEviction, functions
from sessioncache.checks import queue as queue_checks
from sessioncache.checks import server as server_checks
from sessioncache.checks import store as store_checks
from sessioncache.config import Settings, as_environment
from sessioncache.connect import BlockingConnections

HOUR = timedelta(hours=1)
# The nodes of a cluster talk on a port that is higher by 10,000.
HIGHEST_CLUSTER_PORT = 55_535


def bad(found: list[Finding]) -> list[tuple[str, str]]:
    """Check and severity of what is to be looked into."""
    return sorted((one.check, one.severity) for one in found if one.severity in {"warning", "error"})


def one(found: list[Finding], words: str) -> Finding:
    """The finding that says this."""
    (wanted,) = [finding for finding in found if words in finding.found]
    assert wanted.found.endswith((".", ";"))
    assert wanted.severity == "ok" or wanted.advice.endswith(".") or wanted.severity == "info"
    return wanted


@contextmanager
def configured(raw, **changes):
    """A server with another configuration for a while."""
    names = {name.replace("_", "-"): value for name, value in changes.items()}
    before = {name: raw.config_get(name)[name] for name in names}
    try:
        for name, value in names.items():
            raw.config_set(name, value)
        yield
    finally:
        for name, value in before.items():
            raw.config_set(name, value)


@contextmanager
def serving(settings):
    """Workers and the schedule, as a process."""
    environment = {**os.environ, **as_environment(settings)}
    process = python("-m", "workers", "--log-level", "ERROR", "--processes", "1", env=environment)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def test_a_healthy_stack(one_stack):
    """With an append-only file, a bound on memory, workers and a schedule: nothing to look into."""
    settings = one_stack.settings(lanes=1, partitions=4)
    with (
        one_stack.raw() as raw,
        configured(raw, appendonly="yes", maxmemory="100mb"),
        SessionCache(settings=settings) as cache,
    ):
        cache.open("k").append({"content": "a"})
        raw.function_load(functions.TEXT)
        with serving(settings):
            until(lambda: not bad(cache.doctor()) and not raw.keys("sc:*:pending:*"))
            found = cache.doctor()
            with one_stack.cache(lanes=4, partitions=4) as other:
                assert one(other.doctor(), "1 workers serve 4 lanes").severity == "info"
        raw.function_flush()
        assert {finding.severity for finding in found} == {"ok"}
        checks = {finding.check for finding in found}
        assert checks == {"redis", "scripts", "keys", "backlog", "functions", "database", "layout", "clocks", "queue",
                          "workers"}  # fmt: skip
        json.dumps([asdict(finding) for finding in found])


def until(condition) -> None:
    """Wait for what is sure to come."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.1)


def test_either_door_finds_the_same(one_stack):
    """Nobody at work, no append-only file: to be expected of a bare stack; asyncio finds it too; nothing is written."""
    with one_stack.cache() as cache, one_stack.raw() as raw:
        cache.open("k")
        cache.flush()
        cache._connections.settle()  # the nudge goes out behind the call
        before = sorted(raw.keys("*"))
        blocking = cache.doctor()
        assert sorted(raw.keys("*")) == before

    async def awaiting() -> list[Finding]:
        async with AsyncSessionCache(settings=one_stack.settings()) as other:
            return await other.doctor()

    assert [(a.check, a.severity) for a in asyncio.run(awaiting())] == [(a.check, a.severity) for a in blocking]
    assert bad(blocking) == [("redis", "warning"), ("workers", "warning"), ("workers", "warning")]
    assert one(blocking, "no append-only file").advice
    assert "nothing" in one(blocking, "no append-only file").found
    assert one(blocking, "No worker serves").severity == "warning"
    assert one(blocking, "Nobody runs the schedule").severity == "warning"
    assert one(blocking, "no maxmemory").severity == "info"


def test_asyncio_is_not_held_up(one_stack, monkeypatch):
    """What blocks, RQ, is asked in a thread."""
    seen = []
    asked = queue_checks._info

    def slow(connection):
        seen.append(threading.current_thread() is threading.main_thread())
        return asked(connection)

    monkeypatch.setattr(queue_checks, "_info", slow)

    async def examine() -> None:
        async with AsyncSessionCache(settings=one_stack.settings()) as cache:
            await cache.doctor()

    asyncio.run(examine())
    assert seen == [False]


@pytest.mark.parametrize("allowed", [False, True])
def test_eviction_of_everything(one_stack, allowed):
    """An error, also where it is refused to start; a warning where it is allowed."""
    with one_stack.raw() as raw, configured(raw, maxmemory_policy="allkeys-lru"):
        with one_stack.cache(allow_eviction=allowed) as cache:
            if not allowed:
                with pytest.raises(UnsafeEviction):
                    cache.open("k")
            found = one(cache.doctor(), "may evict what only Redis knows")
        assert (found.check, found.severity) == ("redis", "warning" if allowed else "error")
        with configured(raw, maxmemory_policy="volatile-lru"), one_stack.cache() as cache:
            assert one(cache.doctor(), "volatile-lru, keeps").severity == "ok"


def test_the_queue_has_a_policy_of_its_own(one_stack, own_server):
    """RQ's jobs have no TTL either."""
    other = own_server(**{"maxmemory-policy": "allkeys-random"})
    with one_stack.cache(queue_url=other.url) as cache:
        found = one(cache.doctor(), "allkeys-random")
        assert (found.check, found.severity) == ("queue", "error")
        other.kill()
        gone = [finding for finding in cache.doctor() if finding.check == "queue"]
        assert [finding.severity for finding in gone] == ["error"]
        assert "queue_url" in gone[0].advice


def test_persistence(one_stack):
    """What each way of keeping things costs."""
    with one_stack.raw() as raw, one_stack.cache() as cache:
        with configured(raw, save="3600 1"):
            assert "the last snapshot" in one(cache.doctor(), "no append-only file").found
        for policy, severity in (("no", "warning"), ("always", "ok"), ("everysec", "ok")):
            with configured(raw, appendonly="yes", appendfsync=policy):
                assert one(cache.doctor(), f"appendfsync {policy}").severity == severity


def test_a_snapshot_that_failed(own_server, tmp_path):
    """Redis says so itself."""
    gone = tmp_path / "gone"
    gone.mkdir()
    server = own_server(dir=str(gone))
    gone.rmdir()
    with redis.Redis.from_url(server.url) as raw, cache_of(server, tmp_path) as cache:
        raw.set("a", "b")
        raw.bgsave()
        until(lambda: raw.info("persistence")["rdb_last_bgsave_status"] != "ok")
        assert one(cache.doctor(), "The last write of its snapshot failed").severity == "error"


def cache_of(server, tmp_path, **changes) -> SessionCache:
    """A cache over a server and an SQLite file."""
    settings = {"redis_url": server.url, "database_url": f"sqlite:///{tmp_path}/store.db", **changes}
    return SessionCache(settings=Settings(**settings))


def test_nearly_full(one_stack):
    """Before appends are refused."""
    with one_stack.raw() as raw, one_stack.cache() as cache:
        cache.open("k")
        with configured(raw, maxmemory=str(raw.info()["used_memory"])):
            assert one(cache.doctor(), "of maxmemory").severity == "warning"


def test_a_replica(own_server, tmp_path):
    """It takes no writes; the queue's is told of too."""
    primary = own_server()
    replica = own_server()
    port = free_port()
    with redis.Redis.from_url(primary.url) as raw:
        raw.config_set("port", port)
    with redis.Redis.from_url(replica.url) as raw:
        raw.replicaof("127.0.0.1", port)
    with cache_of(replica, tmp_path) as cache:
        found = cache.doctor()
        assert one(found, "leads to a replica").severity == "error"
        assert one(found, "takes no jobs").severity == "error"


def free_port() -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            if (port := probe.getsockname()[1]) <= HIGHEST_CLUSTER_PORT:
                return port


def test_a_cluster(own_server, tmp_path):
    """A client for one server can use it in part."""
    server = own_server(**{"cluster-enabled": "yes", "port": str(free_port())})
    with cache_of(server, tmp_path) as cache:
        assert one(cache.doctor(), "runs as a cluster").severity == "warning"


def test_an_old_server():
    """6.2 is the oldest Redis; a Valkey has its own numbers."""
    for product, version, old in [
        ("redis", "6.0.16", True), ("redis", "5.0", True), ("redis", "6.2.0", False), ("redis", "10.0", False),
        ("valkey", "7.2.5", False), ("valkey", "9.1.2", False), ("redis", "", True),
    ]:  # fmt: skip
        assert server_checks.is_too_old(product, version) == old, version


ACL = {
    "evalsha": ("-evalsha", "scripts"),
    "info": ("-info", "redis"),
    "time": ("-time", "scripts"),
    "config": ("-config", None),
    "other keys": ("resetkeys ~other:*", "scripts"),
}


@pytest.mark.parametrize("case", ACL)
def test_what_a_user_may_not_do(own_server, tmp_path, case):
    """Each missing right is told of, where it is missed; without CONFIG all works."""
    rules, check = ACL[case]
    server = own_server(appendonly="yes")
    with redis.Redis.from_url(server.url) as raw:
        raw.execute_command("ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", *rules.split())
    settings = Settings(
        redis_url=f"{server.url}?username=app&password=secret", database_url=f"sqlite:///{tmp_path}/store.db"
    )
    with SessionCache(settings=settings) as cache:
        found = cache.doctor()
    assert "secret" not in str(found)
    if check is None:
        assert one(found, "this user may not ask").severity == "info"
        assert not [finding for finding in found if finding.severity == "error"]
    else:
        assert (check, "error") in bad(found)
        assert one(found, "SQLite 3").severity == "ok"


@pytest.mark.parametrize("kind", sorted(server_checks.TYPES))
def test_keys_of_wrong_types(one_stack, kind):
    """Named, with what to do."""
    with one_stack.cache(partitions=4, lanes=1) as cache, one_stack.raw() as raw:
        cache.open("k")
        cache.flush()
        raw.delete(name := f"sc:{{003}}:{kind}")
        raw.pfadd(name, "a") if server_checks.TYPES[kind] != "string" else raw.rpush(name, "a")
        found = one(cache.doctor(), f"{name} is of type {raw.type(name).decode()}")
        assert (found.check, found.severity) == ("keys", "error")


def test_a_backlog_and_dead_letters(one_stack):
    """What has been due for long, and what was set aside."""
    with one_stack.cache() as cache, one_stack.raw() as raw:
        cache.open("k").append({"content": "a"})
        keys = cache._state.keyspace.of("k")
        assert one(cache.doctor(), "none for long").severity == "ok"
        raw.zadd(keys.dirty, {"k": (time.time() - 120) * 1000})
        raw.rpush(keys.dead, b"5 22001 k\nx")
        found = cache.doctor()
        assert one(found, "1 session keys wait for SQL").severity == "warning"
        assert one(found, "There are 1 dead letters").severity == "warning"


def test_layouts(some_stack):
    """Each tier that was made for another number of partitions, though the cache refuses to start."""
    with some_stack.cache(partitions=8) as cache:
        assert one(cache.doctor(), "Redis has no layout recorded yet").severity == "info"
        cache.open("k")
    with some_stack.cache(partitions=16) as cache:
        found = cache.doctor()
        assert {finding.severity for finding in found if finding.check == "layout"} == {"error"}
        assert "SESSIONCACHE_PARTITIONS=8" in one(found, "Redis is laid out for 8 partitions, not 16").advice
        assert "SESSIONCACHE_PARTITIONS=8" in one(found, "The database is laid out for 8").advice
    with some_stack.raw() as raw, some_stack.cache(partitions=8) as cache:
        raw.hset("sc:{000}:layout", "partitions", "many")
        assert one(cache.doctor(), "cannot be read").severity == "error"


def damaged(url: str, statement: str) -> None:
    """Do something to a database."""
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


@pytest.mark.parametrize(("version", "says"), [("0001", "behind"), ("9999", "ahead")])
def test_another_schema(some_stack, version, says):
    """Behind or ahead of this package."""
    with some_stack.cache() as cache:
        cache.open("k")
        damaged(some_stack.database_url, f"UPDATE sessioncache_version SET version_num = '{version}'")
        assert one(cache.doctor(), f"Its schema is {says}").severity == "error"


def test_a_database_without_a_schema(one_stack, empty_postgres, tmp_path):
    """PostgreSQL wants `db upgrade`; an empty SQLite file is set up by the first call, not by this."""
    settings = replace(one_stack.settings(), database_url=empty_postgres)
    with SessionCache(settings=settings) as cache:
        found = one(cache.doctor(), "no sessioncache schema")
        assert (found.severity, found.advice) == ("error", "Run sessioncache db upgrade.")
    with SessionCache(settings=replace(one_stack.settings(), database_url=f"sqlite:///{tmp_path}/new.db")) as cache:
        assert one(cache.doctor(), "no schema yet").severity == "info"
        assert one(cache.doctor(), "no schema yet").severity == "info"


def test_a_database_that_takes_no_writes(some_stack):
    """Read-only, or a user without rights: seen without writing."""
    with some_stack.cache() as cache:
        cache.open("k")
        cache.flush()
        assert one(cache.doctor(), "It can be written to").severity == "ok"
    if "postgres" in some_stack.name:
        url = some_stack.database_url + "&options=-c%20default_transaction_read_only%3Don"
    else:
        path = some_stack.database_url.removeprefix("sqlite:///")
        url = f"sqlite:///file:{path}?mode=ro&uri=true"
    with SessionCache(settings=replace(some_stack.settings(), database_url=url)) as cache:
        assert one(cache.doctor(), "It cannot be written to").severity == "error"


def test_tiers_that_are_away(own_server, tmp_path):
    """Each is one finding that says what to start; whatever can be asked is asked all the same."""
    server = own_server()
    url = "postgresql://nobody:secret@/none?host=/nonexistent"
    with cache_of(server, tmp_path, database_url=url, redis_timeout=0.5, timeout=1.0) as cache:
        found = cache.doctor()
        assert [finding.severity for finding in found if finding.check == "database"] == ["error"]
        assert one(found, "Scripts run").severity == "ok"
        assert "secret" not in str(found)
        server.kill()
        found = cache.doctor()
        assert bad(found) == [("database", "error"), ("queue", "error"), ("redis", "error")]
    with cache_of(server, tmp_path, redis_timeout=0.5, timeout=1.0) as cache:
        found = cache.doctor()
        assert bad(found) == [("queue", "error"), ("redis", "error")]
        assert one(found, "SQLite 3").severity == "ok"


@pytest.mark.parametrize(("apart", "severity"), [(timedelta(seconds=30), "warning"), (-HOUR, "error")])
def test_clocks(some_stack, monkeypatch, apart, severity):
    """This host's against those of the servers; SQLite has none of its own."""
    monkeypatch.setattr(store_checks, "time_now", lambda: datetime.now(UTC) + apart)
    with some_stack.cache() as cache:
        found = [finding for finding in cache.doctor() if finding.check == "clocks"]
    assert {finding.severity for finding in found} == {severity}
    assert len(found) == (2 if "postgres" in some_stack.name else 1)


def test_a_queue_that_nobody_empties(one_stack):
    """Many jobs wait: somebody else's, or nobody works."""
    with one_stack.cache(queue="full") as cache, one_stack.raw() as raw:
        raw.rpush(Queue("full", connection=raw, serializer=JSONSerializer).key, *["x"] * 101)
        assert one(cache.doctor(), "101 jobs wait").severity == "warning"


def test_clients_handed_in_without_a_queue(one_stack):
    """There is no queue to look at, and that is said."""
    engine = create_engine(one_stack.database_url)
    with one_stack.raw() as raw, SessionCache(raw, engine) as cache:
        found = cache.doctor()
    engine.dispose()
    assert [finding.severity for finding in found if finding.check in {"queue", "workers"}] == ["info"]


def test_nothing_that_is_asked_stops_the_rest(one_stack, monkeypatch):
    """A check that is refused is its own finding."""
    with one_stack.cache() as cache:
        connections: BlockingConnections = cache._connections
        assert len(connections.doctor()) > 9
        monkeypatch.setattr(
            store_checks, "write_nothing", lambda connection: connection.exec_driver_sql("SELECT * FROM none")
        )
        cache.open("k")
        found = cache.doctor()
        assert one(found, "It cannot be written to").severity == "error"
        assert [finding.severity for finding in found if finding.check == "layout"] == ["ok", "ok"]


def test_what_was_not_foreseen(one_stack, caplog):
    """Garbage where RQ keeps its workers is a finding too."""
    with one_stack.cache() as cache, one_stack.raw() as raw:
        raw.sadd("rq:workers:sessioncache", "rq:worker:x")
        raw.hset("rq:worker:x", mapping={"last_heartbeat": "yesterday", "birth": "x"})
        found = cache.doctor()
    assert one(found, "What RQ keeps").check == "workers"
    assert one(found, "Scripts run").severity == "ok"
