"""The peers: what others ship for the same task, each as its users call it, over the same servers.

- openai-agents' ``RedisSession``, with a TTL, and its ``SQLAlchemySession`` over PostgreSQL (asyncpg): they await.
- LangChain community's ``RedisChatMessageHistory``, with a TTL: it blocks.

Each is given the same messages, and asked for all of them as a caller gets them. They are of the extra ``bench``; one that
is not installed is left out, and a line on standard error says so.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from place import Place

TTL = 3600
OPENAI_REDIS = "openai-agents RedisSession"
OPENAI_SQL = "openai-agents SQLAlchemySession"
LANGCHAIN = "LangChain RedisChatMessageHistory"

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Awaiting:
    """A peer's session, by awaiting; ``read`` gives all messages."""

    name: str
    append: Callable[[list[Message]], Awaitable[Any]]
    read: Callable[[], Awaitable[Any]]
    close: Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Blocking:
    """A peer's session, by blocking; ``read`` gives all messages."""

    name: str
    append: Callable[[list[Message]], Any]
    read: Callable[[], Any]
    close: Callable[[], Any]


def _installed(package: str) -> bool:
    found = find_spec(package) is not None
    if not found:
        sys.stderr.write(f"{package} is not installed and left out; install the extra bench\n")
    return found


def awaiting(place: Place, session: str, postgres: str = "") -> list[Awaiting]:
    """The peers that await: a session of this name of each; the one over SQL only with the URL of a database."""
    if not _installed("agents"):
        return []
    from agents.extensions.memory import RedisSession, SQLAlchemySession  # noqa: PLC0415 - of an extra

    hot = RedisSession.from_url(session, url=place.redis_url, ttl=TTL)
    found = [Awaiting(OPENAI_REDIS, hot.add_items, hot.get_items, hot.close)]
    if postgres:
        url = postgres.replace("postgresql+psycopg://", "postgresql+asyncpg://")
        stored = SQLAlchemySession.from_url(session, url=url, create_tables=True)
        found.append(Awaiting(OPENAI_SQL, stored.add_items, stored.get_items, stored.engine.dispose))
    return found


def blocking(place: Place, session: str) -> list[Blocking]:
    """The peers that block: a session of this name of each."""
    if not _installed("langchain_community"):
        return []
    from langchain_community.chat_message_histories import RedisChatMessageHistory  # noqa: PLC0415 - of an extra
    from langchain_core.messages import AIMessage, HumanMessage  # noqa: PLC0415 - of an extra

    history = RedisChatMessageHistory(session, url=place.redis_url, ttl=TTL)
    kinds = {"user": HumanMessage, "assistant": AIMessage}

    def append(messages: list[Message]) -> None:
        history.add_messages([kinds[one["role"]](content=one["content"]) for one in messages])

    return [Blocking(LANGCHAIN, append, lambda: history.messages, history.redis_client.close)]
