"""Point 12: bad input and wrong surroundings: each its own error with a sentence that says what to do, nothing written."""

from __future__ import annotations

import socket
import threading
import time
from collections import OrderedDict
from dataclasses import replace
from enum import StrEnum

import pytest
from sqlalchemy import create_engine, text

from sessioncache import (
    ConfigurationError,
    HotTierFull,
    HotTierUnavailable,
    InvalidKey,
    InvalidMessage,
    LayoutMismatch,
    SchemaMismatch,
    SessionCache,
    SessionCacheError,
    StoreUnavailable,
    write_behind,
)
from sessioncache.addresses import masked
from sessioncache.config import Settings, settings_from


def nested(levels: int) -> object:
    value: object = 0
    for _ in range(levels):
        value = [value]
    return value


def circle() -> dict:
    value: dict = {}
    value["again"] = value
    return value


class Word(StrEnum):
    HELLO = "hello"


UNSAYABLE = {
    "bytes": ({"content": "a", "raw": b"x"}, r"\$\.raw"),
    "NaN": ({"content": [{"value": float("nan")}]}, r"\$\.content\[0\]\.value"),
    "infinity": ({"x": [1, [float("-inf")]]}, r"\$\.x\[1\]\[0\]"),
    "lone surrogate": ({"content": "a\ud800"}, r"\$\.content"),
    "lone surrogate in a key": ({"content": "a", "x": {"\udfff": 1}}, r"\$\.x"),
    "key that is no string": ({"content": "a", "x": {1: 2}}, r"\$\.x\[1\]"),
    "integer beyond 64 bit": ({"n": 2**64}, r"\$\.n"),
    "integer below 64 bit": ({"n": -(2**63) - 1}, r"\$\.n"),
    "nesting over 100": ({"n": nested(100)}, r"\$\.n\[0\]"),
    "a circle": (circle(), r"\$\.again"),
    "tuple": ({"n": (1, 2)}, r"\$\.n"),
    "set": ({"n": {1}}, r"\$\.n"),
    "another mapping": ({"n": OrderedDict()}, r"\$\.n"),
    "another string": ({"n": Word.HELLO}, r"\$\.n"),
    "an object": ({"n": object()}, r"\$\.n"),
    "content that is a number": ({"content": 5}, r"\$\.content"),
    "content that is an object": ({"content": {"a": 1}}, r"\$\.content"),
    "no object": (["content"], "dict"),
    "a string": ("hello", "not str"),
    "nothing": (None, "not NoneType"),
    "too large": ({"content": "x" * 2000}, "max_message_bytes"),
}


@pytest.mark.parametrize("case", UNSAYABLE)
def test_a_message_that_json_cannot_say(one_stack, case):
    """Refused with the path of the offending value; nothing of the batch is written."""
    message, where = UNSAYABLE[case]
    with one_stack.cache(max_message_bytes=1000) as cache, one_stack.raw() as raw:
        session = cache.open("k")
        before = sorted(raw.scan_iter("sc:*")), raw.llen(cache._state.keyspace.of("k").pending)
        with pytest.raises(InvalidMessage, match=where):
            session.append([{"content": "good"}, message] if case not in {"a string", "nothing"} else message)
        assert (sorted(raw.scan_iter("sc:*")), raw.llen(cache._state.keyspace.of("k").pending)) == before
        assert session.history() == []


def test_what_json_can_say_comes_back(stack):
    """The edges of what is allowed, from either tier."""
    message = {
        "role": "user", "content": None, "nul": "a\x00b", "big": [2**64 - 1, -(2**63), 9007199254740993],
        "float": [1.0, 0.1, -0.0, 1e300, 5e-324], "bool": [True, False, None], "": {"": []}, "deep": nested(99),
        "text": "\u2028 👩‍👩‍👧‍👦 \U0010ffff \x7f \r\n", "z": 1, "a": 2,
    }  # fmt: skip
    with stack.cache() as cache:
        session = cache.open("k")
        session.append(message)
        for step in (lambda: None, lambda: cache.evict("k")):
            step()
            (found,) = session.history()
            assert repr(found) == repr(message)


@pytest.mark.parametrize(
    "key", ["", "x" * 513, "é" * 257, "a\nb", "a\x00", "\x7f", "a\u2028b", "\ud800", 5, None, b"k", ["a"]]
)
def test_a_bad_key(one_stack, key):
    """0 or 513 bytes, control characters, not a string: refused by every call that takes one."""
    with one_stack.cache() as cache, one_stack.raw() as raw:
        for call in (cache.open, cache.get, cache.delete, cache.evict):
            with pytest.raises(InvalidKey, match="session key"):
                call(key)
        if key is not None:
            with pytest.raises(InvalidKey):
                cache.flush(key)
        assert set(raw.scan_iter("sc:*")) <= {b"sc:{000}:layout"}


