"""Points 7 and 9, and the workers' life: killed, stopped, started twice, without nudges, from a plain `rq worker`."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from conftest import THE_OTHER_LATER
from rq import Queue, Worker
from rq.serializers import JSONSerializer
from servers import python
from sqlalchemy import create_engine, text

from sessioncache import StoreUnavailable
from sessioncache.config import as_environment
from sessioncache.connect import BlockingConnections
from workers import jobs
from workers.runtime import DrainWorker
from workers.schedule import Schedule


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait for a condition that is sure to come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


@contextmanager
def workers(settings, *arguments):
    """`python -m workers` as a process."""
    process = python("-m", "workers", "--log-level", "WARNING", *arguments, env={**os.environ, **as_environment(settings)})
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def order(stack) -> dict[str, list[str]]:
    """The texts of each session in SQL, in order."""
    engine = create_engine(stack.database_url)
    found: dict[str, list[str]] = {}
    with engine.connect() as connection:
        for key, words in connection.execute(
            text("SELECT session_key, text FROM messages JOIN sessions USING (session_id) ORDER BY session_key, seq")
        ):
            found.setdefault(key, []).append(words)
    engine.dispose()
    return found


def worker_pids(raw) -> list[int]:
    return [worker.pid for worker in Worker.all(connection=raw)]


def fill(cache, sessions: int, messages: int) -> dict[str, list[str]]:
    """Append to many sessions in batches; what SQL shall have."""
    sent = {f"key-{n:04d}": [f"{n}.{m}" for m in range(messages)] for n in range(sessions)}
    for key, words in sent.items():
        cache.open(key).append([{"role": "user", "content": word} for word in words])
    return sent


@THE_OTHER_LATER
def test_killed_while_it_drains(some_stack):
    """10,000 messages of 100 sessions, the worker killed again and again: 10,000 rows, in order, none twice."""
    settings = some_stack.settings(batch=50, lanes=1, visibility=1.0, database_timeout=0.9, wake=1.0)
    chance = random.Random(7)
    with some_stack.cache(lanes=1) as cache, some_stack.raw() as raw, workers(settings, "--processes", "1"):
        sent: dict[str, list[str]] = {}
        killed: set[int] = set()
        for _ in range(4):
            until(lambda: set(worker_pids(raw)) - killed)
            for key, words in fill(cache, 100, 25).items():
                sent.setdefault(key, []).extend(words)
            time.sleep(chance.uniform(0.0, 0.25))
            for pid in set(worker_pids(raw)) - killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        assert len(killed) == 4
        until(lambda: not cache.stats().pending)
    assert order(some_stack) == sent


def test_sigterm_finishes_the_batch_in_hand(one_stack):
    """It acknowledges what it committed and exits; what is left waits for the next worker."""
    settings = one_stack.settings(batch=20, lanes=1)
    with one_stack.cache(lanes=1) as cache:
        sent = fill(cache, 200, 100)
        with workers(settings, "--processes", "1") as process:
            until(lambda: cache.stats().messages > 0)
            start = time.monotonic()
            process.terminate()
            assert process.wait(30) == 0
            assert time.monotonic() - start < settings.slice
        left = cache.stats()
        assert left.pending > 0
        assert left.messages + left.pending >= 20_000
        done = order(one_stack)
        assert sum(map(len, done.values())) == 20_000 - (left.pending - sum(key not in done for key in sent))
        cache.flush()
    assert order(one_stack) == sent


@THE_OTHER_LATER
def test_draining_is_batched(some_stack):
    """10,000 messages over 1,000 sessions: under 200 transactions."""
    with some_stack.cache() as cache:
        sent = fill(cache, 1000, 10)
        assert cache.flush().ops == 11_000
        assert 0 < cache.stats().counters["transactions"] < 200
    assert order(some_stack) == sent


def test_jobs_do_not_grow_with_messages(one_stack):
    """10,000 messages, one by one, with nobody draining: as many jobs as lanes wait, and under load few are made."""
    with one_stack.cache(wake=0.05) as cache, one_stack.raw() as raw:
        sessions = [cache.open(f"k{n}") for n in range(100)]
        for n in range(100):
            for session in sessions:
                session.append({"content": str(n)})
        time.sleep(0.2)
        waiting = Queue("sessioncache", connection=raw, serializer=JSONSerializer)
        assert 0 < waiting.count <= 4
        until(cache._connections._bell._waiting.empty)
    with one_stack.raw() as raw:
        raw.flushall()
    with one_stack.cache() as cache, one_stack.raw() as raw, workers(one_stack.settings(lanes=1), "--processes", "1"):
        until(lambda: worker_pids(raw))
        begun = time.monotonic()
        sessions = [cache.open(f"j{n}") for n in range(50)]
        for n in range(60):
            for session in sessions:
                session.append({"content": str(n)})
        until(lambda: not cache.stats().pending)
        ended = sum(int(raw.hget(key, "successful_job_count") or 0) for key in raw.keys("rq:worker:*"))
        assert ended <= 12 + (time.monotonic() - begun) * 4
    assert all(len(words) == 60 for words in order(one_stack).values())


def test_a_plain_rq_worker_can_run_the_job(some_stack):
    """`rq worker` with the JSON serializer, from a settings environment alone."""
    rq = Path(sys.executable).with_name("rq")
    settings = some_stack.settings(slice=2.0)
    with some_stack.cache() as cache:
        sent = fill(cache, 20, 5)
        until(lambda: cache.stats().counters["nudges"] > 0)
        socket = some_stack.redis_url.removeprefix("unix://")
        command = [
            rq,
            "worker",
            "--serializer",
            "rq.serializers.JSONSerializer",
            "--url",
            f"unix://{socket}",
            "--burst",
            "--quiet",
            "sessioncache",
        ]
        done = subprocess.run(
            command, env={**os.environ, **as_environment(settings)}, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, done.stderr
        until(lambda: not cache.stats().pending, 1)
    assert order(some_stack) == sent


def test_foreign_job_arguments_are_refused(one_stack, monkeypatch):
    """A job can do nothing but drain a lane of its own prefix."""
    for name, value in as_environment(one_stack.settings()).items():
        monkeypatch.setenv(name, value)
    jobs.connections.cache_clear()
    for arguments in [("other", 0, 4), ("sc", 4, 4), ("sc", -1, 4), ("sc", "0", 4), ("sc", 0, 65), ("sc", True, 4)]:
        with pytest.raises(Exception, match=r"worker drains|names a lane"):
            jobs.drain_lane(*arguments)
    jobs.connections().close()
    jobs.connections.cache_clear()


def test_the_sweep_needs_no_nudge(one_stack):
    """Every nudge is lost: the schedule finds the work."""
    with one_stack.cache(queue="nobody-listens") as cache, one_stack.raw() as raw:
        sent = fill(cache, 30, 3)
        with workers(one_stack.settings(sweep=0.2), "--processes", "1"):
            until(lambda: not cache.stats().pending, 30)
        assert raw.exists("rq:queue:nobody-listens")
    assert order(one_stack) == sent


def test_the_schedule_drains_when_rq_cannot_write(one_stack, tmp_path):
    """The queue's Redis is away: draining depends on no job."""
    away = f"unix://{tmp_path}/nothing.sock"
    with one_stack.cache(queue_url=away) as cache:
        sent = fill(cache, 30, 3)
        with workers(one_stack.settings(queue_url=away, sweep=0.2, redis_timeout=0.3), "--processes", "1"):
            until(lambda: not cache.stats().pending, 30)
    assert order(one_stack) == sent


