"""SQL is away for a minute at 500 appends per second: appends go on, the lag shows, and the backlog drains by itself.

``OUTAGE_SECONDS`` makes it longer or shorter. How long appends took, and the drain, is printed at the end of the run;
`benchmarks/outage.py` gives the same figures.
"""

from __future__ import annotations

import os
import sys

import opponent
import pytest
from fleet import Fleet, servers
from outages import PHASES, measure

from sessioncache import SessionCache
from sessioncache.config import Settings

SECONDS = float(os.environ.get("OUTAGE_SECONDS", "60"))
RATE, SESSIONS = 500.0, 50
# What a busy machine may add to a call before anybody can say that it hangs.
GRACE = 2.0


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 400)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists the children of a process")
def test_appends_go_on_while_sql_is_away(tmp_path, record_property):
    """No append fails or hangs; pending ops and their age grow; then all drains, in order, and nobody is restarted."""
    with servers("everysec") as (hot, store), store.database() as database_url:
        settings = Settings(redis_url=hot.url, database_url=database_url, lanes=3)
        fleet = Fleet(tmp_path, hot, store, settings, seed=1)
        try:
            outage = measure(fleet, seconds=SECONDS, rate=RATE, sessions=SESSIONS)
            assert all(process.poll() is None for process in fleet.workers.values())
            assert not fleet.faults()
        finally:
            fleet.close()
        record_property("outage", "\n".join(outage.lines()))
        with SessionCache(settings=settings) as cache:
            cache.flush()
            stats = cache.stats()
        assert "starting another" not in (tmp_path / "supervisor.log").read_text()
        assert not fleet.repeats()
        assert max(max(outage.taken[phase]) for phase in PHASES) < settings.timeout + GRACE
        _lag_showed(outage)
        stored = opponent.in_store(database_url)
        assert (stats.dirty, stats.pending, stats.dead) == (0, 0, 0)
        assert opponent.judge(opponent.calls(tmp_path), stored) == []
        assert opponent.counts_that_differ(database_url) == []
        _came_in_order(outage, stored)


def _lag_showed(outage) -> None:
    """Nothing was drained meanwhile, and `stats` said so. What was committed before may be acknowledged a moment later."""
    times, pending, ages = zip(*outage.backlog[2:], strict=True)
    assert list(pending) == sorted(pending)
    assert list(ages) == sorted(ages)
    assert pending[-1] > 0.5 * len(outage.taken["during"]) * times[-1] / outage.lasted["during"]
    assert ages[-1] > 0.8 * times[-1]


def _came_in_order(outage, stored) -> None:
    """Whenever somebody looked, what SQL had of a session was how it begins."""
    assert len(outage.growth) > 1
    for look in outage.growth:
        for session_id, (count, last_seq) in look.items():
            assert count == sum(one.seq <= last_seq for one in stored[session_id])
