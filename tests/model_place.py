"""Where the model's calls take place: a real Redis and a real store, whose time, run and contents the test commands.

What scripts take for Redis's time and for the identity of its process are two keys, so that an hour passes, or Redis comes
back as another process, within a test's millisecond. `restart` restarts the server in truth where it is one of AOF.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha1
from itertools import count
from typing import Any

import redis
from servers import RedisServer
from sqlalchemy import Engine, text

from sessioncache import scripts
from sessioncache.scripts import Script

TIME, INFO = "model:time", "model:info"
TABLES = ("messages", "applied_ops", "sessions", "routes")
POISON = "poison"
_runs = count(1)


@contextmanager
def commanded_scripts(*, run: bool = True) -> Iterator[None]:
    """Every script of this process asks the test's keys for time and, if that is wanted, for the run."""
    kept = {name: value for name, value in vars(scripts).items() if isinstance(value, Script)}
    for name, script in kept.items():
        lua = script.text.replace("redis.call('TIME')", f"{{redis.call('GET', '{TIME}'), '0'}}")
        if run:
            lua = lua.replace("redis.call('INFO', 'server')", f"redis.call('GET', '{INFO}')")
        setattr(scripts, name, Script(script.verb, lua, sha1(lua.encode(), usedforsecurity=False).hexdigest()))
    try:
        yield
    finally:
        for name, script in kept.items():
            setattr(scripts, name, script)


class Place:
    """One Redis and one store, empty at the beginning of each example."""

    def __init__(self, server: RedisServer, engine: Engine, *, real: bool = False) -> None:
        self.server, self.engine, self.real = server, engine, real
        self.raw, self.hot = redis.Redis.from_url(server.url), redis.Redis.from_url(server.url)
        self.examples = self.accepted = 0
        self.graveyard: list[Any] = []
        self.run = self.raw.info("server")["run_id"]
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE refusing (word text)"))
            connection.execute(text(_TRIGGER))

    def clear(self) -> None:
        """Nothing is left of the example before; the store refuses what is poisonous."""
        self.raw.flushall()
        with self.engine.begin() as connection:
            for table in (*TABLES, "refusing"):
                connection.execute(text(f"DELETE FROM {table}"))
            connection.execute(text("INSERT INTO refusing VALUES (:word)"), {"word": f"%{POISON}%"})
        self.seconds = datetime.now(UTC).timestamp()
        self.forward(0)
        if not self.real:
            self.new_run()

    def forward(self, seconds: float) -> None:
        """Let time pass."""
        self.seconds += seconds
        self.raw.set(TIME, f"{self.seconds:.3f}")

    def new_run(self) -> None:
        """Redis is another process."""
        if self.real:
            self.server.kill()
            self.server.start()
            self.raw.connection_pool.disconnect()
            self.hot.connection_pool.disconnect()
            self.run = self.raw.info("server")["run_id"]
            return
        self.run = f"run{next(_runs)}"
        self.raw.set(INFO, f"run_id:{self.run}\r\nuptime_in_seconds:1000000\r\n")

    def names(self, kind: str = "*") -> list[bytes]:
        """The cache's keys in Redis, in order."""
        return sorted(self.raw.keys(f"sc:*:{kind}*"))

    def copy(self) -> dict[bytes, tuple[bytes, int]]:
        """A snapshot of Redis."""
        found = {}
        for name in self.names():
            found[name] = (self.raw.dump(name), max(0, self.raw.pttl(name)))
        return found

    def close(self) -> None:
        """Close what was opened."""
        self.raw.close()
        self.hot.close()

    def put_back(self, copy: dict[bytes, tuple[bytes, int]], *, run: bool = True) -> None:
        """Redis comes back as it was at a snapshot, as another process unless that is not wanted."""
        names = self.names()
        if names:
            self.raw.delete(*names)
        for name, (dumped, ttl) in copy.items():
            self.raw.restore(name, ttl, dumped)
        if run:
            self.new_run()

    def pending(self) -> list[str]:
        """The op ids in all pending logs, in order within each."""
        return [one.split(b" ", 2)[1].decode() for name in self.names("pending:") for one in self.raw.lrange(name, 0, -1)]

    def letters(self) -> set[str]:
        """The op ids of the dead letters."""
        found = (one.partition(b"\n")[2] for name in self.names("dead") for one in self.raw.lrange(name, 0, -1))
        return {one.split(b" ", 2)[1].decode() for one in found}

    def stored(self) -> tuple[dict[str, Any], dict[str, list[tuple[int, str, str]]], dict[str, str]]:
        """Sessions by id, their messages (seq, id, text) in order, and what is current by key; in the store."""
        with self.engine.connect() as connection:
            rows = {row.session_id: row for row in connection.execute(text("SELECT * FROM sessions"))}
            said: dict[str, list[tuple[int, str, str]]] = {session_id: [] for session_id in rows}
            for row in connection.execute(text("SELECT session_id, seq, message_id, body FROM messages ORDER BY 1, 2")):
                said[row[0]].append((row[1], row[2], json.loads(row[3])["content"]))
            current = connection.execute(text("SELECT session_key, session_id FROM routes WHERE session_id IS NOT NULL"))
            return rows, said, {row[0]: row[1] for row in current}


_TRIGGER = """CREATE TRIGGER refuses BEFORE INSERT ON messages
WHEN EXISTS (SELECT 1 FROM refusing WHERE NEW.text LIKE word) BEGIN SELECT RAISE(ABORT, 'refused'); END"""
