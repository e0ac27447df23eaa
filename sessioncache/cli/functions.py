"""`sessioncache functions`: the functions for redis-cli are installed, compared with those of this version, and removed.

They need Redis alone: the database may be away, and nothing is asked of the layout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

from sessioncache import functions as library
from sessioncache.cli.context import connected
from sessioncache.cli.output import with_json, write_json
from sessioncache.cli.status import DONE, UNHEALTHY
from sessioncache.errors import HotTierRefused
from sessioncache.flow import Flow, run
from sessioncache.functions import Installed
from sessioncache.state import State

T = TypeVar("T")


@click.group()
def functions() -> None:
    """Functions for redis-cli, which show what is in Redis (Redis 7, Valkey)."""


def _in_redis(flow: Callable[[State], Flow[T]]) -> T:
    with connected() as connections:
        return run(flow(connections.state), connections.driver.perform)


@functions.command()
def load() -> None:
    """Install the functions, or bring them to this version."""
    before = _in_redis(library.install)
    done = "are there already" if before is Installed.CURRENT else "are installed"
    click.echo(f"{', '.join(library.NAMES)} {done}")


@functions.command()
@with_json
@click.pass_context
def check(context: click.Context, *, as_json: bool) -> None:
    """Compare the functions in Redis with those of this version; status 4 unless they are the same."""
    found = _in_redis(library.look)
    if found is Installed.UNSUPPORTED:
        raise HotTierRefused("This Redis has no functions; they need Redis 7 or Valkey.")
    if as_json:
        write_json({"library": library.LIBRARY, "installed": found.value, "functions": library.NAMES})
    else:
        click.echo(f"the functions are {found.value}")
    context.exit(DONE if found is Installed.CURRENT else UNHEALTHY)


@functions.command()
def unload() -> None:
    """Remove the functions; `load` brings them back."""
    click.echo("removed" if _in_redis(library.remove) else "there were none")
