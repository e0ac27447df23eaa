"""What it costs Redis to be looked at: one refresh of `top`, one `stats`, one `doctor`, one scrape of a worker's endpoint.

    PYTHONPATH=tests python benchmarks/looking.py [--sessions N] [--partitions N] [--repeat N]

N sessions are dirty, in all of the partitions; no worker runs. Each look is taken N times over connections that stand,
after one that does not count. The table gives what one costs: commands that Redis executed, those in scripts too; the time
that Redis says it spent in them, in which what a script calls is counted twice; the time of Redis's main thread, with all
that it reads and sends; and how long the look took. Nothing is asserted; numbers depend on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis
from rich.console import Console
from rich.table import Table
from servers import RedisServer, valkey_wheel

from sessioncache import SessionCache, Settings
from sessioncache.connect import BlockingConnections
from sessioncache.flow import run
from sessioncache.watch import sample
from workers import probe as probing
from workers.probe import Probe


@dataclass
class Cost:
    """What looks cost, each."""

    commands: float
    commands_ms: float
    thread_ms: float
    took: list[float]


def looks(connections: BlockingConnections, cache: SessionCache, probe: Probe) -> dict[str, Callable[[], Any]]:
    """What is measured, by name."""
    return {
        "top": lambda: run(sample(connections.state), connections.driver.perform),
        "stats": cache.stats,
        "doctor": cache.doctor,
        "scrape": probe.look,
    }


def thread_seconds(raw: redis.Redis) -> float:
    """What Redis's main thread has used of a processor, in seconds."""
    told = raw.info("cpu")
    return float(told["used_cpu_user_main_thread"]) + float(told["used_cpu_sys_main_thread"])


def cost(raw: redis.Redis, look: Callable[[], Any], repeat: int) -> Cost:
    """What one look costs."""
    look()
    raw.config_resetstat()
    took, before = [], thread_seconds(raw)
    for _ in range(repeat):
        start = time.perf_counter()
        look()
        took.append(1000 * (time.perf_counter() - start))
    used = thread_seconds(raw) - before
    did = [one for name, one in raw.info("commandstats").items() if name != "cmdstat_config|resetstat"]
    calls, usec = sum(one["calls"] for one in did), sum(one["usec"] for one in did)
    return Cost(calls / repeat, usec / repeat / 1000, 1000 * used / repeat, took)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=1_000)
    parser.add_argument("--partitions", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=50)
    asked = parser.parse_args()
    title = f"{asked.sessions:,} dirty sessions in {asked.partitions} partitions"
    table = Table("look", "commands", "in them, ms", "thread, ms", "took, ms", "longest, ms", title=title)
    server = RedisServer(valkey_wheel() or "valkey-server").start()
    with tempfile.TemporaryDirectory() as directory, redis.Redis.from_url(server.url) as raw:
        settings = Settings(
            redis_url=server.url, database_url=f"sqlite:///{directory}/a.db", partitions=asked.partitions,
            lanes=min(4, asked.partitions), job="nowhere.to_be_found",
        )  # fmt: skip
        probing.SHARED_SECONDS = 0.0  # so that each scrape is a look of its own
        connections, probe = BlockingConnections(settings), Probe(settings)
        with SessionCache(settings=settings) as cache:
            for number in range(asked.sessions):
                cache.open(f"bench:{number}").append({"role": "user", "content": "What was said."})
            for name, look in looks(connections, cache, probe).items():
                found = cost(raw, look, asked.repeat)
                figures = (found.commands_ms, found.thread_ms, statistics.median(found.took), max(found.took))
                table.add_row(name, f"{found.commands:,.0f}", *(f"{one:.2f}" for one in figures))
        probe.close()
        connections.close()
    server.close()
    Console().print(table)


if __name__ == "__main__":
    main()
