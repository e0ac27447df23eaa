"""What holds for the window of any history, however odd: all shapes mixed, calls and results in any disorder."""

from __future__ import annotations

import sys
from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turns import REASONING, USER, call_item, chat_call, chat_result, output_item, result, use

from sessioncache.conversation.calls import calls, is_user_turn, legal, legal_start, results
from sessioncache.conversation.clean import cleaned
from sessioncache.conversation.pairing import paired
from sessioncache.conversation.retain import retained
from sessioncache.conversation.shapes import is_item
from sessioncache.conversation.tokens import estimated, size
from sessioncache.conversation.window import context, visible

IDS = st.sampled_from(["a", "b", 5, "5", "", None])
STRANGE = st.text(max_size=5) | st.sampled_from(
    [
        "",
        " ",
        "q",
        "[Message Time: 1]\nx",
        "\u2028[image: /a]\x85",
        "[image: /a]",
        "message(x)\n[Message Time: 1]",
        "a\r\n\x00",
    ]
)
TEXTS = STRANGE.map(lambda text: {"type": "text", "text": text})
OTHERS = st.sampled_from([{"type": "image", "source": "x"}, {"type": "thinking", "thinking": "h"}, "bare", None, 7, {}])
SERVER = st.builds(lambda kind, name: {"type": kind, "id": name, "tool_use_id": name},
                   st.sampled_from(["server_tool_use", "web_search_tool_result"]), IDS)  # fmt: skip
BLOCKS = st.lists(TEXTS | IDS.map(use) | IDS.map(result) | OTHERS | SERVER, max_size=4)
CONTENT = STRANGE | st.none() | BLOCKS
FLAGS = st.sampled_from(
    [{}] * 4
    + [{"_command": True}, {"_channel_delivery": True}, {"metadata": {"source": "slash"}}, {"media": ["/a"]}]
    + [{"tool_calls": []}, {"reasoning_content": "r"}, {"type": "message"}]
)
ROLES = st.sampled_from(["user", "user", "assistant", "assistant", "tool", "system", "session_meta", "narrator"])
MESSAGES = st.builds(lambda role, content, flags: {"role": role, "content": content, **flags}, ROLES, CONTENT, FLAGS)
CHAT_CALLS = st.lists(IDS, max_size=3).map(lambda names: chat_call(*names))
RESULTS = st.lists(IDS.map(result), min_size=1, max_size=3).map(lambda blocks: {"role": "user", "content": blocks})
USES = st.lists(IDS.map(use), min_size=1, max_size=3).map(lambda blocks: {"role": "assistant", "content": blocks})
ITEMS = st.sampled_from([REASONING, {"type": "web_search_call"}, {"type": "odd"}, {}])
CHAT = st.just(USER) | CHAT_CALLS | IDS.map(chat_result)
ANTHROPIC = USES | RESULTS | st.just(USER)
RESPONSES = IDS.map(call_item) | IDS.map(output_item) | ITEMS | st.just(USER)
HISTORIES = st.one_of(
    *[st.lists(rows | MESSAGES, max_size=16) for rows in (CHAT, ANTHROPIC, RESPONSES, CHAT | ANTHROPIC | RESPONSES)]
)
LIMITS = st.fixed_dictionaries(
    {"max_messages": st.integers(-1, 20)},
    optional={"max_tokens": st.integers(0, 120), "max_bytes": st.integers(0, 800)},
)
WORDS = st.none() | st.just("stopped")


def starts(view):
    """Where users speak and no result is left whose call is gone."""
    return [at for at, fine in enumerate(legal(view)) if fine and is_user_turn(view[at])]


def delivered(rows, view):
    """Whether the window begins with the delivery before a user's turn, which nothing shows any more."""
    return any(row.get("_channel_delivery") for row in rows) and starts(view)[:1] == [1]


@given(HISTORIES, LIMITS, WORDS, st.booleans())
def test_the_window_is_the_end_of_what_is_visible(rows, limits, interrupted, timed):
    """Nothing is missing within it, nothing stands in it twice."""
    times = [f"t{at}" for at in range(len(rows))] if timed else None
    window = context(rows, **limits, timestamps=times, interrupted=interrupted)
    whole = visible(rows, times, interrupted)
    assert window == whole[len(whole) - len(window) :]


@given(HISTORIES, LIMITS, WORDS)
def test_it_begins_with_a_user_and_never_with_an_orphan(rows, limits, interrupted):
    """With the first turn it can begin with, or the delivery before that, if a user speaks in it at all."""
    window = context(rows, **limits, interrupted=interrupted)
    assert legal_start(window) == 0
    assert not starts(window) or starts(window)[0] == 0 or delivered(rows, window)


def unanswered(view):
    """The places of calls without a result; a result without a call is an error. By shape: one answers no other."""
    waiting = {}
    for at, row in enumerate(view):
        shape = "item" if is_item(row) else "chat" if row.get("role") == "tool" or "tool_calls" in row else "blocks"
        for name in results(row):
            del waiting[shape, name]
        for name in calls(row) if "tool_calls" not in row else [str(call["id"]) for call in row["tool_calls"]]:
            assert (shape, name) not in waiting
            waiting[shape, name] = at
        if shape == "chat":
            for block in row["content"] if isinstance(row.get("content"), list) else ():
                if isinstance(block, dict) and block.get("type") == "tool_use":
                    waiting["blocks", str(block["id"])] = at
    return waiting.values()


