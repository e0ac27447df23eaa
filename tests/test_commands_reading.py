"""The commands that look: each against a live system with sessions that are hot, evicted, pending, ended and deleted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime

import pytest
import reference
from conftest import THE_OTHER_LATER, binary_of
from servers import RedisServer
from terminal import COMMAND, Terminal
from test_inspection import everything

from sessioncache import SessionCache
from sessioncache.cli import main as command
from sessioncache.cli.live import _Tail
from sessioncache.cli.status import DONE, FAILED, INTERRUPTED, NOT_FOUND, UNAVAILABLE, WRONG_USAGE
from sessioncache.config import as_environment
from sessioncache.store import engine as engines

ALONE = {"queue_url": "redis://127.0.0.1:1/0"}
HOT, EVICTED, PENDING, ENDED, DELETED = "telegram:dm:42", "slack:C1", "new one", "again", "gone"
ODD = f"{'long/' * 60}ключ \u202eodd {{0}}"
TALK = [
    {"role": "user", "content": "we need an invoice\n\tfor May", "n": 2**63 + 1, "x": 0.1},
    {"role": "assistant", "content": [{"type": "text", "text": "here \x1b[31m\x9b31m"}, {"type": "image", "url": "…"}]},
    {"role": "assistant", "content": None, "tool_calls": []},
]


@pytest.fixture
def run(monkeypatch, capsys):
    """The command in this process: its exit status, and what it printed."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sessioncache", *arguments])
        with pytest.raises(SystemExit) as ended:
            command.main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return ended.value.code or 0, printed.out, printed.err

    yield run
    signal.signal(signal.SIGTERM, before)


@contextmanager
def told(monkeypatch, stack, **changes):
    """A cache, whose settings the command gets from its environment."""
    with stack.cache(**ALONE, **changes) as cache:
        for name, value in as_environment(cache.settings).items():
            monkeypatch.setenv(name, value)
        yield cache


def filled(cache: SessionCache) -> dict[str, str]:
    """Sessions in every state; their ids by key. The older ones come first."""
    ids = {}
    for key in (ENDED, DELETED):
        session = cache.open(key, owner="carol")
        session.append({"role": "user", "content": f"old words of {key}"})
        ids[key] = session.session_id
    cache.get(ENDED).reset().append({"role": "user", "content": "new words"})
    cache.delete(DELETED)
    cache.open(EVICTED, owner="bob", platform="slack").append(
        [{"role": "user", "content": f"message {n}"} for n in range(5)]
    )
    cache.open(ODD, owner="bob").append({"role": "user", "content": "odd"})
    hot = cache.open(HOT, owner="alice", platform="telegram", title="Plans \u202efor May")
    hot.append(TALK)
    hot.update(important=True)
    ids |= {key: cache.get(key).session_id for key in (HOT, EVICTED, ODD)}
    cache.flush()
    cache.evict(EVICTED)
    pending = cache.open(PENDING, owner="alice")
    pending.append({"role": "user", "content": "unheard invoice"})
    return ids | {PENDING: pending.session_id}


def values(printed: str) -> list[dict]:
    """JSON, one value on a line."""
    return [json.loads(line) for line in printed.splitlines()]


