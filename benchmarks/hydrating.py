"""Hydration: what it takes to bring an evicted session of 1,000 messages back from the store into Redis.

    PYTHONPATH=tests python benchmarks/hydrating.py [--quick]

Each figure is milliseconds of one session, over PostgreSQL and over SQLite, by the blocking door:

- *hydration*: `SessionCache.get` of a session whose hot copy was evicted: hydration, and the opening that asked for it.
- *hydration and read*: `Session.history` of such a session: hydration, then all messages, decoded.

The other ways are no cache; they do the least that has to be done, over one connection each that stands:

- ``bare``: a SELECT of the same rows and columns, as text, and a pipelined RPUSH of the same elements, ready made; for
  the read, LRANGE and decoding too.
- ``bare, converting``: the same, where the elements are made of the rows: JSON becomes msgpack.
- ``bare, one RPUSH``: as ``bare``, with all elements in one command.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import bench
import msgpack
import redis
from measuring import OURS, Bar, Figure, Way, in_rounds
from place import Place, Scale, history
from sqlalchemy import Connection, create_engine, text

from sessioncache import SessionCache, Settings
from sessioncache.keys import Keyspace
from sessioncache.message import from_json

LENGTH = 1_000
KEY = "bench:hydrating"
BARE, CONVERTING, ONE_RPUSH = "bare", "bare, converting", "bare, one RPUSH"
MOST = 1.6
SELECT = text(
    "SELECT session_id, seq, message_id, body, created_at FROM messages WHERE session_id = :session_id "
    "ORDER BY seq DESC LIMIT :length"
)


@dataclass(slots=True)
class Case:
    """A session that is in the store, and what to reach it by.

    Attributes:
        elements: of its hot copy.
    """

    cache: SessionCache
    raw: redis.Redis
    connection: Connection
    session_id: str
    elements: list[bytes]

    def rows(self) -> list[Any]:
        """The messages, newest first, as the driver gives them."""
        found = self.connection.execute(SELECT, {"session_id": self.session_id, "length": LENGTH}).all()
        self.connection.rollback()
        return list(found)

    def push(self, elements: list[bytes]) -> None:
        """A list of these elements, by as many commands in one pipeline."""
        with self.raw.pipeline(transaction=False) as pipeline:
            for element in elements:
                pipeline.rpush("bare", element)
            pipeline.execute()


def hydrated(case: Case) -> None:
    """Ours."""
    case.cache.get(KEY)


def bare(case: Case) -> None:
    """Rows that nobody looks at, and elements that are there already."""
    case.rows()
    case.push(case.elements)


def one_rpush(case: Case) -> None:
    """The same with one command."""
    case.rows()
    case.raw.rpush("bare", *case.elements)


def converting(case: Case) -> None:
    """Elements made of the rows."""
    rows = case.rows()
    case.push([b"%d 0 %b\n%b" % (row[1], row[2].encode(), from_json(row[3])) for row in reversed(rows)])


def read(case: Case) -> None:
    """Ours, with all messages."""
    case.cache.get(KEY).history()


def read_bare(case: Case) -> None:
    """Rows, elements, and all of them back, decoded."""
    bare(case)
    for element in case.raw.lrange("bare", 0, -1):
        msgpack.unpackb(element.partition(b"\n")[2])


HYDRATING: dict[str, Callable[[Case], None]] = {
    OURS: hydrated, BARE: bare, CONVERTING: converting, ONE_RPUSH: one_rpush,
}  # fmt: skip
READING: dict[str, Callable[[Case], None]] = {OURS: read, BARE: read_bare}


def timed(case: Case, what: Callable[[Case], None], repeat: int) -> float:
    """Milliseconds of one, when nothing is hot."""
    took = 0.0
    for _ in range(repeat):
        case.cache.evict(KEY)
        case.raw.delete("bare")
        begun = time.perf_counter()
        what(case)
        took += time.perf_counter() - begun
    return 1000 * took / repeat


@contextmanager
def prepared(settings: Settings, scale: Scale) -> Iterator[Case]:
    """A session of 1,000 messages, as turns of two made it."""
    engine = create_engine(settings.database_url)
    with SessionCache(settings=settings) as cache, redis.Redis.from_url(settings.redis_url) as raw:
        session, said = cache.open(KEY, owner="alice", title="A conversation"), history(scale, LENGTH)
        for at in range(0, LENGTH, 2):
            session.append(said[at : at + 2])
        cache.flush(KEY)
        elements = raw.lrange(Keyspace(settings.prefix, settings.partitions).of(KEY).history, 0, -1)
        with engine.connect() as connection:
            case = Case(cache, raw, connection, session.session_id, elements)
            if [json.loads(row[3]) for row in reversed(case.rows())] != said:
                raise SystemExit("The store has not what was appended.")
            yield case
        raw.delete("bare")
        cache.delete(KEY)
    engine.dispose()


def _figures(place: Place, scale: Scale, store: str, database_url: str) -> list[Figure]:
    repeat = max(1, round(3 * scale.share))
    found = []
    with prepared(place.settings(database_url), scale) as case:
        for measure, doing, bars in (
            ("hydration", HYDRATING, [Bar(BARE, most=MOST)]),
            ("hydration and read", READING, []),
        ):
            ways: dict[str, Way] = {name: partial(timed, case, what, repeat) for name, what in doing.items()}
            note = f"{LENGTH:,} messages of about {scale.message} bytes; {measure} as the docstring says"
            rounds = in_rounds(ways, scale.rounds)
            found.append(Figure(f"{measure}, {LENGTH:,} messages, {store}", "ms", rounds, bars, note))
    return found


def figures(place: Place, scale: Scale) -> list[Figure]:
    """Hydration over both stores."""
    with place.postgres.database() as url:
        found = _figures(place, scale, "PostgreSQL", url)
    return found + _figures(place, scale, "SQLite", place.sqlite())


if __name__ == "__main__":
    bench.alone(figures)
