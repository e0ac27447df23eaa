"""Another number of partitions: nothing is lost, doubled or reordered, whoever writes meanwhile and whatever is killed.

Writers are told `Repartitioning` or `LayoutMismatch` at worst, and go on with the number that they are restarted with.
"""

from __future__ import annotations

import os
import pty
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from zlib import crc32

import pytest
from click.testing import CliRunner
from conftest import THE_OTHER_LATER, Stack
from model_driver import unavailable
from opponent import Log, Stored, calls, counts_that_differ, digest, in_store, judge
from servers import python

from sessioncache import (
    CorruptLog,
    LayoutMismatch,
    Repartitioning,
    SessionCache,
    SessionCacheError,
    StoreUnavailable,
    dead,
    repartition,
    write_behind,
)
from sessioncache.cli.main import cli
from sessioncache.config import as_environment
from sessioncache.connect import BlockingConnections
from sessioncache.drivers import Blocking
from sessioncache.flow import Command, Evaluate, Transact
from sessioncache.hot import partitions
from sessioncache.store import incoming, layouts

TOLD = (Repartitioning, LayoutMismatch)


@contextmanager
def connected(stack: Stack, number: int) -> Iterator[BlockingConnections]:
    connections = BlockingConnections(stack.settings(partitions=number, lanes=1))
    try:
        yield connections
    finally:
        connections.close()


def change(stack: Stack, before: int, to: int) -> repartition.Repartitioned:
    """What the command does, started with the old number."""
    with connected(stack, before) as connections:
        return connections.run_apart(repartition.repartition(connections.state, to))


def texts(messages: Any) -> list[str]:
    return [one["content"] for one in messages]


# One at rest: whatever there is, and what clients of either number are told.


def test_everything_goes_along(some_stack):
    """Histories, what waits, dead letters, holds; a turn ends, and its holder is told."""
    stack = some_stack
    with stack.cache(partitions=8) as old, stack.raw() as raw:
        sessions = {f"k{n}": old.open(f"k{n}") for n in range(30)}
        for key, session in sessions.items():
            session.append({"content": key})
        old.flush()
        for key, session in sessions.items():
            session.append({"content": f"{key} waits"})
        kept = [b"1767225600000 22001 k%d\n3 id%d 0 1767225600000 append s\nx" % (n, n) for n in range(30)]
        for n in range(30):
            raw.rpush(old._state.keyspace.of(f"k{n}").dead, kept[n])
        raw.rpush("sc:{007}:dead", b"garbage")
        with sessions["k1"].hold("indexer"), sessions["k2"].turn(timeout=0) as mine:
            mine.append({"content": "in turn"})
            done = change(stack, 8, 5)
            with pytest.raises(LayoutMismatch, match="SESSIONCACHE_PARTITIONS=5"):
                mine.append({"content": "too late"})
            with stack.cache(partitions=5, lanes=1) as new:
                held = new._state.keyspace.of("k1")
                assert raw.zrange(held.holds, 0, -1)[0].startswith(b"k1\nindexer ")
                assert raw.zrange(held.held, 0, -1) == raw.zrange(held.holds, 0, -1)
        assert (done.before, done.partitions, done.ops) == (8, 5, 31)
        assert done.copies == 30
        with pytest.raises(LayoutMismatch):
            sessions["k3"].history()
        with connected(stack, 8) as worker, pytest.raises(LayoutMismatch):
            worker.run_apart(write_behind.drain_lane(worker.state, 0, 1, lambda: False))
    with stack.cache(partitions=8) as late, pytest.raises(LayoutMismatch, match="is laid out for 5 partitions, not 8"):
        late.open("k1")
    with stack.cache(partitions=5) as new, stack.raw() as raw:
        for key in sessions:
            more = ["in turn"] if key == "k2" else []
            assert texts(new.get(key).history()) == [key, f"{key} waits", *more]
            new.get(key).append({"content": "goes on"})
        letters = {one.raw: one.session_key for one in new.dead_letters()}
        assert set(letters) == {*kept, b"garbage"}
        for n in range(30):
            assert kept[n] in raw.lrange(new._state.keyspace.of(f"k{n}").dead, 0, -1)
        assert new.flush().ops == 30
        numbers = {int(name[4:7]) for name in raw.scan_iter("sc:*") if name.startswith(b"sc:{") and raw.ttl(name) < 0}
        assert numbers <= set(range(5))


