"""Every call of both doors, with its first request failing, then its second, and so on until it runs through.

Each request fails once before its effect and once after it (the reply is lost), so that the error reaches the caller, or
so that what repeats it mends it. Then the books: a session is as if the call had not been made, or as if it had been made
once; repeated as documented, it has been made once; and no lease, hold, turn, claim or connection stays behind.
"""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis.asyncio
from doors import Awaited
from model_driver import unavailable
from model_place import Place, commanded_scripts
from servers import RedisServer
from sqlalchemy import Engine, create_engine, event, update
from sqlalchemy.ext.asyncio import create_async_engine

from sessioncache import (
    AsyncSession,
    AsyncSessionCache,
    HotTierUnavailable,
    Session,
    SessionCache,
    SessionCacheError,
    StoreUnavailable,
)
from sessioncache.config import Settings
from sessioncache.flow import Command, Evaluate, Pause, Transact, run
from sessioncache.migrate import upgrade
from sessioncache.schema import sessions
from sessioncache.startup import start

KEY, OTHER, FREE, OWNER = "telegram:dm:42", "telegram:dm:43", "telegram:dm:44", "alice"
FEW = {"partitions": 2, "lanes": 1, "window": 3, "empty_after": 60.0}
NEW = [{"role": "user", "content": "new 0"}, {"role": "user", "content": "new 1"}]
MOST = 80
# How long a right lasts that was not given back, in seconds.
LONGEST = 60


@dataclass
class Scene:
    """Two keys with owners: the first has an ended session before its current one; something is pending for each."""

    cache: Any
    ids: dict[str, str]

    @property
    def session(self) -> Any:
        return self.cache.get(KEY)


def _in_turn(at: Scene) -> None:
    with at.session.turn(timeout=0) as mine:
        mine.append(NEW, id=["t0", "t1"])


def _while_held(at: Scene) -> None:
    with at.session.hold("indexer"):
        at.session.append(NEW, id=["h0", "h1"])


@dataclass(frozen=True)
class Case:
    """A call; whether it may be repeated when nobody knows whether it was made; whether it is several changes."""

    act: Callable[[Scene], Any]
    again: bool = True
    steps: bool = False


def changing(act: Callable[[Scene], Any]) -> Case:
    return Case(act, again=False)


def moving(act: Callable[[Scene], Any]) -> Case:
    return Case(act, steps=True)


