"""Hermes's index, ``sessions.json``: an object of session keys, and of what is known of the session that each has.

An entry that cannot be read spoils only itself; an index that cannot be read is as if it were not there, and reported.
The whole of it is in memory, so it is bounded.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sessioncache.keys import check_name, check_session_key
from sessioncache.transfer import columns
from sessioncache.transfer.files import File, Unreadable, file_at, opened, why
from sessioncache.transfer.found import Damage, Reading
from sessioncache.transfer.lines import parsed_object

INDEX = "sessions.json"
MAX_INDEX_BYTES = 2**28

COLUMNS: columns.Layout = {
    "display_name": ("display_name", columns.name),
    "platform": ("platform", columns.name),
    "chat_type": ("chat_type", columns.name),
    "origin": ("origin", columns.origin),
    "suspended": ("suspended", columns.flag),
    **columns.TOKENS,
    **columns.COSTS,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index says of one session.

    Attributes:
        number: counts the entries from 1, for reports.
        changed: when the index was written last.
    """

    number: int
    session_key: str
    told: Mapping[str, Any]
    changed: datetime


def entries(directory: str | Path, reading: Reading) -> dict[str, Entry]:
    """The entries of a directory's index, by session id; none where there is no index."""
    home = Path(os.path.realpath(directory))
    if not os.path.lexists(home / INDEX):
        return {}
    try:
        file = file_at(home, Path(INDEX))
        index = parsed_object(_contents(file))
    except (OSError, Unreadable) as error:
        reading.damaged(Damage(INDEX, 0, why(error)))
        return {}
    found: dict[str, Entry] = {}
    for number, (key, told) in enumerate(index.items(), 1):
        try:
            _keep(found, Entry(number, key, told, file.changed))
        except Unreadable as error:
            report(reading, number, str(error))
    return found


def report(reading: Reading, number: int, why: str) -> None:
    """Tell of a damaged entry."""
    reading.damaged(Damage(INDEX, 0, f"entry {number}: {why}"))


def _contents(file: File) -> bytes:
    if file.size > MAX_INDEX_BYTES:
        raise Unreadable("it is too large to be an index")
    with opened(file) as stream:
        return stream.read(file.size).removeprefix(codecs.BOM_UTF8)


def _keep(found: dict[str, Entry], entry: Entry) -> None:
    if type(entry.told) is not dict:
        raise Unreadable("it is no JSON object")
    try:
        check_session_key(entry.session_key)
        session_id = check_name(entry.told.get("session_id"), "session id")
    except ValueError:
        raise Unreadable("the session is left out: its key or id cannot be one") from None
    if session_id in found:
        raise Unreadable("the session is left out: another entry has the same id")
    found[session_id] = entry
