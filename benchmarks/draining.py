"""Draining: messages of many sessions that are pending in Redis, until all of them are in the database.

    PYTHONPATH=tests python benchmarks/draining.py [--quick]

40,000 messages (fewer with ``--quick``) wait in the pending logs of 1,000 sessions, 40 in each, fresh ones in each round;
one process runs the drain job's flow until none waits. What it is compared with writes the same finished rows into the same
tables of another database of the same server, whose sessions are there: by COPY (PostgreSQL) or by executemany (SQLite,
with the same pragmas as ours), in transactions of as many rows as one of ours. So both pay for the same indexes, those of
the search, too, and for the foreign key; only ours reads, checks and decodes what it writes, keeps the sessions' counts and
remembers what it has applied. That the rest of it is not hidden by the search, the third way shows: the same rows into a
table that lacks the search and the foreign key.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import psycopg
from bench import alone
from measuring import OURS, Bar, Figure, Way, in_rounds
from place import Place, Scale, history
from sqlalchemy import create_engine, text

from sessioncache import SessionCache, Settings
from sessioncache.connect import BlockingConnections
from sessioncache.write_behind import drain_lane

MESSAGES, SESSIONS = 40_000, 1_000
# Each round drains what was filled in anew.
MOST_ROUNDS = 5
COLUMNS = "session_id, seq, message_id, role, body, text, words, created_at"
BARE_POSTGRES = """CREATE TABLE bare (LIKE messages INCLUDING DEFAULTS, PRIMARY KEY (session_id, seq),
    UNIQUE (session_id, message_id))"""
BARE_SQLITE = f"""CREATE TABLE bare (id INTEGER PRIMARY KEY, {COLUMNS.replace("body", "body TEXT")},
    UNIQUE (session_id, seq), UNIQUE (session_id, message_id))"""

Row = tuple[Any, ...]
# Writes rows into a table of a bare database in transactions of so many.
Write = Callable[[str, Sequence[Row], int], None]
# What writes rows bare, and what begins sessions for them.
BareWays = tuple[Write, Callable[[Sequence[str]], None]]


class Filled:
    """Sessions of ours with pending messages, and how long a worker takes to drain them, which keeps its connections."""

    def __init__(self, settings: Settings, scale: Scale) -> None:
        self.settings, self.scale, self.serial = settings, scale, 0
        self.sessions = max(1, round(SESSIONS * scale.share))
        self.each = history(scale, MESSAGES // SESSIONS)
        self.count = self.sessions * len(self.each)
        self.worker = BlockingConnections(settings, kind="worker")

    def fill(self) -> None:
        """Let fresh sessions begin, which are not measured, and append to them."""
        self.serial += 1
        with SessionCache(settings=self.settings) as cache:
            opened = [cache.open(f"{self.serial}:{at}") for at in range(self.sessions)]
            cache.flush()
            for session in opened:
                session.append(self.each)

    def __call__(self) -> float:
        """Messages a second."""
        self.fill()
        state = self.worker.state
        wanted = self.drained() + self.count
        begun = time.perf_counter()
        self.worker.run(drain_lane(state, 0, 1, lambda: self.drained() >= wanted))
        return self.count / (time.perf_counter() - begun)

    def drained(self) -> int:
        """The ops that the worker has drained."""
        return self.worker.state.counters.snapshot()["ops_drained"]

    def close(self) -> None:
        """Let go of the worker's connections."""
        self.worker.close()


class Bare:
    """The same rows, written by a bare driver into one table, under fresh session ids each time."""

    def __init__(self, write: Write, begin: Callable[[Sequence[str]], None], table: str, rows: Sequence[Row]) -> None:
        self.write, self.begin, self.table, self.rows, self.serial = write, begin, table, rows, 0
        self.batch = Settings().batch

    def __call__(self) -> float:
        """Rows a second."""
        self.serial += 1
        rows = [(f"{self.serial:04}{row[0][4:]}", *row[1:]) for row in self.rows]
        self.begin(sorted({row[0] for row in rows}))
        begun = time.perf_counter()
        self.write(self.table, rows, self.batch)
        return len(rows) / (time.perf_counter() - begun)


