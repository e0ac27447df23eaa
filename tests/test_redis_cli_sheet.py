"""The cheat sheet of redis-cli: each command that docs/redis-cli.md shows runs against a live system, and prints that.

A block of it is commands after ``$``, each with what it prints on a terminal. ``…`` stands for whatever varies, alone on a
line for any number of lines. The system: workers that stand still after they stored something, and what was appended since.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis
import showing
from conftest import _stack, missing
from test_workers import until, workers

from sessioncache import SessionCache, functions, keys
from sessioncache.config import as_environment
from sessioncache.nudge import enqueue

SHEET = Path(__file__).parent.parent / "docs" / "redis-cli.md"
KEY, CALM, EVICTED = "telegram:dm:42", "telegram:dm:43", "telegram:dm:44"
# What would pass while the sheet is read, lasts.
LASTING = {
    "wake": 600.0,
    "hold": 600.0,
    "slice": 600.0,
    "ttl_jitter": 0.0,
    "report": 1.0,
    "queue": "sessioncache",
    "lanes": 4,
    "partitions": 64,
}


@pytest.fixture(params=["valkey9-sqlite", pytest.param("redis7-sqlite", marks=pytest.mark.long)])
def some_stack(request):
    """Either server, beside the store that is quickest to make."""
    yield from _stack(request, request.param)


def descendants(pid: int) -> list[int]:
    """A process and those that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in descendants(int(child)))]


@contextmanager
def standing_still(pid: int):
    """A process and its children are there, and do nothing."""
    pids = descendants(pid)
    for one in pids:
        os.kill(one, signal.SIGSTOP)
    try:
        yield
    finally:
        for one in reversed(pids):
            os.kill(one, signal.SIGCONT)


def write_what_is_stored(cache: SessionCache, raw: redis.Redis) -> None:
    """Three sessions that workers drained, one of them evicted; somebody asked for a fourth."""
    cache.open(KEY, owner="alice").append([{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}])
    for key in (CALM, EVICTED):
        cache.open(key).append({"role": "user", "content": "hello"})
    alive = ("sc:schedule", "sc:processes", "rq:workers:sessioncache")
    until(lambda: not raw.keys("sc:*:pending:*") and raw.exists(*alive) == len(alive))
    cache.evict(EVICTED)
    with pytest.raises(LookupError):
        cache.get("telegram:dm:99")


def write_what_waits(cache: SessionCache, raw: redis.Redis) -> None:
    """Two messages of one session, and a dead letter."""
    cache.get(KEY).append(
        [{"role": "user", "content": "how much?", "n": 2**63}, {"role": "assistant", "content": None, "p": 1.0}]
    )
    found, at = cache._state.keyspace.of(KEY), int(time.time() * 1000)
    op = raw.lindex(found.pending, 0).partition(b"\n")
    raw.rpush(found.dead, b"%d 22P05 %b\n%b\n%b" % (at, KEY.encode(), op[0], op[2]))
    # A worker that stands still while it waits for a job still gets one; the next one stays.
    lane = cache._state.lane_of(found.partition)
    until(lambda: raw.llen("rq:queue:sessioncache") or not enqueue(raw, cache._state.settings, lane))


@contextmanager
def live_system(stack):
    """A cache over workers that stand still, with a turn and a hold in one session."""
    settings = stack.settings(**LASTING, unknown_ttl=600.0)
    with ExitStack() as ending:
        raw = ending.enter_context(stack.raw())
        process = ending.enter_context(workers(settings, "--processes", "1"))
        cache = ending.enter_context(SessionCache(settings=settings))
        write_what_is_stored(cache, raw)
        ending.enter_context(standing_still(process.pid))
        showing.install(cache)
        ending.callback(raw.function_flush)
        write_what_waits(cache, raw)
        session = cache.get(KEY)
        ending.enter_context(session.turn())
        ending.enter_context(session.hold("summary"))
        yield cache


def shown() -> list[tuple[str, str]]:
    """Each command of the sheet with what it prints."""
    blocks = re.findall(r"```console\n(.*?)```", SHEET.read_text(), re.DOTALL)
    found = [re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE) for block in blocks]
    assert all(not parts[0] for parts in found), "a block begins with a command"
    return [pair for parts in found for pair in zip(parts[1::2], parts[2::2], strict=True)]


def pattern(printed: str) -> re.Pattern[str]:
    """What an output has to be."""
    lines = [r"(?:.*\n)*" if line == "…" else re.escape(line).replace("…", ".+") + "\n" for line in printed.splitlines()]
    return re.compile("".join(lines))


def runner(stack) -> Callable[[str], str]:
    """Runs a command of the sheet; redis-cli as on a terminal, which numbers and quotes."""
    program = shutil.which("redis-cli") or missing("redis-cli")
    environment = {**os.environ, **as_environment(stack.settings(**LASTING))}

    def run(command: str) -> str:
        name, *words = shlex.split(command)
        if name == "sessioncache":
            line = [sys.executable, "-c", "from sessioncache.cli.main import main; main()", *words]
        else:
            assert name == "redis-cli", command
            line = [program, "-s", str(stack.server.socket), *([] if "--raw" in words else ["--no-raw"]), *words]
        done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=60, check=False)
        assert not done.stderr, (command, done.stderr)
        return done.stdout.rstrip("\n") + "\n"

    return run


def test_the_sheet_prints_what_it_says(some_stack):
    """Every command, in order; then what it deleted is back, and what waited is still there."""
    run = runner(some_stack)
    with live_system(some_stack) as cache:
        wrong = [
            f"$ {command}\n--- the sheet\n{printed}--- now\n{found}"
            for command, printed in shown()
            if not pattern(printed).fullmatch(found := run(command))
        ]
        assert not wrong, "\n".join(wrong)
        assert cache.get(CALM).history() == [{"role": "user", "content": "hello"}]
        assert [one["content"] for one in cache.get(KEY).history()] == ["hello", "hi", "how much?", None]
        assert cache.stats().pending == 2


def test_the_sheet_shows_everything():
    """Each function, each kind of key, and each question with a command."""
    commands = "\n".join(command for command, _ in shown())
    for name in functions.NAMES:
        assert f"FCALL_RO {name} " in commands, name
    for row in keys.__doc__.splitlines():
        kind = re.match(r"``sc:(?:\{\S+\}:)?(\w+)", row)
        assert kind is None or kind[1] in SHEET.read_text(), row
    for section in SHEET.read_text().split("\n### ")[1:]:
        assert "```console\n$ " in section, section.splitlines()[0]


def test_what_varies_is_marked():
    """Only what the sheet leaves open may differ."""
    same = pattern("1) state  hot\n…\n2) … s more\n")
    assert same.fullmatch("1) state  hot\n2) 5 s more\n")
    assert same.fullmatch("1) state  hot\nx\ny\n2) 5 s more\n")
    for other in ("1) state  miss\n2) 5 s more\n", "1) state  hot\n2)  s more\n", "1) state  hot\n2) 5 s more\n3) x\n"):
        assert not same.fullmatch(other)
