"""What an append takes while SQL is away, and how long the backlog takes to drain when it is back.

    PYTHONPATH=tests python benchmarks/outage.py [--seconds N] [--rate N] [--sessions N]

Two writer processes append single messages of about 300 bytes to sessions that are hot. After 8 calm seconds PostgreSQL is
stopped as by a crash, and started again N seconds later; three workers, one for each lane, go on all the time. Both servers
come from the wheels of the tests: Valkey with an append-only file (``everysec``), PostgreSQL with fsync. Nothing is
asserted; numbers depend on the machine. `tests/test_outage.py` measures the same, and judges.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from fleet import Fleet, servers
from outages import measure

from sessioncache import Settings


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--sessions", type=int, default=50)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, servers("everysec") as (hot, store), store.database() as url:
        fleet = Fleet(Path(directory), hot, store, Settings(redis_url=hot.url, database_url=url, lanes=3), seed=1)
        try:
            found = measure(fleet, seconds=asked.seconds, rate=asked.rate, sessions=asked.sessions)
        finally:
            fleet.close()
        print("\n".join(found.lines()))  # noqa: T201


if __name__ == "__main__":
    main()
