"""Embedded: a cache that needs no server set up, the same code as production over a real server.

An opener joins the keeper of its directory, or starts one (`keeper`). The servers end when the last opener has gone, also
one that was killed, and come back with their data.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sessioncache.config import Settings, as_environment, settings_from
from sessioncache.errors import ConfigurationError
from sessioncache.keeper import ADDRESS_FILE, LOG_FILE, READY, TAKEN, settings_for

JOIN_SECONDS = 40.0
LEAVE_SECONDS = 40.0
PAUSE_SECONDS = 0.05
# What an embedded cache is not given.
SET_BY_KEEPER = ("redis_url", "database_url", "queue_url", "lanes")


class Opener:
    """A place among the openers of a directory, until it is closed or its process ends."""

    def __init__(self, path: str | os.PathLike[str], arguments: Mapping[str, Any]) -> None:
        """Join the keeper of ``path``, or start one.

        Raises:
            ConfigurationError: it cannot be started; the sentence says why.
        """
        wrong = [name for name in SET_BY_KEEPER if name in arguments]
        if wrong:
            raise ConfigurationError(f"An embedded cache sets {', '.join(wrong)} by itself; leave that out.")
        self.directory = Path(path).expanduser().resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        settings = settings_from({**arguments, "lanes": 1})
        self._pid = os.getpid()
        self._connection, redis_url = self._join(settings)
        self.settings = settings_for(self.directory, redis_url, settings)

    def close(self) -> None:
        """Leave. Returns when that is seen, and the servers have ended if nobody is left.

        In a process forked from the opener it changes nothing for the opener.
        """
        with self._connection, contextlib.suppress(OSError):
            if self._pid == os.getpid():
                self._connection.shutdown(socket.SHUT_WR)
                self._connection.settimeout(LEAVE_SECONDS)
                self._connection.recv(1)

    def _join(self, settings: Settings) -> tuple[socket.socket, str]:
        deadline = time.monotonic() + JOIN_SECONDS
        while time.monotonic() < deadline:
            joined = self._connect(settings)
            if joined:
                return joined
            status = self._start_keeper(settings)
            if status not in (READY, TAKEN):
                raise ConfigurationError(f"The embedded servers of {self.directory} did not start: {status}.")
            if status == TAKEN:
                time.sleep(PAUSE_SECONDS)
        raise ConfigurationError(f"The embedded servers of {self.directory} cannot be joined; see {LOG_FILE} there.")

    def _connect(self, settings: Settings) -> tuple[socket.socket, str] | None:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(JOIN_SECONDS)
        try:
            connection.connect(json.loads((self.directory / ADDRESS_FILE).read_text())["socket"])
            with connection.makefile("rb") as lines:
                answer = json.loads(lines.readline())
        except (OSError, ValueError):
            connection.close()
            return None
        if answer["prefix"] != settings.prefix:
            connection.close()
            raise ConfigurationError(f"The servers of {self.directory} serve prefix {answer['prefix']!r}; use that one.")
        return connection, answer["redis_url"]

    def _start_keeper(self, settings: Settings) -> str:
        reader, writer = os.pipe()
        with (self.directory / LOG_FILE).open("ab") as log, os.fdopen(reader) as status:
            command = [sys.executable, "-P", "-m", "sessioncache.keeper", str(self.directory), str(writer)]
            environment = {**os.environ, **as_environment(settings)}
            subprocess.run(  # noqa: S603 - a fixed command
                command,
                env=environment,
                pass_fds=(writer,),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
            os.close(writer)
            return status.readline().strip() or f"the keeper ended; see {self.directory / LOG_FILE}"
