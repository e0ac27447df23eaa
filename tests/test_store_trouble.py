"""The store is down, slow, full, read-only, or loses connections: nothing is lost, refused or told that is not so.

Each trouble is real. While it lasts appends go on, what needs SQL is `StoreUnavailable` within the configured time, and no
op becomes a dead letter; when it is over, the same processes drain what waited, once, in order.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

import psycopg
import pytest
from conftest import Stack
from contract import contents, said
from doors import DOORS, opener
from servers import free_port
from sqlalchemy import NullPool, create_engine, event, make_url, text
from sqlalchemy.engine.base import RootTransaction
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import OperationalError as DBOperationalError
from test_workers import until, worker_pids, workers

from sessioncache import Backpressure, SessionCache, StoreRefused, StoreUnavailable, write_behind
from sessioncache.borders import reason_of, translate
from sessioncache.commit import Drained
from sessioncache.flow import Evaluate, Pause, Transact

KEY, OTHER, COLD = "telegram:dm:42", "telegram:dm:43", "telegram:dm:44"
SECRET = "correct-horse"
FEW = {"partitions": 4, "lanes": 1}
LIMIT = 1.0
# How much longer than the configured time a call may take on a machine that is busy with other things.
SLACK = 10.0


@contextmanager
def unavailable(within: float = LIMIT) -> Iterator[pytest.ExceptionInfo]:
    """What is called in it raises `StoreUnavailable` in time, with its cause, and tells no secret."""
    start = time.monotonic()
    with pytest.raises(StoreUnavailable, match="database") as refused:
        yield refused
    assert time.monotonic() - start < within + SLACK
    assert isinstance(refused.value.__cause__, DBAPIError)
    assert SECRET not in f"{refused.value} {refused.value.__cause__!r}"


def balanced(cache, expected: dict[str, list[str]]) -> None:
    """Nothing waits or was set aside, and Redis, SQL and what is brought back from it say the same."""
    stats = cache.stats()
    assert (stats.pending, stats.dirty, stats.dead) == (0, 0, 0)
    assert {key: contents(cache.get(key).history()) for key in expected} == expected
    for key in expected:
        cache.evict(key)
    assert {key: contents(cache.get(key).history()) for key in expected} == expected
    assert stats.messages == sum(map(len, expected.values()))


class Database:
    """A PostgreSQL database, as its administrator sees it; the cache has a role of its own in it, which has no rights."""

    def __init__(self, stack: Stack) -> None:
        self.role = f"app_{os.getpid()}_{stack.database_url.partition('?')[0].rpartition('_')[2]}"
        self.url = stack.database_url
        self.stack = replace(stack, database_url=self.url.replace("postgres@", f"{self.role}:{SECRET}@"))
        self.engine = create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)

    def __enter__(self) -> Self:
        self.ask(f"CREATE ROLE {self.role} LOGIN", f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {self.role}")
        return self

    def __exit__(self, *_: object) -> None:
        self.drop_connections()
        self.ask(f"DROP OWNED BY {self.role}", f"DROP ROLE {self.role}")

    def ask(self, *statements: str) -> list:
        with self.engine.connect() as connection:
            found = [connection.execute(text(one)) for one in statements][-1]
            return list(found) if found.returns_rows else []

    def drop_connections(self) -> None:
        """End every connection of the role, as a pooler or an administrator does."""
        self.ask(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{self.role}'")
        until(lambda: not self.ask(f"SELECT pid FROM pg_stat_activity WHERE usename = '{self.role}'"))

    @contextmanager
    def transaction(self) -> Iterator[Callable[[str], object]]:
        """Another session, in a transaction that comes to nothing."""
        with self.engine.connect().execution_options(isolation_level="READ COMMITTED") as other, other.begin() as begun:
            yield lambda statement: other.execute(text(statement))
            begun.rollback()

    def on_insert(self, body: str) -> None:
        """A trigger on the messages that come."""
        self.ask(
            f"CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$",
            "CREATE TRIGGER meddle BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION meddle()",
        )

    def mend(self) -> None:
        """No trigger any more."""
        self.ask("DROP FUNCTION IF EXISTS meddle CASCADE")


@pytest.fixture
def database(postgres_stack) -> Iterator[Database]:
    with Database(postgres_stack) as one:
        yield one
        one.engine.dispose()


@contextmanager
def locked(database):
    with database.transaction() as ask:
        ask("SELECT * FROM routes FOR UPDATE")
        yield


@contextmanager
def sleeping(database):
    database.on_insert("PERFORM pg_sleep(60);")
    yield
    database.mend()


@contextmanager
def read_only(database):
    """Connections that were made meanwhile stay read-only afterwards."""
    database.ask(f"ALTER ROLE {database.role} SET default_transaction_read_only = on")
    database.drop_connections()
    yield
    database.ask(f"ALTER ROLE {database.role} RESET default_transaction_read_only")


@contextmanager
def forbidden(database):
    database.ask(f"REVOKE INSERT ON messages FROM {database.role}")
    yield
    database.ask(f"GRANT INSERT ON messages TO {database.role}")


@contextmanager
def too_many_connections(database):
    database.ask(f"ALTER ROLE {database.role} CONNECTION LIMIT 0")
    database.drop_connections()
    yield
    database.ask(f"ALTER ROLE {database.role} CONNECTION LIMIT -1")


# What they are told as; a statement and a lock may take equally long.
TROUBLES = {
    locked: {"55P03", "57014"}, sleeping: {"57014"}, read_only: {"25006"}, forbidden: {"42501"},
    too_many_connections: {"53300"},
}  # fmt: skip


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.__name__)
def test_postgresql_is_in_trouble(database, trouble):
    """It is told within the time that is set; work waits in order, and goes on over the same connections' pool."""
    with opener(database.stack, "blocking", **FEW, database_timeout=LIMIT) as door:
        cache = door()
        session, other = cache.open(KEY), cache.open(OTHER)
        session.append(said("a"))
        other.append(said("x"))
        cache.flush()
        session.append(said("b"))
        with trouble(database):
            with unavailable() as refused:
                cache.flush()
            assert any(f"({reason})" in str(refused.value) for reason in TROUBLES[trouble])
            session.append(said("c", "d"))
            other.append(said("y"))
            assert contents(session.history()) == ["a", "b", "c", "d"]
            assert (cache.stats().pending, cache.stats().dead) == (4, 0)
        assert cache.flush(timeout=SLACK).left == 0  # a connection may be left that only reads, which is found when writing
        balanced(cache, {KEY: ["a", "b", "c", "d"], OTHER: ["x", "y"]})


