"""One app server of the demo: a process of its own, told over a pipe what its users did."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from sessioncache.client import SessionCache
from sessioncache.config import Settings
from sessioncache.process import end_with_parent
from sessioncache.session import Session

Turn = tuple[str, dict[str, Any]]


@dataclass
class Report:
    """What a server did in one round: seconds of each append and read, and keys that did not show what was written."""

    appends: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)


def serve(settings: Settings, orders: Connection, parent: int) -> None:
    """Answer orders until the pipe is closed: ``("turns", …)``, ``("history", key)`` or ``("stats", None)``."""
    end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sessions: dict[str, Session] = {}
    with SessionCache(settings=settings) as cache, suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            order, about = orders.recv()
            match order:
                case "turns":
                    orders.send(_play(cache, sessions, about))
                case "history":
                    orders.send(cache.get(about).history())
                case "stats":
                    orders.send((os.getpid(), cache.stats().counters))


def _play(cache: SessionCache, sessions: dict[str, Session], turns: Sequence[Turn]) -> Report:
    report = Report()
    for key, message in turns:
        if key not in sessions:
            sessions[key] = cache.open(key)
        begun = time.perf_counter()
        (written,) = sessions[key].append(message)
        appended = time.perf_counter()
        last = sessions[key].messages()[-1]
        report.appends.append(appended - begun)
        report.reads.append(time.perf_counter() - appended)
        if last.id != written.id:
            report.unseen.append(key)
    return report
