"""Readers of other stores: what is there is found, what is damaged is reported once and stops nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from random import Random
from zoneinfo import ZoneInfo

import pytest
import stores
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sessioncache import schema
from sessioncache.keys import check_session_key
from sessioncache.message import decode
from sessioncache.transfer import files, hermes, hermes_index, lines, nanobot, odysseus
from sessioncache.transfer.found import Damage, FoundSession, Reading

MEGABYTE = 2**20
Write = Callable[..., stores.Content]


@dataclass
class Found:
    """What a reader found, all of it."""

    sessions: dict[str, FoundSession] = field(default_factory=dict)
    content: stores.Content = field(default_factory=dict)
    times: dict[str, list[datetime | None]] = field(default_factory=dict)
    ids: dict[str, list[str | None]] = field(default_factory=dict)
    consolidated: dict[str, int] = field(default_factory=dict)
    damages: list[Damage] = field(default_factory=list)
    advanced: int = 0

    @property
    def places(self) -> list[tuple[str, int]]:
        return [(one.file, one.line) for one in self.damages]

    @property
    def reasons(self) -> list[str]:
        return [one.why for one in self.damages]

    @property
    def count(self) -> int:
        return sum(map(len, self.content.values()))


def found(reader, path: Path, zone=UTC, limit: int = MEGABYTE) -> Found:
    """Everything that a reader finds; the books balance."""
    told = Found()

    def advanced(much: int) -> None:
        assert much >= 0
        told.advanced += much

    for session in reader.read(str(path), Reading(zone, limit, told.damages.append, advanced)):
        assert session.session_id not in told.sessions
        messages = list(session.messages)
        told.sessions[session.session_id] = session
        told.content[session.session_id] = [decode(one.packed) for one in messages]
        told.times[session.session_id] = [one.created_at for one in messages]
        told.ids[session.session_id] = [one.message_id for one in messages]
        flags = [one.consolidated for one in messages]
        assert flags == sorted(flags, reverse=True)
        told.consolidated[session.session_id] = sum(flags)
        whens = [session.created_at, session.updated_at, *told.times[session.session_id]]
        assert all(when.tzinfo is UTC and when.microsecond % 1000 == 0 for when in whens if when)
    assert len(set(told.damages)) == len(told.damages), "each damage is reported once"
    for one in told.damages:
        assert one.file.isprintable()
        assert one.why.isprintable()
    return told


@dataclass(frozen=True)
class Kind:
    """A layout: who reads it, who writes it, and where in the directory it is."""

    reader: object
    write: Write
    file: str = ""


KINDS = {
    "nanobot": Kind(nanobot, stores.write_nanobot),
    "hermes": Kind(hermes, stores.write_hermes),
    "hermes database": Kind(hermes, stores.write_hermes_database, stores.HERMES_DATABASE),
    "odysseus": Kind(odysseus, stores.write_odysseus, stores.ODYSSEUS_DATABASE),
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each layout."""
    return KINDS[request.param]


@pytest.fixture(params=["nanobot", "hermes"])
def transcripts(request: pytest.FixtureRequest) -> Kind:
    """Each layout of transcripts."""
    return KINDS[request.param]


@pytest.fixture(params=["hermes database", "odysseus"])
def database(request: pytest.FixtureRequest) -> Kind:
    """Each layout of tables."""
    return KINDS[request.param]


def message_table(kind: Kind) -> str:
    return "messages" if kind.reader is hermes else "chat_messages"


def test_all_of_a_store_is_found(kind, tmp_path):
    """Every message, equal and in order, of every session; the bar ends where size said."""
    written = kind.write(tmp_path, 7, 53)
    told = found(kind.reader, tmp_path / kind.file)
    assert {one: repr(rows) for one, rows in told.content.items()} == {one: repr(rows) for one, rows in written.items()}
    assert not told.damages
    assert told.advanced == kind.reader.size(str(tmp_path / kind.file)) > 0
    for session, session_id in enumerate(written):
        assert told.times[session_id] == [stores.time_of(session, at) for at in range(53)]
        assert told.sessions[session_id].created_at == stores.time_of(session, 0)