def test_nobody_brings_a_copy_that_was_loaded_before(one_stack):
    """A hydration that has loaded when the change begins installs nothing, and its caller is told."""
    with one_stack.cache(partitions=4) as old:
        old.open("k").append({"content": "a"})
        old.flush()
        old.evict("k")
        driver = old._connections.driver
        perform, told = driver.perform, []

        def slowly(request: Any) -> Any:
            reply = perform(request)
            if isinstance(request, Transact) and not told:
                told.append(1)
                change(one_stack, 4, 6)
            return reply

        driver.perform = slowly
        with pytest.raises(LayoutMismatch):
            old.get("k")
        assert told
        with one_stack.raw() as raw:
            assert not list(raw.scan_iter("sc:*:meta:k"))


def test_nor_one_of_two_changes_ago(one_stack):
    """To and fro while a hydration stands between its load and its publish: its lease is gone, whatever the number is."""
    with one_stack.cache(partitions=4) as old:
        old.open("k").append({"content": "a"})
        old.flush()
        old.evict("k")
        driver = old._connections.driver
        perform, told = driver.perform, []

        def slowly(request: Any) -> Any:
            if isinstance(request, Evaluate) and request.script.verb == "publish" and not told:
                told.append(1)
                change(one_stack, 4, 6)
                with one_stack.cache(partitions=6) as new:
                    new.get("k").append({"content": "b"})
                change(one_stack, 6, 4)
            return perform(request)

        driver.perform = slowly
        assert texts(old.get("k").history()) == ["a", "b"]
        assert told


def pages(stack: Stack) -> list[partitions.Page]:
    """All keys, as a pass meets them."""
    found, cursor = [], 0
    with connected(stack, 64) as connections:
        while True:
            found.append(connections.run_apart(partitions.page(connections.state, cursor)))
            cursor = found[-1].cursor
            if not cursor:
                return found


def places(stack: Stack) -> dict[str, int]:
    """On which page a pass meets each key, once Redis is done with growing its tables, which changes that."""
    seen: list[dict[str, int]] = []
    while len(seen) < 2 or seen[-1] != seen[-2]:
        time.sleep(0.05 * bool(seen))
        seen.append({name: n for n, page in enumerate(pages(stack)) for name in (*page.passing, *page.logs)})
    return seen[-1]


def test_an_op_that_is_logged_behind_a_pass_is_drained(one_stack, monkeypatch):
    """The first pass is beyond the place of the log, not yet at that of the copy; when it comes there, neither is seen."""
    monkeypatch.setattr(partitions, "PAGE", 20)
    with one_stack.cache(partitions=64) as cache, one_stack.raw() as raw:
        raw.mset({f"foreign:{n}": "x" for n in range(300)})
        keys = [cache._state.keyspace.of(f"k{n}") for n in range(400) if crc32(b"k%d" % n) & 64]
        for it in keys:
            session = cache.open(it.session_key)
            session.append({"content": "a"})
            at = places(one_stack)
            cache.flush()
            if at[it.pending] + 4 < min(at[it.meta], at[it.history]):
                break
            cache.evict(it.session_key)
        else:
            pytest.fail("no key has its log so far before its copy")
        real, seen = partitions.page, Counter[str]()

        def meanwhile(state: Any, cursor: int) -> Any:
            seen.update(["passes"] if cursor == 0 else [])
            if seen["passes"] == 2:
                seen["pages"] += 1
                if seen["pages"] == at[it.pending] + 3:
                    session.append({"content": "b"})
                    cache.evict(it.session_key)
            return (yield from real(state, cursor))

        monkeypatch.setattr(partitions, "page", meanwhile)
        done = change(one_stack, 64, 128)
        assert done.ops == 1
        assert not list(raw.scan_iter("sc:*:pending:*"))
    with one_stack.cache(partitions=128) as new:
        assert texts(new.get(it.session_key).history()) == ["a", "b"]


