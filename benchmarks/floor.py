"""The floor of a call: what it asks of Redis, made up beforehand, and sent by the client that the call itself uses.

It is what Redis, the way there and back, and the client take. What is above it is Python's: checking and encoding what is
given, deciding what to ask, and making of the reply what the caller gets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sessioncache import AsyncSession, AsyncSessionCache, Session, SessionCache
from sessioncache.durability import CACHED
from sessioncache.flow import Command, Evaluate, Flow
from sessioncache.lifecycle import appending, messages

FLOOR = "the request alone"

Asked = Evaluate | Command


def of_append(session: Session | AsyncSession, one: dict[str, Any]) -> Asked:
    """What appending a message asks; once only, because it is a repeat then."""
    terms = appending.Terms(None, activity=True, durability=CACHED)
    return _first(appending.append(session._state, session._handle, one, None, terms))  # noqa: SLF001 - looked into


def of_messages(session: Session | AsyncSession) -> Asked:
    """What reading all messages asks, or what is newer than is near."""
    return _first(messages.messages(session._state, session._handle, None, None))  # noqa: SLF001 - looked into


def of_history(session: Session | AsyncSession, limit: int | None = None) -> Asked:
    """What reading a history asks."""
    return _first(messages.history(session._state, session._handle, limit))  # noqa: SLF001 - looked into


def _first(flow: Flow[Any]) -> Asked:
    request = next(flow)
    flow.close()
    if isinstance(request, Evaluate | Command):
        return request
    raise TypeError(f"A call begins with a request to Redis, not with {type(request).__name__}.")


def sent(cache: SessionCache | AsyncSessionCache, asked: Asked) -> Callable[[], Any]:
    """What sends it over a connection of the cache, and gives a list of replies; awaited, if the cache is."""
    client: Any = cache._connections.driver.hot  # noqa: SLF001 - looked into
    if isinstance(asked, Command):
        return lambda: client.replies(asked.commands)
    words = ("EVALSHA", asked.script.sha, len(asked.keys), *asked.keys, *asked.args)
    return lambda: client.replies((words,))
