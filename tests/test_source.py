"""Sources and the keys made of them: the documented keys, the same on every server, and no two places under one key."""

from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError, fields, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sessioncache.conversation.key import SessionAddress, build_session_key, parse_session_key, storage_name
from sessioncache.conversation.source import SessionSource
from sessioncache.errors import InvalidInput, InvalidKey
from sessioncache.keys import check_session_key


def source(platform="telegram", chat_type="dm", **known):
    return SessionSource(platform=platform, chat_type=chat_type, **known)


def group(**known):
    return source("discord", "group", chat_id="guild-123", **known)


WHATSAPP = source("whatsapp", chat_id="15551234567@s.whatsapp.net")
IN_THREAD = group(thread_id="t1", user_id="alice")
NOBODY = {"group_sessions_per_user": False}
THREADS = {"thread_sessions_per_user": True}
ALIASES = {"canonical_aliases": True}


@pytest.mark.parametrize(
    ("place", "settings", "key"),
    [
        (source(chat_id="99"), {}, "agent:main:telegram:dm:99"),
        (source(chat_id="99", user_id="jordan"), {}, "agent:main:telegram:dm:99"),
        (source(chat_id="99", thread_id="topic-1"), {}, "agent:main:telegram:dm:99:topic-1"),
        (source(chat_id="99", thread_id="topic-1", user_id="jordan"), THREADS, "agent:main:telegram:dm:99:topic-1"),
        (source(user_id="jordan"), {}, "agent:main:telegram:dm:jordan"),
        (source(user_id="jordan"), NOBODY, "agent:main:telegram:dm:jordan"),
        (source(user_id="jordan", user_id_alt="uuid-1"), {}, "agent:main:telegram:dm:uuid-1"),
        (source(user_id="jordan", thread_id="7"), {}, "agent:main:telegram:dm:jordan:7"),
        (source(thread_id="7"), {}, "agent:main:telegram:dm:7"),
        (source(), {}, "agent:main:telegram:dm"),
        (source(user_name="Jordan", chat_name="X", chat_id_alt="Y"), {}, "agent:main:telegram:dm"),
        (group(user_id="alice"), {}, "agent:main:discord:group:guild-123:alice"),
        (group(user_id="alice", user_id_alt="a-2"), {}, "agent:main:discord:group:guild-123:a-2"),
        (group(user_id="alice"), NOBODY, "agent:main:discord:group:guild-123"),
        (group(), {}, "agent:main:discord:group:guild-123"),
        (IN_THREAD, {}, "agent:main:discord:group:guild-123:t1"),
        (IN_THREAD, THREADS, "agent:main:discord:group:guild-123:t1:alice"),
        (IN_THREAD, THREADS | NOBODY, "agent:main:discord:group:guild-123:t1"),
        (IN_THREAD, NOBODY, "agent:main:discord:group:guild-123:t1"),
        (source("slack", "channel", chat_id="C1", user_id="U1"), {}, "agent:main:slack:channel:C1:U1"),
        (source("slack", "thread", chat_id="C1", user_id="U1"), {}, "agent:main:slack:thread:C1:U1"),
        (source("slack", "group", thread_id="9", user_id="U1"), {}, "agent:main:slack:group:9"),
        (source("slack", "group", user_id="U1"), {}, "agent:main:slack:group:U1"),
        (source("slack", "group"), {}, "agent:main:slack:group"),
        (SessionSource.local_cli(), {}, "agent:main:local:dm:cli"),
        (source(chat_id="99"), {"namespace": "work"}, "agent:work:telegram:dm:99"),
        (WHATSAPP, {}, "agent:main:whatsapp:dm:15551234567@s.whatsapp.net"),
        (WHATSAPP, ALIASES, "agent:main:whatsapp:dm:15551234567"),
        (replace(WHATSAPP, chat_id="+15551234567"), ALIASES, "agent:main:whatsapp:dm:15551234567"),
        (replace(WHATSAPP, chat_id="15551234567:2@s.whatsapp.net"), ALIASES, "agent:main:whatsapp:dm:15551234567"),
        (replace(WHATSAPP, chat_id="@lid"), ALIASES, "agent:main:whatsapp:dm:@lid"),
        (replace(WHATSAPP, chat_id=None, user_id="+1@x"), ALIASES, "agent:main:whatsapp:dm:1"),
        (source("signal", chat_id="+1555:2@x"), ALIASES, "agent:main:signal:dm:+1555%3A2@x"),
        (source(chat_id="a:b"), {}, "agent:main:telegram:dm:a%3Ab"),
        (source(chat_id="100%"), {}, "agent:main:telegram:dm:100%25"),
        (source(chat_id="a\0\n\x7f\x85\u2028b"), {}, "agent:main:telegram:dm:a%00%0A%7F%C2%85%E2%80%A8b"),
        (source("my platform", "Ämter", chat_id="🙂 /?#"), {"namespace": "n:1"}, "agent:n%3A1:my platform:Ämter:🙂 /?#"),
    ],
)
def test_the_documented_keys(place, settings, key):
    """To the letter: the table of cases and its examples, so that a key of an earlier system stays the same key."""
    assert build_session_key(place, **settings) == key


