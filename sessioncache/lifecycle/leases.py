"""Holds and turns: rights that end by themselves unless they are kept."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from secrets import token_hex

from sessioncache import hydration, read_through
from sessioncache.arguments import seconds, shown
from sessioncache.errors import InvalidInput, TurnTimeout
from sessioncache.flow import Flow, Pause
from sessioncache.hot import leases
from sessioncache.hot.change import Moved
from sessioncache.keys import check_name
from sessioncache.lifecycle.handle import Handle, not_current
from sessioncache.renewal import Right
from sessioncache.repeat import pauses
from sessioncache.state import State

FIRST_WAIT, LONGEST_WAIT = 0.01, 0.25


def lasting(state: State, ttl: float | None) -> float:
    """How long a hold or a turn lasts unless it is kept, in seconds.

    Raises:
        InvalidInput: it is no time from a tenth of a second to `Settings.hold`.
    """
    longest = state.settings.hold
    if ttl is None:
        return longest
    if type(ttl) not in (int, float) or not 0.1 <= ttl <= longest:  # noqa: PLR2004 - said in the docstring
        raise InvalidInput(f"ttl is 0.1 to {longest} s (the setting hold), not {shown(ttl)}.")
    return float(ttl)


def hold(state: State, handle: Handle, name: str, ttl: float | None) -> Right:
    """The right of a background process to have the handle's key left as it is.

    Raises:
        InvalidInput: the name or the time is refused.
    """
    lasts, member = lasting(state, ttl), f"{check_name(name, 'name of the hold')} {token_hex(8)}"
    kept = partial(leases.hold, state, handle.keys, member)
    return Right(partial(kept, lasts), partial(kept, lasts), partial(kept, 0), lasts)


def turn(state: State, handle: Handle, timeout: float, ttl: float | None) -> tuple[Handle, Right]:
    """The right to answer in the handle's session, and the handle that has it.

    Raises:
        InvalidInput: a time is refused.
    """
    timeout = seconds(timeout, "timeout")
    lasts, token = lasting(state, ttl), token_hex(8)
    take = partial(_take_turn, state, handle, token, lasts, timeout)
    keep = partial(leases.turn, state, handle.keys, "keep", token, lasts, handle.session_id)
    end = partial(leases.turn, state, handle.keys, "end", token, lasts, handle.session_id)
    return replace(handle, turn=token), Right(take, keep, end, lasts)


def _take_turn(state: State, handle: Handle, token: str, ttl: float, timeout: float) -> Flow[None]:
    """Take the turn in the handle's session, waiting for whoever has it.

    Raises:
        TurnTimeout: others had it for ``timeout`` seconds.
        SessionMoved, SessionDeleted: the session is not current any more.
    """
    deadline, waits = time.monotonic() + timeout, pauses(FIRST_WAIT, LONGEST_WAIT)
    while True:
        verdict = yield from hydration.warm(state, handle.keys, partial(_take, state, handle, token, ttl))
        if verdict == "ours":
            return
        if verdict == "moved":
            now = yield from read_through.standing(state, handle.keys)
            raise (yield from not_current(state, handle, Moved(now.session_id)))
        left = deadline - time.monotonic()
        if left <= 0:
            raise TurnTimeout(f"Another server has had the turn in {handle.keys.session_key!r} for {timeout} s; try again.")
        yield Pause(min(next(waits), left))


def _take(state: State, handle: Handle, token: str, ttl: float) -> Flow[str | None]:
    verdict = yield from leases.turn(state, handle.keys, "take", token, ttl, handle.session_id)
    return None if verdict == "miss" else verdict
