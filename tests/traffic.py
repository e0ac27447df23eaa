"""Traffic of processes of their own: writers that log what they do for the opponent, and readers that check what they see.

    python traffic.py write|read '<Task as JSON>'

Settings come from the environment. A process runs until the file ``stop`` is in its directory, and may be killed at any
time. A writer repeats a call that a tier did not answer, with the same message ids, until it is acknowledged, as the
documentation says. A reader checks at each read that everything is there that was acknowledged in that session before the
read began, in order of seq, nothing twice, and that what it saw earlier is how it begins; it ends with exit status 1 and a
line in ``<name>.violations`` where that is not so.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from opponent import ACKNOWLEDGED, ATTEMPTED, Log

from sessioncache import (
    Backpressure,
    HotTierUnavailable,
    HydrationTimeout,
    Session,
    SessionCache,
    StoreUnavailable,
)

# What a caller is told where a tier is away, or too slow; the call may be made again.
AWAY = (HotTierUnavailable, StoreUnavailable, HydrationTimeout, Backpressure)
STOP, READS, VIOLATIONS, REPEATS = "stop", ".reads", ".violations", ".repeats"


@dataclass
class Task:
    """What one process does.

    Attributes:
        directory, name: where its logs are, and what they begin with.
        sizes: how many messages an append may have.
        rate: appends or reads per second, if the machine is quick enough.
        keys: session keys in use at a time.
        since, epoch: every ``epoch`` seconds after ``since`` (Unix time) other keys are taken; 0: never.
        durable: whether log lines are flushed to disk.
    """

    directory: str
    name: str
    sizes: list[int] = field(default_factory=lambda: [1])
    rate: float = 20.0
    keys: int = 12
    since: float = 0.0
    epoch: float = 0.0
    durable: bool = True

    def arguments(self, role: str) -> list[str]:
        """The command line after the interpreter."""
        return [str(Path(__file__)), role, json.dumps(asdict(self))]

    @property
    def stopped(self) -> bool:
        return (Path(self.directory) / STOP).exists()

    def key(self, chance: random.Random) -> str:
        """A session key of the present."""
        epoch = int((time.time() - self.since) / self.epoch) if self.epoch else 0
        return f"kill:{epoch}:{chance.randrange(self.keys)}"


def again(task: Task, call: Callable[[], Any]) -> Any:
    """The result of a call that is made until it is answered; None when it is time to stop.

    A tier may be away for long; nobody gives up, but once it is time to stop a call is only made for half a minute more.
    """
    end = None
    while True:
        try:
            return call()
        except AWAY as error:
            with (Path(task.directory) / (task.name + REPEATS)).open("a") as file:
                file.write(type(error).__name__ + "\n")
        if task.stopped:
            end = end or time.monotonic() + 30
            if time.monotonic() > end:
                return None
        time.sleep(0.05)


def paced(task: Task) -> Iterator[None]:
    """One turn after another, at the task's rate, until it is time to stop; what was missed is not caught up in a burst."""
    due = time.monotonic()
    while not task.stopped:
        yield
        due = max(due + 1 / task.rate, time.monotonic() - 1.0)
        time.sleep(max(0.0, due - time.monotonic()))


def message(name: str, n: int, chance: random.Random) -> dict[str, Any]:
    """Words that no other message has."""
    words = f"{name} {n} {chance.getrandbits(64):x} ü€ " + "x" * chance.randrange(200)
    return {"role": "user", "content": words, "extra": {"n": n, "z": [1.5, None, True], "a": 2**53 + n}}


def write(task: Task) -> None:
    """Be a writer."""
    chance, n = random.Random(task.name), 0
    log = Log(Path(task.directory), task.name, durable=task.durable)
    with SessionCache.from_url() as cache:
        sessions: dict[str, Session] = {}
        for _ in paced(task):
            key = task.key(chance)
            if key not in sessions:
                sessions[key] = again(task, lambda key=key: cache.open(key))
            session = sessions[key]
            if session is None:
                return
            sent = {f"{task.name}-{n + m}": message(task.name, n + m, chance) for m in range(chance.choice(task.sizes))}
            n += len(sent)
            log.attempted(time.monotonic(), key, session.session_id, sent)
            begun = time.monotonic()
            records = again(task, lambda session=session, sent=sent: session.append(list(sent.values()), id=list(sent)))
            if records is None:
                return
            ended = time.monotonic()
            log.acknowledged(ended, [one.seq for one in records], ended - begun)
    log.close()


class Acknowledged:
    """What the logs of all writers say so far, read as they grow."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[Path, int] = {}
        self._tried: dict[str, list[Any]] = {}
        self._answered: dict[str, int] = {}
        self.ids: dict[str, set[str]] = {}

    def look(self) -> None:
        """Take in what is new."""
        for path in self._directory.glob("*" + ACKNOWLEDGED):
            new = self._new(path)
            if new:
                self._tried.setdefault(path.stem, []).extend(self._new(path.with_suffix(ATTEMPTED)))
            for _ in new:
                _, key, _, ids, _ = self._tried[path.stem].pop(0)
                self.ids.setdefault(key, set()).update(ids)

    def _new(self, path: Path) -> list[Any]:
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            whole = file.read().rpartition(b"\n")[0]
        if not whole:
            return []
        self._read[path] = self._read.get(path, 0) + len(whole) + 1
        return [json.loads(line) for line in whole.split(b"\n")]


def fault_of(seen: list[tuple[int, str]], before: list[tuple[int, str]], acknowledged: set[str]) -> str:
    """What is wrong with a history, as pairs of seq and id; empty if nothing is."""
    seqs, ids = [seq for seq, _ in seen], {one for _, one in seen}
    if missing := acknowledged - ids:
        return f"{len(missing)} acknowledged messages are missing, such as {min(missing)}"
    if len(ids) != len(seen):
        return "a message is there twice"
    if any(earlier >= later for earlier, later in pairwise(seqs)):
        return "seqs do not rise"
    if seen[: len(before)] != before:
        return "it does not begin with what was seen earlier"
    return ""


def read(task: Task) -> None:
    """Be a reader."""
    directory, chance = Path(task.directory), random.Random(task.name)
    acknowledged, before, reads = Acknowledged(directory), {}, 0
    with (directory / (task.name + READS)).open("w") as counted:
        cache = SessionCache.from_url()
        for _ in paced(task):
            acknowledged.look()
            if not acknowledged.ids:
                continue
            key = chance.choice(list(acknowledged.ids)[-2 * task.keys :])
            expected = set(acknowledged.ids[key])
            try:
                seen = [(one.seq, one.id) for one in cache.get(key).messages()]
            except AWAY:
                continue
            if fault := fault_of(seen, before.get(key, []), expected):
                (directory / (task.name + VIOLATIONS)).write_text(f"{key}: {fault}\n")
                sys.exit(1)
            before[key] = seen
            reads += 1
            counted.seek(0)
            counted.write(str(reads))
            counted.flush()
            if chance.random() < 0.02:  # a server that is new
                cache.close()
                cache = SessionCache.from_url()
        cache.close()


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Task(**json.loads(sys.argv[2])))
