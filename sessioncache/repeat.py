"""Repeats: a Redis command that got no answer is sent again, with growing, jittered, capped pauses, for a bounded time.

Assumes that every script is idempotent, by op id, token or nature: after a lost reply a repeat changes nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

from sessioncache.errors import HotTierRefused, HotTierUnavailable
from sessioncache.flow import Command, Evaluate, Flow, Pause
from sessioncache.scripts import Script
from sessioncache.state import State

FIRST_PAUSE = 0.02
LONGEST_PAUSE = 0.5


def pauses(first: float = FIRST_PAUSE, longest: float = LONGEST_PAUSE) -> Iterator[float]:
    """Growing, jittered, capped pauses in seconds, for ever."""
    pause = first
    while True:
        yield random.uniform(pause / 2, pause)  # noqa: S311 - spreads retries
        pause = min(pause * 2, longest)


def evaluate(state: State, script: Script, keys: tuple[str, ...], *args: str | bytes | int) -> Flow[Any]:
    """Evaluate a script, again while no answer comes and there is time for another try."""
    return repeated(state, Evaluate(script, keys, args))


def evaluate_each(
    state: State, script: Script, asked: Sequence[tuple[tuple[str, ...], tuple[str | bytes | int, ...]]]
) -> Flow[list[Any]]:
    """The replies of a script to several pairs of keys and arguments, in one round trip; one for each if it is not known.

    A key of a wrong type keeps no other from being asked: its error stands in the reply's place.
    """
    replies: list[Any] = [HotTierRefused("not asked yet") for _ in asked]
    if len(asked) > 1:
        commands = tuple(("EVALSHA", script.sha, len(keys), *keys, *args) for keys, args in asked)
        replies = yield from ask_each(state, commands)
    for at, (keys, args) in enumerate(asked):
        if isinstance(replies[at], HotTierRefused):
            replies[at] = yield from _in_place(evaluate(state, script, keys, *args))
    return replies


def _in_place(asked: Flow[Any]) -> Flow[Any]:
    try:
        return (yield from asked)
    except HotTierRefused as error:
        return error


def ask(state: State, commands: tuple[tuple[str | bytes | int, ...], ...]) -> Flow[list[Any]]:
    """The replies to plain commands that only read, asked again in the same way.

    Raises:
        HotTierRefused: a key is of a wrong type.
    """
    replies = yield from ask_each(state, commands)
    for reply in replies:
        if isinstance(reply, HotTierRefused):
            raise reply
    return replies


def ask_each(state: State, commands: tuple[tuple[str | bytes | int, ...], ...]) -> Flow[list[Any]]:
    """As `ask`, but a key of a wrong type keeps no other from being asked: its error stands in the reply's place."""
    return repeated(state, Command(commands))


def repeated(state: State, request: Evaluate | Command) -> Flow[Any]:
    """The reply to a request, made again while none comes and there is time for another try."""
    begun, waits = time.monotonic(), None
    while True:
        try:
            return (yield request)
        except HotTierUnavailable:
            waits = waits or pauses()
            pause = next(waits)
            if time.monotonic() + pause > begun + state.settings.timeout - state.settings.redis_timeout:
                raise
        state.counters.add("retries")
        yield Pause(pause)