def test_a_log_where_no_number_has_it_is_told_of(one_stack):
    """Whoever put it there: nobody would drain it. Nothing is begun."""
    with one_stack.cache(partitions=4) as cache, one_stack.raw() as raw:
        session = cache.open("k")
        session.append({"content": "a"})
        cache.flush()
        raw.rpush("sc:{900}:pending:k", b"9 AAAAAAAAAAAAAAAA 0 1767225600000 touch s\n")
        with pytest.raises(CorruptLog, match=r"'sc:\{900\}:pending:k'.* where none of 4 or 6 partitions has it"):
            change(one_stack, 4, 6)
        cache.evict("k")
        session.append({"content": "b"})
        raw.delete("sc:{900}:pending:k")
        change(one_stack, 4, 6)


def test_it_is_taken_back_past_a_log_that_is_stopped_in_the_middle(one_stack, monkeypatch):
    """It stays where the old number has it, and stops its key alone."""
    real = partitions.begin
    with one_stack.cache(partitions=4) as cache, one_stack.raw() as raw:
        for key in ("good", "bad"):
            cache.open(key).append({"content": "a"})
        keys = cache._state.keyspace.of("bad")

        def planted(*args: Any) -> Any:
            raw.rpush(keys.pending, b"9 AAAAAAAAAAAAAAAA 0 1767225600000 teleport s\nx")
            raw.zadd(keys.dirty, {"bad": 1})
            return (yield from real(*args))

        with monkeypatch.context() as context:
            context.setattr(partitions, "begin", planted)
            with pytest.raises(CorruptLog, match="'bad'"):
                change(one_stack, 4, 6)
        with pytest.raises(CorruptLog, match="'bad'"):
            change(one_stack, 4, 6)
        with pytest.raises(Repartitioning):
            cache.get("good")
        change(one_stack, 4, 4)
        cache.get("good").append({"content": "b"})
        assert texts(cache.get("good").history()) == ["a", "b"]
        with pytest.raises(CorruptLog, match="'bad'"):
            cache.get("bad")
        raw.delete(keys.pending)
        assert texts(cache.get("bad").history()) == ["a"]


def test_what_cannot_be_drained_is_found_before_anybody_waits(one_stack):
    """An op of a later release stops its key: nothing is begun, all go on."""
    with one_stack.cache(partitions=4) as cache, one_stack.raw() as raw:
        cache.open("good").append({"content": "a"})
        keys = cache._state.keyspace.of("bad")
        raw.rpush(keys.pending, b"1 AAAAAAAAAAAAAAAA 0 1767225600000 teleport s\nx")
        raw.zadd(keys.dirty, {"bad": 1})
        with pytest.raises(SessionCacheError, match="'bad'"):
            change(one_stack, 4, 6)
        cache.evict("good")
        assert texts(cache.get("good").history()) == ["a"]
        raw.delete(keys.pending)
        raw.delete(keys.dead)
        raw.set(keys.dead, "of a wrong type")
        with pytest.raises(SessionCacheError, match="WRONGTYPE"):
            change(one_stack, 4, 6)
        cache.get("good").append({"content": "b"})


def test_one_at_a_time_to_one_number(one_stack, monkeypatch):
    """A second one is refused, as is another number in the middle; the old number takes it back."""
    with one_stack.cache(partitions=4) as cache, one_stack.raw() as raw:
        session = cache.open("k")
        session.append({"content": "a"})
        raw.set("sc:importing", "somebody", ex=60)
        with pytest.raises(Repartitioning, match="Another process"):
            change(one_stack, 4, 6)
        session.append({"content": "b"})
        raw.delete("sc:importing")

        def stuck(*_: object) -> Any:
            raise StoreUnavailable("The database went away.")
            yield

        with monkeypatch.context() as context:
            context.setattr(partitions, "letters", stuck)
            with pytest.raises(StoreUnavailable):
                change(one_stack, 4, 6)
        with pytest.raises(Repartitioning, match="sessioncache repartition 6"):
            session.append({"content": "no"})
        for number in (4, 6):
            with one_stack.cache(partitions=number) as other, pytest.raises(Repartitioning):
                other.open("k")
        found = [one for one in cache.doctor() if one.check == "layout" and one.severity == "error"]
        assert "being changed to 6" in found[0].found
        with pytest.raises(Repartitioning, match="repartition 6` to complete it, or `sessioncache repartition 4`"):
            change(one_stack, 4, 7)
        change(one_stack, 6, 4)
        session.append({"content": "c"})
        assert texts(session.history()) == ["a", "b", "c"]


