"""Metrics for Prometheus (extra ``metrics``): of this process by a `Collector`, of a whole system by what workers serve.

Guarantee: a `Collector` asks neither Redis nor SQL: it gives what this process has counted and measured, and what it keeps
near. Every name, its unit and what to watch stand in docs/metrics.md. No label holds a session key, an owner or a title.

Raises:
    ConfigurationError: at import, where the package prometheus-client is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from sessioncache.client import SessionCache
from sessioncache.client_async import AsyncSessionCache
from sessioncache.errors import ConfigurationError
from sessioncache.metrics import BOUNDS, Histogram
from sessioncache.state import State

try:
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector as _Collector
except ImportError as error:
    raise ConfigurationError(
        "Metrics for Prometheus need the package prometheus-client; run pip install 'sessioncache[metrics]'."
    ) from error

PREFIX = "sessioncache_"
CONTENT_TYPE = CONTENT_TYPE_LATEST

# By the names of `sessioncache.metrics.NAMES`; the exported name ends in ``_total``.
COUNTERS = {
    "appends": "Append calls that Redis acknowledged.",
    "messages_appended": "Messages of these appends.",
    "misses": "Calls of any kind that found no valid hot copy and had to wait for one.",
    "hydrations": "Hot copies brought back from SQL and published.",
    "hydration_waits": "Pauses of calls while another process brought a hot copy back.",
    "sql_loads": "Snapshots of a session loaded from SQL to bring a hot copy back.",
    "sql_pages": "Pages read from SQL below the hot window.",
    "stale_reads": "Reads served from SQL, marked stale, because Redis was away.",
    "transactions": "Committed drain transactions.",
    "ops_drained": "Ops removed from pending logs because SQL has them.",
    "repeats": "Ops that SQL had already, met again while draining.",
    "renumbered": "Ops that got a new version because Redis came back older than SQL.",
    "dead_letters": "Ops set aside, because SQL refused them for their content or because they are no ops.",
    "corrupt_elements": "Hot copies that held garbage and were brought back, and messages that SQL could not give.",
    "refused": "Times that a session key was stopped, because an op of it can neither be applied nor set aside.",
    "backpressure": "Writes that found too much waiting for SQL; each try.",
    "retries": "Redis commands sent again because no answer came.",
    "nudges": "Drain jobs enqueued.",
    "reports_failed": "Reports of this process that Redis did not take.",
}
READS = {"delta": "reads_delta", "full": "reads_full", "miss": "reads_missed"}
READS_HELP = (
    "Reads that carried only what was new (delta) or the history (full), and reads that found no valid hot copy and had "
    "to wait for one (miss): one for each call."
)
HISTOGRAMS = {
    "append_seconds": "Time of an append, until Redis acknowledged it.",
    "read_seconds": "Time of a read of messages, with all that it waited for.",
    "hydrate_seconds": "Time to bring a hot copy back: to drain the key, load it from SQL and publish it.",
    "drain_seconds": "Time of one drain transaction with its acknowledgement.",
    "batch_ops": "Ops of one drain transaction.",
}
NEAR = {"near_sessions": "Sessions of which this process keeps messages.", "near_bytes": "Size of these messages."}
SYSTEM = {
    "pending_ops": "Ops that wait for SQL.",
    "pending_bytes": "Size of the ops that wait for SQL.",
    "dirty_sessions": "Session keys with ops that wait for SQL.",
    "oldest_pending_seconds": "Age of the oldest op that waits for SQL; 0 where none waits.",
    "dead_letters": "Dead letters that wait for an operator.",
    "workers": "RQ workers that serve our queue.",
    "stored_sessions": "Sessions in SQL.",
    "stored_messages": "Messages in SQL.",
}
PROCESSES_HELP = "Processes that reported lately: server or worker, supervisors included."
TIER_UP_HELP = "Whether a tier answers: 1 or 0."


@dataclass(frozen=True, slots=True)
class Process:
    """What one process has counted, under the value of its label; ``near``: sessions and bytes, None where not known."""

    label: str
    counters: Mapping[str, int]
    histograms: Mapping[str, Histogram]
    near: tuple[int, int] | None = None


def process_metrics(label: str, processes: Sequence[Process]) -> Iterator[Metric]:
    """The metrics of processes, told apart by a label of this name."""
    for name, text in COUNTERS.items():
        counter = CounterMetricFamily(PREFIX + name, text, labels=[label])
        for one in processes:
            counter.add_metric([one.label], one.counters.get(name, 0))
        yield counter
    reads = CounterMetricFamily(PREFIX + "reads", READS_HELP, labels=[label, "outcome"])
    for one in processes:
        for outcome, name in READS.items():
            reads.add_metric([one.label, outcome], one.counters.get(name, 0))
    yield reads
    for name, text in HISTOGRAMS.items():
        family = HistogramMetricFamily(PREFIX + name, text, labels=[label])
        for one in processes:
            if name in one.histograms:
                family.add_metric([one.label], _buckets(one.histograms[name]), one.histograms[name].sum)
        yield family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    total, found = 0, []
    for bound, count in zip((*histogram.bounds, inf), histogram.counts, strict=True):
        total += count
        found.append(("+Inf" if bound == inf else str(bound), float(total)))
    return found


def near_metrics(label: str, processes: Sequence[Process]) -> Iterator[Metric]:
    """What processes keep near."""
    for at, (name, text) in enumerate(NEAR.items()):
        gauge = GaugeMetricFamily(PREFIX + name, text, labels=[label])
        for one in processes:
            if one.near is not None:
                gauge.add_metric([one.label], one.near[at])
        yield gauge


def system_metrics(
    values: Mapping[str, float | None], processes: Mapping[str, int] | None, tiers: Mapping[str, bool]
) -> Iterator[Metric]:
    """The gauges of the whole system, by the names of `SYSTEM`; one that is None or not given is left out."""
    for name, text in SYSTEM.items():
        value = values.get(name)
        if value is not None:
            yield GaugeMetricFamily(PREFIX + name, text, value)
    if processes is not None:
        gauge = GaugeMetricFamily(PREFIX + "processes", PROCESSES_HELP, labels=["kind"])
        for kind, count in processes.items():
            gauge.add_metric([kind], count)
        yield gauge
    up = GaugeMetricFamily(PREFIX + "tier_up", TIER_UP_HELP, labels=["tier"])
    for tier, answers in tiers.items():
        up.add_metric([tier], int(answers))
    yield up


def exposition(metrics: Iterable[Metric]) -> bytes:
    """Metrics as Prometheus reads them, of content type `CONTENT_TYPE`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(metrics))
    return generate_latest(registry)


