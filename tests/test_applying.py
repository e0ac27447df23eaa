"""Applying logs to a store: in bulk, where what is new stands among what is known, and as many statements for any batch."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from sqlalchemy import event, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine

from sessioncache import info
from sessioncache import op as ops
from sessioncache.addresses import database_url
from sessioncache.borders import translate
from sessioncache.errors import StoreRefused
from sessioncache.message import encode
from sessioncache.schema import messages, routes, sessions
from sessioncache.store.apply import apply
from sessioncache.store.engine import prepared
from sessioncache.store.plan import MOVED
from sessioncache.store.planned import Log

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PACKED = encode({"role": "user", "content": "hello there"}, 10**6)


def op_of(version, kind, session_id="s", name="", payload=b"", left=0):
    """An op as it is read from a log; the same name makes the same op id."""
    op_id = (name or f"op-{version}").ljust(16, "_").encode()
    return ops.parse(b"%d %b %d 1790000000%03d %b %b\n%b" % (
        version, op_id, left, version % 1000, kind.encode(), session_id.encode(), payload,
    ))  # fmt: skip


def begins(version, session_id="s"):
    return op_of(version, ops.START, session_id, payload=b"0" + info.packed({}))


def said(version, message_id, session_id="s"):
    return op_of(version, ops.APPEND, session_id, message_id, message_id.encode() + b"\n" + PACKED)


def done(store, *logs, reason=""):
    """What became of the logs of these keys, each a key and its ops."""
    with store.begin() as connection:
        return apply(connection, [Log(key, log) for key, log in logs], NOW, reason)


def stored(store, session_id="s"):
    wanted = (
        select(messages.c.seq, messages.c.message_id).where(messages.c.session_id == session_id).order_by(messages.c.seq)
    )
    with store.connect() as connection:
        return [tuple(row) for row in connection.execute(wanted)]


def test_a_repeat_among_what_is_new(store):
    """A log that begins after the key's version holds a message that stands: it is a repeat, and all others are stored."""
    done(store, ("k", [begins(1), said(2, "a"), said(3, "b")]), ("l", [begins(1, "t")]))
    found = done(store, ("k", [said(4, "c"), said(5, "b"), said(6, "d")]), ("l", [said(2, "e", "t")]))
    assert [(one.repeats, one.drop, one.version, len(one.applied)) for one in found] == [(1, True, 6, 3), (0, False, 2, 1)]
    assert stored(store) == [(2, "a"), (3, "b"), (4, "c"), (6, "d")]
    assert stored(store, "t") == [(2, "e")]
    with store.connect() as connection:
        assert connection.execute(select(sessions.c.message_count).order_by(sessions.c.session_id)).scalars().all() == [
            4,
            1,
        ]


def test_a_log_delivered_again(store):
    """Whole, or with more behind it."""
    log = [begins(1), said(2, "a"), said(3, "b")]
    done(store, ("k", log))
    (found,) = done(store, ("k", [*log, said(4, "c")]))
    assert (found.repeats, found.drop, found.version) == (3, False, 4)
    assert stored(store) == [(2, "a"), (3, "b"), (4, "c")]


def test_a_repeat_of_what_goes_before_it(store):
    """The message stands, goes in the same log, and does not come back."""
    done(store, ("k", [begins(1), said(2, "a")]))
    (found,) = done(store, ("k", [op_of(3, ops.CLEAR, payload=b"0"), said(4, "a"), said(5, "b")]))
    assert (found.repeats, stored(store)) == (1, [(5, "b")])


def test_a_repeat_of_what_went(store):
    """A message that was removed is remembered among the ops."""
    done(store, ("k", [begins(1), said(2, "a"), op_of(3, ops.REMOVE, payload=b"a")]))
    (found,) = done(store, ("k", [said(4, "a"), said(5, "b")]))
    assert (found.repeats, stored(store)) == (1, [(5, "b")])


def test_updates_of_many_sessions(store):
    """Each gets its own, whatever the others change."""
    changes = {
        "a": [
            {"add": {"input_tokens": 1}, "metadata": {"x": 1, "y": None}},
            {"add": {"input_tokens": 2}, "metadata": {"z": [2]}},
        ],
        "b": [{"add": {"input_tokens": 5}}],
        "c": [{"set": {"title": "t", "important": True, "origin": {"o": 1}}}],
        "d": [{"set": {"input_tokens": 9}}, {"add": {"output_tokens": 7}}],
        "e": [{"metadata": {"x": 1}}, {"metadata": {"x": None}}],
    }
    logs = []
    for name, payloads in changes.items():
        told = [op_of(2 + n, ops.UPDATE, name, payload=b"1" + info.packed(one)) for n, one in enumerate(payloads)]
        logs.append((name, [begins(1, name), *told]))
    done(store, *logs)
    more = b"1" + info.packed({"add": {"input_tokens": 40}})
    done(store, *((name, [op_of(9, ops.UPDATE, name, payload=more)]) for name in ("a", "c")))
    column = sessions.c
    names = ("input_tokens", "output_tokens", "title", "important", "origin", "metadata")
    with store.connect() as connection:
        found = connection.execute(select(*(column[name] for name in names)).order_by(column.session_id)).all()
    assert [tuple(row) for row in found] == [
        (43, 0, None, False, None, {"x": 1, "z": [2]}),
        (5, 0, None, False, None, None),
        (40, 0, "t", True, {"o": 1}, None),
        (9, 7, None, False, None, None),
        (0, 0, None, False, None, {}),
    ]


