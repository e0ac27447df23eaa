"""Whatever was said, and however tools were called, providers take what `context` makes of it, in each of three shapes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, dropwhile, takewhile

import providers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from providers import Refused
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
    result,
    use,
    user,
)

from sessioncache.conversation.calls import calls, is_user_turn, results
from sessioncache.conversation.window import context


@pytest.mark.parametrize(
    ("check", "request_"),
    [
        (providers.chat, [USER, chat_call("a", "b"), chat_result("b"), chat_result("a"), REPLY]),
        (providers.responses, [USER, REASONING, call_item("a"), USER, output_item("a"), call_item("a"), output_item("a")]),
        (providers.anthropic, [USER, assistant(THOUGHT, use("a"), use("b")), user(result("b"), result("a"), TEXT), REPLY]),
    ],
)
def test_good_requests_pass(check, request_):
    """The checkers refuse no request that providers take."""
    check(request_)


@pytest.mark.parametrize(
    ("check", "rule", "request_"),
    [
        (providers.chat, "at least one", []),
        (providers.chat, "a known role", [{"role": "session_meta", "content": "x"}]),
        (providers.chat, "known fields", [{**USER, "media": []}]),
        (providers.chat, "has content", [{"role": "assistant", "content": None}]),
        (providers.chat, "has an entry", [{**REPLY, "tool_calls": []}]),
        (
            providers.chat,
            "name and arguments",
            [{**REPLY, "tool_calls": [{"id": "a", "type": "function", "function": {}}]}],
        ),
        (providers.chat, "an id and a type", [USER, chat_call(None)]),
        (providers.chat, "ids of a message differ", [USER, chat_call("a", "a"), chat_result("a")]),
        (providers.chat, "answers a call", [USER, chat_result("a")]),
        (providers.chat, "answers a call", [USER, chat_call("a"), chat_result("a"), chat_result("a")]),
        (providers.chat, "before anything else", [USER, chat_call("a", "b"), chat_result("a"), USER]),
        (providers.chat, "every call is answered", [USER, chat_call("a")]),
        (providers.responses, "followed by its item", [USER, REASONING, USER]),
        (providers.responses, "followed by its item", [USER, REASONING]),
        (providers.responses, "every call is answered", [USER, call_item("a")]),
        (providers.responses, "used again", [USER, call_item("a"), call_item("a"), output_item("a")]),
        (providers.responses, "answers a call", [USER, output_item("a")]),
        (providers.responses, "answers a call", [USER, call_item("a"), output_item("a"), output_item("a")]),
        (providers.responses, "a known type", [{"type": "note"}]),
        (providers.responses, "has content", [{"role": "assistant", "content": None}]),
        (providers.anthropic, "first message", [REPLY]),
        (providers.anthropic, "nothing else", [{**USER, "name": "x"}]),
        (providers.anthropic, "a known role", [USER, {"role": "tool", "content": "r"}]),
        (providers.anthropic, "content is not empty", [user()]),
        (providers.anthropic, "text is not empty", [{"role": "user", "content": " "}]),
        (providers.anthropic, "of the previous message", [user(result("a"))]),
        (providers.anthropic, "one result", [USER, assistant(use("a")), user(result("a"), result("a"))]),
        (providers.anthropic, "in the next message", [USER, assistant(use("a")), USER]),
        (
            providers.anthropic,
            "in the next message",
            [USER, assistant(use("a"), use("b")), user(result("a")), user(result("b"))],
        ),
        (providers.anthropic, "results come first", [USER, assistant(use("a")), user(TEXT, result("a"))]),
        (providers.anthropic, "every call is answered", [USER, assistant(use("a"))]),
        (providers.anthropic, "thinking is not the last", [USER, assistant(TEXT, THOUGHT), USER]),
        (providers.anthropic, "plain characters", [USER, assistant(use("a b")), user(result("a b"))]),
        (providers.anthropic, "ids of calls differ", [USER, assistant(use("a"), use("a")), user(result("a"))]),
        (providers.anthropic, "the assistant's", [user(use("a"))]),
    ],
)
def test_bad_requests_are_refused(check, rule, request_):
    """Each rule of a checker bites."""
    with pytest.raises(Refused, match=rule):
        check(request_)


# A conversation without a shape: what happens, in order. A call has a name and what becomes of its result.
FATES = st.sampled_from(["answered", "answered", "answered", "missing", "late", "twice"])
CALLS = st.lists(FATES, min_size=1, max_size=3).map(lambda fates: ("calls", fates))
EVENTS = st.one_of(
    st.just(("user",)),
    st.just(("reply",)),
    CALLS,
    CALLS,
    st.sampled_from([("command",), ("blank",), ("orphan",), ("thought",), ("delivery",)]),
)
CONVERSATIONS = st.lists(EVENTS, max_size=14).map(lambda events: [("user",), *events])


class Chat:
    """As chat completions; ids are used again in later turns, as weak models do."""

    check = staticmethod(providers.chat)
    reuses = True

    def calls(self, names):
        return [chat_call(*names)]

    def results(self, names):
        return [chat_result(name) for name in names]

    def thought(self):
        return [{**REPLY, "reasoning_content": "h"}]


class Responses(Chat):
    """As items of the Responses API."""

    check = staticmethod(providers.responses)

    def calls(self, names):
        return [REASONING, *map(call_item, names)]

    def results(self, names):
        return [output_item(name) for name in names]

    def thought(self):
        return [REASONING]


class Anthropic(Chat):
    """As Anthropic messages, where ids have to differ; results together, with a text after them, or one by one."""

    check = staticmethod(providers.anthropic)
    reuses = False

    def __init__(self, results="together"):
        self.how = results

    def calls(self, names):
        return [assistant(THOUGHT, TEXT, THOUGHT, *map(use, names))]

    def results(self, names):
        if self.how == "one by one":
            return [user(result(name)) for name in names]
        after = [TEXT] if self.how == "with text" else []
        return [user(*map(result, names), *after)] if names or after else []

    def thought(self):
        return [assistant(THOUGHT)]


SHAPES = [Chat(), Responses(), Anthropic(), Anthropic("one by one"), Anthropic("with text")]


def rendered(events, shape) -> Iterator[dict]:
    """The rows that an application appends."""
    serial, late = count(), []
    for event, *rest in events:
        if event == "calls":
            names = [f"c{number if shape.reuses else next(serial)}" for number in range(len(rest[0]))]
            fates = dict(zip(names, rest[0], strict=True))
            yield from shape.calls(names)
            yield from shape.results(
                [name for name in names for _ in range({"answered": 1, "twice": 2}.get(fates[name], 0))]
            )
            late += [name for name in names if fates[name] == "late"]
            continue
        yield from {
            "user": [USER],
            "reply": [REPLY],
            "command": [{**USER, "_command": True}],
            "blank": [{"role": "assistant", "content": " "}],
            "thought": shape.thought(),
            "delivery": [{**REPLY, "_channel_delivery": True}],
            "orphan": shape.results(["gone"]),
        }[event]
        if late:
            yield from shape.results([late.pop()])


def answered(view, shape):
    """The request that an application sends when the calls at the end are done."""
    tail = list(takewhile(lambda row: results(row) or calls(row) or row == REASONING, reversed(view)))[::-1]
    open_ = []
    for row in tail:
        open_ = [name for name in open_ if name not in results(row)] + calls(row)
    if open_ and isinstance(shape, Anthropic) and view[-1]["role"] == "user":
        return [*view[:-1], {**view[-1], "content": view[-1]["content"] + [result(name) for name in open_]}]
    return view + Anthropic().results(open_) if isinstance(shape, Anthropic) else view + shape.results(open_)


@pytest.mark.parametrize("interrupted", [None, "interrupted"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{type(shape).__name__} {getattr(shape, 'how', '')}".strip())
@given(CONVERSATIONS, st.integers(1, 20), st.none() | st.integers(1, 200))
def test_providers_take_it(shape, interrupted, events, max_messages, max_tokens):
    """Calls that were interrupted, answered late, twice or out of the blue make no request that is refused."""
    rows = list(rendered(events, shape))
    view = context(rows, max_messages=max_messages, max_tokens=max_tokens, interrupted=interrupted)
    if isinstance(shape, Anthropic):
        # It wants a user first: a delivery before that, or a window in which no user speaks, cannot be sent as it is.
        view = list(dropwhile(lambda row: row["role"] != "user", view)) if any(map(is_user_turn, view[:2])) else []
    if view:
        shape.check(answered(view, shape))


@given(CONVERSATIONS)
def test_every_call_is_answered_where_the_text_is_given(events):
    """With a text for it, no call that was made is kept from the model, nor any result that came in time."""
    rows = list(rendered(events, Chat()))
    asked = [name for row in rows for name in calls(row)]
    shown = [name for row in context(rows, interrupted="interrupted") for name in calls(row)]
    start = len(asked) - len(shown)
    assert shown == asked[start:]