def test_a_key_that_is_too_long():
    """Refused, and told why; the limit counts escaped bytes."""
    head = len("agent:main:telegram:dm:")
    assert len(build_session_key(source(chat_id="x" * (512 - head)))) == 512
    for chat_id in ("x" * (513 - head), ":" * 170, "🙂" * 128, "x" * 1_000_000):
        with pytest.raises(InvalidKey, match="512 bytes"):
            build_session_key(source(chat_id=chat_id))


@pytest.mark.parametrize("namespace", ["", None, 1, b"main", "\ud800"])
def test_a_namespace_is_text(namespace):
    with pytest.raises(InvalidKey):
        build_session_key(source(), namespace=namespace)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("", "1 to 512 bytes"),
        (None, "must be a str"),
        ("x" * 513, "1 to 512 bytes"),
        ("agent:main:telegram:dm:\n", "control characters"),
        *((key, "agent:<namespace>:<platform>") for key in (
            "agent", "agent:main", "agent:main:telegram", "telegram:dm:42", "Agent:main:telegram:dm", ":main:telegram:dm",
            "agent::telegram:dm", "agent:main::dm", "agent:main:telegram:", "agent:main:telegram:dm:",
            "agent:main:telegram:dm::7", "agent:main:telegram:dm:a:b:c", "agent:main:telegram:group:a:b:c:d",
        )),
        *((f"agent:main:telegram:dm:{part}", "escaped wrongly") for part in (
            "%", "%3", "%3a", "%3g", "%%", "%41", "%C3%A4", "%FF", "%C2", "%ED%A0%80", "ä%A4", "a%2", "%2B", "% 3A",
        )),
        ("agent:%20:telegram:dm", "escaped wrongly"),
    ],
)  # fmt: skip
def test_what_is_no_key_of_a_source(key, words):
    """Only what `build_session_key` writes is read."""
    with pytest.raises(InvalidKey, match=words):
        parse_session_key(key)


# Little to choose from, so that two sources often meet; all of it made to be mistaken for something else.
PIECES = st.sampled_from([":", "%", "%3A", "%25", "3A", "a", "b", "+", "@", "\0", "\x9f", "\u2029", "🙂", "dm", "ä"])
TRICKY = st.lists(PIECES, min_size=1, max_size=3).map("".join)
KNOWN = st.one_of(st.none(), st.sampled_from(["a", "b", "a:b", "a%3Ab", "+a", "a@b"]), TRICKY)
NAMED = st.one_of(st.sampled_from(["a", "a:dm", "whatsapp"]), TRICKY)
TYPES = st.one_of(st.sampled_from(["dm", "group", "channel", "thread"]), TRICKY)
PLACES = st.builds(
    SessionSource,
    platform=NAMED,
    chat_type=TYPES,
    **dict.fromkeys(("chat_id", "thread_id", "user_id", "user_id_alt", "user_name"), KNOWN),
)
NAMESPACES = st.one_of(st.sampled_from(["main", "a"]), TRICKY)
SETTINGS = st.fixed_dictionaries({
    "group_sessions_per_user": st.booleans(), "thread_sessions_per_user": st.booleans(), "canonical_aliases": st.booleans(),
})  # fmt: skip


