"""The commands.

Exit status: 0 done, 1 it failed, 2 wrong usage, 3 what was asked for is not there, 4 what was checked is not as it should
be, 5 a tier is unavailable, 130 interrupted, 143 terminated. A sentence on standard error says why.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from importlib.resources import files
from secrets import token_hex
from typing import BinaryIO

import click
from rich.console import Console
from sqlalchemy import Connection

from sessioncache.borders import FOREIGN, translate
from sessioncache.cli.context import end_at_sigterm, opened
from sessioncache.cli.context import settings as effective
from sessioncache.cli.demo import Results, app_servers, replay, table
from sessioncache.cli.demo_input import Conversations, read_conversations
from sessioncache.cli.functions import functions
from sessioncache.cli.status import FAILED, INTERRUPTED, NOT_FOUND, UNAVAILABLE
from sessioncache.cli.transfer import export_sessions, import_sessions
from sessioncache.client import SessionCache
from sessioncache.config import Settings
from sessioncache.errors import (
    Backpressure,
    HotTierFull,
    HotTierUnavailable,
    HydrationTimeout,
    SessionCacheError,
    SessionNotFound,
    StoreUnavailable,
)
from sessioncache.keys import Keyspace
from sessioncache.migrate import upgrade
from sessioncache.store import engine as engines
from sessioncache.store.check import foreign_tables, schema_version


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sessioncache")
def cli() -> None:
    """Conversation memory for many servers: hot in Redis, kept in SQL.

    Settings come from SESSIONCACHE_* variables, first of all SESSIONCACHE_REDIS_URL and SESSIONCACHE_DATABASE_URL.
    """


@cli.command()
@click.argument("session_key")
def keys(session_key: str) -> None:
    """Print the Redis keys of a session, one on a line, for redis-cli."""
    settings = effective()
    for name, value in asdict(Keyspace(settings.prefix, settings.partitions).of(session_key)).items():
        if name not in {"session_key", "partition"}:
            click.echo(f"{name:8} {value}")


@cli.command()
@click.argument("session_key", required=False)
def flush(session_key: str | None) -> None:
    """Drain one session key, or all, into the database. Needs no worker and no RQ."""
    with opened() as cache:
        click.echo(f"{cache.flush(session_key).ops} ops drained")


@cli.command()
@click.argument("session_key")
def evict(session_key: str) -> None:
    """Drop the hot copy of a session. Nothing is lost: the next read brings it back."""
    with opened() as cache:
        click.echo("evicted" if cache.evict(session_key) else "there was no hot copy")


@cli.command()
def stats() -> None:
    """Show how the two tiers stand."""
    with opened() as cache:
        for name, value in asdict(cache.stats()).items():
            if name != "counters":
                click.echo(f"{name:15} {value}")


@cli.command()
@click.option("--processes", type=click.IntRange(1, 1000), help="Worker processes; by default one for each lane.")
@click.option("--log-level", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]), default="INFO", show_default=True)
def worker(processes: int | None, log_level: str) -> None:
    """Run worker processes and the schedule, until SIGTERM: the same as `python -m workers`."""
    number = ["--processes", str(processes)] if processes else []
    command = [sys.executable, "-P", "-m", "workers", "--log-level", log_level, *number]
    os.execv(sys.executable, command)  # noqa: S606 - a fixed program


cli.add_command(import_sessions)
cli.add_command(export_sessions)
cli.add_command(functions)


@cli.group()
def db() -> None:
    """The database schema."""


def _in_database(work: Callable[[Connection], None]) -> str | None:
    """The schema version after ``work``, which is done in one transaction."""
    engine = engines.patient(effective())
    try:
        with engine.begin() as connection:
            work(connection)
            return schema_version(connection)
    except FOREIGN as error:
        raise translate(error, of_store=True) from error
    finally:
        engine.dispose()


@db.command("upgrade")
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


@db.command()
def current() -> None:
    """Show the schema version of the database."""
    click.echo(_in_database(lambda _connection: None) or "the database has no sessioncache schema")


@cli.command()
@click.option("--input", "source", type=click.File("rb"), help="JSON lines with session, role, content; - for stdin.")
@click.option("--servers", type=click.IntRange(1, 64), default=3, show_default=True, help="App server processes.")
@click.option("--external", is_flag=True, help="Over the servers that SESSIONCACHE_* names; no worker is killed.")
@click.pass_context
def demo(context: click.Context, source: BinaryIO | None, servers: int, *, external: bool) -> None:
    """Replay conversations over several servers, disturb them, and compare what comes back."""
    end_at_sigterm()
    settings = effective()
    console = Console()
    conversations = _conversations(source, settings)
    if not conversations:
        raise click.ClickException("The input has no line that could be used.")
    results = _external(servers, conversations, console) if external else _embedded(servers, conversations, console)
    console.print(table(results))
    console.print("every server read back exactly what was written" if results.clean else "[red]something differs[/red]")
    context.exit(0 if results.clean else 1)


def _conversations(source: BinaryIO | None, settings: Settings) -> Conversations:
    def report(problem: str) -> None:
        click.echo(problem, err=True)

    if source is not None:
        return read_conversations(source, settings.max_message_bytes, report)
    with (files("sessioncache") / "data" / "sample.jsonl").open("rb") as lines:
        return read_conversations(lines, settings.max_message_bytes, report)


def _embedded(servers: int, conversations: Conversations, console: Console) -> Results:
    with (
        tempfile.TemporaryDirectory(prefix="sessioncache-demo-") as directory,
        SessionCache.embedded(directory) as cache,
        app_servers(servers, cache.settings) as running,
    ):
        return replay(cache, running, conversations, console, kill=True)


def _external(servers: int, conversations: Conversations, console: Console) -> Results:
    """Under keys of its own, deleted afterwards."""
    mine = {f"demo-{token_hex(4)}:{key}": messages for key, messages in conversations.items()}
    with opened() as cache, app_servers(servers, cache.settings) as running:
        try:
            return replay(cache, running, mine, console, kill=False)
        finally:
            for key in mine:
                cache.delete(key)
            cache.flush()


def main() -> None:
    """The entry of the ``sessioncache`` command."""
    try:
        sys.exit(cli.main(standalone_mode=False))
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except SessionCacheError as error:
        click.echo(f"sessioncache: {error}", err=True)
        sys.exit(_status(error))


def _status(error: SessionCacheError) -> int:
    match error:
        case SessionNotFound():
            return NOT_FOUND
        case HotTierUnavailable() | HotTierFull() | HydrationTimeout() | StoreUnavailable() | Backpressure():
            return UNAVAILABLE
    return FAILED
