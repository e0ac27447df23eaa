"""Upgrades of the database: as SQL for a DBA, at once, beside long readers and the previous release, never backwards."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from importlib.resources import as_file, files
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from click.testing import CliRunner
from servers import postgres_wheel
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import make_url

from sessioncache import SchemaMismatch, migrate
from sessioncache.cli.main import cli
from sessioncache.migrate import upgrade
from sessioncache.schema import HEAD
from sessioncache.store.check import schema_version
from sessioncache.store.engine import prepared
from sessioncache.store.upgrading import bring_up


def brought_to(connection: Connection, version: str) -> None:
    """What an earlier release set up."""
    with as_file(files("sessioncache") / "migrations") as folder:
        config = migrate._config(str(folder))
        config.attributes["connection"] = connection
        command.upgrade(config, version)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """An empty database of each kind."""
    return f"sqlite:///{tmp_path}/a.db" if request.param == "sqlite" else request.getfixturevalue("empty_postgres")


@pytest.fixture
def engine(url):
    """Connected to as the library does it."""
    made = prepared(create_engine(url))
    yield made
    made.dispose()


SQLITE = ["SELECT name, sql FROM sqlite_master ORDER BY name"]
POSTGRESQL = [
    """SELECT table_name, ordinal_position, column_name, data_type, character_maximum_length, is_nullable, column_default,
       generation_expression FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2""",
    "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
    """SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
       WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2""",
]


def made_of(engine: Engine) -> list[Any]:
    """Everything that a database is made of, as it says itself, and its version."""
    queries = SQLITE if engine.dialect.name == "sqlite" else POSTGRESQL
    with engine.connect() as connection:
        parts = [tuple(row) for query in queries for row in connection.execute(text(query))]
        return [*parts, schema_version(connection)]


def by_hand(engine: Engine, statements: str) -> None:
    """What a DBA does with them."""
    if engine.dialect.name == "sqlite":
        with closing(sqlite3.connect(engine.url.database)) as connection:
            connection.executescript(statements)
        return
    where = make_url(engine.url)
    host = str(where.query["host"])
    psql = [postgres_wheel() / "psql", "-h", host, "-U", "postgres", "-d", where.database, "-v", "ON_ERROR_STOP=1", "-q"]
    subprocess.run(psql, input=statements.encode(), check=True, capture_output=True)


def emptied(engine: Engine) -> None:
    engine.dispose()
    if engine.dialect.name == "sqlite":
        for path in Path(engine.url.database).parent.glob("a.db*"):
            path.unlink()
        return
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")


@pytest.mark.parametrize("since", [None, "0002"])
def test_the_printed_sql_makes_the_same_schema(engine, monkeypatch, since):
    """From nothing and from the previous version; what is printed for another version fails and changes nothing."""
    with engine.begin() as connection:
        if since:
            brought_to(connection, since)
        upgrade(connection)
    online = made_of(engine)
    emptied(engine)
    if since:
        with engine.begin() as connection:
            brought_to(connection, since)
    printed = CliRunner().invoke(
        cli, ["db", "sql", "--dialect", engine.dialect.name, *(["--from", since] if since else [])]
    )
    assert printed.exit_code == 0, printed.output
    by_hand(engine, printed.output)
    assert made_of(engine) == online
    with pytest.raises((sqlite3.Error, subprocess.CalledProcessError)):
        by_hand(engine, printed.output)
    engine.dispose()
    assert made_of(engine) == online


def test_what_was_printed_for_another_version_changes_nothing(engine):
    """Also where each of its statements would do."""
    with engine.begin() as connection:
        brought_to(connection, "0001")
    engine.dispose()
    before = made_of(engine)
    with pytest.raises((sqlite3.Error, subprocess.CalledProcessError)):
        by_hand(engine, migrate.offline(engine.dialect.name, "0002"))
    engine.dispose()
    assert made_of(engine) == before


def test_what_cannot_be_printed_is_said(monkeypatch):
    """Texts are computed on the way from 0001; other names are none of ours."""
    monkeypatch.setenv("SESSIONCACHE_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    for given, said in (("0001", "run `sessioncache db upgrade`"), ("0000", "There is no schema version '0000'")):
        done = CliRunner().invoke(cli, ["db", "sql", "--from", given])
        assert done.exit_code == 1
        assert done.output.startswith("Error: ")
        assert said in done.output
    assert "CREATE INDEX sessions_by_words ON sessions USING gin" in CliRunner().invoke(cli, ["db", "sql"]).output


def brought_up(engine: Engine, told: list[float] | None = None) -> str:
    def wait(seconds: float) -> None:
        if told is not None:
            told.append(seconds)
        time.sleep(seconds)

    return bring_up(engine, repeat(0.05), wait)


def test_a_later_database_is_left_as_it_is(engine, url, monkeypatch):
    """There is no way back: a sentence, and nothing is changed."""
    with engine.begin() as connection:
        upgrade(connection)
        connection.execute(text("UPDATE sessioncache_version SET version_num = '9999'"))
    before = made_of(engine)
    monkeypatch.setenv("SESSIONCACHE_DATABASE_URL", url)
    refused = CliRunner().invoke(cli, ["db", "upgrade"])
    assert (refused.exit_code, "is ahead" in refused.output) == (1, True)
    with pytest.raises(SchemaMismatch, match=r"ahead \(9999, not .*no way back; upgrade the sessioncache package"):
        brought_up(engine)
    assert made_of(engine) == before


def test_several_upgrades_at_once(engine, url):
    """One after the other; all end well, also from nothing."""
    engines = [prepared(create_engine(url)) for _ in range(3)]
    found: list[Any] = []
    begun = threading.Barrier(3)

    def bring(one: Engine) -> None:
        begun.wait()
        try:
            found.append(brought_up(one))
        except Exception as error:  # noqa: BLE001 - told to the test
            found.append(error)

    threads = [threading.Thread(target=bring, args=(one,)) for one in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in engines:
        one.dispose()
    assert found == [HEAD] * 3


def test_nobody_waits_behind_an_upgrade_that_waits(empty_postgres, monkeypatch):
    """Somebody reads for long: others go on, and the upgrade happens when the reader is done."""
    monkeypatch.setattr(migrate, "LOCK_WAIT", "100ms")
    engine, told = create_engine(empty_postgres), []
    with engine.begin() as connection:
        brought_to(connection, "0002")
    thread = threading.Thread(target=brought_up, args=(engine, told))
    with engine.connect() as reader:
        reader.execute(text("SELECT * FROM layout")).all()
        thread.start()
        end = time.monotonic() + 30
        while len(told) < 3 and time.monotonic() < end:
            with engine.begin() as other:
                other.exec_driver_sql("SET LOCAL lock_timeout = '20s'")
                other.execute(text("SELECT * FROM layout")).all()
        assert len(told) >= 3
        assert thread.is_alive()
    thread.join(60)
    with engine.connect() as connection:
        assert schema_version(connection) == HEAD
    engine.dispose()


# What the previous release, of schema 0002, asks of the table that the last migration alters.
LOOKS, RECORDS = (
    "SELECT layout.version, layout.partitions FROM layout",
    "INSERT INTO layout (version, partitions) VALUES (1, 64) ON CONFLICT DO NOTHING",
)


def test_the_previous_release_goes_on(engine, url):
    """Its statements work before, while and after the upgrade to this version is made."""
    with engine.begin() as connection:
        brought_to(connection, "0002")
        connection.execute(text(RECORDS))
    stop, wrong, done = threading.Event(), [], []

    def go_on() -> None:
        other = prepared(create_engine(url))
        try:
            while not stop.is_set():
                with other.begin() as connection:
                    assert connection.execute(text(LOOKS)).all() == [(1, 64)]
                    connection.execute(text(RECORDS))
                done.append(1)
        except Exception as error:  # noqa: BLE001 - told to the test
            wrong.append(error)
        finally:
            other.dispose()

    threads = [threading.Thread(target=go_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: len(done) > 20)
    assert brought_up(engine) == HEAD
    before = len(done)
    until(lambda: len(done) > before + 20)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


def until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not reached() and time.monotonic() < end:
        time.sleep(0.01)
    assert reached()
