"""Which rows a history keeps when it is cut down: the newest, from a user's turn on, and no result without its call.

Rows that are kept are always neighbours. Pure arithmetic on positions; whoever cuts knows what they stand for.
"""

from __future__ import annotations

from collections.abc import Sequence

from sessioncache.conversation.calls import is_user_turn, legal_start
from sessioncache.conversation.shapes import Row


def retained(rows: Sequence[Row], limit: int) -> range:
    """The positions of the rows to keep, at most `limit` of them.

    They are the newest `limit` rows, from the first user's turn among these on. Where no user speaks among them, it is
    the *latest* user's turn and what follows it, so that the newest rows may go: of a question and ten answers, limit 4
    keeps the question and the first three. Results at the beginning whose calls are gone go too, but never all that users
    said.

    Args:
        rows: the whole history, oldest first.
        limit: 0 or less keeps nothing; as long as the history or longer keeps all of it.
    """
    if limit <= 0 or len(rows) <= limit:
        return range(len(rows) if limit > 0 else 0)
    newest = len(rows) - limit
    start = next((at for at in range(newest, len(rows)) if is_user_turn(rows[at])), None)
    if start is None:
        start = next((at for at in reversed(range(newest)) if is_user_turn(rows[at])), newest)
    stop = min(start + limit, len(rows))
    kept = range(start + legal_start(rows[start:stop]), stop)
    lost = is_user_turn(rows[start]) and not any(is_user_turn(rows[at]) for at in kept)
    return range(start, stop) if lost else kept
