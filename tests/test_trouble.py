"""Redis in trouble: a typed error in time or success, never both; handles work again when Redis does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import pytest
import trouble
from conftest import binary_of
from doors import DOORS, opener
from servers import RedisServer
from trouble import TroubledRedis, answers

from sessioncache import AsyncSessionCache, HotTierRefused, HotTierUnavailable, SessionCache, Settings, scripts

KEY = "telegram:dm:42"
# What a slow machine may add to any time.
SLACK = 3.0
# Long enough for a working Redis, short enough for a test of one that does not.
QUICK = {"redis_timeout": 1.0, "timeout": 2.0}

ERRORS = {
    "LOADING": "-LOADING Redis is loading the dataset in memory",
    "READONLY": "-READONLY You can't write against a read only replica.",
    "READONLY in a script of Redis 6": "-ERR Error running script (call to f_1): @user_script:9: -READONLY You.",
    "MISCONF": "-MISCONF Redis is configured to save RDB snapshots, but it is currently unable to persist to disk.",
    "MASTERDOWN": "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "BUSY": "-BUSY Redis is busy running a script.",
    "TRYAGAIN": "-TRYAGAIN Multiple keys request during rehashing of slot",
    "CLUSTERDOWN": "-CLUSTERDOWN The cluster is down",
    "max clients": "-ERR max number of clients reached",
}
TROUBLES = {
    "NOSCRIPT": answers("-NOSCRIPT No matching script. Please use EVAL."),
    "garbage": answers("GARBAGE"),
    "cut before": trouble.cut_before,
    "cut after": trouble.cut_after,
    "half a reply": trouble.half,
    "silence": trouble.never,
    "half a reply and silence": trouble.Late(),
    "a reply in drops": trouble.trickle,
}


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    """Which door."""
    return request.param


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """One of the test's own, which forgets nothing that it answered, as long as the machine runs."""
    with closing(RedisServer(binary_of("valkey9"), appendonly="yes", appendfsync="no")) as made:
        yield made.start()


@pytest.fixture
def redis(one_stack) -> Iterator[TroubledRedis]:
    """A Redis that can give trouble."""
    troubled = TroubledRedis(one_stack.server.socket)
    yield troubled
    troubled.close()


@dataclass
class Through:
    """Settings of a stack whose Redis is reached through another."""

    stack: Any
    url: str

    def settings(self, **changes: Any) -> Settings:
        """Nudges do not go that way."""
        return replace(self.stack.settings(**changes), redis_url=self.url, queue_url=self.stack.redis_url)


def texts(session: Any) -> list[str]:
    return [one["content"] for one in session.history()]


def _word() -> bytes:
    """What marks an append on the wire."""
    return scripts.APPEND.sha.encode()


def test_an_error_that_passes_is_not_seen(one_stack, redis, door):
    """Each of those that pass by themselves: the call succeeds, having happened once, and so does a read."""
    with opener(Through(one_stack, redis.url), door) as opened:
        session, sent = opened().open(KEY), []
        for name, reply in ERRORS.items():
            redis.give(answers(reply), _word(), 1)
            session.append({"content": name})
            sent.append(name)
            assert redis.met == 1, name
            redis.give(answers(reply), scripts.READ.sha.encode(), 1)
            assert texts(session) == sent
            assert redis.met == 1, name


@pytest.mark.parametrize("name", TROUBLES)
def test_trouble_that_passes_is_not_seen(one_stack, redis, door, name):
    """The call succeeds, having happened once; so do a read and the calls after it, which get their own replies."""
    with opener(Through(one_stack, redis.url), door, redis_timeout=0.5) as opened:
        session = opened().open(KEY)
        session.append({"content": "a"})
        redis.give(TROUBLES[name], _word(), 1)
        session.append({"content": "b"})
        assert redis.met == 1
        redis.give(TROUBLES[name], scripts.READ.sha.encode(), 1)
        assert texts(session) == ["a", "b"]
        assert redis.met == 1
        session.append({"content": "c"})
        assert texts(session) == ["a", "b", "c"]


