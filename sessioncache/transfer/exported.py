"""Reading back what `exporting` wrote.

A line that is none of an export, and a message whose session cannot be read or has ended, is damage; nothing else is
touched by it. Of a session whose description cannot be read, no message is taken for another one's: each names its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, String

from sessioncache.arguments import number
from sessioncache.errors import InvalidInput
from sessioncache.keys import check_name, check_session_key
from sessioncache.message import encode
from sessioncache.schema import Instant, sessions
from sessioncache.store.outgoing import COLUMNS
from sessioncache.transfer.found import FORMAT, Damage, FoundMessage, FoundSession, Reading
from sessioncache.transfer.lines import json_lines, moment, packed

# Of metadata and of an origin: both are put together from many calls.
MAX_JSON_BYTES = 64 * 2**20
MAX_COUNT = 2**50
STRAY = "this line belongs to no session that could be read"

_NAMED = {"session_id", "session_key", "created_at", "updated_at"}
Line = tuple[int, dict[str, Any]]


def size(path: str) -> int:
    """Bytes of the file."""
    return Path(path).stat().st_size


def read(path: str, reading: Reading) -> Iterator[FoundSession]:
    """The sessions of an export."""
    told = partial(_told, reading, path)
    try:
        file = Path(path).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        told(0, f"it cannot be read: {error.strerror}")
        return
    with file:
        lines = _Lines(json_lines(file, reading, path, 2 * MAX_JSON_BYTES), told)
        while (line := lines.next_session()) is not None:
            try:
                session = _session(line[1], reading, partial(lines.damaged, line[0]))
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
    seq = _count(value.get("seq"), "seq", least=last + 1)
    message = packed(value.get("data"), reading)
    at = moment(value.get("created_at"), reading.zone)
    return FoundMessage(message, check_name(value.get("id"), "message id"), at, seq), seq


def _session(value: Mapping[str, Any], reading: Reading, damaged: Callable[[str], None]) -> FoundSession:
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
        version=0 if version is None else _count(version, "version"),
        columns=_columns(value, reading, damaged),
    )


def _columns(value: Mapping[str, Any], reading: Reading, damaged: Callable[[str], None]) -> dict[str, Any]:
    """What else is known of a session; what cannot be kept is left out, but for an owner: then the session is."""
    found: dict[str, Any] = {}
    for name in COLUMNS:
        if name in value and name not in _NAMED:
            try:
                found[name] = _column(name, value[name], reading)
            except ValueError:
                if name == "owner":
                    raise
                damaged(f"its {name} cannot be kept, and is left out")
    return found


def _count(value: object, what: str, *, least: int = 0) -> int:
    """A seq, version or counter: with room for those that follow."""
    if number(value, what, least=least) > MAX_COUNT:
        raise InvalidInput(f"its {what} is beyond 2**50")
    return number(value, what)


def _column(name: str, value: Any, reading: Reading) -> Any:
    """The value of a column of `sessions`, checked by the column's type."""
    kind = sessions.c[name].type
    if isinstance(kind, BigInteger):
        return _count(value, name)
    if isinstance(kind, Boolean):
        return _of_type(bool, value, name)
    if value is None:
        return None
    if isinstance(kind, Instant):
        return moment(value, reading.zone)
    if isinstance(kind, JSON):
        encode({"content": None, "value": value}, MAX_JSON_BYTES)
        return _of_type(dict, value, name)
    text = check_name(value, name)
    if isinstance(kind, String) and len(text) > (kind.length or len(text)):
        raise InvalidInput(f"its {name} is longer than {kind.length} characters")
    return text


def _of_type(kind: type, value: object, name: str) -> Any:
    if type(value) is not kind:
        raise InvalidInput(f"its {name} is of type {type(value).__name__}, not {kind.__name__}")
    return value
