"""What stands still, and what flows steadily: an idle fleet, its lag under a steady load, what RQ costs, Redis's memory.

    PYTHONPATH=tests python benchmarks/standing.py [--quick]

One `python -m workers` with 4 processes (``--quick``: 2), as many as lanes, runs over a PostgreSQL with 1,000,000 stored
sessions, inserted in bulk by SQL (``--quick``: 100,000). RQ has a Redis of its own, so that what it costs can be told from
the rest.

- *commands of an idle system*: what both servers count as processed (``total_commands_processed``, which counts those in
  scripts too) while nobody does anything, a second; *rows*: what PostgreSQL returns or fetches meanwhile
  (``pg_stat_database``), a second and stored session, its own catalogues included.
- *flush lag*: a process of its own appends 2,000 messages a second, in turn, to 500 sessions. Some forty times a second the
  oldest op of all that waits is asked for; its age is the lag, which every other op's is below. The figure is the 99th
  percentile of each tenth of the time. *Rate*: what was appended, a second.
- *cost of RQ*: what its Redis counts as processed meanwhile, as a share of what both do. What the samples cost is not
  counted.
- *Redis memory*: ``used_memory`` of a server of its own with 1,000 sessions of 100 messages in it, appended two at a time
  and drained, less that without them. The other way is what it may be: 1.25 times the messages as msgpack, and 1 KB a
  session.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from statistics import quantiles

import bench
import msgpack
import redis
from measuring import OURS, Bar, Figure
from place import Place, Scale, history, hot_server, message
from servers import python
from sqlalchemy import Connection, create_engine, text

from sessioncache import AsyncSessionCache, SessionCache, Settings
from sessioncache.config import as_environment
from sessioncache.keys import Keyspace

STORED, SESSIONS, RATE = 1_000_000, 500, 2_000
IDLE_SECONDS, LOAD_SECONDS, SAMPLE_SECONDS = 20.0, 20.0, 0.025
LEAST_SECONDS = 3.0
# How long processes may take to start, on a machine that has other things to do.
START_SECONDS = 120.0
LANES, LEAST_LANES = 4, 2
WINDOWS = 10
MOST_IDLE, MOST_ROWS, MOST_LAG, MOST_OF_RQ = 50.0, 0.01, 1.0, 0.02
KEPT, LENGTH, ALLOWED, PER_SESSION = 1_000, 100, 1.25, 1_024

STORE_SESSIONS = """
    INSERT INTO sessions (session_id, session_key, owner, message_count, last_seq, created_at, updated_at, last_accessed)
    SELECT 's' || n, 'stored:' || n, 'o' || n % 1000, 2, 3, now(), now(), now() FROM generate_series(1, :count) AS n
"""
STORE_ROUTES = """
    INSERT INTO routes (session_key, session_id, version)
    SELECT 'stored:' || n, 's' || n, 3 FROM generate_series(1, :count) AS n
