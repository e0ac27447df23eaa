"""What a model is sent of a history: the newest of it that fits, from a user's turn on, as providers take it.

In this order:

1. the newest `max_messages` rows;
2. of these, the rows from the first user's turn on (with the proactive delivery just before it, if there is one) that
   leaves no result behind whose call is gone; from the first turn on where each does; as many as leave no such result where
   no user speaks;
3. without what only people see: commands, and the chatter of a display;
4. what assistants said, cleaned; what users said, with its media and, on request, its time;
5. without assistant rows that say nothing;
6. only the fields that providers take;
7. calls and results in pairs (`pairing`);
8. cut to the budgets, all of them at once.

Guarantees:

1. The window is the end of what `visible` shows of the history.
2. It begins with a user's turn, or the delivery before one, if it has one; never with a result whose call is gone.
3. It keeps to each budget, but for the newest row, and for what follows the newest user's turn that it can begin with.
4. Put through again, it stays as it is; a delivery at its beginning goes, since what marks it is not shown.
5. No row that was given is changed; rows are new, what is in them may be shared.

Time is linear in the rows looked at, and only rows that are shown are measured.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from sessioncache.conversation.calls import is_user_turn, legal, legal_start
from sessioncache.conversation.clean import annotated, clean, is_blank
from sessioncache.conversation.pairing import paired
from sessioncache.conversation.shapes import Row, is_item, sent
from sessioncache.conversation.tokens import Count, estimated, size

MAX_MESSAGES = 120

_NOT_SENT = ("", "session_meta", "function")


def visible(
    rows: Sequence[Row], timestamps: Sequence[str | None] | None = None, interrupted: str | None = None
) -> list[dict[str, Any]]:
    """The rows as a model is sent them: steps 3 to 7.

    Args:
        rows: oldest first.
        timestamps: for each row, the text of the time to show before what a user said; None for none.
        interrupted: what to say as the result of a call that was never answered; None: the call is left out.

    Raises:
        ValueError: there are not as many timestamps as rows.
    """
    times = [None] * len(rows) if timestamps is None else timestamps
    shown = [_shown(row, time) for row, time in zip(rows, times, strict=True) if not _is_hidden(row)]
    return paired([row for row in shown if not is_blank(row)], interrupted)


def _shown(row: Row, time: str | None) -> dict[str, Any]:
    role = row.get("role")
    return sent(clean(row) if role == "assistant" else annotated(row, time) if role == "user" else row)


def _is_hidden(row: Row) -> bool:
    """Whether only people see it, or no provider takes it: it has no role and is no item, or is of a shape long gone."""
    metadata, role = row.get("metadata"), row.get("role")
    chatter = isinstance(metadata, dict) and metadata.get("source") == "slash"
    unknown = not is_item(row) and (not isinstance(role, str) or role in _NOT_SENT)
    return chatter or bool(row.get("_command")) or unknown


def context(
    rows: Sequence[Row],
    *,
    max_messages: int = MAX_MESSAGES,
    max_tokens: int | None = None,
    max_bytes: int | None = None,
    timestamps: Sequence[str | None] | None = None,
    count_tokens: Count | None = None,
    interrupted: str | None = None,
) -> list[dict[str, Any]]:
    """The window for a model.

    Args:
        rows: the history without its consolidated beginning, oldest first.
        max_messages: how many of the newest rows to look at, and the most to send; 0 or less: 120.
        max_tokens: the most tokens to send, as `estimated`; None: no such budget.
        max_bytes: the most bytes to send, as the sum of the rows' JSON; None: no such budget.
        timestamps: for each row, the text of the time to show before what a user said; None for none.
        count_tokens: how many tokens a text has; None: an estimate.
        interrupted: what to say as the result of a call that was never answered; None: the call is left out.

    Raises:
        ValueError: there are not as many timestamps as rows.
    """
    limit = max_messages if max_messages > 0 else MAX_MESSAGES
    newest = max(0, len(rows) - limit)
    start = newest + _first(rows[newest:])
    view = visible(rows[start:], None if timestamps is None else timestamps[start:], interrupted)
    cut = _cut(view, limit, max_tokens, max_bytes, count_tokens)
    delivery = start < len(rows) and rows[start].get("_channel_delivery") and any(map(is_user_turn, view[1:2]))
    return view if delivery and not cut else _from_turn(view, cut)


def _first(rows: Sequence[Row]) -> int:
    """The first position that is legal and a user's turn, or the delivery before one.

    Where a result without a call comes after the last turn, it is the first turn: that result is left out, instead of all
    turns. (Not an output of the Responses API, whose call may be far before it.) Else it is what is legal behind the turns.
    """
    turns = [is_user_turn(row) and not _is_hidden(row) for row in rows]
    begins = [turn or bool(row.get("_channel_delivery") and any(turns[at + 1 : at + 2]))
              for at, (row, turn) in enumerate(zip(rows, turns, strict=True))]  # fmt: skip
    fine, lenient = legal(rows), legal([row if is_item(row) else {} for row in rows])
    for allowed in (fine, lenient):
        for at, begin in enumerate(begins):
            if begin and allowed[at]:
                return at
    last = max((at for at, turn in enumerate(turns) if turn), default=-1)
    return next((at for at, one in enumerate(fine) if one and at > last), len(rows))


def _cut(view: Sequence[Row], messages: int, tokens: int | None, size_limit: int | None, count: Count | None) -> int:
    """How many of the first rows do not fit: newest first, until one would exceed a budget; the newest always fits."""
    spent_tokens = spent_bytes = 0
    for kept, row in enumerate(reversed(view)):
        spent_tokens += estimated(row, count) if tokens is not None else 0
        spent_bytes += size(row) if size_limit is not None else 0
        over = kept >= messages or spent_tokens > (tokens or 0) or spent_bytes > (size_limit or 0)
        if kept and over:
            return len(view) - kept
    return 0


def _from_turn(view: list[dict[str, Any]], cut: int) -> list[dict[str, Any]]:
    """What is left if so many rows go: from the first user's turn on that fits, else from the newest one before.

    Also where none go: a row that held results of calls that are not shown may have become a user's turn.
    """
    turns = [at for at, fine in enumerate(legal(view)) if fine and is_user_turn(view[at])]
    if not turns:
        return paired(view[cut + legal_start(view[cut:]) :])
    return view[turns[min(bisect_left(turns, cut), len(turns) - 1)] :]
