"""What processes do per second, from the reports that they leave in Redis: pure functions.

A process reports at most every ``period`` seconds, an app server only when something happened. So its rate is what was
counted between the last two reports that were seen of it, over the time between them, or over one period where it was idle
before; it holds until the next report is overdue, and is 0 from then on.

Guarantees: no rate is below 0. A counter that went down began anew, and all it says is new. A process that left no report
any more counts for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from sessioncache.metrics import NAMES
from sessioncache.reports import Report

# In periods: reports that are further apart say that the process was idle in between; one that is older, that it is now.
IDLE = 1.5
OVERDUE = 2.5
# An app server that has nothing to tell leaves no report for a while; what it said last is kept so long, in milliseconds.
REMEMBERED_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Followed:
    """The last two reports of a process; ``older`` is None where one alone was seen."""

    newest: Report
    older: Report | None = None


def follow(known: Mapping[str, Followed], reports: Iterable[Report], period: float) -> dict[str, Followed]:
    """What was seen of each process, by name, after these reports. One that is silent for now is remembered for a while."""
    now = {one.name: _followed(known.get(one.name), one, period) for one in reports}
    newest = max((one.newest.at_ms for one in now.values()), default=0)
    return {name: one for name, one in known.items() if newest - one.newest.at_ms < REMEMBERED_MS} | now


def _followed(known: Followed | None, report: Report, period: float) -> Followed:
    if known is None:
        return Followed(report, _beginning(report, period))
    if report.at_ms <= known.newest.at_ms:
        return known
    return Followed(report, known.newest)


def _beginning(report: Report, period: float) -> Report | None:
    """A report of nothing at the start of a process that started just before its first report."""
    if report.at_ms - report.started_ms > IDLE * period * 1000:
        return None
    return replace(report, at_ms=report.started_ms, counters={})


def rates(process: Followed, now_ms: int, period: float) -> dict[str, float] | None:
    """What a process does per second, by the name of the counter; None until it has reported twice."""
    newest, older = process.newest, process.older
    if now_ms - newest.at_ms > OVERDUE * period * 1000:
        return dict.fromkeys(NAMES, 0.0)
    if older is None:
        return None
    seconds = (newest.at_ms - older.at_ms) / 1000
    over = period if seconds > IDLE * period else seconds
    grown = {name: _grown(older.counters.get(name, 0), newest.counters.get(name, 0)) for name in NAMES}
    return {name: count / over if over > 0 else 0.0 for name, count in grown.items()}


def _grown(before: int, now: int) -> int:
    return now - before if now >= before else now


def hit_ratio(numbers: Mapping[str, float]) -> float | None:
    """The share of reads that found a hot copy, 0 to 1, of rates or of counters; None where nobody read."""
    hits = numbers["reads_delta"] + numbers["reads_full"]
    asked = hits + numbers["reads_missed"]
    return hits / asked if asked else None
