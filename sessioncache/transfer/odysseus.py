"""Odysseus's SQLite database: tables ``sessions`` and ``chat_messages``.

A session's key is its id. Messages come in the order of their times, then of their rows; times that name no zone are UTC,
whatever zone is asked for. Content that is a JSON list of objects, each with a text ``type``, is that list; all other text
stays text, whatever it looks like.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from typing import Any

from sessioncache.keys import check_name
from sessioncache.transfer import columns, tables
from sessioncache.transfer.columns import Layout
from sessioncache.transfer.files import Unreadable
from sessioncache.transfer.found import FoundSession, Reading
from sessioncache.transfer.lines import packed, parsed
from sessioncache.transfer.tables import About, Values

_TIME = columns.time_in(UTC)
_METADATA: Layout = {"headers": ("headers", columns.json_text), "rag": ("rag", columns.flag)}
_COLUMNS: Layout = {
    "title": ("name", columns.title),
    "base_url": ("endpoint_url", columns.name),
    "model": ("model", columns.name),
    "archived": ("archived", columns.flag),
    "important": ("is_important", columns.flag),
    "last_accessed": ("last_accessed", _TIME),
    "last_message_at": ("last_message_at", _TIME),
}
_TIMES: Layout = {"created_at": ("created_at", _TIME), "updated_at": ("updated_at", _TIME)}


def size(path: str) -> int:
    """How many rows there are."""
    return tables.size(path, _LAYOUT)


def read(path: str, reading: Reading) -> Iterator[FoundSession]:
    """The sessions of a database."""
    return tables.read(path, reading, _LAYOUT)


def _session(values: Values, about: About) -> FoundSession:
    session_id = check_name(values["id"], "session id")
    found = columns.columns(values, _COLUMNS, about.refused) | columns.metadata_of(values, _METADATA, about.refused)
    if values.get("owner") not in (None, ""):
        found["owner"] = check_name(values["owner"], "owner")
    times = columns.columns(values, _TIMES, about.refused)
    created_at = times.get("created_at") or about.first or about.changed
    updated_at = times.get("updated_at") or found.get("last_message_at") or about.last or created_at
    return FoundSession(session_id, session_id, True, created_at, updated_at, found)  # noqa: FBT003 - current


def _message(values: Values, reading: Reading) -> bytes:
    found = {"role": values.get("role"), "content": _content(values.get("content"))}
    told = values.get("meta_data")
    metadata = None if told is None or told == "" else columns.json_text(told)
    return packed(found | ({"metadata": metadata} if metadata else {}), reading)


def _content(told: Any) -> Any:
    """A list of blocks, if it is one; else the text as it is."""
    if type(told) is not str or not told.startswith("["):
        return told
    try:
        blocks = parsed(told)
    except Unreadable:
        return told
    return blocks if blocks and all(map(_is_block, blocks)) else told


def _is_block(value: object) -> bool:
    return type(value) is dict and type(value.get("type")) is str


_LAYOUT = tables.Layout(
    sessions="sessions",
    messages="chat_messages",
    session_columns=[theirs for layout in (_COLUMNS, _METADATA, _TIMES) for theirs, _made in layout.values()] + ["owner"],
    message_columns=["role", "content", "meta_data"],
    by_time=True,
    zone=UTC,
    session=_session,
    message=_message,
    message_id=str,
)
