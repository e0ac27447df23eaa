"""What is known of sessions besides their messages: rows for new ones, and changes of it.

The payload of a start is an object of columns. That of an update is ``{"set": columns, "add": counters, "metadata":
names}``; a name of the metadata that is None goes.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Text, Update, bindparam, cast, select, update

from sessioncache.foreign import parse_object
from sessioncache.info import without_none
from sessioncache.message import instant
from sessioncache.op import CLEAR, SWITCH, Op
from sessioncache.schema import sessions
from sessioncache.store.payloads import changes_of, columns_of
from sessioncache.store.planned import Diverged, Kept
from sessioncache.store.statements import chunks
from sessioncache.store.words import title_words

log = logging.getLogger("sessioncache.store")

# What a session that replaces another one keeps of it (session.lua says the same; a test compares what both do).
KEPT = ("owner", "origin", "display_name", "platform", "chat_type")
# What ops do to what is known of a session besides what they are named for. Of a clearing truncate.lua says the same; what
# a switch brings back is not suspended any more, or the next opening would end it.
EFFECTS: dict[str, dict[str, Any]] = {
    CLEAR: {"set": {"consolidated_seq": 0}, "metadata": {"summary": None}},
    SWITCH: {"set": {"suspended": False}},
}


# What a session may begin with, and what else there may be.
GIVEN = (*KEPT, "title", "title_words", "model", "provider", "base_url", "metadata")


def row_of(session_key: str, start: Op) -> dict[str, Any]:
    """The row of a session that begins."""
    at = instant(start.at_ms)
    given = columns_of(start)
    columns = dict.fromkeys((*GIVEN, "parent_id"))
    times = {"created_at": at, "updated_at": at, "last_accessed": at}
    return {**columns, **titled(given), "session_id": start.session_id, "session_key": session_key, **times}


def titled(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Columns with the words of the title, if they have one, for the search."""
    words = {"title_words": title_words(columns["title"])} if "title" in columns else {}
    return {**columns, **words}


def _keep_names(connection: Connection, session_id: str, replaced: str) -> None:
    """Let a session that begins keep the names of the one it replaces, where it has none of its own."""
    columns = [sessions.c[name] for name in KEPT]
    wanted = select(sessions.c.session_id, *columns).where(sessions.c.session_id.in_([session_id, replaced]))
    rows = {row.session_id: row._mapping for row in connection.execute(wanted)}  # noqa: SLF001 - SQLAlchemy's public name
    if session_id in rows and replaced in rows:
        ours, theirs = rows[session_id], rows[replaced]
        names = {name: theirs[name] for name in KEPT if ours[name] is None and theirs[name] is not None}
        if names:
            connection.execute(update(sessions).where(sessions.c.session_id == session_id).values(**names))


@dataclass(slots=True)
class Changed:
    """The updates of one session, put together."""

    columns: dict[str, Any] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    def add(self, payload: Mapping[str, Any]) -> None:
        """Put the next one on top."""
        self.columns.update(payload.get("set", {}))
        self.metadata.update(payload.get("metadata", {}))
        for name, amount in payload.get("add", {}).items():
            self.counters[name] = self.counters.get(name, 0) + amount


def change(connection: Connection, updates: Iterable[Op | Kept | Diverged]) -> None:
    """Do what updates, clearings and beginnings do to what is known of sessions, in their order."""
    changes: dict[str, Changed] = {}
    for one in updates:
        if isinstance(one, Kept):
            if one.replaced in changes:
                _change(connection, {one.replaced: changes.pop(one.replaced)})
            _keep_names(connection, one.session_id, one.replaced)
        else:
            op = one.op if isinstance(one, Diverged) else one
            payload = EFFECTS.get(op.kind) or changes_of(op)
            if isinstance(one, Diverged):
                payload = _without_seqs(payload)
            changes.setdefault(op.session_id, Changed()).add(payload)
    _change(connection, changes)


def _without_seqs(payload: Mapping[str, Any]) -> dict[str, Any]:
    columns = payload.get("set", {})
    return {**payload, "set": {name: columns[name] for name in columns if name != "consolidated_seq"}}


def _change(connection: Connection, changes: Mapping[str, Changed]) -> None:
    """Sessions that change alike, in one statement."""
    metadata = _merged(connection, {name: changed.metadata for name, changed in changes.items() if changed.metadata})
    alike: dict[tuple[frozenset[str], frozenset[str]], list[dict[str, Any]]] = {}
    for session_id, changed in changes.items():
        values = titled(changed.columns)
        if session_id in metadata:
            values["metadata"] = metadata[session_id]
        rows = alike.setdefault((frozenset(values), frozenset(changed.counters)), [])
        new = {f"new_{name}": value for name, value in values.items() if name not in changed.counters}
        rows.append({"its_id": session_id, **new, **{f"more_{name}": more for name, more in changed.counters.items()}})
    for (names, counters), rows in alike.items():
        if names or counters:
            connection.execute(_changing(names - counters, counters), rows)


def _changing(names: Collection[str], counters: Collection[str]) -> Update:
    new: dict[str, Any] = {name: bindparam(f"new_{name}") for name in sorted(names)}
    more = {name: sessions.c[name] + bindparam(f"more_{name}") for name in sorted(counters)}
    return update(sessions).where(sessions.c.session_id == bindparam("its_id")).values({**new, **more})


def _merged(connection: Connection, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The metadata of sessions with these names over it."""
    found = {}
    stands = select(sessions.c.session_id, cast(sessions.c.metadata, Text))
    for some in chunks(sorted(changes)):
        for session_id, text in connection.execute(stands.where(sessions.c.session_id.in_(some))):
            found[session_id] = without_none({**readable_object(text, session_id), **changes[session_id]})
    return found


def readable_object(text: str | None, session_id: str) -> dict[str, Any]:
    """The object in a JSON column; an empty one, with a warning, where it cannot be read: it spoils no other row."""
    try:
        return {} if text in {None, "", "null"} else parse_object(text)
    except ValueError:
        log.warning("a JSON column of session %s cannot be read and counts as empty", session_id)
        return {}


_ONE = update(sessions).where(sessions.c.session_id == bindparam("id"))


def end(connection: Connection, ends: Mapping[str, tuple[int, str]], resumed: Iterable[str]) -> None:
    """Let sessions end, and others go on."""
    if ends:
        rows = [{"id": key, "at": instant(at_ms), "why": why} for key, (at_ms, why) in ends.items()]
        connection.execute(_ONE.values(ended_at=bindparam("at"), end_reason=bindparam("why")), rows)
    on = [{"id": session_id} for session_id in sorted(resumed)]
    if on:
        connection.execute(_ONE.values(ended_at=None, end_reason=None), on)
