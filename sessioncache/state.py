"""What one process holds besides connections: settings, the keyspace, near copies, counters, policies and spans."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Protocol, TypeVar

from sessioncache.config import Settings
from sessioncache.conversation.policy import ResetPolicies
from sessioncache.flow import Flow
from sessioncache.keys import Keyspace
from sessioncache.metrics import Counters
from sessioncache.near import NearCopies

T = TypeVar("T")

# The settings that bound what waits for the store, in the order of the scripts: of a session key, then of a partition.
BOUNDS = (
    "max_pending", "max_pending_bytes", "max_pending_age", "max_backlog", "max_backlog_bytes", "max_backlog_age",
)  # fmt: skip
AGES = frozenset({"max_pending_age", "max_backlog_age"})


class Spans(Protocol):
    """What puts flows into spans (`tracing`)."""

    def around(
        self, name: str, flow: Flow[T], known: Mapping[str, str | int], found: Callable[[T], Mapping[str, str | int]]
    ) -> Flow[T]:
        """The flow in a span, with what is known before and what is found."""


def _spans(settings: Settings) -> Spans | None:
    if not settings.tracing:
        return None
    spans: Spans = import_module("sessioncache.tracing").Spans()
    return spans


@dataclass(frozen=True, slots=True)
class State:
    """Everything a flow needs to know that is not in Redis or SQL; ``bounds`` are those of `BOUNDS`, for scripts."""

    settings: Settings
    keyspace: Keyspace
    near: NearCopies
    counters: Counters
    policies: ResetPolicies
    bounds: str
    spans: Spans | None = None

    @classmethod
    def of(cls, settings: Settings) -> State:
        """A fresh one, of these settings.

        Raises:
            ConfigurationError: they ask for traces, and the package opentelemetry-api is missing.
        """
        near = NearCopies(settings.near_sessions, settings.near_bytes)
        return cls(
            settings, Keyspace(settings.prefix, settings.partitions), near, Counters(), ResetPolicies.parse(settings.reset),
            " ".join(_bound(settings, name) for name in BOUNDS), _spans(settings),
        )  # fmt: skip

    def renew(self) -> None:
        """Begin anew in a forked child: no near copies, counters at zero, locks that nobody holds."""
        self.near.renew()
        self.counters.renew()

    def traced(
        self, name: str, flow: Flow[T], known: Mapping[str, str | int], found: Callable[[T], Mapping[str, str | int]]
    ) -> Flow[T]:
        """The flow itself, or where traces are on, in a span: with what is known before and what is found."""
        return flow if self.spans is None else self.spans.around(name, flow, known, found)

    def ttl_ms(self) -> int:
        """The TTL of a hot copy, with its jitter, in milliseconds."""
        jitter = self.settings.ttl_jitter
        return round(self.settings.ttl * (1 + jitter * (2 * random.random() - 1)) * 1000)  # noqa: S311 - spreads expiry

    def lane_of(self, partition: int) -> int:
        """The lane that serves a partition."""
        return partition % self.settings.lanes


def _bound(settings: Settings, name: str) -> str:
    value = getattr(settings, name)
    return str(ms(value) if name in AGES and value else int(value))


@lru_cache(256)
def ms(seconds: float) -> int:
    """Milliseconds, as scripts want them: at least one."""
    return max(1, round(seconds * 1000))
