"""`sessioncache repartition`: another number of partitions, while servers and workers run.

What it does step by step, and why nothing is lost, `sessioncache.repartition` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from sessioncache import relocation
from sessioncache import repartition as repartitioning
from sessioncache.cli.asking import ask, with_yes
from sessioncache.cli.context import connected, end_at_sigterm
from sessioncache.cli.output import write_facts
from sessioncache.keys import MAX_PARTITIONS

FACTS = {
    "before": "partitions before",
    "partitions": "partitions now",
    "copies": "hot copies dropped",
    "ops": "ops drained",
    "relocated": "dead letters and holds moved",
}


@click.command()
@click.argument("number", type=click.IntRange(1, MAX_PARTITIONS))
@with_yes
def repartition(number: int, *, yes: bool) -> None:
    """Change the number of partitions, while servers and workers run.

    Nothing is lost. All pending logs are drained into the database and all hot copies dropped, which takes seconds for
    10,000 sessions; meanwhile calls are refused with Repartitioning, which says to try again. Afterwards start servers and
    workers anew with SESSIONCACHE_PARTITIONS set to the number: those of the old one are refused with LayoutMismatch.
    Turns that are held end, and holds that are to be kept have to be taken again by servers of the new number.

    It may be interrupted or killed at any point: run it again and it completes the change, or run it with the old number
    to take the change back; after a kill that is refused for up to a minute, as a second one at the same time is.
    What cannot be drained (a session key that is stopped) is found before anybody is refused. It needs the database, but
    no workers; it is not for a Redis Cluster.

    All servers and workers must be of this release: earlier ones do not ask.
    """
    end_at_sigterm()
    ask(f"Calls are refused until it is done. Change the number of partitions to {number}?", yes=yes)
    with connected() as connections, _progress() as report:
        done = connections.run_apart(repartitioning.repartition(connections.state, number, report))
    if done.before == number and not done.copies + done.ops + done.relocated:
        click.echo(f"It is laid out for {number} partitions; nothing is to be done.")
        return
    write_facts({title: getattr(done, name) for name, title in FACTS.items()})
    click.echo(f"Start servers and workers anew with SESSIONCACHE_PARTITIONS={number}.")


@contextmanager
def _progress() -> Iterator[relocation.Report]:
    """What is being done and how much of it is done, where that is seen on a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _what, _by: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:.0f}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, object] = {}

        def report(what: str, by: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=None)
            progress.advance(tasks[what], by)  # type: ignore[arg-type]  # a TaskID is an int

        yield report