@given(HISTORIES, LIMITS, WORDS)
def test_calls_and_results_are_whole(rows, limits, interrupted):
    """Each result has its call before it, each call its one result, but for calls at the end, which are pending."""
    window = context(rows, **limits, interrupted=interrupted)
    for at in unanswered(window):
        assert all(results(row) or is_item(row) for row in window[at + 1 :])


@given(HISTORIES, LIMITS, WORDS)
def test_budgets(rows, limits, interrupted):
    """Kept, except by what follows the newest turn that a window can begin with, and by a newest row without one."""
    window = context(rows, **limits, interrupted=interrupted)
    most = limits["max_messages"] if limits["max_messages"] > 0 else 120
    tokens, weight = sum(map(estimated, window)), sum(map(size, window))
    if len(window) > most or tokens > limits.get("max_tokens", tokens) or weight > limits.get("max_bytes", weight):
        assert starts(window) == [0] or len(window) == 1


@given(HISTORIES, LIMITS, WORDS)
def test_a_longer_window_would_not_fit(rows, limits, interrupted):
    """It begins with the earliest turn that fits."""
    view = context(rows, max_messages=len(rows) or 1, interrupted=interrupted)
    limits.pop("max_messages")
    window = context(rows, max_messages=max(1, len(view), len(rows)), interrupted=interrupted, **limits)
    for at in starts(view):
        longer = view[at:]
        if len(longer) > len(window):
            tokens, weight = sum(map(estimated, longer)), sum(map(size, longer))
            assert tokens > limits.get("max_tokens", tokens) or weight > limits.get("max_bytes", weight)


@given(HISTORIES, LIMITS)
def test_it_is_the_same_when_put_through_again(rows, limits):
    """But for a delivery at its beginning, which nothing shows any more."""
    window = context(rows, **limits)
    again = context(window, **limits)
    assert again == (window[1:] if delivered(rows, window) and len(again) < len(window) else window)


@given(HISTORIES, LIMITS, WORDS)
def test_the_history_stays_as_it_was(rows, limits, interrupted):
    """Also when somebody changes the rows of the window."""
    before = deepcopy(rows)
    for row in context(rows, **limits, timestamps=["t"] * len(rows), interrupted=interrupted) + paired(rows, interrupted):
        row["role"] = row["content"] = None
        row.pop("tool_calls", None)
    assert rows == before


@given(HISTORIES, WORDS)
def test_pairing_twice_is_pairing_once(rows, interrupted):
    """What is whole stays whole."""
    once = paired(rows, interrupted)
    assert paired(once, interrupted) == once


@given(HISTORIES)
def test_a_legal_start_is_found_by_walking(rows):
    """Left to right, with the set of declared calls, as the rule is written."""
    start, declared = 0, set()
    for at, row in enumerate(rows):
        declared |= set(calls(row))
        if not declared.issuperset(results(row)):
            start, declared = at + 1, set()
    assert legal_start(rows) == start
    assert legal(rows) == [legal_start(rows[at:]) == 0 for at in range(len(rows))]


@given(HISTORIES, st.integers(-1, 12))
def test_retained_rows(rows, limit):
    """At most so many, neighbours; no orphans, but where only they would keep nothing that a user said."""
    kept = retained(rows, limit)
    left = rows[kept.start : kept.stop]
    assert len(left) == len(kept) <= max(0, limit)
    spoken = [at for at, row in enumerate(left) if is_user_turn(row)]
    assert legal_start(left) == 0 or len(rows) <= limit or (spoken[0] == 0 and legal_start(left) > spoken[-1])
    newest = rows[len(rows) - limit :]
    if 0 < limit < len(rows) and not any(map(is_user_turn, newest)) and any(map(is_user_turn, rows)):
        latest = max(at for at, row in enumerate(rows) if is_user_turn(row))
        assert kept == range(latest, latest + limit)


@given(st.lists(STRANGE, max_size=6).map("\n".join))
def test_cleaning_twice_is_cleaning_once(text):
    """Whatever is left is what a model may see."""
    assert cleaned(cleaned(text)) == cleaned(text)


@given(HISTORIES, st.integers(0, 60))
def test_each_row_is_measured_once(rows, budget):
    """Tokens are counted once for each row that is shown, newest first, and no further than the budget reaches."""
    asked = []
    view = visible(rows)
    context(rows, max_messages=99, max_tokens=budget, count_tokens=lambda text: asked.append(text) or 6)
    assert len(asked) <= min(len(view), max(2, budget // 10 + 1))


def lines_run(rows):
    """How many lines of the library `context` runs through."""
    ran = 0

    def count(frame, event, _argument):
        nonlocal ran
        ran += event == "line"
        return count if "conversation" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(count)
    try:
        context(rows, max_messages=len(rows), max_tokens=10**9, max_bytes=10**9, interrupted="stopped")
    finally:
        sys.settrace(before)
    return ran


@pytest.mark.parametrize(
    "turn",
    [
        [chat_call("a"), USER, chat_result("a")],
        [call_item("b"), USER, output_item("b")],
        [USER, chat_call("a", "b"), chat_result("b"), chat_result("b")],
        [USER, call_item("b"), call_item("b")],
        [{"role": "assistant", "content": [use("a")]}, {"role": "user", "content": [result("a")]}],
        [{"role": "assistant", "content": [use("a"), use("b")]}, {"role": "user", "content": [result("b")]}, USER],
    ],
)
def test_the_work_is_linear(turn):
    """Twice the history, twice the work, also where each turn of a user leaves an orphan behind."""
    once, twice = lines_run(turn * 50), lines_run(turn * 100)
    assert once < twice < 2.1 * once
