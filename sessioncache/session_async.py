"""The awaiting door to one session: `session` with ``await``; all behaviour is in the flows.

A session is bound to one session id, whatever becomes current under its key later. It belongs to one event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

from sessioncache.conversation.window import MAX_MESSAGES
from sessioncache.durability import Durability
from sessioncache.flow import RunAwaited
from sessioncache.info import Info
from sessioncache.lifecycle import (
    appending,
    consolidating,
    deleting,
    details,
    forking,
    leases,
    messages,
    moving,
    opening,
    titles,
)
from sessioncache.lifecycle.consolidating import Archive
from sessioncache.lifecycle.details import Changes, Used
from sessioncache.lifecycle.messages import Limits
from sessioncache.lifecycle.opening import Begins, Opening
from sessioncache.records import Messages, Record
from sessioncache.renewal import AwaitingRight
from sessioncache.state import State


class AsyncSession:
    """A session: bound to one session id, whatever becomes current under its key later.

    Every call raises `SessionMoved` or `SessionDeleted` when the session is not current any more, and writes nothing then.
    Every change takes ``expected_version``: it happens only if this is the key's version, else `VersionConflict` says
    which it is.

    Attributes:
        info: what was known of it when it was opened or refreshed last.
        reset_reason: why it began, if this call replaced another session by it: ``idle``, ``daily``, ``suspended``,
            ``reset``; else None.
        had_activity: whether the replaced session had messages or had used tokens.
        stale: whether it was found in SQL alone, because Redis was away (the setting ``stale_reads``).
    """

    def __init__(self, state: State, run: RunAwaited, opened: Opening) -> None:
        self._state, self._run, self._handle = state, run, opened.handle
        self.info, self.reset_reason, self.had_activity = opened.info, opened.reason, opened.had_activity
        self.stale = opened.stale

    @property
    def key(self) -> str:
        """The session key."""
        return self._handle.keys.session_key

    @property
    def session_id(self) -> str:
        """The session id."""
        return self._handle.session_id

    @property
    def owner(self) -> str | None:
        """The owner, if it has one."""
        return self._handle.owner or None

    @property
    def was_reset(self) -> bool:
        """Whether the call that gave this session replaced another one by it."""
        return self.reset_reason is not None

    async def append(
        self,
        messages_: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        /,
        *,
        id: str | Sequence[str] | None = None,  # noqa: A002 - the word of the domain
        expected_version: int | None = None,
        activity: bool = True,
        durability: Durability = "cached",
    ) -> list[Record]:
        """Append one message or a list of them, all or none; their records, in order.

        Args:
            messages_: JSON objects.
            id: the caller's own message id, or one for each message; a repeat adds nothing and returns the first record.
            expected_version: append only if this is the key's version.
            activity: False for what happens inside the application and shall not keep the session from being reset.
            durability: how far they shall have got when the call returns: ``cached``, ``replicated`` or `Replicated(…)`,
                ``synced`` or `Synced(…)`, ``stored``.

        Raises:
            InvalidMessage: JSON cannot say a message, or it is too large; names the path.
            SessionMoved, SessionDeleted: this session is not current any more.
            VersionConflict: the version is another one.
            TurnLost: this is the session of a turn that another server has by now.
            Backpressure: too much waits for the store.
            DurabilityUnavailable: Redis has no such level; nothing was written.
            DurabilityNotReached: the messages are accepted, but had not got so far in time.
        """
        terms = appending.Terms(expected_version, activity, durability)
        return await self._run(appending.append(self._state, self._handle, messages_, id, terms))

    async def history(self, limit: int | None = None) -> list[dict[str, Any]]:
        """The newest ``limit`` messages (None: all), exactly as they were appended; the caller's own copies."""
        return await self._run(messages.history(self._state, self._handle, limit))

    async def messages(self, limit: int | None = None, *, before: int | None = None) -> Messages:
        """The newest ``limit`` messages (None: all), as an immutable sequence of records.

        Args:
            limit: how many.
            before: only messages with a seq below this one: for paging backwards, also beyond what is hot.
        """
        return await self._run(messages.messages(self._state, self._handle, limit, before))

    async def context(
        self,
        *,
        max_messages: int = MAX_MESSAGES,
        include_timestamps: bool = False,
        **limits: Unpack[Limits],
    ) -> list[dict[str, Any]]:
        """What a model is sent: the newest messages that are not consolidated, from a user turn on, calls with results.

        Args:
            max_messages: of how many of the newest messages; 0 or less: 120.
            include_timestamps: show the time before what users said.
            limits: max_tokens, max_bytes, count_tokens and interrupted, see `Limits`.
        """
        flow = messages.context(self._state, self._handle, max_messages, limits, timestamps=include_timestamps)
        return await self._run(flow)

    async def iterate(self, *, after: int = 0, page: int = 500) -> AsyncIterator[Record]:
        """Every message with a seq above ``after``, oldest first, in bounded memory: ``page`` at a time, from SQL."""
        while True:
            found = await self._run(messages.following(self._state, self._handle, after, page))
            for one in found:
                yield one
            if len(found) < page:
                return
            after = found[-1].seq

    async def pop(self, *, expected_version: int | None = None) -> Record | None:
        """Remove the newest message; what it was, None if there is none."""
        return await self._run(messages.pop(self._state, self._handle, expected_version))

    async def truncate(self, keep: int, *, expected_version: int | None = None) -> int:
        """Keep the first ``keep`` messages; how many there are now."""
        return await self._run(messages.truncate(self._state, self._handle, keep, expected_version))

    async def clear(self, *, expected_version: int | None = None) -> None:
        """Remove all messages, and ``summary`` from the metadata."""
        await self._run(messages.clear(self._state, self._handle, expected_version))

    async def replace(
        self, messages_: Sequence[Mapping[str, Any]], /, *, expected_version: int | None = None
    ) -> list[Record]:
        """Replace all messages by others, all at once; their records."""
        return await self._run(messages.replace(self._state, self._handle, messages_, expected_version))

    async def edit(self, message_id: str, message: Mapping[str, Any], *, expected_version: int | None = None) -> bool:
        """Give one message another content; it keeps its id, seq and time. False if there is none of this id."""
        return await self._run(messages.edit(self._state, self._handle, message_id, message, expected_version))

    async def remove(self, message_id: str, *, expected_version: int | None = None) -> bool:
        """Remove one message. False if there is none of this id."""
        return await self._run(messages.remove(self._state, self._handle, message_id, expected_version))

    async def consolidate(self, through: int, *, summary: Any = None, expected_version: int | None = None) -> int:
        """Say that the messages up to a seq are summarised: `context` begins after them. Nothing is removed. The version.

        Args:
            through: the seq; 0 for none.
            summary: a JSON value, kept in the metadata as ``summary``; None leaves it as it is.
            expected_version: only if this is the key's version.

        Raises:
            InvalidInput: there is no message of this seq yet, or the summary is refused; nothing was written.
        """
        flow = consolidating.consolidate(self._state, self._handle, through, summary, expected_version)
        return await self._run(flow)

    async def retain(self, count: int, *, expected_version: int | None = None) -> int:
        """Keep the newest messages, ``count`` at most, from a user turn on; how many there are now. 0 or less clears."""
        return await self._run(consolidating.retain(self._state, self._handle, count, expected_version))

    async def cap(self, limit: int = 2000, *, archive: Archive | None = None, expected_version: int | None = None) -> int:
        """Retain ``limit`` messages where there are more; how many went. 0 or less: nothing happens.

        Args:
            limit: how many may stay, see `retain`.
            archive: is given, before they go, the records that go and were not consolidated; if it raises, nothing changes.
                It may be given them again, if other messages were changed meanwhile or this process ends: go by their ids.
            expected_version: only if this is the key's version.

        Raises:
            HookFailed: ``archive`` raised.
        """
        return await self._run(consolidating.cap(self._state, self._handle, limit, archive, expected_version))

    async def refresh(self) -> Info:
        """What is known of the session now; also in `info`."""
        self.info = await self._run(opening.refresh(self._state, self._handle))
        return self.info

    async def update(self, *, expected_version: int | None = None, **changes: Unpack[Changes]) -> int:
        """Change what is known of the session: title, display_name, origin, metadata, archived, important, suspended.

        Args:
            expected_version: only if this is the key's version.
            changes: what to set, see `Changes`; what is not given, or None, stays as it is.

        Returns:
            The version.

        Raises:
            InvalidInput: a value is refused; nothing was written.
        """
        return await self._run(details.update(self._state, self._handle, changes, expected_version))

    async def unique_title(self, title: str, *, expected_version: int | None = None) -> str:
        """Give it a title that no other session of its owner has: this one, or ``… #2``, ``… #3``; which it is."""
        return await self._run(titles.unique_title(self._state, self._handle, title, expected_version))

    async def archive(self, *, archived: bool = True, expected_version: int | None = None) -> int:
        """Hide the session from lists, or show it again; opening and appending work. The version."""
        return await self.update(archived=archived, expected_version=expected_version)

    async def record_usage(self, *, expected_version: int | None = None, **used: Unpack[Used]) -> int:
        """Add tokens and cost to what was used; the last prompt's tokens and the labels change when given. The version.

        Args:
            expected_version: only if this is the key's version.
            used: the four token counts, last_prompt_tokens, estimated_cost and the labels, see `Used`.

        Raises:
            InvalidInput: a value is refused; nothing was written.
        """
        return await self._run(details.record_usage(self._state, self._handle, used, expected_version))

    async def reset(self, *, expected_version: int | None = None, **begins: Unpack[Begins]) -> AsyncSession:
        """End this session and begin another under its key; owner, origin, display name, platform and chat type stay."""
        wanted = opening.details(**begins)
        return self._as(await self._run(opening.reset(self._state, self._handle, wanted, expected_version)))

    async def switch(self, session_id: str, *, expected_version: int | None = None) -> AsyncSession:
        """End this session and make an earlier one, of this key or another, the current one again.

        Raises:
            SessionNotFound: it is unknown, deleted, or another owner's.
        """
        return self._as(await self._run(moving.switch(self._state, self._handle, session_id, expected_version)))

    async def fork(self, session_key: str, *, through: int | None = None) -> AsyncSession:
        """Begin a session under a new key with this one's messages up to a seq (None: all).

        Raises:
            SessionExists: that key has a session.
        """
        return self._as(await self._run(forking.fork_current(self._state, self._handle, session_key, through)))

    def hold(self, name: str, *, ttl: float | None = None) -> AwaitingRight[None]:
        """While the block runs, this session key is not reset by a policy, pruned, archived or cleaned up.

        Args:
            name: what holds it, for whoever looks.
            ttl: how long it holds, in seconds, after the process died; at most, and by default, the setting ``hold``.
        """
        return AwaitingRight(self._run, leases.hold(self._state, self._handle, name, ttl), None)

    def turn(self, *, timeout: float = 30.0, ttl: float | None = None) -> AwaitingRight[AsyncSession]:
        """The turn to answer in this session; one server has it. ``async with`` gives the session to answer with.

        Args:
            timeout: how long to wait for another server's turn, in seconds; then `TurnTimeout`.
            ttl: after how long without renewal the turn is lost, in seconds; at most, and by default, ``hold``.
        """
        handle, right = leases.turn(self._state, self._handle, timeout, ttl)
        mine = self._as(replace(Opening(handle, self.info), reason=self.reset_reason, had_activity=self.had_activity))
        return AwaitingRight(self._run, right, mine)

    async def delete(self, *, expected_version: int | None = None) -> bool:
        """Delete this session in every tier, current or not; False if it was deleted already."""
        return await self._run(deleting.delete_session(self._state, self._handle, expected_version))

    def _as(self, opened: Opening) -> AsyncSession:
        return AsyncSession(self._state, self._run, opened)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.session_id} of {self.key!r}>"
