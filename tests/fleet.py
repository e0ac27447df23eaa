"""A fleet for the long proofs: two servers, workers, writers and readers, each a process that can be killed.

Workers are of both kinds: a supervisor with worker processes of the project, and a plain `rq worker`, which forks a
work-horse for each job. What ended is started again, as whatever runs services does. Everything ends with `close`.

Assumes Linux, where a process's children can be listed. To be used from one thread: the kernel ends a server when the
thread that started it ends.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import redis
from servers import PostgresServer, RedisServer, postgres_wheel, python, valkey_wheel
from traffic import READS, REPEATS, STOP, VIOLATIONS, Task

from sessioncache.config import Settings, as_environment

END_SECONDS = 60


def children(pid: int) -> list[int]:
    """The process ids of a process's children; none where it is gone."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, path.read_text().split())
    return found


@contextmanager
def servers(appendfsync: str) -> Iterator[tuple[RedisServer, PostgresServer]]:
    """A Redis-protocol server and a PostgreSQL from the wheels, with what they acknowledge on disk.

    Only processes are killed here, never the machine, so that PostgreSQL would do without fsync; nothing is left to that.
    """
    hot = RedisServer(valkey_wheel(), appendonly="yes", appendfsync=appendfsync)
    store = PostgresServer(postgres_wheel(), fsync="on", full_page_writes="on")
    try:
        yield hot.start(), store.start()
    finally:
        hot.close()
        store.close()