def test_a_generator_gives_the_same_for_the_same_seed(kind, tmp_path):
    """What one run finds damaged, the next does too."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert kind.write(tmp_path / "a", 2, 30, seed=5) == kind.write(tmp_path / "b", 2, 30, seed=5)
    assert kind.write(tmp_path / "b" / "..", 2, 30, seed=6) != found(kind.reader, tmp_path / "a" / kind.file).content


def test_one_percent_of_the_lines_is_damaged(transcripts, tmp_path):
    """Found and damaged are all that was written; the rest is equal; each damage has its file and line."""
    written = transcripts.write(tmp_path, 5, 600)
    expected, rest = [], {}
    for file, session_id in zip(sorted(tmp_path.glob("*.jsonl")), written, strict=True):
        spoilt = stores.damage(file, 0.01, seed=len(expected))
        expected += [(file.name, line) for line in spoilt]
        first = 2 if transcripts.reader is nanobot else 1
        rest[session_id] = [row for at, row in enumerate(written[session_id], first) if at not in spoilt]
    told = found(transcripts.reader, tmp_path)
    assert sorted(told.places) == sorted(expected)
    assert len(expected) == 30
    assert told.content == rest
    assert set(told.reasons) == {
        "it is not JSON, or cut off", "it is not UTF-8", "it has a time that is none", "it is no JSON object",
    }  # fmt: skip


def test_a_file_cut_off_anywhere(transcripts, tmp_path):
    """Whatever its length, all lines before the cut come back, and the cut is reported exactly where it is in a line."""
    (written,) = transcripts.write(tmp_path, 1, 6).values()
    (file,) = tmp_path.glob("*.jsonl")
    whole, header = file.read_bytes(), 1 if transcripts.reader is nanobot else 0
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        told = found(transcripts.reader, tmp_path)
        kept = whole[: length + 1] if whole[length : length + 1] == b"\n" else whole[:length]
        complete = kept.count(b"\n")
        (rows,) = told.content.values()
        assert rows == written[: max(0, complete - header)]
        cut = [complete + 1] if not kept.endswith(b"\n") and kept else []
        if complete < header:
            cut = [1 if kept else 0]
        assert [line for _file, line in told.places] == cut


def test_wrong_encodings(transcripts, tmp_path):
    """UTF-16 is damage, line by line; a byte order mark of UTF-8 is none."""
    (written,) = transcripts.write(tmp_path, 1, 5).values()
    (file,) = tmp_path.glob("*.jsonl")
    text = file.read_text("utf-8")
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n\n").encode())
    told = found(transcripts.reader, tmp_path)
    assert not told.damages
    assert list(told.content.values()) == [written]
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        file.write_bytes(text.encode(encoding))
        told = found(transcripts.reader, tmp_path)
        assert told.count == 0
        assert len(told.damages) >= 5


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"role": "user", "content": "\\ud800"}', "it contains a lone surrogate"),
        (b'{"role": "user", "content": "a", "n": 18446744073709551616}', "it contains an integer beyond 64 bit"),
        (b'{"role": "user", "content": "a", "n": ' + b"9" * 5000 + b"}", "it is not JSON, or cut off"),
        (b'{"role": "user", "content": "a", "n": 1e999}', "it cannot be a message"),
        (b'{"role": "user", "content": "a", "n": -Infinity}', "it is not JSON, or cut off"),
        (b'{"role": "user", "content": 5}', "it cannot be a message"),
        (b'{"role": "user", "n": ' + b"[" * 150 + b"]" * 150 + b"}", "it is nested too deeply"),
        (b'{"role": "user", "n": ' + b"[" * 90_000 + b"]" * 90_000 + b"}", "the JSON is nested too deeply"),
        (b'{"role": "user", "content": "' + b"a" * 100_000 + b'"}', "it is larger than max_message_bytes allows"),
        (b'{"role": "user", "content": "' + b"a" * 2_000_000 + b'"}', "the line is too long to be a message"),
        (b'{"role": "user", "content": "a", "timestamp": true}', "it has a time that is none"),
        (b'{"role": "user", "content": "a", "timestamp": ""}', "it has a time that is none"),
        (b'{"$.content is nested over 100 levels deep; flatten it.": NaN}', "it is not JSON, or cut off"),
        (b'{"secret": {"secret": 99999999999999999999}}', "it contains an integer beyond 64 bit"),
        (b"7", "it is no JSON object"),
        (b"\0" * 100, "it is not JSON, or cut off"),
    ],
)
def test_what_can_be_no_message(transcripts, tmp_path, line, why):
    """It is reported in fixed words, and what stands around it is found."""
    (written,) = transcripts.write(tmp_path, 1, 4).values()
    (file,) = tmp_path.glob("*.jsonl")
    rows = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*rows[:-2], line + b"\n", *rows[-2:]]))
    told = found(transcripts.reader, tmp_path, limit=50_000)
    assert told.places == [(file.name, len(rows) - 1)]
    assert told.reasons == [why]
    assert list(told.content.values()) == [written]
    assert told.advanced == transcripts.reader.size(str(tmp_path))


def test_large_messages_come_back(kind, tmp_path):
    """Of nearly max_message_bytes, also where JSON takes six times as much."""
    kind.write(tmp_path, 1, 3)
    large = [{"role": "user", "content": text} for text in ("a" * (MEGABYTE - 100), "\0" * (MEGABYTE - 100))]
    if kind.file:
        with closing(sqlite3.connect(tmp_path / kind.file)) as connection, connection:
            table, time = message_table(kind), 2e9 if kind.reader is hermes else "2033-01-01"
            for at, one in enumerate(large):
                values = (1000 + at, next(connection.execute("SELECT id FROM sessions"))[0], "user", one["content"], time)
                names = "id, session_id, role, content, timestamp"
                connection.execute(f"INSERT INTO {table} ({names}) VALUES (?, ?, ?, ?, ?)", values)
    else:
        with next(tmp_path.glob("*.jsonl")).open("a") as file:
            file.writelines(json.dumps(one) + "\n" for one in large)
    told = found(kind.reader, tmp_path / kind.file)
    assert not told.damages
    assert next(iter(told.content.values()))[3:] == large


def peak(reader, path: Path, limit: int = MEGABYTE) -> tuple[int, int, int]:
    """Messages, damages, and the most memory that was used, in bytes."""
    damages: list[Damage] = []
    tracemalloc.start()
    try:
        reading = Reading(UTC, limit, damages.append, lambda _much: None)
        count = sum(1 for session in reader.read(str(path), reading) for _message in session.messages)
        return count, len(damages), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_is_bounded(kind, tmp_path):
    """Fifty megabytes in one session take a few."""
    kind.write(tmp_path, 1, 1)
    if kind.file:
        with closing(sqlite3.connect(tmp_path / kind.file)) as connection, connection:
            (session_id,) = connection.execute("SELECT id FROM sessions").fetchone()
            statement = (
                f"INSERT INTO {message_table(kind)} (id, session_id, role, content, timestamp) VALUES (?, ?, ?, ?, ?)"
            )
            rows = ((1000 + at, session_id, "user", "a" * 10_000, 1.0 * at) for at in range(5000))
            connection.executemany(statement, rows)
    else:
        with next(tmp_path.glob("*.jsonl")).open("a") as file:
            file.writelines(json.dumps({"role": "user", "content": "a" * 10_000}) + "\n" for _at in range(5000))
    count, damages, used = peak(kind.reader, tmp_path / kind.file)
    assert (count, damages) == (5001, 0)
    assert used < 4 * MEGABYTE


def test_a_line_without_end_is_not_held(transcripts, tmp_path):
    """Two hundred megabytes in one line are one damage; what follows is found."""
    transcripts.write(tmp_path, 1, 3)
    file = next(tmp_path.glob("*.jsonl"))
    end = file.stat().st_size
    with file.open("r+b") as stream:
        stream.truncate(end + 200 * MEGABYTE)
        stream.seek(0, os.SEEK_END)
        stream.write(b'\n{"role": "user", "content": "last"}\n')
    count, damages, used = peak(transcripts.reader, tmp_path, limit=100_000)
    assert (count, damages) == (4, 1)
    assert used < 8 * MEGABYTE


def test_a_row_without_end_is_not_held(database, tmp_path):
    """A message of fifty megabytes is one damage, and so is a session's title; the rest is found."""
    written = database.write(tmp_path, 2, 5)
    title = "title" if database.reader is hermes else "name"
    with closing(sqlite3.connect(tmp_path / database.file)) as connection, connection:
        table = message_table(database)
        connection.execute(f"UPDATE {table} SET content = zeroblob(50000000) WHERE rowid = 3")
        connection.execute(
            f"INSERT INTO sessions (id, {title}{', source, started_at' if title == 'title' else ''}) "
            f"VALUES ('large', zeroblob(50000000){', 1, 1' if title == 'title' else ''})"
        )
    told = found(database.reader, tmp_path / database.file)
    assert sorted(told.places) == [(f"{database.file}:{table}", 3), (f"{database.file}:sessions", 3)]
    assert told.count == sum(map(len, written.values())) - 1
    assert peak(database.reader, tmp_path / database.file, limit=100_000)[2] < 4 * MEGABYTE


# Links and other files


