"""Nothing acknowledged is lost, stored twice or out of order, whatever is killed, at whatever instant.

Four writers, four readers and three workers, each a process, over a Redis that has every write on disk before it answers
(``appendfsync always``) and a PostgreSQL that does the same. For a minute at least, and until 20,000 messages are
acknowledged, one of them is killed after another: writers, workers, a worker's work-horse, a worker frozen beyond its
claim; Redis and PostgreSQL, which come back with their data. Then the opponent has the books of the writers and of SQL.

``KILL_SECONDS`` makes it longer (`make soak`: an hour), ``KILL_SEED`` repeats the same choices, at other instants.
"""

from __future__ import annotations

import os
import random
import sys
import time

import opponent
import pytest
from fleet import Fleet, servers
from servers import RedisServer
from test_workers import until
from traffic import Task

from sessioncache import SessionCache
from sessioncache.config import Settings

SECONDS = float(os.environ.get("KILL_SECONDS", "60"))
SEED = int(os.environ.get("KILL_SEED", str(random.randrange(10**6))))
MESSAGES, EXTRA_SECONDS = 20_000, 90.0
EPOCH = 30.0  # other sessions from then on, so that histories stay short enough to be read whole again and again

# Each deal has these in some order. What is common is there more than once.
DEAL = [
    "kill_writer", "kill_writer", "kill_worker", "kill_worker", "kill_supervisor", "kill_plain_worker", "kill_horse",
    "kill_horse", "freeze", "restart_redis", "restart_redis", "restart_postgres", "kill_postgres_process",
    "drop_hot_copies", "drop_hot_copies",
]  # fmt: skip
MUST = {"writer", "worker", "supervisor", "plain worker", "work-horse", "frozen", "redis", "postgres", "hot copies"}


def settings_of(hot: RedisServer, database_url: str) -> Settings:
    """Short waits, so that much happens; claims that end soon; a window that histories outgrow.

    ``keep_ops``: a repeat that is older than these would show twice until it is drained (docs/usage.md, *Ids*), and the
    readers here claim that nothing ever does.
    """
    return Settings(
        redis_url=hot.url, database_url=database_url, lanes=3, visibility=3.0, database_timeout=2.0, lease=3.0,
        hydration_timeout=6.0, redis_timeout=1.0, timeout=3.0, wake=1.0, sweep=0.5, slice=2.0, linger=0.1,
        retry_pause=0.5, window=300, batch=500, keep_ops=1000,
    )  # fmt: skip


def deal_and_play(fleet: Fleet) -> None:
    """Fault after fault, until it is long enough, and every kind was there, and enough was acknowledged."""
    begun, hand = time.monotonic(), []
    while (now := time.monotonic() - begun) < SECONDS or not enough(fleet):
        assert now < SECONDS + EXTRA_SECONDS, (fleet.done, opponent.acknowledged(fleet.directory))
        hand = hand or fleet.chance.sample(DEAL, len(DEAL))
        getattr(fleet, hand.pop())()
        end = time.monotonic() + fleet.chance.uniform(0.2, 2.0)
        while time.monotonic() < end:
            fleet.keep_running()
            time.sleep(0.05)
        assert not fleet.faults()


def enough(fleet: Fleet) -> bool:
    """Whether all of it was seen."""
    return set(fleet.done) >= MUST and opponent.acknowledged(fleet.directory) >= MESSAGES


def histories(settings: Settings, directory) -> dict[str, list[opponent.Stored]]:
    """Every history as a server has it that never saw it before."""
    found = {}
    with SessionCache(settings=settings) as cache:
        for key, session_id in sorted({(call.key, call.session_id) for call in opponent.calls(directory)}):
            records = cache.get(key).messages()
            found[session_id] = [opponent.Stored(one.seq, one.id, opponent.digest(one.data)) for one in records]
    return found


def report(fleet: Fleet, stored: int) -> str:
    """What was survived."""
    told = opponent.acknowledged(fleet.directory)
    return "\n".join(
        (
            f"{told} messages acknowledged, {stored} stored; {fleet.reads()} reads checked",
            "killed or frozen: " + ", ".join(f"{count} x {name}" for name, count in sorted(fleet.done.items())),
            "calls made again: " + ", ".join(f"{count} x {name}" for name, count in sorted(fleet.repeats().items())),
        )
    )


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 400)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists the children of a process")
def test_nothing_is_lost_whatever_is_killed(tmp_path, record_property):
    """0 lost, 0 duplicated, 0 reordered, by the opponent, in SQL and in every history; nothing waits, nothing is dead."""
    directory = tmp_path / "logs"
    directory.mkdir()
    with servers("always") as (hot, store), store.database() as database_url:
        settings = settings_of(hot, database_url)
        fleet = Fleet(directory, hot, store, settings, SEED)
        try:
            fleet.start_workers()
            for n in range(4):
                common = {"directory": str(directory), "since": time.time(), "epoch": EPOCH}
                fleet.start("write", Task(name=f"w{n}", sizes=[1, 1, 1, 20, 100, 150], rate=12.0, keys=24, **common))
                fleet.start("read", Task(name=f"r{n}", rate=10.0, keys=24, **common))
            deal_and_play(fleet)
            fleet.stop_traffic()
            with SessionCache(settings=settings) as cache:
                until(lambda: fleet.keep_running() or not cache.stats().pending, 120)  # by the workers alone
        except BaseException:
            record_property(f"KILL_SEED={SEED}", "\n".join([*fleet.story, *fleet.faults(), report(fleet, 0)]))
            raise
        finally:
            fleet.close()
        with SessionCache(settings=settings) as cache:
            cache.flush()
            stats = cache.stats()
        logged, stored = list(opponent.calls(directory)), opponent.in_store(database_url)
        record_property(f"KILL_SEED={SEED}", report(fleet, sum(map(len, stored.values()))))
        assert (stats.dirty, stats.pending, stats.dead) == (0, 0, 0)
        assert not fleet.faults()
        assert opponent.judge(logged, stored) == []
        assert opponent.counts_that_differ(database_url) == []
        assert histories(settings, directory) == stored
        assert fleet.reads() > 100
