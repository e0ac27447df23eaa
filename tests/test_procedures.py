"""What the runbook says of moving, restoring and erasing, done as it stands there, while servers write: nothing is lost."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import redis
from conftest import binary_of, missing
from proxy import Proxy
from servers import PostgresServer, RedisServer, free_port
from sqlalchemy import Engine, create_engine, event, text
from test_runbook import lines
from test_workers import until

from sessioncache import HotTierFull, HotTierUnavailable, HydrationTimeout, SessionCache, StoreUnavailable
from sessioncache.config import Settings, as_environment

KEYS = [f"telegram:dm:{n}" for n in range(8)]
AGAIN = (HotTierFull, HotTierUnavailable, HydrationTimeout, StoreUnavailable)
pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]


def typed(beginning: str) -> str:
    """The one line of the page that begins so."""
    found = {line for line in lines() if line.startswith(beginning)}
    if beginning in found:
        return beginning
    assert len(found) == 1, (beginning, found)
    return found.pop()


class Machine:
    """Runs lines of the page with bash, in a directory of its own: `redis-cli` asks the server of the name after ``-h``."""

    def __init__(self, directory: Path, settings: Settings, **named: RedisServer) -> None:
        self.directory, self.settings = directory, settings
        self.named = named
        self.words = {"/backup": str(directory / "backup")}
        self.path = [str(directory / "bin"), str(Path(sys.executable).parent)]
        self.environment: dict[str, str] = {}
        (directory / "backup").mkdir()
        (directory / "bin").mkdir()
        client = shutil.which("redis-cli") or missing("redis-cli")
        cases = "".join(f"{name}) at={server.socket};;\n" for name, server in named.items())
        first = next(iter(named.values())).socket
        script = f'#!/bin/sh\nat={first}\nif [ "$1" = -h ]; then\ncase "$2" in\n{cases}esac\nshift 2\nfi\n'
        self._program("redis-cli", script + f'exec {client} -e -s "$at" "$@"\n')

    def _program(self, name: str, body: str) -> None:
        script = self.directory / "bin" / name
        script.write_text(body)
        script.chmod(0o755)

    def run(self, line: str) -> str:
        """What it prints; it has to succeed."""
        for word, value in self.words.items():
            line = line.replace(word, value)
        path = ":".join([*self.path, os.environ["PATH"]])
        environment = {**os.environ, **as_environment(self.settings), **self.environment, "PATH": path}
        done = subprocess.run(
            ["bash", "-c", line],
            env=environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        return done.stdout


class Writers:
    """Servers that append, each to a key of its own, and make a call again that was not acknowledged."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.acknowledged: dict[str, list[str]] = {key: [] for key in KEYS}
        self.refused = 0
        self.wrong: list[BaseException] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(key,)) for key in KEYS]

    def _work(self, key: str) -> None:
        try:
            with SessionCache(settings=self.settings) as cache:
                number = 0
                while not self._over.is_set():
                    if self._appended(cache, key, str(number)):
                        self.acknowledged[key].append(str(number))
                        number += 1
                    time.sleep(0.02)
        except Exception as error:  # noqa: BLE001 - told of by `ended`
            self.wrong.append(error)

    def _appended(self, cache: SessionCache, key: str, word: str) -> bool:
        try:
            cache.open(key).append({"role": "user", "content": word}, id=f"{key}-{word}")
        except AGAIN:
            self.refused += 1
            return False
        return True

    def so_far(self) -> dict[str, list[str]]:
        return {key: list(words) for key, words in self.acknowledged.items()}

    def wrote_on(self, by: int = 5) -> None:
        """Wait until each has appended some more."""
        before = self.so_far()
        until(lambda: self.wrong or all(len(self.acknowledged[key]) >= len(before[key]) + by for key in KEYS))

    @contextmanager
    def writing(self) -> Iterator[Writers]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join(60)
        assert self.wrong == []


def histories(settings: Settings) -> dict[str, list[str]]:
    """As a server reads them that has read nothing yet."""
    with SessionCache(settings=settings) as cache:
        return {key: [one["content"] for one in cache.open(key).history()] for key in KEYS}


def stored(settings: Settings) -> dict[str, list[str]]:
    """What SQL has, in order."""
    engine = create_engine(settings.database_url.replace("postgresql:", "postgresql+psycopg:"))
    found: dict[str, list[str]] = {key: [] for key in KEYS}
    with engine.connect() as connection:
        asked = "SELECT session_key, text FROM messages JOIN sessions USING (session_id) ORDER BY session_key, seq"
        for key, words in connection.execute(text(asked)):
            found[key].append(words)
    engine.dispose()
    return found


