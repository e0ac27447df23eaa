"""Finding sessions in the store: lists, counts, previews, search, and what housekeeping looks for."""

from __future__ import annotations

import logging
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.resources import as_file, files
from itertools import count

import pytest
from alembic import command
from sqlalchemy import create_engine, delete, insert, inspect, text, update
from sqlalchemy.exc import IntegrityError

from sessioncache import migrate
from sessioncache.message import plain_text, to_json
from sessioncache.schema import messages, sessions
from sessioncache.store import candidates
from sessioncache.store.engine import prepared
from sessioncache.store.find import Filters, has_any, listed, one
from sessioncache.store.find import count as counted
from sessioncache.store.previews import previews, shortened
from sessioncache.store.search import search, snippet
from sessioncache.store.words import searchable, terms, title_words, words

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
serial = count(1)


def minutes(n: int) -> datetime:
    return NOON + timedelta(minutes=n)


def add(connection, session_id, said=(), *, title=None, at=0, **columns):
    """A session and what was said in it: texts, or whole messages."""
    times = dict.fromkeys(("created_at", "updated_at", "last_accessed"), minutes(at))
    row = {"session_id": session_id, "session_key": session_id, "title": title, "title_words": title_words(title), **times}
    connection.execute(insert(sessions).values({**row, "message_count": len(said), **columns}))
    rows = [message(session_id, n, one, at) for n, one in enumerate(said, 1)]
    if rows:
        connection.execute(insert(messages), rows)


def message(session_id, seq, said, at=0):
    data = {"role": "user", "content": said} if isinstance(said, str) else said
    plain = plain_text(data).replace("\x00", "\ufffd")
    return {
        "session_id": session_id, "seq": seq, "message_id": f"m{next(serial)}", "role": data.get("role"),
        "body": to_json(data), "text": plain, "words": searchable(plain), "created_at": minutes(at),
    }  # fmt: skip


def ids(found):
    return [getattr(each, "info", each).session_id for each in found]


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
        assert counted(connection, Filters(states=states)) == len(expected)


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
            assert counted(connection, filters) == len(expected), changes


PREFIXED = ["50%", "50%x", "50x", "a_b", "axb", "a*", "a[b]", "ab", "ключ:1", "ключ:2", "клюя", "鍵\ud7ff", "鍵\ud7ffx", "鍵\ue000",
            "\U0010ffff", "\U0010ffffz", "A_b"]  # fmt: skip


def test_no_character_of_a_prefix_is_special(store):
    """Neither to LIKE nor to GLOB, in no script and no locale."""
    with store.begin() as connection:
        for key in PREFIXED:
            add(connection, key)
        for prefix in [*PREFIXED, "a", "50", "ключ", "鍵", "\\", "", "'", "~"]:
            expected = sorted(key for key in PREFIXED if key.startswith(prefix))
            filters = Filters(key_prefix=prefix, states=("live", "ended"))
            assert sorted(info.key for info in pages(connection, filters, 2)) == expected
            assert counted(connection, filters) == len(expected)


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
        add(connection, "none", [image])
        add(connection, "empty")
        asked = ["plain", "assistant", "blocks", "subagent", "huge", "long", "deep", "none", "empty", "unknown"]
        found = previews(connection, asked, lambda message: f"[{message['injected_event']}: {message['content'][:3]}]")
        assert found == {
            "plain": "hello world", "assistant": "Good day", "blocks": "two blocks", "subagent": "[subagent_result: raw]",
            "huge": "x" * 119 + "…", "long": ("word " * 24)[:119].rstrip() + "…", "deep": "Good day",
        }  # fmt: skip
        assert max(map(len, found.values())) == 120
        assert previews(connection, ["subagent"]) == {"subagent": "raw result"}
        assert previews(connection, []) == {}


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


# Search

