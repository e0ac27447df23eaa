"""One corrupt record never blocks the others."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text


def change(stack, statement: str) -> None:
    """Do damage in SQL."""
    engine = create_engine(stack.database_url)
    with engine.begin() as connection:
        assert connection.execute(text(statement)).rowcount == 1
    engine.dispose()


def test_a_message_that_cannot_be_read(stack, caplog):
    """It is left out, warned of and counted, and keeps its place; all else goes on; an edit, or a removal, mends it."""
    with stack.cache() as cache:
        bad, good = cache.open("bad", title="Bad"), cache.open("good")
        for session in (bad, good):
            session.append([{"content": "a"}, {"content": "b"}])
        cache.flush()
        for key in ("bad", "good"):
            cache.evict(key)
        change(stack, f"UPDATE messages SET body = '{{' WHERE session_id = '{bad.session_id}' AND seq = 2")
        with caplog.at_level("WARNING", "sessioncache"):
            assert bad.history() == [{"content": "b"}]
        assert [(one.seq, one.data, one.readable) for one in bad.messages()] == [
            (2, {}, False),
            (3, {"content": "b"}, True),
        ]
        assert "message 2 cannot be read" in caplog.text
        assert cache.stats().counters["corrupt_elements"] == 1
        assert good.history() == [{"content": "a"}, {"content": "b"}]
        assert {one.info.key for one in cache.list().sessions} == {"bad", "good"}
        assert [one.seq for one in cache.read(bad.session_id)] == [2, 3]
        assert [one.seq for one in bad.iterate(page=1)] == [2, 3]
        assert bad.context() == []
        bad.append({"role": "user", "content": "c"})
        assert bad.history() == [{"content": "b"}, {"role": "user", "content": "c"}]
        assert bad.refresh().message_count == 3
        assert bad.edit(bad.messages()[0].id, {"content": "mended"})
        cache.flush()
        cache.evict("bad")
        assert bad.history() == [{"content": "mended"}, {"content": "b"}, {"role": "user", "content": "c"}]
        change(stack, f"UPDATE messages SET body = '[]' WHERE session_id = '{bad.session_id}' AND seq = 3")
        cache.evict("bad")
        assert bad.remove(bad.messages()[1].id)
        assert (len(bad.messages()), len(bad.history())) == (2, 2)


@pytest.mark.parametrize("column", ["metadata", "origin"])
def test_metadata_that_cannot_be_read(one_stack, column):
    """It counts as empty for that session alone, in lists, when it is opened, and when it is changed."""
    with one_stack.cache() as cache:
        bad = cache.open("bad", metadata={"a": 1}, origin={"b": 2}, title="Bad")
        cache.open("good", metadata={"a": 1}, origin={"b": 2})
        cache.flush()
        for key in ("bad", "good"):
            cache.evict(key)
        change(one_stack, f"UPDATE sessions SET {column} = 'nonsense' WHERE session_id = '{bad.session_id}'")
        found = {one.info.key: one.info for one in cache.list().sessions}
        assert (found["good"].metadata, found["good"].origin, found["bad"].title) == ({"a": 1}, {"b": 2}, "Bad")
        assert not getattr(found["bad"], column)
        assert not getattr(bad.refresh(), column)
        bad.update(metadata={"c": 3}, origin={"d": 4})
        cache.flush()
        cache.evict("bad")
        assert bad.refresh().metadata == ({"c": 3} if column == "metadata" else {"a": 1, "c": 3})
        assert bad.refresh().origin == {"d": 4}