def test_a_redis_that_is_emptied_in_the_middle(one_stack, monkeypatch):
    """Its marks and its layout are gone: the database refuses all the same, and the change is completed."""
    with one_stack.cache(partitions=4) as cache, one_stack.raw() as raw:
        session = cache.open("k")
        session.append({"content": "a"})
        empty = partitions.look

        def emptied(state: Any, keys: Any, at: int) -> Any:
            raw.flushall()
            with pytest.raises(Repartitioning):
                session.append({"content": "no"})
            return ()
            yield

        assert empty
        with monkeypatch.context() as context, pytest.raises(Repartitioning, match="Redis has lost who does"):
            context.setattr(partitions, "letters", emptied)
            change(one_stack, 4, 6)
        change(one_stack, 4, 6)
        with pytest.raises(LayoutMismatch):
            session.append({"content": "no"})
    with one_stack.cache(partitions=6) as new:
        assert texts(new.get("k").history()) == ["a"]
        assert new.flush().left == 0


def test_a_redis_of_before_is_brought_along(one_stack):
    """Restored from a snapshot that is older than the change: refused at start; the same command drains its logs."""
    with one_stack.cache(partitions=4) as cache, one_stack.raw() as raw:
        keys = [f"k{n}" for n in range(12)]
        for key in keys:
            cache.open(key).append({"content": "a"})
        cache.flush()
        for key in keys:
            cache.get(key).append({"content": "b"})
        dump = {name: raw.dump(name) for name in raw.scan_iter("sc:*")}
        change(one_stack, 4, 6)
        raw.flushall()
        for name, value in dump.items():
            raw.restore(name, 0, value)
        with one_stack.cache(partitions=6) as new, pytest.raises(LayoutMismatch, match="Redis is laid out for 4"):
            new.open("k1")
        change(one_stack, 6, 6)
    with one_stack.cache(partitions=6) as new:
        assert all(texts(new.get(key).history()) == ["a", "b"] for key in keys)


LOOKS: dict[str, Callable[[SessionCache, dict[str, str]], object]] = {
    "read": lambda old, ids: old.read(ids["k"]),
    "read one that is new": lambda old, ids: old.read(ids["new"]),
    "search": lambda old, _: old.search("late", fresh=True),
    "flush": lambda old, _: old.flush(),
    "flush in time": lambda old, _: old.flush(timeout=1),
    "flush a key": lambda old, _: old.flush("k"),
    "stats": lambda old, _: old.stats(),
    "delete_owner": lambda old, _: old.delete_owner("bob"),
    "dead_letters": lambda old, _: old.dead_letters(),
    "forget": lambda old, _: old._run(dead.forget(old._state, lambda _: True)),
}


def test_nobody_of_the_old_number_looks_for_what_waits_where_it_is_not(one_stack):
    """It would say that there is nothing: a read without what was acknowledged, an owner who is not erased."""
    with one_stack.cache(partitions=64) as old:
        ids = {"k": old.open("k", owner="bob").session_id}
        old.flush()
        change(one_stack, 64, 128)
        with one_stack.cache(partitions=128) as new, one_stack.raw() as raw:
            new.get("k").append({"content": "late"})
            ids["new"] = new.open("new", owner="bob").session_id
            raw.rpush(new._state.keyspace.of("k").dead, b"garbage")
            for name, look in LOOKS.items():
                with pytest.raises(LayoutMismatch, match="SESSIONCACHE_PARTITIONS=128"):
                    pytest.fail(f"{name}: {look(old, ids)}")
            assert texts(one.data for one in new.read(ids["k"])) == ["late"]
            assert new.delete_owner("bob").sessions == 2


