"""Workers may die at any instruction, run twice, or go on when nobody expects them any more: it changes nothing.

A drain is driven by hand. *Dies*: nothing comes after that request. *A zombie*: it stands still after that request while
others do the same work, and more, and then goes on to its end. The rest is processes.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import opponent
import pytest
from fleet import born, children
from servers import python
from sqlalchemy import create_engine, text
from test_workers import fill, order, until, workers

from sessioncache import SessionCache, SessionNotFound, write_behind
from sessioncache.config import Settings, as_environment

FEW = {"partitions": 5, "lanes": 1, "linger": 0.02, "batch": 7, "visibility": 8.5}
KEYS = [f"k{n}" for n in range(3)]
MOST = 80


def emptied(stack) -> None:
    with stack.raw() as raw:
        raw.flushall()
    with stack.cache(**FEW) as cache:
        cache.stats()  # sets an empty file up
    engine = create_engine(stack.database_url)
    with engine.begin() as connection:
        for table in ("messages", "applied_ops", "sessions", "routes"):
            connection.execute(text(f"DELETE FROM {table}"))
    engine.dispose()


def say(cache: SessionCache, sent: dict[str, list[str]], name: str) -> None:
    """Two messages more in every session, one append each; several batches in all."""
    for key in KEYS:
        words = [f"{name} {key} {n}" for n in range(2)]
        for word in words:
            cache.open(key).append({"content": word})
        sent.setdefault(key, []).extend(words)


class Drain:
    """A drain job that stands still after so many requests; ``short``: it had fewer."""

    def __init__(self, cache: SessionCache, requests: int) -> None:
        self.perform = cache._connections.driver.perform
        self.flow = write_behind.drain_lane(cache._state, 0, 1, lambda: False)
        self.over = False
        self.request = next(self.flow)
        self._go_on(requests)
        self.short = self.over

    def _go_on(self, requests: int) -> None:
        try:
            for _ in range(requests):
                self.request = self.flow.send(self.perform(self.request))
        except StopIteration:
            self.over = True

    def to_the_end(self) -> None:
        if not self.over:
            self._go_on(10**6)
        assert self.over


def after_any_request(stack, then: Callable[[SessionCache, Drain, dict[str, list[str]]], None]) -> None:
    """Begin a drain, stop it after 1, 2, … requests, do that, and see that the books balance."""
    for requests in range(1, MOST):
        emptied(stack)
        sent: dict[str, list[str]] = {}
        with stack.cache(**FEW) as cache, stack.cache(**FEW) as worker:
            say(cache, sent, "early")
            drain = Drain(worker, requests)
            _killed.append(drain)  # what is collected would be closed, and could clean up
            then(cache, drain, sent)
            cache.flush()
            stats = cache.stats()
            assert (stats.dirty, stats.pending, stats.dead) == (0, 0, 0), requests
        assert order(stack) == sent, requests
        assert opponent.counts_that_differ(stack.database_url) == [], requests
        with stack.cache(**FEW) as cold:
            assert {key: [one["content"] for one in cold.get(key).history()] for key in sent} == sent, requests
        if drain.short:
            assert requests > 10
            return
    raise AssertionError("it never ended")


_killed: list[Drain] = []


def test_a_drain_that_dies_after_any_request(some_stack):
    """The next one does the rest, once the claims of the dead are over."""

    def then(cache: SessionCache, _drain: Drain, sent: dict[str, list[str]]) -> None:
        say(cache, sent, "late")

    after_any_request(some_stack, then)


@pytest.mark.parametrize("others", ["drain", "write and drop the hot copies"])
def test_a_zombie_that_goes_on_after_any_request(one_stack, others):
    """Its claims were taken by others; what it does late is a repeat, and its ack names nothing that is left."""

    def then(cache: SessionCache, drain: Drain, sent: dict[str, list[str]]) -> None:
        if others != "drain":
            for key in KEYS:
                cache.evict(key)
        if others == "drain":
            cache.flush()
        say(cache, sent, "meanwhile")
        drain.to_the_end()
        say(cache, sent, "late")

    after_any_request(one_stack, then)


def test_a_zombie_does_not_revive_what_was_deleted(one_stack):
    """A session that was deleted by others while it stood still."""

    def then(cache: SessionCache, drain: Drain, sent: dict[str, list[str]]) -> None:
        cache.delete(KEYS[0])
        drain.to_the_end()
        sent.pop(KEYS[0])
        with pytest.raises(SessionNotFound):
            cache.get(KEYS[0])

    after_any_request(one_stack, then)


@contextmanager
def plain_worker(settings: Settings) -> Iterator[subprocess.Popen]:
    """`rq worker`, which forks a work-horse for each job."""
    url = settings.redis_url
    command = ("-m", "rq.cli", "worker", "--serializer", "rq.serializers.JSONSerializer", "--quiet", "--url", url)
    process = python(*command, settings.queue, env={**os.environ, **as_environment(settings)})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("stack", ["valkey9-postgres18"], indirect=True)
def test_a_work_horse_outlives_its_worker(stack):
    """Its worker is killed while it waits in its transaction; others drain the same keys as it goes on."""
    settings = stack.settings(lanes=1, slice=1.0)
    engine = create_engine(stack.database_url)
    with stack.cache(lanes=1) as cache:
        sent = fill(cache, 10, 10)
        cache.flush()
        with engine.connect() as connection:
            connection.execute(text("SELECT * FROM routes FOR UPDATE"))
            say_to_all(cache, sent, "more")
            with plain_worker(settings) as process:
                until(lambda: waits(stack))
                (horse,) = children(process.pid)
                identity = born(horse)
            assert born(horse) == identity
            say_to_all(cache, sent, "late")
        cache.flush()
        until(lambda: born(horse) != identity)
        cache.flush()
        assert cache.stats().dead == 0
        assert order(stack) == sent
        assert {key: [one["content"] for one in cache.get(key).history()] for key in sent} == sent
    engine.dispose()
    assert opponent.counts_that_differ(stack.database_url) == []


def say_to_all(cache: SessionCache, sent: dict[str, list[str]], word: str) -> None:
    for key, words in sent.items():
        cache.get(key).append({"role": "user", "content": word})
        words.append(word)


def waits(stack) -> bool:
    """Whether anybody waits for a lock in this database."""
    engine = create_engine(stack.database_url)
    with engine.connect() as connection:
        found = connection.execute(
            text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
        ).scalar()
    engine.dispose()
    return bool(found)


@pytest.mark.long
def test_two_of_everything(one_stack):
    """Two supervisors, each with a schedule, two plain workers, and somebody who flushes, all at once."""
    settings = one_stack.settings(lanes=2, sweep=0.1, wake=0.3, slice=1.0, batch=20)
    done = threading.Event()

    def flush() -> None:
        with one_stack.cache(lanes=2) as operator:
            while not done.wait(0.05):
                operator.flush()

    flusher = threading.Thread(target=flush)
    with one_stack.cache(lanes=2) as cache, workers(settings, "--processes", "1"), workers(settings, "--processes", "1"):
        with plain_worker(settings), plain_worker(settings):
            flusher.start()
            try:
                sent = fill(cache, 20, 2)
                end = time.monotonic() + 3.0
                while time.monotonic() < end:
                    for key, words in sent.items():
                        new = [f"{key} {len(words)}", f"{key} {len(words) + 1}"]
                        cache.get(key).append([{"role": "user", "content": word} for word in new])
                        words.extend(new)
            finally:
                done.set()
                flusher.join()
        until(lambda: not cache.stats().pending)
        assert cache.stats().dead == 0
    assert order(one_stack) == sent
    assert opponent.counts_that_differ(one_stack.database_url) == []
