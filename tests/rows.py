"""Rows of sessions and messages, as the library writes them, for tests of the store alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count

from sqlalchemy import insert

from sessioncache.message import to_json
from sessioncache.schema import messages, sessions
from sessioncache.store.columns import plain_text
from sessioncache.store.words import searchable, title_words

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
serial = count(1)


def minutes(n: int) -> datetime:
    return NOON + timedelta(minutes=n)


def add(connection, session_id, said=(), *, title=None, at=0, **columns):
    """A session and what was said in it: texts, or whole messages."""
    times = dict.fromkeys(("created_at", "updated_at", "last_accessed"), minutes(at))
    row = {"session_id": session_id, "session_key": session_id, "title": title, "title_words": title_words(title), **times}
    connection.execute(insert(sessions).values({**row, "message_count": len(said), **columns}))
    rows = [message(session_id, n, one, at) for n, one in enumerate(said, 1)]
    if rows:
        connection.execute(insert(messages), rows)


def message(session_id, seq, said, at=0):
    data = {"role": "user", "content": said} if isinstance(said, str) else said
    plain = plain_text(data).replace("\x00", "\ufffd")
    return {
        "session_id": session_id, "seq": seq, "message_id": f"m{next(serial)}", "role": data.get("role"),
        "body": to_json(data), "text": plain, "words": searchable(plain), "created_at": minutes(at),
    }  # fmt: skip


def ids(found):
    return [getattr(each, "info", each).session_id for each in found]
