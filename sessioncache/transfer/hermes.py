"""Hermes's sessions: a directory of transcripts with an index, or its SQLite database.

In a directory, ``sessions.json`` (`hermes_index`) says what is known of a session, ``<session id>.jsonl`` has a message per
line. A session of the index that has no transcript has no messages. A transcript that the index does not name comes under
the key ``hermes:<session id>``. Of two of the same id, the one directly in the directory counts, else the first. A file
that is no directory is a database (`hermes_database`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sessioncache.errors import InvalidKey
from sessioncache.keys import check_name, check_session_key
from sessioncache.transfer import hermes_database, hermes_index, transcript
from sessioncache.transfer.columns import columns
from sessioncache.transfer.files import File, Unreadable, files_in, inside, is_directory
from sessioncache.transfer.found import Damage, FoundSession, Reading
from sessioncache.transfer.hermes_index import Entry
from sessioncache.transfer.lines import all_lines
from sessioncache.transfer.transcript import Span


def size(path: str) -> int:
    """How many bytes of transcripts there are, or rows in the database."""
    return transcript.size(path) if is_directory(path) else hermes_database.size(path)


def read(path: str, reading: Reading) -> Iterator[FoundSession]:
    """The sessions of a directory and those below it, or of a database."""
    if not is_directory(path):
        yield from hermes_database.read(path, reading)
        return
    entries, ids = hermes_index.entries(path, reading), set[str]()
    for file in files_in(path, transcript.SUFFIX, reading.damaged):
        if file.stem in ids or _is_other(Path(path), file):
            reading.damaged(Damage(file.name, 0, "it is left out: another transcript has the same id"))
            reading.advanced(file.size)
        else:
            ids.add(file.stem)
            yield from _session(file, entries.pop(file.stem, None), reading)
    for session_id, entry in entries.items():
        yield from _without_transcript(path, session_id, entry, reading)


def _is_other(home: Path, file: File) -> bool:
    """Whether one of the same name is directly in the directory, while this one is further down."""
    return len(file.place.parts) > 1 and os.path.lexists(home / file.place.name)


def _session(file: File, entry: Entry | None, reading: Reading) -> Iterator[FoundSession]:
    """The session of a transcript, or none."""
    stream = transcript.opened_or_reported(file, reading)
    if stream is None:
        return
    with stream:
        rows = all_lines(stream, reading, file.name)
        try:
            session = _found(file.stem, entry, reading, partial(transcript.span, file, reading))
        except InvalidKey:
            reading.damaged(Damage(file.name, 0, "it is left out: its name cannot be a session's id"))
        else:
            session.messages = transcript.messages(rows, reading, file.name)
            yield session
        transcript.passed_over(file, stream, reading)


def _found(session_id: str, entry: Entry | None, reading: Reading, span: Span) -> FoundSession:
    """The session of an id, without its messages, which lie in a ``span`` of time."""
    key = entry.session_key if entry else f"hermes:{check_name(session_id, 'session id')}"
    told: Mapping[str, Any] = entry.told if entry else {}
    refused = partial(hermes_index.report, reading, entry.number if entry else 0)
    created_at, updated_at = transcript.times(told, reading.zone, refused, span)
    found = columns(told, hermes_index.COLUMNS, refused)
    return FoundSession(session_id, check_session_key(key), True, created_at, updated_at, found)  # noqa: FBT003 - current


def _without_transcript(path: str, session_id: str, entry: Entry, reading: Reading) -> Iterator[FoundSession]:
    """The session of an entry, without messages; none if something stands in place of its transcript, which is reported."""
    try:
        expected = inside(path, session_id + transcript.SUFFIX)
    except Unreadable as error:
        hermes_index.report(reading, entry.number, str(error))
        return
    if not os.path.lexists(expected):
        yield _found(session_id, entry, reading, lambda: (entry.changed, entry.changed))
