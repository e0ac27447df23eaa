"""Holds and turns: what ends by itself unless it is kept; and what one process at a time does."""

from __future__ import annotations

from sessioncache import scripts
from sessioncache.flow import Flow
from sessioncache.keys import SessionKeys
from sessioncache.repeat import evaluate
from sessioncache.state import State, ms


def hold(state: State, keys: SessionKeys, member: str, ttl: float) -> Flow[None]:
    """Hold a session key for ``ttl`` seconds from now, also if it was held already; 0 lets it go."""
    two = (keys.holds, keys.held)
    yield from evaluate(state, scripts.HOLD, two, f"{keys.session_key}\n{member}", ms(ttl) if ttl else 0)


def turn(state: State, keys: SessionKeys, verb: str, token: str, ttl: float, session_id: str) -> Flow[str]:
    """Take, keep or end a turn: ``ours``, ``taken``, ``moved`` or ``miss`` (see turn.lua)."""
    three = (keys.meta, keys.history, keys.turn)
    reply = yield from evaluate(state, scripts.TURN, three, verb, token, ms(ttl), session_id)
    verdict: str = reply.decode()
    return verdict


def exclusive(state: State, key: str, token: str, seconds: float, *, kept: bool = False) -> Flow[bool]:
    """Whether this process does what a Redis key is named for, for the next ``seconds``; 0 gives it back.

    Where it is ``kept``, it is not this process any more if its time had ended.
    """
    return bool((yield from evaluate(state, scripts.EXCLUSIVE, (key,), token, round(seconds * 1000), int(kept))))
