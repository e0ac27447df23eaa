"""Reading back what `exporting` wrote.

A line that is none of an export, and a message whose session cannot be read or has ended, is damage; nothing else is
touched by it. Of a session whose description cannot be read, no message is taken for another one's: each names its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean

from sessioncache.arguments import number
from sessioncache.errors import InvalidInput
from sessioncache.keys import check_name, check_session_key
from sessioncache.message import encode
from sessioncache.schema import Instant, sessions
from sessioncache.store.outgoing import COLUMNS
from sessioncache.transfer.found import FORMAT, Damage, FoundMessage, FoundSession, Reading
from sessioncache.transfer.lines import json_lines, moment

# Of metadata and of an origin: both are put together from many calls.
MAX_JSON_BYTES = 64 * 2**20
STRAY = "this line belongs to no session that could be read"

_NAMED = {"session_id", "session_key", "created_at", "updated_at"}
Line = tuple[int, dict[str, Any]]


def size(path: str) -> int:
    """Bytes of the file."""
    return Path(path).stat().st_size


def read(path: str, reading: Reading) -> Iterator[FoundSession]:
    """The sessions of an export."""
    with Path(path).open("rb") as file:
        lines = _Lines(json_lines(file, reading, path), partial(_told, reading, path))
        while (line := lines.next_session()) is not None:
            try:
                session = _session(line[1], reading)
            except ValueError as error:
                lines.damaged(line[0], f"the session cannot be read: {error}")
                continue
            session.messages = lines.messages_of(session.session_id, reading)
            yield session


def _told(reading: Reading, path: str, line: int, why: str) -> None:
    reading.damaged(Damage(path, line, why))


class _Lines:
    """The lines of an export; what is read of the next session while messages are asked for is kept."""

    def __init__(self, lines: Iterator[Line], damaged: Callable[[int, str], None]) -> None:
        self._lines, self.damaged = lines, damaged
        self._kept: Line | None = None
        self._given = ""

    def next_session(self) -> Line | None:
        """The line of the next session. Messages before it that are not wanted are left out, others are damage."""
        while (line := self._next()) is not None:
            kind, session_id = line[1].get("type"), line[1].get("session_id")
            if kind == "session":
                return line
            if kind == "sessioncache" and line[0] == 1:
                self._check_format(line)
            elif kind != "message" or session_id != self._given:
                self.damaged(line[0], STRAY)
        return None

    def _check_format(self, line: Line) -> None:
        if line[1].get("format") != FORMAT:
            self.damaged(line[0], f"this is no export of format {FORMAT}; a newer sessioncache wrote it")

    def messages_of(self, session_id: str, reading: Reading) -> Iterator[FoundMessage]:
        """The messages of a session, up to the line of the next one."""
        self._given, last = session_id, 0
        while (line := self._next()) is not None:
            if line[1].get("type") == "session":
                self._kept = line
                return
            try:
                found, last = _message(line[1], session_id, last, reading)
            except ValueError as error:
                self.damaged(line[0], str(error))
            else:
                yield found

    def _next(self) -> Line | None:
        line, self._kept = self._kept, None
        return next(self._lines, None) if line is None else line


def _message(value: Mapping[str, Any], session_id: str, last: int, reading: Reading) -> tuple[FoundMessage, int]:
    """A message and its seq, which is above the last one."""
    if value.get("type") != "message" or value.get("session_id") != session_id:
        raise InvalidInput(STRAY)
    seq = number(value.get("seq"), "seq", least=last + 1)
    packed = encode(value.get("data"), reading.max_message_bytes)
    at = moment(value.get("created_at"), reading.zone)
    return FoundMessage(packed, check_name(value.get("id"), "message id"), at, seq), seq


def _session(value: Mapping[str, Any], reading: Reading) -> FoundSession:
    missing = sorted(_NAMED - set(value))
    if missing:
        raise InvalidInput(f"it has no {', '.join(missing)}")
    version = value.get("version")
    return FoundSession(
        session_id=check_name(value.get("session_id"), "session id"),
        session_key=check_session_key(value["session_key"]),
        current=version is not None,
        created_at=moment(value["created_at"], reading.zone),
        updated_at=moment(value["updated_at"], reading.zone),
        version=0 if version is None else number(version, "version"),
        columns={name: _column(name, value[name], reading) for name in COLUMNS if name in value and name not in _NAMED},
    )


def _column(name: str, value: Any, reading: Reading) -> Any:
    """The value of a column of `sessions`, checked by the column's type."""
    kind = sessions.c[name].type
    if isinstance(kind, BigInteger):
        return number(value, name)
    if isinstance(kind, Boolean):
        return _of_type(bool, value, name)
    if value is None:
        return None
    if isinstance(kind, Instant):
        return moment(value, reading.zone)
    if isinstance(kind, JSON):
        encode({"content": None, name: value}, MAX_JSON_BYTES)
        return _of_type(dict, value, name)
    return check_name(value, name)


def _of_type(kind: type, value: object, name: str) -> Any:
    if type(value) is not kind:
        raise InvalidInput(f"its {name} is of type {type(value).__name__}, not {kind.__name__}")
    return value
