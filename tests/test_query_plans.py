"""How the databases answer what is asked of sessions in bulk: by index, whatever the size of the store.

The statements are those that the library sends, taken down as it sends them and explained by the database.
"""

from __future__ import annotations

import random
import re
from datetime import timedelta
from functools import partial

import pytest
from rows import NOON
from sqlalchemy import event, insert, text

from sessioncache.op import Op
from sessioncache.schema import applied_ops, messages, routes, sessions
from sessioncache.store import candidates
from sessioncache.store.find import Filters, count, has_any, listed, one
from sessioncache.store.known import know
from sessioncache.store.load import older, recent_ops, snapshot
from sessioncache.store.place import owned, place
from sessioncache.store.planned import Standing
from sessioncache.store.previews import previews
from sessioncache.store.search import search

SESSIONS = 20_000
DEEP = NOON + timedelta(seconds=7000), "s7000"
BEFORE = NOON + timedelta(seconds=15_000)
AFTER = NOON + timedelta(seconds=1000), "s1000"
EVERY = ("live", "archived", "ended")

KEYS, OWNERS, ACTIVITY = "sessions_by_key", "sessions_by_owner", "sessions_by_activity"
LOGGED = [Op(n, "x" * 16, 0, 0, ("append", "touch")[n % 2], f"s{n}", b"", ("m", "")[n % 2]) for n in range(1000)]
# What is asked, the indexes that answer it, and whether a sort of what they found is due.
HYDRATION = {"window": 10_000, "window_bytes": 2**24, "keep_ops": 64, "partitions": 64}
QUESTIONS = {
    "the first page": (partial(listed, filters=Filters(), limit=50), {ACTIVITY}, False),
    "a deep page": (partial(listed, filters=Filters(), limit=50, after=DEEP), {ACTIVITY}, False),
    "since": (partial(listed, filters=Filters(active_since=AFTER[0]), limit=50, after=DEEP), {ACTIVITY}, False),
    "of a platform": (partial(listed, filters=Filters(platform="p1"), limit=50, after=DEEP), {ACTIVITY}, False),
    "several states": (partial(listed, filters=Filters(states=EVERY), limit=50, after=DEEP), {ACTIVITY}, True),
    "of an owner": (partial(listed, filters=Filters(owner="o7"), limit=50), {OWNERS}, False),
    "of an owner, deep": (partial(listed, filters=Filters(owner="o7"), limit=50, after=DEEP), {OWNERS}, False),
    "of an owner, all": (partial(listed, filters=Filters(owner="o7", states=EVERY), limit=50), {OWNERS}, True),
    "of a key": (partial(listed, filters=Filters(session_key="agent:chat:77"), limit=50), {KEYS}, True),
    "of a prefix": (partial(listed, filters=Filters(key_prefix="agent:chat:77"), limit=50, after=DEEP), {KEYS}, True),
    "how many of an owner": (partial(count, filters=Filters(owner="o7", states=EVERY)), {OWNERS}, False),
    "how many of a prefix": (partial(count, filters=Filters(key_prefix="agent:chat:77")), {KEYS}, False),
    "any of an owner": (partial(has_any, owner="o7", besides="s7"), {OWNERS}, True),
    "any": (partial(has_any, owner=None, besides="s7"), {ACTIVITY}, True),
    "one": (partial(one, session_id="s7"), {"sessions_pkey"}, False),
    "previews": (partial(previews, session_ids=[f"s{n}" for n in range(20)]), {"sessions_pkey", "messages_pkey"}, True),
    "search": (partial(search, query="w77 w9", owner=None, limit=20), {"messages_by_words", "sessions_by_words"}, True),
    "a phrase": (partial(search, query="w77-w9", owner=None, limit=20), {"messages_by_words", "sessions_by_words"}, True),
    "search of an owner": (partial(search, query="w77 w9", owner="o7", limit=20), {"messages_by_words"}, True),
    "empty": (partial(candidates.empty, before=BEFORE, limit=50, after=AFTER), {"sessions_empty"}, False),
    "old": (partial(candidates.old, before=BEFORE, limit=50, after=AFTER), {ACTIVITY}, False),
    "idle": (partial(candidates.idle, before=BEFORE, limit=50, after=AFTER), {ACTIVITY}, True),
    "ended": (partial(candidates.ended, before=BEFORE, limit=50, after=AFTER), {"sessions_ended"}, False),
    "untold": (partial(candidates.untold, before=BEFORE, limit=50, after=AFTER), {"sessions_untold"}, False),
    "an unknown key": (partial(snapshot, session_key="nobody", **HYDRATION), {"routes_pkey"}, False),
    "a known key": (
        partial(snapshot, session_key="agent:chat:77", **HYDRATION),
        {"routes_pkey", "sessions_pkey", "messages_pkey", KEYS, "applied_ops_by_key"},
        True,
    ),
    "a page of messages": (partial(older, session_id="s7", before=9, limit=50), {"messages_pkey"}, False),
    "where a session stands": (partial(place, session_id="s7"), {"sessions_pkey"}, False),
    "all of an owner": (partial(owned, owner="o7"), {OWNERS}, False),
    "known ops": (
        partial(know, log=LOGGED, standing=Standing({}, {}, set(), set())), {"messages_by_id", "applied_ops_pkey"}, False
    ),
    "ops": (partial(recent_ops, session_key="agent:chat:77", version=5, keep=64), {KEYS, "applied_ops_by_key"}, True),
}  # fmt: skip
CONSTRAINTS = {"sessions_pkey", "routes_pkey", "messages_pkey", "messages_by_id", "applied_ops_pkey"}
# What SQLite calls them; its search has tables in place of indexes.
SQLITE = {
    "sessions_pkey": "sqlite_autoindex_sessions_1",
    "routes_pkey": "sqlite_autoindex_routes_1",
    "messages_pkey": "sqlite_autoindex_messages_1",
    "messages_by_id": "sqlite_autoindex_messages_2",
    "applied_ops_pkey": "sqlite_autoindex_applied_ops_1",
    "messages_by_words": "messages_search VIRTUAL TABLE INDEX",
    "sessions_by_words": "sessions_search VIRTUAL TABLE INDEX",
}