@pytest.mark.parametrize("key", ["x" * 512, "é" * 256, "a b:{c}*?[1]", "🙂", "sc:{000}:layout"])
def test_a_good_key(stack, key):
    """512 bytes, spaces, braces, patterns: a key is just a key."""
    with stack.cache() as cache:
        cache.open(key).append({"content": key})
        cache.flush()
        cache.evict(key)
        assert cache.get(key).history() == [{"content": key}]


@pytest.mark.parametrize("owner", ["", "x" * 256, "a\n", 5])
def test_a_bad_owner(one_stack, owner):
    """1 to 255 characters without control characters, in every call that takes one; an empty one is nobody's."""
    with one_stack.cache() as cache:
        cache.open("k")
        for call in (cache.open, cache.get, cache.delete):
            with pytest.raises(InvalidKey, match="owner"):
                call("k", owner=owner)
        assert cache.get("k")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("redis_url", "http://localhost"), ("redis_url", "localhost:6379"), ("redis_url", ""), ("database_url", "mysql://x/y"),
     ("database_url", "not a url"), ("queue_url", "amqp://x"), ("partitions", 0), ("partitions", 1001),
     ("partitions", "many"), ("lanes", 65), ("ttl", 0), ("ttl", -1), ("ttl_jitter", 1), ("window", 0),
     ("prefix", "a:b"), ("prefix", ""),
     ("database_timeout", 10.0), ("nonsense", 1), ("redis_url", 5), ("max_pending", None), ("window", True),
     ("ttl", float("nan")), ("timeout", float("inf")), ("visibility", 1.0), ("redis_timeout", 9.0),
     ("redis_url", "redis://localhost:abc"), ("redis_url", "redis://localhost/0?nonsense=1"),
     ("queue_url", "redis://localhost:abc"), ("database_url", "postgresql://localhost:abc/x"),
     ("partitions", float("inf")), ("partitions", 1.9)],
)  # fmt: skip
def test_a_bad_setting(setting, value):
    """Refused before any I/O; the sentence names the setting."""
    with pytest.raises(ConfigurationError) as refused:
        SessionCache.from_url(**{setting: value})
    assert setting.split("_")[0].lower() in str(refused.value).lower()


def test_settings_come_from_the_environment():
    """An argument beats a variable, which beats the default."""
    environment = {"SESSIONCACHE_TTL": "60", "SESSIONCACHE_PREFIX": "app", "OTHER": "x"}
    assert settings_from({}, environment) == Settings(ttl=60.0, prefix="app")
    assert settings_from({"prefix": "mine"}, environment) == Settings(ttl=60.0, prefix="mine")
    with pytest.raises(ConfigurationError, match="window"):
        settings_from({}, {"SESSIONCACHE_WINDOW": "ten"})


@pytest.mark.parametrize("secret", ["plain", "pa/ss", "p:w", "p@w", "p?w", "p%40w"])
@pytest.mark.parametrize(
    "form", ["redis://:{}@host:6379/0", "postgresql://user:{}@host/db", "unix:///a.sock?password={}&db=1"]
)
def test_secrets_are_masked(secret, form):
    """In what is shown of a URL."""
    assert secret not in masked(form.format(secret))
    assert "***" in masked(form.format(secret))
    assert masked("redis://host:6379/0") == "redis://host:6379/0"


def unreachable(tmp_path) -> str:
    return f"unix://{tmp_path}/nothing.sock"


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def calls(cache):
    return [lambda: cache.open("k"), lambda: cache.get("k"), lambda: cache.delete("k"), cache.flush, cache.stats]


