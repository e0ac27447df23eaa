"""What a model is sent: each rule, by its own example."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
from test_providers import assistant, call_item, chat_call, chat_result, output_item, result, use, user

from sessioncache.conversation.calls import calls, is_user_turn, legal_start, results
from sessioncache.conversation.clean import cleaned
from sessioncache.conversation.pairing import paired
from sessioncache.conversation.retain import retained
from sessioncache.conversation.tokens import estimated, size
from sessioncache.conversation.window import context, visible


def said(text="q"):
    return {"role": "user", "content": text}


def reply(text="a", **more):
    return {"role": "assistant", "content": text, **more}


USER, REPLY = said(), reply()
TEXT = {"type": "text", "text": "t"}
THOUGHT = {"type": "thinking", "thinking": "h", "signature": "s"}
COMMAND = {"role": "user", "content": "/new", "_command": True}
DELIVERY = reply("news", _channel_delivery=True)
REASONING = {"type": "reasoning", "id": "rs", "summary": []}


@pytest.mark.parametrize(
    ("row", "declared", "held"),
    [
        (chat_call("a", 5), ["a", "5"], []),
        (chat_result(5), [], ["5"]),
        (chat_result(""), [], []),
        (chat_result(None), [], []),
        (chat_call(None, ""), [], []),
        (assistant(TEXT, use("a"), use(7)), ["a", "7"], []),
        (user(result("a"), TEXT, result(7)), [], ["a", "7"]),
        (call_item("a"), ["a"], []),
        (output_item("a"), [], ["a"]),
        ({"type": "custom_tool_call", "call_id": "a"}, ["a"], []),
        ({"type": "computer_call_output", "call_id": "a"}, [], ["a"]),
        ({"type": "local_shell_call_output", "id": "a"}, [], ["a"]),
        ({"type": "tool_search_output", "call_id": "a"}, [], ["a"]),
        ({"type": "web_search_call", "id": "ws"}, [], []),
        (assistant({"type": "server_tool_use", "id": "s"}, {"type": "web_search_tool_result", "tool_use_id": "s"}), [], []),
        ({"role": "user", "tool_calls": [{"id": "a"}]}, [], []),
        ({"role": "assistant", "tool_calls": "a", "content": ["x", None]}, [], []),
        ({"role": "assistant", "tool_calls": [None, {}], "content": None}, [], []),
        ({}, [], []),
    ],
)
def test_calls_and_results_in_all_shapes(row, declared, held):
    """Ids are strings; what the provider answers itself does not count; nonsense is no call."""
    assert (calls(row), results(row)) == (declared, held)


def test_who_speaks():
    """A row of results is no turn of the user, though it has the user's role."""
    assert [is_user_turn(row) for row in (USER, user(TEXT), user(result("a"), TEXT), REPLY)] == [True, True, False, False]


SHAPES = [
    (chat_call, chat_result),
    (lambda name: assistant(use(name)), lambda name: user(result(name))),
    (call_item, output_item),
]


@pytest.mark.parametrize(("call", "answer"), SHAPES, ids=["chat", "anthropic", "responses"])
def test_legal_starts(call, answer):
    """A result whose call is gone moves the start to just after it, and forgets all calls before."""
    examples = [
        ([USER, REPLY], 0),
        ([answer("b"), USER], 1),
        ([answer("b"), USER, call("c"), answer("c")], 1),
        ([USER, call("c1"), answer("c1"), answer("gone"), USER], 4),
        ([call("c1"), answer("zz"), answer("c1")], 3),
        ([call(5), answer("5")], 0),
        ([call("5"), answer(5)], 0),
        ([answer(""), answer(None), USER], 0),
        ([], 0),
    ]
    assert [legal_start(rows) for rows, _ in examples] == [start for _, start in examples]


INTERRUPTED = {"role": "tool", "tool_call_id": "b", "content": "stopped"}
STOPPED = {"type": "tool_result", "tool_use_id": "b", "content": "stopped", "is_error": True}
OUTPUT = {"type": "function_call_output", "call_id": "b", "output": "stopped"}
CHAT, A, B = chat_call("a", "b"), chat_result("a"), chat_result("b")
BOTH = assistant(TEXT, use("a"), use("b"))
SAYS_B = {**chat_call("b"), "content": "x"}
OUT_A, OUT_B = output_item("a"), output_item("b")
ITEM_A, ITEM_B = call_item("a"), call_item("b")


