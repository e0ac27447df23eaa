"""Migrations: Alembic over the scripts that this package ships, with a version table of its own.

Guarantees: forwards only; in one transaction, so that a migration that fails changes nothing. In PostgreSQL `lock` lets one
process migrate at a time, and takes what is to be altered before anything is done: who waits for a table keeps everybody
else waiting behind it, so that takes a second at most, and whoever calls tries again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from io import StringIO

from alembic import command
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect

from sessioncache.errors import ConfigurationError
from sessioncache.schema import HEAD, VERSION_TABLE

# How long a table is waited for, in PostgreSQL's words; nobody who comes later gets it meanwhile.
LOCK_WAIT = "1s"
# PostgreSQL: the advisory lock of migrations, "sessions" as a number.
ADVISORY = 0x73657373696F6E73
DIALECTS = ("postgresql", "sqlite")

# What SQLite makes by itself.
_MADE = re.compile(r"sqlite_.*|.*_search_(data|idx|docsize|config|content)")


def _config(location: str, printed: StringIO | None = None) -> Config:
    config = Config(output_buffer=printed)
    config.set_main_option("script_location", location.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@contextmanager
def _scripts(printed: StringIO | None = None) -> Iterator[Config]:
    with as_file(files("sessioncache") / "migrations") as folder:
        yield _config(str(folder), printed)


def upgrade(connection: Connection) -> None:
    """Bring the schema to the newest version, in the caller's transaction."""
    with _scripts() as config:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def revisions() -> list[str]:
    """Every schema version this package knows, newest first."""
    return [script.revision for script in _since(None)]


def _since(revision: str | None) -> list[Script]:
    """The migrations after one, newest first."""
    with _scripts() as config:
        return list(ScriptDirectory.from_config(config).iterate_revisions("head", revision or "base"))


def lock_migrations(connection: Connection) -> None:
    """Let nobody else migrate this database until the transaction ends; SQLite's has seen to that when it began.

    Raises:
        DBAPIError: somebody does at this moment (`store.upgrading` waits).
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY})")


def lock_tables(connection: Connection, revision: str | None) -> None:
    """Take the tables that the migrations after ``revision`` alter, all or none of them, until the transaction ends.

    Raises:
        DBAPIError: somebody else uses one, and has not let go of it in time.
    """
    if connection.dialect.name != "postgresql":
        return
    altered = {table for script in _since(revision) for table in getattr(script.module, "locks", ())}
    there = sorted(altered & set(inspect(connection).get_table_names()))
    if there:
        connection.exec_driver_sql(f"LOCK TABLE {', '.join(there)} IN ACCESS EXCLUSIVE MODE")
    connection.exec_driver_sql("SET LOCAL lock_timeout = 0")


def offline(dialect: str, since: str | None = None) -> str:
    """The migrations after ``since`` (None: all, for an empty database) as SQL, in one transaction.

    Raises:
        ConfigurationError: there is no such version, or a migration computes what SQL cannot.
    """
    if since is not None and since not in revisions():
        raise ConfigurationError(f"There is no schema version {since!r}; there are {', '.join(sorted(revisions()))}.")
    if since is None and dialect == "sqlite":
        return _sqlite_from_nothing()
    for script in _since(since) if since else []:
        if getattr(script.module, "computes", False):
            raise ConfigurationError(
                f"The migration to {script.revision} fills columns with what only this package can compute; "
                "run `sessioncache db upgrade`."
            )
    return _printed(dialect, since)


def _printed(dialect: str, since: str | None) -> str:
    printed = StringIO()
    with _scripts(printed) as config:
        config.attributes["dialect"] = dialect
        command.upgrade(config, f"{since}:head" if since else "head", sql=True)
    head = "SET client_encoding = 'UTF8';\n\n" if dialect == "postgresql" else ""
    guard = f"BEGIN;\n\n{_guard(since)}\n" if since else "BEGIN;\n"
    return head + printed.getvalue().replace("BEGIN;\n", guard, 1)


def _guard(since: str) -> str:
    """A statement that fails in a database of any other version: in either dialect one that inserts no version."""
    return (
        f"INSERT INTO {VERSION_TABLE} SELECT NULL "  # noqa: S608 - our own names
        f"WHERE NOT EXISTS (SELECT 1 FROM {VERSION_TABLE} WHERE version_num = '{since}');"
    )


def _sqlite_from_nothing() -> str:
    """What a database in memory is made of, once it is set up: tables are made anew on the way, which cannot be printed."""
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        upgrade(connection)
        made = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid").all()
    engine.dispose()
    statements = [f"{sql};" for name, sql in made if not _MADE.fullmatch(name)]
    version = f"INSERT INTO {VERSION_TABLE} (version_num) VALUES ('{HEAD}');"  # noqa: S608 - our own names
    return "\n\n".join(["BEGIN;", *statements, version, "COMMIT;"]) + "\n"
