"""A worker that answers messages, of which a queue may deliver one twice, to two workers at once: each is answered once.

It reads JSON lines with key, id and text, as such a queue would hand them over:

    export SESSIONCACHE_CONFIG=examples/sessioncache.toml
    sessioncache db upgrade
    echo '{"key": "telegram:dm:42", "id": "telegram-991", "text": "hello"}' | python examples/answering.py
"""

from __future__ import annotations

import json
import sys
from typing import Any

from sessioncache import SessionCache


def model(messages: list[dict[str, Any]]) -> str:
    """What a model would answer; put yours here."""
    return f"answer to {messages[-1]['content']}"


def answer(cache: SessionCache, key: str, message_id: str, text: str) -> None:
    """Take a message in, and answer it while no other worker answers in this session."""
    with cache.open(key).turn(timeout=30) as session:
        answer_id = f"{message_id}-answer"
        if any(record.id == answer_id for record in session.messages(limit=50)):
            return  # it was delivered again
        session.append({"role": "user", "content": text}, id=message_id)
        session.append({"role": "assistant", "content": model(session.context(max_messages=50))}, id=answer_id)


def main() -> None:
    """Answer what comes in."""
    with SessionCache.from_url() as cache:
        for line in sys.stdin:
            message = json.loads(line)
            answer(cache, message["key"], message["id"], message["text"])


if __name__ == "__main__":
    main()
