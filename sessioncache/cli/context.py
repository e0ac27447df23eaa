"""What every command begins with: the settings in force, a cache over them, and an end at SIGTERM that cleans up."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sessioncache.cli.status import TERMINATED
from sessioncache.client import SessionCache
from sessioncache.config import Settings, settings_from
from sessioncache.connect import BlockingConnections


def settings() -> Settings:
    """The settings of this command."""
    return settings_from({})


@contextmanager
def opened() -> Iterator[SessionCache]:
    """A cache over what the settings name."""
    with SessionCache(settings=settings()) as cache:
        yield cache


@contextmanager
def connected() -> Iterator[BlockingConnections]:
    """Connections over what the settings name, to run flows that no door has."""
    connections = BlockingConnections(settings())
    try:
        yield connections
    finally:
        connections.close()


def end_at_sigterm() -> None:
    """Have SIGTERM end the command as an exit, so that what it began is ended and removed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
