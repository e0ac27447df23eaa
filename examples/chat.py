"""A chat in the terminal, with asyncio: what was said is there again when it is started again, on any host.

export SESSIONCACHE_CONFIG=examples/sessioncache.toml
sessioncache db upgrade
python examples/chat.py alice
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from sessioncache import AsyncSessionCache


async def model(messages: list[dict[str, Any]]) -> str:
    """What a model would answer; put yours here."""
    said = [message["content"] for message in messages if message["role"] == "user"]
    return f"You said {len(said)} things, the last was: {said[-1]}"


async def main(user: str) -> None:
    """Answer each line until the input ends."""
    async with AsyncSessionCache.from_url() as cache:
        session = await cache.open(f"terminal:{user}", owner=user)
        for message in await session.history(limit=10):
            print(f"{message['role']}: {message['content']}")
        while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
            await session.append({"role": "user", "content": line})
            answer = await model(await session.context(max_messages=50))
            await session.append({"role": "assistant", "content": answer})
            print(f"assistant: {answer}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
