"""Previews: how the sessions of a list begin, in two statements for a page of them.

The work is bounded: a preview is made of a session's first messages, and of the beginning of a text; whole messages are
read only where the application may want to shorten them, and only small ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, ScalarSelect, Select, and_, case, func, select

from sessioncache.conversation.clean import cleaned
from sessioncache.errors import HookFailed, InvalidInput
from sessioncache.schema import messages, sessions
from sessioncache.store.statements import chunks, matching

PREVIEW_CHARACTERS = 120
# How many of a session's first messages are looked at, and how much of a text.
FIRST_MESSAGES = 100
READ_CHARACTERS = 2000
# The longest message, in characters of its JSON, that is given to ``summarize``.
SUMMARIZED_CHARACTERS = 65_536
LAST_SEQ = 2**63 - 1
# How `to_json` writes what such a message holds.
INJECTED = '"injected_event":"subagent_result"'
SPACES = " \t\n\r\f\v\u00a0\u3000"

Summarize = Callable[[dict[str, Any]], str]


def previews(connection: Connection, session_ids: Sequence[str], summarize: Summarize | None = None) -> dict[str, str]:
    """How each of these sessions begins: its first user text, else its first assistant text; none where it has neither.

    It is cleaned, as a context is; white space is collapsed, and at most 120 characters are kept, the last of them ``…``
    where more was cut off.

    Args:
        connection: in a transaction.
        session_ids: a page of them.
        summarize: what shortens messages that report a subagent's result (``injected_event``); None: they are only cut.
    """
    found: dict[str, str] = {}
    for some in chunks(session_ids):
        first = [(session_id, seq) for session_id, seq in connection.execute(_first_seqs(some)) if seq is not None]
        for row in connection.execute(_texts(first)) if first else ():
            text = _summary(summarize, message) if summarize and (message := _injected(row)) else row.head
            if made := shortened(text) or _next(connection, row.session_id):
                found[row.session_id] = made
    return found


def _summary(summarize: Summarize, message: dict[str, Any]) -> str:
    try:
        made: object = summarize(message)
    except Exception as error:
        raise HookFailed(f"summarize raised {type(error).__name__}; nothing was changed.") from error
    if not isinstance(made, str):
        raise InvalidInput(f"summarize gives a str, not {type(made).__name__}.")
    return made


def _next(connection: Connection, session_id: str) -> str:
    """How a session begins whose first text holds nothing but what only marks something."""
    message = messages.c
    head = func.substr(message.text, 1, READ_CHARACTERS)
    first = select(message.role, head).where(message.session_id == session_id).order_by(message.seq).limit(FIRST_MESSAGES)
    made = [(role, shortened(text)) for role, text in connection.execute(first)]
    return next((text for wanted in ("user", "assistant") for role, text in made if role == wanted and text), "")


def shortened(text: str) -> str:
    """The beginning of a text, cleaned as for a model, white space collapsed."""
    line = " ".join(cleaned(text).split())
    return line if len(line) <= PREVIEW_CHARACTERS else line[: PREVIEW_CHARACTERS - 1].rstrip() + "…"


def _injected(row: Row[Any]) -> dict[str, Any] | None:
    """The message, if it reports a subagent's result; a row that cannot be read spoils no others."""
    try:
        message = json.loads(row.body) if row.body else None
    except (ValueError, RecursionError):
        return None
    return message if type(message) is dict and message.get("injected_event") == "subagent_result" else None


def _first_seqs(session_ids: Sequence[str]) -> Select[Any]:
    """The message to show, for each of these sessions."""
    seq = func.coalesce(_first_seq("user"), _first_seq("assistant"))
    return select(sessions.c.session_id, seq).where(sessions.c.session_id.in_(session_ids))


def _texts(first: Sequence[tuple[str, int]]) -> Select[Any]:
    """The beginning of each of these messages' texts, and the body of those that may be summarized."""
    message = messages.c
    small = func.substr(message.body, SUMMARIZED_CHARACTERS + 1, 1) == ""
    body = case((and_(small, message.body.contains(INJECTED, autoescape=True)), message.body)).label("body")
    return matching(message.seq, first, func.substr(message.text, 1, READ_CHARACTERS).label("head"), body)


def _first_seq(role: str) -> ScalarSelect[int]:
    """The first message of a role that has a text, among the first messages of the session around it."""
    each = messages.alias().c
    last = select(each.seq).where(each.session_id == sessions.c.session_id).order_by(each.seq)
    last = last.limit(1).offset(FIRST_MESSAGES - 1).correlate(sessions)
    message = messages.alias().c
    of_role = select(message.seq).where(
        message.session_id == sessions.c.session_id,
        message.seq <= func.coalesce(last.scalar_subquery(), LAST_SEQ),
        message.role == role,
        func.trim(func.substr(message.text, 1, READ_CHARACTERS), SPACES) != "",
    )
    return of_role.order_by(message.seq).limit(1).correlate(sessions).scalar_subquery()
