"""Rows of ``sessions`` as the snapshots that callers get."""

from __future__ import annotations

import json
import logging
from typing import Any

from sqlalchemy import Row, Text, cast

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
    labels = {name: value for name in LABELS if (value := getattr(row, name)) is not None}
    return Info(
        session_id=row.session_id,
        key=row.session_key or "",
        version=None,
        owner=row.owner,
        title=row.title,
        display_name=row.display_name,
        platform=row.platform,
        chat_type=row.chat_type,
        origin=_json_object(row, "origin"),
        metadata=_json_object(row, "metadata") or {},
        archived=row.archived,
        important=row.important,
        suspended=row.suspended,
        message_count=row.message_count,
        consolidated_seq=row.consolidated_seq,
        usage=usage_of({name: getattr(row, name) for name in COUNTERS}, labels),
        created_at=row.created_at,
        updated_at=row.updated_at,
        last_accessed=row.last_accessed,
        last_message_at=row.last_message_at,
        ended_at=row.ended_at,
        end_reason=row.end_reason,
        parent_id=row.parent_id,
    )


def _json_object(row: Row[Any], name: str) -> dict[str, Any] | None:
    text = getattr(row, name)
    try:
        value = None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        value = text
    if value is None or type(value) is dict:
        return value
    log.warning("the %s of session %s in the store is no JSON object; it is left out", name, row.session_id)
    return None