CASES = {
    "Session.append": Case(lambda at: at.session.append(NEW, id=["n0", "n1"])),
    "Session.append without ids": changing(lambda at: at.session.append(NEW)),
    "Session.history": Case(lambda at: at.session.history()),
    "Session.messages": Case(lambda at: list(at.session.messages(2, before=9))),
    "Session.context": Case(lambda at: at.session.context()),
    "Session.iterate": Case(lambda at: list(at.session.iterate(page=2))),
    "Session.pop": changing(lambda at: at.session.pop()),
    "Session.truncate": Case(lambda at: at.session.truncate(2)),
    "Session.truncate below the window": Case(lambda at: at.session.truncate(1)),
    "Session.clear": Case(lambda at: at.session.clear()),
    "Session.replace": Case(lambda at: at.session.replace(NEW)),
    "Session.edit": Case(lambda at: at.session.edit("c3", NEW[0])),
    "Session.edit below the window": Case(lambda at: at.session.edit("c0", NEW[0])),
    "Session.remove": Case(lambda at: at.session.remove("c3")),
    "Session.consolidate": Case(lambda at: at.session.consolidate(3, summary="s")),
    "Session.retain": Case(lambda at: at.session.retain(2)),
    "Session.cap": Case(lambda at: at.session.cap(2, archive=len)),
    "Session.refresh": Case(lambda at: at.session.refresh()),
    "Session.update": Case(lambda at: at.session.update(title="t", metadata={"a": 1})),
    "Session.unique_title": Case(lambda at: at.session.unique_title("t")),
    "Session.archive": Case(lambda at: at.session.archive()),
    "Session.record_usage": changing(lambda at: at.session.record_usage(input_tokens=7)),
    "Session.reset": changing(lambda at: at.session.reset()),
    "Session.switch": moving(lambda at: at.session.switch(at.ids["ended"])),
    "Session.switch to another key's": moving(lambda at: at.session.switch(at.ids["theirs"])),
    "Session.fork": moving(lambda at: at.session.fork(FREE)),
    "Session.hold": moving(_while_held),
    "Session.turn": moving(_in_turn),
    "Session.delete": Case(lambda at: at.session.delete()),
    "SessionCache.open": Case(lambda at: at.cache.open(KEY)),
    "SessionCache.open a new key": Case(lambda at: at.cache.open(FREE, title="t")),
    "SessionCache.ensure": Case(lambda at: at.cache.ensure(FREE)),
    "SessionCache.create": Case(lambda at: at.cache.create(FREE)),
    "SessionCache.create of an id": moving(lambda at: at.cache.create(FREE, session_id="mine")),
    "SessionCache.get": Case(lambda at: at.cache.get(KEY)),
    "SessionCache.resume": moving(lambda at: at.cache.resume(at.ids["ended"])),
    "SessionCache.fork": moving(lambda at: at.cache.fork(at.ids["ended"], FREE)),
    "SessionCache.read": Case(lambda at: list(at.cache.read(at.ids["ended"]))),
    "SessionCache.info": Case(lambda at: at.cache.info(at.ids["ended"])),
    "SessionCache.past": Case(lambda at: at.cache.past(KEY)),
    "SessionCache.list": Case(lambda at: at.cache.list(fresh=True)),
    "SessionCache.count": Case(lambda at: at.cache.count(fresh=True)),
    "SessionCache.has_any": Case(lambda at: at.cache.has_any(fresh=True)),
    "SessionCache.search": Case(lambda at: at.cache.search("old", fresh=True)),
    "SessionCache.delete": Case(lambda at: at.cache.delete(KEY)),
    "SessionCache.delete_session": Case(lambda at: at.cache.delete_session(at.ids["ended"])),
    "SessionCache.delete_owner": moving(lambda at: at.cache.delete_owner(OWNER)),
    "SessionCache.keep_house": moving(lambda at: at.cache.keep_house()),
    "SessionCache.evict": Case(lambda at: at.cache.evict(KEY)),
    "SessionCache.flush": Case(lambda at: at.cache.flush()),
    "SessionCache.dead_letters": Case(lambda at: at.cache.dead_letters()),
    "SessionCache.retry_dead": moving(lambda at: at.cache.retry_dead(at.cache.dead_letters())),
    "SessionCache.drop_dead": Case(lambda at: at.cache.drop_dead(at.cache.dead_letters())),
    "SessionCache.stats": Case(lambda at: at.cache.stats()),
    "SessionCache.doctor": Case(lambda at: at.cache.doctor()),
    "SessionCache.close": Case(lambda at: at.cache.close(flush=True)),
}  # fmt: skip
SAMPLE = ["Session.append", "Session.pop", "Session.retain", "Session.turn", "Session.hold", "SessionCache.open a new key"]
NOT_FLOWS = {"SessionCache.from_url", "SessionCache.embedded"}  # they only make a cache


def public(kind: type) -> set[str]:
    return {f"{kind.__name__}.{name}" for name, _ in inspect.getmembers(kind, callable) if not name.startswith("_")}


def test_every_call_has_a_case():
    """A new call of either door takes its place here."""
    here = {" ".join(name.split(" ")[:1]) for name in CASES} | NOT_FLOWS
    assert here == public(Session) | public(SessionCache)
    assert {name.replace("Async", "") for name in public(AsyncSession) | public(AsyncSessionCache)} == here