def test_an_import_with_the_old_number_stores_nothing(one_stack):
    """It would leave hot copies as they are that it makes wrong: they are elsewhere by now."""
    with one_stack.cache(partitions=4) as cache:
        cache.open("k")
        change(one_stack, 4, 6)
        with cache._connections.driver.engine.begin() as connection, pytest.raises(LayoutMismatch):
            incoming.add(connection, [], datetime.now(UTC), partitions=4)


def test_the_command(some_stack, monkeypatch):
    """It says what it did and what to set; without a terminal it wants --yes; nothing is done twice."""
    with some_stack.cache(partitions=64) as cache:
        cache.open("k").append({"content": "a"})
        for name, value in as_environment(cache.settings).items():
            monkeypatch.setenv(name, value)
        refused = CliRunner().invoke(cli, ["repartition", "96"])
        assert (refused.exit_code, "--yes" in refused.output) == (2, True)
        assert texts(cache.get("k").history()) == ["a"]
        assert CliRunner().invoke(cli, ["repartition", "1001", "--yes"]).exit_code == 2
        done = CliRunner().invoke(cli, ["repartition", "96", "--yes"])
        assert done.exit_code == 0, done.output
        assert "partitions now                96\n" in done.output
        assert "SESSIONCACHE_PARTITIONS=96" in done.output
        again = CliRunner().invoke(cli, ["repartition", "96", "--yes"])
        assert again.output == "It is laid out for 96 partitions; nothing is to be done.\n"
        with pytest.raises(LayoutMismatch):
            cache.get("k")
    with some_stack.cache(partitions=96) as new:
        assert texts(new.get("k").history()) == ["a"]


def test_the_command_asks_on_a_terminal(one_stack):
    """It says what it is about to do; told no, it does nothing; told yes, it shows what it does."""
    with one_stack.cache(partitions=64) as cache:
        cache.open("k").append({"content": "a"})
        for answer, status in (("n", 130), ("y", 0)):
            ours, theirs = pty.openpty()
            command = ["-c", "from sessioncache.cli.main import main; main()", "repartition", "8"]
            terminal, settings = dict.fromkeys(("stdin", "stdout", "stderr"), theirs), as_environment(cache.settings)
            process = python(*command, **terminal, env={**os.environ, **settings})
            os.close(theirs)
            shown = read_until(ours, "[y/N]")
            assert "Change the number of partitions to 8?" in shown
            os.write(ours, f"{answer}\n".encode())
            shown = read_until(ours, None)
            assert process.wait(60) == status, shown
            os.close(ours)
        assert "partitions now" in shown
        with pytest.raises(LayoutMismatch):
            cache.get("k")


def read_until(terminal: int, wanted: str | None) -> str:
    """What comes from a terminal until something is seen, or to its end."""
    shown = ""
    while wanted is None or wanted not in shown:
        try:
            more = os.read(terminal, 4096)
        except OSError:  # its other end is closed
            more = b""
        if not more:
            break
        shown += more.decode(errors="replace")
    return shown


def test_nothing_to_change(one_stack):
    """A store where nothing is laid out yet takes the number from the settings."""
    with pytest.raises(SessionCacheError, match="Nothing is stored yet"):
        change(one_stack, 4, 6)


# Ended at any request.


_killed: list[Any] = []


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Ending:
    """Performs requests up to one: it is not made, or its answer is lost, or the process is gone after it."""

    perform: Callable[[Any], Any]
    at: int
    way: str
    count: int = 0

    def __call__(self, request: Any) -> Any:
        if not isinstance(request, Evaluate | Command | Transact):
            return None
        self.count += 1
        if self.count != self.at:
            return self.perform(request)
        if self.way != "not made":
            self.perform(request)
        if self.way == "killed":
            raise Killed
        raise unavailable(request)


def ended(stack: Stack, before: int, to: int, at: int, way: str) -> bool:
    """Change the number until request ``at``; whether it came that far."""
    with connected(stack, before) as connections:
        driver = Blocking(connections._hot, connections._engine, connections._bell, _first(), 2.0)
        ending = Ending(driver.perform, at, way)
        flow = repartition.repartition(connections.state, to)
        _killed.append(flow)  # one that is collected would clean up
        try:
            request = next(flow)
            while True:
                try:
                    request = flow.send(ending(request))
                except SessionCacheError as error:
                    request = flow.throw(error)
        except (StopIteration, SessionCacheError, Killed):
            return ending.count >= at