def plainly(place, *, group_sessions_per_user, thread_sessions_per_user, canonical_aliases):
    """Platform, chat type and parts, by a plain reading of the rules."""

    def alias(value):
        if not canonical_aliases or place.platform != "whatsapp" or value is None:
            return value
        return value.split("@")[0].split(":")[0].replace("+", "") or value

    chat, thread = alias(place.chat_id), place.thread_id
    user = alias(place.user_id if place.user_id_alt is None else place.user_id_alt)
    if place.chat_type == "dm":
        parts = [user if chat is None else chat, thread]
    elif not group_sessions_per_user or (thread is not None and not thread_sessions_per_user):
        parts = [chat, thread]
    else:
        parts = [chat, thread, user]
    return place.platform, place.chat_type, tuple(part for part in parts if part is not None)


@given(PLACES, NAMESPACES, SETTINGS)
def test_a_key_says_every_part(place, namespace, settings):
    """It is a session key, and read back it is what went into it."""
    key = build_session_key(place, namespace=namespace, **settings)
    assert check_session_key(key) == key
    assert parse_session_key(key) == SessionAddress(namespace, *plainly(place, **settings))


@given(st.tuples(PLACES, NAMESPACES), st.tuples(PLACES, NAMESPACES), SETTINGS)
@example((source(chat_id="a:b"), "main"), (source(chat_id="a", thread_id="b"), "main"), ALIASES | THREADS | NOBODY)
@example((source(chat_id="a%3Ab"), "main"), (source(chat_id="a:b"), "main"), ALIASES | THREADS | NOBODY)
def test_places_share_a_key_exactly_when_they_share_all_parts(one, other, settings):
    """No place is read under another's key (I6), and no place has two."""
    (place, namespace), (other_place, other_namespace) = one, other
    same = (namespace, plainly(place, **settings)) == (other_namespace, plainly(other_place, **settings))
    key = build_session_key(place, namespace=namespace, **settings)
    assert same == (key == build_session_key(other_place, namespace=other_namespace, **settings))


@given(PLACES, PLACES, SETTINGS)
def test_what_has_no_part_in_a_key(place, other, settings):
    """Names and the other ids of a place may change."""
    renamed = replace(place, user_name=other.user_name, chat_name="new", chat_topic="new", chat_id_alt="new")
    assert build_session_key(renamed, **settings) == build_session_key(place, **settings)


def test_every_character_goes_through_a_key():
    """Only what has to be is escaped."""
    characters = [chr(code) for code in (*range(0xD800), *range(0xE000, 0x11000), 0x1F642, 0x10FFFF)]
    escaped = set()
    for begin in range(0, len(characters), 100):
        part = "".join(characters[begin : begin + 100])
        key = build_session_key(SessionSource(platform="a", chat_id=part))
        assert parse_session_key(key).parts == (part,)
        escaped |= {character for character in part if character not in key.removeprefix("agent:main:a:dm:")}
    assert escaped == {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), ":", "\u2028", "\u2029"}
    assert build_session_key(SessionSource(platform="a", chat_id="%")).endswith(":%25")


@given(TRICKY, TRICKY)
def test_storage_names(one, other):
    """A file on any system: no two keys share one, also where case does not count."""
    keys = [build_session_key(source(chat_id=name)) for name in (one, other, one.upper())]
    names = [storage_name(key) for key in keys]
    assert len({name.lower() for name in names}) == len(set(keys))
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,164}", name) for name in names)


def test_storage_names_can_be_read():
    name = storage_name("agent:main:telegram:dm:99")
    assert name == "agent_main_telegram_dm_99-f6a782671e7b2f51a0709e4181fd6a45bc9af3fcfef060c6c82198e251dc9486"
    assert len(storage_name("/" * 512)) == len("key-") + 64
    assert storage_name("../../etc/passwd").startswith("etc_passwd-")
    with pytest.raises(InvalidKey):
        storage_name("a\nb")


