"""The demo's input: JSON lines, one message each, with the key of its session beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from sessioncache.errors import InvalidInput
from sessioncache.keys import check_session_key
from sessioncache.message import encode

Conversations = dict[str, list[dict[str, Any]]]


def read_conversations(lines: Iterable[bytes], max_message_bytes: int, report: Callable[[str], None]) -> Conversations:
    """The messages of each session, in order.

    Args:
        lines: UTF-8, each a JSON object with ``session``, ``role``, ``content`` and anything else.
        max_message_bytes: the largest message accepted.
        report: told of each line that is skipped, by its number and why.
    """
    found: Conversations = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                key, message = _message(line, max_message_bytes)
            except (ValueError, RecursionError) as error:
                report(f"line {number} is skipped: {error}")
            else:
                found.setdefault(key, []).append(message)
    return found


def _message(line: bytes, max_message_bytes: int) -> tuple[str, dict[str, Any]]:
    message = json.loads(line.decode().removeprefix("\ufeff"))
    if not isinstance(message, dict):
        raise InvalidInput("it is not a JSON object.")
    missing = [name for name in ("session", "role", "content") if name not in message]
    if missing:
        raise InvalidInput(f"it lacks {', '.join(missing)}.")
    key = check_session_key(message.pop("session"))
    if not isinstance(message["role"], str):
        raise InvalidInput("its role is not a string.")
    encode(message, max_message_bytes)
    return key, message


def canonical(message: dict[str, Any]) -> str:
    """A text that two messages share only if they are equal, of the same types and key order."""
    return json.dumps(message, ensure_ascii=False)
