"""`sessioncache top`: what it makes of what it sees, what it draws, what a look costs, and all of it in a terminal."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
import redis
from click.testing import CliRunner, Result
from conftest import binary_of
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from servers import RedisServer
from terminal import OTHER_SCREEN, Terminal
from test_workers import workers

from sessioncache import SessionCache, Settings
from sessioncache.cli.main import cli
from sessioncache.cli.screen import age, lines, shares, size, speed
from sessioncache.cli.status import TERMINATED, UNAVAILABLE
from sessioncache.cli.top import _Store
from sessioncache.config import as_environment
from sessioncache.connect import BlockingConnections
from sessioncache.errors import HotTierUnavailable, StoreUnavailable
from sessioncache.flow import Apart, run
from sessioncache.keys import Keyspace
from sessioncache.metrics import NAMES
from sessioncache.ops import PartitionBacklog
from sessioncache.picture import picture
from sessioncache.rates import REMEMBERED_MS, follow, hit_ratio, rates
from sessioncache.registered import RegisteredWorker
from sessioncache.reports import Report
from sessioncache.watch import HotTier, Sample, Stored, sample

PAGE = Path(__file__).parent.parent / "docs" / "operations.md"
NOON = 1_767_268_800_000  # 2026-01-01 12:00 UTC
PERIOD = 5.0


def report(at: float, *, name: str = "web-1:4711:a1", kind: str = "server", started: float = -3600, **counters) -> Report:
    """What a process told at so many seconds after noon."""
    host, pid, _ = name.split(":")
    return Report(name, kind, host, int(pid), NOON + int(started * 1000), NOON + int(at * 1000), "0.1.0", counters, {})


def speeds(*reports: Report, at: float, period: float = PERIOD) -> dict[str, float] | None:
    """What a process does per second at a time, after these reports were seen one after the other."""
    known = {}
    for one in reports:
        known = follow(known, [one], period)
    return rates(known[reports[-1].name], NOON + int(at * 1000), period)


def test_a_rate_is_what_was_counted_between_the_last_two_reports():
    """However often they are looked at in between."""
    first, second = report(0, appends=100), report(5, appends=150, reads_delta=5)
    for seen in [(first, second), (first, first, second, second)]:
        assert speeds(*seen, at=6) == {**dict.fromkeys(NAMES, 0.0), "appends": 10.0, "reads_delta": 1.0}


@pytest.mark.parametrize(
    ("seen", "at", "appends"),
    [
        ([report(5, started=0, appends=100)], 6, 20),  # seen once, but it began then
        ([report(0, appends=100), report(5, appends=30)], 6, 6),  # counters that went down began anew
        ([report(0, appends=100), report(60, appends=200)], 61, 20),  # idle for a while, then busy for one period
        ([report(0, appends=100), report(5, appends=200)], 17, 20),  # the next report may still come
        ([report(0, appends=100), report(5, appends=200)], 18, 0),  # it does not: nothing happens there any more
        ([report(0, appends=100)], 18, 0),  # silent since it was first seen
        ([report(0), report(5, appends=200)], 6, 40),  # a counter that a report lacks is 0
    ],
)
def test_what_a_process_does_per_second(seen, at, appends):
    assert speeds(*seen, at=at)["appends"] == pytest.approx(appends)


def test_what_was_seen_once_tells_no_rate():
    """Nobody knows when it was counted; nor from the same report again. Of a fleet, those count that are known."""
    first, second = report(0, appends=100), report(5, appends=150)
    assert speeds(first, at=1) is None
    assert speeds(first, first, at=1) is None
    found = drawn(follow({}, [first], PERIOD), [first], 1)
    assert (found.rates, found.hit_ratio, found.counters["appends"], found.processes[0].rates) == (None, None, 100, None)
    text = [line.plain for line in lines(found, 2.0, 80)]
    assert "hit ratio ?" in "".join(text)
    assert text[-1].split()[-3:] == ["?", "?", "?"]
    other = report(5, name="web-2:1:b", appends=1)
    assert drawn(follow(follow({}, [first], PERIOD), [second, other], PERIOD), [second, other], 6).rates["appends"] == 10
    assert drawn({}, [], 6).rates["appends"] == 0


@hypothesis_settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 30_000), st.dictionaries(st.sampled_from(NAMES), st.integers(0, 2**60))), min_size=1),
    st.floats(0.1, 600),
)
def test_no_rate_is_below_zero(told, period):
    """Whatever reports say, and in whatever order they come."""
    seen = [report(at / 1000, **counters) for at, counters in told]
    for at in (0, 15, 60):
        assert all(0 <= rate < float("inf") for rate in (speeds(*seen, at=at, period=period) or {}).values())


def test_processes_that_vanished_count_no_more():
    """Nor does what they did lately; one that comes back is known, but not for ever."""
    here, gone = report(0, appends=1), report(0, name="web-2:1:b", appends=1)
    known = follow({}, [here, gone], PERIOD)
    here, gone = report(5, appends=51), report(5, name="web-2:1:b", appends=501)
    known = follow(known, [here, gone], PERIOD)
    assert drawn(known, [here, gone], 6).rates["appends"] == 110
    found = drawn(follow(known, [here], PERIOD), [here], 6)
    assert (found.rates["appends"], found.counters["appends"], len(found.processes)) == (10, 51, 1)
    later = [report(100, appends=60), report(100, name="web-2:1:b", appends=551)]
    assert drawn(follow(follow(known, [later[0]], PERIOD), later, PERIOD), later, 101).rates["appends"] == 10 + 1.8
    much_later = report(5 + REMEMBERED_MS / 1000, appends=60)
    assert set(follow(known, [much_later], PERIOD)) == {here.name}


def drawn(known, reports, at):
    """The picture at so many seconds after noon."""
    return picture("sc", Sample(NOON + int(at * 1000), reports=reports), None, known, PERIOD)


def test_the_hit_ratio():
    """The share of reads that found a hot copy; of no reads there is none."""
    none = dict.fromkeys(NAMES, 0.0)
    assert hit_ratio({**none, "reads_delta": 6.0, "reads_full": 3.0, "reads_missed": 1.0, "misses": 9.0}) == 0.9
    assert hit_ratio({**none, "reads_missed": 1.0}) == 0.0
    assert hit_ratio(none) is None


def backlog(partition: int, dirty: int, pending: int = 0, oldest: float = 0.0, dead: int = 0) -> PartitionBacklog:
    return PartitionBacklog(partition, dirty, pending, 100 * pending, oldest, max(0.0, oldest - 1), dead)


def test_the_worst_partition_stands_first():
    """The oldest op, then the most of them, then dead letters; where nothing waits nothing stands."""
    found = [backlog(0, 0), backlog(1, 1, 5, 2.0), backlog(2, 3, 9, 2.0), backlog(3, 0, dead=2), backlog(4, 1, 1, 7.0)]
    waiting = picture("sc", Sample(NOON, backlogs=found), None, {}, PERIOD).waiting
    assert [one.partition for one in waiting.partitions] == [4, 2, 1, 3]
    assert (waiting.dirty, waiting.pending, waiting.pending_bytes, waiting.dead) == (5, 15, 1500, 2)
    assert (waiting.oldest_pending, waiting.overdue) == (7.0, 6.0)


def busy_system():
    """A picture with a bit of everything, the same each time."""
    servers = [
        ("web-1:4711:a1", {"appends": 2_000, "messages_appended": 4_000, "reads_delta": 1_500, "backpressure": 3}),
        ("web-2:812:b7", {"appends": 500, "messages_appended": 500, "reads_delta": 420, "reads_full": 40,
                          "reads_missed": 15, "hydrations": 15, "sql_loads": 14, "hydration_waits": 2}),
        ("jobs-1:99:c3", {"ops_drained": 4_250, "transactions": 60}),
    ]  # fmt: skip
    known = {}
    for at, factor in ((0, 1), (5, 2)):
        told = [
            report(at, name=name, kind="worker" if "jobs" in name else "server", **{n: factor * c for n, c in did.items()})
            for name, did in servers
        ]
        known = follow(known, told, PERIOD)
    found = Sample(
        NOON + 6_000,
        HotTier("redis", "7.2.4", 123_456_789, 2_000_000_000, 42, 5_120, 0),
        [backlog(n, 0) for n in range(2, 64)] + [backlog(0, 12, 340, 3.25), backlog(1, 2, 7, 0.5, dead=1)],
        told,
        [RegisteredWorker("5b4a7c1f0e6d4b0a9b1c2d3e4f5a6b7c", "busy", "drain-0-of-4-1a2b3c4d-0011223344556677", 1.5),
         RegisteredWorker("7f3e2d1c0b9a48879665544332211000", "idle", "", 48.0)],
    )  # fmt: skip
    return picture("sc", found, Stored(10_250, 1_204_881), known, PERIOD)


def test_the_page_shows_what_it_draws():
    """docs/operations.md has a frame of 80 by 24, drawn by the code as it is."""
    (shown,) = re.findall(r"## Watching it live\n.*?```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert shown == "".join(line.plain.rstrip() + "\n" for line in lines(busy_system(), 2.0, 80, 24))


def test_what_stands_on_the_screen():
    """Each figure, under its name."""
    text = "\n".join(line.plain for line in lines(busy_system(), 2.0, 200))
    for said in ("2026-01-01 12:00:06 UTC", "redis  up   redis 7.2.4   123.5 MB of 2.0 GB (6%)   42 clients   5,120 ops/s",
                 "store  up   10,250 sessions   1,204,881 messages",
                 "lag    3.2 s   347 ops pending, 34.7 kB, of 14 sessions   overdue 2.2 s",
                 "dead   1 dead letter   refused by backpressure 0.6/s (6)", "hit ratio 99.2%"):  # fmt: skip
        assert said in text
    found = dict(re.findall(r"([A-Za-z][A-Za-z ]*?) +([\d,.]+)(?=    |\n|$)", text))
    assert {name: found[name] for name in ("appends", "messages", "ops drained", "delta reads", "full reads",
                                           "missed reads", "hydrations", "waits", "SQL loads")} == {
        "appends": "500.0", "messages": "900.0", "ops drained": "850.0", "delta reads": "384.0", "full reads": "8.0",
        "missed reads": "3.0", "hydrations": "3.0", "waits": "0.4", "SQL loads": "2.8"}  # fmt: skip
    rows = [line.split() for line in text.splitlines()]
    assert ["0", "12", "340", "34.0", "kB", "3.2", "s", "2.2", "s", "0"] in rows
    assert ["5b4a7c1f0e6d4b0a9b1c2d3…", "busy", "1.5", "s", "drain-0-of-4-1a2b3c4d-0011223344556677"] in rows
    assert ["web-1:4711", "server", "60", "min", "1.0", "s", "400.0", "300.0", "0.0"] in rows


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (140, 50), (40, 10), (20, 3), (1, 1), (300, 400)])
def test_a_frame_fits(columns, rows):
    """Also where there is far more than room; the summary comes first, and each table gets its share."""
    known = follow({}, [report(0, name=f"host-{n}:{n}:x") for n in range(50)], PERIOD)
    many = Sample(NOON, HotTier("valkey", "9.1", 5, 0, 1, 1, 0), [backlog(n, n + 1, n + 1, n) for n in range(200)],
                  [one.newest for one in known.values()],
                  [RegisteredWorker("w" * 99, "busy", "j" * 200, 1.0)] * 30)  # fmt: skip
    found = lines(picture("sc", many, Stored(1, 1), known, PERIOD), 2.0, columns, rows)
    assert len(found) <= rows
    assert all(line.cell_len <= columns for line in found)
    text = "\n".join(line.plain for line in found)
    assert text.startswith("sessioncache top"[: columns - 1])
    if (columns, rows) == (80, 24):
        assert len(found) == rows
        assert "partition +196" in text
        assert "worker +26" in text
        assert "process +46" in text
        assert "\n199 " in text
        assert len(lines(busy_system(), 2.0, 80, 50)) < 50


def test_a_process_is_known_by_its_id():
    """Also on a host with a long name."""
    known = follow({}, [report(0, name="a-host-with-a-name-that-never-ends:4711:x")], PERIOD)
    text = "\n".join(line.plain for line in lines(drawn(known, [one.newest for one in known.values()], 1), 2.0, 80))
    assert "\na-host-with-a-name…:4711 server " in text


def test_rooms_are_shared_out():
    """What one table does not need the others get."""
    assert shares(None, [5, 0, 9]) == [5, 0, 9]
    assert shares(6, [5, 0, 9]) == [3, 0, 3]
    assert shares(9, [2, 9, 9]) == [2, 4, 3]
    assert shares(99, [2, 3, 4]) == [2, 3, 4]
    assert shares(-3, [2, 3, 4]) == [0, 0, 0]


def test_what_is_not_known_is_not_shown():
    """No figure that nobody gave, and the reason why."""
    trouble = {"redis": "Redis did not answer.", "queue": "The queue cannot be read."}
    text = "\n".join(
        line.plain for line in lines(picture("sc", Sample(NOON, trouble=trouble), "No database.", {}, PERIOD), 2.0, 120)
    )
    assert "redis  DOWN   Redis did not answer." in text
    assert "store  DOWN   No database." in text
    assert "The queue cannot be read." in text
    assert not re.search(r"\d", text.replace("2026-01-01 12:00:00 UTC   every 2 s", ""))
    assert text.count("?") >= 13


def test_nothing_makes_the_terminal_obey():
    """Names of hosts and workers, and what servers say, come from outside."""
    evil = "\x1b[2J\x07\r\n\x9b31m"
    known = follow({}, [report(0, name=f"a{evil}:1:x")], PERIOD)
    found = Sample(NOON, None, [backlog(1, 1)], [one.newest for one in known.values()],
                   [RegisteredWorker(evil, evil, evil, None)], {"redis": evil, "processes": evil})  # fmt: skip
    for line in lines(picture(evil, found, evil, known, PERIOD), 2.0, 100):
        assert line.plain.isprintable()


def test_numbers_in_the_unit_that_reads_best():
    assert [age(n) for n in (-1, 0, 9.94, 10, 119, 120, 7_199, 7_200, 172_799, 172_800, 10**8)] == [
        "0.0 s", "0.0 s", "9.9 s", "10 s", "119 s", "2 min", "120 min", "2 h", "48 h", "2 d", "1,157 d"]  # fmt: skip
    assert [size(n) for n in (0, 999, 1000, 1_500_000, 2 * 10**9, 10**16)] == [
        "0 B", "999 B", "1.0 kB", "1.5 MB", "2.0 GB", "10,000.0 TB"]  # fmt: skip
    assert [speed(n) for n in (0.0, 0.01, 0.1, 999.94, 1000.4, 10**7)] == [
        "0.0", "<0.1", "0.1", "999.9", "1,000", "10,000,000"]  # fmt: skip


def look(settings: Settings) -> Sample:
    """One look, as `top` takes it."""
    connections = BlockingConnections(settings)
    try:
        return run(sample(connections.state), connections.driver.perform)
    finally:
        connections.close()


def commands(raw) -> Counter[str]:
    """How often each command was executed."""
    return Counter({name: int(one["calls"]) for name, one in raw.info("commandstats").items()})


def make_dirty(raw, space: Keyspace, number: int) -> None:
    """So many sessions with one op each that is not in SQL, as the scripts leave them."""
    now, counts = int(time.time() * 1000), Counter()
    with raw.pipeline(transaction=False) as pipeline:
        for n in range(number):
            keys = space.of(f"many:{n}")
            counts[keys.backlog] += 1
            pipeline.rpush(keys.pending, f"1 {n:016} 0 {now} append s{n}\n{n}\n".encode() + b"\x81\xa7content\xa1a")
            pipeline.zadd(keys.dirty, {keys.session_key: now})
            pipeline.zadd(keys.oldest, {keys.session_key: now})
            pipeline.hset(keys.backlog, f"={keys.session_key}", "1 60")
            pipeline.hset(keys.backlog, "total", f"{counts[keys.backlog]} {60 * counts[keys.backlog]}")
        pipeline.execute()


def test_a_look_costs_the_same_however_much_waits(one_stack, proxy):
    """As many commands and round trips with 10,000 dirty sessions as with ten, and few; nothing is written."""
    through = proxy(one_stack.server.socket)
    settings = replace(one_stack.settings(), redis_url=through.url)
    with one_stack.raw() as raw, one_stack.cache() as cache:
        cache.stats()
        found = []
        for number in (10, 10_000):
            make_dirty(raw, cache._state.keyspace, number)
            connections = BlockingConnections(settings)
            run(sample(connections.state), connections.driver.perform)
            trips, keys = through.trips, sorted(raw.keys("*"))
            raw.config_resetstat()
            seen = run(sample(connections.state), connections.driver.perform)
            found.append((commands(raw), through.trips - trips))
            assert sorted(raw.keys("*")) == keys
            assert sum(one.pending for one in seen.backlogs) == number
            connections.close()
    (few, _), (many, _) = found
    assert few == many
    assert many.total() <= 6 * settings.partitions + 30, many
    assert max(trips for _, trips in found) <= 20  # a long pipeline may be sent, and counted, in several parts


def test_what_is_away_is_told_of_by_itself(one_stack, tmp_path):
    """Redis, the queue's Redis, the wrong number of partitions: the rest is seen all the same."""
    with one_stack.cache() as cache:
        cache.open("k").append({"content": "a"})
    seen = look(one_stack.settings())
    assert seen.trouble == {}
    assert (len(seen.backlogs), seen.workers, seen.reports) == (64, [], [])
    assert abs(seen.at_ms / 1000 - time.time()) < 60
    assert seen.hot.used > 0
    away = f"unix://{tmp_path}/none.sock"
    seen = look(one_stack.settings(queue_url=away))
    assert (set(seen.trouble), seen.workers) == ({"queue"}, None)
    assert sum(one.pending for one in seen.backlogs) == 2
    seen = look(one_stack.settings(partitions=8))
    assert (set(seen.trouble), seen.backlogs) == ({"backlog"}, None)
    assert "64 partitions" in seen.trouble["backlog"]
    seen = look(replace(one_stack.settings(), redis_url=away, queue_url=one_stack.redis_url))
    assert (set(seen.trouble), seen.hot, seen.backlogs, seen.reports, seen.workers) == ({"redis"}, None, None, None, [])