def test_only_regular_files_of_the_directory_are_opened(transcripts, tmp_path):
    """Loops, dangling links, links that lead out, pipes and sockets are damage, once each, and never opened."""
    root, out = tmp_path / "root", tmp_path / "out"
    (root / "below").mkdir(parents=True)
    out.mkdir()
    written = transcripts.write(root, 2, 5)
    shutil.copy(next(root.glob("*.jsonl")), out / "secret.jsonl")
    (root / "a-loop.jsonl").symlink_to(root / "b-loop.jsonl")
    (root / "b-loop.jsonl").symlink_to(root / "a-loop.jsonl")
    (root / "dangling.jsonl").symlink_to(root / "nothing")
    (root / "out.jsonl").symlink_to(out / "secret.jsonl")
    (root / "again").symlink_to(root)
    (root / "below" / "up").symlink_to("..")
    (root / "other.txt").symlink_to(out / "secret.jsonl")
    (root / "directory.jsonl").symlink_to(out)
    os.mkfifo(root / "pipe.jsonl")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket.jsonl"))
        told = found(transcripts.reader, root)
    assert told.content == written
    bad = ["a-loop", "again", "b-loop", "below/up", "dangling", "directory", "out", "pipe", "socket"]
    assert told.places == [(one if one in {"again", "below/up"} else f"{one}.jsonl", 0) for one in bad]
    assert told.advanced == transcripts.reader.size(str(root))


def test_a_file_that_becomes_a_pipe(tmp_path):
    """Between being looked at and being opened: it is refused then, and nobody waits for a writer."""
    (tmp_path / "file").touch()
    file = files.file_at(tmp_path, Path("file"))
    (tmp_path / "file").unlink()
    os.mkfifo(tmp_path / "file")
    with pytest.raises(files.Unreadable):
        files.opened(file)
    with pytest.raises(files.Unreadable):
        files.file_at(tmp_path, Path("file"))
    (tmp_path / "file").unlink()
    (tmp_path / "file").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic"):
        files.opened(file)


def test_links_within_the_directory_are_followed(tmp_path):
    """A link to a file of the same directory is that file; also the directory itself may be named by a link."""
    (tmp_path / "real" / "kept").mkdir(parents=True)
    written = stores.write_hermes(tmp_path / "real" / "kept", 1, 3)
    file = next((tmp_path / "real" / "kept").glob("*.jsonl"))
    (tmp_path / "real" / "linked.jsonl").symlink_to(file)
    (tmp_path / "link").symlink_to("real")
    told = found(hermes, tmp_path / "link")
    assert told.content == {**written, "linked": written[file.stem]}
    assert not told.damages


PLACES = [os.mkfifo, lambda path: path.symlink_to(path), lambda _path: None, os.mkdir, Path.touch]


def test_a_pipe_in_place_of_a_store_does_not_hang(kind, tmp_path):
    """Nor does a directory, a loop, nothing at all, or an empty file."""
    for number, make in enumerate(PLACES):
        path = tmp_path / f"{number}{'.db' if kind.file else '.jsonl'}"
        make(path)
        told = found(kind.reader, path)
        assert told.count == 0
        assert len(told.damages) == (0 if number == 3 and kind.reader is not odysseus else 1)
        assert kind.reader.size(str(path)) == 0


def test_names_are_shown_on_one_line(tmp_path):
    """What cannot be printed in a file's name is escaped, in every report."""
    (tmp_path / "a\n\x1b[31m\u202eb.jsonl").write_text("{\n")
    (tmp_path / os.fsdecode(b"\xff.jsonl")).write_text("{\n")
    for reader in (nanobot, hermes):
        told = found(reader, tmp_path)
        assert {file for file, _line in told.places} == {"a\\n\\x1b[31m\\u202eb.jsonl", "\\udcff.jsonl"}


def test_deep_directories(tmp_path):
    """A file further down than functions can call each other is found."""
    deep = tmp_path
    for _level in range(1200):
        deep = deep / "d"
        deep.mkdir()
    stores.write_nanobot(deep, 1, 2)
    assert found(nanobot, tmp_path).count == 2
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # shutil would go too deep


def test_many_directories_are_gone_through_in_order(tmp_path):
    """Names decide, whatever the file system says; the same session twice is damage."""
    for name in ("b", "a", "c"):
        (tmp_path / name).mkdir()
        stores.write_nanobot(tmp_path / name, 1, 2)
    told = found(nanobot, tmp_path)
    assert told.count == 2
    assert told.places == [("b/telegram_00000.jsonl", 1), ("c/telegram_00000.jsonl", 1)]
    assert nanobot.size(str(tmp_path)) == told.advanced


def test_sessions_that_nobody_reads_are_passed_over(kind, tmp_path):
    """Whoever takes only some messages, or none, gets the next session all the same."""
    kind.write(tmp_path, 4, 20)
    advanced: list[int] = []
    reading = Reading(UTC, MEGABYTE, pytest.fail, advanced.append)
    for number, session in enumerate(kind.reader.read(str(tmp_path / kind.file), reading)):
        for _message, _n in zip(session.messages, range(number), strict=False):
            pass
    assert number == 3
    assert kind.file or sum(advanced) == kind.reader.size(str(tmp_path))


# Times


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("2026-01-02T03:04:05.678901", "2026-01-02T02:04:05.678"),
        ("2026-07-02T03:04:05.678901", "2026-07-02T01:04:05.678"),
        ("2026-01-02 03:04:05", "2026-01-02T02:04:05"),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05"),
        ("2026-01-02T03:04:05.999999+05:30", "2026-01-01T21:34:05.999"),
        ("2026-01-02", "2026-01-01T23:00:00"),
        (0, "1970-01-01T00:00:00"),
        (1_700_000_000, "2023-11-14T22:13:20"),
        (1_700_000_000.123, "2023-11-14T22:13:20.123"),
        (1_700_000_000.9999, "2023-11-14T22:13:20.999"),
        (-0.5, "1969-12-31T23:59:59.500"),
        ("9999-12-31T23:59:59.999+00:00", "9999-12-31T23:59:59.999"),
    ],
)
def test_times(told, expected):
    """Text and numbers, in UTC to the millisecond; text without a zone is of the zone that was named."""
    assert lines.moment(told, ZoneInfo("Europe/Berlin")) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "told",
    ["", "now", "2026-02-30", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "\ud800", "2026-01-02T03:04:05\n",
     True, None, float("nan"), float("inf"), 1e300, 10**400, -10**12, 1_700_000_000_000, [], {}, b"2026-01-01"],
)  # fmt: skip
def test_what_is_no_time(told):
    """It is refused, never guessed."""
    with pytest.raises(files.Unreadable):
        lines.moment(told, timezone(timedelta(hours=1)))