def _first() -> Any:
    from sessioncache.drivers import FirstTransaction
    from sessioncache.store.check import check_schema

    return FirstTransaction(check_schema)


def tried(cache: SessionCache, key: str, text: str, expected: dict[str, list[str]]) -> None:
    """An append of a client that may be refused; what was acknowledged is expected from now on."""
    try:
        cache.get(key).append({"content": text})
    except TOLD:
        return
    expected[key].append(text)


def ended_at_each(stack: Stack, way: str, step: int) -> int:
    """The change, to and fro, ended at every ``step``-th request and then run again; how many requests it had."""
    keys, numbers, at = [f"k{n}" for n in range(6)], (2, 3), 1
    expected: dict[str, list[str]] = {key: [] for key in keys}
    letters: list[bytes] = []
    with stack.cache(partitions=2, lanes=1) as first:
        for key in keys:
            first.open(key)
    came = True
    while came:
        before, to = numbers
        with stack.cache(partitions=before, lanes=1) as cache, stack.raw() as raw:
            for key in keys:
                tried(cache, key, f"{at} waits", expected)
            letters.append(b"1767225600000 22001 k%d\n3 id%d 0 1767225600000 append s\nx" % (at % 6, at))
            raw.rpush(cache._state.keyspace.of(f"k{at % 6}").dead, letters[-1])
            came = ended(stack, before, to, at, way)
            tried(cache, keys[at % 6], f"{at} meanwhile", expected)
            raw.delete("sc:importing")  # its time ends by itself
            change(stack, before, to)
            tried(cache, keys[at % 6], f"{at} late", expected)
        with stack.cache(partitions=to, lanes=1) as cache:
            for key in keys:
                assert texts(cache.get(key).history()) == expected[key], (way, at, key)
            cache.flush()
            assert sorted(one.raw for one in cache.dead_letters()) == sorted(letters), (way, at)
        numbers, at = (to, before), at + step
    assert expected["k0"]
    return at


def test_ended_at_any_request_the_next_run_completes_it(one_stack):
    """Killed after the effect of every sixth of its requests."""
    assert ended_at_each(one_stack, "killed", 6) > 30


def stopped_at_each(stack: Stack, step: int) -> int:
    """The change, stopped at every ``step``-th request until another process has ended it; how many requests it had."""
    texts_of, letters, at, came = [], [], 1, True
    with stack.cache(partitions=4) as first:
        first.open("k")
    while came:
        with stack.cache(partitions=4) as cache, connected(stack, 4) as connections, stack.raw() as raw:
            texts_of.append(f"{at} before")
            cache.get("k").append({"content": texts_of[-1]})
            flow = repartition.repartition(connections.state, 6)
            perform = Blocking(connections._hot, connections._engine, connections._bell, _first(), 2.0).perform
            request = next(flow)
            try:
                for _ in range(at):
                    request = flow.send(perform(request))
            except StopIteration:
                came = False
            raw.delete("sc:importing")  # its time ends by itself
            number = 4 if moving_to(stack) and at % 2 else 6
            change(stack, 4, number)
            with stack.cache(partitions=number) as client:
                letters.append(b"1767225600000 22001 k\n3 id%d 0 1767225600000 append s\nx" % at)
                raw.rpush(client._state.keyspace.of("k").dead, letters[-1])
                texts_of.append(f"{at} after")
                client.get("k").append({"content": texts_of[-1]})
                with suppress(StopIteration, Repartitioning):
                    while came:
                        request = flow.send(perform(request))
                assert int(raw.hget("sc:{000}:layout", "partitions")) == number, at
                assert not raw.hexists("sc:{000}:layout", "moving_to"), at
                assert client.stats().dirty == len(list(raw.scan_iter("sc:*:pending:k"))), at
                client.evict("k")
                assert texts(client.get("k").history()) == texts_of, at
                client.flush()
                assert [one.raw for one in client.dead_letters()] == letters, at
            change(stack, number, 4)
        at += step
    return at


