"""Hermes's SQLite database: tables ``sessions`` and ``messages``.

A session's key is the one that an index (`hermes_index`) gives it, beside the database or in the folder ``sessions`` there,
which then also says what the table does not; else ``hermes:<id>``. A session that ended is not current. Messages come in
the order of their rows. Those that hermes took out of the conversation (``active`` is 0: undone or compressed) are none.

A message is role and content, and every other column known here that says something; lists, which hermes writes as JSON
behind a mark, come back as lists. The user's id and the model's settings, which have no column here, become metadata.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sessioncache.keys import check_name, check_session_key
from sessioncache.transfer import columns, hermes_index, tables
from sessioncache.transfer.columns import Layout
from sessioncache.transfer.files import Unreadable
from sessioncache.transfer.found import FoundSession, Reading
from sessioncache.transfer.hermes_index import Entry
from sessioncache.transfer.lines import packed, parsed
from sessioncache.transfer.tables import About, Values

_JSON = ("tool_calls", "reasoning_details", "codex_reasoning_items", "codex_message_items")
_PLAIN = (
    "tool_call_id",
    "tool_name",
    "finish_reason",
    "token_count",
    "reasoning",
    "reasoning_content",
    "platform_message_id",
)
_MARKS = ("\x00json:", "\x01json:")

_METADATA: Layout = {"user_id": ("user_id", columns.name), "model_config": ("model_config", columns.json_text)}
_COLUMNS: Layout = {
    "title": ("title", columns.title),
    "platform": ("source", columns.name),
    "model": ("model", columns.name),
    "provider": ("billing_provider", columns.name),
    "base_url": ("billing_base_url", columns.name),
    "parent_id": ("parent_session_id", columns.name),
    "end_reason": ("end_reason", columns.reason),
    **columns.TOKENS,
    **columns.COSTS,
}
_TIMES = ("started_at", "ended_at")


def size(path: str) -> int:
    """How many rows there are."""
    return tables.size(path, _layout({}, None))


def read(path: str, reading: Reading) -> Iterator[FoundSession]:
    """The sessions of a database."""
    entries = hermes_index.entries(_directory_of_index(path), reading)
    yield from tables.read(path, reading, _layout(entries, reading))


def _directory_of_index(path: str) -> Path:
    beside = Path(os.path.realpath(path)).parent
    return beside if os.path.lexists(beside / hermes_index.INDEX) else beside / "sessions"


def _layout(entries: Mapping[str, Entry], reading: Reading | None) -> tables.Layout:
    return tables.Layout(
        sessions="sessions",
        messages="messages",
        session_columns=[*_METADATA, *(theirs for theirs, _made in _COLUMNS.values()), *_TIMES],
        message_columns=["role", "content", "active", *_JSON, *_PLAIN],
        by_time=False,
        zone=None,
        session=partial(_session, entries, reading),
        message=_message,
        message_id=lambda told: f"hermes-{told}",
    )


def _session(entries: Mapping[str, Entry], reading: Reading | None, values: Values, about: About) -> FoundSession:
    session_id = check_name(values["id"], "session id")
    entry = entries.get(session_id)
    key = check_session_key(entry.session_key if entry else f"hermes:{session_id}")
    found = dict(_of_entry(entry, reading) if entry and reading else {})
    found |= columns.columns(values, _COLUMNS, about.refused) | columns.metadata_of(values, _METADATA, about.refused)
    times = columns.columns(values, {one: (one, columns.time_in(about.zone)) for one in _TIMES}, about.refused)
    created_at = times.get("started_at") or about.first or about.changed
    ended_at = times.get("ended_at")
    if ended_at:
        found["ended_at"] = ended_at
    current = not {"ended_at", "end_reason"} & set(found)
    return FoundSession(session_id, key, current, created_at, about.last or ended_at or created_at, found)


def _of_entry(entry: Entry, reading: Reading) -> dict[str, Any]:
    return columns.columns(entry.told, hermes_index.COLUMNS, partial(hermes_index.report, reading, entry.number))


def _message(values: Values, reading: Reading) -> bytes | None:
    if values.get("active") == 0:
        return None
    found = {"role": values.get("role"), "content": _content(values.get("content"))}
    found |= {name: columns.json_text(values[name]) for name in _JSON if values.get(name) is not None}
    found |= {name: values[name] for name in _PLAIN if values.get(name) is not None}
    return packed(found, reading)


def _content(told: Any) -> Any:
    """What was marked as JSON is that, unless it is not; all other text is text."""
    if type(told) is not str or not told.startswith(_MARKS):
        return told
    try:
        return parsed(told[len(_MARKS[0]) :])
    except Unreadable:
        return told