LASTING = {
    "LOADING": answers(ERRORS["LOADING"]),
    "silence": trouble.never,
    "half a reply and silence": trouble.Late(),
    "a reply in drops": trouble.trickle,
}
RARER = {name: answers(ERRORS[name]) for name in ERRORS if name != "LOADING"} | {
    name: TROUBLES[name] for name in ("garbage", "cut before", "cut after", "half a reply")
}


@pytest.mark.parametrize("name", [*LASTING, *(pytest.param(name, marks=pytest.mark.long) for name in RARER)])
def test_trouble_that_stays_is_an_error_in_time(one_stack, redis, door, name):
    """`HotTierUnavailable` within `timeout`, on a write and a read; afterwards the same handle works, the same id once."""
    with opener(Through(one_stack, redis.url), door, **QUICK) as opened:
        cache = opened()
        session = cache.open(KEY)
        session.append({"content": "a"})
        for word, call in ((_word(), lambda: session.append({"content": "b"}, id="mine")), (b"EVALSHA", session.history)):
            redis.give((LASTING | RARER)[name], word, 1000)
            began = time.monotonic()
            with pytest.raises(HotTierUnavailable):
                call()
            assert time.monotonic() - began < QUICK["timeout"] + SLACK
            assert redis.met >= 1
        redis.times = 0
        session.append({"content": "b"}, id="mine")
        session.append({"content": "c"})
        assert texts(session) == ["a", "b", "c"]


def test_an_error_that_stays_is_no_matter_of_time(one_stack, redis, door):
    """What repeating does not mend is refused at once, in a sentence; a wrong password is not quoted."""
    with opener(Through(one_stack, redis.url), door, timeout=30.0) as opened:
        session = opened().open(KEY)
        began = time.monotonic()
        redis.give(answers("-NOPERM this user has no permissions to run the 'evalsha' command"), _word(), 1)
        with pytest.raises(HotTierRefused, match="no permissions"):
            session.append({"content": "a"})
        redis.give(answers("-WRONGPASS invalid username-password pair or user is disabled."), b"AUTH", 1000)
        with opener(Through(one_stack, redis.url.replace("unix://", "unix://alice:hunter2@")), door, timeout=30.0) as other:
            cache = other()
            with pytest.raises(HotTierRefused, match="user or the password") as refused:
                cache.open(KEY)
        assert "hunter2" not in str(refused.value)
        assert time.monotonic() - began < 15
        assert texts(session) == []


def test_a_server_that_is_slow_at_every_step(one_stack, redis, door):
    """Greeting and command together take no longer than one command may."""
    with opener(Through(one_stack, redis.url), door, redis_timeout=0.5, timeout=0.5) as opened:
        cache = opened()
        redis.give(trouble.tardy, b"", 1000)
        with pytest.raises(HotTierUnavailable):
            cache.open(KEY)
        assert redis.met >= 2
    with opener(Through(one_stack, redis.url), door) as opened:
        redis.times = 0
        assert texts(opened().open(KEY)) == []


def test_a_flushed_script_cache_costs_one_more_round_trip(some_stack, door):
    """Every call goes on, and Redis knows the script again."""
    with opener(some_stack, door) as opened, some_stack.raw() as raw:
        cache = opened()
        session = cache.open(KEY)
        for at in range(3):
            raw.script_flush()
            session.append({"content": str(at)})
            raw.script_flush()
            assert texts(session) == [str(n) for n in range(at + 1)]
        raw.script_flush()
        assert cache.flush().left == 0
        assert raw.script_exists(scripts.APPEND.sha) == [False]


def test_a_server_that_stands_still(server, tmp_path, door):
    """Stopped in the middle: an error in time; what it does late is not done twice, nor answered to others."""
    with opener(Alone(server.url, f"sqlite:///{tmp_path}/store.db"), door, **QUICK) as opened:
        session = opened().open(KEY)
        session.append({"content": "a"})
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            for call in (lambda: session.append({"content": "b"}, id="mine"), session.history):
                began = time.monotonic()
                with pytest.raises(HotTierUnavailable):
                    call()
                assert time.monotonic() - began < QUICK["timeout"] + SLACK
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        assert session.append({"content": "b"}, id="mine")[0].id == "mine"
        assert texts(session) == ["a", "b"]