def moving_to(stack: Stack) -> int | None:
    with connected(stack, 4) as connections:
        found = connections.driver.perform(Transact(layouts.recorded, writes=False, checked=False))
    return found.moving_to


def test_one_that_stood_still_while_another_ended_it_changes_nothing(one_stack):
    """Neither dirty indexes, nor dead letters, nor what is recorded: at every fourth of its requests."""
    assert stopped_at_each(one_stack, 4) > 30


def stopped_before(connections: BlockingConnections, verb: str) -> Callable[[], None]:
    """A change to 6 that stands before a script or transaction; what lets it go on to its end."""
    flow = repartition.repartition(connections.state, 6)
    perform = Blocking(connections._hot, connections._engine, connections._bell, _first(), 2.0).perform
    request = next(flow)
    while verb not in {getattr(getattr(request, "script", None), "verb", ""), *names_of(request)}:
        request = flow.send(perform(request))

    def go_on() -> None:
        nonlocal request
        with suppress(StopIteration):
            while True:
                try:
                    request = flow.send(perform(request))
                except Repartitioning as error:
                    request = flow.throw(error)

    return go_on


def names_of(request: Any) -> list[str]:
    return [request.work.func.__name__] if isinstance(request, Transact) and isinstance(request.work, partial) else []


@pytest.mark.parametrize(("verb", "number"), [("begin_move", 6), ("relocate", 4), ("record", 4), ("end_move", 4)])
def test_one_that_stood_still_before_what_is_final(one_stack, verb, number):
    """Another one completed the change, or took it back: that stands."""
    with one_stack.cache(partitions=4) as cache, one_stack.raw() as raw, connected(one_stack, 4) as connections:
        key = next(key for key in map(str, range(99)) if crc32(key.encode()) % 4 != crc32(key.encode()) % 6)
        cache.open(key)
        letter = b"1767225600000 22001 %s\n3 id 0 1767225600000 append s\nx" % key.encode()
        raw.rpush(cache._state.keyspace.of(key).dead, letter)
        go_on = stopped_before(connections, verb)
        raw.delete("sc:importing")  # its time ends by itself
        change(one_stack, 4, number)
        with pytest.raises(Repartitioning):
            go_on()
        with one_stack.cache(partitions=number) as client:
            client.get(key).append({"content": "a"})
            assert [one.raw for one in client.dead_letters(key)] == [letter]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_one_that_stood_still_at_each_request_changes_nothing(some_stack):
    """Every request."""
    assert stopped_at_each(some_stack, 1) > 30


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", ["killed", "lost", "not made"])
def test_ended_at_each_request_the_next_run_completes_it(some_stack, way):
    """Every request, in each way; what fails once is perhaps mended by repeating it."""
    assert ended_at_each(some_stack, way, 1) > 30


# While servers and workers run.