@THE_OTHER_LATER
def test_ls(run, monkeypatch, some_stack):
    """Filters, pages, both forms; pending ones with --fresh, ended ones with their ids; each row on one line in a pipe."""
    with told(monkeypatch, some_stack) as cache:
        ids = filled(cache)

        def listed(*arguments: str) -> list[str]:
            status, printed, _ = run("ls", "--json", *arguments)
            assert status == DONE
            return [one["key"] for one in values(printed)]

        assert listed() == [HOT, ODD, EVICTED, ENDED]
        assert listed("--owner", "bob") == [ODD, EVICTED]
        assert listed("--platform", "slack") == [EVICTED]
        assert listed("--prefix", "telegram:") == [HOT]
        assert listed("--active-within", "15m") == [HOT, ODD, EVICTED, ENDED]
        assert listed("--active-within", "0s") == []
        assert listed("--important", "yes") == [HOT]
        assert listed("--archived", "yes") == []
        assert listed("--ended", "yes") == [ENDED]
        assert listed("--ended", "any", "--owner", "carol") == [ENDED, ENDED]
        with monkeypatch.context() as small:
            small.setattr("sessioncache.cli.reading.LARGEST_PAGE", 2)
            assert listed("--all") == [HOT, ODD, EVICTED, ENDED]
            assert len(run("ls", "--all")[1].splitlines()) == 5
        status, printed, more = run("ls", "-n", "3", "--json")
        (cursor,) = re.findall(r"--cursor (\S+)", more)
        assert [one["key"] for one in values(printed)] + listed("-n", "3", "--cursor", cursor) == listed()
        status, printed, more = run("ls", "--ended", "yes")
        assert (status, more) == (DONE, "")
        head, row = printed.splitlines()
        assert head.split() == ["session", "key", "session", "id", "messages", "updated", "owner", "state", "title"]
        assert row.split()[:3] == [ENDED, ids[ENDED], "1"]
        assert row.endswith("carol  session_reset  old words of again".rstrip())
        assert cache.stats().pending
        assert listed("--fresh") == [PENDING, HOT, ODD, EVICTED, ENDED]
        assert not cache.stats().pending
        status, printed, _ = run("ls")
        lines = printed.splitlines()
        assert len(lines) == 6
        assert ODD.replace("\u202e", " ") in printed
        assert "\u202e" not in printed
        one = values(run("ls", "--json", "--prefix", HOT)[1])[0]
        assert (one["session_id"], one["title"], one["preview"]) == (
            ids[HOT],
            "Plans for May",
            "we need an invoice for May",
        )
        assert datetime.fromisoformat(one["created_at"]).tzinfo == UTC


def test_wrong_usage(run, monkeypatch, one_stack):
    """Status 2 and a sentence; what the library refuses is said in its words."""
    with told(monkeypatch, one_stack):
        for words in ("ls --active-within 2x", "ls --ended maybe", "ls -n 0", "history", "history k --session s",
                      "history k -n 1000000", "tail", "show"):  # fmt: skip
            arguments = words.split()
            status, printed, why = run(*arguments)
            assert (status, printed) == (WRONG_USAGE, ""), arguments
            assert why
        for arguments in (["ls", "--cursor", "x"], ["show", ""], ["search", "x" * 1001], ["keys", "a\nb"]):
            status, printed, why = run(*arguments)
            assert (status, printed) == (FAILED, ""), arguments
            assert why.startswith("sessioncache: ")


def timeless(facts: dict[str, str]) -> dict[str, str]:
    """What is shown, without what goes on by itself."""
    return {name: re.sub(r"[\d.]+ s\b", "SECONDS", value) for name, value in facts.items()}


def test_show(run, monkeypatch, one_stack):
    """Where each session stands; by its key, and by its id."""
    with told(monkeypatch, one_stack) as cache, one_stack.raw() as raw:
        ids = filled(cache)
        before = everything(raw)

        def shown(*arguments: str) -> dict[str, str]:
            status, printed, why = run("show", *arguments)
            assert (status, why) == (DONE, "")
            return {line[:14].strip(): line[14:].strip() for line in printed.splitlines()}

        hot = shown(HOT)
        assert (hot["session key"], hot["session"], hot["owner"]) == (HOT, ids[HOT], "alice")
        assert (hot["title"], hot["state"], hot["messages"]) == ("Plans for May", "important", "3")
        assert re.fullmatch(r"3 messages, for 3\d\d\d s", hot["hot"])
        assert (hot["pending"], hot["in SQL"]) == ("nothing", "3 messages, version 5, 1 sessions of this key")
        assert timeless(shown(ids[HOT])) == timeless(hot)
        assert shown(EVICTED)["hot"] == "no"
        pending = shown(PENDING)
        assert re.fullmatch(r"2 ops, \d+ bytes, for \d+\.\d s; due", pending["pending"])
        assert pending["in SQL"] == "nothing yet"
        assert timeless(shown(ids[PENDING])) == timeless(pending)
        ended = shown(ids[ENDED])
        assert ended["session"] == f"{ids[ENDED]}, which is not current"
        assert (ended["state"], ended["messages"]) == ("session_reset", "1")
        assert ended["ended"].endswith("Z")
        (one,) = values(run("show", PENDING, "--json")[1])
        assert (one["session_id"], one["is_current"], one["info"]["owner"]) == (ids[PENDING], True, "alice")
        assert (one["hot"]["pending"], one["hot"]["message_count"], one["stored"]["version"]) == (2, 1, None)
        for name in (DELETED, ids[DELETED], "never"):
            status, printed, why = run("show", name)
            assert (status, printed) == (NOT_FOUND, "")
            assert why.startswith("sessioncache: There is no session")
        assert run("show", HOT, "--owner", "bob")[0] == NOT_FOUND
        assert run("show", HOT, "--owner", "alice")[0] == DONE
        assert everything(raw) == before


