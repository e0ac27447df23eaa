"""A stream that began before a reset goes on appending after it: never in the new session (I6)."""

from __future__ import annotations

from contextlib import suppress

import pytest
from children import processes

from sessioncache import SessionCache, SessionMoved
from sessioncache.config import Settings

KEY = "telegram:dm:42"
OLD = [{"content": "question"}, {"content": "token 0"}, {"content": "token 1"}]
NEW = [{"content": "fresh"}, {"content": "again"}]


def read_both(settings: Settings, session_id: str) -> tuple[list[dict], list[dict], list[str]]:
    """As a server that never saw either: the session of this id, the current one, and the ids of the key's sessions."""
    with SessionCache(settings=settings) as cache:
        past = [one.session_id for one in cache.past(KEY)]
        return cache.read(session_id).data(), cache.get(KEY).history(), sorted(past)


@pytest.fixture(scope="module")
def pool():
    """Another process."""
    with processes(1) as pool:
        yield pool


WAYS = {
    "reset": lambda _, session: session.reset(),
    "opened when suspended": lambda cache, session: (session.update(suspended=True), cache.open(KEY))[1],
    "switched": lambda cache, session: session.switch(cache.fork(session.session_id, "other", through=0).session_id),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("hot", [True, False])
def test_a_stream_that_began_before_a_reset(some_stack, pool, way, flushed, hot):
    """Each of its messages is refused and says what is current; the old session is still read by its id, by anybody."""
    calls = {
        "append": lambda late, n: late.append({"content": f"token {n}"}),
        "append with an id": lambda late, n: late.append({"content": f"token {n}"}, id=f"token-{n}"),
        "usage": lambda late, _: late.record_usage(output_tokens=1),
        "event": lambda late, _: late.append({"content": "tool"}, activity=False),
    }
    with some_stack.cache() as streaming, some_stack.cache() as server:

        def between() -> None:
            if flushed:
                server.flush()
            if not hot:
                server.evict(KEY)

        stream = streaming.open(KEY)
        stream.append(OLD[:2])
        (first,) = stream.append(OLD[2], id="token-1")
        between()
        fresh = WAYS[way](server, server.get(KEY))
        fresh.append(NEW[0])
        between()
        for n in range(2, 7):
            for name, call in calls.items():
                with pytest.raises(SessionMoved) as moved:
                    call(stream, n)
                assert (moved.value.session_id, moved.value.current) == (stream.session_id, fresh.session_id), name
            with suppress(SessionMoved):  # while it is remembered, a repeat is answered as it was first
                (again,) = stream.append(OLD[2], id="token-1")
                assert (again.seq, again.id, again.data) == (first.seq, first.id, first.data)
            between()
        fresh.append(NEW[1])
        between()
        old, new, past = pool.submit(read_both, some_stack.settings(), stream.session_id).result()
        assert (old, new) == (OLD, NEW)
        assert past == sorted([stream.session_id, fresh.session_id])
        assert streaming.read(stream.session_id).data() == OLD
        with pytest.raises(SessionMoved):
            stream.history()
        assert streaming.get(KEY).history() == NEW
        server.flush()
        server.evict(KEY)
        assert pool.submit(read_both, some_stack.settings(), stream.session_id).result()[:2] == (OLD, NEW)
        assert server.stats().dead == 0
