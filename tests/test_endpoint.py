"""What workers serve: a real worker process, scraped, while the servers behind it come and go."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from http.client import HTTPConnection

import pytest
from conftest import binary_of
from fleet import children
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from servers import PostgresServer, RedisServer, python
from sqlalchemy import create_engine, text
from test_workers import until

from sessioncache import AsyncSessionCache, ConfigurationError, SessionCache
from sessioncache.addresses import http_address
from sessioncache.config import Settings, as_environment
from sessioncache.metrics import BOUNDS, NAMES
from sessioncache.migrate import upgrade
from sessioncache.prometheus import COUNTERS, HISTOGRAMS, NEAR, READS, SYSTEM, Collector
from sessioncache.reports import fleet
from workers.endpoint import Endpoint

Samples = dict[str, float]


def parsed(exposed: str) -> Samples:
    """All samples, by name and labels."""
    return {
        one.name + "".join(f" {name}={value}" for name, value in sorted(one.labels.items())): one.value
        for family in text_string_to_metric_families(exposed)
        for one in family.samples
    }


def total(samples: Samples, name: str) -> float:
    """The sum over all processes."""
    return sum(value for key, value in samples.items() if key.partition(" ")[0] == f"sessioncache_{name}")


class Served:
    """An endpoint at work, and the process that serves it."""

    def __init__(self, port: int, pid: int) -> None:
        self.port, self.pid = port, pid

    def ask(self, path: str, method: str = "GET") -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metrics(self) -> Samples:
        status, exposed = self.ask("/metrics")
        assert status == 200
        return parsed(exposed)

    def wrong(self) -> set[str]:
        """What is not ready, by name; nothing where all is."""
        status, body = self.ask("/readyz")
        told = json.loads(body)
        assert (status == 200) == told["ready"] == (not told["wrong"])
        assert all(value.endswith(".") for value in told["wrong"].values())
        return set(told["wrong"])


@contextmanager
def serving(settings: Settings, *command: str) -> Iterator[tuple[Served, list[str]]]:
    """A worker that serves where there is room, and what it logs."""
    command = command or ("-m", "workers", "--processes", "1", "--http", "127.0.0.1:0")
    process = python(*command, env={**os.environ, **as_environment(settings)}, stderr=-1, text=True)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: [lines.append(line) for line in process.stderr])
    reader.start()
    try:
        until(lambda: any("readiness on" in line for line in lines) or process.poll() is not None)
        (port,) = [re.search(r"http://127.0.0.1:(\d+)", line)[1] for line in lines if "readiness on" in line]
        yield Served(int(port), process.pid), lines
    finally:
        process.terminate()
        process.wait(30)
        reader.join()
        process.stderr.close()


def test_a_worker_is_scraped(one_stack):
    """Its counters are those of what was done, by an independent reader; the gauges those of the whole system.

    `sessioncache worker` passes everything on, its logs are JSON lines, workers report also when they are idle, and nothing
    is left of the reports when all has ended.
    """
    settings = one_stack.settings(lanes=1, report=0.5)
    words = ("worker", "--processes", "1", "--http", "127.0.0.1:0", "--log-format", "json")
    command = ("-c", "from sessioncache.cli.main import main; main()", *words)
    with one_stack.cache(lanes=1, report=0) as cache, serving(settings, *command) as (served, lines):
        sessions = [cache.open(f"key {n}") for n in range(3)]
        for session in sessions:
            session.append([{"content": "hidden"}] * 10)
        until(lambda: cache.stats().pending == 0)
        until(lambda: total(served.metrics(), "ops_drained_total") == 33)
        until(lambda: served.metrics()["sessioncache_processes kind=worker"] == 2)
        until(lambda: served.metrics()["sessioncache_workers"] == 1)
        found = served.metrics()
        assert total(found, "transactions_total") == total(found, "drain_seconds_count") > 0
        assert total(found, "batch_ops_sum") == 33
        assert total(found, "appends_total") == 0
        assert len([key for key in found if key.startswith("sessioncache_nudges_total process=")]) == 2
        assert {name: found[f"sessioncache_{name}"] for name in SYSTEM} == {
            "pending_ops": 0, "pending_bytes": 0, "dirty_sessions": 0, "oldest_pending_seconds": 0, "dead_letters": 0,
            "workers": 1, "stored_sessions": 3, "stored_messages": 30,
        }  # fmt: skip
        assert found["sessioncache_processes kind=server"] == 0
        assert (found["sessioncache_tier_up tier=redis"], found["sessioncache_tier_up tier=store"]) == (1, 1)
        assert served.wrong() == set()
        assert served.ask("/livez")[0] == 200
        assert served.ask("/metrics", "HEAD") == (200, "")
        assert [served.ask(path)[0] for path in ("/", "/../metrics", "/metrics/x")] == [404] * 3
        assert served.ask("/metrics", "POST")[0] == 501
        idle = cache._run(fleet(cache._state))
        until(lambda: min(one.at_ms for one in cache._run(fleet(cache._state))) > max(one.at_ms for one in idle) + 300)
        everything = served.ask("/metrics")[1]
        (pid,) = children(served.pid)
        os.kill(pid, signal.SIGKILL)
        until(lambda: any("starting another" in line for line in lines))
    told = [json.loads(line) for line in lines]
    (ended,) = [line for line in told if "starting another" in line["message"]]
    assert (ended["worker"], ended["reason"], ended["level"]) == (pid, "status -9", "WARNING")
    assert ended["logger"] == "workers.runtime"
    assert not [secret for secret in ("hidden", "key 1") if secret in everything + "".join(lines)]
    with one_stack.raw() as raw:
        left = [name.decode() for name in raw.keys("sc:process:*")]
        assert all(f":{pid}:" in name for name in left)  # a process that is killed leaves its report to end by itself


@pytest.fixture
def own_valkey() -> Iterator[RedisServer]:
    server = RedisServer(binary_of("valkey9")).start()
    yield server
    server.close()


@pytest.fixture
def store_of_its_own(own_postgres: PostgresServer) -> Iterator[str]:
    with own_postgres.database(empty=True) as url:
        engine = create_engine(url)
        with engine.begin() as connection:
            upgrade(connection)
        engine.dispose()
        yield url


def test_a_worker_tells_what_is_away(own_postgres, store_of_its_own, own_valkey):
    """SQL, then Redis: alive, not ready, metrics all the same, nothing stale among them; then all is as before."""
    server = own_valkey
    settings = Settings(
        redis_url=server.url, database_url=store_of_its_own, lanes=1, report=0.5, ready_lag=0.5, database_timeout=2.0,
        redis_timeout=1.0, retry_pause=0.2,
    )  # fmt: skip
    with SessionCache(settings=settings) as cache, serving(settings) as (served, _):
        session = cache.open("k")
        session.append({"content": "a"})
        until(lambda: served.wrong() == set() and served.metrics()["sessioncache_stored_messages"] == 1)
        own_postgres.stop()
        session.append({"content": "b"})
        until(lambda: served.wrong() == {"store", "lag"})
        assert "(08001)" in served.ask("/readyz")[1]
        begun = time.monotonic()
        found = served.metrics()
        assert time.monotonic() - begun < 15
        assert (found["sessioncache_tier_up tier=redis"], found["sessioncache_tier_up tier=store"]) == (1, 0)
        assert found["sessioncache_pending_ops"] == 1
        assert "sessioncache_stored_messages" not in found
        assert served.ask("/livez")[0] == 200
        own_postgres.serve()
        until(lambda: served.wrong() == set() and served.metrics()["sessioncache_stored_messages"] == 2)
        server.kill()
        until(lambda: served.wrong() >= {"redis"})
        found = served.metrics()
        assert (found["sessioncache_tier_up tier=redis"], found["sessioncache_tier_up tier=store"]) == (0, 1)
        assert not {f"sessioncache_{name}" for name in SYSTEM} - {
            "sessioncache_stored_sessions", "sessioncache_stored_messages",
        } & set(found)  # fmt: skip
        assert served.ask("/livez")[0] == 200
        server.start()
        until(lambda: served.wrong() == set())


def test_a_schema_that_is_not_ours(one_stack):
    """Not ready, and the sentence says which command mends it; a wrong number of partitions too."""
    engine = create_engine(one_stack.database_url)
    with endpoint(one_stack.settings()) as served, one_stack.cache() as cache:
        cache.open("k")
        with engine.begin() as connection:
            connection.execute(text("UPDATE sessioncache_version SET version_num = '0000'"))
        until(lambda: served.wrong() == {"schema"})
        assert "db upgrade" in served.ask("/readyz")[1]
        with endpoint(one_stack.settings(partitions=8)) as other:
            until(lambda: "layout" in other.wrong())
    engine.dispose()


@contextmanager
def endpoint(settings: Settings, alive=dict) -> Iterator[Served]:
    """An endpoint without a worker."""
    with free_port() as port:
        pass
    found = Endpoint(replace(settings, http=f"127.0.0.1:{port}"), alive, lambda _: [])
    try:
        yield Served(port, os.getpid())
    finally:
        found.close()


@contextmanager
def free_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_supervisor_that_hangs_is_not_alive(one_stack):
    """Whoever restarts it is told, and why."""
    with endpoint(one_stack.settings(), alive=lambda: {"schedule": "Its thread has ended."}) as served:
        assert served.ask("/livez") == (503, '{"alive": false, "wrong": {"schedule": "Its thread has ended."}}\n')


# A healthy worker answers its liveness at once; whoever restarts it waits for a second or some.
IN_TIME = 2.0


def alive_in_time(served: Served) -> None:
    begun = time.monotonic()
    assert served.ask("/livez")[0] == 200
    assert time.monotonic() - begun < IN_TIME


BEGUN, ASKED = b"GET /livez HTTP/1.1\r\nX-Long: ", b"GET /livez HTTP/1.1\r\n\r\n"
CROWDS = {
    "silent": [b""] * 8,
    "dripping": [BEGUN] * 8,
    "many, half of them silent": [b"", ASKED] * 40,
    "more than have room": [BEGUN] * 150,
}


@pytest.mark.parametrize("crowd", CROWDS.values(), ids=CROWDS)
def test_liveness_waits_for_no_other_client(one_stack, crowd):
    """Whatever they sent so far, and however many they are; again and again while they go on, byte by byte."""
    with endpoint(one_stack.settings()) as served, ExitStack() as there:
        clients = [there.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=30)) for _ in crowd]
        for client, sent in zip(clients, crowd, strict=True):
            try_to_send(client, sent)
        for _ in range(5):
            alive_in_time(served)
            for client in clients:
                try_to_send(client, b"x")


def try_to_send(client: socket.socket, sent: bytes) -> bool:
    """Send; False where the connection has been closed."""
    try:
        client.sendall(sent)
    except OSError:
        return False
    return True


def test_liveness_waits_for_no_tier(one_stack, own_valkey):
    """Redis stands still, and more ask for metrics than may wait for it: they are told to come again, or are answered."""
    answers: list[int] = []
    with endpoint(replace(one_stack.settings(), redis_url=own_valkey.url)) as served:
        askers = [
            threading.Thread(target=lambda path=path: answers.append(served.ask(path)[0]))
            for path in ["/metrics"] * 24 + ["/readyz"] * 4
        ]
        os.kill(own_valkey.process.pid, signal.SIGSTOP)
        try:
            for one in askers:
                one.start()
            until(lambda: answers.count(503) > len(askers) // 2)
            alive_in_time(served)
        finally:
            os.kill(own_valkey.process.pid, signal.SIGCONT)
            for one in askers:
                one.join()
        assert len(answers) == len(askers)
        until(lambda: served.ask("/metrics")[0] == 200)


def test_clients_that_do_not_ask_are_let_go(one_stack, monkeypatch):
    """After a short time in all, also those that drip; the answer of one that asked is not cut short by that."""
    monkeypatch.setattr("workers.endpoint.ASKING_SECONDS", 0.5)
    slow = threading.Event()
    with endpoint(one_stack.settings(), alive=lambda: (slow.wait(20), {})[1]) as served, ExitStack() as there:
        address = ("127.0.0.1", served.port)
        silent, dripping, asking = [there.enter_context(socket.create_connection(address, timeout=30)) for _ in range(3)]
        asking.sendall(ASKED)
        dripping.sendall(BEGUN)
        begun = time.monotonic()
        until(lambda: not try_to_send(dripping, b"x"))
        assert silent.recv(100) == b""
        assert time.monotonic() - begun < 4
        slow.set()
        assert asking.recv(12) == b"HTTP/1.0 200"


def test_an_address_in_use(one_stack):
    """Is said at the start, with a status."""
    with free_port() as port:
        settings = one_stack.settings(http=f"127.0.0.1:{port}")
        with pytest.raises(ConfigurationError, match="free port"):
            Endpoint(settings, dict, lambda _: [])


@pytest.mark.parametrize("wrong", ["9108", ":9108", "localhost", "a b:1", "h:-1", "h:65536", "h:x", "::1:9108"])
def test_addresses_that_are_none(wrong):
    """It takes a host: what listens on all networks says so."""
    with pytest.raises(ConfigurationError, match="HOST:PORT"):
        Settings(http=wrong)
    assert http_address("[::1]:9108") == ("::1", 9108)


def test_without_the_package(one_stack):
    """The worker ends with a sentence that names the extra."""
    without = "import sys, runpy; sys.modules['prometheus_client'] = None; sys.argv = ['workers', '--http', '127.0.0.1:0']"
    code = f"{without}; runpy.run_module('workers', run_name='__main__')"
    process = python("-c", code, env={**os.environ, **as_environment(one_stack.settings())}, stderr=-1, text=True)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in told
    assert "pip install 'sessioncache[metrics]'" in told


def exposed(*caches) -> Samples:
    registry = CollectorRegistry()
    registry.register(Collector(*caches))
    return parsed(generate_latest(registry).decode())


def test_an_application_exposes_its_caches(one_stack):
    """All names, the numbers of this process, told apart by prefix and added up where that is the same; no I/O."""
    with one_stack.cache() as one, one_stack.cache() as two, one_stack.cache(prefix="other") as other:
        session = one.open("k")
        session.append([{"content": "abc"}] * 2)
        session.messages()
        session.append({"content": "d"})
        session.messages()
        two.get("k").append({"content": "e"})
        assert len(two.get("k").messages()) == 4
        other.open("k").append({"content": "f"})
        found = exposed(one, two, other, AsyncSessionCache(settings=one_stack.settings(prefix="third")))
        assert found["sessioncache_appends_total prefix=sc"] == 3
        assert found["sessioncache_appends_total prefix=other"] == 1
        assert found["sessioncache_appends_total prefix=third"] == 0
        assert found["sessioncache_messages_appended_total prefix=sc"] == 4
        assert found["sessioncache_reads_total outcome=full prefix=sc"] == 2
        assert found["sessioncache_reads_total outcome=delta prefix=sc"] == 1
        assert found["sessioncache_append_seconds_count prefix=sc"] == 3
        assert found["sessioncache_append_seconds_bucket le=+Inf prefix=sc"] == 3
        assert found["sessioncache_near_sessions prefix=sc"] == 2
        assert found["sessioncache_near_bytes prefix=sc"] > 0
    buckets = [value for key, value in found.items() if "read_seconds_bucket" in key and "prefix=sc" in key]
    assert buckets == sorted(buckets)
    assert {key.partition(" ")[0] for key in found} == {
        *(f"sessioncache_{name}_total" for name in (*COUNTERS, "reads")),
        *(f"sessioncache_{name}{end}" for name in HISTOGRAMS for end in ("_bucket", "_sum", "_count")),
        *(f"sessioncache_{name}" for name in NEAR),
    }


def test_everything_that_is_counted_is_exported():
    """A counter that is new stands in one of the tables."""
    assert {*COUNTERS, *READS.values()} == set(NAMES)
    assert set(HISTOGRAMS) == set(BOUNDS)
    assert sys.modules["sessioncache.prometheus"].CONTENT_TYPE.startswith("text/plain")