def test_one_schedule_at_a_time(one_stack):
    """However many are started; when the one ends, another takes its turn."""
    settings = one_stack.settings(sweep=0.1, slice=0.2, retry_pause=0.1, database_timeout=0.4)
    connections = [BlockingConnections(settings) for _ in range(4)]
    schedules = [Schedule(each, threading.Event()) for each in connections]
    assert [one.tick() for one in schedules] == [True, False, False, False]
    assert [one.tick() for one in schedules] == [True, False, False, False]
    schedules[0]._give_back()
    assert [one.tick() for one in schedules[1:]] == [True, False, False]
    until(schedules[3].tick, 10)
    for schedule, connection in zip(schedules, connections, strict=True):
        schedule._queue.close()
        connection.close()


def test_one_schedule_at_a_time_also_when_it_has_work(one_stack, tmp_path):
    """The store is away and draining takes as long as it may: the turn lasts."""
    settings = one_stack.settings(sweep=0.05, slice=1.0, retry_pause=0.2)
    with one_stack.cache() as cache:
        fill(cache, 20, 2)
    broken = replace(settings, database_url=f"sqlite:///{tmp_path}/missing/store.db")
    connections = [BlockingConnections(broken) for _ in range(3)]
    schedules = [Schedule(each, threading.Event()) for each in connections]
    time.sleep(0.4)  # overdue by more than any sweep waits for
    had_it: list[bool] = []

    def take_turn(schedule):
        try:
            had_it.append(schedule.tick())
        except StoreUnavailable:
            had_it.append(True)

    threads = [threading.Thread(target=take_turn, args=(schedule,)) for schedule in schedules]
    for thread in threads:
        thread.start()
        time.sleep(0.2)
    for thread in threads:
        thread.join()
    assert sorted(had_it) == [False, False, True]
    for schedule, connection in zip(schedules, connections, strict=True):
        schedule._queue.close()
        connection.close()


