"""What is known of a session besides its messages, and what may be said of it.

`Info` is a typed snapshot, the caller's own (I8). `given` checks what a caller wants to set: titles lose control characters
(joiners stay), names keep their limits, metadata and origin are JSON objects. Metadata is merged by its top-level names:
one that is given replaces the old value, one that is given as None goes.

In Redis each name is a field of ``meta``, so that two servers that set different names never undo each other; costs are
whole billionths, so that sums are exact in any order and in either tier.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgpack

from sessioncache.arguments import shown
from sessioncache.errors import InvalidInput, InvalidMessage
from sessioncache.foreign import unpack
from sessioncache.keys import check_name
from sessioncache.message import decode, encode, instant

MAX_TITLE_CHARACTERS = 255
MAX_DETAIL_BYTES = 65_536
MAX_NAMES = 900
# Tokens of one call, and what it may cost; the script that adds them up bounds the sums.
MAX_COUNT = 2**40
MAX_COST = 1_000_000
NANO = 10**9

NAMES = ("display_name", "platform", "chat_type")
FLAGS = ("archived", "important", "suspended")
TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
COUNTERS = (*TOKENS, "last_prompt_tokens", "cost_nano", "consolidated_seq")
LABELS = ("cost_status", "cost_source", "model", "provider", "base_url")
# The prefix of a meta field that holds one name of the metadata, as msgpack.
METADATA = "m:"

# U+200C and U+200D join the letters of several scripts and emoji, tag characters make flags, variation selectors choose how
# an emoji looks: they stay, but alone they are nothing.
_JOINERS = re.compile("[\u200c\u200d\ufe00-\ufe0f\U000e0020-\U000e007f]")
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180e\u2800\u3164\uffa0]")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a session has used up. Counts add up; what was used last and labels are as given last."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    last_prompt_tokens: int = 0
    estimated_cost: float = 0.0
    cost_status: str = "unknown"
    cost_source: str | None = None
    model: str | None = None
    provider: str | None = None
    base_url: str | None = None

    @property
    def total_tokens(self) -> int:
        """The sum of the four token counts."""
        return self.input_tokens + self.output_tokens + self.cache_read_tokens + self.cache_write_tokens


@dataclass(frozen=True, slots=True)
class Info:
    """A session as of one version, without its messages. Times are aware UTC.

    Attributes:
        version: the version of its key; None where it was read from SQL, as in lists.
        updated_at: its last message or usage, or when it became current again; what policies and ``active_within`` go by.
        last_accessed: its last opening, read or write; in SQL up to an hour late.
        last_message_at: None while it had no message.
        ended_at, end_reason: None for a current session.
        parent_id: the session it was forked from.
    """

    session_id: str
    key: str
    version: int | None
    owner: str | None
    title: str | None
    display_name: str | None
    platform: str | None
    chat_type: str | None
    origin: dict[str, Any] | None
    metadata: dict[str, Any]
    archived: bool
    important: bool
    suspended: bool
    message_count: int
    consolidated_seq: int
    usage: Usage
    created_at: datetime
    updated_at: datetime
    last_accessed: datetime
    last_message_at: datetime | None
    ended_at: datetime | None = None
    end_reason: str | None = None
    parent_id: str | None = None

    @property
    def goal(self) -> Any:
        """The goal in the metadata: ``goal_state``, or ``thread_goal`` as older applications named it."""
        return self.metadata.get("goal_state", self.metadata.get("thread_goal"))


def from_meta(session_key: str, fields: Mapping[str, bytes]) -> Info:
    """The snapshot in the fields of a ``meta`` hash.

    Raises:
        ValueError, KeyError, OverflowError: something is missing in it, or is not what it should be.
    """
    names = {name: fields[name].decode() or None for name in ("owner", "title", *NAMES) if name in fields}
    numbers = {name: int(fields.get(name) or 0) for name in (*COUNTERS, "last_message_ms")}
    origin = fields.get("origin")
    metadata = {name[len(METADATA) :]: value for name, value in fields.items() if name.startswith(METADATA)}
    return Info(
        session_id=fields["session_id"].decode(),
        key=session_key,
        version=int(fields["version"]),
        owner=names.get("owner"),
        title=names.get("title"),
        display_name=names.get("display_name"),
        platform=names.get("platform"),
        chat_type=names.get("chat_type"),
        origin=decode(origin) if origin else None,
        metadata={name: unpacked(metadata[name]) for name in sorted(metadata)},
        archived=bool(fields.get("archived")),
        important=bool(fields.get("important")),
        suspended=bool(fields.get("suspended")),
        message_count=int(fields["total"]),
        consolidated_seq=numbers["consolidated_seq"],
        usage=usage_of(numbers, {name: fields[name].decode() for name in LABELS if fields.get(name)}),
        created_at=instant(int(fields["created_ms"])),
        updated_at=instant(int(fields["updated_ms"])),
        last_accessed=instant(int(fields["accessed_ms"])),
        last_message_at=instant(numbers["last_message_ms"]) if numbers["last_message_ms"] else None,
        parent_id=fields["parent_id"].decode() if fields.get("parent_id") else None,
    )


def usage_of(numbers: Mapping[str, int], labels: Mapping[str, str]) -> Usage:
    """Usage from counters and labels by name, as either tier keeps them."""
    counts = {name: numbers[name] for name in (*TOKENS, "last_prompt_tokens")}
    return Usage(**counts, estimated_cost=numbers["cost_nano"] / NANO, **labels)  # type: ignore[arg-type]  # labels are texts


def fields(columns: Mapping[str, Any]) -> dict[str, bytes | str]:
    """What the store knows of a session, by column, as fields of ``meta``."""
    found = {name: _field(value) for name, value in columns.items() if name != "metadata"}
    names: Mapping[str, Any] = columns.get("metadata") or {}
    return found | {METADATA + name: packed(value) for name, value in names.items()}


def _field(value: Any) -> bytes | str:
    if value is None or value is False:
        return ""
    if value is True:
        return "1"
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else packed(value)


def unpacked(packed: bytes) -> Any:
    """The value that `packed` was given.

    Raises:
        ValueError: it was not made by it.
    """
    return unpack(packed)


def packed(value: Any) -> bytes:
    """A JSON value as msgpack."""
    return bytes(msgpack.packb(value))


def clean_title(title: object) -> str:
    """A title without unseen characters, ``""`` where nothing is left.

    Raises:
        InvalidInput: not text, or over 255 characters.
    """
    if type(title) is not str:
        raise InvalidInput(f"A title is a str or None, not {type(title).__name__}.")
    try:
        title.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("The title contains a lone surrogate and is not valid UTF-8.") from error
    cleaned = re.sub(" {2,}", " ", "".join(map(_seen, title))).strip()
    if not _BLANK.sub("", _JOINERS.sub("", cleaned)).strip():
        return ""
    if len(cleaned) > MAX_TITLE_CHARACTERS:
        raise InvalidInput(f"A title has at most {MAX_TITLE_CHARACTERS} characters, not {len(cleaned)}.")
    return cleaned


def _seen(character: str) -> str:
    """The character if it is one that is seen, or joins such; a space for a line break; nothing for others."""
    if character in "\t\n\r\v\f\u2028\u2029":
        return " "
    unseen = unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn"}
    return "" if unseen and not _JOINERS.match(character) else character


def json_object(value: object, what: str) -> dict[str, Any]:
    """The value itself, if JSON can say it and it fits.

    Raises:
        InvalidInput: it is no JSON object, or too large; names the path.
    """
    if type(value) is not dict:
        raise InvalidInput(f"The {what} must be a dict (a JSON object), not {type(value).__name__}.")
    try:
        encode({"content": None, what: value}, MAX_DETAIL_BYTES)
    except InvalidMessage as error:
        raise InvalidInput(f"The {what} is refused: {error}".replace("max_message_bytes allows", "it may be")) from error
    return value


def metadata(value: object) -> dict[str, Any]:
    """The metadata itself, if it can be kept.

    Raises:
        InvalidInput: it is no JSON object, or too large, or a name of it is too long.
    """
    found = json_object(value, "metadata")
    if len(found) > MAX_NAMES:
        raise InvalidInput(f"The metadata has at most {MAX_NAMES} names, not {len(found)}; keep them in fewer objects.")
    for name in found:
        check_name(name, "name in the metadata")
    return found


def without_none(names: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of metadata when names that are None go."""
    return {name: value for name, value in names.items() if value is not None}


def count(value: object, what: str) -> int:
    """A number of tokens.

    Raises:
        InvalidInput: not an integer from 0 to 2**40.
    """
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise InvalidInput(f"{what} is an integer from 0 to 2**40, not {shown(value)}.")
    return value


def cost_in_nano(value: object) -> int:
    """A cost in whole billionths.

    Raises:
        InvalidInput: not a finite number from 0.
    """
    if type(value) not in (int, float) or not 0 <= value <= MAX_COST:  # type: ignore[operator]  # a number
        raise InvalidInput(f"estimated_cost is a number from 0 to 1,000,000, not {shown(value)}.")
    return round(value * NANO)  # type: ignore[operator]  # a number
