"""The demo: the main job, shown.

Several app servers, each a process of its own, replay conversations round-robin, so that consecutive turns of one session
come from different servers. Midway one worker is killed with SIGKILL and every hot copy is evicted. At the end every
session is read back from every server and compared with the input, message by message.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from statistics import median, quantiles
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rq import Worker

from sessioncache.cli.demo_input import Conversations, canonical
from sessioncache.cli.demo_server import Report, serve
from sessioncache.client import SessionCache
from sessioncache.config import Settings
from sessioncache.nudge import queue_connection

DRAIN_SECONDS = 120.0
WORKER_SECONDS = 60.0
TICK_SECONDS = 0.05


@dataclass
class Audit:
    """How what was read differs from what was written."""

    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0

    def add(self, other: Audit) -> None:
        """Count another one in."""
        self.lost += other.lost
        self.duplicated += other.duplicated
        self.out_of_order += other.out_of_order

    @property
    def clean(self) -> bool:
        """Whether nothing differs."""
        return not (self.lost or self.duplicated or self.out_of_order)


def audit(written: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> Audit:
    """Compare two histories. The n-th of several equal messages is taken for the n-th."""
    expected, got = list(map(canonical, written)), list(map(canonical, found))
    lost = sum((Counter(expected) - Counter(got)).values())
    duplicated = sum((Counter(got) - Counter(expected)).values())
    common = Counter(expected) & Counter(got)
    kept = [_first(texts, common.copy()) for texts in (expected, got)]
    return Audit(lost, duplicated, sum(a != b for a, b in zip(*kept, strict=True)))


def _first(texts: Sequence[str], budget: Counter[str]) -> list[str]:
    taken = []
    for text in texts:
        if budget[text] > 0:
            budget[text] -= 1
            taken.append(text)
    return taken


@dataclass
class Results:
    """What the demo measured; times are seconds."""

    sessions: int = 0
    messages: int = 0
    audit: Audit = field(default_factory=Audit)
    appends: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    unseen: int = 0
    undrained: int = 0
    counters: Counter[str] = field(default_factory=Counter)

    @property
    def clean(self) -> bool:
        """Whether every server read what was written, and all of it reached SQL."""
        return self.audit.clean and not self.unseen and not self.undrained


class Server:
    """An app server, and the pipe to it."""

    def __init__(self, settings: Settings) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(settings, theirs, os.getpid()), daemon=True)
        resource_tracker.ensure_running()  # which would unblock the signal in between
        usual = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a child keeps this; ours comes a little later
        self.process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, usual)
        theirs.close()

    def ask(self, order: str, about: object) -> Any:
        """Its answer to one order."""
        self.pipe.send((order, about))
        return self.pipe.recv()


@contextmanager
def app_servers(count: int, settings: Settings) -> Iterator[list[Server]]:
    """App servers, ended afterwards."""
    servers = [Server(settings) for _ in range(count)]
    try:
        yield servers
    finally:
        for server in servers:
            server.pipe.close()
        for server in servers:
            server.process.join()


def kill_a_worker(settings: Settings) -> str:
    """SIGKILL one of the RQ workers of this Redis, waiting for one that is still starting; what came of it, in words."""
    connection = queue_connection(settings)
    deadline = time.monotonic() + WORKER_SECONDS
    try:
        while not (pids := [worker.pid for worker in Worker.all(connection=connection) if worker.pid]):
            if time.monotonic() > deadline:
                return f"no worker came up in {WORKER_SECONDS:.0f} s, so none was killed"
            time.sleep(TICK_SECONDS)
    finally:
        connection.close()
    os.kill(pids[0], signal.SIGKILL)
    return f"killed worker process {pids[0]} with SIGKILL"


def replay(
    cache: SessionCache, servers: Sequence[Server], conversations: Conversations, console: Console, *, kill: bool
) -> Results:
    """Replay, disturb, read back; what came of it."""
    total = sum(map(len, conversations.values()))
    results = Results(len(conversations), total)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as progress:
        task = progress.add_task("appending", total=total, note="")
        for turn, done in _rounds(servers, conversations):
            _collect(results, turn)
            progress.update(task, completed=done, note=_note(cache, results))
            if done >= total / 2 > done - len(turn.appends):
                if kill:
                    console.print(kill_a_worker(cache.settings))
                evicted = sum(cache.evict(key) for key in conversations)
                console.print(f"evicted the hot copies of {evicted} sessions")
        _drain(cache, results, progress)
        _read_back(cache, servers, conversations, results, progress)
    for server in servers:
        results.counters.update(server.ask("stats", None)[1])
    return results


def _rounds(servers: Sequence[Server], conversations: Conversations) -> Iterator[tuple[Report, int]]:
    """Play turn after turn, each turn of a session on the next server; reports, and messages played so far."""
    done = 0
    for turn in range(max(map(len, conversations.values()))):
        lots: list[list[tuple[str, dict[str, Any]]]] = [[] for _ in servers]
        for place, (key, messages) in enumerate(conversations.items()):
            if turn < len(messages):
                lots[(place + turn) % len(servers)].append((key, messages[turn]))
        busy = [(server.pipe, lot) for server, lot in zip(servers, lots, strict=True) if lot]
        for pipe, lot in busy:
            pipe.send(("turns", lot))
        report = _joined([pipe for pipe, _ in busy])
        done += len(report.appends)
        yield report, done


def _joined(pipes: Sequence[Connection]) -> Report:
    joined = Report()
    for pipe in pipes:
        one: Report = pipe.recv()
        joined.appends += one.appends
        joined.reads += one.reads
        joined.unseen += one.unseen
    return joined


def _collect(results: Results, report: Report) -> None:
    results.appends += report.appends
    results.reads += report.reads
    results.unseen += len(report.unseen)


def _note(cache: SessionCache, results: Results) -> str:
    stats = cache.stats()
    results.lags.append(stats.oldest_pending)
    return f"{stats.pending} pending, {stats.messages} in SQL"


def _drain(cache: SessionCache, results: Results, progress: Progress) -> None:
    """Wait for the workers."""
    task = progress.add_task("draining", total=results.messages, note="")
    deadline = time.monotonic() + DRAIN_SECONDS
    while (stats := cache.stats()).pending and time.monotonic() < deadline:
        results.lags.append(stats.oldest_pending)
        progress.update(task, completed=max(0, results.messages - stats.pending), note=f"{stats.pending} pending")
        time.sleep(TICK_SECONDS)
    results.undrained = stats.pending
    progress.update(task, completed=results.messages - stats.pending, note="")


def _read_back(
    cache: SessionCache, servers: Sequence[Server], conversations: Conversations, results: Results, progress: Progress
) -> None:
    task = progress.add_task("comparing", total=results.messages * len(servers), note="")
    for key, written in conversations.items():
        cache.evict(key)
        for server in servers:
            results.audit.add(audit(written, server.ask("history", key)))
            progress.advance(task, len(written))


def table(results: Results) -> Table:
    """The results, for a person."""
    shown = Table(show_header=False, box=None, pad_edge=False)
    shown.add_column(style="bold")
    shown.add_column(justify="right")
    rows = {
        "sessions": results.sessions,
        "messages": results.messages,
        "lost": results.audit.lost,
        "duplicated": results.audit.duplicated,
        "out of order": results.audit.out_of_order,
        "reads that missed a write": results.unseen,
        "not drained": results.undrained,
        "hydrations": results.counters["hydrations"],
        "SQL loads": results.counters["sql_loads"],
        "append, median / p99": _spread(results.appends),
        "read, median / p99": _spread(results.reads),
        "flush lag, median / p99": _spread(results.lags),
    }
    for name, value in rows.items():
        shown.add_row(name, str(value))
    return shown


def _spread(seconds: Sequence[float]) -> str:
    if len(seconds) < 2:  # noqa: PLR2004 - a quantile needs two
        return "-"
    return f"{median(seconds) * 1000:.2f} / {quantiles(seconds, n=100)[98] * 1000:.2f} ms"
