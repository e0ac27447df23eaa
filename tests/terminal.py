"""A program in a pseudo-terminal of its own, and what a person would see on its screen."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Self

import pyte

from sessioncache.config import Settings, as_environment
from sessioncache.process import end_with_parent

COMMAND = [sys.executable, "-c", "from sessioncache.cli.main import main; main()"]
# What a terminal is told to show another screen, to go back, and to show its cursor again.
OTHER_SCREEN, FIRST_SCREEN, CURSOR = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25h"


class Terminal:
    """The `sessioncache` command in a terminal.

    Attributes:
        raw: every byte that was written to it.
        process: the command's.
    """

    def __init__(self, *arguments: str, settings: Settings, columns: int = 80, lines: int = 24) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._lock, self.raw = threading.Lock(), b""
        self._ours, theirs = os.openpty()
        self._size(columns, lines)
        self._before = termios.tcgetattr(self._ours)
        environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
        environment |= {**as_environment(settings), "TERM": "xterm-256color"}
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
            preexec_fn=partial(_own_terminal, os.getpid()),
        )  # fmt: skip
        os.close(theirs)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._over.set()
        self._thread.join()
        os.close(self._ours)

    def _read(self) -> None:
        while not self._over.is_set():
            if select.select([self._ours], [], [], 0.05)[0]:
                try:
                    data = os.read(self._ours, 65_536)
                except OSError:  # Linux's word for a terminal that nobody has open any more
                    return
                with self._lock:
                    self.raw += data
                    self._stream.feed(data)

    def _size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        """Another size, as by a mouse."""
        with self._lock:
            self._screen.resize(lines, columns)
            self._size(columns, lines)

    def lines(self) -> list[str]:
        """What stands on the screen."""
        with self._lock:
            return [line.rstrip() for line in self._screen.display]

    def until(self, condition: Callable[[str], object], seconds: float = 60) -> str:
        """The screen, as soon as the condition holds for it."""
        deadline = time.monotonic() + seconds
        while True:
            text = "\n".join(self.lines())
            if condition(text):
                return text
            assert time.monotonic() < deadline, f"this was never to be seen; the last screen:\n{text}"
            time.sleep(0.02)

    def shows(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """What a pattern finds on the screen, as soon as it does."""
        return re.search(pattern, self.until(partial(re.search, pattern), seconds))

    def press(self, keys: bytes) -> None:
        """What a keyboard sends."""
        os.write(self._ours, keys)

    def press_interrupt(self) -> None:
        """Ctrl-C."""
        self.press(b"\x03")

    def ended(self) -> int:
        """The exit status, once it ended by itself; the terminal is as it was before."""
        status = self.process.wait(60)
        self._thread.join(10)
        assert b"Traceback" not in self.raw, self.raw[self.raw.index(b"Traceback") :].decode()
        assert self.raw.count(OTHER_SCREEN) == self.raw.count(FIRST_SCREEN)
        assert self.raw.rfind(CURSOR) >= self.raw.rfind(b"\x1b[?25l")
        assert termios.tcgetattr(self._ours) == self._before
        return status

    def send(self, number: signal.Signals) -> None:
        """A signal to the command."""
        self.process.send_signal(number)


def _own_terminal(parent: int) -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    end_with_parent(parent)
