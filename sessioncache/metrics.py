"""What one process counts and measures, by name: for `stats`, for reports to other processes, and for monitoring.

Guarantee: counters and histograms only grow, and are safe to use from any thread; to count costs less than a microsecond.
Only what succeeded is measured: as many appends are in ``append_seconds`` as ``appends`` counts.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

NAMES = (
    "appends",  # append calls that were acknowledged
    "messages_appended",
    "reads_delta",  # reads that carried only what was new; each call that reads has one outcome
    "reads_full",  # reads that found a hot copy and carried the history
    "reads_missed",  # reads that found no valid hot copy, and had to wait for one
    "misses",  # calls of any kind that did
    "hydrations",  # hot copies published
    "hydration_waits",  # pauses while another process hydrated
    "sql_loads",  # snapshots loaded from the store to hydrate
    "stale_reads",  # reads that Redis could not serve and SQL did
    "sql_pages",  # pages read below the hot window
    "transactions",  # committed drain transactions
    "ops_drained",
    "repeats",  # ops that the store had already
    "renumbered",  # ops that got a new version because Redis came back older
    "dead_letters",
    "corrupt_elements",  # times that a hot copy held garbage and was brought back, and messages that SQL could not give
    "refused",  # ops that the store refused, which stops their key
    "backpressure",  # writes refused because too much waited for the store; each try
    "retries",  # Redis commands sent again
    "nudges",
    "reports_failed",  # reports of this process that Redis did not take
)

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# The upper bounds of the buckets of each histogram, each bound included; above the last there is one bucket more.
BOUNDS: dict[str, tuple[float, ...]] = {
    "append_seconds": _SECONDS,  # an append, until Redis acknowledged it
    "read_seconds": _SECONDS,  # a read of messages, with all it waited for
    "hydrate_seconds": _SECONDS,  # bringing a hot copy back: drain the key, load, publish
    "drain_seconds": _SECONDS,  # one drain transaction with its acknowledgement
    "batch_ops": (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 10_000.0),  # ops of one
}


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often values were within which bounds.

    Attributes:
        bounds: upper bounds of the buckets, ascending, each included in its bucket.
        counts: values in each bucket alone; one more than there are bounds, for what is above all of them.
        sum: of all values.
    """

    bounds: Sequence[float]
    counts: Sequence[int]
    sum: float

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)


class Counters:
    """Numbers that only grow. Safe to use from any thread."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin at zero, with a lock of its own: after a fork a thread that is not there may hold the other."""
        self._lock = threading.Lock()
        self._values = dict.fromkeys(NAMES, 0)
        self._counts = {name: [0] * (len(bounds) + 1) for name, bounds in BOUNDS.items()}
        self._sums = dict.fromkeys(BOUNDS, 0.0)

    def add(self, name: str, amount: int = 1) -> None:
        """Count; ``name`` is one of `NAMES`."""
        with self._lock:
            self._values[name] += amount

    def observe(self, name: str, value: float, **counted: int) -> None:
        """Put a value into a histogram, and count what belongs to it; names are of `BOUNDS`, and of `NAMES`."""
        with self._lock:
            self._counts[name][bisect_left(BOUNDS[name], value)] += 1
            self._sums[name] += value
            for one, amount in counted.items():
                self._values[one] += amount

    def snapshot(self) -> dict[str, int]:
        """All counters as they are now."""
        with self._lock:
            return dict(self._values)

    def histograms(self) -> dict[str, Histogram]:
        """All histograms as they are now."""
        with self._lock:
            return {name: Histogram(bounds, tuple(self._counts[name]), self._sums[name]) for name, bounds in BOUNDS.items()}