TEXTS = {
    "english": "The quick brown fox doesn't jump over invoice-2024/07, see https://example.com/a_b",
    "german": "Die STRASSE in KÖLN ist schön – „sehr“ schön",
    "chinese": "你好，世界。我们明天去吃饭",
    "japanese": "カタカナとひらがなと漢字 ＡＢＣ",
    "korean": "한국어 텍스트 검색",
    "thai": "วันนี้อากาศดีมาก",
    "khmer": "ខ្ញុំស្រឡាញ់កម្ពុជា",
    "arabic": "مرحبا بالعالم، كيف الحال؟",
    "persian": "می‌خواهم بروم",
    "hindi": "हिन्दी में लिखा हुआ",
    "greek": "ΟΔΟΣ ΑΘΗΝΩΝ",
    "russian": "Привет, МИР!",
    "emoji": "party🎉🎉tonight 👍🏽 ❤️",
    "code": 'def f(x): return x["key"] # NEAR(p, q) AND * OR -c',
    "decomposed": "cafe\u0301 noir",
    "nul": "before\x00after",
}  # fmt: skip
SEARCHES = {
    "fox": "english", "FOX quick": "english", "doesn't": "english", "doesn’t": "english", "2024": "english",
    "invoice-2024": "english", "example": "english", "a_b": "english", "fo": "", "fox wolf": "", "07/2024": "",
    "straße": "german", "köln": "german", "KÖLN": "german", "koln": "", "Schön": "german", "„sehr“": "german", "sehr": "german",
    "你好": "chinese", "世界": "chinese", "明天 吃饭": "chinese", "界": "chinese", "好你": "", "天吃": "", "我们明天": "chinese",
    "カナ": "japanese", "がな": "japanese", "漢字": "japanese", "abc": "japanese", "ｶﾀｶﾅ": "japanese", "字漢": "",
    "한국어": "korean", "검색 텍스트": "korean", "한국": "",
    "อากาศ": "thai", "ดีมาก": "thai", "มากดี": "", "កម្ពុជា": "khmer",
    "بالعالم": "arabic", "الحال مرحبا": "arabic", "عالم": "", "می‌خواهم": "persian", "میخواهم": "persian",
    "हिन्दी": "hindi", "लिखा हिन्दी": "hindi", "οδος": "greek", "Αθηνών": "", "αθηνων": "greek", "мир": "russian", "ПРИВЕТ": "russian",
    "🎉": "emoji", "tonight": "emoji", "party🎉": "emoji", "👍": "emoji", "❤": "emoji", "🚀": "", "🎉 🚀": "",
    "near p q": "code", "NEAR(p,": "code", 'x["key"]': "code", "def AND or": "code", "café": "decomposed", "cafe\u0301": "decomposed",
    "before": "nul", "before\x00after": "nul",
}  # fmt: skip
NOTHING = [
    "",
    "   ",
    "\n\t",
    "\x00",
    '"',
    '""',
    "'",
    "*",
    "-",
    "--",
    ":",
    "()",
    "^",
    "!&|",
    "…",
    "، ؟",
    "_",
    "\ud800",
    "\u200b",
    "\ufe0f",
]
STRANGE = ['"fox" OR', "fox*", "fox AND", "NOT fox", "words:fox", "-fox -", "fox)", "(fox", "fox:*A", "{fox}", "fox\\", "%fox", "fox' --",
           "fox <-> quick", "messages_search", "fox " * 2500, "🎉" * 10_000, "你" * 10_000, "x" * 10_000, "a b c " * 1700, "\ud800fox",
           "é" * 999, "{" * 10_000, "fox; DROP TABLE messages", ":asked", "%(x)s", "\U00031350", "ꟸ", "\u0301"]  # fmt: skip


@pytest.fixture
def texts(store):
    """A store that holds all of TEXTS, each as a session's only message."""
    with store.begin() as connection:
        for name, said in TEXTS.items():
            add(connection, name, [said])
    return store


def test_words_are_found_alike_in_every_database(texts):
    """Whatever their script and case, as one would read them; accents count."""
    with texts.connect() as connection:
        found = {query: ids(search(connection, query, None, 10)) for query in SEARCHES}
    assert found == {query: [name] if name else [] for query, name in SEARCHES.items()}


def test_nothing_in_a_query_is_an_operator(texts):
    """No query fails; one without a word finds nothing."""
    with texts.connect() as connection:
        for query in NOTHING:
            assert search(connection, query, None, 10) == [], repr(query)
        for query in STRANGE:
            found = ids(search(connection, query, None, 10))
            assert set(found) <= {"english"}, query[:20]
        assert ids(search(connection, "fox)", None, 10)) == ["english"]
        assert ids(search(connection, "fox " * 2500, None, 10)) == ["english"]
        assert ids(search(connection, "fox OR wolf", None, 10)) == []