class Fleet:
    """Everything that runs. ``done`` counts the faults by name; ``story`` tells them in order, with their times."""

    def __init__(self, directory: Path, hot: RedisServer, store: PostgresServer, settings: Settings, seed: int) -> None:
        self.directory, self.hot, self.store, self.settings = directory, hot, store, settings
        self.chance, self.begun = random.Random(seed), time.monotonic()
        self.done: Counter[str] = Counter()
        self.story: list[str] = []
        self.traffic: dict[str, tuple[str, Task, subprocess.Popen]] = {}
        self.workers: dict[str, subprocess.Popen] = {}
        self._frozen: dict[int, float] = {}
        self._started: Counter[str] = Counter()
        self._orphans: dict[int, str] = {}

    def _say(self, what: str) -> None:
        self.done[what.partition(":")[0]] += 1
        self.story.append(f"{time.monotonic() - self.begun:7.2f} {what}")

    def _spawn(self, name: str, *arguments: str) -> subprocess.Popen:
        environment = {**os.environ, **as_environment(self.settings)}
        with (self.directory / f"{name}.log").open("ab") as log:
            return python(*arguments, env=environment, stdout=log, stderr=log)

    def start(self, role: str, task: Task) -> None:
        """Start a writer or a reader; one of a name that was used goes on under another."""
        self._started[task.name] += 1
        named = replace(task, name=f"{task.name}-{self._started[task.name]}")
        self.traffic[task.name] = role, task, self._spawn(named.name, *named.arguments(role))

    def start_workers(self) -> None:
        """Start what is not running of the workers."""
        socket = self.hot.url.removeprefix("unix://")
        commands = {
            "supervisor": ("-m", "workers", "--processes", "2", "--log-level", "WARNING"),
            "rq": (
                "-m", "rq.cli", "worker", "--serializer", "rq.serializers.JSONSerializer", "--url", f"unix://{socket}",
                "--quiet", self.settings.queue,
            ),
        }  # fmt: skip
        for name, command in commands.items():
            if name not in self.workers or self.workers[name].poll() is not None:
                self.workers[name] = self._spawn(name, *command)

    def keep_running(self) -> None:
        """Start workers again that ended, and let go on what was frozen for long enough."""
        self.start_workers()
        for pid, until in list(self._frozen.items()):
            if time.monotonic() > until:
                self._signal(pid, signal.SIGCONT)
                del self._frozen[pid]

    @staticmethod
    def _signal(pid: int, number: int) -> bool:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            return True
        return False

    def _one(self, pids: Callable[[], list[int]]) -> int | None:
        """One of these processes, which may come into being within a few seconds."""
        end = time.monotonic() + 4.0
        while time.monotonic() < end:
            if found := pids():
                return self.chance.choice(found)
            self.start_workers()
            time.sleep(0.01)
        return None

    def worker_processes(self) -> list[int]:
        """The workers under the supervisor."""
        return children(self.workers["supervisor"].pid)

    def horses(self) -> list[int]:
        """The work-horse of the plain worker, while it has a job."""
        return children(self.workers["rq"].pid)

    # The faults. Each is over, or has been arranged, when it returns.

    def kill_writer(self) -> None:
        """Another goes on, with logs of its own."""
        role, task, process = self.chance.choice([one for one in self.traffic.values() if one[0] == "write"])
        process.kill()
        process.wait()
        self._say(f"writer: {task.name}")
        self.start(role, task)

    def kill_worker(self) -> None:
        """The supervisor starts another."""
        pid = self._one(self.worker_processes)
        if pid is not None and self._signal(pid, signal.SIGKILL):
            self._say("worker")

    def kill_supervisor(self) -> None:
        """Its workers end by themselves."""
        self._orphaned(self.worker_processes())
        self.workers["supervisor"].kill()
        self.workers["supervisor"].wait()
        self._say("supervisor")

    def kill_plain_worker(self) -> None:
        """Its work-horse lives on, and drains."""
        horses = self.horses()
        self._orphaned(horses)
        self.workers["rq"].kill()
        self.workers["rq"].wait()
        self._say(f"plain worker: leaves {len(horses)} work-horses")

    def kill_horse(self) -> None:
        """Its worker sees to the next job."""
        pid = self._one(self.horses)
        if pid is not None and self._signal(pid, signal.SIGKILL):
            self._say("work-horse")

    def freeze(self) -> None:
        """A worker or work-horse stands still for longer than its claim lasts, and goes on as if nothing had been."""
        pid = self._one(lambda: self.horses() + self.worker_processes())
        if pid is not None and self._signal(pid, signal.SIGSTOP):
            self._frozen[pid] = time.monotonic() + self.settings.visibility + self.chance.uniform(0.2, 1.5)
            self._orphaned([pid])
            self._say("frozen")

    def restart_redis(self) -> None:
        """With the same data."""
        self.hot.kill()
        time.sleep(self.chance.choice((0.0, 0.3, 1.0, 1.5 * self.settings.timeout)))
        self.hot.start()
        self._say("redis")

    def restart_postgres(self) -> None:
        """In immediate mode, with the same data."""
        self.store.stop(signal.SIGQUIT)
        time.sleep(self.chance.choice((0.0, 0.3, 1.0, 1.5 * self.settings.timeout)))
        self.store.serve()
        self._say("postgres")

    def kill_postgres_process(self) -> None:
        """One of its processes, at which it ends all others and recovers."""
        pid = self._one(lambda: children(self.store.process.pid))
        if pid is not None and self._signal(pid, signal.SIGKILL):
            self._say("postgres process")

    def drop_hot_copies(self) -> None:
        """As expiry and eviction do."""
        with redis.Redis.from_url(self.hot.url) as raw, suppress(redis.RedisError):
            gone = [name for name in raw.scan_iter("*", 1000) if raw.ttl(name) > 0 and self.chance.random() < 0.5]
            self._say(f"hot copies: {raw.delete(*gone, 'nothing')} keys")

    # The end.

    def faults(self) -> list[str]:
        """What must not be: writers and readers that ended by themselves, and what readers saw."""
        found = [
            f"{name} ended with status {process.returncode}: {self._log(name)}"
            for name, (_, _, process) in self.traffic.items()
            if process.poll()
        ]
        return found + [path.read_text() for path in self.directory.glob("*" + VIOLATIONS)]

    def _log(self, name: str) -> str:
        return "".join(path.read_text()[-3000:] for path in self.directory.glob(f"{name}-*.log"))

    def stop_traffic(self) -> None:
        """Let writers and readers end what they are at."""
        (self.directory / STOP).touch()
        for _, _, process in self.traffic.values():
            process.wait(END_SECONDS)

    def reads(self) -> int:
        """How many reads were made and checked."""
        return sum(int(path.read_text() or 0) for path in self.directory.glob("*" + READS))

    def repeats(self) -> Counter[str]:
        """How many calls were made again, by what their callers were told."""
        return Counter(line for path in self.directory.glob("*" + REPEATS) for line in path.read_text().split())

    def close(self) -> None:
        """End every process but the servers, which run again."""
        for pid in self._frozen:
            self._signal(pid, signal.SIGCONT)
        for _, _, process in self.traffic.values():
            process.kill()
            process.wait()
        for process in self.workers.values():
            self._orphaned(children(process.pid))
            process.terminate()
        for process in self.workers.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
            process.kill()
            process.wait()
        if self.hot.process is None:
            self.hot.start()
        if self.store.process.poll() is not None:
            self.store.serve()
        end = time.monotonic() + END_SECONDS
        while (left := self._left()) and time.monotonic() < end:
            time.sleep(0.05)
        for pid in left:
            self._signal(pid, signal.SIGKILL)

    def _left(self) -> list[int]:
        """Those that lost their parent and still run."""
        return [pid for pid, when in self._orphans.items() if when and born(pid) == when]

    def _orphaned(self, pids: list[int]) -> None:
        self._orphans.update((pid, born(pid)) for pid in pids)


def born(pid: int) -> str:
    """When a process that runs was started: ids are given out again. Empty where there is none."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    return ""
