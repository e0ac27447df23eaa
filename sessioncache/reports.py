"""Reports: each process tells the others, through Redis, what it has counted; `fleet` gathers what all of them told.

A report is JSON under a key of its own that ends by itself a few reports after the last one; the index of them ends too
(I1: both may vanish at any instant). A worker reports in every interval, so that it is seen to live; an app server only
where it counted something since. A process that closes takes its report back.

Guarantee: reports are written from a thread of their own, over a connection of their own or one that a client handed in
lends for a moment, after the first interval at the earliest: never in a caller's way. A report that cannot be written is
counted, told of once in a while, and not sent again. Nothing of a session is in it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from secrets import token_hex
from typing import Any, Literal

import redis
from redis.exceptions import RedisError

from sessioncache import scripts
from sessioncache.flow import Flow
from sessioncache.metrics import BOUNDS, NAMES, Histogram
from sessioncache.pools import blocking_pool
from sessioncache.repeat import ask
from sessioncache.state import State

log = logging.getLogger("sessioncache.reports")

VERSION = version("sessioncache")

Kind = Literal["server", "worker"]

# A report outlives so many intervals without the next one.
INTERVALS = 4
# A name without a report stays in the index so long, which must be above any report's time.
FORGET_SECONDS = 3600.0
# Processes that are asked for at once: those with the newest reports.
MOST = 1000
# That Redis takes no reports is said once in this time.
WARN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Report:
    """What one process told last.

    Attributes:
        name: of the process: host, process id and a token, so that it is never another's.
        kind: ``server`` for what holds a cache, ``worker`` for what drains, supervisors included.
        host, pid: where it runs.
        started_ms: since when it has counted, and
        at_ms: when it told, in milliseconds by Redis's clock.
        version: of this library.
        counters: by the names of `sessioncache.metrics.NAMES`.
        histograms: by the names of `sessioncache.metrics.BOUNDS`.
    """

    name: str
    kind: str
    host: str
    pid: int
    started_ms: int
    at_ms: int
    version: str
    counters: dict[str, int]
    histograms: dict[str, Histogram]


def fleet(state: State) -> Flow[list[Report]]:
    """The reports of all processes that told one lately, newest first; at most `MOST`.

    Raises:
        HotTierUnavailable: Redis does not answer.
    """
    index = ("ZREVRANGE", state.keyspace.processes, 0, MOST - 1, "WITHSCORES")
    (found,) = yield from ask(state, (index,))
    pairs = found if found and isinstance(found[0], list | tuple) else list(zip(found[::2], found[1::2], strict=True))
    if not pairs:
        return []
    names = [name.decode(errors="replace") for name, _ in pairs]
    (texts,) = yield from ask(state, (("MGET", *map(state.keyspace.report, names)),))
    told = (_parsed(name, text, int(float(at))) for name, (_, at), text in zip(names, pairs, texts, strict=True))
    return [one for one in told if one is not None]


def _parsed(name: str, text: bytes | None, at_ms: int) -> Report | None:
    """A report; None for one that has ended, or is none of ours."""
    try:
        told = json.loads(text or b"")
        counters = {one: int(told["counters"].get(one, 0)) for one in NAMES}
        histograms = {one: _histogram(**told["histograms"][one]) for one in BOUNDS if one in told["histograms"]}
        started_ms = at_ms - int(told["age_ms"])
        return Report(
            name, str(told["kind"]), str(told["host"]), int(told["pid"]), started_ms, at_ms, str(told["version"]),
            counters, histograms,
        )  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _histogram(bounds: list[Any], counts: list[Any], sum: Any) -> Histogram:  # noqa: A002 - the fields' names
    if len(counts) != len(bounds) + 1:
        raise ValueError("A histogram has one count more than it has bounds.")
    return Histogram([float(one) for one in bounds], [int(one) for one in counts], float(sum))


class Reporter:
    """Writes the reports of this process from a thread, which `run` starts, also after a fork."""

    def __init__(self, state: State, kind: Kind, client: redis.Redis | None) -> None:
        """Over a client handed in, else over one of its own, which is made once there is something to tell."""
        self._state, self._kind, self._client = state, kind, client
        self._interval = state.settings.report
        self._warn_next = 0.0
        self.renew()

    def renew(self) -> None:
        """Begin as a process of its own, without a thread: in a forked child the parent's is not there."""
        self.name = f"{socket.gethostname()}:{os.getpid()}:{token_hex(4)}"
        self._begun = time.monotonic()
        self._over, self._lock = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None

    def present(self) -> Report:
        """What this process has counted as of now, told to nobody; its times are by this host's clock."""
        counters, at_ms = self._state.counters, round(time.time() * 1000)
        started_ms = at_ms - self._age_ms()
        return Report(
            self.name, self._kind, socket.gethostname(), os.getpid(), started_ms, at_ms, VERSION,
            counters.snapshot(), counters.histograms(),
        )  # fmt: skip

    def _age_ms(self) -> int:
        return round((time.monotonic() - self._begun) * 1000)

    def run(self) -> None:
        """See that the thread runs, unless the setting ``report`` is 0. Never blocks on Redis, never raises."""
        if self._thread is None and self._interval:
            with self._lock:
                if self._thread is None:
                    self._over = threading.Event()
                    self._thread = threading.Thread(
                        target=self._work, args=(self._over,), name="sessioncache-reporter", daemon=True
                    )
                    self._thread.start()

    def close(self) -> None:
        """Take the report back, and end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._over.set()
                thread.join(self._state.settings.redis_timeout)

    def _work(self, over: threading.Event) -> None:
        client, last = None, None
        while not over.wait(self._interval):
            told = self._told()
            if self._kind == "worker" or told != last:
                client = client or self._client or redis.Redis(connection_pool=blocking_pool(self._state.settings))
                last = told if self._tried(partial(self._write, client, told)) else last
        if client is not None:
            self._tried(partial(self._forget, client))
            if self._client is None:
                client.connection_pool.disconnect()

    def _told(self) -> dict[str, Any]:
        counters = self._state.counters
        return {
            "counters": counters.snapshot(),
            "histograms": {name: asdict(one) for name, one in counters.histograms().items()},
        }

    def _write(self, client: redis.Redis, told: dict[str, Any]) -> None:
        process = {"kind": self._kind, "host": socket.gethostname(), "pid": os.getpid(), "version": VERSION}
        text = json.dumps({**process, "age_ms": self._age_ms(), **told})
        keyspace, ttl_ms = self._state.keyspace, round(INTERVALS * self._interval * 1000)
        keys = [keyspace.processes, keyspace.report(self.name)]
        client.register_script(scripts.REPORT.text)(keys, [self.name, text, ttl_ms, round(FORGET_SECONDS * 1000)])

    def _forget(self, client: redis.Redis) -> None:
        with client.pipeline(transaction=False) as pipeline:
            pipeline.unlink(self._state.keyspace.report(self.name))
            pipeline.zrem(self._state.keyspace.processes, self.name)
            pipeline.execute()

    def _tried(self, do: Callable[[], None]) -> bool:
        try:
            do()
        except (RedisError, OSError) as error:
            self._state.counters.add("reports_failed")
            if time.monotonic() >= self._warn_next:
                reason = type(error).__name__
                log.warning("what this process counts cannot be reported: %s", reason, extra={"reason": reason})
                self._warn_next = time.monotonic() + WARN_SECONDS
            return False
        return True