def test_hits_say_where_they_are(store):
    """The session, the message and the text around."""
    with store.begin() as connection:
        add(
            connection,
            "a",
            ["nothing", "alpha " * 100 + "the needle\n is here " + "omega " * 100],
            title="A title",
            owner="o",
        )
        hit = search(connection, "NEEDLE", None, 5)[0]
        assert (hit.info, hit.seq) == (one(connection, "a"), 2)
        assert hit.message_id == connection.scalar(text("SELECT message_id FROM messages WHERE seq = 2"))
        assert "the needle is here omega" in hit.snippet
        assert len(hit.snippet) <= 160
        assert hit.snippet[0] == hit.snippet[-1] == "…"
        assert 0 < hit.rank < 1


def test_titles_are_found_first(store):
    """Their hits have no message; a title that changes or goes is found by its new words alone."""
    with store.begin() as connection:
        add(connection, "message", ["trip trip trip"], at=5)
        add(connection, "title", ["x"], title="My TRIP to 北京")
        found = search(connection, "trip", None, 5)
        assert ids(found) == ["title", "message"]
        assert (found[0].seq, found[0].message_id, found[0].snippet) == (None, None, "My TRIP to 北京")
        assert 1 < found[0].rank < 2
        assert found[1].rank < 1
        assert ids(search(connection, "北京", None, 5)) == ["title"]
        changed = update(sessions).where(sessions.c.session_id == "title")
        connection.execute(changed.values(title="Ελλάδα", title_words=title_words("Ελλάδα")))
        assert ids(search(connection, "trip", None, 5)) == ["message"]
        assert ids(search(connection, "ΕΛΛΆΔΑ", None, 5)) == ["title"]
        connection.execute(changed.values(title=None))
        assert search(connection, "ελλάδα", None, 5) == []
        connection.execute(changed.values(title="trip", title_words=None))
        assert ids(search(connection, "trip", None, 1)) == ["title"]


def test_the_best_come_first(store):
    """More of the words, in less text; the newest where they are alike."""
    with store.begin() as connection:
        add(connection, "weak", ["needle " + "hay " * 200], at=3)
        add(connection, "strong", ["needle needle needle"], at=1)
        for n in range(20):
            add(connection, f"other{n}", ["nothing of the kind"])
        assert ids(search(connection, "needle", None, 5)) == ["strong", "weak"]
        for n in range(3):
            add(connection, f"same{n}", ["equal text"], at=n)
        found = search(connection, "equal", None, 5)
        assert ids(found) == ["same2", "same1", "same0"]
        assert ids(search(connection, "equal", None, 2)) == ["same2", "same1"]
        assert found[0].rank == found[2].rank


def test_an_owner_finds_only_their_own(store):
    """And nobody finds what was deleted."""
    with store.begin() as connection:
        add(connection, "a", ["needle"], title="needle", owner="alice")
        add(connection, "b", ["needle"], title="needle", owner="bob")
        add(connection, "nobody", ["needle"], archived=True)
        add(connection, "over", ["needle"], owner="bob", ended_at=NOON)
        add(connection, "gone", ["needle"], title="needle", owner="alice", deleted=True)
        assert ids(search(connection, "needle", "alice", 10)) == ["a", "a"]
        assert sorted(ids(search(connection, "needle", "bob", 10))) == ["b", "b", "over"]
        assert sorted(ids(search(connection, "needle", None, 10))) == ["a", "a", "b", "b", "nobody", "over"]
        assert search(connection, "needle", "carol", 10) == []


