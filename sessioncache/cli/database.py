"""`sessioncache db`: the schema of the database.

Guarantees: `upgrade` is one transaction, never goes back, and touches no table that is not ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import click
from sqlalchemy import Engine

from sessioncache.addresses import database_url
from sessioncache.borders import FOREIGN, translate
from sessioncache.cli.context import settings
from sessioncache.cli.output import with_json, write_json
from sessioncache.errors import ConfigurationError
from sessioncache.flow import WRITES
from sessioncache.migrate import DIALECTS, offline
from sessioncache.repeat import pauses
from sessioncache.schema import HEAD
from sessioncache.store import engine as engines
from sessioncache.store.check import schema_version
from sessioncache.store.upgrading import bring_up

T = TypeVar("T")

# Seconds between two tries to get hold of tables that are in use.
FIRST_WAIT, LONGEST_WAIT = 0.5, 10.0


@click.group("db")
def database() -> None:
    """The database schema."""


def _in_database(work: Callable[[Engine], T]) -> T:
    """The result of ``work``."""
    engine = engines.patient(settings())
    try:
        return work(engine)
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from error
    except FOREIGN as error:
        raise translate(error, of_store=True) from error
    finally:
        engine.dispose()


@database.command("upgrade")
def upgrade_schema() -> None:
    """Set the database up, or bring it to the schema of this version.

    Servers and workers may go on meanwhile. Tables that are in use are waited for without holding anybody up; two of these
    commands at once do it one after the other. Never goes back: a database of a later version is left as it is.
    """
    version = _in_database(lambda engine: bring_up(engine, pauses(FIRST_WAIT, LONGEST_WAIT), _wait))
    click.echo(f"the schema is at {version}")


def _wait(seconds: float) -> None:
    click.echo(f"the database is in use by others, trying again in {seconds:.1f} s", err=True)
    time.sleep(seconds)


@database.command()
@with_json
def current(*, as_json: bool) -> None:
    """Show the schema version of the database, and with --json also the one that this release wants."""

    def look(engine: Engine) -> str | None:
        with engine.connect().execution_options(**{WRITES: False}) as connection:
            return schema_version(connection)

    found = _in_database(look)
    if as_json:
        write_json({"schema": found, "wanted": HEAD})
    else:
        click.echo(found or "the database has no sessioncache schema")


@database.command()
@click.option(
    "--from", "since", metavar="VERSION", help="The version that the database has (db current); without it, none."
)
@click.option("--dialect", type=click.Choice(DIALECTS), help="Of which database; by default that of the settings.")
def sql(since: str | None, dialect: str | None) -> None:
    """Print what `db upgrade` would do, as SQL for `psql -v ON_ERROR_STOP=1` or `sqlite3 -bail`, in one transaction.

    Nothing is asked of a database. Where a migration computes what SQL cannot, the command says so and prints nothing.
    """
    spoken = dialect or database_url(settings().database_url).get_backend_name()
    try:
        click.echo(offline(spoken, since), nl=False)
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from error
