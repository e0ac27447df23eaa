"""An SQLite file of somebody else's, read as far as SQLite can read it.

Guarantees: it is opened read-only, in one transaction, so that a store in use is read as of one moment, and nothing is left
beside it; no row is held that is too large to be a message; rows that cannot be read are reported, and those behind them
are read. Text that is not UTF-8 is `NOT_TEXT`.

Assumptions: the tables have row ids, as all have that are not declared ``WITHOUT ROWID``; nobody begins to write to a file
in WAL mode that had no log beside it when it was opened.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sessioncache.info import MAX_DETAIL_BYTES
from sessioncache.transfer import files
from sessioncache.transfer.files import File, Unreadable, file_at, opened
from sessioncache.transfer.found import Damage, Reading

Row = tuple[int, dict[str, Any]]

_HEADER = b"SQLite format 3\0"
_WAL = 2
_SMALLEST_ROW, _LARGEST_ROW = -(2**63), 2**63 - 1
# How many rows in a row are tried one by one where nothing can be read, before the steps double.
_PATIENCE = 1000


class _Disorder(sqlite3.DatabaseError):
    """Rows are not in the order of their ids: their page was overwritten or cut off."""

    sqlite_errorname = "SQLITE_CORRUPT"


class _NotText:
    """The type of `NOT_TEXT`."""


NOT_TEXT = _NotText()


def why(error: Exception) -> str:
    """An error in fixed words; SQLite's own would name what stands in the file."""
    if isinstance(error, sqlite3.Error):
        return f"SQLite cannot read it ({getattr(error, 'sqlite_errorname', 'no reason given')})"
    return files.why(error)


@dataclass(frozen=True, slots=True)
class Database:
    """An open file. Close ``connection`` when done."""

    file: File
    connection: sqlite3.Connection
    reading: Reading

    def damaged(self, table: str, row: int, why: str) -> None:
        """Tell of a row that cannot be read."""
        self.reading.damaged(Damage(f"{self.file.name}:{table}", row, why))

    def count(self, table: str) -> int:
        """How many rows a table has."""
        return int(self.connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0])  # noqa: S608 - ours

    def columns(self, table: str, wanted: Sequence[str]) -> tuple[str, ...]:
        """Those of the wanted columns that a table has.

        Raises:
            Unreadable: there is no such table.
        """
        kinds = self.connection.execute("SELECT type FROM sqlite_master WHERE name = ?", (table,)).fetchall()
        if kinds != [("table",)]:
            raise Unreadable(f"it has no table {table}")
        there = {row[1] for row in self.connection.execute(f'PRAGMA table_info("{table}")')}
        return tuple(name for name in wanted if name in there)

    def is_key(self, table: str, column: str) -> bool:
        """Whether a column is a table's primary key, so that no two rows have the same value."""
        return [column] == [row[1] for row in self.connection.execute(f'PRAGMA table_info("{table}")') if row[5]]

    def row(self, table: str, columns: Sequence[str], row: int) -> dict[str, Any]:
        """One row, by column.

        Raises:
            sqlite3.Error, Unreadable: it cannot be read, or is not there.
        """
        found = self.connection.execute(_statement(table, columns, "rowid = ?"), (row,)).fetchone()
        if found is None:
            raise Unreadable("the row cannot be found again")
        return dict(zip(columns, found[1:], strict=True))

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[Row]:
        """Every row that can be read, in the order of their ids; what cannot is reported."""
        start, tried = _SMALLEST_ROW, 0
        statement = _statement(table, columns, "rowid >= ? ORDER BY rowid")
        while start <= _LARGEST_ROW:
            try:
                for found in self.connection.execute(statement, (start,)):
                    start, tried = _following(found[0], start), 0
                    yield found[0], dict(zip(columns, found[1:], strict=True))
            except sqlite3.Error as error:
                if isinstance(error, _Disorder):
                    self._gap(table, start, tried, why(error))
                    tried += 1
                # Python's cursors are a row ahead: the row before the one that cannot be read was lost with it.
                single, start, tried = self._single(table, columns, start, tried, why(error))
                if single is not None:
                    yield single
            else:
                return

    def _single(
        self, table: str, columns: Sequence[str], start: int, tried: int, reason: str
    ) -> tuple[Row | None, int, int]:
        """The first row from ``start`` on, if it can be read, and where to go on; if it cannot be named, behind a gap."""
        try:
            found = self.connection.execute(_statement(table, (), "rowid >= ? ORDER BY rowid LIMIT 1"), (start,)).fetchone()
            after = _following(found[0], start) if found else _LARGEST_ROW + 1
        except sqlite3.Error:
            self._gap(table, start, tried, reason)
            return None, max(start, 0) + 2 ** max(0, tried - _PATIENCE), tried + 1
        if found is None:
            self._gap(table, start, tried, reason)
            return None, after, 0
        try:
            return (found[0], self.row(table, columns, found[0])), after, 0
        except (sqlite3.Error, Unreadable) as error:
            self.damaged(table, found[0], why(error))
            return None, after, 0

    def _gap(self, table: str, start: int, tried: int, reason: str) -> None:
        """Tell of rows that cannot be named, once."""
        if not tried:
            self.damaged(table, max(start, 1), f"{reason}, nor some that follow")


def _following(row: int, start: int) -> int:
    """The row after one; a page that was overwritten can claim any, and the same again and again."""
    if row < start:
        raise _Disorder
    return row + 1


def _statement(table: str, columns: Sequence[str], where: str) -> str:
    names = ", ".join(f'"{name}"' for name in ("rowid", *columns))
    return f'SELECT {names} FROM "{table}" WHERE {where}'  # noqa: S608 - names of ours


def connected(path: str, reading: Reading) -> Database:
    """An SQLite file, open.

    Raises:
        OSError, Unreadable, sqlite3.Error: it cannot be opened, or is none.
    """
    real = Path(os.path.realpath(path))
    file = file_at(real.parent, Path(real.name))
    with opened(file) as stream:
        header = stream.read(len(_HEADER) + 3)
    if not header.startswith(_HEADER):
        raise Unreadable("it is no SQLite database")
    # Nobody has it open; SQLite would make a log, and leave it, in a directory that is not ours.
    alone = header[-1] == _WAL and not os.path.lexists(f"{file.real}-wal")
    place = f"file://{quote(os.fsencode(file.real))}?mode=ro{'&immutable=1' if alone else ''}"
    connection = sqlite3.connect(place, uri=True, isolation_level=None)
    try:
        _prepare(connection, reading)
    except BaseException:
        connection.close()
        raise
    return Database(file, connection, reading)


def _prepare(connection: sqlite3.Connection, reading: Reading) -> None:
    connection.text_factory = _text
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 8 * (reading.max_message_bytes + MAX_DETAIL_BYTES))
    # The schema is not written: a file that was cut off is refused otherwise, whatever can still be read in it.
    for name, value in (("writable_schema", "ON"), ("trusted_schema", "OFF"), ("cell_size_check", "ON")):
        connection.execute(f"PRAGMA {name} = {value}")
    connection.execute("BEGIN")


def _text(raw: bytes) -> str | _NotText:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return NOT_TEXT