@THE_OTHER_LATER
def test_history(run, monkeypatch, some_stack):
    """By key and by id, paged; as text that no terminal obeys, as JSON that is exact."""
    with told(monkeypatch, some_stack) as cache:
        ids = filled(cache)
        status, printed, why = run("history", HOT)
        assert (status, why) == (DONE, "")
        assert re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", printed).splitlines() == [
            "#2 TIME user", "  we need an invoice", "      for May", "  (besides: n, x)",
            "#3 TIME assistant", "  here  [31m 31m", "  [image]", "#4 TIME assistant", "  (besides: tool_calls)",
        ]  # fmt: skip
        printed = run("history", HOT, "--json")[1]
        assert "\x9b" not in printed
        records = cache.get(HOT).messages()
        assert [one["data"] for one in values(printed)] == TALK
        for one, record in zip(values(printed), records, strict=True):
            assert (one["seq"], one["id"], one["session_id"]) == (record.seq, record.id, ids[HOT])
            assert datetime.fromisoformat(one["created_at"]) == record.created_at
        texts = lambda *arguments: [one["data"]["content"] for one in values(run("history", *arguments, "--json")[1])]  # noqa: E731
        assert texts(EVICTED, "-n", "2") == ["message 3", "message 4"]
        seqs = [record.seq for record in cache.get(EVICTED).messages()]
        assert texts(EVICTED, "-n", "2", "--before", str(seqs[3])) == ["message 1", "message 2"]
        assert texts("--session", ids[ENDED]) == ["old words of again"]
        assert texts(ENDED) == ["new words"]
        assert texts("--session", ids[PENDING]) == ["unheard invoice"]
        assert texts(HOT, "--owner", "alice", "-n", "1") == [None]
        for arguments in ([DELETED], ["--session", ids[DELETED]], [HOT, "--owner", "bob"],
                          ["--session", ids[HOT], "--owner", "bob"], [HOT, "--owner", "bob", "--before", "3"]):  # fmt: skip
            assert run("history", *arguments)[:2] == (NOT_FOUND, ""), arguments


def test_a_message_that_cannot_be_read(run, monkeypatch, one_stack):
    """Its place is shown, and that it cannot be read."""
    with told(monkeypatch, one_stack) as cache:
        cache.open(HOT).append([{"content": "a"}, {"content": "b"}])
        cache.flush()
        engine = engines.blocking(cache.settings)
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE messages SET body = 'x' WHERE seq = 2")
        engine.dispose()
        cache.evict(HOT)
        assert run("history", HOT)[1].splitlines()[1::2] == ["  (cannot be read any more)", "  b"]
        assert [one["readable"] for one in values(run("history", HOT, "--json")[1])] == [False, True]


def test_looking_is_no_access(run, monkeypatch, one_stack):
    """No TTL slides, no access is noted, and nothing is logged for the store, whatever is looked at."""
    with told(monkeypatch, one_stack, touch=0.001) as cache, one_stack.raw() as raw:
        filled(cache)
        cache.flush()
        before = everything(raw)
        for arguments in (["ls"], ["show", HOT], ["history", HOT], ["history", HOT, "--before", "4"], ["tail", HOT],
                          ["search", "invoice"], ["keys", HOT], ["stats"]):  # fmt: skip
            assert run(*arguments)[0] == DONE
            assert everything(raw) == before, arguments
        cache.get(HOT)
        assert everything(raw) != before


@THE_OTHER_LATER
def test_search(run, monkeypatch, some_stack):
    """Titles, messages; of an owner; what is pending with --fresh."""
    with told(monkeypatch, some_stack) as cache:
        ids = filled(cache)
        lines = run("search", "invoice")[1].splitlines()
        assert [re.split(r"  +", line.strip()) for line in lines] == [
            ["session key", "message", "text"], [HOT, "#2", "we need an invoice for May"],
        ]  # fmt: skip
        (title, message) = values(run("search", "May", "--json")[1])
        assert (title["key"], title["seq"], title["snippet"]) == (HOT, None, "Plans for May")
        assert (message["session_id"], message["seq"], message["rank"] < title["rank"]) == (ids[HOT], 2, True)
        assert values(run("search", "May", "--json", "-n", "1")[1]) == [title]
        assert values(run("search", "invoice", "--owner", "bob", "--json")[1]) == []
        assert {one["key"] for one in values(run("search", "invoice", "--fresh", "--json")[1])} == {HOT, PENDING}