def test_the_index_follows_every_change(store):
    """Messages that change or go, in whatever order."""
    choose = random.Random(1)
    with store.begin() as connection:
        add(connection, "s")
        there: dict[int, str] = {}
        for turn in range(120):
            seq = choose.randint(1, 30)
            said = " ".join(choose.choices(["red", "grün", "黄色", "blau"], k=choose.randint(1, 3)))
            mine = messages.c.session_id == "s", messages.c.seq == seq
            if seq not in there:
                connection.execute(insert(messages).values(message("s", seq, said, turn)))
                there[seq] = said
            elif choose.random() < 0.5:
                connection.execute(update(messages).where(*mine).values(text=said, words=searchable(said)))
                there[seq] = said
            else:
                connection.execute(delete(messages).where(*mine))
                del there[seq]
        for query in ("red", "GRÜN", "黄色", "blau", "黄", "red blau"):
            wanted = {
                seq
                for seq, said in there.items()
                if all(term in said.split() or term in said for term in query.lower().split())
            }
            assert {hit.seq for hit in search(connection, query, None, 100)} == wanted, query


def test_vacuum_loses_nothing(store):
    """Row ids that change would make SQLite's search find other messages, and refuse to delete."""
    with store.begin() as connection:
        for n in range(50):
            add(connection, f"s{n:02d}", [f"word{n} common"], title=f"title{n}")
        connection.execute(delete(messages).where(messages.c.session_id < "s25"))
        connection.execute(delete(sessions).where(sessions.c.session_id < "s25"))
    plain = create_engine(store.url, isolation_level="AUTOCOMMIT")
    with plain.connect() as connection:
        connection.exec_driver_sql("VACUUM")
    plain.dispose()
    with store.begin() as connection:
        assert ids(search(connection, "word40", None, 5)) == ids(search(connection, "title40", None, 5)) == ["s40"]
        assert len(search(connection, "common", None, 100)) == 25
        connection.execute(delete(messages).where(messages.c.session_id == "s40"))
        assert search(connection, "word40", None, 5) == []
        assert len(search(connection, "common", None, 100)) == 24
        if store.dialect.name == "sqlite":
            connection.exec_driver_sql("INSERT INTO messages_search(messages_search) VALUES('integrity-check')")


def random_words(rnd, first, last, size):
    made = []
    while size > 0:
        length = rnd.randint(1, 12)
        made.append("".join(chr(rnd.randint(first, last)) for _ in range(length)))
        size -= length + 1
    return " ".join(made)


SCRIPTS = [
    (0x61, 0x7A),
    (0x430, 0x44F),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0x12000, 0x12399),
    (0x1F300, 0x1F6FF),
    (0x21, 0xD7FF),
]


