"""Real Redis deployments behind real Sentinels, on free loopback ports: primary, replica and who watches them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import redis
from servers import START_SECONDS, RedisServer

from sessioncache.process import end_with_parent

SERVICE = "chat"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for what is sure to come; a server that is not there yet says no."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(redis.RedisError):
            if condition():
                return
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


class Node(RedisServer):
    """A Redis with a port."""

    def __init__(self, binary: str, **options: str) -> None:
        self.port = free_port()
        super().__init__(binary, port=str(self.port), bind="127.0.0.1", **{"repl-diskless-sync-delay": "0"}, **options)

    def client(self) -> redis.Redis:
        """A plain client, as an operator has."""
        return redis.Redis(port=self.port)

    def follow(self, other: Node) -> None:
        """Become its replica, and wait for its data."""
        with self.client() as raw:
            raw.execute_command("REPLICAOF", "127.0.0.1", other.port)
            until(lambda: raw.info("replication")["master_link_status"] == "up")

    def hold_back(self) -> None:
        """Learn nothing more of the primary."""
        with self.client() as raw:
            raw.config_set("masteruser", "nobody")
            raw.config_set("masterauth", "wrong")
            raw.execute_command("CLIENT", "KILL", "TYPE", "master")
            until(lambda: raw.info("replication")["master_link_status"] == "down")


class Deployment:
    """A primary, its replica, and Sentinels that watch them.

    Attributes:
        url: its address for the library.
    """

    def __init__(self, binary: str, sentinels: int, quorum: int) -> None:
        self.primary, self.replica = Node(binary, appendonly="yes", appendfsync="always"), Node(binary)
        self.binary, self.quorum = binary, quorum
        self.directory = Path(tempfile.mkdtemp(prefix="sc-sentinels-"))
        self.ports = [free_port() for _ in range(sentinels)]
        self.processes: list[subprocess.Popen] = []
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self.url = f"redis+sentinel://{hosts}/{SERVICE}/0"

    def start(self) -> Deployment:
        """All of it; the replica has the primary's data, and the Sentinels know both."""
        self.primary.start()
        self.replica.start()
        self.replica.follow(self.primary)
        for port in self.ports:
            self._sentinel(port)
        for port in self.ports:
            with redis.Redis(port=port) as raw:
                until(lambda raw=raw: self._sees_all(raw))
        return self

    def _sees_all(self, raw: redis.Redis) -> bool:
        state = raw.sentinel_master(SERVICE)
        return state["num-slaves"] == 1 and state["num-other-sentinels"] == len(self.ports) - 1

    def _sentinel(self, port: int) -> None:
        configuration = self.directory / f"{port}.conf"
        configuration.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self.directory}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.primary.port} {self.quorum}\n"
            f"sentinel down-after-milliseconds {SERVICE} 1000\nsentinel failover-timeout {SERVICE} 5000\n"
        )
        with (self.directory / f"{port}.log").open("ab") as log:
            command = [self.binary, str(configuration), "--sentinel"]
            self.processes.append(
                subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=partial(end_with_parent, os.getpid()))
            )
        with redis.Redis(port=port) as raw:
            until(raw.ping, START_SECONDS)

    def close(self) -> None:
        """End every process, remove every file."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.primary.close()
        self.replica.close()
        shutil.rmtree(self.directory, ignore_errors=True)
