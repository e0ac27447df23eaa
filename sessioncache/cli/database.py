"""`sessioncache db`: the schema of the database.

Guarantees: `upgrade` is one transaction, and touches no table that is not ours.
"""

from __future__ import annotations

from collections.abc import Callable

import click
from sqlalchemy import Connection

from sessioncache.borders import FOREIGN, translate
from sessioncache.cli.context import settings
from sessioncache.migrate import upgrade
from sessioncache.store import engine as engines
from sessioncache.store.check import foreign_tables, schema_version


@click.group("db")
def database() -> None:
    """The database schema."""


def _in_database(work: Callable[[Connection], None]) -> str | None:
    """The schema version after ``work``, which is done in one transaction."""
    engine = engines.patient(settings())
    try:
        with engine.begin() as connection:
            work(connection)
            return schema_version(connection)
    except FOREIGN as error:
        raise translate(error, of_store=True) from error
    finally:
        engine.dispose()


@database.command("upgrade")
def upgrade_schema() -> None:
    """Set the database up, or bring it to the schema of this version."""

    def bring(connection: Connection) -> None:
        foreign = foreign_tables(connection) if schema_version(connection) is None else []
        if foreign:
            raise click.ClickException(
                f"The database has tables named {', '.join(foreign)} that are not ours; give sessioncache a database "
                "or a schema of its own (PostgreSQL: add ?options=-csearch_path%3Dsessioncache to the URL)."
            )
        upgrade(connection)

    click.echo(f"the schema is at {_in_database(bring)}")


@database.command()
def current() -> None:
    """Show the schema version of the database."""
    click.echo(_in_database(lambda _connection: None) or "the database has no sessioncache schema")