@pytest.mark.parametrize(
    ("place", "description"),
    [
        (SessionSource.local_cli(), "CLI terminal"),
        (source(user_name="Jordan", user_id="7"), "DM with Jordan"),
        (source(user_id="7", chat_id="99", chat_name="X"), "DM with 7"),
        (source(chat_id="99"), "DM with user"),
        (source(user_name="Jordan", thread_id="t"), "DM with Jordan, thread: t"),
        (group(chat_name="Guild"), "group: Guild"),
        (group(), "group: guild-123"),
        (group(chat_name="Guild", thread_id=7, user_name="Jordan"), "group: Guild, thread: 7"),
        (source(chat_type="channel", chat_id="C1", chat_name="general"), "channel: general"),
        (source(chat_type="channel", chat_id="C1"), "channel: C1"),
        (source(chat_type="thread", chat_id="C1", chat_name="general", thread_id="5"), "general, thread: 5"),
        (source(chat_type="forum", chat_id="C1"), "C1"),
        (source(chat_type="group"), "group"),
        (source(chat_type="forum"), "chat"),
    ],
)
def test_descriptions(place, description):
    assert place.description == description


def test_the_local_terminal():
    place = SessionSource.local_cli()
    assert (place.platform, place.chat_id, place.chat_name, place.chat_type) == ("local", "cli", "CLI terminal", "dm")


def test_to_dict():
    """Eight names always, the alternative ids only when they are set."""
    assert source(chat_id="1").to_dict() == {
        "platform": "telegram", "chat_id": "1", "chat_name": None, "chat_type": "dm", "user_id": None, "user_name": None,
        "thread_id": None, "chat_topic": None,
    }  # fmt: skip
    place = source(user_id_alt="u", chat_id_alt="c")
    assert set(place.to_dict()) == {one.name for one in fields(SessionSource)}
    assert set(source(user_id_alt="u").to_dict()) == set(source().to_dict()) | {"user_id_alt"}


IDS = ("chat_id", "thread_id", "user_id", "user_id_alt", "chat_id_alt")


def test_from_dict():
    """Ids become text, the type is `dm`, unknown names are left out, empty text is none."""
    numbers = SessionSource.from_dict({"platform": "x", **dict.fromkeys(IDS, -1001234567890)})
    assert all(getattr(numbers, name) == "-1001234567890" for name in IDS)
    assert SessionSource.from_dict({"platform": "x", "thread_id": 0, "guild": [1], "message_id": 7}) == source(
        "x", thread_id="0"
    )
    for empty in ("", None):
        given_as = {one.name: empty for one in fields(SessionSource)} | {"platform": "x"}
        assert SessionSource.from_dict(given_as) == source("x")
        assert SessionSource(**given_as) == source("x")


@given(
    st.builds(
        SessionSource,
        platform=st.text(min_size=1),
        chat_type=st.text(),
        **{name: st.none() | st.text() | st.integers(-(2**64) + 1, 2**64 - 1) for name in IDS},
        **dict.fromkeys(("chat_name", "user_name", "chat_topic"), st.none() | st.text()),
    )
)
def test_to_a_dict_and_back(place):
    """Also through JSON."""
    assert SessionSource.from_dict(place.to_dict()) == place
    assert SessionSource.from_dict(json.loads(json.dumps(place.to_dict()))) == place


WRONG = [True, 1.5, b"x", ["x"], {"x": 1}, "a\ud800", "\udfff", 2**64, 10**5000]


@pytest.mark.parametrize("name", [one.name for one in fields(SessionSource)])
@pytest.mark.parametrize("value", [*WRONG, 7], ids=lambda value: ascii(value)[:12] if type(value) is not int else "")
def test_a_wrong_value_is_refused(name, value):
    """By a short sentence that names it."""
    if value == 7 and name in IDS:
        assert getattr(SessionSource(**{"platform": "x", name: value}), name) == "7"
        return
    for make in (lambda known: SessionSource(**known), SessionSource.from_dict):
        with pytest.raises(InvalidInput, match=f"^The {name} of a source ") as refused:
            make({"platform": "x", name: value})
        assert len(str(refused.value)) < 150


@pytest.mark.parametrize("wrong", [None, [], "telegram", 7, {}, {"platform": ""}, {"platform": None}, {"chat_id": "1"}])
def test_what_is_no_source(wrong):
    with pytest.raises(InvalidInput, match="A source "):
        SessionSource.from_dict(wrong)


def test_a_source_does_not_change():
    with pytest.raises(FrozenInstanceError):
        source().chat_id = "2"