@dataclass
class Alone:
    """Settings of a server of one's own."""

    redis_url: str
    database_url: str

    def settings(self, **changes: Any) -> Settings:
        """As they are."""
        return Settings(redis_url=self.redis_url, database_url=self.database_url, **changes)


def test_a_server_that_restarts(server, tmp_path, door):
    """Away: an error in time; back with its file: the same handle goes on, with all that was acknowledged."""
    with opener(Alone(server.url, f"sqlite:///{tmp_path}/store.db"), door, **QUICK) as opened:
        session = opened().open(KEY)
        session.append({"content": "a"})
        server.kill()
        began = time.monotonic()
        with pytest.raises(HotTierUnavailable):
            session.append({"content": "b"}, id="mine")
        assert time.monotonic() - began < QUICK["timeout"] + SLACK
        server.start()
        session.append({"content": "b"}, id="mine")
        assert texts(session) == ["a", "b"]


def test_an_address_that_leads_to_another_server(one_stack, tmp_path, redis, door):
    """As a name that is moved to the new primary: what is connected to the old one, a replica now, connects anew."""
    with closing(RedisServer(binary_of("valkey9")).start()) as old, client(old.url) as raw:
        redis.target = old.socket
        with opener(Alone(redis.url, f"sqlite:///{tmp_path}/store.db"), door, timeout=3.0) as opened:
            cache = opened()
            session = cache.open(KEY)
            session.append({"content": "a"})
            assert cache.flush().left == 0
            raw.execute_command("REPLICAOF", "127.0.0.1", "1")
            redis.target = one_stack.server.socket
            session.append({"content": "b"})
            assert texts(session) == ["a", "b"]


@pytest.mark.parametrize(("stale", "door"), [("yes", "blocking"), ("no", "awaiting")], indirect=["door"])
def test_a_server_that_is_a_replica_for_a_while(own_server, tmp_path, door, stale):
    """READONLY and MASTERDOWN as servers say them: an error in time, then the same handle goes on."""
    server = own_server(**{"replica-serve-stale-data": stale})
    with opener(Alone(server.url, f"sqlite:///{tmp_path}/store.db"), door, **QUICK) as opened:
        cache = opened()
        session = cache.open(KEY)
        session.append({"content": "a"})
        with client(server.url) as raw:
            raw.execute_command("REPLICAOF", "127.0.0.1", "1")
            for call in (lambda: session.append({"content": "b"}, id="mine"), cache.flush):
                with pytest.raises(HotTierUnavailable):
                    call()
            raw.execute_command("REPLICAOF", "NO", "ONE")
        session.append({"content": "b"}, id="mine")
        assert texts(session) == ["a", "b"]
        assert cache.flush().left == 0


@pytest.mark.parametrize("door", ["blocking"], indirect=True)
def test_a_server_that_cannot_save(own_server, tmp_path, door):
    """MISCONF as servers say it: an error in time and nothing written, then the same handle goes on."""
    server = own_server(save="900 1", dbfilename="blocked.rdb")
    with opener(Alone(server.url, f"sqlite:///{tmp_path}/store.db"), door, **QUICK) as opened, client(server.url) as raw:
        session = opened().open(KEY)
        session.append({"content": "a"})
        blocked = server.directory / "blocked.rdb"
        blocked.mkdir()
        _save(raw, "err")
        with pytest.raises(HotTierUnavailable, match="MISCONF"):
            session.append({"content": "b"}, id="mine")
        blocked.rmdir()
        _save(raw, "ok")
        session.append({"content": "b"}, id="mine")
        assert texts(session) == ["a", "b"]


