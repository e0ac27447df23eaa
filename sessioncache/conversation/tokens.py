"""How much a row weighs, in tokens and in bytes.

Tokens are an estimate unless the caller can count them: a quarter of the characters, and four for the row itself. What is
measured is the text of a row and the JSON of whatever in it is not text, so it is the same for the same row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from sessioncache.conversation.shapes import TEXTS, Row, is_item

Count = Callable[[str], int]

OVERHEAD = 4
CHARACTERS_PER_TOKEN = 4
# Of an item of the Responses API.
_VALUES = ("arguments", "input", "output", "summary")


def estimated(row: Row, count: Count | None = None) -> int:
    """About how many tokens a row costs, at least 4.

    Args:
        row: as the model is sent it.
        count: how many tokens a text has; None: a quarter of its characters.
    """
    text = "\n".join(part for part in _parts(row) if part)
    counted = len(text) // CHARACTERS_PER_TOKEN if count is None else count(text)
    return max(OVERHEAD, counted + OVERHEAD)


def _parts(row: Row) -> Iterator[str]:
    content = row.get("content")
    for part in content if isinstance(content, list) else [content]:
        yield _text(part)
    yield from (str(row.get(name) or "") for name in ("name", "tool_call_id"))
    if row.get("tool_calls"):
        yield _json(row["tool_calls"])
    yield str(row.get("reasoning_content") or "")
    if is_item(row):
        yield from (_json(row[name]) for name in _VALUES if row.get(name))


def _text(part: Any) -> str:
    """The text of a part of the content; its JSON where it is not text."""
    if isinstance(part, dict) and part.get("type") in TEXTS and isinstance(part.get("text"), str):
        part = part["text"]
    return part if isinstance(part, str) else "" if part is None else _json(part)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def size(row: Row) -> int:
    """The bytes of a row's compact JSON, in UTF-8."""
    return len(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode())