def test_stats_and_keys(run, monkeypatch, one_stack):
    """The same in both forms, and as the library says."""
    with told(monkeypatch, one_stack) as cache:
        filled(cache)
        expected = asdict(cache.stats())
        (found,) = values(run("stats", "--json")[1])
        named = ("dirty", "pending", "pending_bytes", "dead", "sessions", "messages")
        assert set(found) == {*named, "oldest_pending"}
        assert {name: found[name] for name in named} == {name: expected[name] for name in named}
        assert 0 < found["oldest_pending"] < 60
        printed = dict(line.split(None, 1) for line in run("stats")[1].splitlines())
        assert {name: int(printed[name]) for name in named} == {name: expected[name] for name in named}
        (found,) = values(run("keys", ODD, "--json")[1])
        known = asdict(cache._state.keyspace.of(ODD))
        assert found == {kind: name for kind, name in known.items() if not isinstance(name, tuple)}
        assert run("keys", HOT)[1].splitlines()[0] == f"meta     {cache._state.keyspace.of(HOT).meta}"


def test_tail(run, monkeypatch, one_stack):
    """The newest n, none of a key without a session, none of another owner's."""
    with told(monkeypatch, one_stack) as cache:
        filled(cache)
        contents = lambda *arguments: [one["data"]["content"] for one in values(run("tail", *arguments, "--json")[1])]  # noqa: E731
        assert contents(EVICTED, "-n", "2") == ["message 3", "message 4"]
        assert contents(EVICTED) == [f"message {n}" for n in range(5)]
        assert contents(EVICTED, "-n", "0") == []
        for arguments in ([DELETED], [HOT, "--owner", "bob"], ["never", "-f"]):
            assert run("tail", *arguments)[:2] == (NOT_FOUND, "")


def test_following_a_key(one_stack, monkeypatch):
    """Every message once and in order: more than a page between two polls, edits, resets, a deletion, a switch back."""
    said, seen = [], []
    monkeypatch.setattr("sessioncache.cli.live._say", said.append)
    with one_stack.cache(**ALONE, window=150) as cache, one_stack.cache(**ALONE) as other:
        session = cache.open(HOT, owner="alice")
        session.append([{"content": "0"}, {"content": "1"}])
        tail = _Tail(other._connections, HOT, "alice", lambda _id, record: seen.append(record.data["content"]))
        tail.begin(1)
        assert seen == ["1"]
        written = ["1"]

        def comes(session, count=1):
            texts = [f"{len(written) + n}" for n in range(count)]
            session.append([{"content": text} for text in texts])
            written.extend(texts)

        def follows():
            tail.go_on()
            assert seen == written

        follows()
        comes(session)
        follows()
        comes(session, 700)
        follows()
        record = session.messages(limit=1)[0]
        session.edit(record.id, {"content": "edited"})
        comes(session)
        follows()
        assert said == []
        comes(session, 3)
        second = cache.get(HOT).reset()
        comes(second)
        third = cache.get(HOT).reset()
        comes(third, 2)
        follows()
        assert said.pop() == f"Session {third.session_id} is current now."
        comes(third)
        third.switch(session.session_id)
        comes(cache.get(HOT))
        follows()
        assert said.pop() == f"Session {session.session_id} is current now."
        cache.delete(HOT)
        follows()
        follows()
        assert said == ["The key has no session now."]
        comes(cache.open(HOT, owner="alice"))
        follows()
        cache.delete(HOT)
        cache.open(HOT, owner="bob").append({"content": "not for alice"})
        follows()
        assert said[2:] == ["The key has no session now."]


def test_following_a_session_without_messages(one_stack, monkeypatch):
    """What was said in earlier sessions of the key is not printed when this one ends."""
    seen = []
    monkeypatch.setattr("sessioncache.cli.live._say", lambda _sentence: None)
    with one_stack.cache(**ALONE) as cache, one_stack.cache(**ALONE) as other:
        cache.open(HOT).append([{"content": "long ago"}])
        cache.get(HOT).reset()
        tail = _Tail(other._connections, HOT, None, lambda _id, record: seen.append(record.data["content"]))
        tail.begin(5)
        cache.get(HOT).append({"content": "last words"})
        cache.get(HOT).reset().append({"content": "new"})
        tail.go_on()
        assert seen == ["last words", "new"]