"""
INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'sessions' AND indexname <> 'sessions_pkey'"
ROWS = "SELECT tup_returned + tup_fetched FROM pg_stat_database WHERE datname = current_database()"


def store(database_url: str, count: int) -> None:
    """Put so many sessions into the store: indexes are made again after that, which is much quicker."""
    engine = create_engine(database_url)
    with engine.begin() as connection:
        indexes = connection.execute(text(INDEXES)).all()
        for name, _ in indexes:
            connection.execute(text(f"DROP INDEX {name}"))
        for statement in (STORE_SESSIONS, STORE_ROUTES):
            connection.execute(text(statement), {"count": count})
        for _, definition in indexes:
            connection.exec_driver_sql(definition)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    engine.dispose()


@dataclass(slots=True)
class Fleet:
    """Workers that run, and the servers that they use."""

    settings: Settings
    hot: redis.Redis
    queue: redis.Redis
    connection: Connection

    def commands(self) -> tuple[int, int]:
        """What each server has processed so far."""
        one, other = (int(client.info("stats")["total_commands_processed"]) for client in (self.hot, self.queue))
        return one, other

    def rows(self) -> int:
        """What PostgreSQL has returned or fetched so far."""
        return int(self.connection.scalar(text(ROWS)) or 0)


@contextmanager
def fleet(settings: Settings) -> Iterator[Fleet]:
    """Workers, about and ready."""
    environment = {**os.environ, **as_environment(settings)}
    workers = python("-m", "workers", "--log-level", "WARNING", env=environment)
    engine = create_engine(settings.database_url, isolation_level="AUTOCOMMIT")
    with (
        redis.Redis.from_url(settings.redis_url) as hot,
        redis.Redis.from_url(settings.queue_url) as queue,
        engine.connect() as connection,
    ):
        try:
            while queue.scard("rq:workers") < settings.lanes:
                time.sleep(0.05)
            yield Fleet(settings, hot, queue, connection)
        finally:
            workers.terminate()
            workers.wait()
    engine.dispose()


def idle(running: Fleet, seconds: float, stored: int) -> list[Figure]:
    """Nothing is done."""
    commands, rows = sum(running.commands()), running.rows()
    begun = time.perf_counter()
    time.sleep(seconds)
    took = time.perf_counter() - begun
    asked = 2  # the two INFO
    commands, rows = sum(running.commands()) - commands - asked, running.rows() - rows
    what = f"of an idle system, {stored:,} stored sessions"
    note = f"over {seconds:g} s; {running.settings.lanes} worker processes and the schedule"
    return [
        Figure(f"commands {what}", "commands/s", {OURS: [commands / took]}, [Bar(most=MOST_IDLE)], note),
        Figure(f"rows {what}", "rows/s a session", {OURS: [rows / took / stored]}, [Bar(most=MOST_ROWS)], note),
    ]


def write(settings: Settings, scale: Scale, seconds: float, ready: object, appended: object) -> None:
    """Append steadily, and say how many it were."""
    with SessionCache(settings=settings) as cache:
        sessions = [cache.open(f"load:{number}") for number in range(SESSIONS)]
        said = [message(scale, serial=number) for number in range(SESSIONS)]
        ready.wait(START_SECONDS)
        begun, count = time.perf_counter(), 0
        while (now := time.perf_counter() - begun) < seconds:
            if count < now * RATE:
                sessions[count % SESSIONS].append(said[count % SESSIONS])
                count += 1
            else:
                time.sleep(0.001)
        appended.value = count / now


def lag(hot: redis.Redis, names: list[str]) -> float:
    """The age of the oldest op that waits, in seconds, asked in one round trip."""
    with hot.pipeline(transaction=False) as pipeline:
        pipeline.time()
        for name in names:
            pipeline.zrange(name, 0, 0, withscores=True)
        (seconds, micros), *found = pipeline.execute()
    oldest = min((one[0][1] for one in found if one), default=None)
    return 0.0 if oldest is None else max(0.0, seconds + micros / 1e6 - oldest / 1000)


def steadily(running: Fleet, scale: Scale, seconds: float) -> list[Figure]:
    """A steady load, sampled."""
    settings = running.settings
    space = Keyspace(settings.prefix, settings.partitions)
    names = [space.of_partition(number).oldest for number in range(settings.partitions)]
    context = get_context("spawn")
    ready, appended = context.Barrier(2), context.Value("d", 0.0)
    writer = context.Process(target=write, args=(settings, scale, seconds, ready, appended))
    writer.start()
    ready.wait(START_SECONDS)
    samples: list[float] = []
    hot, queue = running.commands()
    while writer.exitcode is None:
        samples.append(lag(running.hot, names))
        writer.join(SAMPLE_SECONDS)
    hot, queue = (now - before for now, before in zip(running.commands(), (hot, queue), strict=True))
    hot -= len(samples) * (1 + len(names))
    size = max(1, len(samples) // WINDOWS)
    worst = [quantiles(samples[at : at + size], n=100)[98] for at in range(0, size * WINDOWS, size)]
    what = f"at {RATE:,} messages/s over {SESSIONS} sessions"
    note = f"over {seconds:g} s, {len(samples)} samples, the longest {max(samples):.2f} s"
    return [
        Figure(f"flush lag {what}, 99th percentile", "s", {OURS: worst}, [Bar(most=MOST_LAG)], note),
        Figure(f"cost of RQ {what}", "share of commands", {OURS: [queue / (hot + queue)]}, [Bar(most=MOST_OF_RQ)], note),
        Figure(f"rate {what}", "messages/s", {OURS: [appended.value]}, [Bar(least=0.98 * RATE)], note),
    ]


async def fill(settings: Settings, said: dict[str, list[dict[str, str]]]) -> None:
    """Append what was said, two messages at a time, to all sessions at once."""
    async with AsyncSessionCache(settings=settings) as cache:
        free = asyncio.Semaphore(64)

        async def talk(key: str, messages: list[dict[str, str]]) -> None:
            async with free:
                session = await cache.open(key)
                for at in range(0, len(messages), 2):
                    await session.append(messages[at : at + 2])

        await asyncio.gather(*(talk(key, messages) for key, messages in said.items()))
        await cache.flush()


def used(client: redis.Redis) -> int:
    """Bytes that a server uses, when nobody else is connected."""
    while client.info("clients")["connected_clients"] > 1:
        time.sleep(0.05)
    return int(client.info("memory")["used_memory"])


def memory(place: Place, scale: Scale) -> list[Figure]:
    """What clean sessions take."""
    count = max(20, round(KEPT * scale.share))
    server = hot_server()
    settings = replace(place.settings(queue_url=place.redis_url), redis_url=server.url)
    said = {f"memory:{number}": history(scale, LENGTH) for number in range(count)}
    try:
        with redis.Redis.from_url(server.url) as client:
            asyncio.run(fill(settings, {"memory:warm": history(scale, 2)}))
            before = used(client)
            asyncio.run(fill(settings, said))
            took = used(client) - before
    finally:
        server.close()
    payload = sum(len(msgpack.packb(one)) for messages in said.values() for one in messages)
    rounds = {
        OURS: [took / 1e6], "allowed": [(ALLOWED * payload + PER_SESSION * count) / 1e6], "messages": [payload / 1e6],
    }  # fmt: skip
    what = f"Redis memory of {count * LENGTH:,} messages of {scale.message} bytes in {count:,} sessions"
    return [Figure(what, "MB", rounds, [Bar("allowed", most=1.0)], "clean: all of it is in the store")]


def figures(place: Place, scale: Scale) -> list[Figure]:
    """What stands still, then a steady load over the same; memory."""
    stored = round(STORED * scale.share) if scale.share == 1.0 else STORED // 10
    seconds = max(LEAST_SECONDS, scale.share * IDLE_SECONDS), max(LEAST_SECONDS, scale.share * LOAD_SECONDS)
    with ExitStack() as stack:
        url = stack.enter_context(place.postgres.database())
        store(url, stored)
        queue = hot_server()
        stack.callback(queue.close)
        hot = hot_server()
        stack.callback(hot.close)
        usual = Settings()
        lanes = max(LEAST_LANES, round(LANES * scale.share))
        settings = replace(
            place.settings(url, queue_url=queue.url, job=usual.job, report=usual.report, lanes=lanes), redis_url=hot.url
        )
        running = stack.enter_context(fleet(settings))
        time.sleep(1.0)  # what is done once, at the start
        found = [*idle(running, seconds[0], stored), *steadily(running, scale, seconds[1])]
    return found + memory(place, scale)


if __name__ == "__main__":
    bench.alone(figures)
