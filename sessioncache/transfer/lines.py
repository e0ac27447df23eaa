"""Safe reading of other people's files: which files there are, their lines, and the times and messages in them.

Guarantees: no link leads out of the directory that was named, and nothing but a regular file is ever opened, so a pipe
cannot hang a reader; one line at a time is in memory, and one that is too long to be a message not even for itself; why
something cannot be read is said in fixed words (`Unreadable`), never in those of the file.

Assumption: POSIX; where nothing can be opened is for `found.Damage`, not for an exception, except in `size`.
"""

from __future__ import annotations

import codecs
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from sessioncache.errors import InvalidMessage
from sessioncache.info import MAX_DETAIL_BYTES
from sessioncache.message import encode
from sessioncache.transfer.found import Damage, Reading

CHUNK = 65_536
MAX_NAME_BYTES = 255

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = 253_402_300_799

Row = tuple[int, dict[str, Any] | None]
Report = Callable[[Damage], None]


class Unreadable(ValueError):
    """Why something cannot be read, in fixed words."""


@dataclass(frozen=True, slots=True)
class File:
    """A regular file of a store.

    Attributes:
        place: its path below the directory that was named.
        real: where it is, without links.
        size: in bytes.
        changed: when it was written last, aware UTC.
    """

    place: Path
    real: Path
    size: int
    changed: datetime

    @property
    def name(self) -> str:
        """Its place, as reports show it."""
        return shown(str(self.place))

    @property
    def stem(self) -> str:
        """Its own name without what follows the last dot."""
        return self.place.stem


def shown(name: str) -> str:
    """A file's name on one line: what cannot be printed is escaped."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in name)


def why(error: Exception) -> str:
    """An error in fixed words."""
    return f"it cannot be read: {os.strerror(error.errno or 0)}" if isinstance(error, OSError) else str(error)


def files_in(root: str, suffix: str, damaged: Report) -> Iterator[File]:
    """The regular files of a directory and those below it, in the order of their names; or the one file that was named.

    Links to directories are not followed, links to files only to regular files in the same directory or below it.

    Args:
        root: a directory, or a file of any name.
        suffix: how the files' names end.
        damaged: told of what has that suffix, or is a directory, and cannot be read.
    """
    real = Path(os.path.realpath(root))
    home, first = (real, Path()) if is_directory(root) else (real.parent, Path(real.name))
    places = [first]
    while places:
        place = places.pop()
        try:
            found = _look(home, place, suffix if place != first else "")
        except (OSError, Unreadable) as error:
            reported = place if place.name else root
            damaged(Damage(shown(str(reported)), 0, why(error)))
        else:
            if isinstance(found, File):
                yield found
            else:
                places += found


def is_directory(path: str | Path) -> bool:
    """Whether there is a directory, or a link to one."""
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def _look(home: Path, place: Path, suffix: str) -> File | list[Path]:
    """A file; or the places in a directory, last first; or nothing that is meant."""
    path = home / place
    mode = path.lstat().st_mode
    if stat.S_ISDIR(mode):
        return [place / name for name in sorted((one.name for one in path.iterdir()), reverse=True)]
    if place.name.endswith(suffix):
        return file_at(home, place)
    if stat.S_ISLNK(mode) and is_directory(path):
        raise Unreadable("it is a link to a directory, which is not followed")
    return []


def file_at(home: Path, place: Path) -> File:
    """The regular file at a place below a directory, which is named without links.

    Raises:
        OSError: there is none that can be reached.
        Unreadable: it is something else, or a link that leads out of the directory.
    """
    real = Path(os.path.realpath(home / place, strict=True))
    if not real.is_relative_to(home):
        raise Unreadable("it is a link that leads out of the directory")
    found = real.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise Unreadable("it is no regular file")
    return File(place, real, found.st_size, _EPOCH + timedelta(seconds=min(max(0, int(found.st_mtime)), _LATEST)))


def inside(root: str | Path, name: str) -> Path:
    """The path of a file in a directory, by a name that somebody else chose.

    Raises:
        Unreadable: the name is not that of a file directly in the directory.
    """
    if (
        name in {"", ".", ".."}
        or {"/", "\\", "\0"} & set(name)
        or len(name.encode(errors="surrogatepass")) > MAX_NAME_BYTES
    ):
        raise Unreadable("its id cannot be the name of a file")
    return Path(root) / name


def opened(file: File) -> BinaryIO:
    """A file, to be read.

    Raises:
        OSError, Unreadable: it cannot be opened, or is no regular file any more.
    """
    descriptor = os.open(file.real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Unreadable("it is no regular file")
    return os.fdopen(descriptor, "rb", CHUNK)


def json_lines(stream: BinaryIO, reading: Reading, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects in a file, one a line, with the numbers of their lines; blank lines are skipped.

    Args:
        stream: at its beginning; a byte order mark there is skipped.
        reading: told of what is damaged, and of each line's bytes.
        name: the file's, as reports show it.
    """
    return ((number, row) for number, row in all_lines(stream, reading, name) if row is not None)


def all_lines(stream: BinaryIO, reading: Reading, name: str) -> Iterator[Row]:
    """The same, with None for each line that was reported as damaged."""
    for number, raw in enumerate(raw_lines(stream, reading), 1):
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


def raw_lines(stream: BinaryIO, reading: Reading) -> Iterator[bytes | Unreadable]:
    """Each line, or why there is none. The longest: each byte of a message may be eight of JSON (``false, `` is one)."""
    limit, whole = 8 * (reading.max_message_bytes + MAX_DETAIL_BYTES), True
    while True:
        try:
            raw = stream.readline(limit if whole else CHUNK)
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