@pytest.mark.parametrize(
    ("rows", "left", "told"),
    [
        # chat completions
        ([CHAT, B, A, USER], [CHAT, B, A, USER], None),
        ([CHAT, A, USER], [chat_call("a"), A, USER], [CHAT, A, INTERRUPTED, USER]),
        ([CHAT, A], [CHAT, A], None),
        ([CHAT], [CHAT], None),
        ([chat_call("b"), USER], [USER], [chat_call("b"), INTERRUPTED, USER]),
        ([chat_call("b"), USER, B], [USER], [chat_call("b"), INTERRUPTED, USER]),
        ([SAYS_B, USER], [reply("x"), USER], [SAYS_B, INTERRUPTED, USER]),
        ([chat_call("a"), A, A, USER], [chat_call("a"), A, USER], None),
        ([USER, A, chat_result(None), REPLY], [USER, REPLY], None),
        ([chat_call("a"), chat_result(None), A], [chat_call("a"), A], None),
        ([chat_call("a"), A, USER, chat_call("a"), A], [chat_call("a"), A, USER, chat_call("a"), A], None),
        ([chat_call("a", "a"), A, USER], [chat_call("a"), A, USER], None),
        ([chat_call("a", None), A, USER], [chat_call("a"), A, USER], None),
        # Anthropic
        ([BOTH, user(result("b"), result("a"), TEXT)], [BOTH, user(result("b"), result("a"), TEXT)], None),
        (
            [BOTH, user(result("a"), TEXT)],
            [assistant(TEXT, use("a")), user(result("a"), TEXT)],
            [BOTH, user(result("a"), STOPPED, TEXT)],
        ),
        ([BOTH, user(result("a"))], [BOTH, user(result("a"))], None),
        ([assistant(use("b")), USER], [USER], [assistant(use("b")), user(STOPPED), USER]),
        ([assistant(THOUGHT, use("b")), USER], [USER], [assistant(THOUGHT, use("b")), user(STOPPED), USER]),
        (
            [assistant(TEXT, THOUGHT, use("b")), USER],
            [assistant(TEXT), USER],
            [assistant(TEXT, THOUGHT, use("b")), user(STOPPED), USER],
        ),
        ([BOTH, user(result("a")), user(result("b"), TEXT)], [BOTH, user(result("a"), result("b"), TEXT)], None),
        ([assistant(use("b")), user(TEXT, result("b"))], [user(TEXT)], [assistant(use("b")), user(STOPPED), user(TEXT)]),
        ([USER, user(result("b")), REPLY], [USER, REPLY], None),
        ([assistant(use("a")), user(result("a"), result("a"))], [assistant(use("a")), user(result("a"))], None),
        # Responses
        ([ITEM_A, ITEM_B, OUT_B, OUT_A, USER], [ITEM_A, ITEM_B, OUT_B, OUT_A, USER], None),
        ([ITEM_A, USER, OUT_A], [ITEM_A, USER, OUT_A], None),
        ([ITEM_B, USER], [USER], [ITEM_B, OUTPUT, USER]),
        ([ITEM_B, ITEM_B, OUT_B], [ITEM_B, OUT_B], [ITEM_B, OUTPUT, ITEM_B, OUT_B]),
        ([ITEM_A, ITEM_B, OUT_A], [ITEM_A, ITEM_B, OUT_A], None),
        ([ITEM_B, ITEM_A, OUT_A, ITEM_A], [ITEM_A, OUT_A, ITEM_A], [ITEM_B, OUTPUT, ITEM_A, OUT_A, ITEM_A]),
        ([OUT_A, ITEM_A, OUT_A, OUT_A], [ITEM_A, OUT_A], None),
        ([REASONING, ITEM_B, USER], [USER], [REASONING, ITEM_B, OUTPUT, USER]),
        ([REASONING, REPLY, REASONING, USER, REASONING], [REASONING, REPLY, USER], None),
        ([{"type": "computer_call", "call_id": "b"}, USER], [USER], [USER]),
        ([{"type": "web_search_call", "id": "ws"}, USER], [{"type": "web_search_call", "id": "ws"}, USER], None),
        # Other shapes do not answer
        ([chat_call("a"), output_item("a"), USER, user(result("a"))], [USER], ...),
    ],
)  # fmt: skip
def test_calls_and_results_come_in_pairs(rows, left, told):
    """What has no other half goes, or an interrupted call is told so, in the shape of the row; pending calls stay."""
    before = deepcopy(rows)
    assert paired(rows) == left
    if told is not ...:
        assert paired(rows, "stopped") == (left if told is None else told)
    assert rows == before


SERVER = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
FOUND = {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}


@pytest.mark.parametrize(
    ("rows", "left"),
    [
        ([assistant(SERVER, FOUND, TEXT), USER], None),
        ([assistant(SERVER, use("a")), user(result("a")), assistant(FOUND, TEXT), USER], None),
        ([assistant(TEXT, SERVER)], None),
        ([assistant(TEXT, SERVER), USER], [assistant(TEXT), USER]),
        ([assistant(FOUND, TEXT), USER], [assistant(TEXT), USER]),
        ([assistant(SERVER), USER, assistant(FOUND)], [USER]),
    ],
)
def test_tools_of_the_server(rows, left):
    """They are answered by the model's own rows; one without the other goes once a user has spoken."""
    assert paired(rows) == (rows if left is None else left)


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
    rows = [said("1"), ITEM_A, said("2"), output_item("a"), fifty("assistant")]
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
        ([USER, A, REPLY, REPLY], 3, range(2, 3)),
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
