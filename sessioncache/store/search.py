"""Search: the words of a query in titles and messages, of all sessions that are not deleted.

Found is what holds all words of the query, in any order; a term of several words, as ``don't`` or ``你好``, as it stands.
Titles come before messages, then the best come first. What is best is the database's own measure, so ranks of two answers,
or of two databases, say nothing of each other. The work is bounded: of all that is found, the newest are ranked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Float,
    Select,
    Subquery,
    and_,
    column,
    func,
    literal_column,
    select,
    text,
)

from sessioncache.info import Info
from sessioncache.schema import messages, sessions
from sessioncache.store.rows import COLUMNS, info_of
from sessioncache.store.words import SEARCHED, SEPARATORS, terms

# How many of the newest finds are ranked, and by how many characters of each (PostgreSQL).
RANKED = 1000
RANKED_CHARACTERS = 10_000
# ts_rank: longer texts count less, and the result is below 1.
NORMALIZED = 1 | 32
# How much of a text is read for a snippet, how long one is, how much of it stands before what was found, and how many
# terms of the query are looked for.
READ_CHARACTERS = 65_536
SNIPPET_CHARACTERS = 160
BEFORE_CHARACTERS = 50
SNIPPET_TERMS = 8

# CROSS JOIN keeps SQLite from starting with an owner's sessions and asking the index about each of their messages.
_SQLITE_MESSAGES = text("""
    SELECT m.session_id, m.seq, m.id AS place, 1 - 1 / (1 - bm25(messages_search)) AS rank
    FROM messages_search
    CROSS JOIN messages AS m ON m.id = messages_search.rowid
    CROSS JOIN sessions AS s ON s.session_id = m.session_id
    WHERE messages_search MATCH :asked AND s.state <> 'deleted' AND (:owner IS NULL OR s.owner = :owner)
    ORDER BY messages_search.rowid DESC LIMIT :ranked
""").columns(messages.c.session_id, messages.c.seq, column("place"), column("rank", Float))
_SQLITE_TITLES = text("""
    SELECT s.session_id, 1 - 1 / (1 - bm25(sessions_search)) AS rank
    FROM sessions_search
    CROSS JOIN sessions AS s ON s.id = sessions_search.rowid
    WHERE sessions_search MATCH :asked AND s.state <> 'deleted' AND (:owner IS NULL OR s.owner = :owner)
    ORDER BY sessions_search.rowid DESC LIMIT :ranked
""").columns(sessions.c.session_id, column("rank", Float))


@dataclass(frozen=True, slots=True)
class Hit:
    """A message, or a title, that holds what was searched for.

    Attributes:
        seq, message_id: of the message; None for a title.
        snippet: the text around what was found, white space collapsed, ``…`` where it was cut.
        rank: the higher the better; a title's is from 1 to 2, a message's from 0 to 1.
    """

    info: Info
    seq: int | None
    message_id: str | None
    snippet: str
    rank: float


def search(connection: Connection, query: str, owner: str | None, limit: int) -> list[Hit]:
    """The best hits, of one owner's sessions or of all; none for a query without a word."""
    asked = terms(query)
    if not asked:
        return []
    if connection.dialect.name == "postgresql":
        titles, texts = _postgresql_titles(asked, owner), _postgresql_messages(asked, owner)
    else:
        phrases = " ".join(f'"{term}"' for term in asked)  # no word holds a quotation mark
        values = {"asked": phrases, "owner": owner, "ranked": RANKED}
        titles = _SQLITE_TITLES.bindparams(**values).subquery("titles")
        texts = _SQLITE_MESSAGES.bindparams(**values).subquery("texts")
    hits = _title_hits(connection, titles, limit, query)
    return hits + _message_hits(connection, texts, limit - len(hits), query) if len(hits) < limit else hits


def _title_hits(connection: Connection, found: Subquery, limit: int, query: str) -> list[Hit]:
    wanted: Select[Any] = select(*COLUMNS, found.c.rank).join(found, found.c.session_id == sessions.c.session_id)
    order = found.c.rank.desc(), sessions.c.updated_at.desc(), sessions.c.session_id
    rows = connection.execute(wanted.order_by(*order).limit(limit))
    return [Hit(info_of(row), None, None, snippet(row.title, query), 1 + row.rank) for row in rows]


