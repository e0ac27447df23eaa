"""The servers of the tests, and what every test may ask for.

A server that is missing is a skip at home and a failure in CI. What ran against what is printed at the end.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
import redis
from hypothesis import settings as hypothesis_settings
from proxy import Proxy
from servers import PostgresServer, RedisServer, postgres_of_machine, postgres_wheel, redis_6, redis_7, valkey_wheel
from sqlalchemy import Engine, create_engine

from sessioncache import SessionCache
from sessioncache.config import Settings
from sessioncache.migrate import upgrade
from sessioncache.store.engine import prepared

# What is imported by tests, and asserts.
pytest.register_assert_rewrite("contract", "contract_conversation", "providers")

hypothesis_settings.register_profile("default", deadline=None, max_examples=200)
hypothesis_settings.load_profile("default")

HOT = {"valkey9": valkey_wheel, "redis7": redis_7}
# Each hot tier and each kind of store once, and then each with each.
SOME_STACKS = ["valkey9-sqlite", "redis7-postgres"]
OTHER_STACKS = ["valkey9-postgres18", "redis7-sqlite"]
if redis_6():
    HOT["redis6"] = redis_6
    OTHER_STACKS.append("redis6-sqlite")
# What one stack shows soon, the other shows among the long proofs.
THE_OTHER_LATER = pytest.mark.parametrize(
    "some_stack", ["valkey9-sqlite", pytest.param("redis7-postgres", marks=pytest.mark.long)], indirect=True
)
# What may happen between a write and a read; the ways between the first and the last are long proofs.
BETWEEN = [
    "hot",
    pytest.param("evicted", marks=pytest.mark.long),
    pytest.param("flushed", marks=pytest.mark.long),
    "flushed and evicted",
]
STORES = {"postgres18": postgres_wheel, "postgres": postgres_of_machine}

_servers: dict[str, RedisServer | PostgresServer] = {}
_ran: Counter[str] = Counter()


def missing(what: str) -> None:
    """A server is not on this machine."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI needs it")
    pytest.skip(f"{what} is not on this machine")


def binary_of(name: str) -> str:
    """The program of a hot tier."""
    found = HOT[name]()
    if found is None:
        missing(name)
    return found


def _hot_server(name: str) -> RedisServer:
    if name not in _servers:
        _servers[name] = RedisServer(binary_of(name)).start()
    return _servers[name]


def _postgres(name: str) -> PostgresServer:
    if name not in _servers:
        binaries = STORES[name]()
        if binaries is None:
            missing(name)
        _servers[name] = PostgresServer(binaries).start()
    return _servers[name]


@pytest.fixture(scope="session", autouse=True)
def _end_servers() -> Iterator[None]:
    yield
    for server in _servers.values():
        server.close()


@dataclass
class Stack:
    """One hot tier and one store, empty, for one test."""

    name: str
    server: RedisServer
    redis_url: str
    database_url: str

    def settings(self, **changes: object) -> Settings:
        """Settings for it, quick enough for tests, where no report comes that nobody asked for."""
        quick = {"linger": 0.1, "sweep": 0.5, "hydration_timeout": 8.0, "report": 600.0}
        return Settings(redis_url=self.redis_url, database_url=self.database_url, **{**quick, **changes})

    def cache(self, **changes: object) -> SessionCache:
        """A cache over it, as a server of its own would have."""
        return SessionCache(settings=self.settings(**changes))

    def raw(self) -> redis.Redis:
        """A plain client, as an operator has."""
        return redis.Redis.from_url(self.redis_url)


