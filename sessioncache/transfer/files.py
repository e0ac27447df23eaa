"""Files that somebody else made: which there are below a directory, and their opening.

Guarantees: no link leads out of the directory that was named, and nothing but a regular file is ever opened, so a pipe
cannot hang a reader. Why something cannot be read is said in fixed words (`Unreadable`), never in those of the file; names
of files are shown on one line.

Assumption: POSIX.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from sessioncache.transfer.found import Damage

BUFFER = 65_536
MAX_NAME_BYTES = 255

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = 253_402_300_799

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
    return os.fdopen(descriptor, "rb", BUFFER)