@given(st.text() | st.floats() | st.integers() | st.binary())
def test_a_time_is_one_or_is_refused(told):
    """Whatever is told."""
    try:
        when = lines.moment(told, ZoneInfo("Asia/Kathmandu"))
    except files.Unreadable:
        return
    assert when.tzinfo is UTC


def test_the_zone_that_was_named(tmp_path):
    """Times without a zone are of that zone, those of odysseus of UTC."""
    stores.write_nanobot(tmp_path, 1, 2)
    stores.write_odysseus(tmp_path, 1, 2)
    zone = timezone(timedelta(hours=2))
    (naive,) = found(nanobot, tmp_path, zone=zone).times.values()
    assert naive[0] == stores.time_of(0, 0) - timedelta(hours=2)
    (aware,) = found(odysseus, tmp_path / stores.ODYSSEUS_DATABASE, zone=zone).times.values()
    assert aware[0] == stores.time_of(0, 0)


@pytest.mark.parametrize("name", ["", ".", "..", "../x.jsonl", "/etc/passwd", "a/b", "a\\b", "a\0b", "x" * 256, "ü" * 128])
def test_names_that_lead_elsewhere(name, tmp_path):
    """A name is that of a file in the directory, or refused."""
    with pytest.raises(files.Unreadable):
        files.inside(tmp_path, name)


def test_names_that_do_not(tmp_path):
    """Dots alone are no harm."""
    assert files.inside(tmp_path, "...jsonl") == tmp_path / "...jsonl"


# Nanobot's headers


def nanobot_file(directory: Path, *rows: object, name: str = "telegram_42.jsonl") -> Path:
    """A file of these lines: objects, or bytes as they are."""
    path = directory / name
    raw = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"".join(row + b"\n" for row in raw))
    return path


def message(text: str, **more: object) -> dict[str, object]:
    """One line."""
    return {"role": "user", "content": text, **more}


HEADER = {
    "_type": "metadata",
    "key": "discord:a_b",
    "created_at": "2026-01-01T00:00:00",
    "updated_at": "2026-01-02T00:00:00",
}


def test_a_header_says_what_a_session_is(tmp_path):
    """Key, times, metadata, platform; the id follows from the key alone."""
    nanobot_file(tmp_path, HEADER | {"metadata": {"goal": [1], "none": None}}, message("a", timestamp=1e9), message("b"))
    told = found(nanobot, tmp_path)
    (session,) = told.sessions.values()
    assert session.session_id == "import_" + sha256(b"discord:a_b").hexdigest()[:32]
    assert (session.session_key, session.current) == ("discord:a_b", True)
    assert session.columns == {"metadata": {"goal": [1]}, "platform": "discord"}
    assert [session.created_at, session.updated_at] == [datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)]
    assert told.content[session.session_id] == [message("a", timestamp=1e9), message("b")]
    assert told.times[session.session_id] == [datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC), None]
    assert not told.damages


NO_HEADER = "no header names the session's key; it is taken from the file's name"


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ([], NO_HEADER),
        ([{"_type": "metadata"}], NO_HEADER),
        ([b'{"_type": "metadata", "key": "disc'], "it is not JSON, or cut off"),
        ([b"\xff"], "it is not UTF-8"),
    ],
)
def test_without_a_header_the_name_and_the_messages_say_it(tmp_path, header, why):
    """The first underscore of the file's name was a colon; times are those of the first and last message."""
    rows = [
        message("a"),
        message("b", timestamp=1e9),
        message("c", timestamp="x"),
        message("d", timestamp=2e9),
        message("e"),
    ]
    nanobot_file(tmp_path, *header, *rows, name="telegram_4_2.jsonl")
    told = found(nanobot, tmp_path)
    (session,) = told.sessions.values()
    assert (session.session_key, session.columns) == ("telegram:4_2", {"platform": "telegram"})
    assert [session.created_at.timestamp(), session.updated_at.timestamp()] == [1e9, 2e9]
    assert told.content[session.session_id] == [rows[0], rows[1], rows[3], rows[4]]
    assert told.damages == [
        Damage("telegram_4_2.jsonl", 1, why),
        Damage("telegram_4_2.jsonl", len(header) + 3, "it has a time that is none"),
    ]


def test_an_empty_object_is_a_message_too(tmp_path):
    """Also in the first line, where a header was expected."""
    nanobot_file(tmp_path, {}, message("a"))
    told = found(nanobot, tmp_path)
    assert list(told.content.values()) == [[{}, message("a")]]
    assert told.damages == [Damage("telegram_42.jsonl", 1, NO_HEADER)]


def test_without_any_time_the_file_says_it(tmp_path):
    """When it was written last, whatever that is."""
    for told, expected in [(1_600_000_000, 1_600_000_000), (-5, 0)]:
        os.utime(nanobot_file(tmp_path, {"_type": "metadata", "key": "a"}, message("a")), (told, told))
        (session,) = found(nanobot, tmp_path).sessions.values()
        assert session.created_at.timestamp() == session.updated_at.timestamp() == expected
        assert session.columns == {}


@pytest.mark.parametrize("key", ["", 7, [], "a\nb", "x" * 513, "\ud800", False])
def test_a_key_that_cannot_be_one(tmp_path, key):
    """Its session is one damage; others are found."""
    nanobot_file(tmp_path, HEADER | {"key": key}, message("a"))
    nanobot_file(tmp_path, HEADER, message("b"), name="z.jsonl")
    told = found(nanobot, tmp_path)
    assert told.damages == [Damage("telegram_42.jsonl", 1, "the session is left out: its key cannot be one")]
    assert list(told.content.values()) == [[message("b")]]
    assert told.advanced == nanobot.size(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("created_at", "never"), ("created_at", True), ("updated_at", {}), ("metadata", []), ("metadata", "text"),
        ("metadata", {"n": 2**64}), ("metadata", {"": 1}), ("metadata", {"large": "x" * 70_000}),
        ("metadata", {"a": "\ud800"}),
    ],
)  # fmt: skip
def test_a_bad_value_spoils_only_itself(tmp_path, name, value):
    """It is reported; session and messages are found."""
    nanobot_file(tmp_path, HEADER | {name: value}, message("a", timestamp=1e9))
    told = found(nanobot, tmp_path)
    assert told.damages == [Damage("telegram_42.jsonl", 1, f"its {name} cannot be kept and is left out")]
    assert told.count == 1


@pytest.mark.parametrize(
    ("said", "consolidated"), [(0, 0), (1, 1), (3, 2), (4, 3), (5, 0), (-1, 0), ("2", 0), (2.0, 0), (True, 0), (None, 0)]
)
def test_the_consolidated_prefix(tmp_path, said, consolidated):
    """So many lines, damaged ones counted, blank ones not; 0 if it is no number or there are fewer."""
    nanobot_file(tmp_path, HEADER | {"last_consolidated": said}, message("a"), b"", message("b"), b"{", message("c"))
    told = found(nanobot, tmp_path)
    assert list(told.consolidated.values()) == [consolidated]
    assert told.places == [("telegram_42.jsonl", 5)]


