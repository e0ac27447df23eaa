"""How far it is, on standard error, where that is a terminal: one bar, which goes when it is done.

Guarantee: what is printed meanwhile goes where it is to go; on the same terminal it stands above the bar.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sessioncache.flow import unseen


def _nothing(_by: int) -> None:
    """Nobody looks on."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar that may be there.

    Attributes:
        console: where anything else that is told meanwhile goes.
        told: what a flow calls as its ``progress``.
        advance: the same by how much more is done.
    """

    console: Console
    told: Callable[[int, int | None], object] = unseen
    advance: Callable[[int], object] = _nothing


@contextmanager
def progress(title: str, total: int | None = None) -> Iterator[Bar]:
    """A bar of so much to do; None where that is not known, or is told later."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Bar(console)
        return
    count = TextColumn("{task.completed:,.0f}")
    columns = (TextColumn("{task.description}"), BarColumn(), count, TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as shown:
        task = shown.add_task(title, total=total)
        yield Bar(console, partial(_tell, shown, task), partial(shown.advance, task))


def _tell(shown: Progress, task: TaskID, done: int, of: int | None) -> None:
    shown.update(task, completed=done, total=of)
