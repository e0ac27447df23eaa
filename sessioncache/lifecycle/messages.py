"""Messages: read, page, and change those that stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypedDict, cast

from sessioncache import read_through
from sessioncache.arguments import number, whole
from sessioncache.conversation import window
from sessioncache.conversation.source import text_of
from sessioncache.conversation.tokens import Count
from sessioncache.errors import HookFailed, InvalidInput
from sessioncache.flow import Flow
from sessioncache.hot import writing
from sessioncache.hot.change import Moved
from sessioncache.hot.writing import Below, Edited
from sessioncache.keys import check_name
from sessioncache.lifecycle import stale
from sessioncache.lifecycle.appending import as_list, encoded, with_names
from sessioncache.lifecycle.handle import Handle, changed, not_current, standing
from sessioncache.lifecycle.stale import unless_away
from sessioncache.message import element, encode
from sessioncache.op import CLEAR, EDIT, REMOVE, TRUNCATE, replacing_ids
from sessioncache.read_through import Page, View
from sessioncache.records import Messages, Record, StaleHistory, record
from sessioncache.state import State


def messages(state: State, handle: Handle, limit: int | None, before: int | None) -> Flow[Messages]:
    """The newest ``limit`` messages (None: all) of the handle's session, of those with a seq below ``before``.

    Raises:
        SessionMoved, SessionDeleted: the handle's session is not current any more.
    """
    wanted = None if limit is None else number(limit, "limit")
    page = None if before is None else Page(before=number(before, "before"), limit=wanted)
    return (yield from _shown(state, handle, wanted, page)).messages


def history(state: State, handle: Handle, limit: int | None) -> Flow[list[dict[str, Any]]]:
    """The newest ``limit`` messages (None: all) of the handle's session, as they were appended: the caller's own.

    Raises:
        SessionMoved, SessionDeleted: the handle's session is not current any more.
    """
    wanted = None if limit is None else number(limit, "limit")
    found = yield from _shown(state, handle, wanted, headers=False)
    return found.messages.data(found.fresh, found.among)


def _shown(
    state: State, handle: Handle, limit: int | None, page: Page | None = None, *, headers: bool = True
) -> Flow[View]:
    """What `view` finds, or a stale one, for those who only look."""
    fresh = view(state, handle, limit, page, headers=headers)
    return unless_away(state, fresh, lambda: stale.view(handle, page or Page(limit=limit)))


def view(state: State, handle: Handle, limit: int | None, page: Page | None = None, *, headers: bool = True) -> Flow[View]:
    """The newest ``limit`` messages (None: all) of the handle's session, or a page of them; ``headers`` as for `read`.

    Raises:
        SessionMoved, SessionDeleted: the handle's session is not current any more.
    """
    if page is None:
        found = yield from read_through.read(state, handle.keys, limit, headers=headers)
    else:
        found = yield from read_through.page(state, handle.keys, page)
    if found.session_id != handle.session_id:
        raise (yield from not_current(state, handle, Moved(found.session_id)))
    return found


class Limits(TypedDict, total=False):
    """What bounds a context, and what stands in it for calls that were never answered.

    Attributes:
        max_tokens: the most tokens; None: no such bound.
        max_bytes: the most bytes, as JSON; None: no such bound.
        count_tokens: how many tokens a text has; None: a quarter of its characters.
        interrupted: what to say as the result of such a call; None: the call is left out.
    """

    max_tokens: int | None
    max_bytes: int | None
    count_tokens: Count | None
    interrupted: str | None


def context(
    state: State, handle: Handle, max_messages: int, limits: Limits, *, timestamps: bool
) -> Flow[list[dict[str, Any]]]:
    """What a model is sent of the handle's session (`conversation.window`), without what was consolidated.

    Raises:
        InvalidInput: a limit is refused.
        SessionMoved, SessionDeleted: the handle's session is not current any more.
    """
    most, checked = whole(max_messages, "max_messages"), _checked(limits)
    found = yield from _shown(state, handle, most if most > 0 else window.MAX_MESSAGES)
    records = [one for one in found.messages if one.readable and one.seq > found.consolidated_seq]
    times = [_time_of(one) for one in records] if timestamps else None
    sent = window.context([one.data for one in records], max_messages=most, timestamps=times, **checked)
    return StaleHistory(sent) if found.messages.stale else sent


def _checked(limits: Limits) -> Limits:
    unknown = sorted(set(limits) - set(Limits.__annotations__))
    if unknown:
        raise InvalidInput(f"A context has no {', '.join(unknown)}; it has {', '.join(Limits.__annotations__)}.")
    for name in ("max_tokens", "max_bytes"):
        if limits.get(name) is not None:
            number(limits[name], name)
    text_of(limits.get("interrupted"), "interrupted")
    count = limits.get("count_tokens")
    return limits if count is None else {**limits, "count_tokens": partial(_counted, count)}


def _counted(count: Count, text: str) -> int:
    try:
        tokens: object = count(text)
    except Exception as error:
        raise HookFailed(f"count_tokens raised {type(error).__name__}; nothing was changed.") from error
    return number(tokens, "What count_tokens gives")


def _time_of(record: Record) -> str:
    """As the message says, else when it was accepted."""
    said = record.data.get("timestamp")
    return said if isinstance(said, str) and said else record.created_at.isoformat(timespec="seconds")


def following(state: State, handle: Handle, after: int, limit: int) -> Flow[Messages]:
    """The first ``limit`` messages of the handle's session with a seq above ``after``.

    Raises:
        SessionMoved, SessionDeleted: the handle's session is not current any more.
    """
    page = Page(after=number(after, "after"), limit=number(limit, "page", least=1))
    return (yield from _shown(state, handle, None, page)).messages


def pop(state: State, handle: Handle, expected_version: int | None) -> Flow[Record | None]:
    """Remove the newest message; what it was, None if there is none.

    Raises:
        SessionMoved, SessionDeleted, VersionConflict, TurnLost, Backpressure: as for `append`.
        HotTierUnavailable: it was removed, but the answer was lost and so was what it said.
    """
    attempt = partial(writing.pop, state, handle.keys, handle.change(expected_version))
    found = yield from changed(state, handle, attempt)
    return record(found) if found else None


def truncate(state: State, handle: Handle, left: int, expected_version: int | None) -> Flow[int]:
    """Keep the first ``left`` messages; how many there are now.

    Raises:
        SessionMoved, SessionDeleted, VersionConflict, TurnLost, Backpressure: as for `append`.
    """
    left = number(left, "The number of messages to keep")
    attempt = partial(writing.truncate, state, handle.keys, handle.change(expected_version), TRUNCATE, left)
    return (yield from changed(state, handle, attempt))


def clear(state: State, handle: Handle, expected_version: int | None) -> Flow[None]:
    """Remove all messages, the consolidated pointer and the summary in the metadata.

    Raises:
        SessionMoved, SessionDeleted, VersionConflict, TurnLost, Backpressure: as for `append`.
    """
    attempt = partial(writing.truncate, state, handle.keys, handle.change(expected_version), CLEAR, 0)
    yield from changed(state, handle, attempt)


def replace(
    state: State, handle: Handle, messages: Sequence[Mapping[str, Any]], expected_version: int | None
) -> Flow[list[Record]]:
    """Replace all messages by others, all at once; their records.

    Raises:
        InvalidMessage: a message is refused; nothing was written.
        SessionMoved, SessionDeleted, VersionConflict, TurnLost, Backpressure: as for `append`.
    """
    packed, terms = encoded(state, as_list(messages)), handle.change(expected_version)
    names = replacing_ids(terms.op_id, len(packed))
    attempt = partial(writing.replace, state, handle.keys, terms, with_names(names, packed))
    version, at_ms = yield from changed(state, handle, attempt)
    pairs = enumerate(zip(names, packed, strict=True), version + 1)
    return [record(element(seq, at_ms, name, one)) for seq, (name, one) in pairs]


def edit(
    state: State, handle: Handle, message_id: str, message: Mapping[str, Any], expected_version: int | None
) -> Flow[bool]:
    """Give one message another content; it keeps id, seq and time. False if the session has no such message.

    Raises:
        InvalidMessage, InvalidKey: the message or its id is refused; nothing was written.
        SessionMoved, SessionDeleted, VersionConflict, TurnLost, Backpressure: as for `append`.
    """
    packed = encode(message, state.settings.max_message_bytes)
    return (yield from _edit(state, handle, EDIT, message_id, packed, expected_version))


def remove(state: State, handle: Handle, message_id: str, expected_version: int | None) -> Flow[bool]:
    """Remove one message. False if the session has no such message.

    Raises:
        InvalidKey: the id is refused.
        SessionMoved, SessionDeleted, VersionConflict, TurnLost, Backpressure: as for `append`.
    """
    return (yield from _edit(state, handle, REMOVE, message_id, b"", expected_version))


def _edit(
    state: State, handle: Handle, kind: str, message_id: str, packed: bytes, expected_version: int | None
) -> Flow[bool]:
    name, terms, seen_under = check_name(message_id, "message id"), handle.change(expected_version), ""
    while True:
        attempt = partial(writing.edit, state, handle.keys, terms, kind, name, packed, seen_under)
        reply = cast("Edited | Below", (yield from changed(state, handle, attempt)))
        if not isinstance(reply, Below):
            return reply.found
        stored = yield from read_through.has_message(state, handle.keys, handle.session_id, name)
        if not stored and (yield from standing(state, handle)).revision == reply.revision:
            return False
        seen_under = reply.revision if stored else ""