def batches(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """The rows of each transaction."""
    return (rows[at : at + size] for at in range(0, len(rows), size))


ROWS = f"SELECT {COLUMNS} FROM messages ORDER BY session_id, seq"  # noqa: S608 - names of our own
SESSION = """INSERT INTO sessions (session_id, created_at, updated_at, last_accessed) VALUES ({}, {}, {}, {})
    ON CONFLICT DO NOTHING"""


def drained_rows(url: str) -> list[Row]:
    """What a first draining wrote, as the driver gives it back: what the bare ways write."""
    with create_engine(url).connect() as connection:
        return [tuple(row) for row in connection.execute(text(ROWS))]


@contextmanager
def bare_postgres(url: str) -> Iterator[BareWays]:
    """Writes by COPY."""
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute(BARE_POSTGRES)
        connection.commit()

        def write(table: str, rows: Sequence[Row], size: int) -> None:
            for some in batches(rows, size):
                with connection.cursor() as cursor, cursor.copy(f"COPY {table} ({COLUMNS}) FROM STDIN") as copy:
                    for row in some:
                        copy.write_row(row)
                connection.commit()

        def begin(session_ids: Sequence[str]) -> None:
            with connection.cursor() as cursor:
                cursor.executemany(SESSION.format("%s", "now()", "now()", "now()"), [(name,) for name in session_ids])
            connection.commit()

        yield write, begin


@contextmanager
def bare_sqlite(url: str) -> Iterator[BareWays]:
    """Writes by executemany."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute(BARE_SQLITE)

        def write(table: str, rows: Sequence[Row], size: int) -> None:
            insert = f"INSERT INTO {table} ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - names of our own
            for some in batches(rows, size):
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(insert, some)
                connection.execute("COMMIT")

        def begin(session_ids: Sequence[str]) -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(SESSION.format("?", "''", "''", "''"), [(name,) for name in session_ids])
            connection.execute("COMMIT")

        yield write, begin


def to_postgres(place: Place, scale: Scale) -> Figure:
    """One process drains to PostgreSQL, and one COPY writes to another database of that server."""
    with place.postgres.database() as ours, place.postgres.database() as bare, bare_postgres(bare) as bare_ways:
        return measured(place, scale, "PostgreSQL", ours, bare_ways, Bar("COPY", least=0.35))


def to_sqlite(place: Place, scale: Scale) -> Figure:
    """One process drains to SQLite, and one executemany writes to another file."""
    with bare_sqlite(place.sqlite()) as bare_ways:
        return measured(place, scale, "SQLite", place.sqlite(), bare_ways, Bar("executemany", least=0.5))


def measured(place: Place, scale: Scale, store: str, url: str, bare: BareWays, bar: Bar) -> Figure:
    """A drain to a database of this URL, and what the bar is against, with search and without."""
    write, begin = bare
    with closing(Filled(settings_for(place, url), scale)) as filled:
        filled()
        rows = drained_rows(url)
        ways: dict[str, Way] = {
            OURS: filled,
            bar.against: Bare(write, begin, "messages", rows),
            f"{bar.against} without search": Bare(write, begin, "bare", rows),
        }
        found = in_rounds(ways, min(scale.rounds, MOST_ROUNDS))
    return Figure(f"drain to {store}", "messages/s", found, [bar], note(filled))


def settings_for(place: Place, url: str) -> Settings:
    """One lane, whose slice does not end before the messages do."""
    return place.settings(url, lanes=1, slice=300.0, report=0.0)


def note(filled: Filled) -> str:
    """What was drained."""
    return (
        f"{filled.count:,} messages of {filled.scale.message} bytes in {filled.sessions:,} sessions; the same rows into "
        "the same table, with its indexes, its search and its foreign key"
    )


def figures(place: Place, scale: Scale) -> list[Figure]:
    """To both databases."""
    return [to_postgres(place, scale), to_sqlite(place, scale)]


if __name__ == "__main__":
    alone(figures)
