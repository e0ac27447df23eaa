"""What one process holds besides connections: settings, the keyspace, near copies, counters and policies."""

from __future__ import annotations

import random
from dataclasses import dataclass

from sessioncache.config import Settings
from sessioncache.conversation.policy import ResetPolicies
from sessioncache.keys import Keyspace
from sessioncache.metrics import Counters
from sessioncache.near import NearCopies

# The settings that bound what waits for the store, in the order of the scripts: of a session key, then of a partition.
BOUNDS = (
    "max_pending", "max_pending_bytes", "max_pending_age", "max_backlog", "max_backlog_bytes", "max_backlog_age",
)  # fmt: skip
AGES = frozenset({"max_pending_age", "max_backlog_age"})


@dataclass(frozen=True, slots=True)
class State:
    """Everything a flow needs to know that is not in Redis or SQL; ``bounds`` are those of `BOUNDS`, for scripts."""

    settings: Settings
    keyspace: Keyspace
    near: NearCopies
    counters: Counters
    policies: ResetPolicies
    bounds: str

    @classmethod
    def of(cls, settings: Settings) -> State:
        """A fresh one, of these settings."""
        near = NearCopies(settings.near_sessions, settings.near_bytes)
        return cls(
            settings, Keyspace(settings.prefix, settings.partitions), near, Counters(), ResetPolicies.parse(settings.reset),
            " ".join(_bound(settings, name) for name in BOUNDS),
        )  # fmt: skip

    def renew(self) -> None:
        """Begin anew in a forked child: no near copies, counters at zero, locks that nobody holds."""
        self.near.renew()
        self.counters.renew()

    def ttl_ms(self) -> int:
        """The TTL of a hot copy, with its jitter, in milliseconds."""
        jitter = self.settings.ttl_jitter
        return round(self.settings.ttl * random.uniform(1 - jitter, 1 + jitter) * 1000)  # noqa: S311 - spreads expiry

    def lane_of(self, partition: int) -> int:
        """The lane that serves a partition."""
        return partition % self.settings.lanes


def _bound(settings: Settings, name: str) -> str:
    value = getattr(settings, name)
    return str(ms(value) if name in AGES and value else int(value))


def ms(seconds: float) -> int:
    """Milliseconds, as scripts want them: at least one."""
    return max(1, round(seconds * 1000))
