"""Keeping a history short: the consolidated prefix, and what is retained of the messages.

The *consolidated pointer* is a seq: what stands at it or below it was summarised, and is not sent to a model any more. A
seq does not shift when messages go, so nothing has to follow it.

What is retained is decided here, by what was read once all of it was in the store (a repeat of an older message is known as
one only then), and happens only if no message was changed meanwhile (the revision is the same) and no less is consolidated;
messages that were appended meanwhile stay. Else it is read and decided again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from sessioncache import info
from sessioncache.arguments import number, whole
from sessioncache.conversation.calls import is_user_turn
from sessioncache.conversation.retain import retained
from sessioncache.flow import Call, Flow
from sessioncache.hot import writing
from sessioncache.hot.change import conflict
from sessioncache.hot.reading import Found
from sessioncache.hot.writing import Changed, Stretch
from sessioncache.lifecycle import messages
from sessioncache.lifecycle.details import consolidated
from sessioncache.lifecycle.handle import Handle, changed, standing
from sessioncache.read_through import View
from sessioncache.records import Record
from sessioncache.state import State
from sessioncache.write_behind import drain_key

Archive = Callable[[list[Record]], Any]


def consolidate(state: State, handle: Handle, through: int, summary: object, expected_version: int | None) -> Flow[int]:
    """Move the consolidated pointer to a seq, and put the summary in the metadata (None: leave it). The version.

    Raises:
        InvalidInput: there is no message of this seq yet, or the summary is refused; nothing was written.
        SessionMoved, SessionDeleted, VersionConflict, TurnLost, Backpressure: as for `append`.
    """
    names = {} if summary is None else info.metadata({"summary": summary})
    return (yield from consolidated(state, handle, number(through, "through"), names, expected_version))


def retain(state: State, handle: Handle, count: int, expected_version: int | None) -> Flow[int]:
    """Keep the newest messages, ``count`` at most, from a user turn on; how many there are now. 0 or less clears.

    Raises:
        SessionMoved, SessionDeleted, VersionConflict, TurnLost, Backpressure: as for `append`.
    """
    if whole(count, "retain") <= 0:
        yield from messages.clear(state, handle, expected_version)
        return 0
    while True:
        yield from drain_key(state, handle.keys.session_key)
        view = yield from _newest(state, handle, count)
        stay = retained(_data(view), count)
        left = yield from _keep(state, handle, view, stay, expected_version)
        if left is not None:
            return left


def cap(state: State, handle: Handle, limit: int, archive: Archive | None, expected_version: int | None) -> Flow[int]:
    """Retain the newest messages where there are more than ``limit``; how many went. 0 or less: nothing happens.

    What goes and was not consolidated yet is given to ``archive`` before.

    Raises:
        HookFailed: ``archive`` raised; nothing was changed.
        SessionMoved, SessionDeleted, VersionConflict, TurnLost, Backpressure: as for `append`.
    """
    handle.change(expected_version)
    if whole(limit, "limit") <= 0:
        return 0
    archived: dict[str, Record] = {}
    while (yield from _standing(state, handle, expected_version)).total > limit:
        yield from drain_key(state, handle.keys.session_key)
        view = yield from messages.view(state, handle, None)
        stay = retained(_data(view), limit)
        if archive is not None:
            yield from _archive(view, stay, archive, archived)
        if (yield from _keep(state, handle, view, stay, expected_version)) is not None:
            return view.total - len(stay)
    return 0


def _newest(state: State, handle: Handle, count: int) -> Flow[View]:
    """The newest messages, one more than shall stay; all of them, where no user turn is among those that might."""
    view = yield from messages.view(state, handle, count + 1)
    if view.total <= count or any(map(is_user_turn, _data(view)[1:])):
        return view
    return (yield from messages.view(state, handle, None))


def _data(view: View) -> list[dict[str, Any]]:
    """The messages of a view, each in its place: an empty one for what cannot be read."""
    return [one.data for one in view.messages]


def _archive(view: View, stay: range, archive: Archive, archived: dict[str, Record]) -> Flow[None]:
    """Give the archive what goes, but for what it was given already as it is now."""
    going = [one for at, one in enumerate(view.messages) if at not in stay and one.seq > view.consolidated_seq]
    new = [one for one in going if archived.get(one.id) != one]
    if new:
        yield Call(archive, (new,), "nothing was changed")
        archived.update((one.id, one) for one in new)


def _keep(state: State, handle: Handle, view: View, stay: range, expected_version: int | None) -> Flow[int | None]:
    """Keep a run of the messages of a view, and what came since; how many are left, None if messages were changed since."""
    terms = handle.change(expected_version)
    if len(stay) == view.total:
        yield from _standing(state, handle, expected_version)
        return view.total
    seen = _name(view.messages[-1])
    first = _name(view.messages[stay[0]]) if stay else (seen[0] + 1, "")
    last = _name(view.messages[stay[-1]]) if stay else (seen[0], "")
    kept = Stretch(view.revision, view.consolidated_seq, first, last, seen, gone=view.total - len(stay))
    attempt = partial(writing.retain, state, handle.keys, terms, kept)
    left = cast("int | Changed", (yield from changed(state, handle, attempt)))
    return None if isinstance(left, Changed) else left


def _standing(state: State, handle: Handle, expected_version: int | None) -> Flow[Found]:
    """Where the handle's session stands, at the version that is expected."""
    found = yield from standing(state, handle)
    if expected_version is not None and found.version != expected_version:
        raise conflict(expected_version, found.version)
    return found


def _name(record: Record) -> tuple[int, str]:
    return record.seq, record.id
