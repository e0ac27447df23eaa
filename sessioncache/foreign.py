"""Bytes that anybody may have written, as JSON values: from msgpack, as Redis holds them, and from text, as SQL does.

Guarantees: whatever they hold, the answer is a value of plain JSON types or a ValueError; nothing in them is ever run, and
no error tells what they held. Msgpack's extensions, such as times, and binary data are refused, as is what claims to be
larger than it is, or is nested too deeply to be walked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgpack
import orjson

# Below any length there is, none included, so that binary data and extensions are refused.
_NONE = -2
_FAULTS = (ValueError, msgpack.UnpackException, TypeError, OverflowError, MemoryError, RecursionError)


def unpack(packed: bytes) -> Any:
    """The JSON value in some msgpack.

    Raises:
        ValueError: it holds none.
    """
    return unpack_all([packed])[0]


def unpack_all(packed: Iterable[bytes]) -> list[Any]:
    """The JSON value in each of these.

    Raises:
        ValueError: one of them holds none.
    """
    unpackb = msgpack.unpackb
    try:
        return [unpackb(one, max_bin_len=_NONE, max_ext_len=_NONE) for one in packed]
    except _FAULTS:
        raise ValueError("no msgpack of a JSON value") from None


def parse_object(text: str | bytes) -> dict[str, Any]:
    """The object in some JSON.

    Raises:
        ValueError: it holds none.
    """
    try:
        found = _parsed(text)
    except (ValueError, TypeError, OverflowError, MemoryError, RecursionError):
        raise ValueError("no JSON") from None
    if type(found) is not dict:
        raise ValueError("no JSON object")
    return found


def _parsed(text: str | bytes) -> Any:
    """The value in some JSON: from orjson if it writes the same text again, which it does not where it lost anything."""
    try:
        raw = text.encode() if type(text) is str else text
        found = orjson.loads(raw)
        if orjson.dumps(found) == raw:
            return found
    except (ValueError, TypeError):
        pass  # json says why not, or reads what orjson does not: other encodings, integers of any size
    return json.loads(text, parse_constant=_no_constant)


def json_text(value: Any) -> str:
    """The JSON text of a value, as short as it can be.

    Raises:
        ValueError, TypeError, RecursionError: JSON cannot say it.
    """
    try:
        text = orjson.dumps(value)
        if b"null" not in text or orjson.loads(text) == value:  # orjson writes NaN as null
            return text.decode()
    except TypeError:
        pass  # json says why not, or writes what orjson does not: integers of any size
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _no_constant(_name: str) -> None:
    raise ValueError("a number that JSON does not have")
