"""The awaiting door: `client` with ``await``; all behaviour is in the flows.

An instance belongs to one event loop. Construction does no I/O (`embedded` apart, which starts
servers).
"""

from __future__ import annotations

import asyncio
import builtins
import os
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self, Unpack

import redis.asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from sessioncache import dead, finding, flushing, housekeeping, ops
from sessioncache.config import Settings, settings_from
from sessioncache.connect import AwaitingConnections
from sessioncache.conversation.source import SessionSource
from sessioncache.dead import DeadLetter
from sessioncache.diagnosis import Finding
from sessioncache.embedded import Opener
from sessioncache.finding import Hits, Page, Wanted
from sessioncache.flow import Flow
from sessioncache.flushing import Flushed
from sessioncache.housekeeping import Kept
from sessioncache.info import Info
from sessioncache.lifecycle import deleting, forking, moving, opening
from sessioncache.lifecycle.deleting import Erased
from sessioncache.lifecycle.opening import Begins, Opening
from sessioncache.ops import Stats
from sessioncache.records import Messages
from sessioncache.session_async import AsyncSession
from sessioncache.store.previews import Summarize


class AsyncSessionCache:
    """A conversation memory for many servers: hot in Redis, kept in SQL."""

    def __init__(
        self,
        redis_client: redis.asyncio.Redis | None = None,
        engine: AsyncEngine | None = None,
        *,
        settings: Settings | None = None,
    ) -> None:
        """Over clients handed in, which stay the caller's; without them, over those the settings name.

        Without ``queue_url`` in the settings, clients handed in send no nudges: the schedule finds the work.

        Raises:
            ConfigurationError: a client cannot be used, or a setting is wrong.
        """
        self._connections = AwaitingConnections(settings or settings_from({}), redis_client, engine)
        self._state = self._connections.state
        self._run = self._connections.run
        self._opener: Opener | None = None

    @classmethod
    def from_url(cls, redis_url: str | None = None, database_url: str | None = None, **settings: Any) -> Self:
        """Over a Redis and a database; what is not given comes from ``SESSIONCACHE_*`` variables or their file.

        Args:
            redis_url: ``redis://``, ``rediss://``, ``unix://`` or ``redis+sentinel://``.
            database_url: ``sqlite://`` or ``postgresql://``, with or without a driver.
            settings: see `Settings`.

        Raises:
            ConfigurationError: a setting is wrong.
        """
        urls = {"redis_url": redis_url, "database_url": database_url}
        given = {name: url for name, url in urls.items() if url is not None}
        return cls(settings=settings_from({**given, **settings}))

    @classmethod
    def embedded(cls, path: str | os.PathLike[str], **settings: Any) -> Self:
        """Over servers that this starts in ``path``, or joins there; they end with the last opener.

        Raises:
            ConfigurationError: they cannot be started.
        """
        opener = Opener(path, settings)
        cache = cls(settings=opener.settings)
        cache._opener = opener
        return cache

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._state.settings

    async def open(self, session_key: str | SessionSource, **begins: Unpack[Begins]) -> AsyncSession:
        """The current session of a key, or a new one, as the reset policy says.

        Args:
            session_key: the address of the conversation, or the source that it is made of; a source is kept as the origin.
            begins: what a new session begins with: owner, title, display_name, platform, chat_type, model, provider,
                base_url, origin, metadata.

        Raises:
            InvalidInput: a value is refused.
            SessionNotFound: the current session is not this owner's.
        """
        return await self._as(
            opening.open_session(self._state, *opening.addressed(self._state, session_key, begins), "open")
        )

    async def ensure(self, session_key: str | SessionSource, **begins: Unpack[Begins]) -> AsyncSession:
        """The current session of a key as it is, whatever the policy says, or a new one: for background tasks."""
        return await self._as(
            opening.open_session(self._state, *opening.addressed(self._state, session_key, begins), "ensure")
        )

    async def create(
        self, session_key: str | SessionSource, *, session_id: str | None = None, **begins: Unpack[Begins]
    ) -> AsyncSession:
        """A new session, of an id of the caller's if one is given, under a key that has none.

        Raises:
            InvalidInput: a value is refused.
            SessionExists: the key has a session, or the id was given before.
        """
        key, wanted = opening.addressed(self._state, session_key, begins)
        if session_id is None:
            return await self._as(opening.open_session(self._state, key, wanted, "create"))
        return await self._as(forking.create(self._state, key, session_id, wanted))

    async def get(self, session_key: str | SessionSource, *, owner: str | None = None) -> AsyncSession:
        """The current session of a key.

        Raises:
            SessionNotFound: there is none, or it is not this owner's.
        """
        return await self._as(opening.shown(self._state, opening.key_of(self._state, session_key), owner))

    async def resume(self, session_id: str, *, owner: str | None = None) -> AsyncSession:
        """An ended session, current under its key again; what is current there ends.

        Raises:
            SessionNotFound: it is unknown, deleted, or not this owner's.
        """
        return await self._as(moving.resume(self._state, session_id, owner))

    async def fork(
        self, session_id: str, session_key: str, *, owner: str | None = None, through: int | None = None
    ) -> AsyncSession:
        """A new session under a new key with the messages of any other one up to a seq (None: all).

        Raises:
            SessionNotFound: the other one is unknown, deleted, or not this owner's.
            SessionExists: the key has a session.
        """
        return await self._as(forking.fork(self._state, session_id, session_key, owner, through))

    async def read(
        self, session_id: str, *, owner: str | None = None, limit: int | None = None, before: int | None = None
    ) -> Messages:
        """The messages of any session, current or not, from SQL; nothing is cached.

        Raises:
            SessionNotFound: it is unknown, deleted, or not this owner's.
        """
        return await self._run(moving.read(self._state, session_id, owner, limit, before))

    async def info(self, session_id: str, *, owner: str | None = None) -> Info:
        """What is known of any session, current or not, from SQL.

        Raises:
            SessionNotFound: it is unknown, deleted, or not this owner's.
        """
        return await self._run(finding.info(self._state, session_id, owner))

    async def past(self, session_key: str, *, owner: str | None = None, limit: int = 100) -> list[Info]:
        """The sessions of a key, current and ended ones, newest activity first."""
        return await self._run(finding.past(self._state, session_key, owner, limit))

    async def list(
        self,
        *,
        limit: int = 50,
        cursor: str | None = None,
        summarize: Summarize | None = None,
        fresh: bool = False,
        **wanted: Unpack[Wanted],
    ) -> Page:
        """A page of sessions, newest activity first, from SQL.

        Args:
            limit: sessions on the page, 1 to 1,000.
            cursor: that of the page before.
            summarize: makes the preview of a message that reports a subagent's result.
            fresh: drain first what is pending.
            wanted: which sessions, see `Wanted`; without, all but archived and ended ones.
        """
        return await self._run(finding.listed(self._state, finding.filters(wanted), limit, cursor, summarize, fresh=fresh))

    async def count(self, *, owner: str | None = None, platform: str | None = None, fresh: bool = False) -> int:
        """How many sessions there are, but for archived and ended ones."""
        wanted = finding.filters({"owner": owner, "platform": platform})
        return await self._run(finding.count(self._state, wanted, fresh=fresh))

    async def has_any(self, *, owner: str | None = None, besides: str | None = None, fresh: bool = False) -> bool:
        """Whether there is any session, ended ones counting, besides the one of this id."""
        return await self._run(finding.has_any(self._state, owner, besides, fresh=fresh))

    async def search(self, query: str, *, owner: str | None = None, limit: int = 20, fresh: bool = False) -> Hits:
        """Messages and titles that hold all words of a query, the best first; from SQL."""
        return await self._run(finding.search(self._state, query, owner, limit, fresh=fresh))

    async def delete(self, session_key: str, *, owner: str | None = None) -> bool:
        """Delete the current session of a key, in every tier; False if there is none (of this owner)."""
        return await self._run(deleting.delete_key(self._state, session_key, owner))

    async def delete_session(self, session_id: str, *, owner: str | None = None) -> bool:
        """Delete any session, in every tier; False if there is none (of this owner)."""
        return await self._run(deleting.delete_by_id(self._state, session_id, owner))

    async def delete_owner(self, owner: str) -> Erased:
        """Erase everything of an owner: sessions, what is pending, dead letters; what it was."""
        return await self._run(deleting.delete_owner(self._state, owner))

    async def keep_house(self, *, dry_run: bool = False) -> Kept:
        """Clean up, archive, prune and retire old sessions, as the settings say; what was done, or would be."""
        return await self._run(housekeeping.keep_house(self._state, dry_run=dry_run))

    async def evict(self, session_key: str) -> bool:
        """Drop the hot copy of a key; True if there was one. The next read brings it back."""
        return await self._run(ops.evict(self._state, session_key))

    async def flush(self, session_key: str | None = None, *, timeout: float | None = None) -> Flushed:  # noqa: ASYNC109 - a deadline for batches
        """Drain one key, or all, into the store; the number of ops drained, and of those that are left.

        Args:
            session_key: which; None for all.
            timeout: try until so many seconds have passed, whatever fails, and say what is left; without, raise.

        Raises:
            StoreUnavailable: the store is down; what is pending waits.
            StoreRefused, CorruptLog: an op cannot be applied; all other keys were drained.
        """
        return await self._run(flushing.flush(self._state, session_key, timeout))

    async def dead_letters(self, session_key: str | None = None, *, limit: int = 1000) -> builtins.list[DeadLetter]:
        """Ops set aside, of one session key or all, because the store refused them or what they were for is gone."""
        return await self._run(dead.letters(self._state, session_key, limit))

    async def retry_dead(self, letters: Iterable[DeadLetter]) -> int:
        """Try their ops again, as new ones at the end; how many were queued. A start only where there is no session."""
        return await self._run(dead.retry(self._state, letters))

    async def drop_dead(self, letters: Iterable[DeadLetter]) -> int:
        """Remove dead letters for good; how many were still there."""
        return await self._run(dead.drop(self._state, letters))

    async def doctor(self) -> builtins.list[Finding]:
        """Whether these are the servers that the settings need, and all is well with them; what is not, and what to do.

        An unreachable tier is a finding, and so is what the first call would refuse to start with. Nothing is written, but
        that SQLite makes an empty file where there is none.
        """
        return await self._connections.doctor()

    async def stats(self) -> Stats:
        """How the two tiers stand, and what this process did."""
        return await self._run(ops.stats(self._state))

    async def close(self, *, flush: bool = False, timeout: float | None = None) -> Flushed | None:  # noqa: ASYNC109 - a deadline for batches
        """Close what this opened. What is pending stays in Redis, for the workers; with ``flush`` it is drained first.

        Args:
            flush: drain everything.
            timeout: begin no further batch after this many seconds.

        Returns:
            What was drained and what is left, with ``flush``.
        """
        try:
            return await self.flush(timeout=timeout) if flush else None
        finally:
            await self._connections.close()
            if self._opener is not None:
                await asyncio.to_thread(self._opener.close)

    async def _as(self, flow: Flow[Opening]) -> AsyncSession:
        return AsyncSession(self._state, self._run, await self._run(flow))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
