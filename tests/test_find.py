"""Finding sessions in the store: lists, counts, previews, and what housekeeping looks for."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC

import pytest
from rows import NOON, add, ids, minutes
from sqlalchemy import text

from sessioncache import HookFailed, InvalidInput
from sessioncache.store import candidates
from sessioncache.store.find import Filters, count, has_any, listed, one
from sessioncache.store.previews import previews, shortened


def pages(connection, filters, limit):
    """Every page of a list, one after the other."""
    found, after = [], None
    while page := listed(connection, filters, limit, after):
        assert len(page) <= limit
        found += page
        after = page[-1].updated_at, page[-1].session_id
    return found


# Lists


@pytest.mark.parametrize("states", [("live",), ("live", "archived", "ended")])
def test_pages_have_neither_gaps_nor_repeats(store, states):
    """Also where many sessions were active in the same millisecond."""
    with store.begin() as connection:
        for n in range(60):
            marks = [{}, {"archived": True}, {"ended_at": NOON}, {"deleted": True}][n % 4]
            add(connection, f"s{n:02d}", at=n // 20, **marks)
        expected = {f"s{n:02d}" for n in range(60) if ("live", "archived", "ended", "deleted")[n % 4] in states}
        for limit in (1, 7, 100):
            found = pages(connection, Filters(states=states), limit)
            assert len(found) == len(expected)
            assert set(ids(found)) == expected
            assert found == sorted(found, key=lambda info: (info.updated_at, info.session_id), reverse=True)
        assert count(connection, Filters(states=states)) == len(expected)


def test_filters_narrow_a_list(store):
    """Each by itself, and together."""
    with store.begin() as connection:
        add(connection, "a", owner="alice", platform="telegram", at=1)
        add(connection, "b", owner="bob", platform="telegram", important=True, at=2)
        add(connection, "c", owner="alice", platform="slack", important=True, at=3)
        add(connection, "d", owner="alice", archived=True, at=4)
        add(connection, "e", owner="alice", deleted=True, at=5)
        every = Filters(states=("live", "archived", "ended"))
        for changes, expected in (
            ({}, "dcba"),
            ({"owner": "alice"}, "dca"),
            ({"owner": "alice", "states": ("live",)}, "ca"),
            ({"owner": "Alice"}, ""),
            ({"platform": "telegram"}, "ba"),
            ({"important": True}, "cb"),
            ({"important": False}, "da"),
            ({"active_since": minutes(2)}, "dcb"),
            ({"session_key": "b"}, "b"),
            ({"owner": "alice", "session_key": "b"}, ""),
            ({"owner": "alice", "important": True, "platform": "slack", "active_since": minutes(3)}, "c"),
            ({"states": ()}, ""),
            ({"states": ("deleted",)}, ""),
        ):
            filters = replace(every, **changes)
            assert ids(listed(connection, filters, 10)) == list(expected), changes
            assert count(connection, filters) == len(expected), changes


PREFIXED = ["50%", "50%x", "50x", "a_b", "axb", "a*", "a[b]", "ab", "A_b", "ключ:1", "ключ:2", "клюя",
            "鍵\ud7ff", "鍵\ud7ffx", "鍵\ue000", "\U0010ffff", "\U0010ffffz"]  # fmt: skip


def test_no_character_of_a_prefix_is_special(store):
    """Neither to LIKE nor to GLOB, in no script and no locale."""
    with store.begin() as connection:
        for key in PREFIXED:
            add(connection, key)
        for prefix in [*PREFIXED, "a", "50", "ключ", "鍵", "\\", "", "'", "~"]:
            expected = sorted(key for key in PREFIXED if key.startswith(prefix))
            filters = Filters(key_prefix=prefix, states=("live", "ended"))
            assert sorted(info.key for info in pages(connection, filters, 2)) == expected
            assert count(connection, filters) == len(expected)


def test_one_session(store):
    """With all that is known of it; None for one that is unknown or deleted."""
    with store.begin() as connection:
        used = {"input_tokens": 3, "cost_nano": 5 * 10**8, "cost_status": "estimated", "model": "m", "consolidated_seq": 2}
        add(
            connection,
            "a",
            ["x"],
            title="T",
            owner="o",
            origin={"chat_id": "1"},
            metadata={"é": [1]},
            parent_id="p",
            **used,
        )
        add(connection, "gone", deleted=True)
        info = one(connection, "a")
        assert (info.key, info.version, info.title, info.owner, info.parent_id) == ("a", None, "T", "o", "p")
        assert (info.origin, info.metadata) == ({"chat_id": "1"}, {"é": [1]})
        assert (info.usage.input_tokens, info.usage.estimated_cost, info.usage.cost_status) == (3, 0.5, "estimated")
        assert (info.usage.model, info.consolidated_seq, info.message_count) == ("m", 2, 1)
        assert info.created_at == NOON
        assert info.created_at.tzinfo is UTC
        assert one(connection, "gone") is None
        assert one(connection, "nobody") is None


def test_one_corrupt_row_spoils_no_other(store, caplog):
    """What cannot be read of it is left out, and logged without its content."""
    with store.begin() as connection:
        for n, (origin, detail) in enumerate([({"a": 1}, {"b": 2}), ([1], "text"), (None, None), ({}, {})]):
            add(connection, f"s{n}", origin=origin, metadata=detail, at=-n)
        if store.dialect.name == "sqlite":
            connection.execute(
                text("""UPDATE sessions SET origin = '{"secret', metadata = '[[[' WHERE session_id = 's3'""")
            )
        with caplog.at_level(logging.WARNING, "sessioncache.store"):
            found = listed(connection, Filters(), 10)
        assert [(info.origin, info.metadata) for info in found] == [
            ({"a": 1}, {"b": 2}), (None, {}), (None, {}), (None if store.dialect.name == "sqlite" else {}, {})
        ]  # fmt: skip
        assert len(caplog.records) == (4 if store.dialect.name == "sqlite" else 2)
        assert "s1" in caplog.text
        assert "secret" not in caplog.text
        assert "text" not in caplog.text.replace("context", "")


def test_has_any_counts_ended_ones(store):
    """But neither the one asking nor deleted ones."""
    with store.begin() as connection:
        assert not has_any(connection, None)
        add(connection, "a", owner="alice")
        add(connection, "gone", owner="alice", deleted=True)
        assert has_any(connection, "alice")
        assert not has_any(connection, "alice", besides="a")
        assert not has_any(connection, "bob")
        add(connection, "b", owner="alice", ended_at=NOON)
        assert has_any(connection, "alice", besides="a")
        assert has_any(connection, None, besides="b")


# Previews


def test_previews_begin_with_the_first_user_text(store):
    """Else with the first assistant text; one statement for all."""
    subagent = {"role": "user", "content": "raw result", "injected_event": "subagent_result"}
    image = {"role": "user", "content": [{"type": "image", "url": "u"}]}
    blocks = {"role": "user", "content": [{"type": "text", "text": "two"}, {"type": "text", "text": "blocks"}]}
    said = {"role": "assistant", "content": " Good\n\n day "}
    with store.begin() as connection:
        add(connection, "plain", [said, "hello \t\n world"])
        add(connection, "assistant", [{"role": "system", "content": "rules"}, image, said])
        add(connection, "blocks", [image, " \n\u3000", blocks, "later"])
        add(connection, "subagent", [subagent, "later"])
        add(connection, "huge", [{**subagent, "content": "x" * 70_000}])
        add(connection, "long", ["word " * 100])
        add(connection, "deep", [said, *[{"role": "tool", "content": "t"}] * 150, "too far away"])
        add(connection, "marks", ["[image: /tmp/a.png]", "[Message Time: 10:00]\nhello", "later"])
        add(connection, "only marks", ["[image: /tmp/a.png]", {"role": "assistant", "content": "message('x')\nDone."}])
        add(connection, "none", [image])
        add(connection, "empty")
        asked = ["plain", "assistant", "blocks", "subagent", "huge", "long", "deep", "marks", "only marks", "none", "empty"]
        found = previews(connection, asked, lambda message: f"[{message['injected_event']}: {message['content'][:3]}]")
        assert found == {
            "plain": "hello world", "assistant": "Good day", "blocks": "two blocks", "subagent": "[subagent_result: raw]",
            "huge": "x" * 119 + "…", "long": ("word " * 24)[:119].rstrip() + "…", "deep": "Good day",
            "marks": "hello", "only marks": "Done.",
        }  # fmt: skip
        assert max(map(len, found.values())) == 120
        assert previews(connection, ["subagent"]) == {"subagent": "raw result"}
        assert previews(connection, []) == {}


@pytest.mark.parametrize(
    ("summarize", "error"), [(lambda _: 1 / 0, HookFailed), (lambda _: None, InvalidInput), (lambda _: 5, InvalidInput)]
)
def test_a_summary_that_fails(store, summarize, error):
    """It is told as what it is."""
    with store.begin() as connection:
        add(connection, "a", [{"role": "user", "content": "raw", "injected_event": "subagent_result"}])
        with pytest.raises(error):
            previews(connection, ["a"], summarize)


def test_a_corrupt_message_spoils_no_other_preview(store):
    """It is cut like any other."""
    with store.begin() as connection:
        for name in ("a", "b"):
            add(connection, name, [{"role": "user", "content": name, "injected_event": "subagent_result"}])
        connection.execute(
            text("""UPDATE messages SET body = '{"injected_event":"subagent_result"' WHERE session_id = 'a'""")
        )
        assert previews(connection, ["a", "b"], lambda _: "short") == {"a": "a", "b": "short"}


@pytest.mark.parametrize("length", [119, 120, 121])
def test_previews_have_120_characters_at_most(length):
    assert shortened("é" * length) == ("é" * length if length <= 120 else "é" * 119 + "…")


# What housekeeping looks for


def test_candidates(store):
    """Each question finds its sessions, oldest first, and goes on behind any of them."""
    with store.begin() as connection:
        add(connection, "empty1", at=1)
        add(connection, "empty2", at=2)
        add(connection, "new", at=50)
        add(connection, "used", ["x"], at=3)
        add(connection, "important", ["x"], at=4, important=True)
        add(connection, "read", ["x"], at=5, last_accessed=minutes(50))
        add(connection, "told", ["x"], at=6, told=True, suspended=True)
        add(connection, "archived", ["x"], at=7, archived=True)
        add(connection, "over", ["x"], at=8, ended_at=minutes(9))
        add(connection, "lately", ["x"], at=8, ended_at=minutes(40))
        add(connection, "over-read", ["x"], at=8, ended_at=minutes(8), last_accessed=minutes(50))
        add(connection, "deleted", at=0, deleted=True, ended_at=minutes(1))
        expected = {
            candidates.empty: ["empty1", "empty2"],
            candidates.old: ["used", "told"],
            candidates.idle: ["empty1", "empty2", "used", "important", "read", "archived"],
            candidates.ended: ["over"],
            candidates.untold: ["empty1", "empty2", "used", "important", "read"],
        }
        for question, answer in expected.items():
            assert [one.session_id for one in question(connection, minutes(30), 10)] == answer, question
            found, after = [], None
            while page := question(connection, minutes(30), 1, after):
                found.append(page[0].session_key)
                after = page[0].after
            assert found == answer, question