def test_no_text_is_too_long_or_too_strange_to_be_stored(store):
    """A megabyte of random words in any script, or of one word; what stands at the beginning is found."""
    for first, last in SCRIPTS:
        said = "needle " + random_words(random.Random(first), first, last, 2**20 // len(chr(last).encode()))
        with store.begin() as connection:
            add(connection, f"long{first}", [said, said.replace(" ", "")])
            hits = search(connection, "needle", None, 5)
            assert 1 in {hit.seq for hit in hits}
            assert all(len(hit.snippet) <= 160 for hit in hits)
            connection.execute(delete(messages))
            assert search(connection, "needle", None, 5) == []


def test_the_worst_text_fits_the_index_of_postgresql(store):
    """200,000 characters of words that occur once, four bytes each."""
    rnd = random.Random(1)
    letters = [chr(code) for code in (*range(0x12000, 0x1239A), *range(0x13000, 0x1342F), *range(0x16800, 0x16A39))]
    for length in (1, 2, 3):
        said = " ".join({"".join(rnd.choices(letters, k=length)) for _ in range(300_000 // length)})
        with store.begin() as connection:
            add(connection, f"worst{length}", [said])
            assert ids(search(connection, said[:length], None, 5)) == [f"worst{length}"]


# Words and snippets


@pytest.mark.parametrize("plain", ["", "Plain ASCII, of course!", "naïve – “quoted” text…", "déjà vu", "łódź"])
def test_most_western_text_is_not_kept_twice(plain):
    assert searchable(plain) is None
    assert words(plain) == plain
    assert title_words(plain) is None


def test_words_of_a_long_text_are_cut():
    assert len(searchable("你" * 300_000)) == 200_000
    assert searchable("a" * 300_000) is None
    assert title_words(None) is None


def test_a_query_is_cut_too():
    assert terms("a " * 100 + "b") == ["a", "b"] or terms("a " * 100 + "b") == ["a"]
    assert len(" ".join(terms(" ".join(f"w{n}" for n in range(1000)))).split()) == 64
    assert terms("fine " + "x" * 2001) == []


@pytest.mark.parametrize(
    ("said", "query", "expected"),
    [
        ("short  text\n here", "text", "short text here"),
        ("start " * 50 + "art " + "end " * 50, "art", "start start start start start start start start art end"),
        ("文" * 300 + "你好" + "字" * 300, "你好", "文你好字"),
        ("Ä" * 300 + " köln " + "b" * 300, "KÖLN", "Ä köln b"),
        ("a" * 400, "nowhere", "aaa"),
        ("x " * 200 + "end", "end", "x x end"),
        ("x " * 200, "((((", "x x"),
    ],
)  # fmt: skip
def test_snippets(said, query, expected):
    made = snippet(said, query)
    assert expected in made
    assert len(made) <= 160


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


# The migration

FIRST_SESSION = """
    INSERT INTO sessions (session_id, session_key, owner, title, message_count, created_at, updated_at, last_accessed)
    VALUES (:id, :id, 'o', :title, 2000, :at, :at, :at)
"""
FIRST_MESSAGE = """
    INSERT INTO messages (session_id, seq, message_id, role, body, text, created_at)
    VALUES (:id, :seq, :message, 'user', :body, :text, :at)
"""


@pytest.fixture(params=["sqlite", "postgres"])
def first_store(request, tmp_path):
    """A store that the first release set up, with two sessions of 2,000 messages each."""
    url = f"sqlite:///{tmp_path}/a.db" if request.param == "sqlite" else request.getfixturevalue("empty_postgres")
    engine = prepared(create_engine(url))
    with engine.begin() as connection, as_file(files("sessioncache") / "migrations") as folder:
        config = migrate._config(str(folder))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for name, title in (("b", "Reise nach KÖLN"), ("a", None)):
            connection.execute(text(FIRST_SESSION), {"id": name, "title": title, "at": "2026-01-01 12:00:00.000000"})
            said = [f"number {n} 你好 {name}" for n in range(2000)]
            rows = [
                {"id": name, "seq": n, "message": f"m{n}", "body": "{}", "text": one, "at": "2026-01-01 12:00:00.000000"}
                for n, one in enumerate(said)
            ]
            connection.execute(text(FIRST_MESSAGE), rows)
    yield engine
    engine.dispose()


def test_an_earlier_store_is_upgraded_with_its_data(first_store):
    """Nothing is lost, keys and foreign keys hold, and what was there is found."""
    with first_store.begin() as connection:
        migrate.upgrade(connection)
    with first_store.begin() as connection:
        info = one(connection, "b")
        assert (info.owner, info.title, info.message_count, info.created_at) == ("o", "Reise nach KÖLN", 2000, NOON)
        assert ids(listed(connection, Filters(owner="o"), 5)) == ["b", "a"]
        assert connection.scalar(text("SELECT count(*) FROM messages WHERE words LIKE '%你 好%'")) == 4000
        assert ids(search(connection, "köln", None, 5)) == ["b"]
        assert [(h.info.session_id, h.seq) for h in search(connection, "1500 你好 a", None, 5)] == [("a", 1500)]
        add(connection, "new", ["1500 你好 a"], title="köln")
        assert len(search(connection, "1500", None, 5)) == 3
        indexes = {index["name"] for index in inspect(connection).get_indexes("sessions")}
        assert indexes >= {index.name for index in sessions.indexes}
    row = message("a", 1500, "again")
    refused = [message("nobody", 1, "x"), row, {**row, "seq": 5000, "message_id": "m7"}]
    refused += [{"session_id": "a", "created_at": NOON, "updated_at": NOON, "last_accessed": NOON}]
    for values in refused:
        with pytest.raises(IntegrityError), first_store.begin() as connection:
            connection.execute(insert(messages if "seq" in values else sessions).values(values))
    with pytest.raises(IntegrityError), first_store.begin() as connection:
        connection.execute(delete(sessions).where(sessions.c.session_id == "a"))
    if first_store.dialect.name == "sqlite":
        with first_store.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
            left = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE name LIKE 'new%'").all()
            assert left == []
