"""Point 4: any key with a TTL may vanish at any instant (I1); reads are whole (I5) and see what was written (I4)."""

from __future__ import annotations

import random
import shutil
import subprocess

import pytest
from children import history, processes
from conftest import missing

KEY = "telegram:dm:42"


def volatile(raw):
    """Every Redis key that has a TTL."""
    return [name for name in raw.scan_iter("*") if raw.pttl(name) != -1]


def kinds(names):
    return {name.split(b":")[2].decode() for name in names}


def delete_one_by_one(raw):
    for name in volatile(raw):
        raw.delete(name)


def delete_all_at_once(raw):
    raw.delete(*volatile(raw))


def delete_only(kind):
    def delete(raw):
        names = [name for name in volatile(raw) if f":{kind}:".encode() in name]
        assert names
        raw.delete(*names)

    return delete


def delete_with_redis_cli(raw):
    """As an operator would."""
    cli = shutil.which("redis-cli") or missing("redis-cli")
    path = raw.connection_pool.connection_kwargs["path"]
    names = [name.decode() for name in volatile(raw)]
    done = subprocess.run([cli, "-s", path, "DEL", *names], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(len(names))


WAYS = {
    "one by one": delete_one_by_one,
    "all at once": delete_all_at_once,
    "the history alone": delete_only("history"),
    "the meta alone": delete_only("meta"),
    "redis-cli": delete_with_redis_cli,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("flushed", ["nothing", "a part", "all"])
def test_what_has_a_ttl_may_vanish(stack, way, flushed):
    """Unflushed, partly flushed or flushed: the next read is complete, and writes go on in order. Workers are stopped."""
    with stack.cache(window=50) as cache, stack.raw() as raw:
        session = cache.open(KEY, owner="alice")
        sent = [{"content": str(n)} for n in range(30)]
        session.append(sent[:20])
        if flushed != "nothing":
            cache.flush()
        if flushed != "all":
            session.append(sent[20:])
        else:
            sent = sent[:20]
        assert kinds(volatile(raw)) >= {"meta", "history"}
        WAYS[way](raw)
        with stack.cache(window=50) as other:
            assert other.get(KEY, owner="alice").history() == sent
        session.append({"content": "more"})
        WAYS[way](raw)
        assert session.history() == [*sent, {"content": "more"}]
        cache.flush()
        WAYS[way](raw) if way in {"one by one", "all at once"} else None
        assert session.history() == [*sent, {"content": "more"}]


def test_another_process_reads_it_whole(some_stack):
    """The next read comes from a process that never saw the session."""
    with some_stack.cache() as cache, some_stack.raw() as raw, processes(1) as pool:
        session = cache.open(KEY)
        sent = [{"content": str(n)} for n in range(25)]
        session.append(sent[:10])
        cache.flush()
        session.append(sent[10:])
        delete_all_at_once(raw)
        assert pool.submit(history, some_stack.settings(), KEY).result() == sent


def test_an_append_to_an_expired_session_is_no_history_of_one(stack):
    """A partial hot copy is never taken for the whole (I5)."""
    with stack.cache() as cache, stack.raw() as raw:
        session = cache.open(KEY)
        session.append([{"content": str(n)} for n in range(5)])
        for kind in ("history", "meta"):
            delete_only(kind)(raw)
            session.append({"content": f"after {kind}"})
            assert len(session.history()) == len(session.messages()) >= 6
        (name,) = raw.scan_iter("*:history:*")
        raw.rpop(name)
        assert len(cache.get(KEY).history()) == 7


def test_random_deletion_between_random_calls(stack):
    """Whatever vanishes whenever: a list in memory agrees."""
    chance = random.Random(stack.name)
    with stack.cache(window=8, near_sessions=2) as one, stack.cache(window=8) as two, stack.raw() as raw:
        model: dict[str, list] = {key: [] for key in "abc"}
        sessions = {key: [cache.open(key) for cache in (one, two)] for key in model}
        for step in range(400):
            key = chance.choice("abc")
            session = chance.choice(sessions[key])
            match chance.randrange(6):
                case 0 | 1:
                    batch = [{"content": f"{step}.{n}"} for n in range(chance.randrange(1, 5))]
                    session.append(batch)
                    model[key] += batch
                case 2 | 3:
                    assert session.history() == model[key]
                case 4:
                    for name in volatile(raw):
                        if chance.random() < 0.5:
                            raw.delete(name)
                case 5:
                    chance.choice((one.flush, lambda: one.flush(key), lambda: two.evict(key)))()  # noqa: B023
        one.flush()
        assert {key: two.get(key).history() for key in model} == model


def test_hot_copies_expire_together_with_jitter(stack):
    """`history` and `meta` have the same TTL, refreshed by reads and writes, and not all sessions the same."""
    apart = 100 if stack.name.startswith("redis") else 0  # in a script time stands still, but not before Redis 7.2
    with stack.cache(ttl=100.0) as cache, stack.raw() as raw:
        ttls = []
        for n in range(20):
            session = cache.open(f"k{n}")
            session.append({"content": "a"})
            keys = cache._state.keyspace.of(f"k{n}")
            raw.pexpire(keys.meta, 5000)
            raw.pexpire(keys.history, 5000)
            session.history()
            both = "return {redis.call('PTTL', KEYS[1]), redis.call('PTTL', KEYS[2])}"
            one, other = raw.eval(both, 2, keys.meta, keys.history)
            assert abs(one - other) <= apart
            ttls.append(one)
            assert raw.ttl(keys.pending) == -1
        assert all(80_000 < ttl < 110_001 for ttl in ttls)
        assert len({ttl // 500 for ttl in ttls}) > 5
