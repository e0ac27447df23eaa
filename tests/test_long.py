"""Long proofs: everything at once, for as long as it takes to believe it."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from dataclasses import replace

import pytest
from children import processes
from test_workers import order, worker_pids, workers

from sessioncache import SessionCache, SessionCacheError
from sessioncache.config import Settings

KEYS = [f"session-{n}" for n in range(40)]
SECONDS = 40


def write_until(settings: Settings, name: str, end: float) -> list[tuple[str, str]]:
    """Append to random sessions; what was acknowledged, in order."""
    chance, acknowledged, n = random.Random(name), [], 0
    with SessionCache(settings=settings) as cache:
        sessions = {key: cache.open(key) for key in KEYS}
        while time.time() < end:
            key = chance.choice(KEYS)
            words = [f"{name} {n + m}" for m in range(chance.choice((1, 1, 1, 5)))]
            n += len(words)
            sessions[key].append([{"role": "user", "content": word} for word in words])
            acknowledged += [(key, word) for word in words]
            if chance.random() < 0.3:
                texts = [one["content"] for one in sessions[key].history(limit=100)]
                assert words[-1] in texts
    return acknowledged


# SQLite's lock is not fair.
PATIENT = {"database_timeout": 20.0, "lease": 25.0, "visibility": 25.0, "hydration_timeout": 60.0}


@pytest.mark.long
@pytest.mark.timeout(400)
def test_nothing_is_lost_while_workers_are_killed(some_stack):
    """Four writers, three workers; workers killed, hot copies dropped and keys flushed at random, all the time."""
    settings = some_stack.settings(
        lanes=3, visibility=3.0, database_timeout=2.0, wake=1.0, sweep=0.5, window=150, batch=100
    )
    chance, end, kills, faults = random.Random(some_stack.name), time.time() + SECONDS, 0, []
    with processes(4) as pool, workers(settings, "--processes", "3"), some_stack.raw() as raw:
        patient = replace(settings, **PATIENT)
        writers = [pool.submit(write_until, patient, f"w{n}", end) for n in range(4)]
        with some_stack.cache(lanes=3, **PATIENT) as operator:

            def flush_now_and_then() -> None:
                while time.time() < end:
                    time.sleep(0.5)
                    try:
                        operator.flush(chance.choice(KEYS))
                    except SessionCacheError as error:
                        faults.append(error)

            flusher = threading.Thread(target=flush_now_and_then)
            flusher.start()
            while time.time() < end:
                time.sleep(chance.uniform(0.05, 0.6))
                operator.evict(chance.choice(KEYS))
                pids = worker_pids(raw)
                if pids and chance.random() < 0.5:
                    try:
                        os.kill(chance.choice(pids), signal.SIGKILL)
                        kills += 1
                    except ProcessLookupError:  # registered, and gone already
                        raw.delete(*raw.keys("rq:worker*"))
            flusher.join()
            acknowledged = [one.result() for one in writers]
            operator.flush()
            assert operator.stats().dead == 0
            found = {key: [one["content"] for one in operator.get(key).history()] for key in KEYS}
    assert kills > 2
    assert not faults
    assert order(some_stack) == found
    total = [pair for one in acknowledged for pair in one]
    assert len(total) > 2000
    assert sum(map(len, found.values())) == len(total) == len(set(total))
    for one in acknowledged:
        for key in KEYS:
            mine = [word for where, word in one if where == key]
            name = mine[0].split()[0] if mine else "nobody"
            assert [word for word in found[key] if word.split()[0] == name] == mine
