"""Stores of others, made for tests: each layout, with what is to be found in it, the same for the same seed."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from sessioncache.transfer.nanobot import session_id_of

HERMES_DATABASE = "state.db"
ODYSSEUS_DATABASE = "odysseus.db"
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)

STRANGE = [
    "",
    "nul \x00 bell \x07 escape \x1b",
    "שלום עולם \u202emirror\u202c مرحبا",
    "👩\u200d👩\u200d👧 🏴\U000e0067\U000e0062\U000e007f é\u0301",
    '{"type": "text"}',
    "[1, 2]",
    '["a", {"type": "text"}]',
    "[]",
    "null",
    "line\nbreak\r\nand \u2028 more \\n \\u0000",
    "\ufeffmark",
]
BLOCKS = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:,"}}]

Content = dict[str, list[dict[str, Any]]]


def time_of(session: int, position: int) -> datetime:
    """When a message was written."""
    return BEGUN + timedelta(days=session, seconds=position, milliseconds=position % 1000)


def message_of(random: Random, position: int) -> dict[str, Any]:
    """A message: users and assistants in turn, now and then a call of a tool; some of the texts are strange."""
    content = random.choice([random.choice(STRANGE), f"message {position} " + "word " * random.randrange(40), BLOCKS, None])
    message = {"role": "assistant" if position % 2 else "user", "content": content}
    if position % 10 == 3:
        call = {"id": f"call {position}", "type": "function", "function": {"name": "look", "arguments": "{}"}}
        message |= {"content": None, "tool_calls": [call]}
    elif position % 10 == 4:
        message |= {"role": "tool", "tool_call_id": f"call {position - 1}", "tool_name": "look"}
    return message


def _lines(path: Path, objects: list[dict[str, Any]], *, ascii_only: bool) -> None:
    path.write_text("".join(json.dumps(one, ensure_ascii=ascii_only) + "\n" for one in objects), "utf-8")


def _transcript(random: Random, session: int, messages: int) -> list[dict[str, Any]]:
    return [
        message_of(random, at)
        | {"timestamp": time_of(session, at).replace(tzinfo=None).isoformat(), "extra": {"n": 2**60 + at}}
        for at in range(messages)
    ]


def write_nanobot(directory: Path, sessions: int, messages: int, seed: int = 0) -> Content:
    """``telegram_<n>.jsonl``, the first fifth of each consolidated; times name no zone and are UTC."""
    random, written = Random(seed), {}
    for session in range(sessions):
        key = f"telegram:{session:05}"
        written[session_id_of(key)] = _transcript(random, session, messages)
        header = {
            "_type": "metadata",
            "key": key,
            "created_at": time_of(session, 0).replace(tzinfo=None).isoformat(),
            "updated_at": time_of(session, messages).replace(tzinfo=None).isoformat(),
            "metadata": {"goal_state": {"status": "active"}},
            "last_consolidated": messages // 5,
        }
        rows = [header, *written[session_id_of(key)]]
        _lines(directory / f"telegram_{session:05}.jsonl", rows, ascii_only=session % 2 == 0)
    return written


def write_hermes(directory: Path, sessions: int, messages: int, seed: int = 0) -> Content:
    """``sessions.json`` and transcripts; every third session is not in the index."""
    random, written, index = Random(seed), {}, {}
    for session in range(sessions):
        session_id = f"2026_{session:05}"
        written[session_id] = _transcript(random, session, messages)
        _lines(directory / f"{session_id}.jsonl", written[session_id], ascii_only=session % 2 == 0)
        if session % 3:
            index[f"agent:main:telegram:dm:{session}"] = entry_of(session, session_id, messages)
    (directory / "sessions.json").write_text(json.dumps(index, indent=2))
    return written


def entry_of(session: int, session_id: str, messages: int) -> dict[str, Any]:
    """An entry of the index of a hermes directory."""
    return {
        "session_key": f"agent:main:telegram:dm:{session}",
        "session_id": session_id,
        "created_at": time_of(session, 0).replace(tzinfo=None).isoformat(),
        "updated_at": time_of(session, messages).replace(tzinfo=None).isoformat(),
        "display_name": f"Chat {session}",
        "platform": "telegram",
        "chat_type": "dm",
        "origin": {"platform": "telegram", "chat_id": str(session), "user_id": "7"},
        "input_tokens": 100,
        "output_tokens": 20,
        "cache_read_tokens": 3,
        "cache_write_tokens": 4,
        "last_prompt_tokens": 90,
        "estimated_cost_usd": 0.25,
        "cost_status": "estimated",
        "suspended": False,
    }


HERMES_SCHEMA = """
CREATE TABLE sessions (
    id TEXT PRIMARY KEY, source TEXT NOT NULL, user_id TEXT, model TEXT, billing_provider TEXT, billing_base_url TEXT,
    parent_session_id TEXT, started_at REAL NOT NULL, ended_at REAL, end_reason TEXT, title TEXT,
    input_tokens INTEGER DEFAULT 0, output_tokens INTEGER DEFAULT 0, cache_read_tokens INTEGER DEFAULT 0,
    cache_write_tokens INTEGER DEFAULT 0, estimated_cost_usd REAL, cost_status TEXT, cost_source TEXT);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL REFERENCES sessions(id), role TEXT NOT NULL,
    content TEXT, tool_call_id TEXT, tool_calls TEXT, tool_name TEXT, timestamp REAL NOT NULL, reasoning TEXT);
