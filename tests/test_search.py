"""Search: the same texts are found, in every script, in every database; and how an earlier store comes by it."""
# ruff: noqa: RUF001 - texts in many scripts

from __future__ import annotations

import random
from importlib.resources import as_file, files

import pytest
from alembic import command
from rows import NOON, add, ids, message
from sqlalchemy import create_engine, delete, insert, inspect, text, update
from sqlalchemy.exc import IntegrityError

from sessioncache import migrate
from sessioncache.schema import messages, sessions
from sessioncache.store.engine import prepared
from sessioncache.store.find import Filters, listed, one
from sessioncache.store.search import search, snippet
from sessioncache.store.words import searchable, terms, title_words, words

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
    "english": ["fox", "FOX quick", "doesn't", "doesn’t", "2024", "invoice-2024", "example", "a_b"],
    "german": ["straße", "strasse", "köln", "KÖLN", "Schön", "„sehr“", "sehr"],
    "chinese": ["你好", "世界", "明天 吃饭", "界", "我们明天"],
    "japanese": ["カナ", "がな", "漢字", "abc", "ｶﾀｶﾅ"],
    "korean": ["한국어", "검색 텍스트"],
    "thai": ["อากาศ", "ดีมาก"],
    "khmer": ["កម្ពុជា"],
    "arabic": ["بالعالم", "الحال مرحبا"],
    "persian": ["می‌خواهم", "میخواهم"],
    "hindi": ["हिन्दी", "लिखा हिन्दी"],
    "greek": ["οδος", "αθηνων", "ΟΔΟΣ"],
    "russian": ["мир", "ПРИВЕТ"],
    "emoji": ["🎉", "tonight", "party🎉", "👍", "❤"],
    "code": ["near p q", "NEAR(p,", 'x["key"]', "def AND or"],
    "decomposed": ["café", "cafe\u0301"],
    "nul": ["before", "before\x00after"],
}
ABSENT = [
    *["fo", "fox wolf", "07/2024", "koln", "好你", "天吃", "字漢", "한국", "มากดี", "عالم", "Αθηνών", "🚀", "🎉 🚀", "cafe"],
]
NOTHING = [
    *["", "   ", "\n\t", "\x00", '"', '""', "'", "*", "-", "--", ":", "()", "^", "!&|", "…", "، ؟", "_"],
    *["\ud800", "\u200b", "\ufe0f"],
]
STRANGE = [
    *['"fox" OR', "fox*", "fox AND", "NOT fox", "words:fox", "-fox -", "fox)", "(fox", "fox:*A", "{fox}", "fox\\", "%fox"],
    *["fox' --", "fox <-> quick", "fox; DROP TABLE messages", "messages_search", ":asked", "%(x)s", "\ud800fox"],
    *["fox " * 2500, "🎉" * 10_000, "你" * 10_000, "x" * 10_000, "a b c " * 1700, "é" * 999, "{" * 10_000],
    *["\U00031350", "ꟸ", "\u0301"],
]


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
        for name, queries in SEARCHES.items():
            for query in queries:
                assert ids(search(connection, query, None, 10)) == [name], query
        for query in ABSENT:
            assert search(connection, query, None, 10) == [], query


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