@pytest.mark.parametrize("answered", range(5))
def test_whatever_fails_in_a_look_is_told(one_stack, answered):
    """Redis goes away after so many answers: it is not asked for more, and nothing is raised; the queue is apart."""
    with one_stack.cache() as cache:
        cache.open("k")
    connections, asked = BlockingConnections(one_stack.settings(timeout=2.0, redis_timeout=2.0)), []

    def perform(request):
        asked.append(type(request))
        if len(asked) > answered and not isinstance(request, Apart):
            raise HotTierUnavailable("It went away.")
        return connections.driver.perform(request)

    seen = run(sample(connections.state), perform)
    connections.close()
    assert seen.workers == []
    assert asked[-1] is Apart
    if answered < 4:
        assert (seen.trouble, seen.hot, seen.reports) == ({"redis": "It went away."}, None, None)
        assert len(asked) == answered + 2
    else:
        assert (seen.trouble, len(asked)) == ({}, 5)


class _Hanging:
    """A store that says nothing until it is let go."""

    def __init__(self) -> None:
        self.go, self.answers = threading.Event(), [StoreUnavailable("It is away."), (3, 4)]

    def perform(self, _request):
        self.go.wait(30)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_store_that_hangs_holds_up_nobody(monkeypatch):
    """It is told of as long as it is silent, then what it said at last; what took long is not asked again soon."""
    monkeypatch.setattr("sessioncache.cli.top.SLOW", 0.1)
    hanging = _Hanging()
    store = _Store(type("Connections", (), {"driver": hanging}), 0.05)
    assert store.said() is None
    pauses = []
    thread = threading.Thread(target=lambda: pauses.append(store.ask()))
    thread.start()
    until(lambda: str(store.said()).startswith("The database has not answered for"))
    hanging.go.set()
    thread.join()
    assert (store.said(), pauses) == ("It is away.", [0.05])
    hanging.go.clear()
    threading.Timer(0.3, hanging.go.set).start()
    assert store.ask() >= 20 * 0.1
    assert store.said() == Stored(3, 4)


