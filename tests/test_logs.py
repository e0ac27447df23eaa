"""What logs say: fields of one vocabulary, no message, no password."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from test_dead import MEND, REFUSE

import sessioncache
from sessioncache import SessionCacheError
from sessioncache.config import Settings
from sessioncache.connect import BlockingConnections
from sessioncache.prometheus import COUNTERS, HISTOGRAMS, NEAR, PREFIX, SYSTEM
from workers.logs import FIELDS, JsonLines, TextLines, set_up
from workers.schedule import Schedule

ROOT = Path(sessioncache.__file__).parent.parent
SECRETS = ("tell-nobody", "pass-word")


def rows(heading: str) -> list[str]:
    """The first cells of the table under a heading of docs/metrics.md."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE)


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("Counters", [f"{PREFIX}{name}_total" for name in ("reads", *COUNTERS)]),
        ("Histograms", [PREFIX + name for name in HISTOGRAMS]),
        ("Gauges of a process", [PREFIX + name for name in NEAR]),
        ("Gauges of the whole system", [PREFIX + name for name in (*SYSTEM, "processes", "tier_up")]),
        ("Traces", [f"sessioncache.{name}" for name in ("append", "read", "hydrate", "drain")]),
        ("Logs", list(FIELDS)),
    ],
)
def test_the_page_has_every_name(heading, names):
    """And none that is not there; what each is stands beside it."""
    assert sorted(rows(heading)) == sorted(names)


def given_fields() -> set[str]:
    """The keys of every mapping that a log call is given as ``extra``."""
    found: set[str] = set()
    for path in [*ROOT.glob("sessioncache/**/*.py"), *ROOT.glob("workers/*.py")]:
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and "extra=" in ast.unparse(function):
                found |= {
                    key.value
                    for node in ast.walk(function)
                    if isinstance(node, ast.Dict) and {"session_key", "session_id", "reason", "lane"} & names(node)
                    for key in node.keys
                    if isinstance(key, ast.Constant)
                }
    return found


def names(node: ast.Dict) -> set[object]:
    return {key.value for key in node.keys if isinstance(key, ast.Constant)}


def test_fields_are_of_one_vocabulary():
    """A log call gives no other; each of them is given by some."""
    assert given_fields() | {"session_id"} == set(FIELDS)


def test_a_line_of_json():
    """One object on one line, whatever is in it."""
    record = logging.LogRecord("a.b", logging.ERROR, "f.py", 1, "two\nlines of %s", ("ü",), None)
    record.session_key, record.ops, record.other = 'k"\n', 3, "left out"
    line = JsonLines().format(record)
    told = json.loads(line)
    assert "\n" not in line
    assert told.pop("time").endswith("+00:00")
    assert told == {"level": "ERROR", "logger": "a.b", "message": "two\nlines of ü", "session_key": 'k"\n', "ops": 3}
    record.exc_info = (ValueError, ValueError("why"), None)
    assert "ValueError: why" in json.loads(JsonLines().format(record))["trace"]


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("telegram:dm:42", "telegram:dm:42"), ("käse", "käse"), ("a b", '"a b"'), ("a\nb\x1b[2J", r'"a\nb\u001b[2J"'),
        ('x" ops=9', r'"x\" ops=9"'), ("ops=9", '"ops=9"'), ("a\u2028b", r'"a\u2028b"'), ("\\", r'"\\"'), ("", '""'),
    ],
)  # fmt: skip
def test_a_line_of_text(key, told):
    """It has the same fields, behind the message; none breaks the line, drives a terminal or passes for another."""
    record = logging.LogRecord("a.b", logging.ERROR, "f.py", 1, "%d ops are dead letters", (3,), None)
    record.session_key, record.ops, record.other = key, 3, "left out"
    assert TextLines().format(record).endswith(f" ERROR a.b: 3 ops are dead letters session_key={told} ops=3")
    record.exc_info = (ValueError, ValueError("why"), None)
    assert TextLines().format(record).endswith(f" session_key={told} ops=3\nValueError: why")


def test_a_dead_letter_is_found_by_the_default_log(one_stack, monkeypatch):
    """What a worker writes when nothing is asked of it says which key, and why."""
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    set_up("INFO", "text")
    with one_stack.cache() as cache:
        cache.open("telegram:dm:42").append({"content": "tell-nobody"})
        cache.flush()
        engine = create_engine(one_stack.database_url)
        with engine.begin() as connection:
            for statement in REFUSE["sqlite"]:
                connection.execute(text(statement))
        engine.dispose()
        cache.get("telegram:dm:42").append({"content": "poison"})
        cache.flush()
    (line,) = [line for line in written.getvalue().splitlines() if "dead letters" in line]
    assert line.endswith(" session_key=telegram:dm:42 ops=1 reason=SQLITE_CONSTRAINT_TRIGGER")


def test_no_log_tells_a_message_or_a_password(some_stack, caplog):
    """Poison, garbage in a hot copy, a Redis that came back older, tiers that are away: all told of, nothing too much."""
    caplog.set_level(logging.DEBUG)
    engine = create_engine(some_stack.database_url)
    kind = engine.dialect.name

    def alter(statements) -> None:
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

    formatter = JsonLines()
    with some_stack.cache(near_sessions=0) as cache, some_stack.raw() as raw:
        session = cache.open("k")
        session.append({"content": "tell-nobody"})
        cache.flush()
        alter(REFUSE[kind])
        session.append({"content": "poison", "note": "tell-nobody"})
        cache.flush()
        alter(MEND[kind])
        assert len(session.history()) == 1
        raw.lset(cache._state.keyspace.of("k").history, 0, b"tell-nobody")
        assert len(session.history()) == 1
        raw.delete(*raw.keys("sc:*"))
        raw.rpush(cache._state.keyspace.of("k").pending, b"tell-nobody")
        raw.zadd(cache._state.keyspace.of("k").dirty, {"k": 1})
        cache.flush()
        alter(["UPDATE messages SET body = 'tell-nobody'"])
        cache.evict("k")
        session.history()
    away = {
        "redis_url": "redis://user:pass-word@localhost:1/0", "queue_url": "redis://user:pass-word@localhost:1/0",
        "database_url": "postgresql://user:pass-word@localhost:1/db", "timeout": 0.2, "redis_timeout": 0.2, "report": 0.05,
    }  # fmt: skip
    connections = BlockingConnections(Settings(**away))
    connections._bell.ring(0)
    connections.reporter.run()
    schedule = Schedule(connections, threading.Event())
    with pytest.raises(SessionCacheError):
        schedule.tick()
    while "reported" not in caplog.text or "nudges" not in caplog.text:
        time.sleep(0.02)
    connections.close()
    schedule._queue.close()
    engine.dispose()
    ours = [one for one in caplog.records if one.name.startswith(("sessioncache", "workers"))]
    said = "\n".join(formatter.format(one) for one in ours)
    assert not [secret for secret in SECRETS if secret in said]
    for told in ("dead letters", "hot copy holds what cannot be read", "cannot be read and is left out", "nudges cannot"):
        assert told in said
    dead = [json.loads(formatter.format(one)) for one in ours if "dead letters" in one.message]
    assert {(one["session_key"], one["ops"]) for one in dead} == {("k", 1)}
    assert "corrupt" in {one["reason"] for one in dead}