def test_a_deadlock(database):
    """PostgreSQL ends our transaction; the next one applies everything."""
    database.ask("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = 2000', current_database()); END $$")
    first, second = sorted([KEY, OTHER])
    with opener(database.stack, "blocking", **FEW) as door:
        cache = door()
        for key in (first, second):
            cache.open(key).append(said("a"))
        cache.flush()
        for key in (first, second):
            cache.open(key).append(said("b"))
        told: list[Exception] = []
        with database.transaction() as ask:
            ask("SET LOCAL deadlock_timeout = '60s'")
            ask(f"SELECT * FROM routes WHERE session_key = '{second}' FOR UPDATE")

            def flush() -> None:
                try:
                    keys = [cache._state.keyspace.of(key) for key in (first, second)]
                    cache._run(write_behind.drain_to_end(cache._state, keys, Drained()))
                except StoreUnavailable as error:
                    told.append(error)

            thread = threading.Thread(target=flush)
            thread.start()
            waits = f"SELECT pid FROM pg_stat_activity WHERE usename = '{database.role}' AND wait_event_type = 'Lock'"
            until(lambda: database.ask(waits))
            ask(f"SELECT * FROM routes WHERE session_key = '{first}' FOR UPDATE")
            thread.join()
        assert ["(40P01)" in str(error) for error in told] == [True]
        assert cache.flush().ops == 2
        balanced(cache, {first: ["a", "b"], second: ["a", "b"]})