@contextmanager
def draining(settings: Settings) -> Iterator[None]:
    """Somebody drains all the time, as workers do."""
    over = threading.Event()

    def drain() -> None:
        with SessionCache(settings=settings) as cache:
            while not over.wait(0.05):
                try:
                    cache.flush(timeout=1)
                except AGAIN:
                    continue

    thread = threading.Thread(target=drain)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)


def settings_of(redis_url: str, database_url: str) -> Settings:
    return Settings(
        redis_url=redis_url, database_url=database_url, queue_url="redis://127.0.0.1:1/0", partitions=4, lanes=1,
        redis_timeout=1.0, timeout=2.0,
    )  # fmt: skip


@pytest.fixture
def server() -> Iterator[Callable[..., RedisServer]]:
    """Redis servers with an append-only file, as in production."""
    started: list[RedisServer] = []

    def start(kind: str = "valkey9", **options: str) -> RedisServer:
        started.append(RedisServer(binary_of(kind), **{"appendonly": "yes", **options}).start())
        return started[-1]

    yield start
    for one in started:
        one.close()


# Moving to another Redis.


def test_move_by_flush_and_an_empty_start(server, tmp_path):
    """Writers are refused for a moment, then go on at the new one: every acknowledged message is there, once, in order."""
    old, new = server(), server()
    with closing(Proxy(old.socket)) as name:
        settings = settings_of(name.url, f"sqlite:///{tmp_path}/store.db")
        machine = Machine(tmp_path, settings, OLD=old, NEW=new)
        writers = Writers(settings)
        with draining(settings), writers.writing():
            writers.wrote_on()
            assert "used_memory_human" in machine.run(typed("redis-cli -h OLD INFO memory"))
            machine.run(typed("redis-cli -h OLD CONFIG SET maxmemory-policy"))
            machine.run(typed("redis-cli -h OLD CONFIG SET maxmemory 1"))
            until(lambda: writers.refused)
            machine.run(typed("sessioncache flush"))
            assert re.search(r"pending +0\n", machine.run(typed("sessioncache stats")))
            before = writers.so_far()
            assert stored(settings) == before, "what was acknowledged until now is in SQL"
            name.target = new.socket
            machine.run(typed("redis-cli -h OLD CLIENT KILL TYPE normal"))
            writers.wrote_on()
        assert histories(settings) == writers.acknowledged
        with SessionCache(settings=settings) as cache:
            assert cache.flush().left == 0
            assert [one for one in cache.doctor() if one.severity == "error" and one.check != "queue"] == []
        assert stored(settings) == writers.acknowledged
        assert not machine.run("redis-cli -h OLD --scan --pattern 'sc:*:pending:*'")


def test_move_by_a_replica(server, tmp_path):
    """The replica takes over with what waits for SQL: nothing was drained before, and nothing is lost."""
    old, new = (server("redis7", port=str(free_port())) for _ in range(2))
    with closing(Proxy(old.socket)) as name:
        settings = settings_of(name.url, f"sqlite:///{tmp_path}/store.db")
        machine = Machine(tmp_path, settings, OLD=old, NEW=new)
        for server_, word in ((old, "OLD"), (new, "NEW")):
            machine.words[f"{word} 6379"] = f"127.0.0.1 {server_.options['port']}"
        writers = Writers(settings)
        with writers.writing():
            writers.wrote_on()
            machine.run(typed("redis-cli -h NEW REPLICAOF OLD"))
            up = typed("redis-cli -h NEW INFO replication")
            until(lambda: "master_link_status:up" in machine.run(up))
            writers.wrote_on()
            assert not any(stored(settings).values())
            machine.run(typed("redis-cli -h OLD FAILOVER TO NEW"))
            until(lambda: "role:master" in machine.run("redis-cli -h NEW INFO replication"))
            name.target = new.socket
            machine.run("redis-cli -h OLD CLIENT KILL TYPE normal")
            writers.wrote_on()
        assert histories(settings) == writers.acknowledged
        with SessionCache(settings=settings) as cache:
            assert cache.flush().left == 0
        assert stored(settings) == writers.acknowledged


# Backup and restore.


