"""Point 7: many readers of many cold sessions, and the one that hydrates is killed in the middle of it (I7)."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from multiprocessing import get_context

import pytest
from children import hydrate_and_hang, processes, read_all

SESSIONS, PROCESSES, THREADS = 200, 8, 8
LEASE, DEADLINE = 15.0, 60.0


@pytest.mark.long
@pytest.mark.timeout(180)
def test_the_leaseholder_is_killed_midway(one_stack):
    """Each session is loaded once after its lease ended, and nobody waits longer than the deadline of a read."""
    limits = {"lease": LEASE, "database_timeout": 3.0, "hydration_timeout": DEADLINE, "pool_size": 8}
    keys = [f"group:{n}" for n in range(SESSIONS)]
    with one_stack.cache() as cache:
        for key in keys:
            cache.open(key).append([{"content": f"{key} {n}"} for n in range(5)])
        cache.flush()
        for key in keys:
            cache.evict(key)
    settings = one_stack.settings(**limits)
    with processes(PROCESSES) as pool:
        list(pool.map(abs, range(PROCESSES * 4)))  # all of them are up
        killed = _killed_while_it_holds(settings, keys, one_stack)
        pending = [pool.submit(read_all, settings, keys, THREADS, seed) for seed in range(PROCESSES)]
        results = [one.result() for one in pending]
    assert killed == SESSIONS
    assert [wrong for _, wrong, _ in results if wrong] == []
    assert sum(counters["sql_loads"] for counters, _, _ in results) == SESSIONS
    assert sum(counters["hydrations"] for counters, _, _ in results) == SESSIONS
    assert sum(counters["hydration_waits"] for counters, _, _ in results) > 0
    assert max(longest for _, _, longest in results) < DEADLINE


def _killed_while_it_holds(settings, keys, stack) -> int:
    """A process takes the leases of all keys, is killed while it loads them, and leaves them behind; how many."""
    holder = get_context("spawn").Process(target=partial(hydrate_and_hang, settings, keys, os.getpid()))
    holder.start()
    try:
        with stack.raw() as raw:
            deadline = time.monotonic() + 60
            while (held := len(raw.keys("*:lease:*"))) < len(keys) and time.monotonic() < deadline:
                time.sleep(0.005)
            os.kill(holder.pid, signal.SIGKILL)
            holder.join()
            return min(held, len(raw.keys("*:lease:*")))
    finally:
        holder.kill()
        holder.join()
        holder.close()
