"""The commands.

Exit status: 0 done, 1 it failed, 2 wrong usage, 3 what was asked for is not there, 4 what was checked is not as it should
be, 5 a tier is unavailable, 130 interrupted, 143 terminated. A sentence on standard error says why.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from dataclasses import fields
from importlib.resources import files
from secrets import token_hex
from typing import BinaryIO

import click
from rich.console import Console

from sessioncache.cli.acting import delete, delete_owner, evict, flush, hydrate
from sessioncache.cli.config import config
from sessioncache.cli.context import end_at_sigterm, opened, passed_on, with_settings
from sessioncache.cli.context import settings as effective
from sessioncache.cli.database import database
from sessioncache.cli.dead import dead
from sessioncache.cli.demo import Results, app_servers, replay, table
from sessioncache.cli.demo_input import Conversations, read_conversations
from sessioncache.cli.doctor import doctor
from sessioncache.cli.functions import functions
from sessioncache.cli.housekeeping import cleanup, prune, retention
from sessioncache.cli.live import tail
from sessioncache.cli.reading import history, keys, list_sessions, search, show, stats
from sessioncache.cli.repartition import repartition
from sessioncache.cli.status import FAILED, INTERRUPTED, NOT_FOUND, PASSING, UNAVAILABLE
from sessioncache.cli.top import top
from sessioncache.cli.transfer import export_sessions, import_sessions
from sessioncache.client import SessionCache
from sessioncache.config import Settings
from sessioncache.embedded import SET_BY_KEEPER
from sessioncache.errors import SessionCacheError, SessionNotFound

CLOSED = "sessioncache: the output was closed before all of it was written"


@with_settings
@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sessioncache")
def cli() -> None:
    """Conversation memory for many servers: hot in Redis, kept in SQL.

    Settings come from --set, from SESSIONCACHE_* variables, first of all SESSIONCACHE_REDIS_URL and
    SESSIONCACHE_DATABASE_URL, and from a file, in this order; `sessioncache config` shows them.
    """


@cli.command()
@click.option("--processes", type=click.IntRange(1, 1000), help="Worker processes; by default one for each lane.")
@click.option("--http", metavar="HOST:PORT", help="Serve /metrics, /livez and /readyz there, for the inside network only.")
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]),
    default="INFO",
    show_default=True,
    help="Of what is logged.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Lines for people, or objects for programs.",
)
def worker(processes: int | None, http: str | None, log_level: str, log_format: str) -> None:
    """Run worker processes and the schedule, until SIGTERM: the same as `python -m workers`."""
    given = {"--processes": processes, "--http": http, "--log-level": log_level, "--log-format": log_format}
    options = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    command = [sys.executable, "-P", "-m", "workers", *options]
    os.execve(sys.executable, command, passed_on())  # noqa: S606 - a fixed program


cli.add_command(config)
cli.add_command(functions)
cli.add_command(import_sessions)
cli.add_command(export_sessions)
cli.add_command(database)
cli.add_command(repartition)
cli.add_command(flush)
cli.add_command(evict)
cli.add_command(hydrate)
cli.add_command(delete)
cli.add_command(delete_owner)
cli.add_command(cleanup)
cli.add_command(prune)
cli.add_command(retention)
cli.add_command(dead)
cli.add_command(doctor)
cli.add_command(list_sessions)
cli.add_command(show)
cli.add_command(history)
cli.add_command(tail)
cli.add_command(search)
cli.add_command(keys)
cli.add_command(stats)
cli.add_command(top)


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
    results = (
        _external(servers, conversations, console) if external else _embedded(servers, settings, conversations, console)
    )
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


def _embedded(servers: int, settings: Settings, conversations: Conversations, console: Console) -> Results:
    ours = {field.name: getattr(settings, field.name) for field in fields(settings) if field.name not in SET_BY_KEEPER}
    with (
        tempfile.TemporaryDirectory(prefix="sessioncache-demo-") as directory,
        SessionCache.embedded(directory, **ours) as cache,
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
    output = sys.stdout
    if logging.lastResort is not None:
        logging.lastResort.addFilter(_is_no_interruption)
    try:
        sys.exit(cli.main(prog_name="sessioncache", standalone_mode=False))
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("sessioncache: aborted", err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        click.echo(CLOSED, err=True)
        sys.exit(FAILED)
    except SystemExit:
        if sys.stdout is not output:  # click met the closed pipe, and has put another in its place
            click.echo(CLOSED, err=True)
        raise
    except SessionCacheError as error:
        click.echo(f"sessioncache: {error}", err=True)
        sys.exit(_status(error))


def _is_no_interruption(record: logging.LogRecord) -> bool:
    """SQLAlchemy logs it, with its traceback, where Ctrl-C or SIGTERM comes while it takes a connection back."""
    error = record.exc_info[1] if record.exc_info else None
    return error is None or isinstance(error, Exception)


def _status(error: SessionCacheError) -> int:
    if isinstance(error, SessionNotFound):
        return NOT_FOUND
    return UNAVAILABLE if isinstance(error, PASSING) else FAILED