@dataclass
class Failing:
    """Performs requests; one of them fails, or its tier from there on."""

    perform: Callable[[Any], Any]
    at: int
    way: str
    lasting: bool = False
    count: int = 0
    of: tuple[type, ...] = (Evaluate, Command, Transact)
    failed: list[Any] = field(default_factory=list)

    def fails(self, request: Any) -> bool:
        if not isinstance(request, self.of):
            return False
        self.count += 1
        of_store = isinstance(request, Transact)
        now = self.count == self.at or (
            self.lasting and bool(self.failed) and of_store == isinstance(self.failed[0], Transact)
        )
        if now:
            self.failed.append(request)
        return now

    def __call__(self, request: Any) -> Any:
        if isinstance(request, Pause):
            return None
        fails = self.fails(request)
        if fails and self.way == "before":
            raise unavailable(request)
        reply = self.perform(request)
        if fails:
            raise unavailable(request)
        return reply

    async def awaited(self, request: Any) -> Any:
        """The same for the awaiting door."""
        if isinstance(request, Pause):
            return None
        fails = self.fails(request)
        if fails and self.way == "before":
            raise unavailable(request)
        reply = await self.perform(request)
        if fails:
            raise unavailable(request)
        return reply


class Stage:
    """Real tiers, and the scene on it as often as it is asked for, with warm hot copies or without any."""

    def __init__(self, server: RedisServer, engine: Engine, path: str) -> None:
        self.place, self.engine, self.path = Place(server, engine), engine, path
        self.place.clear()
        with self.cache() as cache:
            run(start(cache._state), cache._connections.driver.perform)
            self.ids = self._set(cache)
        self.hot = self.place.copy()
        self.kept = sqlite3.connect(":memory:")
        self._copy(to=self.kept)
        self.never = self.books()

    def cache(self, *, timeout: float = 2.0) -> SessionCache:
        settings = Settings(**FEW, report=0.0, redis_timeout=2.0, timeout=timeout)
        cache = SessionCache(self.place.hot, self.engine, settings=settings)
        cache._connections.driver.first._checked = cache._connections._started = True
        return cache

    def _set(self, cache: SessionCache) -> dict[str, str]:
        ended = cache.open(KEY, owner=OWNER)
        ended.append([{"role": "user", "content": f"old {n}"} for n in range(2)])
        session = ended.reset()
        session.append({"role": "user", "content": "poison"}, id="p")
        cache.open("empty")
        cache.flush()
        with self.engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM refusing")
            old = {"created_at": self.place_time(-3600), "last_accessed": self.place_time(-3600)}
            connection.execute(update(sessions).where(sessions.c.session_key == "empty").values(**old))
        cache.evict("empty")
        ended_id, theirs = ended.session_id, cache.open(OTHER, owner=OWNER)
        session.append([{"role": "user", "content": f"c{n}"} for n in range(4)], id=[f"c{n}" for n in range(4)])
        theirs.append({"role": "user", "content": "theirs 0"})
        cache.flush()
        theirs.append({"role": "user", "content": "theirs 1"})
        session.append({"role": "user", "content": "c4"}, id="c4")
        return {"ended": ended_id, "session": session.session_id, "theirs": theirs.session_id}

    def place_time(self, seconds: float) -> Any:
        from datetime import UTC, datetime

        return datetime.fromtimestamp(self.place.seconds + seconds, UTC)

    def _copy(self, *, to: sqlite3.Connection | None = None) -> None:
        raw = self.engine.raw_connection()
        try:
            raw.driver_connection.backup(to) if to else self.kept.backup(raw.driver_connection)
        finally:
            raw.close()

    def set(self, *, cold: bool) -> None:
        """The scene as it was."""
        self._copy()
        self.place.put_back(self.hot, run=False)
        if cold:
            for name in [*self.place.names("meta:"), *self.place.names("history:")]:
                self.place.raw.delete(name)

    def books(self) -> dict[str, Any]:
        """Each session by its role, and what is current, once all is drained; new ones have roles by their place."""
        with self.cache() as cache:
            cache.flush()
        rows, said, current = self.place.stored()
        roles = {session_id: role for role, session_id in self.ids.items()}
        found: dict[str, Any] = {}
        for session_id in sorted(rows, key=lambda one: str(rows[one].created_at)):
            row = rows[session_id]
            if row.end_reason == "reserved":
                continue
            role = roles.get(session_id) or f"new under {row.session_key}"
            assert role not in found, f"twice: {role}"
            found[role] = (
                row.session_key, bool(row.deleted), row.end_reason, [one[2] for one in said[session_id]], row.title,
                row.metadata, row.input_tokens, bool(row.archived), row.consolidated_seq,
                current.get(row.session_key) == session_id,
            )  # fmt: skip
        assert len(set(current.values())) == len(current), "current under two keys"
        found["letters"] = len(self.place.letters())
        return found

    def nothing_stays(self, failing: Failing) -> None:
        """No lease, hold, turn, claim or connection.

        What failed may be the giving back itself, or a taking whose reply is lost and that nobody repeats: it ends by
        itself.
        """
        excused = [one for one in failing.failed if isinstance(one, Evaluate) and (gives_back(one) or takes(one))]
        for kind in ("lease:", "turn:", "titles:"):
            names = self.place.names(kind)
            assert excused or not names, kind
            assert all(0 < self.place.raw.ttl(name) <= LONGEST for name in names)
        for name in self.place.names("holds"):
            assert excused or not self.place.raw.zcard(name)
        for name in self.place.names("dirty"):
            assert all(
                score <= self.place.seconds * 1000 + 1 for _, score in self.place.raw.zrange(name, 0, -1, withscores=True)
            )
        assert not self.place.hot.connection_pool._in_use_connections
        assert self.engine.pool.checkedout() == 0


