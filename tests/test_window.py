"""What a model is sent: each rule, by its own example."""

from __future__ import annotations

import json

import pytest
from turns import (
    REASONING,
    REPLY,
    TEXT,
    THOUGHT,
    USER,
    assistant,
    call_item,
    chat_call,
    chat_result,
    output_item,
    reply,
    result,
    said,
    use,
    user,
)

from sessioncache.conversation.clean import cleaned
from sessioncache.conversation.retain import retained
from sessioncache.conversation.tokens import estimated, size
from sessioncache.conversation.window import context, visible

COMMAND = {"role": "user", "content": "/new", "_command": True}
DELIVERY = reply("news", _channel_delivery=True)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("hello", "hello"),
        ("[Message Time: 2026-01-01 12:00]\nhello", "hello"),
        ("[Message Time: 1]\n\n[Message Time: 2]\nhello", "hello"),
        ("hello\n[Message Time: 1]\nyou", "hello\n[Message Time: 1]\nyou"),
        ("[Message Time: 1] hello", "[Message Time: 1] hello"),
        ("look\n[image: /tmp/a b.png]\nhere", "look\nhere"),
        ("[image: ~/a.png] ", ""),
        ("see [image: /a.png]", "see [image: /a.png]"),
        ("[image: a cat]", "[image: a cat]"),
        ("generate_image(prompt='a cat')\ndone", "done"),
        ('message(content="so :)")', ""),
        ("I sent message(x) to you", "I sent message(x) to you"),
        ("message(a) and message(b)", "message(a) and message(b)"),
        ("  two\n\nlines \r\n", "two\n\nlines"),
        ("[image: /a]\n[Message Time: 1]\nhello", "hello"),
        ("", ""),
    ],
)
def test_cleaning(text, left):
    """Echoes of what a model was shown go, line by line; cleaning twice changes nothing more."""
    assert cleaned(text) == left
    assert cleaned(left) == left


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "unit",
    [
        "[Message Time: ",
        "[image: /",
        "message(",
        "message(\"'",
        "message('",
        'message("a"',
        "\n",
        "\r",
        " ",
        "]\n",
        "()",
        "[image: /]\n",
    ],
)
def test_cleaning_hostile_text(unit):
    """A megabyte of beginnings takes no longer than a megabyte of anything."""
    for text in (unit * (2**20 // len(unit)), "message(" + unit * (2**20 // len(unit)) + "x"):
        once = cleaned(text)
        assert cleaned(once) == once


@pytest.mark.parametrize(
    ("row", "time", "shown"),
    [
        (said("q"), "noon", "[Message Time: noon]\nq"),
        (said("q"), None, "q"),
        ({**said("q"), "media": ["/a.png", "/b.png"]}, None, "q\n[image: /a.png]\n[image: /b.png]"),
        ({**said(""), "media": ["/a.png"]}, None, "[image: /a.png]"),
        ({**said(""), "media": ["/a.png"]}, "noon", "[Message Time: noon]\n[image: /a.png]"),
        ({**said("q"), "media": [None, "", 7]}, None, "q"),
        ({**said("q"), "media": "/a.png"}, None, "q"),
        ({**user(TEXT), "media": ["/a.png"]}, "noon", [TEXT]),
        ({**said(None), "media": ["/a.png"]}, "noon", None),
        (reply("a", media=["/a.png"]), "noon", "a"),
        (reply("[Message Time: 1]\na"), "noon", "a"),
        (assistant({**TEXT, "text": " [image: /a]\nt "}, {**TEXT, "text": " "}), None, [TEXT]),
        ({"role": "system", "content": " s "}, "noon", " s "),
    ],
)  # fmt: skip
def test_annotations(row, time, shown):
    """Media and times go to users' texts, cleaning to what assistants said; nothing else of a text changes."""
    (only,) = visible([row], [time])
    assert only["content"] == shown
    assert "media" not in only


@pytest.mark.parametrize(
    ("row", "dropped"),
    [
        (reply(""), True),
        (reply(None), True),
        (reply("[image: /a]"), True),
        (reply([]), True),
        (assistant({"type": "text", "text": " "}), True),
        (assistant(THOUGHT), True),
        (reply("", tool_calls=[]), True),
        (reply("", reasoning_content="r"), False),
        (reply("", thinking_blocks=[THOUGHT]), False),
        (chat_call("a"), False),
        (assistant(use("a")), False),
        (said(""), False),
        (COMMAND, True),
        (reply("x", metadata={"source": "slash"}), True),
        (reply("x", metadata={"source": "web"}), False),
        (reply("x", metadata="slash"), False),
        ({"role": "session_meta", "content": "x"}, True),
        ({"role": "narrator", "content": "x"}, False),
    ],
)
def test_what_no_model_sees(row, dropped):
    """Commands, the chatter of a display, and assistants' rows that say nothing."""
    assert visible([row]) == ([] if dropped else [row if "metadata" not in row else reply("x")])


def test_fields():
    """A provider is sent what it takes; an application's own fields stay at home, and empty calls are none."""
    own = {"timestamp": 1, "_x": 1, "source": "a", "metadata": {}}
    full = {**chat_call("a"), "reasoning_content": "r", "thinking_blocks": [], "name": "n"}
    assert visible([{**full, **own}]) == [full]
    assert visible([reply("a", tool_calls=[], **own), reply("a", tool_calls="x")]) == [REPLY, REPLY]
    call = {**call_item("a"), "id": "fc", "status": "completed"}
    assert visible([{**REASONING, "encrypted_content": "e", **own}, {**call, **own}]) == [
        {**REASONING, "encrypted_content": "e"},
        call,
    ]
    message = {"type": "message", "id": "msg", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]}
    assert visible([{**message, **own}, {"type": "future_call", "call_id": "a", **own}]) == [
        message,
        {"type": "future_call", "call_id": "a"},
    ]
    # What Anthropic answers is a message too, but it takes no more than this back.
    assert visible([{"type": "message", "id": "msg", "model": "m", **assistant(TEXT)}]) == [assistant(TEXT)]


def test_timestamps_are_for_each_row():
    """Another number of them is refused."""
    with pytest.raises(ValueError, match="argument"):
        visible([USER, REPLY], [None])
    with pytest.raises(ValueError, match="argument"):
        context([USER, REPLY], timestamps=["a", "b", "c"])


CHAT, A, B = chat_call("a", "b"), chat_result("a"), chat_result("b")
HISTORY = [USER, chat_call("a"), A, REPLY, said("2"), reply("2")]


@pytest.mark.parametrize(
    ("rows", "limit", "window"),
    [
        (HISTORY, 6, HISTORY),
        (HISTORY, 5, HISTORY[4:]),
        (HISTORY, 1, HISTORY[5:]),
        (HISTORY[:4], 3, HISTORY[1:4]),
        (HISTORY[:4], 2, [REPLY]),
        ([DELIVERY, USER, REPLY], 3, [reply("news"), USER, REPLY]),
        ([REPLY, DELIVERY, USER], 3, [reply("news"), USER]),
        ([DELIVERY, REPLY, USER], 3, [USER]),
        ([DELIVERY, USER, REPLY], 2, [USER, REPLY]),
        ([COMMAND, REPLY, USER, REPLY], 4, [USER, REPLY]),
        ([COMMAND, DELIVERY, USER], 3, [reply("news"), USER]),
        ([USER, A, said("2"), reply("2")], 4, [said("2"), reply("2")]),
        ([CHAT, USER, A, said("2"), B, REPLY, said("3")], 6, [said("3")]),
        ([assistant(use("a")), reply("x"), user(result("a"), TEXT), REPLY], 9, [user(TEXT), REPLY]),
        ([], 5, []),
        ([A], 5, []),
    ],
)
def test_the_newest_rows(rows, limit, window):
    """They start at a user's turn, with the delivery before it; without a turn, at no result whose call is gone."""
    assert context(rows, max_messages=limit) == window


@pytest.mark.parametrize("limit", [0, -1])
def test_no_limit_is_120(limit):
    """Rows without number are looked at by nobody."""
    rows = [said(str(n)) for n in range(200)]
    assert context(rows, max_messages=limit) == context(rows) == rows[80:]


def fifty(role):
    return {"role": role, "content": "x" * 184}


def test_the_token_budget():
    """Six rows of 50 tokens, budget 120: the last question and its answer."""
    rows = [fifty("user"), fifty("assistant")] * 3
    assert {estimated(row) for row in rows} == {50}
    assert context(rows, max_tokens=120) == rows[4:]
    assert context(rows, max_tokens=200) == context(rows, max_tokens=199 + 50) == rows[2:]
    assert context(rows, max_tokens=300) == rows
    assert context(rows, max_tokens=50) == rows[4:]  # over it: the newest row needs its question
    assert context(rows[:5], max_tokens=1) == rows[4:5]  # over it: the newest row is always kept
    assert context([REPLY], max_tokens=1) == [REPLY]
    assert context([REPLY, fifty("assistant"), fifty("assistant")], max_tokens=60) == [fifty("assistant")]


def test_budgets_count_together():
    """Messages, tokens and bytes: the narrowest decides."""
    rows = [fifty("user"), fifty("assistant")] * 3
    weight = size(rows[4]) + size(rows[5])
    assert context(rows, max_bytes=weight) == context(rows, max_bytes=2 * weight - 1) == rows[4:]
    assert context(rows, max_bytes=2 * weight, max_tokens=120) == rows[4:]
    assert context(rows, max_bytes=2 * weight, max_tokens=200) == rows[2:]
    assert context(rows, max_bytes=10**6, max_tokens=10**6, max_messages=3) == rows[4:]
    told = [said("1"), chat_call("a", "b", "c"), said("2"), reply("2")]
    assert len(context(told, interrupted="stopped")) == 7
    assert context(told, interrupted="stopped", max_messages=4) == told[2:]


def test_a_delivery_that_fits_stays():
    """A budget that cuts nothing moves nothing."""
    rows = [DELIVERY, USER, REPLY]
    assert len(context(rows, max_tokens=1000)) == 3
    assert context(rows, max_tokens=10) == [USER, REPLY]


def test_a_late_output_keeps_its_question():
    """The cut goes back to a turn that leaves no output behind whose call is gone."""
    rows = [said("1"), call_item("a"), said("2"), output_item("a"), fifty("assistant")]
    assert context(rows, max_tokens=60) == rows


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (said("hello"), "hello"),
        (said(None), ""),
        (user(TEXT, {"type": "image", "url": "u"}), 't\n{"type": "image", "url": "u"}'),
        ({**chat_result("a"), "name": "f"}, "r\nf\na"),
        (chat_call("a"), json.dumps(chat_call("a")["tool_calls"])),
        (reply("é", reasoning_content="why"), "é\nwhy"),
        (call_item("a"), 'f\n"{}"'),
        (output_item("a"), '"r"'),
        ({**REASONING, "summary": [{"type": "summary_text", "text": "é"}]}, '[{"type": "summary_text", "text": "é"}]'),
    ],
)
def test_the_estimate(row, text):
    """The text of a row, and the JSON of what is none; a tokenizer, if there is one, is asked once."""
    asked = []
    assert estimated(row) == len(text) // 4 + 4
    assert estimated(row, lambda given: asked.append(given) or 7) == 11
    assert asked == [text]
    assert estimated(row, lambda _: -9) == 4