PASSING = [
    "08000", "08003", "08006", "0A000", "25006", "25P02", "26000", "28000", "38000", "40000", "40001", "40003", "40P01",
    "42501", "42601", "42883", "53000", "53100", "53200", "53300", "53400", "55000", "55006", "55P03", "57000", "57014",
    "57P01", "57P02", "57P03", "57P05", "58000", "58030", "58P01", "72000", "F0000", "XX000", "XX001", "XX002",
]  # fmt: skip
REFUSED = [
    "22000", "22001", "22003", "22021", "22P02", "22P05", "23000", "23502", "23503", "23505", "23514", "23P01", "44000",
    "54000", "54001", "54011", "P0000", "P0001", "P0004",
]  # fmt: skip


def test_each_sqlstate(database, caplog):
    """Raised for one message among others, by the database itself: it waits, and they with it, or it alone is set aside."""
    database.ask("CREATE TABLE trouble AS SELECT '00000' AS state", "GRANT SELECT ON trouble TO public")
    raising = "RAISE EXCEPTION 'about %', NEW.text USING ERRCODE = (SELECT state FROM trouble)"
    database.on_insert(f"IF NEW.text LIKE 'marked%' THEN {raising}; END IF;")
    with opener(database.stack, "blocking", **FEW) as door:
        cache = door()
        session, kept = cache.open(KEY), []
        told: dict[str, str] = {}
        for state in REFUSED:
            database.ask(f"UPDATE trouble SET state = '{state}'")
            for word in (f"marked {state}", f"{state}"):
                session.append(said(word))
            cache.flush()
            kept.append(state)
            letters = cache.dead_letters()
            told[state] = [(one.reason, one.message["content"]) for one in letters]
            cache.drop_dead(letters)
        assert told == {state: [(state, f"marked {state}")] for state in REFUSED}
        assert contents(session.history()) == kept
        for word in ("a", "marked", "b"):
            session.append(said(word))
        for state in PASSING:
            database.ask(f"UPDATE trouble SET state = '{state}'")
            with unavailable() as refused:
                cache.flush()
            stats = cache.stats()
            told[state] = (f"({state})" in str(refused.value), stats.pending, stats.dead)
        assert {state: told[state] for state in PASSING} == dict.fromkeys(PASSING, (True, 3, 0))
        assert "marked" not in caplog.text
        database.mend()
        cache.flush()
        balanced(cache, {KEY: [*kept, "a", "marked", "b"]})


def test_what_a_trigger_says_of_a_row_decides_nothing(database):
    """PostgreSQL shows the row that it met: that neither makes it another error, nor does anybody see it."""
    database.on_insert("IF NEW.text LIKE '%no such table%' THEN RAISE EXCEPTION 'refused'; END IF;")
    with opener(database.stack, "blocking", **FEW) as door:
        cache = door()
        session = cache.open(KEY)
        for word in ("a", "no such table", "b"):
            session.append(said(word))
        real, seen = cache._connections.driver.perform, []

        def perform(request):
            try:
                return real(request)
            except StoreRefused as error:
                seen.append("".join(traceback.format_exception(error)))
                raise

        cache._connections.driver.perform = perform
        cache.flush()
        assert [(one.reason, one.message["content"]) for one in cache.dead_letters()] == [("P0001", "no such table")]
        assert contents(session.history()) == ["a", "b"]
        assert seen
        assert not [one for one in seen if "no such table" in one]


def test_an_interrupt_while_messages_go_in(database):
    """It comes out as it is, not as trouble of the database that whoever drains would wait for; then all goes on."""

    def interrupt(*_):
        raise KeyboardInterrupt

    database.on_insert("PERFORM pg_sleep(1);")
    with opener(database.stack, "blocking", **FEW) as door:
        cache = door()
        session = cache.open(KEY)
        cache.flush()
        session.append(said("a"))
        usual = signal.signal(signal.SIGUSR1, interrupt)
        timer = threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGUSR1))
        try:
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                cache.flush()
        finally:
            timer.join()
            signal.signal(signal.SIGUSR1, usual)
        database.mend()
        cache.flush()
        balanced(cache, {KEY: ["a"]})