def test_a_second_header_is_damage(tmp_path):
    """It replaces nothing, and counts for nothing."""
    nanobot_file(
        tmp_path, HEADER | {"last_consolidated": 2}, message("a"), HEADER | {"key": "b"}, message("b"), message("c")
    )
    told = found(nanobot, tmp_path)
    assert told.damages == [Damage("telegram_42.jsonl", 3, "it is a header that is not the first line, and no message")]
    assert list(told.content.values()) == [[message("a"), message("b"), message("c")]]
    assert list(told.consolidated.values()) == [2]


def test_one_file_is_a_store_too(tmp_path):
    """Whatever it is called."""
    path = nanobot_file(tmp_path, HEADER, message("a"), name="saved.txt")
    assert found(nanobot, path).count == 1
    assert nanobot.size(str(path)) == path.stat().st_size


# Hermes's index


def hermes_directory(directory: Path, index: object, *sessions: str) -> None:
    """An index, and transcripts of one message."""
    raw = index if isinstance(index, bytes) else json.dumps(index).encode()
    (directory / "sessions.json").write_bytes(raw)
    for session in sessions:
        (directory / f"{session}.jsonl").write_text(json.dumps(message(session)))


def test_an_entry_says_what_a_session_is(tmp_path):
    """Key, times, names, origin, usage, flags."""
    hermes_directory(tmp_path, {"the key": stores.entry_of(3, "one", 9) | {"suspended": True}}, "one", "two")
    told = found(hermes, tmp_path)
    one, two = told.sessions["one"], told.sessions["two"]
    assert (one.session_key, one.current, one.created_at) == ("the key", True, stores.time_of(3, 0))
    assert one.updated_at == stores.time_of(3, 9)
    assert one.columns == {
        "display_name": "Chat 3", "platform": "telegram", "chat_type": "dm", "suspended": True,
        "origin": {"platform": "telegram", "chat_id": "3", "user_id": "7"},
        "input_tokens": 100, "output_tokens": 20, "cache_read_tokens": 3, "cache_write_tokens": 4, "last_prompt_tokens": 90,
        "cost_nano": 250_000_000, "cost_status": "estimated",
    }  # fmt: skip
    assert (two.session_key, two.current, two.columns) == ("hermes:two", True, {})
    assert not told.damages


NO_NAME = "entry 1: its id cannot be the name of a file"
NO_ID = "entry 1: the session is left out: its key or id cannot be one"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"session_id": "../../secret"}, NO_NAME),
        ({"session_id": "/etc/passwd"}, NO_NAME),
        ({"session_id": "x" * 255}, NO_NAME),
        ({"session_id": "a\0b"}, NO_ID),
        ({"session_id": ""}, NO_ID),
        ({"session_id": 7}, NO_ID),
        ({"session_id": None}, NO_ID),
        ({"input_tokens": -1}, "entry 1: its input_tokens cannot be kept and is left out"),
        ({"output_tokens": "7"}, "entry 1: its output_tokens cannot be kept and is left out"),
        ({"output_tokens": True}, "entry 1: its output_tokens cannot be kept and is left out"),
        ({"estimated_cost_usd": -0.5}, "entry 1: its estimated_cost_usd cannot be kept and is left out"),
        ({"chat_type": ["secret"]}, "entry 1: its chat_type cannot be kept and is left out"),
        ({"display_name": "x" * 256}, "entry 1: its display_name cannot be kept and is left out"),
        ({"origin": "secret"}, "entry 1: its origin cannot be kept and is left out"),
        ({"suspended": "no"}, "entry 1: its suspended cannot be kept and is left out"),
        ({"created_at": "secret"}, "entry 1: its created_at cannot be kept and is left out"),
        (["secret"], "entry 1: it is no JSON object"),
        (None, "entry 1: it is no JSON object"),
    ],
)
def test_a_bad_entry_spoils_only_itself(tmp_path, change, reason):
    """A bad name leaves its session out, a bad value only itself; nothing outside the directory is touched."""
    (tmp_path / "secret.jsonl").write_text(json.dumps(message("secret")))
    (tmp_path / "a" / "b").mkdir(parents=True)
    entry = stores.entry_of(0, "one", 3) | change if isinstance(change, dict) else change
    hermes_directory(tmp_path / "a" / "b", {"key": entry, "other": stores.entry_of(1, "two", 3)}, "two")
    told = found(hermes, tmp_path / "a" / "b")
    assert told.damages == [Damage("sessions.json", 0, reason)]
    kept = {"one": []} if reason.endswith("and is left out") else {}
    assert told.content == {"two": [message("two")]} | kept


@pytest.mark.parametrize("index", [b"{", b"[]", b"\xff", b'{"a": NaN}', b"[" * 100_000, b"", "text"])
def test_a_bad_index_leaves_the_transcripts(tmp_path, index):
    """All of them, as if there were none."""
    hermes_directory(tmp_path, index, "one", "two")
    told = found(hermes, tmp_path)
    assert told.places == [("sessions.json", 0)]
    assert {session.session_key for session in told.sessions.values()} == {"hermes:one", "hermes:two"}
    assert told.count == 2


def test_an_index_that_is_too_large(tmp_path, monkeypatch):
    """It is not read."""
    monkeypatch.setattr(hermes_index, "MAX_INDEX_BYTES", 50)
    hermes_directory(tmp_path, {"key": stores.entry_of(0, "one", 3)}, "one")
    told = found(hermes, tmp_path)
    assert told.damages == [Damage("sessions.json", 0, "it is too large to be an index")]
    assert told.sessions["one"].session_key == "hermes:one"


def test_an_index_that_is_no_file(tmp_path):
    """A pipe does not hang, a link does not lead out."""
    (tmp_path / "in").mkdir()
    hermes_directory(tmp_path, {}, "one")
    for make in (os.mkfifo, lambda path: path.symlink_to("../sessions.json"), os.mkdir):
        (tmp_path / "in" / "sessions.json").unlink(missing_ok=True)
        make(tmp_path / "in" / "sessions.json")
        assert found(hermes, tmp_path / "in").places == [("sessions.json", 0)]


