"""Reports: each process tells the others, through Redis, what it has counted; `fleet` gathers what all of them told.

A report is JSON under a key of its own that ends by itself a few reports after the last one; the index of them ends too
(I1: both may vanish at any instant). A worker reports in every interval, so that it is seen to live; an app server only
where it counted something since. A process that closes takes its report back; so does one that lets go of its cache without
closing it: the thread holds none.

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
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from queue import Empty, SimpleQueue
from secrets import token_hex
from typing import Any, Literal

import redis
from redis.exceptions import RedisError

from sessioncache import scripts
from sessioncache.config import Settings
from sessioncache.flow import Flow
from sessioncache.keys import Keyspace
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


@dataclass(slots=True)
class _Line:
    """What the thread holds of its own: the client, None until there is something to tell, and what it told last.

    The client is the one that is lent, or one of its own, which it closes.
    """

    keyspace: Keyspace
    name: str
    lent: redis.Redis | None
    client: redis.Redis | None = None
    last: dict[str, Any] | None = None

    def open(self, settings: Settings) -> redis.Redis:
        """The client."""
        self.client = self.client or self.lent or redis.Redis(connection_pool=blocking_pool(settings))
        return self.client

    def close(self) -> None:
        """Take the report back, if there was any; where Redis is away, it ends by itself."""
        if self.client is None:
            return
        with suppress(RedisError, OSError), self.client.pipeline(transaction=False) as pipeline:
            pipeline.unlink(self.keyspace.report(self.name))
            pipeline.zrem(self.keyspace.processes, self.name)
            pipeline.execute()
        if self.lent is None:
            self.client.connection_pool.disconnect()


def _report(reporting: weakref.ref[Reporter], line: _Line, interval: float, over: SimpleQueue[None]) -> None:
    """Tell in every interval, until something is in ``over`` or nobody holds the reporter any more."""
    while _waited(over, interval) and (reporter := reporting()) is not None:
        reporter.tell(line)
        del reporter  # nor does this thread, while it waits
    line.close()


def _waited(over: SimpleQueue[None], seconds: float) -> bool:
    try:
        over.get(timeout=seconds)
    except Empty:
        return True
    return False


class Reporter:
    """Writes the reports of this process from a thread, which `run` starts, also after a fork or `close`.

    The thread ends when the reporter is closed, or is nobody's any more.
    """

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
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._end: weakref.finalize[..., Reporter] | None = None

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
                    self._start()

    def _start(self) -> None:
        over: SimpleQueue[None] = SimpleQueue()  # of those that wake a thread it alone may be used in a finalizer
        line = _Line(self._state.keyspace, self.name, self._client)
        work = weakref.ref(self), line, self._interval, over
        self._thread = threading.Thread(target=_report, args=work, name="sessioncache-reporter", daemon=True)
        self._thread.start()
        self._end = weakref.finalize(self, over.put, None)
        self._end.atexit = False

    def close(self) -> None:
        """Take the report back, and end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None and self._end is not None:
                self._end()
                thread.join(self._state.settings.redis_timeout)

    def tell(self, line: _Line) -> None:
        """Report, if there is something to tell; for the thread."""
        told = self._told()
        if (self._kind == "worker" or told != line.last) and self._tried(partial(self._write, line, told)):
            line.last = told

    def _told(self) -> dict[str, Any]:
        counters = self._state.counters
        return {
            "counters": counters.snapshot(),
            "histograms": {name: asdict(one) for name, one in counters.histograms().items()},
        }

    def _write(self, line: _Line, told: dict[str, Any]) -> None:
        process = {"kind": self._kind, "host": socket.gethostname(), "pid": os.getpid(), "version": VERSION}
        text = json.dumps({**process, "age_ms": self._age_ms(), **told})
        keyspace, ttl_ms = self._state.keyspace, round(INTERVALS * self._interval * 1000)
        keys = [keyspace.processes, keyspace.report(self.name)]
        line.open(self._state.settings).register_script(scripts.REPORT.text)(
            keys, [self.name, text, ttl_ms, round(FORGET_SECONDS * 1000)]
        )

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
