"""Messages: what may be one, and how it is written in either tier; how it is read back, `records` says.

A message is a JSON object: any keys, ``content`` (if present) a string, a list of blocks or null. It comes back equal,
of the same types and key order, from either tier: msgpack in Redis, JSON text in SQL.

Guarantee: what either tier could not give back equal is refused before anything is written, with the path of the offending
value (`InvalidMessage`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgpack

from sessioncache.errors import InvalidMessage
from sessioncache.foreign import json_text, parse_object, unpack

MAX_NESTING = 100
SMALLEST_INTEGER = -(2**63)
LARGEST_INTEGER = 2**64 - 1

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def encode(message: object, max_bytes: int) -> bytes:
    """The msgpack of one message.

    Args:
        message: a JSON object.
        max_bytes: the largest encoding accepted, in bytes.

    Raises:
        InvalidMessage: JSON cannot say it, or it is too large.
    """
    if type(message) is not dict:
        raise InvalidMessage(f"A message must be a dict (a JSON object), not {_name(message)}.")
    if type(message.get("content")) not in _CONTENT:
        raise InvalidMessage(f"$.content must be a string, a list of blocks or null, not {_name(message['content'])}.")
    try:
        _check_object(message, 1)
    except _Unsayable as fault:
        raise InvalidMessage(f"${''.join(reversed(fault.path))[:200]} {fault.reason}") from None
    packed: bytes = msgpack.Packer().pack(message)
    if len(packed) > max_bytes:
        raise InvalidMessage(f"$ is {len(packed)} bytes long; max_message_bytes allows {max_bytes}.")
    return packed


class _Unsayable(Exception):
    """Something that JSON cannot say; its path is collected on the way out, so that a good message pays nothing."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.path: list[str] = []


def _check(value: object, depth: int) -> None:
    check = _CHECKS.get(type(value))
    if check is None:
        raise _Unsayable(f"is {_name(value)}, which JSON cannot say; convert it to a plain JSON type.")
    check(value, depth)


def _check_nothing(_value: object, _depth: int) -> None:
    """Booleans and null are always fine."""


def _check_string(value: str, _depth: int) -> None:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Unsayable("contains a lone surrogate, which UTF-8 cannot say.") from None


def _check_integer(value: int, _depth: int) -> None:
    if not SMALLEST_INTEGER <= value <= LARGEST_INTEGER:
        raise _Unsayable("is an integer beyond 64 bit; send it as a string.")


def _check_float(value: float, _depth: int) -> None:
    if not math.isfinite(value):
        raise _Unsayable(f"is {value}, which JSON cannot say; use null or a string.")


def _check_object(value: dict[Any, Any], depth: int) -> None:
    if depth > MAX_NESTING:
        raise _too_deep()
    key: Any = None
    try:
        for key, item in value.items():
            if type(key) is not str:
                raise _Unsayable(f"is under a key {_name(key)}; JSON keys are strings.")  # noqa: TRY301 - the path is added below
            if not key.isascii():
                _check_string(key, depth)
            if type(item) is not str or not item.isascii():  # what most are: JSON can say it
                _check(item, depth + 1)
    except _Unsayable as fault:
        fault.path.append(f".{key}" if type(key) is str and key.isprintable() else f"[{key!a}]")
        raise


def _check_array(value: list[Any], depth: int) -> None:
    if depth > MAX_NESTING:
        raise _too_deep()
    index = -1
    try:
        for item in value:
            index += 1
            _check(item, depth + 1)
    except _Unsayable as fault:
        fault.path.append(f"[{index}]")
        raise


def _too_deep() -> _Unsayable:
    return _Unsayable(f"is nested over {MAX_NESTING} levels deep; flatten it.")


_CONTENT = frozenset({str, list, type(None)})
_CHECKS: dict[type, Any] = {
    str: _check_string,
    int: _check_integer,
    float: _check_float,
    bool: _check_nothing,
    type(None): _check_nothing,
    dict: _check_object,
    list: _check_array,
}


def _name(value: object) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"


def decode(packed: bytes) -> dict[str, Any]:
    """The message that `encode` was given: a new object at every call.

    Raises:
        ValueError: it holds no JSON object.
    """
    message = unpack(packed)
    if type(message) is not dict:
        raise ValueError("no JSON object")
    return message


def to_json(message: Mapping[str, Any]) -> str:
    """The JSON text of a message: what SQL keeps."""
    return json_text(message)


def from_json(text: str | bytes) -> bytes:
    """The encoding of a message that SQL gave back.

    Raises:
        ValueError: it holds no JSON object.
    """
    try:
        return bytes(msgpack.packb(parse_object(text)))
    except OverflowError:
        raise ValueError("a number beyond 64 bit") from None


def element(seq: int, created_ms: int, message_id: str, packed: bytes) -> bytes:
    """An element of the ``history`` list. The scripts write the same; a test compares them."""
    return f"{seq} {created_ms} {message_id}\n".encode() + packed


def stamped(stamps: Sequence[bytes], messages: Sequence[bytes]) -> list[bytes]:
    r"""The elements of messages, each ``<message id>\n<msgpack>``, by what a script says: seq and milliseconds of each."""
    return list(map(b"%b %b %b".__mod__, zip(stamps[::2], stamps[1::2], messages, strict=True)))


def instant(milliseconds: int) -> datetime:
    """An aware UTC time from milliseconds since 1970."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def milliseconds(moment: datetime) -> int:
    """Milliseconds since 1970 of an aware time."""
    return (moment - _EPOCH) // _MILLISECOND
