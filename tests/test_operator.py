"""Point 10: what an operator sees with redis-cli is what the keyspace table says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
from click.testing import CliRunner
from conftest import missing

from sessioncache import keys as keyspace
from sessioncache.cli.main import cli
from sessioncache.cli.status import UNAVAILABLE
from sessioncache.config import as_environment
from sessioncache.schema import HEAD
from sessioncache.scripts import LEASE

KEY = "telegram:dm:42"


@pytest.fixture
def redis_cli(some_stack):
    """redis-cli on the running system: the lines it prints, escaped as on a terminal."""
    program = shutil.which("redis-cli") or missing("redis-cli")

    def ask(*arguments: str) -> list[str]:
        command = [program, "-s", str(some_stack.server.socket), "--no-raw", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    return ask


def test_what_redis_cli_shows(some_stack, redis_cli):
    """--scan, LRANGE, LLEN, TTL, ZRANGE and HGETALL, before and after a flush."""
    with some_stack.cache(queue_url="redis://127.0.0.1:1/0") as cache:
        session = cache.open(KEY, owner="alice")
        first, second = session.append([{"content": "hello"}, {"content": "again"}])
        names = {line.strip('"') for line in redis_cli("--scan", "--pattern", "sc:*")}
        p = f"sc:{{{cache._state.keyspace.partition_of(KEY):03d}}}"
        assert names == {f"{p}:history:{KEY}", f"{p}:meta:{KEY}", f"{p}:pending:{KEY}", f"{p}:dirty", f"{p}:wake",
                         f"{p}:backlog", f"{p}:oldest", "sc:{000}:layout"}  # fmt: skip
        for name, kind in {"history": "list", "meta": "hash", "pending": "list"}.items():
            assert redis_cli("TYPE", f"{p}:{name}:{KEY}") == [kind]
        assert redis_cli("LLEN", f"{p}:history:{KEY}") == ["(integer) 2"]
        newest = redis_cli("LRANGE", f"{p}:history:{KEY}", "-1", "-1")[0]
        assert newest.startswith(f'1) "{second.seq} ')
        assert f" {second.id}\\n" in newest
        assert "again" in newest
        assert redis_cli("LLEN", f"{p}:pending:{KEY}") == ["(integer) 3"]
        oldest = redis_cli("LRANGE", f"{p}:pending:{KEY}", "0", "0")[0]
        assert f" start {session.session_id}\\n" in oldest
        assert f" append {session.session_id}\\n" in redis_cli("LRANGE", f"{p}:pending:{KEY}", "1", "1")[0]
        assert redis_cli("ZRANGE", f"{p}:dirty", "0", "-1") == [f'1) "{KEY}"']
        assert redis_cli("TTL", f"{p}:pending:{KEY}") == ["(integer) -1"]
        assert redis_cli("TTL", f"{p}:dirty") == ["(integer) -1"]
        for name in ("history", "meta"):
            assert 3000 < int(redis_cli("TTL", f"{p}:{name}:{KEY}")[0].split()[-1]) < 4000
        assert 0 < int(redis_cli("TTL", f"{p}:wake")[0].split()[-1]) <= 10
        meta = redis_cli("HGETALL", f"{p}:meta:{KEY}")
        flat = [line.split(") ", 1)[1].strip('"') for line in meta]
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        assert fields["session_id"] == session.session_id
        assert (fields["count"], fields["total"], fields["owner"]) == ("2", "2", "alice")
        assert fields["version"] == str(second.seq) == str(first.seq + 1)
        assert fields["run"] in "".join(redis_cli("INFO", "server"))
        cache.flush()
        names = {line.strip('"') for line in redis_cli("--scan", "--pattern", "sc:*")}
        assert names == {f"{p}:history:{KEY}", f"{p}:meta:{KEY}", f"{p}:wake", "sc:{000}:layout"}


def test_the_table_is_all_there_is(some_stack):
    """Every key ever written stands in the table, with its type, and only what it says has a TTL."""
    with some_stack.cache(queue_url="redis://127.0.0.1:1/0") as cache, some_stack.raw() as raw:
        session = cache.open(KEY)
        session.append({"content": "a"})
        keys = cache._state.keyspace.of(KEY)
        cache.evict(KEY)
        raw.eval(LEASE.text, 4, keys.meta, keys.history, keys.pending, keys.lease, "somebody", 60_000)
        raw.rpush(keys.dead, "letter")
        raw.set("sc:schedule", "x", px=1000)
        rows = [line.split() for line in keyspace.__doc__.splitlines() if line.startswith("``sc")]
        documented = {
            row[0].strip("`").split(":")[2 if "{" in row[0] else 1]: (row[1], row[2]) for row in rows if ":" in row[0]
        }
        for name in raw.scan_iter("sc:*"):
            parts = name.decode().split(":")
            kind = parts[2] if "{" in parts[1] else parts[1]
            expected_type, ttl = documented[kind]
            assert raw.type(name).decode() == expected_type
            assert (raw.ttl(name) == -1) == (ttl == "none"), name


@pytest.mark.parametrize("partitions", [1, 7, 64, 1000])
def test_keys_prints_what_is_there(some_stack, monkeypatch, partitions):
    """`sessioncache keys KEY`: the names that redis-cli is to be given."""
    with some_stack.cache(partitions=partitions, lanes=1) as cache, some_stack.raw() as raw:
        cache.open(KEY).append({"content": "a"})
        for name, value in as_environment(cache.settings).items():
            monkeypatch.setenv(name, value)
        printed = CliRunner().invoke(cli, ["keys", KEY])
        assert printed.exit_code == 0
        named = dict(line.split(None, 1) for line in printed.output.splitlines())
        assert set(named) == {"meta", "history", "pending", "lease", "turn", "dirty", "backlog", "oldest", "dead",
                              "wake", "holds", "held"}  # fmt: skip
        for kind in ("meta", "history", "pending", "dirty", "wake"):
            assert raw.exists(named[kind])


def test_the_other_commands(some_stack, monkeypatch):
    """stats, flush, evict, db current."""
    with some_stack.cache() as cache:
        cache.open(KEY).append({"content": "a"})
        for name, value in as_environment(cache.settings).items():
            monkeypatch.setenv(name, value)
        run = CliRunner()
        assert "pending         2" in run.invoke(cli, ["stats"]).output
        assert run.invoke(cli, ["flush", KEY]).output == "2 ops drained\n"
        assert run.invoke(cli, ["flush"]).output == "0 ops drained\n"
        assert run.invoke(cli, ["evict", KEY]).output == "evicted\n"
        assert run.invoke(cli, ["evict", KEY]).output == "there was no hot copy\n"
        assert run.invoke(cli, ["db", "current"]).output == f"{HEAD}\n"
        assert json.loads(run.invoke(cli, ["db", "current", "--json"]).output) == {"schema": HEAD, "wanted": HEAD}
        assert run.invoke(cli, ["db", "upgrade"]).output == f"the schema is at {HEAD}\n"


def test_a_failing_command_says_why(tmp_path):
    """One sentence, no traceback, the exit status of what may succeed later."""
    environment = {**os.environ, "SESSIONCACHE_REDIS_URL": f"unix://{tmp_path}/none.sock",
                   "SESSIONCACHE_DATABASE_URL": f"sqlite:///{tmp_path}/a.db", "SESSIONCACHE_TIMEOUT": "1",
                   "SESSIONCACHE_REDIS_TIMEOUT": "0.5"}  # fmt: skip
    command = [os.sys.executable, "-c", "from sessioncache.cli.main import main; main()", "flush"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == UNAVAILABLE
    assert done.stderr.startswith("sessioncache: Redis did not answer")
    assert "Traceback" not in done.stderr