def gives_back(request: Evaluate) -> bool:
    verb, args = request.script.verb, request.args
    return verb == "release" or (verb == "turn" and args[0] == "end") or (verb in {"hold", "exclusive"} and args[1] == 0)


def takes(request: Evaluate) -> bool:
    return request.script.verb in {"lease", "exclusive"}


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Iterator[Stage]:
    from conftest import binary_of

    server = RedisServer(binary_of("valkey9")).start()
    path = tmp_path_factory.mktemp("store") / "store.db"
    engine = create_engine(f"sqlite:///{path}")
    with commanded_scripts():
        SessionCache(redis.Redis.from_url(server.url), engine).close()  # prepares the engine
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF").close())
        with engine.begin() as connection:
            upgrade(connection)
        on = Stage(server, engine, str(path))
        yield on
        on.place.close()
        on.kept.close()
    engine.dispose()
    server.close()


def through(stage: Stage, name: str, way: str, *, cold: bool, lasting: bool = False, make: Any = None) -> int:
    """One case, failing at each of its requests in turn; how many requests it has."""
    case, at = CASES[name], 0
    never = stage.never
    stage.set(cold=cold)
    with stage.cache() as cache:
        case.act(Scene(cache, stage.ids))
    done = stage.books()
    while True:
        at += 1
        assert at < MOST
        stage.set(cold=cold)
        if make:
            cache, failing = make(at)
        else:
            cache = stage.cache()
            failing = Failing(cache._connections.driver.perform, at, way, lasting)
            cache._connections.driver.perform = failing
        told = attempted(case, Scene(cache, stage.ids))
        if not failing.failed:
            return at - 1
        judge(stage, case, (never, done), told, failing)


def attempted(case: Case, at: Scene) -> SessionCacheError | None:
    try:
        case.act(at)
    except SessionCacheError as error:
        return error
    return None


def judge(stage: Stage, case: Case, either: tuple[dict, dict], told: SessionCacheError | None, failing: Failing) -> None:
    never, done = either
    where = f"request {failing.at} {failing.way} its effect: {failing.failed[0]}"
    assert told is None or isinstance(told, HotTierUnavailable | StoreUnavailable), (told, where)
    if not failing.lasting:
        stage.nothing_stays(failing)
    for kind in ("lease:", "turn:", "titles:"):  # what could not be given back ends by itself
        for name in stage.place.names(kind):
            stage.place.raw.delete(name)
    books = stage.books()
    if told is None:
        assert books == done, where
    elif not case.steps:
        assert books in (never, done), (books, never, done, where)
    else:
        for role in {*books, *never, *done}:
            parts = [one[:1] + one[3:-1] if one else one for one in (books.get(role), never.get(role), done.get(role))] \
                if role != "letters" else [one.get(role) for one in (books, never, done)]  # fmt: skip
            assert parts[0] in parts[1:], (role, parts, where)
    if case.again and told is not None:
        with suppress(SessionCacheError), stage.cache() as healthy:
            case.act(Scene(healthy, stage.ids))
        assert_same(stage.books(), done, where)


