"""Bytes that anybody may have written, as JSON values: from msgpack, as Redis holds them, and from text, as SQL does.

Guarantees: whatever they hold, the answer is a value of plain JSON types or a ValueError; nothing in them is ever run, and
no error tells what they held. Msgpack's extensions, such as times, and binary data are refused, as is what claims to be
larger than it is, or is nested too deeply to be walked.
"""

from __future__ import annotations

import json
from typing import Any

import msgpack
import orjson


def unpack(packed: bytes) -> Any:
    """The JSON value in some msgpack.

    Raises:
        ValueError: it holds none.
    """
    try:
        found = msgpack.unpackb(packed, max_bin_len=0, max_ext_len=0, ext_hook=_no_extension)
    except (ValueError, msgpack.UnpackException, TypeError, OverflowError, MemoryError, RecursionError):
        raise ValueError("no msgpack of a JSON value") from None
    if any(one in packed for one in _NO_BYTES) and _holds_bytes(found):
        raise ValueError("no msgpack of a JSON value")
    return found


# How msgpack writes binary data of no length, which its limits let pass.
_NO_BYTES = (b"\xc4\x00", b"\xc5\x00\x00", b"\xc6\x00\x00\x00\x00")


def _holds_bytes(value: Any) -> bool:
    rest = [value]
    while rest:
        one = rest.pop()
        if type(one) is bytes:
            return True
        if type(one) is dict:
            rest += [*one, *one.values()]
        elif type(one) is list:
            rest += one
    return False


def _no_extension(_code: int, _data: bytes) -> None:
    raise ValueError("an extension, which JSON does not have")


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
