"""`sessioncache dead`: the ops that were set aside, because SQL refused them or what they were for is gone.

Guarantees: `list` and whatever asks print no message's content; `show` and `export`, which are asked for it, do.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from sessioncache import dead as letters
from sessioncache.cli.asking import ask, with_yes
from sessioncache.cli.context import connected, end_at_sigterm
from sessioncache.cli.output import harmless, with_json, write_facts, write_json, write_table
from sessioncache.cli.progress import progress
from sessioncache.cli.status import NOT_FOUND
from sessioncache.connect import BlockingConnections
from sessioncache.dead import DeadLetter

Command = TypeVar("Command", bound=Callable[..., Any])

_CONTENT = ("message", "change")


@click.group()
def dead() -> None:
    """Ops that were set aside: look at them, try them again, drop them.

    Each has an id, by which list shows it and the others take it.
    """


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters: by id, of a session key, or all."""

    ids: tuple[str, ...]
    session_key: str | None

    def has(self, letter: DeadLetter) -> bool:
        """Whether this is one of them."""
        return not self.ids or letter.id in self.ids


def _which(command: Command) -> Command:
    """Give a command that acts IDs, ``--key`` and ``--all``; one of them must be given."""
    for option in (
        click.option("--all", "every", is_flag=True, help="All dead letters."),
        click.option("--key", "session_key", help="Those of one session key."),
        click.argument("ids", nargs=-1, metavar="[ID]..."),
    ):
        command = option(command)
    return command


def _wanted(ids: tuple[str, ...], session_key: str | None, *, every: bool) -> Wanted:
    if bool(ids) + (session_key is not None) + every != 1:
        raise click.UsageError("Name dead letters by their ids, or by --key KEY, or --all of them.")
    return Wanted(ids, session_key)


def _chosen(connections: BlockingConnections, wanted: Wanted) -> list[DeadLetter]:
    """The letters that are wanted."""
    found: list[DeadLetter] = []

    def see(letter: DeadLetter) -> None:
        if wanted.has(letter):
            found.append(letter)

    connections.run(letters.walk(connections.state, wanted.session_key, see))
    return found


def _miss(wanted: Wanted, found: Iterable[str]) -> None:
    """End with what says that some are not there.

    Raises:
        Exit: they are not.
    """
    missing = set(wanted.ids) - set(found)
    for one in sorted(missing):
        click.echo(f"There is no dead letter {harmless(one)}.", err=True)
    if missing:
        raise click.exceptions.Exit(NOT_FOUND)


@dead.command("list")
@click.option("--key", "session_key", help="Those of one session key.")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="So many at most.")
@with_json
def list_letters(session_key: str | None, limit: int, *, as_json: bool) -> None:
    """List them: id, time, reason, session key and id, kind and version. No message is shown."""
    with connected() as connections:
        found = connections.run(letters.letters(connections.state, session_key, limit + 1))
    shown = found[:limit]
    if as_json:
        for one in shown:
            write_json({name: value for name, value in one.to_dict().items() if name not in _CONTENT})
    else:
        _write(shown)
    if len(found) > limit:
        click.echo(f"There are more than {limit}; --limit shows more.", err=True)


def _write(shown: list[DeadLetter]) -> None:
    rows = (
        (one.id, one.at.isoformat(timespec="seconds"), one.reason, one.session_key, one.session_id, one.kind, one.version)
        for one in shown
    )
    write_table(("id", "time", "reason", "session key", "session id", "kind", "version"), rows)


@dead.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@with_json
def show(ids: tuple[str, ...], *, as_json: bool) -> None:
    """Show dead letters with all that they hold: the message too."""
    wanted = Wanted(ids, None)
    with connected() as connections:
        found = _chosen(connections, wanted)
    for one in found:
        if as_json:
            write_json(one.to_dict())
        else:
            _write_whole(one)
    _miss(wanted, [one.id for one in found])


def _write_whole(letter: DeadLetter) -> None:
    facts = letter.to_dict()
    write_facts({name: value for name, value in facts.items() if name not in _CONTENT})
    for name in _CONTENT:
        if facts[name] is not None:
            for line in f"{name} {json.dumps(facts[name], indent=2, ensure_ascii=False)}".splitlines():
                click.echo(harmless(line))
    click.echo()


@dead.command()
@_which
def retry(ids: tuple[str, ...], session_key: str | None, *, every: bool) -> None:
    """Try their ops again, as new ones at the end of their session's log, once the cause is mended.

    What cannot be queued stays: what is no op at all, and the start of a session whose key has another one by now. What SQL
    refuses again comes back as a dead letter.
    """
    wanted = _wanted(ids, session_key, every=every)
    end_at_sigterm()
    with connected() as connections:
        found = _chosen(connections, wanted)
        with progress("queueing", len(found)) as bar:
            queued = connections.run(letters.retry(connections.state, found, bar.told))
    stay = len(found) - queued
    click.echo(f"{queued} ops queued again" + (f"; {stay} stay" if stay else ""))
    _miss(wanted, [one.id for one in found])


@dead.command()
@_which
@with_yes
def drop(ids: tuple[str, ...], session_key: str | None, *, every: bool, yes: bool) -> None:
    """Remove dead letters for good. What they hold is nowhere else: export them before."""
    wanted = _wanted(ids, session_key, every=every)
    end_at_sigterm()
    with connected() as connections:
        found = _chosen(connections, wanted)
        if found:
            ask(f"Drop {len(found)} dead letters for good?", yes=yes)
        with progress("dropping", len(found)) as bar:
            dropped = connections.run(letters.drop(connections.state, found, bar.told))
    click.echo(f"{dropped} dead letters dropped")
    _miss(wanted, [one.id for one in found])


@dead.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--key", "session_key", help="Those of one session key.")
def export(ids: tuple[str, ...], session_key: str | None) -> None:
    """Write them as JSON lines, with what they hold: those named, those of a key, or all.

    `message` is that of an append or an edit, `change` what any other op carries, `raw` the letter itself, in base64.
    """
    end_at_sigterm()
    wanted, found = Wanted(ids, session_key), list[str]()
    with connected() as connections, progress("exporting") as bar:

        def see(letter: DeadLetter) -> None:
            if wanted.has(letter):
                write_json(letter.to_dict() | {"raw": b64encode(letter.raw).decode()})
                found.append(letter.id)
                bar.advance(1)

        connections.run(letters.walk(connections.state, session_key, see))
    click.echo(f"{len(found)} dead letters exported", err=True)
    _miss(wanted, found)
