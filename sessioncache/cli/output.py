"""What commands print: text for people, or with ``--json`` one JSON value on a line, for programs.

Times are ISO 8601 in UTC. Text from outside (titles, messages) is printed without the control characters that a terminal
would obey.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

Command = TypeVar("Command", bound=Callable[..., Any])


def with_json(command: Command) -> Command:
    """Give a reading command ``--json``, as its argument ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, one value on a line.")(command)


def write_json(value: Any) -> None:
    """Print a value as JSON, on one line; a dataclass as an object of its fields. What is not seen stands as an escape."""
    click.echo(_UNSEEN.sub(_escaped, json.dumps(value, ensure_ascii=False, default=_plain)))


# Control and format characters that JSON lets pass as they are, a terminal may not: C1 controls, line ends, overrides of
# the direction of writing.
_UNSEEN = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable):
        return list(value)
    raise TypeError(f"{type(value).__name__} is nothing that JSON can say.")


def harmless(text: str) -> str:
    """Text on one line, without what a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in text)


def write_facts(facts: Mapping[str, object]) -> None:
    """Print names and values, one pair on a line."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        click.echo(f"{name:{width}}  {harmless(str(value))}")


def write_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print rows under their columns, values whole: on a terminal in as many lines as they need, in a pipe in one."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(harmless(str(value))) for value in row))
    console = Console()
    if not console.is_terminal:
        console.width = 10_000
    console.print(table)