@pytest.fixture
def postgres(own_postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A PostgreSQL with a database of the name on the page."""
    own_postgres._execute(f"CREATE DATABASE sessioncache TEMPLATE {own_postgres.TEMPLATE}")
    yield own_postgres
    own_postgres._execute("DROP DATABASE IF EXISTS sessioncache WITH (FORCE)")


class Store:
    """SQL as the page knows it: how it is saved, lost, and restored."""

    def __init__(self, kind: str, directory: Path, request: pytest.FixtureRequest) -> None:
        self.kind, self.directory = kind, directory
        if kind == "sqlite":
            shutil.which("sqlite3") or missing("sqlite3")
            self.url = f"sqlite:///{directory}/sessioncache.db"
        else:
            self.server: PostgresServer = request.getfixturevalue("postgres")
            self.url = self.server.url("sessioncache")

    def prepare(self, machine: Machine) -> None:
        if self.kind == "postgres":
            machine.path.insert(0, str(self.server.binaries))
            machine.environment = {"PGHOST": str(self.server.directory), "PGUSER": "postgres", "PGDATABASE": "sessioncache"}

    def save(self, machine: Machine) -> None:
        machine.run(typed('sqlite3 sessioncache.db ".backup' if self.kind == "sqlite" else "pg_dump"))

    @contextmanager
    def slow_to_forget(self, cache: SessionCache) -> Iterator[None]:
        """As an SQLite that was built to leave deleted rows, and words that nobody has any more, where they are."""
        if self.kind == "postgres":
            yield
            return

        def keep(connection: sqlite3.Connection, _: object) -> None:
            connection.execute("PRAGMA secure_delete = OFF")

        event.listen(Engine, "connect", keep)
        cache.count()  # sets it up
        with closing(sqlite3.connect(self.directory / "sessioncache.db")) as connection:
            for table in ("messages_search", "sessions_search"):
                connection.execute(f"INSERT INTO {table}({table}, rank) VALUES('automerge', 0)")
            connection.commit()
        try:
            yield
        finally:
            event.remove(Engine, "connect", keep)

    def purge(self, machine: Machine) -> None:
        """Rid its files of what was deleted."""
        if self.kind == "postgres":
            machine.run(typed('psql -c "VACUUM'))
            return
        for table in ("messages_search", "sessions_search"):
            machine.run(typed('sqlite3 sessioncache.db "INSERT INTO ' + table))
        machine.run(typed('sqlite3 sessioncache.db "VACUUM"'))

    def files(self) -> list[Path]:
        """Where its tables are on disk, as of now."""
        if self.kind == "sqlite":
            return [*self.directory.glob("sessioncache.db*")]
        self.server._execute("CHECKPOINT")
        return [*(self.server.data / "base").rglob("*")]

    def restore(self, machine: Machine) -> None:
        """After everything is gone."""
        if self.kind == "sqlite":
            machine.run(typed("rm -f sessioncache.db"))
        else:
            self.server._execute("DROP DATABASE sessioncache WITH (FORCE)")
            self.server._execute("CREATE DATABASE sessioncache")
            machine.run(typed("pg_restore"))


def save_redis(machine: Machine, how: str) -> None:
    if how == "rdb":
        machine.run(typed("redis-cli --rdb"))
        return
    machine.run(typed("redis-cli CONFIG SET auto-aof-rewrite-percentage 0"))
    until(lambda: "aof_rewrite_in_progress:0" in machine.run(typed("redis-cli INFO persistence | grep aof_rewrite_in_")))
    machine.run(typed("cp -r /data/appendonlydir"))
    machine.run(typed("redis-cli CONFIG SET auto-aof-rewrite-percentage 100"))


def restore_redis(machine: Machine, server: RedisServer, how: str) -> None:
    """Into an empty directory, as the page says; then it is restarted as it always runs."""
    server.kill()
    for path in server.directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    backup = machine.directory / "backup"
    if how == "aof":
        shutil.copytree(backup / "appendonlydir", server.directory / "appendonlydir")
    else:
        shutil.copy(backup / "dump.rdb", server.directory / "dump.rdb")
        server.options["appendonly"] = "no"
        server.start()
        machine.run(typed("redis-cli CONFIG SET appendonly yes"))
        done = {"aof_rewrite_in_progress:0", "aof_last_bgrewrite_status:ok"}
        status = typed("redis-cli INFO persistence | grep -E '^(aof_rewrite_in")
        until(lambda: set(machine.run(status).split()) == done)
        server.options["appendonly"] = "yes"
        server.kill()
    server.start()


@pytest.mark.parametrize(
    ("how", "kind", "hot"), [("rdb", "sqlite", "valkey9"), ("aof", "postgres", "redis7")], ids=lambda one: one
)
def test_backup_and_restore_of_both(how, kind, hot, server, tmp_path, request):
    """Taken while servers write and workers drain; all that was acknowledged before is there, once, in order."""
    one, store = server(hot), Store(kind, tmp_path, request)
    settings = settings_of(one.url, store.url)
    machine = Machine(tmp_path, settings, OLD=one)
    machine.words["/data"] = str(one.directory)
    store.prepare(machine)
    writers = Writers(settings)
    with writers.writing():
        with draining(settings):
            writers.wrote_on()
        writers.wrote_on()
        before = writers.so_far()
        save_redis(machine, how)
        with draining(settings):
            until(lambda: all(len(words) > len(before[key]) for key, words in stored(settings).items()))
            store.save(machine)
    store.restore(machine)
    restore_redis(machine, one, how)
    with SessionCache(settings=settings) as cache:
        assert cache.stats().pending > 0
        assert [found for found in cache.doctor() if found.severity == "error" and found.check != "queue"] == []
        machine.run(typed("sessioncache flush"))
        assert cache.stats().pending == 0
        assert cache.dead_letters() == []
    found = stored(settings)
    assert histories(settings) == found
    for key in KEYS:
        assert found[key][: len(before[key])] == before[key]
        assert found[key] == writers.acknowledged[key][: len(found[key])]


def test_restore_of_sql_alone(server, tmp_path, request):
    """An older SQL under a Redis that lives on: all servers see what SQL has, with what waits on top."""
    one, store = server(), Store("sqlite", tmp_path, request)
    settings = settings_of(one.url, store.url)
    machine = Machine(tmp_path, settings, OLD=one)
    with SessionCache(settings=settings) as cache:
        sessions = [cache.open(key) for key in KEYS]

        def append(word: str) -> None:
            for session in sessions:
                session.append({"role": "user", "content": word})

        append("saved")
        cache.flush()
        store.save(machine)
        append("drained later")
        late = cache.open("late")
        late.append({"role": "user", "content": "begun later"})
        cache.flush()
        append("waiting")
        late.append({"role": "user", "content": "of no session"})
    store.restore(machine)
    machine.run(typed("redis-cli --scan --pattern 'sc:*:meta:*'"))
    machine.run(typed("sessioncache flush"))
    assert histories(settings) == {key: ["saved", "waiting"] for key in KEYS}
    with SessionCache(settings=settings) as cache:
        assert [letter.reason for letter in cache.dead_letters()] == ["session_missing"]


# A leak of keys, and damage.


def test_a_log_that_no_index_names(server, tmp_path):
    """A dirty index was moved away: its log is drained by key. A hot copy that was made persistent goes with `evict`."""
    one = server()
    settings = settings_of(one.url, f"sqlite:///{tmp_path}/store.db")
    machine = Machine(tmp_path, settings, OLD=one)
    with SessionCache(settings=settings) as cache, redis.Redis.from_url(one.url) as raw:
        cache.open("telegram:dm:42").append({"role": "user", "content": "hello"})
        (dirty,) = raw.scan_iter("sc:*:dirty")
        machine.run(typed("redis-cli RENAME").replace("sc:{020}:dirty", dirty.decode()))
        machine.run("sessioncache flush")
        assert cache.stats().messages == 0
        machine.run(typed("sessioncache flush KEY").replace("KEY", "telegram:dm:42"))
        assert cache.stats().messages == 1
        assert not list(raw.scan_iter("sc:*:pending:*"))
        (meta,) = raw.scan_iter("sc:*:meta:*")
        raw.persist(meta)
        machine.run("sessioncache evict telegram:dm:42")
        assert not list(raw.scan_iter("sc:*:telegram:dm:42"))


# Erasing.


PEOPLE = ("alice", "bob", "carol")


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_erase_a_person(kind, server, tmp_path, request):
    """By owner or by key: the files of both tiers, as they lie on disk, have none of the words; others keep theirs."""
    one, store = server(), Store(kind, tmp_path, request)
    settings = settings_of(one.url, store.url)
    machine = Machine(tmp_path, settings, OLD=one)
    store.prepare(machine)
    with SessionCache(settings=settings) as cache, store.slow_to_forget(cache):
        for owner in PEOPLE:
            speak(cache, owner)
        assert words_on_disk(store, one) == set(PEOPLE)
        cache.delete_owner("alice")
        for number in range(3):
            assert cache.delete(f"carol:{number}")
        cache.flush()
        assert cache.list(owner="alice", ended=True).sessions == []
    machine.run(typed("redis-cli BGREWRITEAOF"))
    until(lambda: "aof_rewrite_in_progress:0" in machine.run("redis-cli INFO persistence"))
    store.purge(machine)
    until(lambda: words_on_disk(store, one) == {"bob"}, 20)
    with SessionCache(settings=settings) as cache:
        assert len(cache.get("bob:0").history()) == 21
        assert len(cache.search("xyzzybob", owner="bob")) > 0


def speak(cache: SessionCache, owner: str) -> None:
    """Some sessions of an owner: drained, but for what was said last."""
    for number in range(3):
        session = cache.open(f"{owner}:{number}", owner=owner, title=f"xyzzy{owner} {number}")
        session.append([{"role": "user", "content": f"xyzzy{owner} says {n}"} for n in range(20)])
    cache.flush()
    cache.get(f"{owner}:0").append({"role": "user", "content": f"xyzzy{owner} again"})


def words_on_disk(store: Store, server: RedisServer) -> set[str]:
    """Whose words stand in any file of the store or of Redis."""
    found = b"".join(path.read_bytes().lower() for path in [*store.files(), *server.directory.rglob("*")] if path.is_file())
    return {owner for owner in PEOPLE if f"xyzzy{owner}".encode() in found}