def until(condition) -> None:
    """Wait for what is sure to come."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def top(settings: Settings, *arguments: str) -> Result:
    """The command in a pipe."""
    return CliRunner().invoke(cli, ["top", *arguments], env=as_environment(settings))


QUICK = ("--interval", "0.2")


def test_one_picture_for_a_pipe(one_stack):
    """With --json one object with every figure, the same that `stats` knows; without, the frame in full; status 0."""
    settings = one_stack.settings(report=0.5)
    with one_stack.raw() as raw, SessionCache(settings=settings) as cache:
        sessions = [cache.open(f"k{n}") for n in range(40)]
        cache.flush()
        for session in sessions:
            session.append([{"content": "a"}, {"content": "b"}])
        raw.rpush("sc:{007}:dead", b"1 payload k0\n")
        with telling(cache):
            until(lambda: [one.counters["appends"] for one in look(settings).reports] == [40])
            done = top(settings, *QUICK, "--json")
        truth = cache.stats()
        assert done.exit_code == 0
        (line,) = done.output.splitlines()
        found = json.loads(line)
        assert found["trouble"] == {}
        assert {name: found["waiting"][name] for name in ("dirty", "pending", "dead")} == {
            "dirty": 40, "pending": 80, "dead": 1}  # fmt: skip
        assert (truth.dirty, truth.pending, truth.dead) == (40, 80, 1)
        assert sum(one["pending"] for one in found["waiting"]["partitions"]) == 80
        assert (found["store"], found["workers"]) == ({"sessions": 40, "messages": 0}, [])
        assert found["redis"]["clients"] >= 1
        assert (found["counters"]["appends"], found["counters"]["messages_appended"]) == (40, 80)
        assert [one["pid"] for one in found["processes"]] == [os.getpid()]
        done = top(settings, "--once", *QUICK)
    assert done.exit_code == 0
    rows = re.findall(r"^\d+ +\d+ +\d+ +\d+ B ", done.output, re.MULTILINE)
    assert len(rows) == len(found["waiting"]["partitions"])
    assert "80 ops pending" in done.output
    assert "\x1b" not in done.output


@contextmanager
def telling(cache: SessionCache):
    """Something to report all the time: an app server without work is silent after a while."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.1):
            cache._state.counters.add("retries")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_one_picture_while_tiers_are_away(one_stack, tmp_path):
    """Status 5, and why, in the picture."""
    away = replace(one_stack.settings(report=0.5), redis_url=f"unix://{tmp_path}/none.sock",
                   database_url=f"sqlite:///{tmp_path}/none/a.db")  # fmt: skip
    done = top(away, "--json", *QUICK)
    assert done.exit_code == UNAVAILABLE
    found = json.loads(done.output)
    assert (found["redis"], found["waiting"], found["rates"], found["store"]) == (None, None, None, None)
    assert "Redis did not answer" in found["trouble"]["redis"]
    assert "database" in found["trouble"]["store"]


