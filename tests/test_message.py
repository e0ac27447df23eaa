"""Messages, keys and ops: their laws, over all that JSON can say."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessioncache import keys, message, op
from sessioncache.errors import InvalidMessage
from sessioncache.foreign import parse_object
from sessioncache.store import columns

LIMIT = 10**7
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
messages = st.dictionaries(texts.filter(lambda name: name != "content"), values, max_size=5)


@given(messages)
def test_either_tier_gives_it_back_equal(data):
    """Msgpack for Redis, JSON for SQL: same values, types and key order."""
    packed = message.encode(data, LIMIT)
    assert repr(message.decode(packed)) == repr(data)
    assert repr(message.decode(message.from_json(message.to_json(data)))) == repr(data)
    assert "\x00" not in message.to_json(data)


@given(st.dictionaries(texts, values | st.integers() | st.floats() | st.lists(st.floats() | st.none())), st.booleans())
def test_whatever_text_is_stored_nothing_of_it_is_lost(data, ascii_only):
    """However it was written, it is read as Python's own parser reads it, or refused; what JSON cannot say is refused."""
    text = json.dumps(data, ensure_ascii=ascii_only)
    try:
        written = message.to_json(data)
    except ValueError:
        assert "NaN" in text or "Infinity" in text
    else:
        assert repr(json.loads(written)) == repr(data)
        assert repr(parse_object(written)) == repr(parse_object(written.encode())) == repr(data)
        assert repr(parse_object(text)) == repr(data)
    with suppress(ValueError):
        assert repr(message.decode(message.from_json(text))) == repr(data)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a":123456789012345678901234567890}', {"a": 123456789012345678901234567890}),
        ('{"a": -0, "b": -0.0, "c": 1e22, "d": 18446744073709551615}', {"a": 0, "b": -0.0, "c": 1e22, "d": 2**64 - 1}),
        ('{"a":18446744073709551616}', {"a": 2**64}),
        ('{"a":1,"b":2,"a":3}', {"a": 3, "b": 2}),
        ('{"a":1.00000000000000000001}', {"a": 1.0}),
        ('{"a":"\\u00e9"}'.encode("utf-16"), {"a": "é"}),
    ],
)
def test_text_of_others_is_read_as_it_says(text, found):
    """Numbers of any size, names given twice, other encodings."""
    assert repr(parse_object(text)) == repr(found)


@given(
    st.dictionaries(texts, values | st.binary() | st.sampled_from([float("nan"), (1,), {1}, 2**64, "\ud800"]), min_size=1)
)
def test_what_is_accepted_is_what_json_can_say(data):
    """Either it is refused, or JSON says it and gives it back."""
    try:
        message.encode(data, LIMIT)
    except InvalidMessage as refused:
        assert str(refused).startswith("$")
    else:
        assert repr(json.loads(json.dumps(data, allow_nan=False))) == repr(data)


@given(st.integers(1, 2**53), st.integers(0, 2**42), texts.filter(lambda t: "\n" not in t and t), messages)
def test_an_element_gives_its_record_back(seq, created_ms, message_id, data):
    """Header and payload, whatever the message id looks like."""
    found = message.record(message.element(seq, created_ms, message_id, message.encode(data, LIMIT)))
    assert (found.seq, found.id, repr(found.data)) == (seq, message_id, repr(data))
    assert message.milliseconds(found.created_at) == created_ms


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a", "a"),
        (None, ""),
        ([], ""),
        ([{"type": "text", "text": "a"}, {"type": "image"}, {"text": "b"}, "c", {"text": 1}], "a b"),
    ],
)
def test_plain_text(content, text):
    """The text, or the text blocks joined by a space."""
    assert columns.plain_text({"content": content}) == text
    assert columns.plain_text({}) == ""


def test_nesting_is_bounded_exactly():
    """100 levels, the message being the first."""
    data: object = 0
    for _ in range(99):
        data = [data]
    message.encode({"n": data}, LIMIT)
    with pytest.raises(InvalidMessage, match="nested over 100"):
        message.encode({"n": [data]}, LIMIT)


def test_records_are_a_sequence():
    """Slices, negative indexes, iteration, length, bounds; what lies behind its end does not show."""
    raw = [message.element(n, 0, f"m{n}", message.encode({"n": n}, LIMIT)) for n in range(10)]
    some = message.Messages(raw, 2, 8)
    assert [one.seq for one in some] == [one.seq for one in some[:]] == list(range(2, 8))
    assert (some[0].seq, some[-1].seq, len(some), some[::2][1].seq) == (2, 7, 6, 4)
    assert some.data() == [{"n": n} for n in range(2, 8)]
    for index in (6, -7):
        with pytest.raises(IndexError):
            some[index]


@given(texts, texts)
def test_an_op_id_is_always_the_same(session_id, message_id):
    """Sixteen characters that a header can hold; of this session alone; never the message id itself."""
    made = op.op_id_of(session_id, message_id)
    assert made == op.op_id_of(session_id, message_id) != op.op_id_of(session_id + "x", message_id)
    assert len(made) == 16
    assert made != message_id
    assert set(made) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_ops_are_remembered_by_what_sql_kept():
    """The op id and first version, from the messages of a group or a caller's id."""
    op_id = op.new_op_id()
    (one,) = op.message_ids(op_id, 1)
    assert op.remembered("s", one, 5) == (op_id, 5)
    assert {op.remembered("s", name, 5 + at) for at, name in enumerate(op.message_ids(op_id, 3))} == {(op_id, 5)}
    assert op.remembered("s", "telegram-1", 9) == (op.op_id_of("s", "telegram-1"), 9)


def test_a_log_is_read_as_far_as_it_can_be():
    """In whole groups, up to the first element that is no op of a kind this version knows."""

    def element(version, left, kind=b"append"):
        return b"%d %b %d 5 %b s\nm\nx" % (version, b"x" * 16, left, kind)

    good = [element(1, 0), element(2, 1), element(3, 0), element(4, 2), element(5, 1), element(6, 0)]
    assert [one.version for one in op.readable(good)] == [1, 2, 3, 4, 5, 6]
    assert [one.version for one in op.readable([*good[:5], b"garbage", good[5]])] == [1, 2, 3]
    assert [one.version for one in op.readable([*good[:1], element(2, 0, b"retitle"), *good[1:]])] == [1]
    for junk in (b"", b"\n", b"\xff\xfe", b"1 2 3", b"x y z a append s\n", element(1, 0, b"\xff")):
        assert op.readable([junk, *good]) == []


@given(
    st.text(min_size=1).filter(lambda t: not keys._CONTROL.search(t) and len(t.encode("utf-8", "ignore")) <= 512),
    st.integers(1, 1000),
)
def test_keys_of_a_session_share_a_slot_and_collide_with_nothing(name, partitions):
    """One hash tag for all; the session key is the rest of the name, so two sessions never share a Redis key."""
    if any(0xD800 <= ord(c) <= 0xDFFF for c in name):
        return
    space = keys.Keyspace("sc", partitions)
    found = space.of(name)
    tag = f"sc:{{{found.partition:03d}}}:"
    assert 0 <= found.partition < partitions
    for kind in ("meta", "history", "pending", "lease"):
        assert getattr(found, kind) == f"{tag}{kind}:{name}"
    assert {found.dirty, found.dead, found.wake} == {f"{tag}{kind}" for kind in ("dirty", "dead", "wake")}