def test_a_session_of_the_index_without_a_transcript(tmp_path):
    """It is a session without messages; unless something that cannot be read stands there."""
    index = {name: stores.entry_of(0, name, 3) for name in ("none", "pipe", "twice")}
    hermes_directory(tmp_path, index | {"again": stores.entry_of(1, "twice", 3)}, "twice")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "two").mkdir()
    shutil.copy(tmp_path / "twice.jsonl", tmp_path / "two")
    told = found(hermes, tmp_path)
    assert told.content == {"none": [], "twice": [message("twice")]}
    assert [session.session_key for session in told.sessions.values()] == ["twice", "none"]
    assert told.damages == [
        Damage("sessions.json", 0, "entry 4: the session is left out: another entry has the same id"),
        Damage("pipe.jsonl", 0, "it is no regular file"),
        Damage("two/twice.jsonl", 0, "it is left out: another transcript has the same id"),
    ]


def test_transcripts_further_down(tmp_path):
    """They belong to the index too, unless there is one of the same id directly beside it."""
    hermes_directory(tmp_path, {"the key": stores.entry_of(0, "down", 3), "other": stores.entry_of(0, "here", 3)}, "here")
    for name in ("a", "z"):
        (tmp_path / name).mkdir()
        hermes_directory(tmp_path / name, {}, "down", "here")
    (tmp_path / "a" / "here.jsonl").write_text(json.dumps(message("old")))
    told = found(hermes, tmp_path)
    assert [session.session_key for session in told.sessions.values()] == ["the key", "other"]
    assert told.content == {"down": [message("down")], "here": [message("here")]}
    assert [file for file, _line in told.places] == ["a/here.jsonl", "z/down.jsonl", "z/here.jsonl"]
    assert told.advanced == hermes.size(str(tmp_path))


def test_a_name_that_can_be_no_id(tmp_path):
    """Its transcript is damage."""
    hermes_directory(tmp_path, {}, "a\nb", "fine")
    told = found(hermes, tmp_path)
    assert told.damages == [Damage("a\\nb.jsonl", 0, "it is left out: its name cannot be a session's id")]
    assert told.content == {"fine": [message("fine")]}
    assert told.advanced == hermes.size(str(tmp_path))


# Tables