def test_live(tmp_path, set_up_sqlite):
    """80 by 24, while writers and a worker are at work, Redis and SQL go and come, until Ctrl-C: what it shows is so."""
    server = RedisServer(binary_of("valkey9")).start()
    (tmp_path / "soon").mkdir()
    shutil.copy(set_up_sqlite, tmp_path / "soon" / "a.db")
    settings = Settings(redis_url=server.url, database_url=f"sqlite:///{tmp_path}/later/a.db", lanes=1, report=0.3,
                        linger=0.1, sweep=0.3, redis_timeout=0.5, timeout=1.0)  # fmt: skip
    try:
        with Terminal("top", *QUICK, settings=settings) as screen:
            screen.shows(r"redis  up   valkey [\d.]+ ")
            screen.shows(r"store  DOWN   The database could not do it now")
            (tmp_path / "soon").rename(tmp_path / "later")
            screen.shows(r"store  up   0 sessions   0 messages")
            _work(screen, settings)
            server.kill()
            screen.shows(r"redis  DOWN   Redis did not answer")
            screen.shows(r"lag    \?\n")
            server.start()
            screen.shows(r"redis  up .*\n(.*\n)+lag    0\.0 s   0 ops pending")
            screen.resize(140, 50)
            screen.until(lambda text: "no bound" in text.splitlines()[1] and text.splitlines()[5] == "")
            screen.press(b"\x1a")  # Ctrl-Z would leave its screen behind
            screen.press_interrupt()
            assert screen.ended() == 0
            assert OTHER_SCREEN in screen.raw
    finally:
        server.close()