def _message_hits(connection: Connection, found: Subquery, limit: int, query: str) -> list[Hit]:
    best = select(found).order_by(found.c.rank.desc(), found.c.place.desc()).limit(limit).subquery("best")
    message = messages.c
    wanted: Select[Any] = select(
        *COLUMNS, message.seq, message.message_id, func.substr(message.text, 1, READ_CHARACTERS).label("head"), best.c.rank
    ).join_from(best, messages, and_(message.session_id == best.c.session_id, message.seq == best.c.seq))
    wanted = wanted.join(sessions, sessions.c.session_id == best.c.session_id)
    rows = connection.execute(wanted.order_by(best.c.rank.desc(), best.c.place.desc()))
    return [Hit(info_of(row), row.seq, row.message_id, snippet(row.head, query), row.rank) for row in rows]


def _postgresql_titles(asked: Sequence[str], owner: str | None) -> Subquery:
    session, query = sessions.c, _tsquery(asked)
    rank = func.ts_rank(_vector("sessions.title_words", "sessions.title"), query, NORMALIZED).label("rank")
    found = select(session.session_id, rank).where(
        session.title.is_not(None), _holds(_vector("sessions.title_words", "sessions.title"), query), *_visible(owner)
    )
    return found.order_by(session.updated_at.desc()).limit(RANKED).subquery("titles")


def _postgresql_messages(asked: Sequence[str], owner: str | None) -> Subquery:
    message, query = messages.c, _tsquery(asked)
    ranked = _vector("messages.words", "messages.text", RANKED_CHARACTERS)
    rank = func.ts_rank(ranked, query, NORMALIZED).label("rank")
    found = select(message.session_id, message.seq, message.created_at.label("place"), rank)
    found = found.join(sessions, sessions.c.session_id == message.session_id)
    found = found.where(_holds(_vector("messages.words", "messages.text"), query), *_visible(owner))
    return found.order_by(message.created_at.desc()).limit(RANKED).subquery("texts")


def _vector(words: str, plain: str, characters: int = SEARCHED) -> ColumnElement[Any]:
    """The words of a column; by default, letter for letter what the index in the migration holds."""
    head = f"left(coalesce({words}, {plain}), {characters})"
    return literal_column(f"to_tsvector('simple', regexp_replace({head}, '[{SEPARATORS}]+', ' ', 'g'))")


def _tsquery(asked: Sequence[str]) -> ColumnElement[Any]:
    phrases: list[ColumnElement[Any]] = [func.phraseto_tsquery(literal_column("'simple'"), term) for term in asked]
    return reduce(lambda all_before, phrase: all_before.op("&&")(phrase), phrases)


def _holds(vector: ColumnElement[Any], query: ColumnElement[Any]) -> ColumnElement[bool]:
    return vector.op("@@", is_comparison=True, return_type=Boolean())(query)


def _visible(owner: str | None) -> list[ColumnElement[bool]]:
    shown = sessions.c.state != "deleted"
    return [shown] if owner is None else [shown, sessions.c.owner == owner]


def snippet(text: str, query: str) -> str:
    """The text around the first place where a term of the query stands; the beginning, if none is seen there."""
    line = " ".join(text.split())
    if len(line) <= SNIPPET_CHARACTERS:
        return line
    length = SNIPPET_CHARACTERS - 2
    start = max(0, min(_place(line, query) - BEFORE_CHARACTERS, len(line) - length))
    end = start + length
    return ("…" if start else "") + line[start:end] + ("…" if end < len(line) else "")


def _place(line: str, query: str) -> int:
    """Where a term stands: better as whole words than inside of others."""
    apart = [re.findall(r"[^\W_]+", term) or [term] for term in query.split()[:SNIPPET_TERMS]]
    any_term = "|".join(r"[\W_]*".join(map(re.escape, pieces)) for pieces in apart)
    for pattern in (rf"(?<![^\W_])(?:{any_term})(?![^\W_])", any_term):
        if seen := re.search(pattern, line, re.IGNORECASE):
            return seen.start()
    return 0
