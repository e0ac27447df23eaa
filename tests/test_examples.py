"""The programs of examples/ do what they say, as processes over real servers, set as their file says."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from servers import python
from test_workers import until

from sessioncache.config import effective

PLACE = Path(__file__).parent.parent / "examples"


@pytest.fixture
def run(one_stack):
    """An example as a process, fed with lines; what it prints when it has ended."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SESSIONCACHE_")}
    environment |= {
        "SESSIONCACHE_CONFIG": str(PLACE / "sessioncache.toml"),
        "SESSIONCACHE_REDIS_URL": one_stack.redis_url,
        "SESSIONCACHE_DATABASE_URL": one_stack.database_url,
    }

    def run(name: str, *arguments: str) -> subprocess.Popen:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return python(str(PLACE / name), *arguments, env=environment, text=True, **pipes)

    return run


def printed(process: subprocess.Popen, lines: str) -> str:
    """What a process prints that reads these lines; it ends well."""
    output, complaint = process.communicate(lines, timeout=90)
    assert (process.returncode, complaint) == (0, "")
    return output


def test_the_file():
    """It is good by itself."""
    settings, found = effective({}, {"SESSIONCACHE_CONFIG": str(PLACE / "sessioncache.toml")})
    assert set(found) == {"redis_url", "database_url", "lanes", "reset"}
    assert settings.lanes == 1


def test_a_chat_goes_on(run):
    """It answers, and shows what was said when it is started again."""
    first = printed(run("chat.py", "alice"), "hello\nand bye\n")
    assert (
        first == "assistant: You said 1 things, the last was: hello\nassistant: You said 2 things, the last was: and bye\n"
    )
    again = printed(run("chat.py", "alice"), "")
    assert again.splitlines() == [
        "user: hello",
        "assistant: You said 1 things, the last was: hello",
        "user: and bye",
        "assistant: You said 2 things, the last was: and bye",
    ]


def test_each_message_is_answered_once(run, one_stack):
    """Delivered to two workers at once, each in an order of its own, while both are running."""
    workers = [run("answering.py") for _ in range(2)]
    with one_stack.cache() as cache:
        for n, worker in enumerate(workers):
            deliver(worker, [{"key": f"ready{n}", "id": "m", "text": "are you?"}])
        until(lambda: cache.count(fresh=True) == len(workers))
        messages = [{"key": "k", "id": f"m{n}", "text": f"text {n}"} for n in range(30)]
        for worker in workers:
            deliver(worker, random.sample(messages, len(messages)))
        assert [printed(worker, "") for worker in workers] == ["", ""]
        contents = [one["content"] for one in cache.get("k").history()]
    assert Counter(contents[::2]) == Counter(one["text"] for one in messages)
    assert contents[1::2] == [f"answer to {text}" for text in contents[::2]]


def deliver(worker: subprocess.Popen, messages: list[dict[str, str]]) -> None:
    """As a queue does."""
    worker.stdin.write("".join(json.dumps(one) + "\n" for one in messages))
    worker.stdin.flush()
