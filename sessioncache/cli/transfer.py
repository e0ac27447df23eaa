"""`sessioncache import` and `sessioncache export`: moving in from other stores, and out.

What cannot be read is told on standard error, a line each; progress too, where that is a terminal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO
from zoneinfo import ZoneInfo

import click

from sessioncache.cli.context import connected, end_at_sigterm
from sessioncache.cli.progress import Bar, progress
from sessioncache.errors import SessionNotFound
from sessioncache.transfer import exported, hermes, nanobot, odysseus
from sessioncache.transfer.exporting import write_out
from sessioncache.transfer.found import Damage, Reading
from sessioncache.transfer.importing import bring_in

LAYOUTS = {"nanobot": nanobot, "hermes": hermes, "odysseus": odysseus, "jsonl": exported}


def _zone(_context: click.Context, _parameter: click.Parameter, name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:
        raise click.BadParameter("name a time zone like UTC or Europe/Berlin.") from error


@dataclass(slots=True)
class _Report:
    """Tells what cannot be read, beside how far it is."""

    bar: Bar
    damaged: int = 0

    def damage(self, one: Damage) -> None:
        self.damaged += 1
        self.bar.console.print(f"{one.file}:{one.line}: {one.why}", markup=False, highlight=False, soft_wrap=True)


@click.command("import")
@click.argument("layout", type=click.Choice(list(LAYOUTS)))
@click.argument("path", type=click.Path(exists=True))
@click.option("--dry-run", is_flag=True, help="Read everything, write nothing.")
@click.option("--zone", default="UTC", show_default=True, callback=_zone, help="That of times that name none.")
def import_sessions(layout: str, path: str, zone: ZoneInfo, *, dry_run: bool) -> None:
    """Move sessions in from another store, or from an export (jsonl).

    Sessions that stand already are left as they are, so it can be repeated at any time.
    """
    end_at_sigterm()
    reader = LAYOUTS[layout]
    with connected() as connections, progress("importing", reader.size(path)) as bar:
        report = _Report(bar)
        reading = Reading(zone, connections.settings.max_message_bytes, report.damage, bar.advance)
        done = connections.run(bring_in(connections.state, reader.read(path, reading), report.damage, dry_run=dry_run))
    verb = "would be added" if dry_run else "added"
    click.echo(
        f"{done.sessions} sessions and {done.messages} messages {verb}; {done.there} sessions stood already; "
        f"{done.repeated} messages were repeats; {report.damaged} lines could not be read"
    )
    if not done.sessions and not done.there:
        raise click.ClickException(f"No session was found; see whether PATH is what a {layout} import takes.")


class _Unwritable(Exception):
    """The output cannot be written: apart from what the tiers raise."""


@contextmanager
def _written(path: Path | None) -> Iterator[Callable[[bytes], None]]:
    """What writes to standard output, or to a file that takes the place of this one when all is written."""
    path = path and path.resolve()
    part = (
        path.with_name(f".{path.name[:100]}.{os.getpid()}.part") if path and (path.is_file() or not path.exists()) else path
    )
    try:
        with part.open("wb") if part else nullcontext(sys.stdout.buffer) as file:
            yield partial(_write, file)
            file.flush()
        if path and part and part != path:
            part.replace(path)
    except OSError as error:
        raise _Unwritable from error
    finally:
        if part and part != path:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _write(file: BinaryIO, line: bytes) -> None:
    try:
        file.write(line)
    except OSError as error:
        raise _Unwritable from error


@click.command("export")
@click.option("--owner", help="Only this owner's sessions.")
@click.option("--session", "session_id", help="Only the session of this id.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="A file; without, standard output.")
def export_sessions(owner: str | None, session_id: str | None, output: Path | None) -> None:
    """Write sessions out as JSON lines: all, those of one owner, or one."""
    end_at_sigterm()
    try:
        with connected() as connections, progress("exporting") as bar, _written(output) as write:
            report = _Report(bar)

            def counted(line: bytes) -> None:
                write(line)
                bar.advance(1)

            flow = write_out(connections.state, counted, report.damage, owner=owner, session_id=session_id)
            done = connections.run(flow)
            if owner is not None and not done.sessions:
                raise SessionNotFound(f"There is no session of owner {owner!r}; `sessioncache ls` shows owners.")
    except _Unwritable as error:
        if isinstance(error.__cause__, BrokenPipeError):
            raise error.__cause__ from None
        why = getattr(error.__cause__, "strerror", None)
        raise click.ClickException(f"The output cannot be written: {why}; what stood there is as it was.") from error
    click.echo(
        f"{done.sessions} sessions and {done.messages} messages exported; {report.damaged} could not be read", err=True
    )
    if report.damaged:
        sys.exit(1)