def _work(screen: Terminal, settings: Settings) -> None:
    """Append and read, then drain: the figures on the screen are what was done."""
    with SessionCache(settings=replace(settings, redis_timeout=20.0, timeout=60.0)) as cache:
        with writing(cache) as done:
            screen.until(lambda text: figure(text, "appends") > 0)
            found = [compared(screen, done)]
            while found[-1] != pytest.approx({"appends": 1, "messages": 2, "delta reads": 1}, rel=0.5):
                assert len(found) < 6, found  # a machine that is busy may hold it up for a while
                found.append(compared(screen, done))
            screen.shows(rf":{os.getpid()} +server ")
            screen.shows("hit ratio (9[0-9]|100)")
        truth = cache.stats()
        screen.shows(f"   {truth.pending:,} ops pending, [0-9.]+ kB, of {truth.dirty} sessions   overdue [0-9.]+ s")
        screen.until(lambda text: figure(text, "appends") == 0 == figure(text, "messages"))
        with workers(settings, "--processes", "1"):
            with writing(cache):  # so that there is something to drain until it was seen
                screen.until(lambda text: figure(text, "ops drained") > 0)
            until(lambda: not cache.stats().pending)  # the screen may show an earlier moment
            stored = cache.stats()
            screen.shows("   0 ops pending, 0 B, of 0 sessions   overdue 0.0 s")
            screen.shows(f"store  up   {stored.sessions} sessions   {stored.messages:,} messages")
            screen.shows("\nworker  .*\n[0-9a-f]{23}… idle +[0-9]")
            screen.until(lambda text: figure(text, "ops drained") == 0)
        with redis.Redis.from_url(settings.redis_url) as raw:
            raw.rpush("sc:{007}:dead", b"1 payload k0\n")
            screen.shows("dead   1 dead letter ")
            raw.delete("sc:{007}:dead")
        screen.shows("dead   0 dead letters ")