def changed(path: Path, *statements: str) -> None:
    """A database after some statements."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_rows_of_hermes_say_what_a_session_is(tmp_path):
    """Keys come from an index beside it or in the folder beside it; ended sessions are not current."""
    stores.write_hermes_database(tmp_path, 3, 4)
    path = tmp_path / stores.HERMES_DATABASE
    changed(path, "UPDATE sessions SET parent_session_id = '2026_00000' WHERE rowid = 2")
    told = found(hermes, path)
    assert [one.session_key for one in told.sessions.values()] == [f"hermes:2026_0000{n}" for n in range(3)]
    first, second, _third = told.sessions.values()
    assert (first.current, second.current) == (True, False)
    assert first.columns == {
        "title": "Title 0", "platform": "telegram", "model": "model-1", "provider": "provider-1", "base_url": "https://x",
        "input_tokens": 100, "output_tokens": 20, "cache_read_tokens": 3, "cache_write_tokens": 4, "cost_nano": 250_000_000,
        "cost_status": "estimated", "cost_source": "table", "metadata": {"user_id": "7"},
    }  # fmt: skip
    assert second.columns["ended_at"] == stores.time_of(1, 4)
    assert second.columns["end_reason"] == "session_reset"
    assert second.columns["parent_id"] == "2026_00000"
    assert second.updated_at == stores.time_of(1, 3)
    assert told.ids["2026_00001"] == [f"hermes-{row}" for row in (2, 5, 8, 11)]


def test_keys_of_a_hermes_database(tmp_path):
    """An index in the folder beside it gives them, and before that one beside it, with what the table does not say."""
    stores.write_hermes_database(tmp_path, 2, 4)
    path = tmp_path / stores.HERMES_DATABASE
    (tmp_path / "sessions").mkdir()
    hermes_directory(tmp_path / "sessions", {"folder": stores.entry_of(0, "2026_00000", 4) | {"platform": "slack"}})
    session = found(hermes, path).sessions["2026_00000"]
    assert session.session_key == "folder"
    assert (session.columns["display_name"], session.columns["platform"]) == ("Chat 0", "telegram")
    hermes_directory(tmp_path, {"beside": stores.entry_of(0, "2026_00000", 4), "bad": 7})
    told = found(hermes, path)
    assert [one.session_key for one in told.sessions.values()] == ["beside", "hermes:2026_00001"]
    assert told.damages == [Damage("sessions.json", 0, "entry 2: it is no JSON object")]


def test_what_is_empty_is_absent_and_a_long_reason_none(tmp_path):
    """Empty text is no value and no damage; a reason has at most 64 characters."""
    stores.write_hermes_database(tmp_path, 2, 1)
    path = tmp_path / stores.HERMES_DATABASE
    changed(path, "UPDATE sessions SET model = '', title = '', cost_status = ''")
    changed(path, f"UPDATE sessions SET end_reason = '{'x' * 65}' WHERE rowid = 2")
    told = found(hermes, path)
    assert told.damages == [Damage("state.db:sessions", 2, "its end_reason cannot be kept and is left out")]
    for session in told.sessions.values():
        assert not {"model", "title", "cost_status", "end_reason"} & set(session.columns)


def test_rows_of_odysseus_say_what_a_session_is(tmp_path):
    """Key and id are one; headers and rag become metadata."""
    stores.write_odysseus(tmp_path, 2, 4)
    path = tmp_path / stores.ODYSSEUS_DATABASE
    changed(path, "UPDATE sessions SET headers = '{}', rag = NULL, owner = NULL, archived = 1 WHERE rowid = 2")
    first, second = found(odysseus, path).sessions.values()
    assert (first.session_key, first.session_id, first.current) == ("session-00000", "session-00000", True)
    assert first.columns == {
        "title": "Name 0", "base_url": "https://x", "model": "model-1", "archived": False, "important": True,
        "owner": "owner-0", "metadata": {"headers": {"X-Key": "1"}, "rag": True},
        "last_accessed": stores.time_of(0, 4), "last_message_at": stores.time_of(0, 4),
    }  # fmt: skip
    assert (first.created_at, first.updated_at) == (stores.time_of(0, 0), stores.time_of(0, 4))
    assert not {"metadata", "owner"} & set(second.columns)
    assert second.columns["archived"] is True


def test_messages_of_hermes(tmp_path):
    """Marked lists are lists, taken-out messages are none, what is not NULL is kept."""
    stores.write_hermes_database(tmp_path, 1, 0)
    path = tmp_path / stores.HERMES_DATABASE
    changed(
        path,
        "ALTER TABLE messages ADD COLUMN active INTEGER DEFAULT 1",
        "ALTER TABLE messages ADD COLUMN finish_reason TEXT",
        "INSERT INTO messages (session_id, role, content, timestamp) "
        "VALUES ('2026_00000', 'user', '\x01json:[{\"a\": 1}]', 1)",
        "INSERT INTO messages VALUES (2, '2026_00000', 'user', 'undone', NULL, NULL, NULL, 1, NULL, 0, NULL)",
        "INSERT INTO messages VALUES (3, '2026_00000', 'assistant', NULL, '', '[{\"id\": 1}]', 't', 0, 'why', 1, 'stop')",
        "INSERT INTO messages VALUES (4, '2026_00000', 'user', 'a', NULL, '[{', NULL, 1, NULL, 1, NULL)",
        "INSERT INTO messages VALUES (5, '2026_00000', 'user', '\x01json:[{', NULL, NULL, NULL, 1, NULL, 1, NULL)",
    )
    told = found(hermes, path)
    assert told.content["2026_00000"] == [
        {"role": "user", "content": [{"a": 1}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": 1}], "tool_call_id": "", "tool_name": "t",
         "finish_reason": "stop", "reasoning": "why"},
        {"role": "user", "content": "\x01json:[{"},
    ]  # fmt: skip
    assert told.damages == [Damage("state.db:messages", 4, "it is not JSON, or cut off")]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("content = CAST(x'6162ff' AS TEXT)", "it is not UTF-8"),
        ("content = x'6162'", "it cannot be a message"),
        ("timestamp = 'never'", "it has a time that is none"),
        ("timestamp = 1e300", "it has a time that is none"),
        ("session_id = x'00'", "it names no session"),
        ("session_id = CAST(x'ff' AS TEXT)", "it names no session"),
        ("session_id = 'nobody'", "its session is missing"),
        ("session_id = ''", "its session is missing"),
    ],
)
def test_a_damaged_row_spoils_only_itself(database, tmp_path, change, why):
    """It is reported by its number; all the others are found."""
    written = database.write(tmp_path, 3, 10)
    before = found(database.reader, tmp_path / database.file)
    changed(tmp_path / database.file, f"UPDATE {message_table(database)} SET {change} WHERE rowid = 14")
    told = found(database.reader, tmp_path / database.file)
    assert told.damages == [Damage(f"{database.file}:{message_table(database)}", 14, why)]
    assert told.count == 29
    lost = [(one, at) for one, ids in before.ids.items() for at, name in enumerate(ids) if name not in told.ids[one]]
    assert len(lost) == 1
    del written[lost[0][0]][lost[0][1]]
    assert told.content == written
    assert told.advanced == 33 - why.endswith("no session")


@pytest.mark.parametrize("bad", ["x''", "CAST(x'ff' AS TEXT)", "'a\nb'", "'" + "x" * 256 + "'", "''", "NULL"])
def test_a_session_whose_id_cannot_be_one(database, tmp_path, bad):
    """It is left out; so are its messages, which name nobody or it."""
    written = database.write(tmp_path, 3, 4)
    changed(tmp_path / database.file, f"UPDATE sessions SET id = {bad} WHERE rowid = 2")
    told = found(database.reader, tmp_path / database.file)
    assert told.damages[0] == Damage(
        f"{database.file}:sessions", 2, "the session is left out: its id, key or owner cannot be one"
    )
    assert set(told.reasons[1:]) == {"its session is missing"}
    assert len(told.damages) == 5
    assert told.count == sum(map(len, written.values())) - 4


def test_bad_columns_spoil_only_themselves(tmp_path):
    """An owner apart: without it, others might see the session."""
    stores.write_odysseus(tmp_path, 3, 2)
    path = tmp_path / stores.ODYSSEUS_DATABASE
    bad = ["name = CAST(x'ff' AS TEXT)", "model = x'00'", "rag = 'x'", "archived = 7", "headers = '{'"]
    bad += ["created_at = 'never'", "last_accessed = 1e99", "is_important = 0.5", f"endpoint_url = '{'x' * 256}'"]
    changed(
        path,
        f"UPDATE sessions SET {', '.join(bad)} WHERE rowid = 1",
        f"UPDATE sessions SET owner = '{'x' * 256}' WHERE rowid = 2",
    )
    told = found(odysseus, path)
    assert list(told.sessions) == ["session-00000", "session-00002"]
    first = told.sessions["session-00000"]
    assert set(first.columns) == {"owner", "last_message_at"}
    assert first.created_at == stores.time_of(0, 0)
    left_out = {one.partition(" =")[0] for one in bad}
    assert set(told.reasons[:9]) == {f"its {name} cannot be kept and is left out" for name in left_out}
    assert told.damages[9:] == [
        Damage("odysseus.db:sessions", 2, "the session is left out: its id, key or owner cannot be one")
    ]


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ('[{"type": "text", "text": "a"}]', [{"type": "text", "text": "a"}]),
        ('[{"type": 1}]', None), ('[{"type": "a"}, 1]', None), ('[{"text": "a"}]', None), ("[]", None), ("[1]", None),
        (' [{"type": "a"}]', None), ('[{"type": "a"}', None), ('[{"type": "a", "n": NaN}]', None), ("[" * 100_000, None),
        ('{"type": "a"}', None), ("", None),
    ],
)  # fmt: skip
def test_text_that_looks_like_json_stays_text(tmp_path, text, content):
    """Unless it is a list of objects of a type."""
    stores.write_odysseus(tmp_path, 1, 1)
    path = tmp_path / stores.ODYSSEUS_DATABASE
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE chat_messages SET content = ?, meta_data = ''", (text,))
    (rows,) = found(odysseus, path).content.values()
    assert rows == [{"role": "user", "content": text if content is None else content}]


def test_long_titles_are_cut(tmp_path):
    """After what is not seen went; other names that are too long are left out."""
    stores.write_odysseus(tmp_path, 2, 1)
    path, unseen = tmp_path / stores.ODYSSEUS_DATABASE, "é\x07" * 200
    changed(
        path,
        f"UPDATE sessions SET name = '{unseen}' WHERE rowid = 1",
        f"UPDATE sessions SET name = '{'x' * 300}' WHERE rowid = 2",
    )
    told = found(odysseus, path)
    assert [one.columns["title"] for one in told.sessions.values()] == ["é" * 200, "x" * 255]
    assert not told.damages


def test_tables_may_lack_columns_and_keys(tmp_path):
    """The fewest that tell anything; repeated ids then are damage, the first stays."""
    for reader, table in ((hermes, "messages"), (odysseus, "chat_messages")):
        path = tmp_path / f"{table}.db"
        changed(
            path,
            "CREATE TABLE sessions (id)",
            f"CREATE TABLE {table} (id, session_id, role, content)",
            "INSERT INTO sessions VALUES ('a'), ('b'), ('a')",
            f"INSERT INTO {table} VALUES ('x', 'a', 'user', '1'), ('x', 'b', 'user', '2'), ('x', 'a', 'user', '3')",
            f"INSERT INTO {table} VALUES (NULL, 'a', 'user', '4'), (NULL, 'a', 'user', '5'), (x'00', 'a', 'user', '6')",
        )
        told = found(reader, path)
        assert {one: [row["content"] for row in rows] for one, rows in told.content.items()} == {
            "a": list("1456"),
            "b": ["2"],
        }
        name = "hermes-x" if reader is hermes else "x"
        assert told.ids == {"a": [name, None, None, None], "b": [name]}
        assert told.damages == [
            Damage(f"{path.name}:{table}", 3, "duplicate id"),
            Damage(f"{path.name}:{table}", 6, "its id cannot be kept and is left out"),
            Damage(f"{path.name}:sessions", 3, "the session is left out: another has the same id"),
        ]


@pytest.mark.parametrize(
    ("statements", "why"),
    [
        (["CREATE TABLE other (id)"], "it has no table sessions"),
        (["CREATE TABLE sessions (id)"], "it has no table {table}"),
        (
            ["CREATE TABLE sessions (id)", "CREATE VIEW {table} AS SELECT 1 AS id, 1 AS session_id"],
            "it has no table {table}",
        ),
        (["CREATE TABLE sessions (name)", "CREATE TABLE {table} (id)"], "its tables have no ids"),
    ],
)
def test_other_databases(database, tmp_path, statements, why):
    """They are one damage."""
    table = message_table(database)
    changed(tmp_path / database.file, *(one.format(table=table) for one in statements))
    told = found(database.reader, tmp_path / database.file)
    assert told.damages == [Damage(database.file, 0, why.format(table=table))]


def test_nothing_is_left_beside_a_database(database, tmp_path):
    """Also in WAL mode; a store in use is read with what its log holds, and can be written meanwhile."""
    written = database.write(tmp_path, 2, 5)
    path, table = tmp_path / database.file, message_table(database)
    changed(path, "PRAGMA journal_mode = WAL")
    before = path.read_bytes()
    assert found(database.reader, path).content == written
    assert [one.name for one in tmp_path.iterdir()] == [database.file]
    assert path.read_bytes() == before
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"DELETE FROM {table} WHERE rowid = 1")
        reading = Reading(UTC, MEGABYTE, pytest.fail, lambda _much: None)
        sessions = database.reader.read(str(path), reading)
        count = sum(1 for _message in next(sessions).messages)
        connection.execute(f"DELETE FROM {table}")
        assert count + sum(1 for session in sessions for _message in session.messages) == 9


def test_a_path_with_signs_that_mean_something(database, tmp_path):
    """A URI takes it for what it is."""
    directory = tmp_path / os.fsdecode("a?mode=rwc#b%2e é".encode() + b"\xff")
    directory.mkdir()
    written = database.write(tmp_path, 1, 3)
    shutil.move(tmp_path / database.file, directory)
    assert found(database.reader, directory / database.file).content == written


def test_a_database_with_spoilt_pages(database, tmp_path):
    """Each page in turn: what the others hold is found, something is reported, nothing is raised."""
    written = database.write(tmp_path, 3, 60)
    path = tmp_path / database.file
    whole = path.read_bytes()
    total = sum(map(len, written.values()))
    kept = []
    for start in range(0, len(whole), 4096):
        path.write_bytes(whole[:start] + Random(start).randbytes(4096) + whole[start + 4096 :])
        told = found(database.reader, path)
        for session_id, rows in told.content.items():
            assert all(row in written[session_id] for row in rows)
        assert told.damages or told.content == written
        kept.append(told.count)
    assert sum(count >= total * 0.5 for count in kept) >= len(kept) - 4  # the pages above all others apart


def test_a_database_cut_off(database, tmp_path):
    """Wherever it ends, nothing is raised, and the loss is reported; what stands before it is found."""
    written = database.write(tmp_path, 2, 60)
    path = tmp_path / database.file
    whole = path.read_bytes()
    counts = []
    for length in range(0, len(whole), 1024):
        path.write_bytes(whole[:length])
        told = found(database.reader, path)
        assert told.damages
        if length % 4096 == 0:  # SQLite has no checksums: half a page can hold rows that end in zeros
            counts.append(told.count)
            assert all(row in written[one] for one, rows in told.content.items() for row in rows)
    assert counts == sorted(counts)
    assert counts[len(counts) * 3 // 4] > 30


# Whatever a file holds


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(stores.STRANGE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = ["_type", "key", "created_at", "updated_at", "metadata", "last_consolidated", "timestamp", "role", "content",
         "session_id", *(theirs for theirs, _made in hermes_index.COLUMNS.values())]  # fmt: skip
rows = st.dictionaries(st.sampled_from(NAMES), json_values | st.just("metadata"))
texts = st.lists(st.binary() | rows.map(lambda row: json.dumps(row).encode()), max_size=6).map(b"\n".join)
same_directory = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(texts)
@same_directory
def test_any_file_is_read_as_far_as_it_goes(tmp_path, raw):
    """Bytes of any kind as a transcript or an index: nothing is raised, and what is found can be stored."""
    (tmp_path / "a_b.jsonl").write_bytes(raw)
    (tmp_path / "sessions.json").write_bytes(raw)
    for reader in (nanobot, hermes):
        for session in found(reader, tmp_path).sessions.values():
            check_session_key(session.session_key)
            assert set(session.columns) <= set(schema.sessions.c.keys())


@given(st.dictionaries(st.text(), json_values | rows, max_size=4))
@same_directory
def test_any_index_is_read_as_far_as_it_goes(tmp_path, index):
    """Entries of any kind."""
    (tmp_path / "sessions.json").write_text(json.dumps(index))
    (tmp_path / "a.jsonl").write_text("{}\n")
    assert found(hermes, tmp_path).content["a"] == [{}]


@given(st.binary() | st.binary().map(b"SQLite format 3\0".__add__))
@same_directory
def test_any_database_is_read_as_far_as_it_goes(tmp_path, raw):
    """Bytes of any kind as a database."""
    (tmp_path / "any.db").write_bytes(raw)
    for reader in (hermes, odysseus):
        assert len(found(reader, tmp_path / "any.db").damages) == 1


@given(st.data())
@same_directory
def test_any_spoilt_database_is_read_as_far_as_it_goes(database, tmp_path, data):
    """A database with some of its bytes changed."""
    path, saved = tmp_path / database.file, tmp_path / "saved"
    if not saved.exists():
        database.write(tmp_path, 2, 20)
        saved.write_bytes(path.read_bytes())
    raw = bytearray(saved.read_bytes())
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(0, 255)), max_size=30)):
        raw[at] = byte
    path.write_bytes(raw)
    found(database.reader, path)
