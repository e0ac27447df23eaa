"""An outage of SQL, measured: what an append takes before, during and after it, how the backlog grows, how it drains.

Two writers append to sessions that are hot, one message at a time, at a rate between them. SQL is stopped as by a crash and
started again after a while; nothing else is restarted, and nobody is told. `measure` gives the figures and judges nothing;
what was logged is left to the opponent.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import opponent
from fleet import Fleet
from sqlalchemy import create_engine, text
from traffic import Task

from sessioncache import SessionCache

WRITERS = 2
CALM_SECONDS = 8.0
LONGEST_DRAIN = 240.0
PHASES = ("before", "during", "after")


@dataclass
class Outage:
    """What was measured.

    Attributes:
        taken: what each append took in seconds, by phase; those that ran when a phase ended belong to where they began.
        lasted: how long each phase lasted, in seconds.
        backlog: seconds since SQL went away, pending ops, age of the oldest in seconds: what `stats` said meanwhile.
        drained: from when SQL answered again until nothing was pending that had been appended by then, in seconds.
        growth: for each look at SQL during the drain, how many messages each session had, and its last seq.
    """

    taken: dict[str, list[float]] = field(default_factory=dict)
    lasted: dict[str, float] = field(default_factory=dict)
    backlog: list[tuple[float, int, float]] = field(default_factory=list)
    drained: float = 0.0
    growth: list[dict[str, tuple[int, int]]] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The figures, to be read."""
        shown = []
        for phase in PHASES:
            taken, lasted = sorted(self.taken[phase]), self.lasted[phase]
            rate, half, most = len(taken) / lasted, quantile(taken, 0.5) * 1000, quantile(taken, 0.99) * 1000
            shown.append(
                f"{phase:7} {lasted:5.1f} s {rate:6.0f} appends/s   p50 {half:7.2f} ms   p99 {most:7.2f} ms   "
                f"longest {taken[-1] * 1000:7.2f} ms"
            )
        _, pending, oldest = self.backlog[-1]
        drained = f"drained {self.drained:.1f} s after SQL answered again"
        return [*shown, f"backlog at the end of the outage: {pending} ops, the oldest {oldest:.1f} s old; {drained}"]


def quantile(values: list[float], share: float) -> float:
    """Of sorted values."""
    return values[min(len(values) - 1, int(len(values) * share))]


def measure(fleet: Fleet, *, seconds: float, rate: float, sessions: int) -> Outage:
    """Write for a while; stop SQL for so many seconds; go on until the backlog is drained, and a while after that.

    Args:
        fleet: its servers and settings; it has no traffic yet. It has none any more afterwards, but its workers.
        seconds: how long SQL is away.
        rate: appends per second, of both writers.
        sessions: how many they append to.
    """
    found, marks = Outage(), []
    with SessionCache(settings=fleet.settings) as cache:
        for n in range(sessions):
            cache.open(f"kill:0:{n}")
        cache.flush()
        fleet.start_workers()
        for n in range(WRITERS):
            task = Task(str(fleet.directory), f"w{n}", rate=rate / WRITERS, keys=sessions, durable=False)
            fleet.start("write", task)
        until(lambda: opponent.acknowledged(fleet.directory) > sessions, LONGEST_DRAIN)
        marks.append(time.monotonic())
        time.sleep(CALM_SECONDS)
        marks.append(time.monotonic())
        fleet.store.stop(signal.SIGQUIT)
        while (left := marks[-1] + seconds - time.monotonic()) > 0:
            since, stats = time.monotonic() - marks[-1], cache.stats()
            found.backlog.append((since, stats.pending, stats.oldest_pending))
            time.sleep(min(1.0, left))
        fleet.store.serve()
        marks.append(time.monotonic())
        _drain(fleet, cache, found, marks[-1])
        time.sleep(CALM_SECONDS)
        marks.append(time.monotonic())
        fleet.stop_traffic()
    for phase, begun, ended in zip(PHASES, marks[:-1], marks[1:], strict=True):
        found.lasted[phase] = ended - begun
        logged = (call for call in opponent.calls(fleet.directory) if call.taken is not None)
        found.taken[phase] = [call.taken for call in logged if begun <= call.begun < ended]
    return found


def _drain(fleet: Fleet, cache: SessionCache, found: Outage, since: float) -> None:
    """Wait until what waited is drained, and look at SQL meanwhile."""
    engine = create_engine(fleet.settings.database_url)
    counted = text("SELECT session_id, count(*), max(seq) FROM messages GROUP BY session_id")

    def over() -> bool:
        with engine.connect() as connection:
            found.growth.append({row[0]: (row[1], row[2]) for row in connection.execute(counted)})
        return cache.stats().oldest_pending < time.monotonic() - since

    until(over, LONGEST_DRAIN)
    found.drained = time.monotonic() - since
    engine.dispose()


def until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: it did not come true.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come true in time")
        time.sleep(0.1)