def compared(screen: Terminal, done: Counter[str]) -> dict[str, float]:
    """The rates that are shown over some time, each as a multiple of the appends that were made meanwhile."""
    start, before, shown = time.monotonic(), done["appends"], defaultdict(list)
    for _ in range(20):
        time.sleep(0.1)
        for label in ("appends", "messages", "delta reads"):
            shown[label].append(figure("\n".join(screen.lines()), label))
    pace = (done["appends"] - before) / (time.monotonic() - start)
    return {label: median(figures) / pace for label, figures in shown.items()}


@contextmanager
def writing(cache: SessionCache):
    """A writer and reader of six sessions, at a steady pace; how many appends of two messages it made."""
    stop, done = threading.Event(), Counter()
    sessions = [cache.open(f"k{n}") for n in range(6)]

    def work() -> None:
        while not stop.wait(0.02):
            session = sessions[done["appends"] % 6]
            session.append([{"content": "a"}, {"content": "b"}])
            session.history()
            done["appends"] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


def figure(text: str, label: str) -> float:
    """The number behind a label; 0 where a frame is only half drawn."""
    found = re.search(rf"(?:^|    ){label} +([\d,.]+)", text, re.MULTILINE)
    return float(found[1].replace(",", "")) if found else 0.0


def test_it_ends_while_redis_hangs(own_redis, tmp_path):
    """Ctrl-C, or SIGTERM, in the middle of a look that gets no answer: at once, with the terminal as it was."""
    settings = Settings(
        redis_url=own_redis.url, database_url=f"sqlite:///{tmp_path}/a.db", redis_timeout=30.0, timeout=30.0
    )
    for end, status in (
        (Terminal.press_interrupt, 0),
        (lambda screen: screen.send(signal.SIGTERM), TERMINATED),
    ):
        with Terminal("top", *QUICK, settings=settings, columns=140, lines=50) as screen:
            screen.shows("redis  up ")
            own_redis.process.send_signal(signal.SIGSTOP)
            try:
                time.sleep(0.5)  # so that it waits for an answer
                end(screen)
                assert screen.ended() == status
            finally:
                own_redis.process.send_signal(signal.SIGCONT)
            assert OTHER_SCREEN in screen.raw


@pytest.fixture
def own_redis():
    """A server of the test's own."""
    server = RedisServer(binary_of("valkey9")).start()
    yield server
    server.close()


@pytest.mark.long
def test_a_frozen_database_stops_nothing_else(own_redis, own_postgres):
    """SQL stands still: it says so, what waits is seen to grow all the same; then SQL goes on."""
    with own_postgres.database() as url:
        settings = Settings(redis_url=own_redis.url, database_url=url, report=0.3)
        with SessionCache(settings=settings) as cache, Terminal("top", *QUICK, settings=settings) as screen:
            session = cache.open("k")
            session.append({"content": "a"})
            screen.shows("store  up ")
            screen.shows("   2 ops pending")
            with own_postgres.frozen():
                screen.shows("store  DOWN   The database ")
                for n in range(3, 6):
                    session.append({"content": "b"})
                    screen.shows(f"   {n} ops pending")
                screen.shows("store  DOWN   The database ")
            screen.shows("store  up ")
            screen.press_interrupt()
            assert screen.ended() == 0
