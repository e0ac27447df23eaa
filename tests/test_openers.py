"""Fifty processes at one moment open one key, or one session that is due: one session, one row, one reset."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing import get_context

import pytest
from conftest import THE_OTHER_LATER
from sqlalchemy import create_engine, text, update

from sessioncache import Session, SessionCache, SessionExists
from sessioncache.config import Settings
from sessioncache.message import milliseconds
from sessioncache.process import end_with_parent
from sessioncache.schema import sessions

KEY = "telegram:dm:42"
OPENERS = 50


@contextmanager
def light_processes(count: int):
    """Processes forked from one that has imported everything, and nothing else."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["pytest", "sessioncache", "psycopg", "aiosqlite", "sqlalchemy.dialects.sqlite"])
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        yield pool


def open_at(settings: Settings, how: str, at: float) -> tuple[str, bool, str | None, bool]:
    """Be a server that was just started, and open the key at that time: the session id, and what was told of a reset."""
    end_with_parent(os.getppid())
    with SessionCache(settings=settings) as cache:
        time.sleep(max(0.0, at - time.time()))
        try:
            session = cache.create(KEY, session_id="given") if how == "create" else getattr(cache, how)(KEY)
        except SessionExists:
            return ("", False, None, False)
        return (session.session_id, session.was_reset, session.reset_reason, session.had_activity)


# As many processes on few processors take their time.
PATIENT = {
    "hydration_timeout": 60.0, "redis_timeout": 20.0, "timeout": 60.0,
    "database_timeout": 40.0, "lease": 50.0, "visibility": 60.0,
}  # fmt: skip


def all_open(settings: Settings, how: str, at: float, count: int = OPENERS) -> list[tuple]:
    """What each was told."""
    with light_processes(count) as pool:
        work = partial(open_at, settings, how)
        return list(pool.map(work, [at] * count))


def rows(stack) -> list[tuple]:
    """The sessions in SQL: id, whether it ended, and why."""
    with stack.cache() as cache:
        cache.flush()
    engine = create_engine(stack.database_url)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT session_id, ended_at, end_reason FROM sessions ORDER BY created_at")).all()
    engine.dispose()
    return [(row[0], row[1] is not None, row[2]) for row in found]


@THE_OTHER_LATER
@pytest.mark.parametrize("how", ["open", "ensure"])
def test_fifty_processes_open_one_new_key(some_stack, how):
    """One session id, one row; nobody was told of a reset."""
    found = all_open(some_stack.settings(**PATIENT), how, time.time() + 2)
    (told,) = set(found)
    assert told[1:] == (False, None, False)
    assert rows(some_stack) == [(told[0], False, None)]


def make_due(cache: SessionCache, session: Session, reason: str) -> None:
    """Suspend the session, or let its last activity have been an hour ago, in either tier."""
    if reason == "suspended":
        session.update(suspended=True)
        cache.flush()
        return
    cache.flush()
    connections = cache._connections
    before = datetime.now(UTC) - timedelta(hours=1)
    with connections.driver.engine.begin() as connection:
        connection.execute(update(sessions).values(updated_at=before))
    connections.driver.hot.hset(connections.state.keyspace.of(KEY).meta, "updated_ms", milliseconds(before))


@THE_OTHER_LATER
@pytest.mark.parametrize("hot", [True, False])
@pytest.mark.parametrize("reason", ["idle", "suspended"])
def test_fifty_processes_open_a_session_that_is_due(some_stack, reason, hot):
    """Exactly one resets it and learns why; all get the new one."""
    policy = {"default": {"mode": "idle", "idle_minutes": 10}}
    with SessionCache.from_url(some_stack.redis_url, some_stack.database_url, reset=policy, hold=0.05, **PATIENT) as cache:
        session = cache.open(KEY)
        session.append({"content": "old"})
        make_due(cache, session, reason)
        if not hot:
            cache.evict(KEY)
        found = all_open(cache.settings, "open", time.time() + 2)
    (current,) = {told[0] for told in found}
    assert current != session.session_id
    assert [told[1:] for told in found if told[1]] == [(True, reason, True)]
    assert rows(some_stack) == [(session.session_id, True, "session_reset"), (current, False, None)]


@THE_OTHER_LATER
def test_ten_processes_create_one_id(some_stack):
    """One of them has created it; to the others it exists."""
    found = all_open(some_stack.settings(**PATIENT), "create", time.time() + 2, 10)
    assert rows(some_stack) == [("given", False, None)]
    assert sorted(told[0] for told in found) == [""] * 9 + ["given"]
