"""The store's schema: migrations and tables agree, and statements use indexes."""

from __future__ import annotations

import os
import re
from dataclasses import replace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from click.testing import CliRunner
from sqlalchemy import create_engine, text

from sessioncache import SessionCache
from sessioncache.cli.main import cli
from sessioncache.config import as_environment
from sessioncache.drivers import FirstTransaction
from sessioncache.migrate import revisions, upgrade
from sessioncache.schema import HEAD, VERSION_TABLE, applied_ops, messages, metadata
from sessioncache.store.statements import matching


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request, tmp_path):
    """A database that was just set up."""
    url = f"sqlite:///{tmp_path}/a.db" if request.param == "sqlite" else request.getfixturevalue("empty_postgres")
    engine = create_engine(url)
    with engine.begin() as connection:
        upgrade(connection)
    yield engine
    engine.dispose()


# What is only for searching; `tests/test_find.py` shows that it is there.
FOR_SEARCH = re.compile(r"((messages|sessions)_by_words|(messages|sessions)_search(_data|_idx|_docsize|_config)?)")


def expected(dialect, name, kind, reflected, compare_to):
    """Whether the tables of `metadata` are to agree on this."""
    if not reflected or compare_to is not None:
        return True
    if kind in {"table", "index"}:
        return not FOR_SEARCH.fullmatch(name)
    # In SQLite the row id is a column, so that the primary keys of `metadata` are unique constraints there.
    return dialect != "sqlite" or (kind, name) not in {("column", "id"), ("unique_constraint", None)}


# What Alembic 1.13 says of any column that the database computes.
@pytest.mark.filterwarnings("ignore:Computed default on sessions.state")
def test_migrations_make_what_the_code_expects(engine):
    """Alembic finds no difference, and HEAD is the newest migration."""
    with engine.connect() as connection:
        options = {
            "version_table": VERSION_TABLE,
            "compare_type": engine.dialect.name == "postgresql",
            "include_object": lambda _object, *found: expected(engine.dialect.name, *found),
        }
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
        assert connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar() == HEAD == revisions()[0]


def test_upgrading_again_changes_nothing(engine):
    """It can be run before every start."""
    with engine.begin() as connection:
        upgrade(connection)
        assert connection.exec_driver_sql(f"SELECT count(*) FROM {VERSION_TABLE}").scalar() == 1


def test_the_command_sets_a_database_up(empty_postgres, one_stack, monkeypatch):
    """`sessioncache db upgrade`, then everything works."""
    settings = replace(one_stack.settings(), database_url=empty_postgres)
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert "no sessioncache schema" in CliRunner().invoke(cli, ["db", "current"]).output
    assert CliRunner().invoke(cli, ["db", "upgrade"]).exit_code == 0
    with SessionCache(settings=settings) as cache:
        cache.open("k").append({"content": "a"})
        assert cache.flush().ops == 2


def test_foreign_tables_are_not_touched(empty_postgres, monkeypatch):
    """A `sessions` table of somebody else's: refused with a way out, nothing created; a schema of one's own works."""
    engine = create_engine(empty_postgres)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE sessions (id int)"))
        connection.execute(text("CREATE SCHEMA ours"))
    monkeypatch.setenv("SESSIONCACHE_DATABASE_URL", empty_postgres)
    done = CliRunner().invoke(cli, ["db", "upgrade"])
    assert done.exit_code == 1
    assert "tables named sessions" in done.output
    monkeypatch.setenv("SESSIONCACHE_DATABASE_URL", empty_postgres + "&options=-csearch_path%3Dours")
    done = CliRunner().invoke(cli, ["db", "upgrade"])
    assert done.output == f"the schema is at {HEAD}\n"
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM ours.messages")).scalar() == 0
    engine.dispose()


def test_known_ops_are_looked_up_by_index(engine):
    """What each drain asks for each op: no table is scanned."""
    pairs = [(f"s{n}", f"m{n}") for n in range(50)]
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET enable_seqscan = off"))
        for table, name in ((messages, messages.c.message_id), (applied_ops, applied_ops.c.op_id)):
            compiled = matching(name, pairs).compile(engine, compile_kwargs={"literal_binds": True})
            explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
            shown = "\n".join(str(row) for row in connection.exec_driver_sql(explain + str(compiled)))
            assert "Index" in shown or "INDEX" in shown, shown
            assert f"SCAN {table.name}" not in shown


def test_sqlite_is_set_up_by_itself_and_durable(tmp_path, one_stack):
    """WAL, synchronous FULL, foreign keys; a second process finds it ready."""
    settings = replace(one_stack.settings(), database_url=f"sqlite:///{tmp_path}/fresh.db")
    with SessionCache(settings=settings) as cache:
        cache.open("k").append({"content": "a"})
        cache.flush()
        with cache._connections.driver.engine.connect() as connection:
            pragmas = [
                connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys")
            ]
        assert pragmas == ["wal", 2, 1]
    with SessionCache(settings=settings) as cache:
        assert cache.stats().messages == 1
    assert os.path.exists(tmp_path / "fresh.db")  # noqa: PTH110


def test_op_ids_are_forgotten_after_a_while(stack):
    """Only those older than `op_retention`, in batches; messages stay, and are still known."""
    with stack.cache() as cache:
        cache.open("k").append({"content": "a"}, id="telegram-1")
        cache.open("gone").append({"content": "b"})
        cache.delete("gone")
        cache.flush()
        from sessioncache import ops

        count = text("SELECT count(*) FROM applied_ops")
        with cache._connections.driver.engine.connect() as connection:
            assert connection.execute(count).scalar() == 4
        assert cache._run(ops.forget_ops(cache._state)) == 0
        object.__setattr__(cache._state.settings, "op_retention", -1.0)
        assert cache._run(ops.forget_ops(cache._state)) == 4
        cache.evict("k")
        cache.open("k").append({"content": "a"}, id="telegram-1")
        cache.flush()
        assert cache.stats().messages == 1


SLOW = """
CREATE FUNCTION slowly() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.4); END $$;
CREATE EVENT TRIGGER slow ON ddl_command_start WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION slowly();
"""


def test_a_migration_takes_as_long_as_it_takes(empty_postgres, one_stack, monkeypatch):
    """The limits of time are for calls and workers: an index of a large table is built in minutes."""
    engine = create_engine(empty_postgres)
    with engine.begin() as connection:
        connection.exec_driver_sql(SLOW)
    engine.dispose()
    settings = replace(one_stack.settings(), database_url=empty_postgres, database_timeout=0.2)
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(cli, ["db", "upgrade"])
    assert (done.exit_code, done.output) == (0, f"the schema is at {HEAD}\n")


def test_a_first_transaction_that_is_not_committed_is_checked_again():
    """What it set up is gone with it."""
    checked = []
    first = FirstTransaction(lambda _connection: checked.append(1))
    assert first.checked(lambda _connection: 1, None) == 1
    assert first.checked(lambda _connection: 2, None) == 2
    assert len(checked) == 2
    first.committed()
    assert first.checked(lambda _connection: 3, None) == 3
    assert len(checked) == 2
