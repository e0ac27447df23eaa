"""Rows of ``sessions`` as the snapshots that callers get."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import Row, Text, cast

from sessioncache.arguments import MAX_NUMBER
from sessioncache.foreign import parse_object
from sessioncache.info import COUNTERS, LABELS, Info, usage_of
from sessioncache.schema import sessions

log = logging.getLogger("sessioncache.store")

# JSON as text: what cannot be read is then found row by row, and spoils no others.
_JSON = ("origin", "metadata")
_KEPT = ("title_words", "state", "deleted", "told", "last_seq")
COLUMNS = (
    *(column for column in sessions.c if column.name not in {*_JSON, *_KEPT}),
    *(cast(sessions.c[name], Text).label(name) for name in _JSON),
)


def info_of(row: Row[Any]) -> Info:
    """The snapshot in a row of `COLUMNS`. Of origin and metadata, what cannot be read is left out, and logged."""
    labels = {name: value for name in LABELS if (value := text_of(row, name)) is not None}
    return Info(
        session_id=row.session_id,
        key=text_of(row, "session_key") or "",
        version=None,
        owner=text_of(row, "owner"),
        title=text_of(row, "title"),
        display_name=text_of(row, "display_name"),
        platform=text_of(row, "platform"),
        chat_type=text_of(row, "chat_type"),
        origin=_json_object(row, "origin"),
        metadata=_json_object(row, "metadata") or {},
        archived=row.archived,
        important=row.important,
        suspended=row.suspended,
        message_count=number_of(row, "message_count"),
        consolidated_seq=number_of(row, "consolidated_seq"),
        usage=usage_of({name: number_of(row, name) for name in COUNTERS}, labels),
        created_at=row.created_at,
        updated_at=row.updated_at,
        last_accessed=row.last_accessed,
        last_message_at=row.last_message_at,
        ended_at=row.ended_at,
        end_reason=text_of(row, "end_reason"),
        parent_id=text_of(row, "parent_id"),
    )


def number_of(row: Row[Any], name: str) -> int:
    """A counter; 0, with a warning, for what is none: SQLite keeps anything in any column."""
    value = getattr(row, name)
    if type(value) is int and 0 <= value < MAX_NUMBER:
        return value
    log.warning("the %s of session %s in the store is no count; it counts as 0", name, row.session_id)
    return 0


def text_of(row: Row[Any], name: str) -> str | None:
    """A text; what SQLite keeps of another type in its column, as text."""
    value = getattr(row, name)
    if value is None or type(value) is str:
        return value
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _json_object(row: Row[Any], name: str) -> dict[str, Any] | None:
    text = getattr(row, name)
    try:
        return None if text in {None, "null"} else parse_object(text)
    except ValueError:
        pass  # said below
    log.warning("the %s of session %s in the store is no JSON object; it is left out", name, row.session_id)
    return None
