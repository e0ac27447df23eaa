"""Asking before what cannot be undone: on a terminal, unless `--yes` was given; without a terminal it is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from sessioncache.cli.output import harmless

Command = TypeVar("Command", bound=Callable[..., Any])


def with_yes(command: Command) -> Command:
    """Give a command ``--yes``, as its argument ``yes``."""
    return click.option("--yes", is_flag=True, help="Do not ask.")(command)


def ask(question: str, *, yes: bool) -> None:
    """Go on if that is wanted.

    Raises:
        Abort: it is not.
        UsageError: there is nobody to ask.
    """
    if not yes:
        _needs_terminal(question)
        click.confirm(harmless(question), abort=True, err=True)


def ask_name(question: str, name: str, *, yes: bool) -> None:
    """Go on if the name is typed again, for what would hurt most if it were the wrong one.

    Raises:
        Abort: another name is typed.
        UsageError: there is nobody to ask.
    """
    if yes:
        return
    _needs_terminal(question)
    if click.prompt(harmless(question), err=True) != name:
        click.echo("That is another name; nothing was done.", err=True)
        raise click.Abort


def _needs_terminal(question: str) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError(f"There is no terminal to ask on: {harmless(question)} If so, give --yes.")