def failing_in_a_finally(cache: SessionCache) -> None:
    """A transaction whose work asserts what is not so, while something else comes out already."""

    def work(_connection):
        raise AssertionError("ours")

    try:
        raise KeyboardInterrupt
    finally:
        cache._connections.driver.perform(Transact(work, writes=False))


def test_an_interrupt_while_a_transaction_ends(one_stack, monkeypatch):
    """It comes out as it is, although SQLAlchemy raises an AssertionError then; a true one does too; then all goes on."""
    real, comes = RootTransaction._deactivate_from_connection, [KeyboardInterrupt()]

    def deactivate(transaction):
        if comes and transaction.is_active:
            raise comes.pop()
        real(transaction)

    with one_stack.cache() as cache:
        session = cache.open(KEY)
        cache.flush()
        session.append(said("a"))
        monkeypatch.setattr(RootTransaction, "_deactivate_from_connection", deactivate)
        with pytest.raises(KeyboardInterrupt):
            cache.flush()
        with pytest.raises(AssertionError, match="ours"):
            failing_in_a_finally(cache)
        cache.flush()
        assert contents(session.history()) == ["a"]
        assert cache.stats().messages == 1


def test_a_value_that_a_driver_cannot_send(database):
    """A NUL where PostgreSQL takes none, in an op that did not come from here: that op alone is set aside."""
    with opener(database.stack, "blocking", **FEW) as door, database.stack.raw() as raw:
        cache = door()
        session = cache.open(KEY)
        session.append(said("a"))
        session.update(title="Trip")
        session.append(said("b"))
        pending = cache._state.keyspace.of(KEY).pending
        (at,) = [at for at, element in enumerate(raw.lrange(pending, 0, -1)) if b"Trip" in element]
        raw.lset(pending, at, raw.lindex(pending, at).replace(b"Trip", b"T\x00ip"))
        cache.flush()
        assert [(one.kind, one.reason) for one in cache.dead_letters()] == [("update", "DataError")]
        assert contents(session.history()) == ["a", "b"]


@contextmanager
def full(engine, _path):
    with pragma(engine, "max_page_count = 1", "max_page_count = 1000000"):
        yield


@contextmanager
def query_only(engine, _path):
    with pragma(engine, "query_only = 1", "query_only = 0"):
        yield