@pytest.mark.parametrize("how", ["no socket", "refused", "silent"])
def test_redis_cannot_be_reached(tmp_path, how):
    """Its own error within the timeout, never an empty history; the database is not touched."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        urls = {
            "no socket": unreachable(tmp_path),
            "refused": f"redis://127.0.0.1:{closed_port()}",
            "silent": f"redis://:secret@127.0.0.1:{silent.getsockname()[1]}",
        }
        settings = Settings(redis_url=urls[how], database_url=f"sqlite:///{tmp_path}/a.db", redis_timeout=0.3, timeout=1.0)
        with SessionCache(settings=settings) as cache:
            for call in calls(cache):
                start = time.monotonic()
                with pytest.raises(HotTierUnavailable, match="Redis did not answer") as refused:
                    call()
                assert time.monotonic() - start < 2.5
                assert "secret" not in str(refused.value)
                assert refused.value.__cause__ is not None
    assert not (tmp_path / "a.db").exists()


def test_the_database_cannot_be_reached(one_stack):
    """Its own error within the timeout, nothing written to Redis; what is hot is still served by those who have started."""
    away = replace(
        one_stack.settings(), database_timeout=1.5, database_url=f"postgresql://u:secret@127.0.0.1:{closed_port()}/x"
    )
    with SessionCache(settings=away) as cache, one_stack.raw() as raw:
        for call in calls(cache):
            start = time.monotonic()
            with pytest.raises(StoreUnavailable, match="database") as refused:
                call()
            assert time.monotonic() - start < 6
            assert "secret" not in str(refused.value)
        assert raw.dbsize() == 0


def test_a_hot_session_is_served_while_the_database_is_away(one_stack, tmp_path):
    """Also by a server that starts meanwhile; what is not hot is an error, never empty."""
    with one_stack.cache() as cache:
        session = cache.open("k")
        session.append({"content": "a"})
        cold = cache.open("cold")
        cold.append({"content": "b"})
        cache.flush()
        cache.evict("cold")
    broken = replace(one_stack.settings(), database_url=f"sqlite:///{tmp_path}/missing/store.db")
    with SessionCache(settings=broken) as cache:
        assert cache.open("k").history() == [{"content": "a"}]
        cache.open("k").append({"content": "c"})
        with pytest.raises(StoreUnavailable):
            cache.get("cold")


@pytest.mark.parametrize(("found", "word"), [("0000", "ahead"), ("9999", "ahead"), ("behind", "behind")])
def test_a_schema_that_is_not_ours(one_stack, monkeypatch, found, word):
    """Behind: upgrade the database; ahead: upgrade the package. Nothing is written."""
    with one_stack.cache() as cache:
        cache.stats()
    engine = create_engine(one_stack.database_url)
    if found == "behind":
        monkeypatch.setattr("sessioncache.store.check.HEAD", "9000")
    else:
        with engine.begin() as connection:
            connection.execute(text(f"UPDATE sessioncache_version SET version_num = '{found}'"))
    engine.dispose()
    with one_stack.raw() as raw:
        raw.flushall()
        with one_stack.cache() as cache, pytest.raises(SchemaMismatch, match=f"is {word}.*upgrade"):
            cache.open("k")
        assert raw.dbsize() == 0


def test_a_postgres_that_was_never_set_up(empty_postgres, one_stack):
    """It is not set up behind anybody's back; the sentence names the command, and the command does it."""
    settings = replace(one_stack.settings(), database_url=empty_postgres)
    with SessionCache(settings=settings) as cache, pytest.raises(SchemaMismatch, match="sessioncache db upgrade"):
        cache.open("k")
    with one_stack.raw() as raw:
        assert raw.dbsize() == 0


def test_another_number_of_partitions(stack):
    """Refused by what stands in Redis, and by what stands in SQL."""
    with stack.cache() as cache:
        cache.open("k").append({"content": "a"})
        cache.flush()
    with stack.cache(partitions=32) as other, pytest.raises(LayoutMismatch, match="SESSIONCACHE_PARTITIONS=64"):
        other.open("k")
    with stack.raw() as raw:
        raw.flushall()
    with stack.cache(partitions=32) as other, pytest.raises(LayoutMismatch, match="SESSIONCACHE_PARTITIONS=64"):
        other.open("k")


def test_many_servers_start_at_once(stack):
    """On an empty store: one of them sets it up, and none fails."""
    failures = []

    def start():
        try:
            with stack.cache() as cache:
                cache.open("k")
        except SessionCacheError as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_client_that_decodes_is_refused(one_stack):
    """Messages are binary."""
    import redis

    with (
        redis.Redis.from_url(one_stack.redis_url, decode_responses=True) as client,
        pytest.raises(ConfigurationError, match="decode"),
    ):
        SessionCache(client, create_engine(one_stack.database_url))


def test_one_client_alone_is_refused(one_stack):
    """Both or neither: half a configuration is a mistake."""
    with one_stack.raw() as client, pytest.raises(ConfigurationError, match="both"):
        SessionCache(client)


def test_a_full_redis_refuses_whole_and_can_be_emptied(own_server, tmp_path):
    """`HotTierFull`, nothing half-written; reading and draining go on; then there is room again."""
    server = own_server(maxmemory="24mb", **{"maxmemory-policy": "noeviction"})
    settings = Settings(redis_url=server.url, database_url=f"sqlite:///{tmp_path}/a.db", queue_url="redis://127.0.0.1:1")
    with SessionCache(settings=settings) as cache:
        session = cache.open("k")
        sent = []
        with pytest.raises(HotTierFull, match="maxmemory"):
            for n in range(200):
                session.append({"content": f"{n} " + "x" * 200_000})
                sent.append(n)
        assert [int(one["content"].split()[0]) for one in session.history()] == sent
        lane = cache._state.lane_of(cache._state.keyspace.of("k").partition)
        drained = cache._run(write_behind.drain_lane(cache._state, lane, settings.lanes, lambda: False))
        assert drained.ops >= len(sent)
        assert cache.stats().pending == 0
        session.append({"content": "room again"})
        assert [int(one["content"].split()[0]) for one in session.history()[:-1]] == sent


def test_every_error_is_of_one_tree():
    """Importable from the package, each with a sentence of its own for a docstring."""
    import sessioncache
    from sessioncache import errors

    ours = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    for error in ours:
        assert issubclass(error, SessionCacheError)
        assert getattr(sessioncache, error.__name__) is error
        assert error.__doc__
