"""The columns of a message that come from what it says, and what may stand in a text column."""

from __future__ import annotations

from typing import Any

import msgpack

from sessioncache.errors import StoreRefused
from sessioncache.message import decode, instant, plain_text, to_json
from sessioncache.store.planned import NewMessage
from sessioncache.store.words import searchable

ROLE_CHARACTERS = 255


def body_columns(packed: bytes) -> dict[str, Any]:
    """Role, body and text of an encoded message."""
    data = unpacked_object(packed)
    role, text = data.get("role"), storable(plain_text(data))
    return {
        "role": storable(role)[:ROLE_CHARACTERS] if isinstance(role, str) else None,
        "body": to_json(data),
        "text": text,
        "words": searchable(text),
    }


def message_row(new: NewMessage) -> dict[str, Any]:
    """The row of a message."""
    named = {"session_id": new.session_id, "seq": new.seq, "message_id": new.message_id}
    return {**named, **body_columns(new.packed), "created_at": instant(new.at_ms)}


def unpacked_object(packed: bytes) -> dict[str, Any]:
    """The object in a payload.

    Raises:
        StoreRefused: it holds none.
    """
    try:
        return decode(packed)
    except (ValueError, msgpack.UnpackException) as error:
        raise StoreRefused("The payload of an op cannot be read; look at it with redis-cli.", reason="payload") from error


def storable(text: str) -> str:
    """Text for a column that people search; PostgreSQL takes no NUL there. The message itself keeps it."""
    return text.replace("\x00", "\ufffd")