@dataclass
class Fleet:
    """Threads that each have a cache of their own, as servers have, and restart with the number that is deployed."""

    stack: Stack
    directory: Path
    keys: list[str]
    number: int
    stop: threading.Event = field(default_factory=threading.Event)
    told: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)

    def client(self, work: Callable[[SessionCache], None]) -> None:
        """Do it again and again; whoever is told that the number is another one starts anew."""
        while not self.stop.is_set():
            try:
                with self.stack.cache(partitions=self.number, lanes=2) as cache:
                    while not self.stop.is_set():
                        work(cache)
            except TOLD as error:
                self.told[type(error).__name__] += 1
                time.sleep(0.05)
            except Exception as error:  # noqa: BLE001 - told to the test
                self.wrong.append(repr(error))
                return

    def write(self, name: str) -> None:
        chance, log, n = Random(name), Log(self.directory, name, durable=False), 0
        waiting: list[tuple[str, str, dict[str, Any]]] = []

        def work(cache: SessionCache) -> None:
            nonlocal n
            if not waiting:
                key = chance.choice(self.keys)
                session_id = cache.get(key).session_id
                waiting.append((key, session_id, {f"{name}-{n + m}": self.message(name, n + m) for m in range(2)}))
                n += 2
                log.attempted(time.monotonic(), *waiting[0])
            key, _, sent = waiting[0]
            records = cache.get(key).append(list(sent.values()), id=list(sent))
            log.acknowledged(time.monotonic(), [one.seq for one in records])
            waiting.clear()
            self.done["appends"] += 1

        self.client(work)
        log.close()

    @staticmethod
    def message(name: str, n: int) -> dict[str, Any]:
        return {"role": "user", "content": f"{name} {n}"}

    def read(self, name: str) -> None:
        chance, before = Random(name), dict[str, list[str]]()

        def work(cache: SessionCache) -> None:
            key = chance.choice(self.keys)
            seen = texts(cache.get(key).history())
            if seen[: len(before.get(key, []))] != before.get(key, []) or len(set(seen)) != len(seen):
                self.wrong.append(f"{key}: {seen} after {before[key]}")
            before[key] = seen
            self.done["reads"] += 1

        self.client(work)

    def drain(self, lane: int) -> None:
        def work(cache: SessionCache) -> None:
            connections = cache._connections
            connections.run(write_behind.drain_lane(connections.state, lane, 2, self.stop.is_set))

        self.client(work)

    def set_up(self) -> None:
        log = Log(self.directory, "setup", durable=False)
        with self.stack.cache(partitions=self.number, max_pending=10) as cache:
            for n, key in enumerate(self.keys):
                session, sent = cache.open(key), {f"setup-{n}": self.message("setup", n)}
                log.attempted(time.monotonic(), key, session.session_id, sent)
                log.acknowledged(time.monotonic(), [one.seq for one in session.append(list(sent.values()), id=list(sent))])
        log.close()

    def run(self, numbers: list[int], pause: float) -> None:
        threads = [
            *(threading.Thread(target=self.write, args=(f"writer {n}",)) for n in range(4)),
            *(threading.Thread(target=self.read, args=(f"reader {n}",)) for n in range(2)),
            *(threading.Thread(target=self.drain, args=(lane,)) for lane in range(2)),
        ]
        for thread in threads:
            thread.start()
        try:
            self.wait(pause)
            for number in numbers:
                before = self.told["LayoutMismatch"]
                change(self.stack, self.number, number)
                # Who restarts before the new number is deployed is told.
                self.wait_for(lambda before=before: self.told["LayoutMismatch"] > before)
                self.number = number
                self.wait(pause)
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()

    def wait(self, pause: float) -> None:
        """For some appends and reads more, and at least so many seconds."""
        time.sleep(pause)
        appends, reads = self.done["appends"] + 20, self.done["reads"] + 20
        self.wait_for(lambda: self.done["appends"] >= appends and self.done["reads"] >= reads)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not condition() and not self.wrong and time.monotonic() < end:
            time.sleep(0.05)
        assert condition(), (self.told, self.wrong)

    def judge(self) -> None:
        assert not self.wrong
        assert "LayoutMismatch" in self.told
        assert set(self.told) <= {"Repartitioning", "LayoutMismatch"}
        with self.stack.cache(partitions=self.number) as cache:
            cache.flush()
            assert not judge(calls(self.directory), in_store(self.stack.database_url))
            assert not counts_that_differ(self.stack.database_url)
            read = {}
            for key in self.keys:
                session = cache.get(key)
                read[session.session_id] = [Stored(one.seq, one.id, digest(one.data)) for one in session.messages()]
        assert not judge(calls(self.directory), read)


@THE_OTHER_LATER
def test_servers_and_workers_go_on(some_stack, tmp_path):
    """500 sessions, 64 to 96 to 7 partitions, with four writers, two readers and two workers."""
    fleet = Fleet(some_stack, tmp_path, [f"chat:{n}" for n in range(500)], 64)
    fleet.set_up()
    fleet.run([96, 7], 0.2)
    fleet.judge()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_servers_and_workers_go_on_over_10_000_sessions(some_stack, tmp_path):
    """The same with 10,000 sessions."""
    fleet = Fleet(some_stack, tmp_path, [f"chat:{n}" for n in range(10_000)], 64)
    fleet.set_up()
    fleet.run([96, 7], 2.0)
    fleet.judge()
