"""Counters of one process, by name: what `stats` shows and metrics will export."""

from __future__ import annotations

import threading

NAMES = (
    "appends",  # append calls that were acknowledged
    "messages_appended",
    "reads_delta",  # reads that carried only what was new
    "reads_full",
    "misses",  # scripts that found no valid hot copy
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
)


class Counters:
    """Numbers that only grow. Safe to use from any thread."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin at zero, with a lock of its own: after a fork a thread that is not there may hold the other."""
        self._lock = threading.Lock()
        self._values = dict.fromkeys(NAMES, 0)

    def add(self, name: str, amount: int = 1) -> None:
        """Count; ``name`` is one of `NAMES`."""
        with self._lock:
            self._values[name] += amount

    def snapshot(self) -> dict[str, int]:
        """All counters as they are now."""
        with self._lock:
            return dict(self._values)
