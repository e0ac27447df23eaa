"""The hot tier as a change of the number of partitions sees it: all keys by their names, and what has to go elsewhere.

Assumes one server, not a Redis Cluster: SCAN and `relocate` reach what one server has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sessioncache import scripts
from sessioncache.flow import Flow
from sessioncache.keys import LAYOUT_VERSION, PartitionKeys
from sessioncache.repeat import ask, evaluate
from sessioncache.state import State

PAGE = 1000
# Dead letters in one request; each is as large as a message.
LETTERS = 100
# A field of the layout.
MOVING_TO = "moving_to"
# What may vanish at any instant (I1). Without a lease nothing is installed that was loaded under it; without a copy nobody
# can write, nor with a turn.
_PASSING = frozenset({"lease", "meta", "history", "turn"})


@dataclass(frozen=True, slots=True)
class Page:
    """Some of our keys.

    Attributes:
        cursor: where SCAN goes on; 0 at its end.
        passing: copies, leases and turns.
        live: how many sessions have a copy among them.
        logs: session keys, by the names of their pending logs.
    """

    cursor: int
    passing: list[str]
    live: int
    logs: dict[str, str]


def page(state: State, cursor: int) -> Flow[Page]:
    """The next page of all keys of sessions, whatever partition they are in."""
    pattern = re.sub(r"([*?\[\]\\])", r"\\\1", state.keyspace.prefix) + ":{*}:*:*"
    ((after, found),) = yield from ask(state, (("SCAN", cursor, "MATCH", pattern, "COUNT", PAGE),))
    names = {name: name.split(":", 3)[2:] for name in map(_text, found)}
    passing = [name for name, (kind, _) in names.items() if kind in _PASSING]
    logs = {name: session_key for name, (kind, session_key) in names.items() if kind == "pending"}
    return Page(int(after), passing, sum(names[name][0] == "meta" for name in passing), logs)


def _text(name: bytes) -> str:
    return name.decode(errors="replace")  # what is no UTF-8 is none of ours


def drop(state: State, names: Sequence[str]) -> Flow[None]:
    """Remove keys."""
    if names:
        yield from ask(state, (("UNLINK", *names),))


def look(state: State, partitions: Sequence[PartitionKeys]) -> Flow[None]:
    """Nothing, if what has to go elsewhere can.

    Raises:
        HotTierRefused: a key is of a wrong type.
    """
    yield from ask(state, tuple(("LLEN", keys.dead) for keys in partitions))
    yield from ask(state, tuple(("ZCARD", name) for keys in partitions for name in (keys.holds, keys.held)))


def letters(state: State, keys: PartitionKeys, at: int) -> Flow[list[bytes]]:
    """A page of the dead letters of a partition."""
    (found,) = yield from ask(state, (("LRANGE", keys.dead, at, at + LETTERS - 1),))
    return list(found)


def holds(state: State, keys: PartitionKeys) -> Flow[list[bytes]]:
    """The holds of a partition."""
    (found,) = yield from ask(state, (("ZRANGE", keys.holds, 0, -1),))
    return list(found)


class Right(NamedTuple):
    """The right to change the number of partitions: the Redis key that says who has it, and what it says of us."""

    key: str
    token: str


def relocate(
    state: State, right: Right, two: tuple[PartitionKeys, PartitionKeys], letters: Sequence[bytes], holds: Sequence[bytes]
) -> Flow[int | None]:
    """Move dead letters and holds from one partition to another; how many were there, or None without the right to."""
    old, new = two
    seven = (old.dead, old.holds, old.held, new.dead, new.holds, new.held, right.key)
    went = int((yield from evaluate(state, scripts.RELOCATE, seven, right.token, len(letters), *letters, *holds)))
    return None if went < 0 else went


def begin(state: State, right: Right, to: int) -> Flow[bool]:
    """Let Redis say which number of partitions is coming; whether we had the right."""
    return (yield from _record(state, right, "", to))


def record(state: State, right: Right, partitions: int) -> Flow[bool]:
    """Let Redis say that it is laid out for so many partitions; whether we had the right."""
    return (yield from _record(state, right, partitions, ""))


def _record(state: State, right: Right, *numbers: int | str) -> Flow[bool]:
    two = (state.keyspace.layout, right.key)
    return bool((yield from evaluate(state, scripts.RECORD, two, right.token, LAYOUT_VERSION, *numbers)))


def moving_to(state: State) -> Flow[int | None]:
    """The number of partitions that Redis says it is being changed to; None if it is not."""
    (found,) = yield from ask(state, (("HGET", state.keyspace.layout, MOVING_TO),))
    return int(found) if found and found.isdigit() else None