def test_the_schedule_forgets_old_op_ids(one_stack):
    """Once an hour, the first time at once."""
    with one_stack.cache() as cache:
        fill(cache, 5, 1)
        cache.flush()
    connections = BlockingConnections(one_stack.settings(op_retention=1e-6))
    schedule = Schedule(connections, threading.Event())
    count = text("SELECT count(*) FROM applied_ops")
    with connections.driver.engine.connect() as connection:
        assert connection.execute(count).scalar() == 5
    assert schedule.tick()
    with connections.driver.engine.connect() as connection:
        assert connection.execute(count).scalar() == 0
    schedule._queue.close()
    connections.close()


def test_a_killed_supervisor_leaves_no_worker(one_stack):
    """Its children end by themselves."""
    if sys.platform != "linux":
        pytest.skip("only Linux tells a child that its parent was killed")
    with workers(one_stack.settings(), "--processes", "2") as process, one_stack.raw() as raw:
        until(lambda: len(worker_pids(raw)) == 2)
        pids = worker_pids(raw)
        process.kill()
        until(
            lambda: (
                not any(
                    Path(f"/proc/{pid}/cmdline").exists() and b"workers" in Path(f"/proc/{pid}/cmdline").read_bytes()
                    for pid in pids
                )
            )
        )


def test_a_killed_worker_is_replaced(one_stack):
    """The supervisor starts another."""
    with workers(one_stack.settings(), "--processes", "1") as process, one_stack.raw() as raw:
        until(lambda: worker_pids(raw))
        (pid,) = worker_pids(raw)
        os.kill(pid, signal.SIGKILL)
        until(lambda: set(worker_pids(raw)) - {pid})
        assert process.poll() is None


def test_the_store_is_away_for_a_while(one_stack, tmp_path):
    """Ops wait in Redis, in order, and are drained when it is back, by the same workers."""
    place, hidden = tmp_path / "store.db", tmp_path / "hidden.db"
    with one_stack.cache() as cache:
        sent = fill(cache, 10, 10)
        cache.flush()
        for key in sent:
            cache.open(key).append({"role": "user", "content": "late"})
        cache.close()
    for suffix in ("", "-wal", "-shm"):
        if Path(f"{place}{suffix}").exists():
            shutil.move(f"{place}{suffix}", f"{hidden}{suffix}")
    place.mkdir()
    with workers(one_stack.settings(lanes=1, retry_pause=0.3, sweep=0.3), "--processes", "1"):
        time.sleep(2.5)
        place.rmdir()
        for suffix in ("", "-wal", "-shm"):
            if Path(f"{hidden}{suffix}").exists():
                shutil.move(f"{hidden}{suffix}", f"{place}{suffix}")
        with one_stack.cache() as cache:
            until(lambda: not cache.stats().pending, 40)
    assert order(one_stack) == {key: [*words, "late"] for key, words in sent.items()}


def test_a_worker_that_is_told_to_stop_does_so_wherever_it_is(one_stack, monkeypatch):
    """What an `except Exception` of a library would swallow ends it all the same; a job under way ends first."""
    monkeypatch.setattr(jobs, "stopping", threading.Event())
    with one_stack.raw() as raw:
        worker = DrainWorker([Queue("idle", connection=raw, serializer=JSONSerializer)], connection=raw)

        def told():
            try:
                worker.request_stop(signal.SIGTERM, None)
            except Exception:  # noqa: BLE001 - as redis-py does
                return

        worker.set_state("busy")
        told()
        assert jobs.stopping.is_set()
        assert worker._stop_requested
        worker.set_state("idle")
        with pytest.raises(SystemExit):
            told()


def test_a_worker_signs_off_though_it_was_interrupted_while_it_waited(one_stack):
    """Between what it asked and the answer: the connection, back in the pool, would answer nothing for minutes."""
    with redis.Redis.from_url(one_stack.redis_url, socket_timeout=5) as connection:
        worker = DrainWorker([Queue("idle", connection=connection, serializer=JSONSerializer)], connection=connection)
        worker.register_birth()
        (interrupted,) = connection.connection_pool._available_connections
        interrupted.send_command("BLPOP", "nothing", 0)
        worker.teardown()
        assert Worker.all(connection=connection) == []
