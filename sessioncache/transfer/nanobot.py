"""Nanobot's sessions: a file each, a header in its first line, then a message per line.

The header is an object with ``_type: "metadata"``, ``key``, ``created_at``, ``updated_at``, ``metadata`` and
``last_consolidated``: so many messages, the first ones, are consolidated; damaged ones count, as they did at that time.

Where the header is missing or damaged, or names no key, the key is taken from the file's name (``telegram_42.jsonl`` is
``telegram:42``) and the times from the messages; that is reported. A header further down is damage; it replaces nothing.
The session id is made from the key, so that a second import finds the same session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import chain
from typing import Any, BinaryIO

from sessioncache.errors import InvalidKey
from sessioncache.keys import check_session_key
from sessioncache.transfer import columns, transcript
from sessioncache.transfer.files import File, files_in
from sessioncache.transfer.found import Damage, FoundSession, Reading
from sessioncache.transfer.lines import Row, all_lines, raw_lines

size = transcript.size

_COLUMNS: columns.Layout = {"metadata": ("metadata", columns.metadata)}
_PLATFORM: columns.Layout = {"platform": ("platform", columns.name)}


def read(path: str, reading: Reading) -> Iterator[FoundSession]:
    """The sessions in a directory and those below it, or in one file."""
    keys: set[str] = set()
    for file in files_in(path, transcript.SUFFIX, reading.damaged):
        stream = transcript.opened_or_reported(file, reading)
        if stream is None:
            continue
        with stream:
            session = _session(file, stream, reading, keys)
            if session is not None:
                yield session
            transcript.passed_over(file, stream, reading)


def _session(file: File, stream: BinaryIO, reading: Reading, keys: set[str]) -> FoundSession | None:
    rows = all_lines(stream, reading, file.name)
    first = next(rows, None)
    header = (first[1] or {}) if first and _is_header(first) else {}
    refused = partial(_refused, reading, file.name, first[0] if first else 0)
    key = _key(file, header, keys, refused, reported=first is not None and first[1] is None)
    if key is None:
        return None
    created_at, updated_at = transcript.times(header, reading.zone, refused, partial(transcript.span, file, reading))
    found = columns.columns(header, _COLUMNS, refused) | columns.columns(_platform(key), _PLATFORM, refused)
    body = _messages_only(rows if header or first is None else chain([first], rows), reading, file.name)
    messages = transcript.messages(body, reading, file.name, consolidated=_consolidated(header, file, reading))
    return FoundSession(session_id_of(key), key, True, created_at, updated_at, found, messages)  # noqa: FBT003 - current


def session_id_of(key: str) -> str:
    """The session id that a key's session gets."""
    return f"import_{sha256(key.encode()).hexdigest()[:32]}"


def _refused(reading: Reading, name: str, line: int, why: str) -> None:
    reading.damaged(Damage(name, line, why))


def _is_header(row: Row) -> bool:
    return row[1] is not None and row[1].get("_type") == "metadata"


def _key(
    file: File, header: Mapping[str, Any], keys: set[str], refused: Callable[[str], None], *, reported: bool
) -> str | None:
    """The session's key; None if it can have none, or another has it. ``reported``: that the header is damaged."""
    key = header.get("key")
    if key is None:
        key = file.stem.replace("_", ":", 1)
        if not reported:
            refused("no header names the session's key; it is taken from the file's name")
    try:
        check_session_key(key)
    except InvalidKey:
        refused("the session is left out: its key cannot be one")
        return None
    if key in keys:
        refused("the session is left out: another file has one of the same key")
        return None
    keys.add(key)
    return str(key)


def _platform(key: str) -> dict[str, str]:
    platform, colon, _rest = key.partition(":")
    return {"platform": platform} if colon else {}


def _messages_only(rows: Iterator[Row], reading: Reading, name: str) -> Iterator[Row]:
    for row in rows:
        if _is_header(row):
            reading.damaged(Damage(name, row[0], "it is a header that is not the first line, and no message"))
        else:
            yield row


def _consolidated(header: Mapping[str, Any], file: File, reading: Reading) -> int:
    """How many lines are consolidated; 0 if that is no number, or there are fewer."""
    told = header.get("last_consolidated")
    if type(told) is not int or told <= 0:
        return 0
    stream = transcript.opened_or_reported(file, reading)
    if stream is None:
        return 0
    with stream:
        silent = replace(reading, advanced=lambda _bytes: None)
        lines = (raw for raw in raw_lines(stream, silent) if not isinstance(raw, bytes) or raw.strip())
        return told if any(position == told for position, _raw in enumerate(lines)) else 0