@pytest.fixture
def full_store(store):
    """20,000 sessions of 10 owners, with a message each, and some ops."""
    choose = random.Random(1)
    with store.begin() as connection:
        connection.execute(insert(sessions), [_session(n) for n in range(SESSIONS)])
        connection.execute(insert(messages), [_message(n, choose) for n in range(SESSIONS)])
        ops = [{"session_id": f"s{n}", "session_key": f"agent:chat:{n}", "op_id": "o" * 16} for n in range(5000)]
        connection.execute(insert(applied_ops).values(version=1, applied_at=NOON), ops)
        keys = [{"session_key": f"agent:chat:{n}", "session_id": f"s{n}", "version": 1} for n in range(SESSIONS)]
        connection.execute(insert(routes), keys)
    return store


def _session(n):
    at = NOON + timedelta(seconds=n)
    return {
        "session_id": f"s{n}", "session_key": f"agent:chat:{n}", "owner": f"o{n // 7 % 10}", "platform": f"p{n % 3}",
        "title": f"w{n % 500} title" if n % 4 == 0 else None, "message_count": int(n % 50 != 0), "told": n % 7 != 0,
        "archived": n % 5 == 3, "important": n % 11 == 0, "suspended": n % 13 == 0, "deleted": n % 97 == 0,
        "ended_at": at if n % 5 == 4 else None, "created_at": at, "updated_at": at, "last_accessed": at,
    }  # fmt: skip


def _message(n, choose):
    said = " ".join(f"w{choose.randrange(2000)}" for _ in range(10))
    return {
        "session_id": f"s{n}", "seq": 1, "message_id": "m", "role": "user", "body": "{}", "text": said, "created_at": NOON,
    }  # fmt: skip


def plan_of(connection, question):
    """What the database is going to do about each statement of a question."""
    sent = []

    def note(_connection, _cursor, statement, parameters, *_rest):
        sent.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", note)
    question(connection)
    event.remove(connection, "before_cursor_execute", note)
    if connection.dialect.name == "sqlite":
        return "\n".join(
            row.detail for one in sent for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {one[0]}", one[1])
        )
    return "\n".join(
        row[0] for one in sent for row in connection.exec_driver_sql(f"EXPLAIN (FORMAT TEXT) {one[0]}", one[1])
    )


def check(dialect, name, plan):
    """Every table is read by index, by these, but the one row of layout, and nothing is sorted that needs not be."""
    _, indexes, sorts = QUESTIONS[name]
    shown = f"{name}:\n{plan}"
    if dialect == "sqlite":
        scanned = re.findall(r"SCAN (?:sessions|messages|applied_ops|routes|s|m)(?:_\d)?\b(?! VIRTUAL).*", plan)
        wanted = {SQLITE.get(index, index) for index in indexes}
        sorted_ = "USE TEMP B-TREE" in plan
    else:
        scanned, wanted, sorted_ = re.findall("Seq Scan on (?!layout ).*", plan), indexes, re.search(r"\bSort\b", plan)
    assert not scanned, shown
    assert not {index for index in wanted if index not in plan}, shown
    assert sorts or not sorted_, shown


def check_all(connection):
    for name, (question, _, _) in QUESTIONS.items():
        check(connection.dialect.name, name, plan_of(connection, question))


@pytest.mark.parametrize("store", ["sqlite", "postgres18-utf8"], indirect=True)
def test_every_question_is_answered_by_index(full_store):
    """In PostgreSQL with its statistics, in SQLite, which usually has none, with and without."""
    with full_store.connect() as connection:
        if full_store.dialect.name == "sqlite":
            check_all(connection)
        connection.execute(text("ANALYZE"))
        check_all(connection)


@pytest.mark.parametrize("store", ["sqlite", "postgres18-utf8"], indirect=True)
def test_a_missing_index_is_noticed(full_store):
    """So the test above tests something."""
    dropped = {index for _, indexes, _ in QUESTIONS.values() for index in indexes if index not in CONSTRAINTS}
    with full_store.connect() as connection:
        connection.execute(text("ANALYZE"))
        connection.commit()
        for index in sorted(dropped - (set(SQLITE) if full_store.dialect.name == "sqlite" else set())):
            connection.execute(text(f"DROP INDEX {index}"))
            name = next(name for name, (_, indexes, _) in QUESTIONS.items() if index in indexes)
            plan = plan_of(connection, QUESTIONS[name][0])
            with pytest.raises(AssertionError, match=f"{name}:"):
                check(full_store.dialect.name, name, plan)
            connection.rollback()
