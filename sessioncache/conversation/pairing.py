"""Calls and their results, as providers demand them: each call answered once, in its place, and nothing else answered.

Where the results of a call have to stand:

- chat completions: in the ``tool`` rows directly after the assistant row;
- Anthropic messages: at the beginning of the next user row. Where they were appended one by one, in user rows that hold
  nothing else, these become one row;
- Responses: anywhere after the call and before its id is used again.

A call that has no result there, though something else follows, was interrupted: it is left out, and its row too if that
then says nothing; or it gets a result that says so. Calls at the very end are pending, and stay. Results of no such call,
second results, and calls and results without an id are left out. So is a reasoning item that neither an assistant's message
nor a call follows, and a server tool's call or result without the other, unless no user has spoken since.

One pass over the rows and one over what is shown, whatever is in them. No row that was given is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from sessioncache.conversation.calls import (
    chat_calls,
    is_output,
    is_user_turn,
    item_call_id,
    item_result_id,
    results,
    text_id,
)
from sessioncache.conversation.clean import says_nothing
from sessioncache.conversation.shapes import ITEM_FIELDS, THINKING, Row, blocks, is_item

# The item that answers a call with a text, by the type of the call. Others are answered by more than a text.
_OUTPUTS = {"function_call": "function_call_output", "custom_tool_call": "custom_tool_call_output"}
_SERVER_CALLS = ("server_tool_use", "mcp_tool_use")


def paired(rows: Sequence[Row], interrupted: str | None = None) -> list[dict[str, Any]]:
    """The rows with each call and its results together, and without the calls and results that have no other half.

    Args:
        rows: without rows that no model sees, which would part a call from its result.
        interrupted: what to say as the result of a call that has none; None: the call is left out.
    """
    pairing = _Pairing(interrupted)
    for row in rows:
        pairing.take(row)
    return pairing.finish()


class _Pairing:
    """The view as it grows, and the calls in it that wait for their results.

    Places are positions in `shown`. A call is known by its place, the field it stands in and its position there.
    """

    def __init__(self, interrupted: str | None) -> None:
        self.interrupted = interrupted
        self.shown: list[dict[str, Any]] = []
        # What has to go: positions by field, of each row that loses something; an item goes as a whole.
        self.lost: dict[int, dict[str, set[int]]] = {}
        # What has to come after an item.
        self.behind: dict[int, dict[str, Any]] = {}
        # Open calls by id. Those of the assistant row at `caller`: in `tool_calls`, and in its blocks.
        self.caller = 0
        self.chat: dict[str, int] = {}
        self.blocks: dict[str, int] = {}
        # The user row with the results of those blocks.
        self.holder: dict[str, Any] | None = None
        self.items: dict[str, int] = {}
        self.server: dict[str, tuple[int, str, int]] = {}

    def take(self, row: Row) -> None:
        if is_item(row):
            self._close()
            self._item(row)
        elif row.get("role") == "tool":
            self._tool(row)
        elif row.get("role") == "user":
            self._user(row)
        else:
            self._close()
            self.shown.append(dict(row))
            if row.get("role") == "assistant":
                self._assistant(row)

    def _item(self, item: Row) -> None:
        call, result = item_call_id(item), item_result_id(item)
        if call is None and "call_id" in ITEM_FIELDS.get(item["type"], ()) and not is_output(item):
            return
        if is_output(item) and (result is None or self.items.pop(result, None) is None):
            return
        if call is not None:
            if call in self.items:
                self._interrupt(self.items[call])
            self.items[call] = len(self.shown)
        self.shown.append(dict(item))

    def _interrupt(self, place: int) -> None:
        """No output of this call item can come any more."""
        call = self.shown[place]
        if self.interrupted is not None and call["type"] in _OUTPUTS:
            output = {"type": _OUTPUTS[call["type"]], "call_id": call["call_id"], "output": self.interrupted}
            self.behind[place] = output
        else:
            self.lost[place] = {}

    def _tool(self, row: Row) -> None:
        if any(self.chat.pop(name, None) is not None for name in results(row)):
            self.shown.append(dict(row))

    def _user(self, row: Row) -> None:
        """A user's turn, or leading results that are awaited and what is said after them, which ends the run of results."""
        if is_user_turn(row):
            self._close()
            self._end_server_calls()
            self.shown.append(dict(row))
            return
        leading, rest = _split(row)
        awaited = [block for block in leading if self.blocks.pop(text_id(block.get("tool_use_id")) or "", None) is not None]
        if awaited:
            self._hold(row, awaited)
        if rest:
            held = self.holder if awaited else None
            self._close()
            if held is None:
                self.shown.append({**row, "content": rest})
            else:
                held["content"] += rest

    def _hold(self, row: Row, content: list[Any]) -> None:
        """Show these blocks in the user row that holds the results of the run; in a copy of `row` if there is none yet."""
        if self.holder is None:
            self.holder = {**row, "content": []}
            self.shown.append(self.holder)
        self.holder["content"] += content

    def _assistant(self, row: Row) -> None:
        """Its calls are open from now on. Of two with one id, nobody could tell the results apart."""
        self.caller = len(self.shown) - 1
        for position, name in chat_calls(row):
            if name is None or self.chat.setdefault(name, position) != position:
                self._lose(self.caller, "tool_calls", position)
        for position, block in blocks(row, "tool_use"):
            name = text_id(block.get("id"))
            if name is None or self.blocks.setdefault(name, position) != position:
                self._lose(self.caller, "content", position)
        for position, _ in blocks(row, "tool_result"):
            self._lose(self.caller, "content", position)
        self._server_calls(row)

    def _server_calls(self, row: Row) -> None:
        """Calls that the provider answers itself, in the same row or a later one of the model."""
        for position, block in blocks(row):
            kind = str(block.get("type"))
            here = self.caller, "content", position
            if kind in _SERVER_CALLS:
                if self.server.setdefault(str(block.get("id")), here) != here:
                    self._lose(*here)
            elif kind.endswith("_tool_result") and self.server.pop(str(block.get("tool_use_id")), None) is None:
                self._lose(*here)

    def _end_server_calls(self) -> None:
        for call in self.server.values():
            self._lose(*call)
        self.server.clear()

    def _close(self) -> None:
        """No results of the open calls can come any more."""
        for name, position in self.chat.items():
            if self.interrupted is None:
                self._lose(self.caller, "tool_calls", position)
            else:
                self.shown.append({"role": "tool", "tool_call_id": name, "content": self.interrupted})
        for name, position in self.blocks.items():
            if self.interrupted is None:
                self._lose(self.caller, "content", position)
            else:
                result = {"type": "tool_result", "tool_use_id": name, "content": self.interrupted, "is_error": True}
                self._hold({"role": "user"}, [result])
        self.chat.clear()
        self.blocks.clear()
        self.holder = None

    def _lose(self, place: int, field: str, position: int) -> None:
        self.lost.setdefault(place, {}).setdefault(field, set()).add(position)

    def finish(self) -> list[dict[str, Any]]:
        """The view, made from its end on, where what follows a row is known."""
        pending = self._first_pending()
        for place in self.items.values():
            if place < pending:
                self._interrupt(place)
        view: list[dict[str, Any]] = []
        for place in reversed(range(len(self.shown))):
            row = self._remainder(place)
            if row is not None and not (_is_reasoning(row) and not (view and _may_follow_reasoning(view[-1]))):
                view += [self.behind[place], row] if place in self.behind else [row]
        return view[::-1]

    def _first_pending(self) -> int:
        """Where the items begin that may be one response of the model whose calls are being answered.

        A call whose id was used again belongs to an earlier one.
        """
        place = len(self.shown)
        while place and is_item(self.shown[place - 1]) and is_output(self.shown[place - 1]):
            place -= 1
        earlier = self.lost.keys() | self.behind.keys()
        while place and _is_response(self.shown[place - 1]) and place - 1 not in earlier:
            place -= 1
        return place

    def _remainder(self, place: int) -> dict[str, Any] | None:
        """What is shown of a row: None if what is left of it says nothing."""
        row, lost = self.shown[place], self.lost.get(place)
        if lost is None:
            return row
        if is_item(row):
            return None
        left = _without(row, lost)
        return left if left.get("tool_calls") or not says_nothing(left) else None


def _split(row: Row) -> tuple[list[dict[str, Any]], list[Any]]:
    """The leading results of a user row, and its blocks that are no results."""
    content = row["content"]
    leading = list(takewhile(_is_result, content))
    return leading, [block for block in content if not _is_result(block)]


def _is_result(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") == "tool_result"


def _without(row: Row, lost: dict[str, set[int]]) -> dict[str, Any]:
    """A copy of the row without the positions that are lost. A row cannot end with thinking, and empty calls are none."""
    left = {**row}
    for field, positions in lost.items():
        left[field] = [value for position, value in enumerate(row[field]) if position not in positions]
    if "content" in lost:
        while left["content"] and isinstance(left["content"][-1], dict) and left["content"][-1].get("type") in THINKING:
            left["content"].pop()
    if not left.get("tool_calls"):
        left.pop("tool_calls", None)
    return left


def _is_reasoning(row: Row) -> bool:
    return is_item(row) and row["type"] == "reasoning"


def _is_response(row: Row) -> bool:
    return is_item(row) and bool(row["type"].endswith("_call") or row["type"] == "reasoning")


def _may_follow_reasoning(row: Row) -> bool:
    return bool(row["type"].endswith("_call")) if is_item(row) else row.get("role") == "assistant"