def test_what_was_refused_is_refused_again(store):
    """As long as it is delivered; it is counted and remembered once."""
    done(store, ("k", [begins(1), said(2, "a")]))
    log = [said(3, "b"), said(4, "c")]
    (first,) = done(store, ("k", log), reason="23514")
    (again,) = done(store, ("k", [*log, said(5, "d")]))
    assert first.refused == [(one.name, "23514") for one in log]
    assert first.set_aside == {"23514": 2}
    assert [name for name, _ in again.refused] == [one.name for one in log]
    assert (again.set_aside, stored(store)) == ({}, [(2, "a"), (5, "d")])


def test_a_repeat_under_a_key_that_its_session_has_left(store):
    """It was stored: it is a repeat, and no dead letter; what is new there is."""
    done(store, ("k", [begins(1), said(2, "a")]))
    with store.begin() as connection:
        connection.execute(update(sessions).values(session_key="other"))
        connection.execute(update(routes).values(version=0))  # as a store that came back older than this row may say
    (found,) = done(store, ("k", [said(2, "a"), said(3, "b")]))
    assert (found.repeats, found.set_aside, found.refused) == (1, {MOVED: 1}, [(said(3, "b").name, MOVED)])


def test_a_seq_that_is_taken_raises(store):
    """It would be a bug: nothing of the batch is stored, the error is that for what the store refuses, and it goes on."""
    done(store, ("k", [begins(1), said(2, "a")]), ("l", [begins(1, "t")]))
    with store.begin() as connection:
        connection.execute(update(messages).values(seq=4))
    with pytest.raises(IntegrityError) as refused:
        done(store, ("l", [said(2, "d", "t")]), ("k", [said(3, "b"), said(4, "c")]))
    assert translate(refused.value, of_store=True).reason in {"23505", "SQLITE_CONSTRAINT_UNIQUE"}
    assert (stored(store), stored(store, "t")) == ([(4, "a")], [])
    done(store, ("k", [said(5, "e")]))
    assert stored(store) == [(4, "a"), (5, "e")]


def test_what_cannot_be_read_among_what_can(store):
    """It is refused while others are on their way; nothing of the batch is stored, and the connection serves again."""
    done(store, ("k", [begins(1)]))
    bad = op_of(3, ops.APPEND, name="b", payload=b"b\n\xc1")
    with pytest.raises(StoreRefused, match="cannot be read"):
        done(store, ("k", [said(2, "a"), bad]))
    assert stored(store) == []
    done(store, ("k", [said(2, "a")]))
    assert stored(store) == [(2, "a")]


def test_the_same_by_awaiting(store):
    """What is stored, what raises, and that the connection serves again."""

    async def applied(engine, *ops_):
        async with engine.begin() as connection:
            return await connection.run_sync(apply, [Log("k", ops_)], NOW)

    async def run():
        engine = create_async_engine(database_url(store.url.render_as_string(hide_password=False), awaiting=True))
        prepared(engine.sync_engine)
        try:
            await applied(engine, begins(1), said(2, "a"))
            (found,) = await applied(engine, said(2, "a"), said(3, "b"))
            assert (found.repeats, found.version) == (1, 3)
            async with engine.begin() as connection:
                await connection.execute(update(messages).where(messages.c.message_id == "a").values(seq=4))
            with pytest.raises(IntegrityError):
                await applied(engine, said(4, "c"))
            await applied(engine, said(5, "d"))
        finally:
            await engine.dispose()

    asyncio.run(run())
    assert stored(store) == [(3, "b"), (4, "a"), (5, "d")]


@contextmanager
def statements(store):
    """The statements that are sent meanwhile; what is executed for many rows at once is one."""
    seen: list[str] = []

    def see(_connection, _cursor, statement, *_):
        seen.append(statement.split()[0])

    event.listen(store, "before_cursor_execute", see)
    try:
        yield seen
    finally:
        event.remove(store, "before_cursor_execute", see)


def test_a_batch_is_as_many_statements_however_many_ops_and_sessions_it_has(store):
    """1,000 ops of one session, or of 200, are written by those that write one; so are updates that change the same."""
    used, told = [], b"1" + info.packed({"add": {"input_tokens": 1}, "metadata": {"a": 1}})
    for turn, (keys, each) in enumerate([(1, 1), (1, 1000), (200, 5)]):
        names = [f"{turn}-{n}" for n in range(keys)]
        done(store, *((name, [begins(1, name)]) for name in names))
        with statements(store) as seen:
            logs = {name: [said(2 + n, f"m{n}", name) for n in range(each)] for name in names}
            done(store, *((name, [*log, op_of(2 + each, ops.UPDATE, name, payload=told)]) for name, log in logs.items()))
        used.append(Counter(seen))
    assert used[0] == used[1] == used[2]
    assert sum(used[0].values()) <= 12
