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
    said = [(*str(one[0]).split(), *one[1:]) for one in commands]
    return b"".join(map(pack_command, said))  # type: ignore[arg-type]  # of any number of arguments


class BlockingClient(redis.Redis):
    """A client over a `BlockingPool`."""

    def execute_command(self, *command: Any, **_: Any) -> Any:
        """The reply to one command, as it came."""
        return _only(self.replies((command,)))

    def replies(self, commands: Commands) -> list[Any]:
        """The replies to some commands in one round trip, as they came, error replies among them."""
        connection = self.connection_pool.get_connection()
        try:
            connection.send_packed_command([packed(commands)])
            return [_reply(connection) for _ in commands]
        except BaseException:
            connection.disconnect()
            raise
        finally:
            self.connection_pool.release(connection)


class AwaitingClient(redis.asyncio.Redis):
    """A client over an `AwaitingPool`."""

    async def execute_command(self, *command: Any, **_: Any) -> Any:
        """The reply to one command, as it came."""
        return _only(await self.replies((command,)))

    async def replies(self, commands: Commands) -> list[Any]:
        """The replies to some commands in one round trip, as they came, error replies among them."""
        connection = await self.connection_pool.get_connection()
        try:
            await connection.send_packed_command([packed(commands)])
            return [await _awaited_reply(connection) for _ in commands]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            await self.connection_pool.release(connection)


def _only(replies: list[Any]) -> Any:
    reply = replies.pop()
    try:
        if isinstance(reply, redis.ResponseError):
            raise reply
        return reply
    finally:
        del reply  # an error whose traceback names it would stay, with the whole command, until it is collected


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


async def _awaited_reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except redis.ResponseError as error:
        return error


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
