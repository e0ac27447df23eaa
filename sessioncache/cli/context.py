"""What every command begins with: the settings in force, a cache over them, and an end at SIGTERM that cleans up.

The options of the whole command, ``--config`` and ``--set``, are kept in click's context, which belongs to the thread that
runs the command: ask there.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import click

from sessioncache.cli.status import TERMINATED
from sessioncache.client import SessionCache
from sessioncache.config import Settings, settings_from
from sessioncache.connect import BlockingConnections
from sessioncache.sources import FILE, variable

_FILE, _SET = "sessioncache.config", "sessioncache.set"


def _keep_file(context: click.Context, _parameter: click.Parameter, path: str | None) -> None:
    if path is not None:
        context.meta[_FILE] = str(Path(path).absolute())


def _keep_set(context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> None:
    known = {field.name for field in fields(Settings)}
    pairs = [word.partition("=") for word in words]
    for name, equals, _ in pairs:
        if not equals or name not in known:
            raise click.BadParameter("write NAME=VALUE, with a name that `sessioncache config` lists.")
    context.meta[_SET] = {name: value for name, _, value in pairs}


def with_settings(group: click.Group) -> click.Group:
    """Give the whole command ``--config`` and ``--set``."""
    group.params += [
        click.Option(
            ["--config"],
            type=click.Path(exists=True, dir_okay=False),
            expose_value=False,
            callback=_keep_file,
            metavar="FILE",
            help=f"A TOML file of settings, in place of {FILE}.",
        ),
        click.Option(
            ["--set"],
            multiple=True,
            expose_value=False,
            callback=_keep_set,
            metavar="NAME=VALUE",
            help="A setting, whatever variables and file say. Can be repeated.",
        ),
    ]
    return group


def arguments() -> dict[str, str]:
    """The settings that were given as arguments of the command."""
    context = click.get_current_context(silent=True)
    return dict(context.meta.get(_SET, {})) if context else {}


def environment() -> dict[str, str]:
    """The environment, with the file of settings that the command was given."""
    context = click.get_current_context(silent=True)
    file = context.meta.get(_FILE) if context else None
    return {**os.environ, **({FILE: file} if file else {})}


def passed_on() -> dict[str, str]:
    """The environment that gives a child process the same settings."""
    return {**environment(), **{variable(name): value for name, value in arguments().items()}}


def settings() -> Settings:
    """The settings of this command.

    Raises:
        ConfigurationError: one cannot be used.
    """
    return settings_from(arguments(), environment())


def _of_operator() -> Settings:
    """Settings of somebody who looks at a system or mends it, whatever Redis may evict there: of that a warning tells."""
    return replace(settings(), allow_eviction=True)


@contextmanager
def opened() -> Iterator[SessionCache]:
    """A cache over what the settings name."""
    with SessionCache(settings=_of_operator()) as cache:
        yield cache


@contextmanager
def connected() -> Iterator[BlockingConnections]:
    """Connections over what the settings name, to run flows that no door has."""
    connections = BlockingConnections(_of_operator())
    try:
        yield connections
    finally:
        connections.close()


def end_at_sigterm() -> None:
    """Have SIGTERM end the command as an exit, so that what it began is ended and removed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
