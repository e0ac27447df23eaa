"""One picture of the whole system, made of what was looked at: what `sessioncache top` shows, and every figure of it.

Pure functions of a `Sample` and of the reports that were followed. Times are seconds, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sessioncache.message import instant
from sessioncache.metrics import NAMES
from sessioncache.ops import Waiting, waiting_in
from sessioncache.rates import Followed, hit_ratio, rates
from sessioncache.registered import RegisteredWorker
from sessioncache.reports import Report
from sessioncache.watch import STORE, HotTier, Sample, Stored


@dataclass(frozen=True, slots=True)
class Process:
    """A process that reported lately.

    Attributes:
        kind: ``server`` or ``worker``.
        age: seconds since it started.
        silent: seconds since its last report; one that has nothing to do is silent.
        rates: what it does per second, by the name of the counter; None where it was not seen for long enough.
    """

    name: str
    kind: str
    host: str
    pid: int
    version: str
    age: float
    silent: float
    rates: dict[str, float] | None


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything; None where it could not be had, ``trouble`` says why.

    Attributes:
        prefix: that of the settings.
        rates: what all processes do per second that were seen for long enough, by the name of the counter; the names are
            in `sessioncache.metrics`.
        counters: what the processes that are there did since they started.
        hit_ratio: the share of reads that found a hot copy, of ``rates``; None where nobody reads.
        processes: the busiest first.
    """

    at: datetime
    prefix: str
    redis: HotTier | None
    store: Stored | None
    waiting: Waiting | None
    rates: dict[str, float] | None
    counters: dict[str, int] | None
    hit_ratio: float | None
    processes: list[Process] | None
    workers: list[RegisteredWorker] | None
    trouble: dict[str, str]


def picture(
    prefix: str, sample: Sample, store: Stored | str | None, followed: Mapping[str, Followed], period: float
) -> Picture:
    """The picture of a sample, and of what the store said, or why it did not; ``followed``: as `rates.follow` gives it."""
    told = sample.reports is not None
    present = [followed[report.name] for report in sample.reports or []]
    processes = [_process(one, sample.at_ms, period) for one in present]
    speeds = _speeds(processes) if told else None
    return Picture(
        at=instant(sample.at_ms),
        prefix=prefix,
        redis=sample.hot,
        store=store if isinstance(store, Stored) else None,
        waiting=None if sample.backlogs is None else waiting_in(sample.backlogs),
        rates=speeds,
        counters=_counters(one.newest for one in present) if told else None,
        hit_ratio=None if speeds is None else hit_ratio(speeds),
        processes=sorted(processes, key=_idleness) if told else None,
        workers=sample.workers,
        trouble=sample.trouble | ({STORE: store} if isinstance(store, str) else {}),
    )


def _process(process: Followed, now_ms: int, period: float) -> Process:
    report = process.newest
    return Process(
        report.name,
        report.kind,
        report.host,
        report.pid,
        report.version,
        max(0.0, (now_ms - report.started_ms) / 1000),
        max(0.0, (now_ms - report.at_ms) / 1000),
        rates(process, now_ms, period),
    )


def _speeds(processes: list[Process]) -> dict[str, float] | None:
    known = [one.rates for one in processes if one.rates is not None]
    return {name: sum(rates[name] for rates in known) for name in NAMES} if known or not processes else None


def _idleness(process: Process) -> tuple[float, str, str, int]:
    return (-sum((process.rates or {}).values()), process.kind, process.host, process.pid)


def _counters(reports: Iterable[Report]) -> dict[str, int]:
    counted = [one.counters for one in reports]
    return {name: sum(counters.get(name, 0) for counters in counted) for name in NAMES}
