"""Finding sessions: lists, search, counts.

They read SQL, whose view is as old as the oldest op that is pending (see `stats`: well under a second while workers run);
with ``fresh`` what is pending is drained first.

A page ends with a cursor, which names the place behind it; pages follow each other without gaps or repeats, except for
sessions that were active meanwhile, which are newer then.
"""

from __future__ import annotations

import binascii
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypedDict, cast

from sqlalchemy import Connection

from sessioncache import flushing, write_behind
from sessioncache.arguments import number, shown
from sessioncache.errors import InvalidInput
from sessioncache.flow import Flow, Transact
from sessioncache.info import Info
from sessioncache.keys import check_name, check_session_key
from sessioncache.lifecycle.moving import located, not_found
from sessioncache.message import instant, milliseconds
from sessioncache.state import State
from sessioncache.store import find
from sessioncache.store.find import Filters
from sessioncache.store.previews import Summarize, previews
from sessioncache.store.search import Hit
from sessioncache.store.search import search as searched

LARGEST_PAGE = 1000
MAX_QUERY_CHARACTERS = 1000

Hits = list[Hit]


@dataclass(frozen=True, slots=True)
class Listed:
    """A session in a list, and how its conversation begins: at most 120 characters."""

    info: Info
    preview: str


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list; ``cursor`` asks for the next one, None where there is none."""

    sessions: list[Listed]
    cursor: str | None


class Wanted(TypedDict, total=False):
    """Which sessions; what is not given, or None, asks for nothing in particular, but for `archived` and `ended`.

    Attributes:
        owner: only this owner's.
        platform: only those of this platform.
        active_within: only with messages or usage within this time.
        archived: True, False (without it), or None for both; as `ended`.
        important: True, False, or None for both.
        ended: see `archived`.
        key_prefix: how the session key begins.
    """

    owner: str | None
    platform: str | None
    active_within: timedelta | None
    archived: bool | None
    important: bool | None
    ended: bool | None
    key_prefix: str | None


def filters(wanted: Wanted) -> Filters:
    """What a list asks for, checked.

    Raises:
        InvalidInput: a value is refused, or a name unknown.
    """
    unknown = sorted(set(wanted) - set(Wanted.__annotations__))
    if unknown:
        raise InvalidInput(
            f"A list cannot be asked for {', '.join(unknown)}; it can for: {', '.join(Wanted.__annotations__)}."
        )
    flags = {
        what: wanted.get(what, default) for what, default in (("archived", False), ("important", None), ("ended", False))
    }
    for what, flag in flags.items():
        if flag is not None and type(flag) is not bool:
            raise InvalidInput(f"{what} is True, False or None for both, not {shown(flag)}.")
    if (prefix := wanted.get("key_prefix")) is not None:
        check_session_key(prefix)
    names = {what: wanted.get(what) for what in ("owner", "platform")}
    checked = {what: None if name is None else check_name(name, what) for what, name in names.items()}
    return Filters(
        owner=checked["owner"],
        platform=checked["platform"],
        key_prefix=prefix,
        active_since=_since(wanted.get("active_within")),
        important=cast("bool | None", flags["important"]),
        states=_states(archived=cast("bool | None", flags["archived"]), ended=cast("bool | None", flags["ended"])),
    )


def _since(active_within: timedelta | None) -> datetime | None:
    if active_within is None:
        return None
    if type(active_within) is not timedelta or active_within < timedelta(0):
        raise InvalidInput(f"active_within is a timedelta from 0, not {shown(active_within)}.")
    return datetime.now(UTC) - min(active_within, timedelta(days=36_500))


def _states(*, archived: bool | None, ended: bool | None) -> tuple[str, ...]:
    wanted = {"live": archived is not True and ended is not True, "archived": archived is not False and ended is not True}
    return tuple(state for state in ("live", "archived") if wanted[state]) + (("ended",) if ended is not False else ())


def listed(
    state: State, wanted: Filters, limit: int, cursor: str | None, summarize: Summarize | None, *, fresh: bool
) -> Flow[Page]:
    """A page of sessions, newest activity first.

    Raises:
        InvalidInput: the limit or the cursor is refused.
        StoreUnavailable: the database is away.
    """
    limit = number(limit, "limit", least=1)
    if limit > LARGEST_PAGE:
        raise InvalidInput(f"limit is at most {LARGEST_PAGE}; ask for the next page with the cursor.")
    after = None if cursor is None else _place(cursor)
    if fresh:
        yield from flushing.settle(state)
    work = partial(_page, wanted=wanted, limit=limit, after=after, summarize=summarize)
    page: Page = yield Transact(work, writes=False)
    return page


def _page(
    connection: Connection,
    wanted: Filters,
    limit: int,
    after: tuple[datetime, str] | None,
    summarize: Summarize | None,
) -> Page:
    found = find.listed(connection, wanted, limit + 1, after)
    shown = found[:limit]
    texts = previews(connection, [one.session_id for one in shown], summarize)
    last = shown[-1] if len(found) > limit else None
    return Page([Listed(one, texts.get(one.session_id, "")) for one in shown], _cursor(last) if last else None)


def _cursor(last: Info) -> str:
    return urlsafe_b64encode(json.dumps([milliseconds(last.updated_at), last.session_id]).encode()).decode()


def _place(cursor: str) -> tuple[datetime, str]:
    try:
        at_ms, session_id = json.loads(urlsafe_b64decode(cursor.encode()))
        if type(at_ms) is int and type(session_id) is str:
            return instant(at_ms), session_id
    except (ValueError, TypeError, AttributeError, OverflowError, binascii.Error):
        pass  # said below, for whatever it is
    raise InvalidInput("The cursor is none that a page of this cache ended with; begin again without one.")


def past(state: State, session_key: str, owner: str | None, limit: int) -> Flow[list[Info]]:
    """The sessions of a key, current and ended ones, newest activity first.

    Raises:
        InvalidInput: the limit is refused.
        StoreUnavailable: the database is away.
    """
    check_session_key(session_key)
    if owner is not None:
        check_name(owner, "owner")
    yield from write_behind.drain_key(state, session_key)
    wanted = Filters(owner=owner, session_key=session_key, states=("live", "archived", "ended"))
    work = partial(find.listed, filters=wanted, limit=number(limit, "limit", least=1))
    found: list[Info] = yield Transact(work, writes=False)
    return found


def info(state: State, session_id: str, owner: str | None) -> Flow[Info]:
    """What is known of any session, current or not.

    Raises:
        SessionNotFound: it is unknown, deleted, or another owner's.
    """
    yield from located(state, session_id, owner)
    found: Info | None = yield Transact(partial(find.one, session_id=session_id), writes=False)
    if found is None:
        raise not_found(session_id)
    return found


def count(state: State, wanted: Filters, *, fresh: bool) -> Flow[int]:
    """How many sessions a list would show in all."""
    if fresh:
        yield from flushing.settle(state)
    return int((yield Transact(partial(find.count, filters=wanted), writes=False)))


def has_any(state: State, owner: str | None, besides: str | None, *, fresh: bool) -> Flow[bool]:
    """Whether any session stands, ended ones counting, besides one."""
    for name, what in ((owner, "owner"), (besides, "session id")):
        if name is not None:
            check_name(name, what)
    if fresh:
        yield from flushing.settle(state)
    return bool((yield Transact(partial(find.has_any, owner=owner, besides=besides), writes=False)))


def search(state: State, query: str, owner: str | None, limit: int, *, fresh: bool) -> Flow[list[Hit]]:
    """Messages and titles that hold all words of a query, the best first.

    Raises:
        InvalidInput: the query or the limit is refused.
        StoreUnavailable: the database is away.
    """
    if type(query) is not str or len(query) > MAX_QUERY_CHARACTERS:
        raise InvalidInput(f"A query is a str of at most {MAX_QUERY_CHARACTERS} characters.")
    limit = number(limit, "limit", least=1)
    if limit > LARGEST_PAGE:
        raise InvalidInput(f"limit is at most {LARGEST_PAGE}; ask for more words.")
    if owner is not None:
        check_name(owner, "owner")
    if fresh:
        yield from flushing.settle(state)
    found: list[Hit] = yield Transact(partial(searched, query=query, owner=owner, limit=limit), writes=False)
    return found
