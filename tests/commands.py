"""The command, run in this process as from a pipe, or in a process of its own on a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from unittest import mock

from sessioncache.cli.main import main
from sessioncache.config import Settings, as_environment
from sessioncache.process import end_with_parent

SECONDS = 60
INTERRUPT = "\x03"


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    status: int
    out: str
    err: str

    @property
    def values(self) -> list:
        """What it printed as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


class Typed(io.StringIO):
    """What somebody types on a terminal."""

    def isatty(self) -> bool:
        return True


def run(settings: Settings, *arguments: object, typed: str | None = None) -> Done:
    """Run a command here; there is no terminal, unless something is typed."""
    out, err, before = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
    with (
        mock.patch.dict(os.environ, as_environment(settings)),
        mock.patch.object(sys, "argv", ["sessioncache", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", io.StringIO() if typed is None else Typed(typed)),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
        finally:
            signal.signal(signal.SIGTERM, before)
    return Done(int(status), out.getvalue(), err.getvalue())


class Terminal:
    """A command on a pseudo-terminal, which it reads from and writes everything to."""

    def __init__(self, process, end: int) -> None:
        self._process, self._end = process, end
        self.shown = ""

    def wait_for(self, words: str) -> None:
        """Read until these words were shown, since it was last asked for some."""
        deadline, at = time.monotonic() + SECONDS, len(self.shown)
        while words not in self.shown[at:]:
            assert time.monotonic() < deadline, self.shown
            assert self._read(), self.shown

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self._end, text.encode())

    def status(self) -> int:
        """How it ended, once all that it showed is read."""
        while self._read():
            pass
        return self._process.wait(SECONDS)

    def _read(self) -> bool:
        """Read on; False at the end."""
        if not select.select([self._end], [], [], SECONDS)[0]:
            return False
        with suppress(OSError):  # Linux says so where the other end is closed
            found = os.read(self._end, 65536)
            self.shown += found.decode(errors="replace")
            return bool(found)
        return False


def _begin(parent: int, terminal: int) -> None:
    os.login_tty(terminal)
    end_with_parent(parent)


@contextmanager
def on_terminal(settings: Settings, *arguments: object) -> Iterator[Terminal]:
    """Run a command in a process of its own on a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, **as_environment(settings), "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-c", "from sessioncache.cli.main import main; main()", *map(str, arguments)]
    process = subprocess.Popen(command, env=environment, preexec_fn=partial(_begin, os.getpid(), theirs))
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
