"""Lines that somebody else wrote: JSON objects, and the times and messages in them.

Guarantees: one line at a time is in memory, and one that is too long to be a message not even for itself; why something
cannot be read is said in fixed words (`files.Unreadable`), never in those of the file.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, BinaryIO, NoReturn

from sessioncache.errors import InvalidMessage
from sessioncache.info import MAX_DETAIL_BYTES
from sessioncache.message import encode
from sessioncache.transfer.files import BUFFER, Unreadable, why
from sessioncache.transfer.found import Damage, Reading

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Row = tuple[int, dict[str, Any] | None]


def json_lines(stream: BinaryIO, reading: Reading, name: str, longest: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects in a file, one a line, with the numbers of their lines; blank lines are skipped.

    Args:
        stream: at its beginning; a byte order mark there is skipped.
        reading: told of what is damaged, and of each line's bytes.
        name: the file's, as reports show it.
        longest: how long a line may be that is no message.
    """
    return ((number, row) for number, row in all_lines(stream, reading, name, longest) if row is not None)


def all_lines(stream: BinaryIO, reading: Reading, name: str, longest: int = 0) -> Iterator[Row]:
    """The same, with None for each line that was reported as damaged."""
    for number, raw in enumerate(raw_lines(stream, reading, longest), 1):
        try:
            row = _row(raw.removeprefix(codecs.BOM_UTF8) if number == 1 and isinstance(raw, bytes) else raw)
        except Unreadable as error:
            reading.damaged(Damage(name, number, str(error)))
            yield number, None
        else:
            if row is not None:
                yield number, row


def _row(raw: bytes | Unreadable) -> dict[str, Any] | None:
    if isinstance(raw, Unreadable):
        raise raw
    return parsed_object(raw) if raw.strip() else None


def raw_lines(stream: BinaryIO, reading: Reading, longest: int = 0) -> Iterator[bytes | Unreadable]:
    """Each line, or why there is none. The longest: each byte of a message may be eight of JSON (``false, `` is one)."""
    limit, whole = max(longest, 8 * (reading.max_message_bytes + MAX_DETAIL_BYTES)), True
    while True:
        try:
            raw = stream.readline(limit if whole else BUFFER)
        except OSError as error:
            yield Unreadable(why(error))
            return
        if not raw:
            return
        reading.advanced(len(raw))
        if not whole:
            whole = raw.endswith(b"\n")
        elif len(raw) < limit or raw.endswith(b"\n"):
            yield raw
        else:
            whole = False
            yield Unreadable("the line is too long to be a message")


def _refuse(_literal: str) -> NoReturn:
    raise ValueError


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def parsed(text: str) -> Any:
    """What JSON says.

    Raises:
        Unreadable: it is not JSON (NaN and Infinity are not), or nested too deeply.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise Unreadable("the JSON is nested too deeply") from None
    except ValueError:
        raise Unreadable("it is not JSON, or cut off") from None


def parsed_object(raw: bytes) -> dict[str, Any]:
    """The JSON object that UTF-8 says.

    Raises:
        Unreadable: it is something else.
    """
    try:
        value = parsed(raw.decode())
    except UnicodeDecodeError:
        raise Unreadable("it is not UTF-8") from None
    if type(value) is not dict:
        raise Unreadable("it is no JSON object")
    return value


def moment(value: object, zone: tzinfo) -> datetime:
    """A time, aware UTC, to the millisecond.

    Args:
        value: text as in ISO 8601, or seconds since 1970.
        zone: that of text that names none.

    Raises:
        Unreadable: it is no time from year 1 to 9999.
    """
    try:
        if type(value) is str:
            told = datetime.fromisoformat(value)
            exact = (told if told.tzinfo else told.replace(tzinfo=zone)).astimezone(UTC)
        elif type(value) is int or type(value) is float:
            exact = _EPOCH + timedelta(seconds=value)
        else:
            raise Unreadable("it has a time that is none")
    except (ValueError, OverflowError):
        raise Unreadable("it has a time that is none") from None
    return exact.replace(microsecond=exact.microsecond // 1000 * 1000)


# How the sentences of `InvalidMessage` end, and what is said in their place: they begin with a path, which is content.
_REFUSALS = (
    ("surrogate, which UTF-8 cannot say.", "it contains a lone surrogate"),
    ("beyond 64 bit; send it as a string.", "it contains an integer beyond 64 bit"),
    ("levels deep; flatten it.", "it is nested too deeply"),
)


def packed(message: object, reading: Reading) -> bytes:
    """The encoding of a message.

    Raises:
        Unreadable: it cannot be one.
    """
    try:
        return encode(message, reading.max_message_bytes)
    except InvalidMessage as refused:
        sentence = str(refused)
        if sentence.startswith("$ is "):
            raise Unreadable("it is larger than max_message_bytes allows") from None
        reasons = [reason for end, reason in _REFUSALS if sentence.endswith(end)]
        raise Unreadable(reasons[0] if reasons else "it cannot be a message") from None
