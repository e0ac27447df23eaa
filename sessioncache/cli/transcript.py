"""Messages as commands print them: a line that says which it is, and what a person would read of it; or as JSON.

Guarantee: nothing that a message holds is obeyed by a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from sessioncache.cli.output import harmless, write_json
from sessioncache.records import Record


def moment(at: datetime | None) -> str:
    """A time in ISO 8601, in UTC, to the second; ``""`` for none."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if at else ""


def write_message(session_id: str, record: Record, *, as_json: bool) -> None:
    """Print one message; as JSON it is whole and exact."""
    if as_json:
        names = ("seq", "id", "created_at", "readable", "data")
        write_json({"session_id": session_id, **{name: getattr(record, name) for name in names}})
        return
    role = record.data.get("role")
    head = f"#{record.seq} {moment(record.created_at)} {role if isinstance(role, str) else ''}"
    click.secho(harmless(head).rstrip(), bold=True)
    for line in _lines(record) if record.readable else ["(cannot be read any more)"]:
        click.echo(f"  {line}".rstrip())


def _lines(record: Record) -> Iterator[str]:
    content = record.data.get("content")
    for part in content if isinstance(content, list) else [content]:
        for line in _text(part).splitlines():
            yield harmless(line.expandtabs(4))
    besides = [name for name in record.data if name not in {"role", "content"}]
    if besides:
        yield harmless(f"(besides: {', '.join(besides)})")


def _text(part: Any) -> str:
    """The text of a part of a message, or what kind of part it is."""
    if isinstance(part, dict):
        text = part.get("text")
        return text if isinstance(text, str) else f"[{part.get('type', 'no text')}]"
    return "" if part is None else str(part)