@pytest.fixture(scope="session")
def set_up_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file that was just set up: to copy one is quicker than to set it up each time."""
    path = tmp_path_factory.mktemp("store") / "store.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        upgrade(connection)
    engine.dispose()
    return path


def _store_url(request: pytest.FixtureRequest, name: str, *, empty: bool = False) -> Iterator[str]:
    if name == "sqlite":
        path = request.getfixturevalue("tmp_path") / "store.db"
        shutil.copy(request.getfixturevalue("set_up_sqlite"), path)
        yield f"sqlite:///{path}"
    else:
        with _postgres(name).database(empty=empty) as url:
            yield url


def _stack(request: pytest.FixtureRequest, name: str) -> Iterator[Stack]:
    hot, _, store = name.partition("-")
    server = _hot_server(hot)
    for url in _store_url(request, store):
        _ran[f"{name} with {_versions(server, store)}"] += 1
        yield Stack(name, server, server.url, url)
        with redis.Redis.from_url(server.url) as client:
            client.flushall()
            client.script_flush()  # Whether a script is known hangs on no test before.


def _versions(server: RedisServer, store: str) -> str:
    with redis.Redis.from_url(server.url) as client:
        info = client.info("server")
    hot = info.get("valkey_version") or info["redis_version"]
    return f"{hot} and {_postgres(store).version() if store != 'sqlite' else 'SQLite'}"


@pytest.fixture(params=[*SOME_STACKS, *(pytest.param(name, marks=pytest.mark.long) for name in OTHER_STACKS)])
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Each hot tier with each kind of store; some of them among the long proofs."""
    yield from _stack(request, request.param)


@pytest.fixture(params=SOME_STACKS)
def some_stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Each hot tier and each kind of store once, for tests that take long."""
    yield from _stack(request, request.param)


@pytest.fixture
def one_stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The stack that is on every machine."""
    yield from _stack(request, "valkey9-sqlite")


@pytest.fixture
def postgres_stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The stack that is on every machine, but for its store, which is PostgreSQL."""
    yield from _stack(request, "valkey9-postgres18")


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of the module's own, to be stopped and started."""
    binaries = postgres_wheel()
    if binaries is None:
        missing("postgres18")
    server = PostgresServer(binaries).start()
    yield server
    server.close()


@pytest.fixture
def empty_postgres(request: pytest.FixtureRequest) -> Iterator[str]:
    """A PostgreSQL database without our schema."""
    yield from _store_url(request, "postgres18", empty=True)


# The last one has the locale C, where PostgreSQL takes all that is not ASCII for letters; the one before does not.
@pytest.fixture(params=["sqlite", "postgres18-utf8", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A store of each kind that was just set up, connected to as the library does it."""
    if request.param == "sqlite":
        yield from _set_up(f"sqlite:///{tmp_path}/store.db")
    elif request.param == "postgres":
        for url in _store_url(request, "postgres", empty=True):
            yield from _set_up(url)
    else:
        with _postgres("postgres18").database(locale="C.UTF-8") as url:
            yield from _set_up(url)


def _set_up(url: str) -> Iterator[Engine]:
    engine = prepared(create_engine(url))
    with engine.begin() as connection:
        upgrade(connection)
    yield engine
    engine.dispose()


@pytest.fixture(params=list(HOT))
def own_server(request: pytest.FixtureRequest) -> Iterator[Callable[..., RedisServer]]:
    """Servers of the test's own, to be stopped and started."""
    started: list[RedisServer] = []

    def start(**options: str) -> RedisServer:
        started.append(RedisServer(binary_of(request.param), **options).start())
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def proxy(request: pytest.FixtureRequest) -> Iterator[Callable[[Path], Proxy]]:
    """Proxies in front of a server."""
    made: list[Proxy] = []

    def make(target: Path) -> Proxy:
        made.append(Proxy(target))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what ran to the main process, when several run."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["ran"] = dict(_ran)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Take what ran in another process."""
    _ran.update(getattr(node, "workeroutput", {}).get("ran", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what ran against what, and what long proofs say of themselves."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("redis", "rq", "SQLAlchemy"))
    terminalreporter.section(f"what ran against what ({libraries})")
    for name, count in sorted(_ran.items()):
        terminalreporter.write_line(f"{count:5d} tests on {name}")
    for report in [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]:
        for name, value in report.user_properties:
            terminalreporter.section(f"{report.nodeid} {name}")
            terminalreporter.write_line(str(value))
