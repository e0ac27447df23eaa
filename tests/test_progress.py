"""What flows tell of how far they are: it grows, ends at the whole, and is told in the middle of the work."""

from __future__ import annotations

import os
import pty
from contextlib import redirect_stdout, suppress
from io import StringIO

import click
import pytest
from commands import run
from test_workers import until

from sessioncache import dead, flushing, housekeeping
from sessioncache.cli.progress import progress
from sessioncache.lifecycle import deleting


@pytest.fixture
def told():
    """What was told, as pairs."""
    return []


@pytest.fixture
def tell(told):
    """What is called as progress."""
    return lambda done, of: told.append((done, of))


def grows(told: list[tuple[int, int | None]], whole: int) -> None:
    """Assert that it grew to the whole, in more than one step."""
    done = [done for done, _ in told]
    assert done == sorted(done)
    assert done[-1] == whole
    assert len(set(done)) > 1
    assert {of for _, of in told} == {whole}


def test_flush(one_stack, told, tell):
    """Of one key, and of all; nobody who looks on makes it ask how much there is."""
    with one_stack.cache(batch=10) as cache:
        for n in range(6):
            cache.open(f"k{n}").append([{"content": str(m)} for m in range(9)])
        assert cache._run(flushing.flush(cache._state, None, None, tell)).ops == 60
        grows(told, 60)
        told.clear()
        for _ in range(20):
            cache.open("k1").append({"content": "more"})
        assert cache._run(flushing.flush(cache._state, "k1", 10, tell)).ops == 20
        grows(told, 20)


def test_erasing_an_owner(one_stack, told, tell):
    """Session by session; with ended ones."""
    with one_stack.cache() as cache:
        for n in range(4):
            cache.open(f"k{n}", owner="o")
        cache.get("k0").reset()
        assert cache._run(deleting.delete_owner(cache._state, "o", tell)).sessions == 5
        grows(told, 5)


def test_keeping_house_of_one_kind(one_stack, told, tell, monkeypatch):
    """A chore that is named is done though the settings say never, and no other; those that it looked at are counted."""
    monkeypatch.setattr(housekeeping, "BATCH", 2)
    with one_stack.cache(empty_after=0.001, hold=0.001) as cache, one_stack.raw() as raw:
        until(lambda: raw.info("server")["uptime_in_seconds"])  # before that holds may have been lost
        for n in range(5):
            cache.open(f"k{n}").append({"content": "a"})
        cache.open("empty")
        cache.flush()
        ages = {"archived": 1e-6}
        dry = cache._run(housekeeping.keep_house(cache._state, dry_run=True, ages=ages, progress=tell))
        assert (dry.archived, dry.deleted) == (5, 0)
        assert told == [(2, None), (4, None), (5, None)]
        assert cache._run(housekeeping.keep_house(cache._state, ages=ages)).archived == 5
        assert cache.get("empty").info.message_count == 0
        assert cache._run(housekeeping.keep_house(cache._state, ages={})) == housekeeping.Kept()


def test_dead_letters(one_stack, told, tell, monkeypatch):
    """More of them than one script removes, and than one page holds; their ids tell them apart, on every server."""
    monkeypatch.setattr(dead, "PAGE", 7)
    monkeypatch.setattr(dead, "TOGETHER", 3)
    with one_stack.cache() as cache, one_stack.raw() as raw, one_stack.cache() as other:
        session = cache.open("k")
        keys = cache._state.keyspace.of("k")
        cache.flush()
        session.append([{"content": str(n)} for n in range(30)])
        log = raw.lrange(keys.pending, 0, -1)
        raw.rpush(keys.dead, *(b"5 22001 k\n" + one for one in log), b"6 corrupt other\nx")
        raw.delete(keys.pending, keys.dirty, keys.backlog, keys.oldest)
        raw.hset(keys.meta, "run", "another")
        found = cache.dead_letters(limit=100)
        assert len({one.id for one in found}) == 31
        assert [one.id for one in other.dead_letters("k")] == [one.id for one in found[:30]]
        assert [len(cache.dead_letters(limit=limit)) for limit in (1, 7, 8, 31)] == [1, 7, 8, 31]
        assert [len(cache.dead_letters("k", limit=limit)) for limit in (1, 29, 40)] == [1, 29, 30]
        assert cache._run(dead.retry(cache._state, found[:2] + found[29:], tell)) == 3
        assert told == [(3, 4), (4, 4)]  # what was appended at once is tried at once
        told.clear()
        rest = cache.dead_letters()
        assert cache._run(dead.drop(cache._state, rest, tell)) == 28
        grows(told, 28)
        assert cache.dead_letters() == []


def test_a_bar_is_drawn_on_a_terminal_alone(monkeypatch, one_stack):
    """Elsewhere nothing is written; and what is printed meanwhile goes where it is to go."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patched:
        patched.setattr("sys.stderr", terminal)
        patched.setenv("TERM", "xterm")
        with progress("working", 10) as bar:
            bar.told(5, 10)
            bar.advance(1)
        with redirect_stdout(StringIO()) as piped, progress("working") as bar:
            click.echo("printed")
    assert piped.getvalue() == "printed\n"
    shown = b""
    with os.fdopen(ours, "rb", buffering=0) as screen, suppress(OSError):  # as Linux says that nobody writes any more
        while more := screen.read(65536):
            shown += more
    shown = shown.decode()
    assert "printed" not in shown
    assert "working" in shown
    assert "60%" in shown
    assert run(one_stack.settings(), "flush").err == ""