def test_following_carries_what_is_new(one_stack):
    """A poll reads the near copy's difference, and a long history is not read again."""
    with one_stack.cache(**ALONE) as cache, one_stack.cache(**ALONE) as other:
        session = cache.open(HOT)
        session.append([{"content": str(n)} for n in range(500)])
        tail = _Tail(other._connections, HOT, None, lambda _id, _record: None)
        tail.begin(3)
        tail.go_on()
        full = other.stats().counters["reads_full"]
        for _ in range(5):
            session.append({"content": "x"})
            tail.go_on()
        counters = other.stats().counters
        assert (counters["reads_full"] - full, counters["sql_pages"]) == (0, 0)
        assert counters["reads_delta"] >= 5


def test_tail_on_a_terminal(tmp_path, set_up_sqlite):
    """Followed while another process writes, resets, and Redis is away for a while; until Ctrl-C."""
    server = RedisServer(binary_of("valkey9")).start()
    (tmp_path / "store.db").write_bytes(set_up_sqlite.read_bytes())
    settings = {"redis_timeout": 1.0, "timeout": 2.0, **ALONE}
    try:
        with SessionCache.from_url(server.url, f"sqlite:///{tmp_path}/store.db", **settings) as cache:
            session = cache.open(HOT)
            session.append([{"role": "user", "content": f"message {n}"} for n in range(5)])
            with Terminal("tail", "-f", "-n", "2", HOT, settings=cache.settings) as terminal:
                screen = terminal.until(lambda text: "message 4" in text)
                assert "message 3" in screen
                assert "message 2" not in screen
                session.append({"role": "assistant", "content": "first \x1b[2J answer\n" + "long " * 30})
                screen = terminal.until(lambda text: "first" in text)
                assert "message 3" in screen  # the screen was not cleared
                session.append({"role": "user", "content": "last words"})
                again = session.reset()
                again.append({"role": "user", "content": "new beginning"})
                terminal.shows(rf"last words\n(.*\n)*.*{again.session_id}[^#]*#\d+ .* user\n  new beginning")
                cache.flush()
                server.kill()
                terminal.shows(r"sessioncache: Redis[\s\S]*Trying again\.")
                server.start()
                terminal.shows(r"Going on\.")
                again.append({"role": "user", "content": "after the outage"})
                terminal.shows("after the outage")
                terminal.press_interrupt()
                assert terminal.ended() == INTERRUPTED
    finally:
        server.close()


def test_wide_tables_on_a_narrow_terminal(one_stack):
    """At 80 columns a row takes as many lines as it needs, and nothing of it is lost."""
    with one_stack.cache(**ALONE) as cache:
        filled(cache)
        with Terminal("ls", "--owner", "bob", settings=cache.settings) as terminal:
            assert terminal.ended() == DONE
            lines = [line for line in terminal.lines() if line]
        assert lines[0].split() == ["session", "key", "messages", "updated", "owner", "state", "title"]
        assert all(len(line) <= 80 for line in lines)
        width = lines[0].index("messages")
        assert ODD.replace("\u202e", " ").replace(" ", "") in "".join(line[:width] for line in lines).replace(" ", "")


