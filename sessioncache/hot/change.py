"""What every change of a session has in common: its terms, and why it may be refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sessioncache.config import Settings
from sessioncache.durability import Wait
from sessioncache.errors import Backpressure, TurnLost, VersionConflict
from sessioncache.flow import Evaluate, Flow, Ring
from sessioncache.keys import SessionKeys
from sessioncache.repeat import repeated
from sessioncache.scripts import Script
from sessioncache.state import AGES, BOUNDS, State, ms

Arguments = Sequence[str | bytes | int]


class Change(NamedTuple):
    """Which change it is, and on what terms it may happen.

    Attributes:
        session_id: the session it is for; ``""`` for a key without one.
        op_id: the same one makes it a repeat.
        expected_version: the version the key must have; None for any.
        turn: the token of the turn that must be held; ``""`` for none.
        quiet: only while nothing is pending and nobody holds the key.
        wait: what Redis is asked after it.
    """

    session_id: str
    op_id: str
    expected_version: int | None = None
    turn: str = ""
    quiet: bool = False
    wait: Wait | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """Another session, or none (``""``), is current; ``deleted`` is the id that was deleted last, ``""`` if unknown."""

    current: str
    deleted: str = ""


@dataclass(frozen=True, slots=True)
class Busy:
    """A quiet change found the key dirty or held."""


def ring(state: State, keys: SessionKeys) -> Ring:
    """The nudge that is sent where a script says that nobody is about."""
    return Ring(state.lane_of(keys.partition))


def change(
    state: State, script: Script, keys: SessionKeys, terms: Change, *more: str | bytes | int
) -> Flow[list[Any] | Moved | Busy | None]:
    """Run a script that changes a session; what it answered, or why it did not happen.

    With ``terms.wait`` the last item of what it answered is what Redis said to that: an answer, or an error of ours.

    Raises:
        VersionConflict, TurnLost: the terms do not hold; nothing was written.
        Backpressure: too much waits for the store; nothing was written.
    """
    settings, expected = state.settings, terms.expected_version
    named = keys.changing_quietly if terms.quiet else keys.changing
    args = (
        state.ttl_ms(), ms(settings.wake), state.bounds, settings.keep_ops,
        keys.session_key, terms.session_id, "" if expected is None else expected, terms.turn, terms.op_id,
        ms(settings.hold) if terms.quiet else "", *more,
    )  # fmt: skip
    found = yield from repeated(state, Evaluate(script, named, args, terms.wait))
    reply: list[Any] = [*found[0], found[1]] if terms.wait else found
    match reply[0]:
        case b"ok":
            return reply
        case b"miss":
            return None
        case b"moved":
            return Moved(reply[1].decode(), reply[2].decode())
        case b"busy":
            return Busy()
        case b"conflict":
            raise conflict(int(expected or 0), int(reply[1]))
        case b"lost":
            raise TurnLost(f"The turn in {keys.session_key!r} ran out, or another server has it; nothing was written.")
        case b"full":
            raise full(settings, keys, reply)
    return reply


def conflict(expected: int, current: int) -> VersionConflict:
    """The error for another version than the caller expects."""
    return VersionConflict(
        f"The version is {current}, not {expected}; read again and decide anew.", expected=expected, current=current
    )


def full(settings: Settings, keys: SessionKeys, reply: Sequence[Any]) -> Backpressure:
    """The error for a bound that is met, from a script's reply: which, and what waits."""
    bound, waits = reply[1].decode(), int(reply[2])
    waiting = waits / 1000 if bound in AGES else waits
    where = f"session key {keys.session_key!r}" if bound in BOUNDS[:3] else f"partition {keys.partition:03d}"
    what = {"": f"{waiting} ops", "bytes": f"{waiting} bytes", "age": f"ops up to {waiting:.1f} s old"}[_unit(bound)]
    return Backpressure(
        f"{what} of {where} wait for the store, and {bound} is {getattr(settings, bound)}; nothing was written: see that "
        "workers run and the database is up, then try again.",
        bound=bound,
        waiting=waiting,
    )


def _unit(bound: str) -> str:
    return bound.partition("_")[2].partition("_")[2]
