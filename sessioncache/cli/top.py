"""`sessioncache top`: the whole system on one screen, again and again, until Ctrl-C.

Guarantees: it goes on whatever becomes of Redis, RQ and SQL, and says so on the screen. It writes nothing. SQL is asked in
a thread of its own, so that a database that hangs holds up nothing else, and for a small share of the time, because it
counts every session. However it ends, the terminal is as it was before.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable

import click
from rich.console import Console
from rich.live import Live

from sessioncache.cli.context import connected, end_at_sigterm
from sessioncache.cli.output import with_json, write_json
from sessioncache.cli.screen import Frame
from sessioncache.cli.status import UNAVAILABLE
from sessioncache.connect import BlockingConnections
from sessioncache.errors import SessionCacheError
from sessioncache.flow import run
from sessioncache.picture import Picture, picture
from sessioncache.rates import Followed, follow
from sessioncache.watch import Stored, sample, stored

# SQL is left alone for so many times as long as it took to count, and for so many seconds at most; after so many without an
# answer it is told of.
PAUSES, LONGEST, SLOW = 20, 60.0, 2.0
# How often processes are taken to report, in seconds, where the settings of this command say never.
REPORT = 5.0
# For how long, in seconds, a single picture waits for reports at most.
PATIENCE = 10.0
# How often a second the screen is drawn anew, so that it follows the size of its terminal.
DRAWN = 4


class _Store:
    """What the store said last."""

    def __init__(self, connections: BlockingConnections, interval: float) -> None:
        self._perform, self._interval = connections.driver.perform, interval
        self._asked: float | None = None
        self._said: Stored | str | None = None

    def ask(self) -> float:
        """Have it say how it stands, once; in how many seconds to ask again: soon, where it does not answer."""
        self._asked, pause = (start := time.monotonic()), self._interval
        try:
            self._said = run(stored(), self._perform)
            pause = max(pause, min(PAUSES * (time.monotonic() - start), LONGEST))
        except SessionCacheError as error:
            self._said = str(error)
        self._asked = None
        return pause

    def watch(self) -> None:
        """Ask it again and again, in a thread that ends with the process."""
        threading.Thread(target=self._watch, name="sessioncache-top-store", daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(self.ask())

    def said(self) -> Stored | str | None:
        """What it said last, or why it did not; None before it was heard of at all."""
        since, said = self._asked, self._said
        waited = time.monotonic() - since if since is not None else 0.0
        return f"The database has not answered for {waited:.0f} s." if waited > SLOW else said


class _Watch:
    """Looks at the system, one picture after the other."""

    def __init__(self, connections: BlockingConnections, store: _Store) -> None:
        self._connections, self._store = connections, store
        self.period = connections.settings.report or REPORT
        self._followed: dict[str, Followed] = {}

    def look(self) -> Picture:
        """The system now."""
        state = self._connections.state
        seen = run(sample(state), self._connections.driver.perform)
        self._followed = follow(self._followed, seen.reports or [], self.period)
        return picture(state.settings.prefix, seen, self._store.said(), self._followed, self.period)


@click.command()
@click.option("--interval", type=click.FloatRange(0.1, 3600), default=2.0, show_default=True, help="Seconds between looks.")
@click.option("--once", is_flag=True, help="Print one picture and end; so it does where standard output is no terminal.")
@with_json
def top(interval: float, *, once: bool, as_json: bool) -> None:
    """Watch the system live: rates, lag, backlog by partition, hits, hydrations, workers, processes, both tiers.

    Ctrl-C ends it. Rates are those that processes report, every SESSIONCACHE_REPORT seconds; so --once looks twice, that
    long apart. With --json it prints one picture as an object. Exit status: 0; with --once 5 where a part of it is missing.
    """
    end_at_sigterm()
    # What is wrong is told on the screen; nothing else may write there.
    logging.getLogger("sessioncache").addHandler(logging.NullHandler())
    console = Console()
    with connected() as connections:
        store = _Store(connections, interval)
        watch = _Watch(connections, store)
        if once or as_json or not console.is_terminal or console.is_dumb_terminal:
            _print_once(watch, store, console, interval, as_json=as_json)
        else:
            store.watch()
            _show(watch.look, console, interval)


def _print_once(watch: _Watch, store: _Store, console: Console, interval: float, *, as_json: bool) -> None:
    wait = max(interval, min(watch.period, PATIENCE))
    store.ask()
    watch.look()
    time.sleep(wait)
    seen = watch.look()
    if as_json:
        write_json(seen)
    elif console.is_terminal:
        console.print(Frame(seen, wait, fits=False))
    else:
        console.print(Frame(seen, wait, fits=False), width=10_000, crop=False)
    if seen.trouble:
        sys.exit(UNAVAILABLE)


def _show(look: Callable[[], Picture], console: Console, interval: float) -> None:
    live = Live(
        console=console, screen=True, refresh_per_second=DRAWN, redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTSTP)}
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # stopped, it would leave its screen behind
    try:
        with live:
            try:
                while True:
                    live.update(Frame(look(), interval, fits=True))
                    time.sleep(interval)
            except KeyboardInterrupt:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # until the terminal is as it was
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
