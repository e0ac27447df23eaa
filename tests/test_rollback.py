"""Point 8: Redis comes back older than SQL, from a snapshot, or empty."""

from __future__ import annotations

import shutil

import pytest

from sessioncache import SessionCache
from sessioncache.config import Settings

KEY = "telegram:dm:42"


def texts(session):
    return [one["content"] for one in session.history()]


@pytest.fixture
def tiers(own_server, tmp_path):
    """A Redis of one's own with snapshots, and two servers over it and an SQLite file."""
    server = own_server(dbfilename="dump.rdb")
    settings = Settings(redis_url=server.url, database_url=f"sqlite:///{tmp_path}/store.db")
    with SessionCache(settings=settings) as one, SessionCache(settings=settings) as two:
        yield server, one, two


def snapshot(server, raw):
    """Save, and keep a copy."""
    raw.save()
    shutil.copy(server.directory / "dump.rdb", server.directory / "older.rdb")


def restore(server):
    """Stop, put the earlier dump back, start."""
    server.kill()
    shutil.copy(server.directory / "older.rdb", server.directory / "dump.rdb")
    server.start()


@pytest.fixture
def raw(tiers):
    import redis

    with redis.Redis.from_url(tiers[0].url) as client:
        yield client


@pytest.mark.parametrize("pending_in_snapshot", [True, False])
def test_redis_restarts_from_an_older_snapshot(tiers, raw, pending_in_snapshot):
    """Nothing that SQL has is lost, overwritten or hidden; what is acknowledged later is kept; no ghosts."""
    server, one, two = tiers
    mine, theirs = one.open(KEY), two.open(KEY)
    mine.append([{"content": "a"}, {"content": "b"}])
    if not pending_in_snapshot:
        one.flush()
    snapshot(server, raw)
    mine.append([{"content": "c"}, {"content": "d"}])
    one.flush()
    mine.append({"content": "only in Redis"})
    assert texts(theirs) == ["a", "b", "c", "d", "only in Redis"]
    restore(server)
    assert texts(theirs) == ["a", "b", "c", "d"]
    assert texts(mine) == ["a", "b", "c", "d"]
    new = mine.append([{"content": "e"}, {"content": "f"}])
    expected = ["a", "b", "c", "d", "e", "f"]
    assert texts(mine) == texts(theirs) == expected
    assert new[0].seq > mine.messages()[3].seq
    two.flush()
    for cache in (one, two):
        cache.evict(KEY)
        assert texts(cache.get(KEY)) == expected
    assert one.stats().dead == 0


def test_versions_given_out_again_are_renumbered(tiers, raw):
    """Ops whose versions SQL has for others get new ones; nothing is overwritten; a warning and a counter say so."""
    server, one, two = tiers
    session = one.open(KEY)
    session.append({"content": "a"})
    one.flush()
    snapshot(server, raw)
    session.append([{"content": "b"}, {"content": "c"}])
    keys = one._state.keyspace.of(KEY)
    log = raw.lrange(keys.pending, 0, -1)
    restore(server)
    fresh = session.append({"content": "x"})
    raw.rpush(keys.pending, *log)
    one.flush()
    assert texts(two.get(KEY)) == ["a", "x", "b", "c"]
    assert one.stats().counters["renumbered"] == 2
    seqs = [record.seq for record in two.get(KEY).messages()]
    assert seqs == sorted(set(seqs))
    assert fresh[0].seq in seqs


def test_redis_is_emptied(tiers, raw):
    """Writers with warm handles go on; versions continue after SQL's."""
    _, one, two = tiers
    mine, theirs = one.open(KEY, owner="alice"), two.open(KEY)
    old = mine.append([{"content": "a"}, {"content": "b"}])
    assert texts(theirs) == ["a", "b"]
    one.flush()
    raw.flushall()
    new = theirs.append({"content": "c"})
    assert new[0].seq > old[-1].seq
    assert texts(mine) == texts(theirs) == ["a", "b", "c"]
    raw.flushall()
    assert texts(two.get(KEY, owner="alice")) == ["a", "b"]


def test_a_new_process_finds_an_emptied_redis(tiers, raw):
    """The layout is put back from SQL; another number of partitions is refused."""
    server, one, _ = tiers
    one.open(KEY).append({"content": "a"})
    one.flush()
    raw.flushall()
    from sessioncache import LayoutMismatch

    url = one.settings.database_url
    with SessionCache.from_url(server.url, url, partitions=8) as other, pytest.raises(LayoutMismatch, match="64"):
        other.open("k")
    assert not raw.keys("sc:*")  # of RQ there may be something: a nudge is sent behind the caller's back
    with SessionCache.from_url(server.url, url) as other:
        assert texts(other.get(KEY)) == ["a"]
    assert raw.hgetall("sc:{000}:layout") == {b"version": b"1", b"partitions": b"64"}
