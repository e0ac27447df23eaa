"""The hot tier as a change of the number of partitions sees it: all keys by their names, and what has to go elsewhere.

Assumes one server, not a Redis Cluster: SCAN and `relocate` reach what one server has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
# Longer than any hydration that has loaded already may still take.
MARK_SECONDS = 60
# What is found again when somebody asks, or ends by itself; nobody who has a right by it can write any more.
_COPIES = frozenset({"meta", "history", "turn"})


@dataclass(frozen=True, slots=True)
class Page:
    """Some of our keys: where SCAN goes on, the copies among them, how many sessions those are of, and pending logs.

    ``logs`` are session keys, by the names of their logs.
    """

    cursor: int
    copies: list[str]
    live: int
    logs: dict[str, str]


def page(state: State, cursor: int) -> Flow[Page]:
    """The next page of all keys of sessions, whatever partition they are in."""
    pattern = re.sub(r"([*?\[\]\\])", r"\\\1", state.keyspace.prefix) + ":{*}:*:*"
    ((after, found),) = yield from ask(state, (("SCAN", cursor, "MATCH", pattern, "COUNT", PAGE),))
    names = {name: name.split(":", 3)[2:] for name in map(_text, found)}
    copies = [name for name, (kind, _) in names.items() if kind in _COPIES]
    logs = {name: session_key for name, (kind, session_key) in names.items() if kind == "pending"}
    return Page(int(after), copies, sum(names[name][0] == "meta" for name in copies), logs)


def _text(name: bytes) -> str:
    return name.decode(errors="replace")  # what is no UTF-8 is none of ours


def drop(state: State, names: Sequence[str]) -> Flow[None]:
    """Remove keys."""
    if names:
        yield from ask(state, (("UNLINK", *names),))


def mark(state: State, partitions: Iterable[PartitionKeys], to: int) -> Flow[None]:
    """Let no copy be installed that was loaded for another number of partitions before now, and let Redis say so."""
    yield from ask(state, (("HSET", state.keyspace.layout, MOVING_TO, to),))
    yield from ask(
        state, tuple(("SET", state.keyspace.moving(keys.partition), to, "EX", MARK_SECONDS) for keys in partitions)
    )


def look(state: State, partitions: Sequence[PartitionKeys]) -> Flow[None]:
    """Nothing, if what has to go elsewhere can.

    Raises:
        HotTierRefused: a key is of a wrong type.
    """
    yield from ask(state, tuple(("LLEN", keys.dead) for keys in partitions))
    yield from ask(state, tuple(("ZCARD", keys.holds) for keys in partitions))


def letters(state: State, keys: PartitionKeys, at: int) -> Flow[list[bytes]]:
    """A page of the dead letters of a partition."""
    (found,) = yield from ask(state, (("LRANGE", keys.dead, at, at + LETTERS - 1),))
    return list(found)


def holds(state: State, keys: PartitionKeys) -> Flow[list[bytes]]:
    """The holds of a partition."""
    (found,) = yield from ask(state, (("ZRANGE", keys.holds, 0, -1),))
    return list(found)


def relocate(
    state: State, old: PartitionKeys, new: PartitionKeys, letters: Sequence[bytes], holds: Sequence[bytes]
) -> Flow[int]:
    """Move dead letters and holds from one partition to another; how many were there."""
    four = (old.dead, old.holds, new.dead, new.holds)
    return int((yield from evaluate(state, scripts.RELOCATE, four, len(letters), *letters, *holds)))


def record(state: State, partitions: int) -> Flow[None]:
    """Let Redis say that it is laid out for so many partitions."""
    recorded = ("HSET", state.keyspace.layout, "version", LAYOUT_VERSION, "partitions", partitions)
    yield from ask(state, (recorded, ("HDEL", state.keyspace.layout, MOVING_TO)))


def moving_to(state: State) -> Flow[int | None]:
    """The number of partitions that Redis says it is being changed to; None if it is not."""
    (found,) = yield from ask(state, (("HGET", state.keyspace.layout, MOVING_TO),))
    return int(found) if found and found.isdigit() else None
