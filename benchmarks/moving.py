"""How fast an import is, beside the drain of the same messages into the same kind of database, in one run.

    python benchmarks/moving.py [--messages N] [--repeat N] [--postgres URL]

Each round appends N messages of about 200 bytes to sessions of 50, unmeasured, and measures: the drain into SQL; the
export; the import of that export into an empty database. The database is SQLite, and the PostgreSQL of the URL if one is
given: each round takes a schema of its own there, and drops it. The table gives median, least and most messages per
second, and the ratio to the drain. Nothing is asserted; numbers depend on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from secrets import token_hex
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import create_engine

from sessioncache import SessionCache, Settings
from sessioncache.connect import BlockingConnections
from sessioncache.migrate import upgrade
from sessioncache.store.engine import blocking
from sessioncache.transfer import exported
from sessioncache.transfer.exporting import write_out
from sessioncache.transfer.found import Reading
from sessioncache.transfer.importing import bring_in

SESSION = 50
TEXT = "What was said, in words of no importance. " * 5


@contextmanager
def sqlite(folder: Path) -> Iterator[str]:
    """The URL of an SQLite file that is new."""
    yield f"sqlite:///{folder / token_hex(4)}.db"


@contextmanager
def postgres(url: str) -> Iterator[str]:
    """The URL of a schema that is new, and dropped afterwards."""
    name, engine = f"bench_{token_hex(4)}", create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    try:
        yield f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D{name}"
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
        engine.dispose()


def prepared(settings: Settings, url: str) -> BlockingConnections:
    """Connections to a Redis and an empty database with a schema; nobody is rung for."""
    settings = replace(settings, database_url=url, prefix=f"bench-{token_hex(4)}", job="nowhere.to_be_found")
    engine = blocking(settings)
    with engine.begin() as connection:
        upgrade(connection)
    engine.dispose()
    return BlockingConnections(settings)


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def round_of(settings: Settings, first: str, second: str, file: Path, messages: int) -> dict[str, float]:
    """Messages per second of each step."""
    taken: dict[str, float] = {}
    with SessionCache(settings=prepared(settings, first).settings) as cache:
        for number in range(0, messages, SESSION):
            session = cache.open(f"bench:{number}")
            session.append([{"role": "user", "content": f"{number} {n} {TEXT}"} for n in range(SESSION)])
        taken["drain"] = seconds(cache.flush)
        with file.open("wb") as out:
            taken["export"] = seconds(lambda: cache._run(write_out(cache._state, out.write, print)))  # noqa: SLF001
    into = prepared(settings, second)
    reading = Reading(UTC, into.settings.max_message_bytes, print, lambda _: None)
    taken["import"] = seconds(lambda: into.run(bring_in(into.state, exported.read(str(file), reading), print)))
    into.close()
    return {step: messages / took for step, took in taken.items()}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--postgres", help="a PostgreSQL to measure too, as postgresql://…")
    asked = parser.parse_args()
    table = Table(
        "database", "step", "median/s", "min/s", "max/s", "ratio to the drain", title=f"{asked.messages:,} messages"
    )
    with tempfile.TemporaryDirectory() as directory, SessionCache.embedded(directory) as cache:
        folder, kinds = Path(directory), ["SQLite", *(["PostgreSQL"] if asked.postgres else [])]
        for kind in kinds:
            found: list[dict[str, float]] = []
            for _ in range(asked.repeat):
                new = (lambda: postgres(asked.postgres)) if kind == "PostgreSQL" else (lambda: sqlite(folder))
                with new() as first, new() as second:
                    found.append(round_of(cache.settings, first, second, folder / "export.jsonl", asked.messages))
            for step in ("drain", "export", "import"):
                speeds = [one[step] for one in found]
                ratio = statistics.median(one[step] / one["drain"] for one in found)
                figures = (f"{value:,.0f}" for value in (statistics.median(speeds), min(speeds), max(speeds)))
                table.add_row(kind, step, *figures, f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