def _save(raw: Any, status: str) -> None:
    deadline = time.monotonic() + 20
    while raw.info("persistence")["rdb_last_bgsave_status"] != status:
        assert time.monotonic() < deadline
        with contextlib.suppress(Exception):
            raw.bgsave()
        time.sleep(0.05)


def client(url: str) -> Any:
    """A plain client, as an operator has."""
    import redis

    return redis.Redis.from_url(url)


def _all_at_once(cache: Any, count: int, call: Any) -> list[Any]:
    """The results or errors of so many calls at once, by threads or by tasks."""

    def one(at: int) -> Any:
        try:
            return call(cache, at)
        except HotTierUnavailable as error:
            return error

    async def one_task(at: int) -> Any:
        try:
            return await call(cache._target, at)
        except HotTierUnavailable as error:
            return error

    async def all_tasks() -> list[Any]:
        return await asyncio.gather(*map(one_task, range(count)))

    if not isinstance(cache, SessionCache):
        return cache._runner.run(all_tasks())
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_more_callers_than_connections(one_stack, redis, door):
    """They wait for one; where none comes free, each has its error in time, those that start with the process as well."""
    with opener(Through(one_stack, redis.url), door, max_connections=2, redis_timeout=20.0, timeout=60.0) as opened:
        found = _all_at_once(opened(), 16, lambda door, at: door.ensure(f"k{at % 4}"))
        assert not [one for one in found if isinstance(one, HotTierUnavailable)]
    with opener(Through(one_stack, redis.url), door, max_connections=2, **QUICK) as opened:
        cache, fresh = opened(), opened()
        cache.open(KEY)
        for other in (cache, fresh):
            redis.give(trouble.never, b"", 10_000)
            began = time.monotonic()
            found = _all_at_once(other, 8, lambda door, at: door.open(f"k{at}"))
            assert time.monotonic() - began < QUICK["timeout"] + SLACK
            assert [type(one) for one in found] == [HotTierUnavailable] * 8
            redis.times = 0
            assert other.open(KEY).history() == []


@pytest.mark.parametrize("kind", [SessionCache, AsyncSessionCache])
def test_a_name_that_is_not_known(tmp_path, kind):
    """An error in time."""
    _no_server(kind, "redis://no-such-host.invalid:6379/0", tmp_path)


@pytest.mark.parametrize("kind", [SessionCache, AsyncSessionCache])
def test_a_name_server_that_is_silent(tmp_path, kind, monkeypatch):
    """An error in time, although nothing bounds the look-up itself."""
    over = threading.Event()

    def silent(*_: Any, **__: Any) -> Any:
        over.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    _no_server(kind, "redis://somewhere.invalid:6379/0", tmp_path, before_end=over.set)


@pytest.mark.parametrize("kind", [SessionCache, AsyncSessionCache])
def test_a_server_that_accepts_nobody(tmp_path, kind):
    """A full queue of connections, which are neither accepted nor refused: an error in time."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, contextlib.ExitStack() as waiting:
        for _ in range(8):
            one = waiting.enter_context(socket.socket())
            one.settimeout(0)
            one.connect_ex(deaf.getsockname())
        _no_server(kind, f"redis://127.0.0.1:{deaf.getsockname()[1]}/0", tmp_path)


def _no_server(kind: type, url: str, tmp_path: Any, before_end: Any = lambda: None) -> None:
    settings = Settings(redis_url=url, database_url=f"sqlite:///{tmp_path}/store.db", **QUICK)
    began = time.monotonic()
    if kind is SessionCache:
        with SessionCache(settings=settings) as cache, pytest.raises(HotTierUnavailable):
            cache.open(KEY)
        took = time.monotonic() - began
        before_end()
    else:
        took = asyncio.run(_awaited_failure(settings, before_end))
    assert took < QUICK["timeout"] + SLACK


async def _awaited_failure(settings: Settings, before_end: Any) -> float:
    began = time.monotonic()
    cache = AsyncSessionCache(settings=settings)
    with pytest.raises(HotTierUnavailable):
        await cache.open(KEY)
    took = time.monotonic() - began
    before_end()
    await cache.close()
    return took
