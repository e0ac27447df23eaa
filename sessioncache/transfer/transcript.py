"""Transcripts: files with a message per line, as nanobot and hermes write them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, tzinfo
from itertools import chain
from typing import Any, BinaryIO

from sessioncache.transfer.columns import columns, time_in
from sessioncache.transfer.files import File, Unreadable, files_in, opened, why
from sessioncache.transfer.found import Damage, FoundMessage, Reading
from sessioncache.transfer.lines import Row, json_lines, moment, packed

SUFFIX = ".jsonl"

# The first and the last time of a session's messages.
Span = Callable[[], tuple[datetime, datetime]]


def size(path: str) -> int:
    """How many bytes of transcripts there are; nothing is opened."""
    return sum(file.size for file in files_in(path, SUFFIX, _nobody))


def opened_or_reported(file: File, reading: Reading) -> BinaryIO | None:
    """A transcript, to be read; None if that is damaged."""
    try:
        return opened(file)
    except (OSError, Unreadable) as error:
        reading.damaged(Damage(file.name, 0, why(error)))
        return None


def passed_over(file: File, stream: BinaryIO, reading: Reading) -> None:
    """Tell of the bytes that nobody asked for."""
    reading.advanced(max(0, file.size - stream.tell()))


def messages(rows: Iterable[Row], reading: Reading, name: str, *, consolidated: int = 0) -> Iterator[FoundMessage]:
    """The messages in the lines of a file.

    Args:
        rows: each line's number, and its object, or None if it is damaged.
        reading: told of each that can be none.
        name: the file's, as reports show it.
        consolidated: so many lines, the first ones, are consolidated.
    """
    for position, (number, row) in enumerate(rows):
        if row is None:
            continue
        try:
            created_at = _time(row, reading)
            body = packed(row, reading)
        except Unreadable as error:
            reading.damaged(Damage(name, number, str(error)))
        else:
            yield FoundMessage(body, created_at=created_at, consolidated=position < consolidated)


def times(told: Mapping[str, Any], zone: tzinfo, refused: Callable[[str], None], span: Span) -> tuple[datetime, datetime]:
    """When a session began and was active last: as told, else as ``span`` says, which is asked only then."""
    time = time_in(zone)
    known = columns(told, {one: (one, time) for one in ("created_at", "updated_at")}, refused)
    if len(known) < 2:  # noqa: PLR2004 - one of the two is missing
        first, last = span()
        known = {"created_at": first, "updated_at": last} | known
    return known["created_at"], known["updated_at"]


def span(file: File, reading: Reading) -> tuple[datetime, datetime]:
    """The first and the last time in a transcript, or when it was written. This reads all of it once more, silently."""
    silent = replace(reading, damaged=_nobody, advanced=_nobody)
    first = last = file.changed
    stream = opened_or_reported(file, silent)
    if stream is not None:
        with stream:
            told = filter(None, (_readable_time(row, reading) for _number, row in json_lines(stream, silent, file.name)))
            first = next(told, first)
            last = deque(chain([first], told), maxlen=1).pop()
    return first, last


def _readable_time(row: Mapping[str, Any], reading: Reading) -> datetime | None:
    try:
        return _time(row, reading)
    except Unreadable:
        return None


def _time(row: Mapping[str, Any], reading: Reading) -> datetime | None:
    told = row.get("timestamp")
    return None if told is None else moment(told, reading.zone)


def _nobody(_what: object) -> None:
    """Nobody is told."""