def subprocess_of(cache, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, **as_environment(cache.settings)}
    return subprocess.Popen(
        [*COMMAND, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )


@pytest.mark.parametrize("arguments", [["history", HOT, "-n", "10000"], ["tail", "-f", HOT]], ids=["history", "tail"])
def test_a_closed_pipe(one_stack, arguments):
    """`| head -1`: a sentence, and an end, also of what would go on for ever."""
    with one_stack.cache(**ALONE) as cache:
        cache.open(HOT).append([{"role": "user", "content": "x" * 200} for _ in range(2000)])
        with subprocess_of(cache, *arguments) as process:
            try:
                assert process.stdout.readline().startswith("#")
                process.stdout.close()
                sentence = "sessioncache: the output was closed before all of it was written\n"
                assert (process.wait(60), process.stderr.read()) == (FAILED, sentence)
            finally:
                process.kill()


@pytest.mark.parametrize("tier", ["redis", "sql"])
def test_a_tier_that_is_away(run, monkeypatch, one_stack, tier, tmp_path):
    """Status 5 and a sentence; what the other tier knows is shown."""
    with told(monkeypatch, one_stack, redis_timeout=0.5, timeout=1.0) as cache:
        filled(cache)
        away = {
            "redis": ("REDIS_URL", f"unix://{tmp_path}/none.sock"),
            "sql": ("DATABASE_URL", "postgresql://127.0.0.1:1/x"),
        }
        monkeypatch.setenv(f"SESSIONCACHE_{away[tier][0]}", away[tier][1])
        for arguments in (["show", "cold"], ["ls"], ["search", "x"]):
            status, printed, why = run(*arguments)
            assert (status, printed) == (UNAVAILABLE, ""), arguments
            assert why.startswith("sessioncache: ")
        assert run("stats")[0] == (UNAVAILABLE if tier == "redis" else DONE)
        if tier == "sql":
            assert "not to be told: the database is away" in run("stats")[1]
            assert "in SQL         not to be told" in run("show", HOT)[1]
            assert run("history", HOT, "-n", "1")[0] == DONE


@pytest.mark.parametrize("name", ["ls", "show", "history", "tail", "search", "keys", "stats"])
def test_help(run, name):
    """A sentence, the options with their meaning; no server is asked."""
    status, printed, _ = run(name, "--help")
    assert status == DONE
    assert printed.startswith(f"Usage: sessioncache {name} ")
    assert "--json" in printed


def alike(printed: str) -> list[str]:
    """What two runs print alike: times, ids and numbers that depend on the clock are as they are named here."""
    said = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+\+00:00|Z)", "TIME", printed)
    said = re.sub(r"\d{8}_\d{6}_[0-9a-f]{20}", "SESSION", said)
    said = re.sub(r'"id": "[\w-]{16}"', '"id": "ID"', said)
    said = re.sub(r"\b3\d\d\d s", "TTL s", said)
    said = re.sub(r"\d+\.\d+", "SECONDS", said)
    said = re.sub(r"\b\d+ bytes|(?<=pending_bytes   )\d+", "SIZE", said)
    return [line.rstrip() for line in said.splitlines() if line.strip()]


def test_the_examples_of_the_page(run, monkeypatch, one_stack):
    """docs/commands.md: each command that looks prints what stands below it there."""
    with told(monkeypatch, one_stack) as cache:
        cache.open("slack:C1", owner="bob").append({"role": "user", "content": "message 1"})
        session = cache.open(HOT, owner="alice", title="Plans for May")
        said = ["we need an invoice", "I can write one. Whom is it for?", "for bob"]
        session.append([{"role": role, "content": text} for role, text in zip(("user", "assistant"), said, strict=False)])
        cache.flush()
        session.append({"role": "user", "content": said[2]})
        examples = re.findall(r"^\$ sessioncache (.*)\n([^$`]*)", reference.PAGE.read_text(), re.MULTILINE)
        assert {words.split()[0] for words, _ in examples} >= {"ls", "show", "history", "tail", "search", "stats", "keys"}
        for words, expected in examples:
            status, printed, why = run(*words.split())
            assert (status, why) == (DONE, "")
            assert alike(printed) == alike(expected), words


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_long_session_does_not_freeze_redis(run, monkeypatch, one_stack, record_property):
    """100,000 messages: no command that looks keeps Redis from others for long; the slowest is told."""
    with told(monkeypatch, one_stack) as cache, one_stack.raw() as raw:
        session = cache.open(HOT)
        for first in range(0, 100_000, 1000):
            session.append([{"role": "user", "content": f"message {n} {'x' * 100}"} for n in range(first, first + 1000)])
            cache.flush(HOT)
        raw.config_set("slowlog-log-slower-than", 0)
        slowest = {}
        try:
            for arguments in (
                ["show", HOT], ["show", session.session_id], ["history", HOT], ["history", HOT, "-n", "10000"],
                ["history", HOT, "--before", "50000"], ["tail", HOT], ["search", "message 77777"], ["ls"], ["keys", HOT],
                ["stats"],
            ):  # fmt: skip
                raw.slowlog_reset()
                assert run(*arguments)[0] == DONE
                took = max((one["duration"] for one in raw.slowlog_get(1000)), default=0)
                slowest[" ".join(arguments)[:60]] = took / 1000
        finally:
            raw.config_set("slowlog-log-slower-than", 10_000)
        ranked = sorted(slowest.items(), key=lambda pair: -pair[1])
        record_property("slowest Redis command of each", ", ".join(f"{name}: {took:.2f} ms" for name, took in ranked))
        assert ranked[0][1] < 250