"""
ODYSSEUS_SCHEMA = """
CREATE TABLE sessions (
    id VARCHAR PRIMARY KEY, name VARCHAR, endpoint_url VARCHAR, model VARCHAR, rag BOOLEAN, archived BOOLEAN, headers JSON,
    owner VARCHAR, is_important BOOLEAN, message_count INTEGER, created_at DATETIME, updated_at DATETIME,
    last_accessed DATETIME, last_message_at DATETIME);
CREATE TABLE chat_messages (
    id VARCHAR PRIMARY KEY, session_id VARCHAR NOT NULL, role VARCHAR, content TEXT, meta_data TEXT, timestamp DATETIME);
"""


def write_hermes_database(directory: Path, sessions: int, messages: int, seed: int = 0) -> Content:
    """``state.db``: the messages of all sessions in turn; every other session has ended."""
    random = Random(seed)
    written: Content = {
        f"2026_{session:05}": [message_of(random, at) for at in range(messages)] for session in range(sessions)
    }
    with closing(sqlite3.connect(directory / HERMES_DATABASE)) as connection, connection:
        connection.executescript(HERMES_SCHEMA)
        for session, session_id in enumerate(written):
            begun, ended = time_of(session, 0).timestamp(), time_of(session, messages).timestamp()
            over = (ended, "session_reset") if session % 2 else (None, None)
            row = (
                session_id,
                "telegram",
                "7",
                "model-1",
                "provider-1",
                "https://x",
                None,
                begun,
                *over,
                f"Title {session}",
            )
            usage = (100, 20, 3, 4, 0.25, "estimated", "table")
            connection.execute(f"INSERT INTO sessions VALUES ({','.join('?' * 18)})", (*row, *usage))
        for at in range(messages):
            for session, (session_id, told) in enumerate(written.items()):
                connection.execute(
                    "INSERT INTO messages VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, NULL)",
                    _hermes_row(session_id, told[at], time_of(session, at).timestamp()),
                )
    return written


def _hermes_row(session_id: str, message: dict[str, Any], time: float) -> tuple[Any, ...]:
    content, calls = message["content"], message.get("tool_calls")
    text = "\x00json:" + json.dumps(content) if isinstance(content, list) else content
    called = json.dumps(calls) if calls else None
    return session_id, message["role"], text, message.get("tool_call_id"), called, message.get("tool_name"), time


def write_odysseus(directory: Path, sessions: int, messages: int, seed: int = 0) -> Content:
    """``odysseus.db``: the messages of all sessions in turn, newest first, so that only their times order them."""
    random, written = Random(seed), {}
    for session in range(sessions):
        told = [message_of(random, at) for at in range(messages)]
        written[f"session-{session:05}"] = [
            {"role": one["role"], "content": one["content"]} | ({"metadata": {"n": at}} if at % 3 == 0 else {})
            for at, one in enumerate(told)
        ]
    with closing(sqlite3.connect(directory / ODYSSEUS_DATABASE)) as connection, connection:
        connection.executescript(ODYSSEUS_SCHEMA)
        for session, session_id in enumerate(written):
            row = (session_id, f"Name {session}", "https://x", "model-1", 1, 0, '{"X-Key": "1"}', f"owner-{session % 3}", 1)
            times = [_stored(session, at) for at in (0, messages, messages, messages)]
            connection.execute(f"INSERT INTO sessions VALUES ({','.join('?' * 14)})", (*row, messages, *times))
        for at in reversed(range(messages)):
            for session, (session_id, told) in enumerate(written.items()):
                content = told[at]["content"]
                text = json.dumps(content) if isinstance(content, list) else content
                metadata = json.dumps(told[at].get("metadata", {}))
                row = (f"{session_id}/{at}", session_id, told[at]["role"], text, metadata, _stored(session, at))
                connection.execute("INSERT INTO chat_messages VALUES (?, ?, ?, ?, ?, ?)", row)
    return written


def _stored(session: int, at: int) -> str:
    return time_of(session, at).replace(tzinfo=None).isoformat(" ", "microseconds")


def damage(path: Path, share: float, seed: int = 0) -> list[int]:
    """Spoil so many of the message lines of a file, one at least, in each way in turn; the numbers of those lines."""
    random, lines = Random(seed), path.read_bytes().splitlines(keepends=True)
    body = [number for number, line in enumerate(lines, 1) if b'"_type": "metadata"' not in line]
    spoilt = sorted(random.sample(body, max(1, round(len(body) * share))))
    for turn, number in enumerate(spoilt):
        lines[number - 1] = _SPOILERS[turn % len(_SPOILERS)](lines[number - 1].rstrip(b"\n")) + b"\n"
    path.write_bytes(b"".join(lines))
    return spoilt


def _with_bad_date(line: bytes) -> bytes:
    return json.dumps(json.loads(line) | {"timestamp": "2026-13-45T99:00:00"}).encode()


_SPOILERS = [
    lambda line: line[: len(line) // 2],
    lambda line: line.replace(b":", b"=", 1),
    lambda line: line.replace(b"role", b"r\xffle", 1),
    _with_bad_date,
    lambda line: b"[" + line + b"]",
    lambda line: line[:-1] + b', "n": NaN}',
]
