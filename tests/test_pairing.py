"""Calls of tools and their results: what they are in each shape, and which a model is sent."""

from __future__ import annotations

from copy import deepcopy

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
    use,
    user,
)

from sessioncache.conversation.calls import calls, is_user_turn, legal_start, results
from sessioncache.conversation.pairing import paired
from sessioncache.conversation.window import context


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
        ([ITEM_B, ITEM_A, ITEM_A], [ITEM_A], ...),
        ([REASONING, ITEM_B, USER], [USER], [REASONING, ITEM_B, OUTPUT, USER]),
        ([REASONING, REPLY, REASONING, USER, REASONING], [REASONING, REPLY, USER], None),
        ([{"type": "computer_call", "call_id": "b"}, USER], [USER], [USER]),
        ([{"type": "web_search_call", "id": "ws"}, USER], [{"type": "web_search_call", "id": "ws"}, USER], None),
        # Other shapes do not answer, and what they hold comes between
        ([chat_call("a"), {"type": "web_search_call"}, A, USER], [{"type": "web_search_call"}, USER], ...),
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


@pytest.mark.parametrize("interrupted", [None, "stopped"])
def test_what_no_provider_can_pair_is_left_out(interrupted):
    """Items without a call id, results in an assistant row, roles of long ago, rows without a role."""
    user = {"role": "user", "content": "hello"}
    odd = [
        {"type": "function_call", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": None, "name": "f", "arguments": "{}"},
        {"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "x"}]},
        {"role": "function", "name": "f", "content": "x"},
        {"foo": 1},
        {"role": None},
        {"role": 5, "content": "x"},
        {"type": 5},
    ]
    rows = [row for one in odd for row in (user, one)] + [user]
    assert context(rows, interrupted=interrupted) == [user] * 9


def test_a_cut_through_a_server_tool():
    """Where no user speaks, a result that the cut leaves without its call goes too."""
    call = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    result = {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}
    text = {"type": "text", "text": "done"}
    rows = [{"role": "assistant", "content": [text, call]}, {"role": "assistant", "content": [result, text]}]
    assert context(rows, max_tokens=5) == [{"role": "assistant", "content": [text]}]
