"""`cleanup`, `prune` and `retention`: now, by hand, what workers do as the settings say.

Each is one or two chores of `sessioncache.housekeeping`, with all that those leave alone. Broken off, it is given again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from sessioncache import housekeeping
from sessioncache.cli.asking import ask, with_yes
from sessioncache.cli.context import connected, end_at_sigterm
from sessioncache.cli.output import harmless
from sessioncache.cli.progress import progress
from sessioncache.cli.status import FAILED
from sessioncache.config import Settings
from sessioncache.housekeeping import Kept

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_MOST = 100 * 365 * 86_400.0
_SETTINGS = {chore.name: chore.age for chore in housekeeping.CHORES}
# What each chore does, for a question, and for what came of it.
_DOES = {
    "deleted": "delete sessions without a message that began more than",
    "archived": "archive sessions that were last used more than",
    "pruned": "end sessions that were last active more than",
    "retired": "delete sessions that ended more than",
}


def _age(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    """An age like 90d, 12h, 30m, 2w or 3600 (seconds), in seconds."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)([smhdw]?)", text)
    seconds = float(found[1]) * _UNITS[found[2] or "s"] if found else 0.0
    if not 0 < seconds <= _MOST:
        raise click.BadParameter(f"{harmless(text)!r} is no age like 90d, 12h, 30m or 3600 (seconds).")
    return seconds


def _said(age: float) -> str:
    """An age in the largest unit of which it is a whole number."""
    unit = max((one for one in _UNITS if not age % _UNITS[one]), key=_UNITS.__getitem__, default="s")
    return f"{age / _UNITS[unit]:g}{unit}"


def _options(command: Command) -> Command:
    for option in (
        click.option("--dry-run", is_flag=True, help="Change nothing; say what would be done."),
        click.option(
            "--older-than", callback=_age, metavar="AGE", help="In place of the setting: 90d, 12h, 30m, or seconds."
        ),
        with_yes,
    ):
        command = option(command)
    return command


@click.command()
@_options
def cleanup(*, dry_run: bool, older_than: float | None, yes: bool) -> None:
    """Delete empty sessions and archive old ones.

    Sessions without a message go when they are older than the setting empty_after; those with messages that nobody opened,
    read or wrote for archive_after are archived, unless they are important. --older-than stands for both settings.
    """
    _keep_house(("deleted", "archived"), older_than, dry_run=dry_run, yes=yes)


@click.command()
@_options
def prune(*, dry_run: bool, older_than: float | None, yes: bool) -> None:
    """End sessions without activity for longer than the setting prune_after.

    Their messages stay in the database; the next message under the key begins a new session. Suspended sessions and those
    that somebody holds are left alone.
    """
    _keep_house(("pruned",), older_than, dry_run=dry_run, yes=yes)


@click.command()
@_options
def retention(*, dry_run: bool, older_than: float | None, yes: bool) -> None:
    """Delete sessions, with their messages, that ended longer ago than the setting retention says."""
    _keep_house(("retired",), older_than, dry_run=dry_run, yes=yes)


def _keep_house(chores: tuple[str, ...], older_than: float | None, *, dry_run: bool, yes: bool) -> None:
    end_at_sigterm()
    with connected() as connections:
        ages = _ages(connections.settings, chores, older_than)
        if not dry_run:
            ask(_question(ages), yes=yes)
        with progress("looking at sessions") as bar:
            flow = housekeeping.keep_house(connections.state, dry_run=dry_run, ages=ages, progress=bar.told)
            kept = connections.run(flow)
    _tell(kept, ages, dry_run=dry_run)


def _ages(settings: Settings, chores: tuple[str, ...], older_than: float | None) -> dict[str, float]:
    """How old is old for each chore that is to be done, in seconds."""
    ages = {name: older_than or getattr(settings, _SETTINGS[name]) for name in chores}
    if not any(ages.values()):
        names = " and ".join(_SETTINGS[name] for name in chores) + (" are" if len(chores) > 1 else " is")
        raise click.UsageError(f"By the settings nothing is ever old: {names} 0. Say it by --older-than, like 90d.")
    return {name: age for name, age in ages.items() if age}


def _question(ages: dict[str, float]) -> str:
    parts = (f"{_DOES[name]} {_said(age)} ago" for name, age in ages.items())
    question = ", and ".join(parts)
    return f"{question[0].upper()}{question[1:]}?"


def _tell(kept: Kept, ages: dict[str, float], *, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    counts = ", ".join(f"{getattr(kept, name)} {would}{_verb(name)}" for name in ages)
    click.echo(f"sessions: {counts}; {kept.left} left alone, in use or changed meanwhile")
    for session_id, why in kept.failed.items():
        click.echo(f"session {harmless(session_id)}: {harmless(why)}", err=True)
    if kept.failed:
        raise click.exceptions.Exit(FAILED)


def _verb(name: str) -> str:
    return {"pruned": "ended", "retired": "deleted"}.get(name, name)
