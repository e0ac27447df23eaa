"""Bytes that anybody may have written, as JSON values: from msgpack, as Redis holds them, and from text, as SQL does.

Guarantees: whatever they hold, the answer is a value of plain JSON types or a ValueError; nothing in them is ever run, and
no error tells what they held. Msgpack's extensions, such as times, and binary data are refused, as is what claims to be
larger than it is, or is nested too deeply to be walked.
"""

from __future__ import annotations

import json
from typing import Any

import msgpack


def unpack(packed: bytes) -> Any:
    """The JSON value in some msgpack.

    Raises:
        ValueError: it holds none.
    """
    try:
        return msgpack.unpackb(packed, max_bin_len=0, max_ext_len=0, ext_hook=_no_extension)
    except (ValueError, msgpack.UnpackException, TypeError, OverflowError, MemoryError, RecursionError):
        raise ValueError("no msgpack of a JSON value") from None


def _no_extension(_code: int, _data: bytes) -> None:
    raise ValueError("an extension, which JSON does not have")


def parse_object(text: str | bytes) -> dict[str, Any]:
    """The object in some JSON.

    Raises:
        ValueError: it holds none.
    """
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, TypeError, OverflowError, MemoryError, RecursionError):
        raise ValueError("no JSON") from None
    if type(found) is not dict:
        raise ValueError("no JSON object")
    return found


def _no_constant(_name: str) -> None:
    raise ValueError("a number that JSON does not have")
