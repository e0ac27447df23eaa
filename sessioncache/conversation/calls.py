"""Tool calls: which calls a row declares, which results it holds, and where a window may begin without an orphan.

Rows come in three shapes:

- chat completions: an assistant row with ``tool_calls``, answered by ``tool`` rows (``tool_call_id``);
- Anthropic messages: ``tool_use`` blocks of an assistant row, answered by ``tool_result`` blocks of a user row;
- Responses: an item of type ``…_call`` with a ``call_id``, answered by an item of type ``…_call_output``.

Ids are compared as strings; an id that is missing, null or empty is none. Calls that the provider answers itself (server
tools, hosted tools) are not counted: their results stand in rows of the model. No row is ever changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sessioncache.conversation.shapes import Row, blocks, is_item


def calls(row: Row) -> list[str]:
    """The ids of the calls that a row declares, in its order."""
    if is_item(row):
        return _known(item_call_id(row))
    if row.get("role") != "assistant":
        return []
    chat = [name for _, call in chat_calls(row) for name in _known(call)]
    return chat + [name for _, block in blocks(row, "tool_use") for name in _known(text_id(block.get("id")))]


def results(row: Row) -> list[str]:
    """The ids of the calls that a row holds results of, in its order."""
    if is_item(row):
        return _known(item_result_id(row))
    if row.get("role") == "tool":
        return _known(text_id(row.get("tool_call_id")))
    if row.get("role") != "user":
        return []
    return [name for _, block in blocks(row, "tool_result") for name in _known(text_id(block.get("tool_use_id")))]


def is_user_turn(row: Row) -> bool:
    """Whether a user speaks in it: its role is user, and it holds no results of tools."""
    return row.get("role") == "user" and next(blocks(row, "tool_result"), None) is None


def legal(rows: Sequence[Row]) -> list[bool]:
    """For each row, whether a window may begin with it: no row from there on holds a result of a call before it."""
    declared: dict[str, int] = {}
    needed = []
    for index, row in enumerate(rows):
        declared.update(dict.fromkeys(calls(row), index))
        needed.append(min((declared.get(name, -1) for name in results(row)), default=index))
    found = [False] * len(rows)
    earliest = len(rows)
    for index in reversed(range(len(rows))):
        earliest = min(earliest, needed[index])
        found[index] = earliest >= index
    return found


def legal_start(rows: Sequence[Row]) -> int:
    """How many of the first rows have to go, so that no result is left whose call is gone.

    The same as walking left to right with the set of declared calls, where a result of an undeclared one moves the start
    to just after it and forgets all declarations. A result without an id is nobody's orphan.
    """
    return next((index for index, fine in enumerate(legal(rows)) if fine), len(rows))


def item_call_id(item: Row) -> str | None:
    """The id of the call that an item is; None if it is none, or one that the provider answers itself."""
    return text_id(item.get("call_id")) if item["type"].endswith("_call") else None


def item_result_id(item: Row) -> str | None:
    """The id of the call that an item is the output of."""
    if not is_output(item):
        return None
    # A local shell's output names its call by ``id``.
    return text_id(item.get("call_id") or (item["type"] == "local_shell_call_output" and item.get("id")) or None)


def is_output(item: Row) -> bool:
    """Whether an item is the output of a call."""
    return bool(item["type"].endswith("_call_output") or item["type"] == "tool_search_output")


def chat_calls(row: Row) -> Iterator[tuple[int, str | None]]:
    """The place and id of each entry of ``tool_calls``."""
    entries = row.get("tool_calls")
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        yield index, text_id(entry.get("id")) if isinstance(entry, dict) else None


def text_id(value: object) -> str | None:
    """An id as a string; None if there is none."""
    return None if value is None or value == "" else str(value)


def _known(name: str | None) -> list[str]:
    return [] if name is None else [name]