@contextmanager
def held_by_another(_engine, path):
    other = create_engine(f"sqlite:///{path}", poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with other.connect() as connection:
        connection.execute(text("BEGIN IMMEDIATE"))
        yield
        connection.execute(text("ROLLBACK"))


@contextmanager
def gone(engine, path):
    """Its file has become a directory; whoever has it open is made to open it again."""
    engine.dispose()
    names = [Path(f"{path}{suffix}") for suffix in ("", "-wal", "-shm") if Path(f"{path}{suffix}").exists()]
    for name in names:
        name.rename(name.with_name(f"hidden-{name.name}"))
    path.mkdir()
    yield
    path.rmdir()
    for name in names:
        name.with_name(f"hidden-{name.name}").rename(name)


@contextmanager
def pragma(engine, trouble, mended):
    """A setting of every connection that there is, and that is made."""

    def trouble_too(connection, _record) -> None:
        connection.execute(f"PRAGMA {trouble}")

    event.listen(engine, "connect", trouble_too)
    with engine.connect() as connection:
        connection.connection.driver_connection.execute(f"PRAGMA {trouble}")
    yield
    event.remove(engine, "connect", trouble_too)
    with engine.connect() as connection:
        connection.connection.driver_connection.execute(f"PRAGMA {mended}")


SQLITE = {full: "SQLITE_FULL", query_only: "SQLITE_READONLY", held_by_another: "SQLITE_BUSY", gone: "SQLITE_CANTOPEN"}


@pytest.mark.parametrize("trouble", SQLITE, ids=lambda trouble: trouble.__name__)
def test_sqlite_is_in_trouble(one_stack, tmp_path, trouble):
    """The same of a file that is full, read-only, locked or gone."""
    with opener(one_stack, "blocking", **FEW, database_timeout=0.3) as door:
        cache = door()
        session = cache.open(KEY)
        session.append(said("a"))
        cache.flush()
        with trouble(cache._connections.driver.engine, tmp_path / "store.db"):
            large = [f"{n}" * 20_000 for n in range(9)]
            session.append(said(*large))
            for _ in range(2):
                with unavailable(0.3) as refused:
                    cache.flush()
                assert f"({SQLITE[trouble]})" in str(refused.value)
            session.append(said("z"))
            assert (cache.stats().pending, cache.stats().dead) == (10, 0)
        assert cache.flush().ops == 10
        balanced(cache, {KEY: ["a", *large, "z"]})


def test_sqlite_refuses_what_is_too_big(one_stack):
    """That is a limit of the row, not of the moment."""
    with opener(one_stack, "blocking", **FEW) as door:
        cache = door()
        session = cache.open(KEY)
        with cache._connections.driver.engine.connect() as connection:
            connection.connection.driver_connection.setlimit(0, 50_000)  # SQLITE_LIMIT_LENGTH
        session.append(said("a"))
        session.append(said("b" * 100_000))
        session.append(said("c"))
        cache.flush()
        assert [one.reason for one in cache.dead_letters()] == ["SQLITE_TOOBIG"]
        assert contents(session.history()) == ["a", "c"]


@pytest.mark.parametrize("kind", DOORS)
def test_idle_connections_are_dropped(database, kind):
    """By a pooler, between two calls: the next call simply works, however many there were."""
    with opener(database.stack, kind, **FEW) as door:
        cache = door()
        session = cache.open(KEY)
        for n in range(3):
            session.append(said(str(n)))
            database.drop_connections()
            assert cache.flush().ops == 1 + (n == 0)
            database.drop_connections()
            cache.evict(KEY)
            assert contents(session.history()) == [str(m) for m in range(n + 1)]
        balanced(cache, {KEY: [str(n) for n in range(3)]})


@pytest.mark.parametrize("kind", DOORS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_connection_is_cut_at_commit(database, proxy, kind, when):
    """Whether it was committed cannot be known; either way it is there once afterwards, with what was changed."""
    sockets = Path(database.url.partition("host=")[2])
    between = proxy(sockets / ".s.PGSQL.5432")
    directory = Path(between.directory.name)
    (directory / ".s.PGSQL.5432").symlink_to(directory / "proxy.sock")
    url = database.stack.database_url.replace(str(sockets), str(directory))
    with opener(replace(database.stack, database_url=url), kind, **FEW) as door:
        cache = door()
        session = cache.open(KEY)
        session.append(said("a"))
        session.append(said("b"), id="telegram-7")
        session.record_usage(input_tokens=7)
        session.truncate(1)
        session.append(said("c", "d"))
        setattr(between, "refuse" if when == "before" else "lose", b"COMMIT\0")
        with unavailable():
            cache.flush()
        assert between.lost.is_set()
        committed = database.ask("SELECT count(*) FROM messages")[0][0]
        assert committed == (0 if when == "before" else 3)
        session.append(said("e"))
        cache.flush()
        balanced(cache, {KEY: ["a", "c", "d", "e"]})
        assert cache.get(KEY).info.usage.input_tokens == 7
        assert session.append(said("b"), id="telegram-7")
        assert contents(session.history())[-1] == "e"


@contextmanager
def stopped(server, number=signal.SIGQUIT) -> Iterator[None]:
    """PostgreSQL is down."""
    server.stop(number)
    try:
        yield
    finally:
        server.serve()


@pytest.fixture
def own_stack(one_stack, own_postgres) -> Iterator[Stack]:
    """A stack whose PostgreSQL can be stopped."""
    with own_postgres.database() as url:
        yield replace(one_stack, database_url=url)


@pytest.mark.parametrize("kind", DOORS)
def test_postgresql_is_down(own_stack, own_postgres, kind):
    """A cache that was there before goes on where Redis suffices, without asking SQL, until the log is full; and after."""
    with opener(own_stack, kind, **FEW, max_pending=60, database_timeout=LIMIT) as door:
        cache = door()
        session, cold = cache.open(KEY), cache.open(COLD)
        cold.append(said("kept"))
        cache.flush()
        cache.evict(COLD)
        asked: list[object] = []
        perform = cache._connections.driver.perform
        cache._connections.driver.perform = lambda request: (asked.append(type(request)), perform(request))[1]
        with stopped(own_postgres):
            for n in range(60):
                assert contents(cache.open(KEY).history()) == [str(m) for m in range(n)]
                session.append(said(str(n)))
            with pytest.raises(Backpressure):
                session.append(said("too much"))
            assert Evaluate in asked
            assert Transact not in asked
            for call in (lambda: cache.get(COLD), cache.list, cache.flush, lambda: cache.open("new")):
                with unavailable(2 * LIMIT) as refused:
                    call()
                assert "(08001)" in str(refused.value)
            assert contents(session.history()) == [str(n) for n in range(60)]
        assert cache.flush().ops == 60
        session.append(said("60"))
        cache.flush()
        balanced(cache, {KEY: [str(n) for n in range(61)], COLD: ["kept"]})


@pytest.mark.parametrize("kind", DOORS)
def test_postgresql_is_frozen(own_stack, own_postgres, kind):
    """Connections are open and nothing answers, so that no limit of the server's own can end the wait."""
    with opener(own_stack, kind, **FEW, database_timeout=LIMIT) as door:
        cache = door()
        session = cache.open(KEY)
        session.append(said("a"))
        cache.flush()
        session.append(said("b"))
        with own_postgres.frozen():
            with unavailable(LIMIT / 2 + 2) as refused:  # libpq waits two seconds at least for a new connection
                cache.flush()
            assert "(08001)" in str(refused.value)
            assert contents(session.history()) == ["a", "b"]
        cache.flush()
        balanced(cache, {KEY: ["a", "b"]})


def test_postgresql_freezes_in_a_transaction(own_stack, own_postgres):
    """The same between two statements."""
    with opener(own_stack, "blocking", **FEW, database_timeout=LIMIT) as door:
        cache = door()
        session = cache.open(KEY)
        session.append(said("a"))
        begun = cache._connections.driver.engine
        freezing = own_postgres.frozen()
        event.listen(begun, "before_cursor_execute", lambda *_: freezing.__enter__(), once=True)
        try:
            with unavailable(LIMIT + 0.5):
                cache.flush()
        finally:
            freezing.__exit__(None, None, None)
        cache.flush()
        balanced(cache, {KEY: ["a"]})


def in_words(url, state, words, *hidden) -> None:
    """Whoever asks over this URL is told the state, what it is and what to do, and nothing that is hidden."""
    with opener(url, "blocking", **FEW, database_timeout=LIMIT) as door, unavailable(2 * LIMIT) as refused:
        door().list()
    told = str(refused.value)
    assert f"({state}): " in told
    assert words in told
    assert not [one for one in (*hidden, SECRET, "FATAL", "failed:", "sc-pg-") if one in told]


@pytest.fixture
def doorkeeper(own_stack, own_postgres) -> Iterator[Callable[..., Stack]]:
    """A stack whose PostgreSQL asks some for a password, lets some not in, and has no room for others."""
    rules = own_postgres.data / "pg_hba.conf"
    as_it_was = rules.read_text()
    rules.write_text(f"local all scrammed scram-sha-256\nlocal all shut_out reject\n{as_it_was}")
    with create_engine(own_stack.database_url, isolation_level="AUTOCOMMIT", poolclass=NullPool).connect() as admin:
        admin.execute(text(f"CREATE ROLE scrammed LOGIN PASSWORD '{SECRET}-1'"))
        for role in ("shut_out LOGIN", "sleeper NOLOGIN", "crowded LOGIN CONNECTION LIMIT 0", "stranger LOGIN"):
            admin.execute(text(f"CREATE ROLE {role}"))
        admin.execute(text("CREATE DATABASE private"))
        admin.execute(text("REVOKE CONNECT ON DATABASE private FROM public"))
        admin.execute(text("SELECT pg_reload_conf()"))
        until(lambda: admin.scalar(text("SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'reject'")))

        def told(**parts: str) -> Stack:
            url = make_url(own_stack.database_url).set(**parts)
            return replace(own_stack, database_url=url.render_as_string(hide_password=False))

        yield told
        rules.write_text(as_it_was)
        admin.execute(text("SELECT pg_reload_conf()"))
        admin.execute(text("DROP DATABASE private"))
        admin.execute(text("DROP ROLE scrammed, shut_out, sleeper, crowded, stranger"))


def test_each_way_of_not_being_let_in(doorkeeper):
    """A user, a password, a database, a right or room that is missing: each has its SQLSTATE and its sentence."""
    in_words(doorkeeper(username="unknown"), "28000", "that the user exists", "unknown")
    in_words(doorkeeper(username="shut_out"), "28000", "pg_hba.conf", "shut_out")
    in_words(doorkeeper(username="sleeper"), "28000", "pg_hba.conf", "sleeper")
    in_words(doorkeeper(username="scrammed"), "28P01", "the password", "scrammed")
    in_words(doorkeeper(username="scrammed", password=SECRET), "28P01", "the password", "scrammed")
    in_words(doorkeeper(database="elsewhere"), "3D000", "no database of this name", "elsewhere")
    in_words(doorkeeper(username="stranger", database="private"), "42501", "grant that", "stranger", "private")
    in_words(doorkeeper(username="crowded"), "53300", "no connection left", "crowded")


def test_each_way_of_nobody_being_there(own_stack, own_postgres, monkeypatch):
    """No such host, nobody who listens, one who says nothing, one who is stopping: told apart too."""
    remote = make_url(own_stack.database_url).set(query={}, host="127.0.0.1", port=free_port())

    def of(url) -> Stack:
        return replace(own_stack, database_url=url.render_as_string(hide_password=False))

    in_words(of(remote), "08001", "nothing answers", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        in_words(of(remote.set(port=silent.getsockname()[1])), "08001", "in time", "127.0.0.1")
    with monkeypatch.context() as without:
        without.setattr("socket.getaddrinfo", unresolved)
        in_words(of(remote.set(host="nowhere.invalid")), "08001", "name of its host", "nowhere")
    try:
        with create_engine(own_stack.database_url, poolclass=NullPool).connect():
            own_postgres.process.send_signal(signal.SIGTERM)  # it ends when the last one has gone
            until(lambda: "shutting down" in attempted(own_stack.database_url))
            in_words(own_stack, "57P03", "starting or stopping")
        own_postgres.stop()
        in_words(own_stack, "08001", "nothing answers")
    finally:
        own_postgres.stop()
        own_postgres.serve()


def unresolved(*_: object, **_named: object) -> None:
    raise socket.gaierror(-2, "Name or service not known")


def attempted(url) -> str:
    """What PostgreSQL says to whoever comes."""
    engine = create_engine(url, poolclass=NullPool)
    try:
        with engine.connect():
            return ""
    except DBAPIError as error:
        return str(error.orig)


# What PostgreSQL 15 to 18, libpq and psycopg say where that is not made here.
SAID = {
    'connection to server at "h" (::1), port 5432 failed: FATAL:  sorry, too many clients already': "53300",
    "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute": "53300",
    "FATAL:  no more connections allowed (max_client_conn)": "53300",
    "FATAL:  the database system is starting up": "57P03",
    "FATAL:  the database system is not yet accepting connections": "57P03",
    "FATAL:  the database system is in recovery mode": "57P03",
    'FATAL:  no pg_hba.conf entry for host "10.1.1.1", user "u", database "d", SSL encryption': "28000",
    'FATAL:  Peer authentication failed for user "u"': "28000",
    'could not translate host name "h" to address: Name or service not known': "08001",
    "connection timeout expired": "08001",
    'connection to server at "h", port 5432 failed: No route to host': "08001",
    'connection to server at "h", port 5432 failed: server does not support SSL, but SSL was required': "08001",
    'connection to server at "h", port 5432 failed: SSL error: certificate verify failed': "08001",
    "consuming input failed: server closed the connection unexpectedly": "08006",
    "the connection is lost": "08006",
    'connection to server at "h" failed: FATAL:  Anmeldung verweigert': "OperationalError",
}


@pytest.mark.parametrize("told", SAID)
def test_a_connection_that_failed_by_its_text(told):
    """The state that the server had, or the one that stands for it; what is not known is no guess."""
    failed = DBOperationalError("SELECT 1", None, psycopg.OperationalError(told))
    assert reason_of(failed) == SAID[told]
    error = translate(failed, of_store=True)
    assert type(error) is StoreUnavailable
    assert str(error).startswith(f"The database could not do it now ({SAID[told]})")
    assert not [part for part in ("10.1.1.1", "FATAL", '"') if part in str(error)]


def test_pauses_grow_to_a_bound(one_stack):
    """A drain job tries for as long as it may, each time after a longer pause, up to `retry_pause`, never two alike."""
    with opener(one_stack, "blocking", **FEW, slice=60.0, retry_pause=2.0) as door:
        cache = door()
        cache.open(KEY).append(said("a"))
        paused: list[float] = []
        perform = cache._connections.driver.perform

        def trouble(request):
            if isinstance(request, Transact):
                raise StoreUnavailable("The database did not answer.")
            if isinstance(request, Pause):
                paused.append(request.seconds)
                return None
            return perform(request)

        cache._connections.driver.perform = trouble
        drained = cache._run(write_behind.drain_lane(cache._state, 0, 1, lambda: len(paused) > 20))
        assert drained.ops == 0
        assert paused[0] < 0.05
        assert all(1.0 <= pause <= 2.0 for pause in paused[8:])
        assert len(set(paused)) == len(paused)
        cache._connections.driver.perform = perform
        assert cache._run(write_behind.drain_lane(cache._state, 0, 1, lambda: False)).ops == 2
        balanced(cache, {KEY: ["a"]})


@pytest.mark.long
@pytest.mark.timeout(120)
def test_workers_live_through_postgresql_being_away(own_stack, own_postgres):
    """Killed at once, then shut down, then frozen, under appends: the same worker processes drain it all, in order."""
    sent: dict[str, list[str]] = {f"key-{n}": [] for n in range(8)}
    settings = own_stack.settings(**FEW, retry_pause=0.5, sweep=0.3, database_timeout=2.0)
    with opener(own_stack, "blocking", **FEW) as door, own_stack.raw() as raw:
        cache = door()
        sessions = {key: cache.open(key) for key in sent}

        def go_on(seconds: float) -> None:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                for key, session in sessions.items():
                    sent[key].append(str(len(sent[key])))
                    session.append(said(sent[key][-1]))
                time.sleep(0.02)

        with workers(settings, "--processes", "1"):
            until(lambda: worker_pids(raw))
            pids = worker_pids(raw)
            for trouble in (stopped(own_postgres), stopped(own_postgres, signal.SIGINT), own_postgres.frozen()):
                go_on(0.5)
                with trouble:
                    go_on(4.0)
                    assert cache.stats().pending
                go_on(0.5)
                until(lambda: not cache.stats().pending)
            assert worker_pids(raw) == pids
        balanced(cache, sent)
