"""The awaiting door: `client` with ``await``; all behaviour is in the flows.

An instance belongs to one event loop. Construction does no I/O (`embedded` apart, which starts
servers).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import redis.asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from sessioncache import lifecycle, ops, write_behind
from sessioncache.config import Settings, settings_from
from sessioncache.connect import AwaitingConnections
from sessioncache.embedded import Opener
from sessioncache.lifecycle import Handle
from sessioncache.message import Messages, Record
from sessioncache.ops import Stats


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
        """Over a Redis and a database; what is not given comes from ``SESSIONCACHE_*`` variables.

        Args:
            redis_url: ``redis://``, ``rediss://`` or ``unix://``.
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

    async def open(self, session_key: str, *, owner: str | None = None) -> AsyncSession:
        """The current session of a key, or a new one.

        Raises:
            InvalidKey: the key or owner is refused.
            SessionNotFound: the current session is not this owner's.
        """
        return AsyncSession(self, await self._run(lifecycle.open_session(self._state, session_key, owner)))

    async def get(self, session_key: str, *, owner: str | None = None) -> AsyncSession:
        """The current session of a key.

        Raises:
            SessionNotFound: there is none, or it is not this owner's.
        """
        return AsyncSession(self, await self._run(lifecycle.get_session(self._state, session_key, owner)))

    async def delete(self, session_key: str, *, owner: str | None = None) -> bool:
        """Delete the current session of a key, in every tier; False if there is none (of this owner)."""
        return await self._run(lifecycle.delete_key(self._state, session_key, owner))

    async def evict(self, session_key: str) -> bool:
        """Drop the hot copy of a key; True if there was one. The next read brings it back."""
        return await self._run(ops.evict(self._state, session_key))

    async def flush(self, session_key: str | None = None) -> int:
        """Drain one key, or all, into the store; the number of ops drained.

        Raises:
            StoreUnavailable: the store is down; what is pending waits.
            StoreRefused: the store refuses an op; all other keys were drained.
        """
        if session_key is None:
            return await self._run(write_behind.flush(self._state))
        return await self._run(write_behind.drain_key(self._state, session_key))

    async def stats(self) -> Stats:
        """How the two tiers stand, and what this process did."""
        return await self._run(ops.stats(self._state))

    async def close(self) -> None:
        """Close what this opened. What is pending stays in Redis, for the workers."""
        await self._connections.close()
        if self._opener is not None:
            await asyncio.to_thread(self._opener.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncSession:
    """A session: bound to one session id, whatever becomes current under its key later."""

    def __init__(self, cache: AsyncSessionCache, handle: Handle) -> None:
        self._state, self._run, self._handle = cache._state, cache._run, handle  # noqa: SLF001 - two halves of a door

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

    async def append(
        self,
        messages: dict[str, Any] | Sequence[dict[str, Any]],
        *,
        id: str | Sequence[str] | None = None,  # noqa: A002 - the word of the domain
        expected_version: int | None = None,
    ) -> list[Record]:
        """Append one message or a list of them, all or none; their records, in order.

        Args:
            messages: JSON objects.
            id: the caller's own message id, or one for each message; a repeat adds nothing and returns the first record.
            expected_version: append only if this is the key's version.

        Raises:
            InvalidMessage: JSON cannot say a message, or it is too large; names the path.
            SessionMoved, SessionDeleted: this session is not current any more.
            VersionConflict: the version is another one.
            Backpressure: too much waits for the store.
        """
        return await self._run(lifecycle.append(self._state, self._handle, messages, id, expected_version))

    async def history(self, limit: int | None = None) -> list[dict[str, Any]]:
        """The newest ``limit`` messages (None: all), exactly as they were appended; the caller's own copies.

        Raises:
            SessionMoved, SessionDeleted: this session is not current any more.
        """
        return (await self.messages(limit)).data()

    async def messages(self, limit: int | None = None) -> Messages:
        """The newest ``limit`` messages (None: all), as an immutable sequence of records.

        Raises:
            SessionMoved, SessionDeleted: this session is not current any more.
        """
        return await self._run(lifecycle.messages(self._state, self._handle, limit))

    async def delete(self) -> bool:
        """Delete this session, in every tier; False if it was not current any more."""
        return await self._run(lifecycle.delete_session(self._state, self._handle))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.session_id} of {self.key!r}>"
