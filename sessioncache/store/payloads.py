"""Payloads of ops that carry no message: read as what their kinds have, whoever wrote them, or refused.

Guarantee: what is not of the right names and types is a `StoreRefused` with reason ``payload`` before any statement is
sent, so that it becomes a dead letter and stops nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean

from sessioncache.arguments import MAX_NUMBER
from sessioncache.errors import StoreRefused
from sessioncache.foreign import unpack
from sessioncache.info import COUNTERS, FLAGS, LABELS, NAMES
from sessioncache.message import to_json
from sessioncache.op import Op
from sessioncache.schema import sessions

_BEGINS = frozenset({"owner", "title", *NAMES, "model", "provider", "base_url", "origin", "metadata"})
_SET = frozenset({"title", *NAMES, "origin", *FLAGS, *COUNTERS, *LABELS})
_UPDATE = frozenset({"set", "add", "metadata"})


def unreadable() -> StoreRefused:
    """The error for a payload that is none of its kind."""
    return StoreRefused("The payload of an op cannot be read; look at it with redis-cli.", reason="payload")


def count_of(op: Op) -> int:
    """How many messages stay, in a truncate."""
    if not op.payload.isdigit() or int(op.payload) > MAX_NUMBER:
        raise unreadable()
    return int(op.payload)


def text_of(op: Op) -> str:
    """The message id in a remove; why, in a leave."""
    try:
        return op.payload.decode()
    except UnicodeDecodeError:
        raise unreadable() from None


def ends_of(op: Op) -> list[tuple[int, str]]:
    """Seq and message id of the three messages in a retain."""
    lines = [line.partition(" ") for line in text_of(op).split("\n")]
    if len(lines) != 3 or any(not seq.isdecimal() or len(seq) > 16 or not space for seq, space, _ in lines):  # noqa: PLR2004 - as op.py says
        raise unreadable()
    return [(int(seq), name) for seq, _, name in lines]


def columns_of(op: Op) -> dict[str, Any]:
    """What a session begins with, by column. The first release put nothing before it; no msgpack map begins like that."""
    return _columns(_object(op.payload[op.payload[:1] in (b"0", b"1") :]), _BEGINS)


def changes_of(op: Op) -> dict[str, Any]:
    """What an update sets, adds and merges."""
    found = _object(op.payload[1:])
    if not set(found) <= _UPDATE or not all(type(part) is dict for part in found.values()):
        raise unreadable()
    _columns(found.get("set", {}), _SET)
    if not all(name in COUNTERS and _is_count(amount) for name, amount in found.get("add", {}).items()):
        raise unreadable()
    return found


def _object(packed: bytes) -> dict[str, Any]:
    try:
        found = unpack(packed)
        to_json(found)
    except (ValueError, TypeError, RecursionError):
        raise unreadable() from None
    if type(found) is not dict:
        raise unreadable()
    return found


def _columns(found: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    if not all(name in names and _fits(name, value) for name, value in found.items()):
        raise unreadable()
    return dict(found)


def _fits(name: str, value: object) -> bool:
    kind = sessions.c[name].type
    if isinstance(kind, BigInteger):
        return _is_count(value)
    if isinstance(kind, Boolean):
        return type(value) is bool
    return value is None or type(value) is (dict if isinstance(kind, JSON) else str)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_NUMBER
