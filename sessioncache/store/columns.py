"""The columns of a message that come from what it says, and what may stand in a text column."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sessioncache.message import decode, instant, to_json
from sessioncache.store.payloads import unreadable
from sessioncache.store.planned import NewMessage
from sessioncache.store.words import searchable

ROLE_CHARACTERS = 255


BODY = ("role", "body", "text", "words")
# In the order of `message_values`.
MESSAGE = ("session_id", "seq", "message_id", *BODY, "created_at")


def _body_values(packed: bytes) -> tuple[str | None, str, str, str | None]:
    try:
        data = decode(packed)
        body = to_json(data)
    except (ValueError, TypeError, RecursionError):
        raise unreadable() from None
    role, text = data.get("role"), storable(plain_text(data))
    return storable(role)[:ROLE_CHARACTERS] if isinstance(role, str) else None, body, text, searchable(text)


def body_columns(packed: bytes) -> dict[str, Any]:
    """Role, body, text and words of an encoded message.

    Raises:
        StoreRefused: it is none.
    """
    return dict(zip(BODY, _body_values(packed), strict=True))


def message_values(new: NewMessage) -> tuple[Any, ...]:
    """The row of a message, in the order of `MESSAGE`.

    Raises:
        StoreRefused: it is none.
    """
    return new.session_id, new.seq, new.message_id, *_body_values(new.packed), _instant(new.at_ms)


_instant = lru_cache(maxsize=1024)(instant)  # what came at once has one time


def message_row(new: NewMessage) -> dict[str, Any]:
    """The same, by name."""
    return dict(zip(MESSAGE, message_values(new), strict=True))


def storable(text: str) -> str:
    """Text for a column that people search; PostgreSQL takes no NUL there. The message itself keeps it."""
    return text.replace("\x00", "\ufffd")


def plain_text(message: Mapping[str, Any]) -> str:
    """What a person would read of it, for previews and search: the text, or the text blocks joined by a space."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    texts = (block.get("text") for block in blocks if isinstance(block, dict))
    return " ".join(text for text in texts if isinstance(text, str))
