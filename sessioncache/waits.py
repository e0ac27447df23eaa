"""What is said on one connection to run a script and then to wait until replicas or a disk have it (WAIT, WAITAOF).

Once for both drivers: a generator of commands that is sent the replies. The wait is asked for in steps, each within the
time of one request, and only where the script answered ``ok``. Assumes that whoever drives it holds one connection from
the first command to the last, because Redis waits for what its own connection wrote.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from sessioncache.borders import translate
from sessioncache.durability import Wait
from sessioncache.errors import DurabilityUnavailable, HotTierRefused, SessionCacheError
from sessioncache.flow import Evaluate

# Commands of one connection; their replies are sent, error replies thrown; the result is that of an `Evaluate` with a wait.
Talk = Generator[tuple[Any, ...], Any, tuple[Any, Any]]


def talk(request: Evaluate, wait: Wait) -> Talk:
    """What is said on one connection to run a script and to wait; sent the replies, thrown the error replies."""
    script, rest = request.script, (len(request.keys), *request.keys, *request.args)
    if wait.probe:
        try:
            yield wait.probe
        except ResponseError as error:
            raise _cannot(wait, error) from error
    try:
        reply = yield ("EVALSHA", script.sha, *rest)
    except NoScriptError:
        reply = yield ("EVAL", script.text, *rest)
    if reply[0] != b"ok":
        return reply, None
    end = time.monotonic() + wait.timeout
    while True:
        step = min(wait.step, end - time.monotonic())
        try:
            answer = yield (*wait.command, max(1, round(1000 * step)))
        except ResponseError as error:
            return reply, translate(error, of_store=False)
        if wait.reached(answer) or time.monotonic() >= end:
            return reply, answer


def following(said: Talk, reply: Any) -> tuple[Any, ...]:
    """The next command, once this is the reply to the last one, or the error reply."""
    return said.throw(reply) if isinstance(reply, ResponseError) else said.send(reply)


def _cannot(wait: Wait, error: ResponseError) -> SessionCacheError:
    ours = translate(error, of_store=False)
    if not isinstance(ours, HotTierRefused):
        return ours
    return DurabilityUnavailable(
        f"Redis cannot say what is on its disk ({str(error)[:100]}); nothing was written. {wait.command[0]} needs Redis "
        "7.2 or Valkey, and appendonly yes."
    )
