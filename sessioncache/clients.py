"""Redis clients over the pools built here, and what any client is asked in one round trip.

They send commands over a connection and read the replies, without redis-py's retries and accounts of it, which took as long
as all the rest.

Guarantee: a connection of which a reply may be unread is closed, whatever interrupts: that would be taken for the reply to
what is asked next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio
from hiredis import pack_command

Commands = Sequence[tuple[str | bytes | int | float, ...]]


def packed(commands: Commands) -> bytes:
    """What is sent; a name of several words, such as ``CONFIG GET``, counts as several."""
    said = []
    for one in commands:
        name: Any = one[0]
        said.append(pack_command((*name.split(), *one[1:]) if " " in name else one))  # type: ignore[arg-type]  # of any length
    return b"".join(said)


class BlockingClient(redis.Redis):
    """A client over a `BlockingPool`."""

    def execute_command(self, *command: Any, **_: Any) -> Any:
        """The reply to one command, as it came."""
        replies = self.replies((command,))
        if isinstance(replies[0], redis.ResponseError):
            raise replies.pop()  # no name here holds it on: its traceback names all of them
        return replies[0]

    def replies(self, commands: Commands) -> list[Any]:
        """The replies to some commands in one round trip, as they came, error replies among them."""
        connection = self.connection_pool.get_connection()
        try:
            connection.send_packed_command([packed(commands)])
            replies: list[Any] = []
            for _ in commands:
                try:
                    replies.append(connection.read_response())
                except redis.ResponseError as error:
                    # Its traceback names the list: both would stay until they are collected.
                    replies.append(error.with_traceback(None))
        except BaseException:
            connection.disconnect()
            raise
        else:
            return replies
        finally:
            self.connection_pool.release(connection)


class AwaitingClient(redis.asyncio.Redis):
    """A client over an `AwaitingPool`."""

    async def execute_command(self, *command: Any, **_: Any) -> Any:
        """The reply to one command, as it came."""
        replies = await self.replies((command,))
        if isinstance(replies[0], redis.ResponseError):
            raise replies.pop()  # no name here holds it on: its traceback names all of them
        return replies[0]

    async def replies(self, commands: Commands) -> list[Any]:
        """The replies to some commands in one round trip, as they came, error replies among them."""
        connection = await self.connection_pool.get_connection()
        try:
            await connection.send_packed_command([packed(commands)])
            replies: list[Any] = []
            for _ in commands:
                try:
                    replies.append(await connection.read_response())
                except redis.ResponseError as error:
                    replies.append(error.with_traceback(None))  # as above
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        else:
            return replies
        finally:
            await self.connection_pool.release(connection)


def exchanged(client: redis.Redis, commands: Commands) -> list[Any]:
    """The replies to some commands in one round trip, as redis-py gives them, error replies among them.

    A client handed in has a pipeline for that.
    """
    if isinstance(client, BlockingClient):
        return _parsed(client, commands, client.replies(commands))
    with client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        return pipeline.execute(raise_on_error=False)


async def exchanged_awaited(client: redis.asyncio.Redis, commands: Commands) -> list[Any]:
    """As `exchanged`."""
    if isinstance(client, AwaitingClient):
        return _parsed(client, commands, await client.replies(commands))
    async with client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)


def _parsed(client: Any, commands: Commands, replies: list[Any]) -> list[Any]:
    """Replies to some commands, such as INFO, are parsed."""
    parse = client.response_callbacks.get
    pairs = zip(commands, replies, strict=True)
    return [one if isinstance(one, redis.ResponseError) else parse(said[0], _as_it_came)(one) for said, one in pairs]


def _as_it_came(reply: Any) -> Any:
    return reply