def test_the_size():
    """Bytes, not characters, of JSON without white space."""
    assert size({"role": "user", "content": "é"}) == len('{"role":"user","content":"é"}'.encode())


@pytest.mark.parametrize(
    ("rows", "limit", "kept"),
    [
        ([USER] + [REPLY] * 10, 4, range(4)),
        ([USER, REPLY] * 5, 4, range(6, 10)),
        ([USER, REPLY] * 5, 5, range(6, 10)),
        ([USER, REPLY, USER] + [REPLY] * 9, 3, range(2, 5)),
        ([USER, CHAT, A, B, REPLY, REPLY], 3, range(3)),
        ([REPLY] * 5, 3, range(2, 5)),
        ([CHAT, A, B, REPLY], 3, range(3, 4)),
        ([USER, A, REPLY, REPLY], 3, range(3)),  # not without what the user said
        ([USER, REPLY, USER, A], 3, range(2, 4)),
        ([USER, A, USER, REPLY], 3, range(2, 4)),
        ([USER, REPLY], 2, range(2)),
        ([USER, REPLY], 9, range(2)),
        ([USER, REPLY], 0, range(0)),
        ([USER, REPLY], -1, range(0)),
        ([USER, assistant(use("a")), user(result("a")), REPLY, REPLY], 3, range(3)),
    ],
)
def test_retaining(rows, limit, kept):
    """The newest from a user's turn on; of one question with many answers, the question and the first of them."""
    assert retained(rows, limit) == kept