class _Given(_Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


class Collector(_Collector):
    """What the caches of this process have counted, for ``prometheus_client.REGISTRY.register(Collector(cache))``.

    One collector takes all caches of a process; a label ``prefix`` tells them apart, and those of the same prefix are added
    up. Register it after a fork, in the process that serves.
    """

    def __init__(self, *caches: SessionCache | AsyncSessionCache) -> None:
        self._states = [cache._state for cache in caches]  # noqa: SLF001 - part of the same package

    def collect(self) -> Iterable[Metric]:
        """The metrics as they are now; without any I/O."""
        by_prefix: dict[str, list[State]] = {}
        for state in self._states:
            by_prefix.setdefault(state.settings.prefix, []).append(state)
        processes = [_added_up(prefix, states) for prefix, states in by_prefix.items()]
        yield from process_metrics("prefix", processes)
        yield from near_metrics("prefix", processes)


def _added_up(prefix: str, states: Sequence[State]) -> Process:
    counted = [state.counters.snapshot() for state in states]
    measured = [state.counters.histograms() for state in states]
    near = [state.near.kept() for state in states]
    return Process(
        prefix,
        {name: sum(one[name] for one in counted) for name in counted[0]},
        {name: _together([one[name] for one in measured]) for name in BOUNDS},
        (sum(sessions for sessions, _ in near), sum(size for _, size in near)),
    )


def _together(histograms: Sequence[Histogram]) -> Histogram:
    counts = [sum(some) for some in zip(*(one.counts for one in histograms), strict=True)]
    return Histogram(histograms[0].bounds, counts, sum(one.sum for one in histograms))