def assert_same(books: dict, done: dict, where: str) -> None:
    assert books == done, where


@pytest.mark.parametrize("name", CASES)
def test_each_reply_is_lost_once(stage, name):
    """Nobody repeats the request: the caller is told, or does not need to know."""
    assert through(stage, name, "after", cold=False) > 0


@pytest.mark.parametrize("way", ["before", "after"])
@pytest.mark.parametrize("name", ["Session.append", "SessionCache.open"])
def test_each_request_of_a_hydration_fails_once(stage, name, way):
    """The same where there is no hot copy and something is pending."""
    assert through(stage, name, way, cold=True) > 5


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_each_request_fails_once(stage, name):
    """The same where it does not take effect."""
    assert through(stage, name, "before", cold=False) > 0


@pytest.mark.long
@pytest.mark.parametrize(("way", "lasting"), [("before", False), ("after", False), ("before", True)],
                         ids=["before", "after", "away"])  # fmt: skip
@pytest.mark.parametrize("name", CASES)
def test_each_request_fails_without_a_hot_copy(stage, name, way, lasting):
    """Every call from a cold start; and with the tier away for as long as the call lasts."""
    assert through(stage, name, way, cold=True, lasting=lasting) > 0


@pytest.mark.parametrize("name", ["Session.append", "Session.pop", "Session.unique_title"])
def test_what_passes_is_mended(stage, name):
    """A Redis command that was answered by no reply once is repeated: nobody is told, and nothing is done twice."""
    case, at = CASES[name], 0
    stage.set(cold=True)
    with stage.cache() as cache:
        case.act(Scene(cache, stage.ids))
    done = stage.books()
    while True:
        at += 1
        stage.set(cold=True)
        cache = stage.cache(timeout=30.0)
        failing = Failing(cache._connections.driver.perform, at, "after", of=(Evaluate, Command))
        cache._connections.driver.perform = failing
        case.act(Scene(cache, stage.ids))
        if not failing.failed:
            break
        for kind in ("lease:", "turn:", "titles:"):
            assert not stage.place.names(kind), kind
        assert stage.books() == done, failing.failed
    assert at > 5


@pytest.fixture(scope="module")
def awaiting(stage) -> Iterator[Callable[[], tuple[Any, Any]]]:
    """Makes caches of the awaiting door over the stage's tiers."""
    with asyncio.Runner() as runner:
        hot = redis.asyncio.Redis.from_url(stage.place.server.url)
        engine = create_async_engine(f"sqlite+aiosqlite:///{stage.path}")

        def make() -> tuple[Any, Any]:
            cache = AsyncSessionCache(hot, engine, settings=Settings(**FEW, report=0.0, redis_timeout=2.0, timeout=2.0))
            connections = cache._connections
            connections.driver.first._checked = connections._started = True
            return Awaited(cache, runner), connections

        yield make
        assert not hot.connection_pool._in_use_connections
        assert engine.pool.checkedout() == 0
        runner.run(hot.aclose())
        runner.run(engine.dispose())


@pytest.mark.parametrize("name", SAMPLE)
def test_the_awaiting_door_fails_alike(stage, awaiting, name):
    """The flows are the same; so is what becomes of them."""

    def cache(at: int) -> tuple[Any, Failing]:
        awaited, connections = awaiting()
        failing = Failing(connections.driver.perform, at, "after")
        connections.driver.perform = failing.awaited
        return awaited, failing

    assert through(stage, name, "after", cold=False, make=cache) > 0
