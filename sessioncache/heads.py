"""The heads of pending logs, as far as one transaction may take them: claimed, read, and rid of what is no op.

What is no op at the head of a log goes to the dead letters; a key whose log begins with an op of a later version of this
library is stopped, alone, and `Drained` says so. What a head holds is whole groups. Assumes nothing of who else reads the
same: a claim is a courtesy, not a lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, islice

from sessioncache import op
from sessioncache.commit import Drained, dead, stopped
from sessioncache.errors import CorruptLog
from sessioncache.flow import Flow
from sessioncache.hot import draining
from sessioncache.keys import SessionKeys
from sessioncache.op import Op
from sessioncache.state import State
from sessioncache.store.planned import Log

# So many partitions are claimed from at once at most, so that each is asked for some keys.
WIDEST = 16


@dataclass(slots=True)
class Room:
    """What one transaction may still take."""

    ops: int
    bytes: int

    @classmethod
    def of(cls, state: State) -> Room:
        """A whole batch."""
        return cls(state.settings.batch, state.settings.batch_bytes)

    @property
    def full(self) -> bool:
        """Whether nothing more goes in."""
        return self.ops <= 0 or self.bytes <= 0


def claimed(
    state: State, partitions: deque[int], mode: str, room: Room, drained: Drained
) -> Flow[tuple[list[SessionKeys], list[Log]]]:
    """Keys of these partitions, taken for a while, and the heads of their logs, as far as there is room.

    ``mode`` as in claim.lua. First those of one partition, then of twice as many at once and so on, and at once no more
    keys than there is room for ops, nor than ``claim``: where much waits, little is claimed in vain, and where little does,
    there are few round trips. Partitions whose keys were looked at go to the end of the line, but for those that gave all
    they were asked for, and were asked for less because of the others: these are the next ones, and alone.
    """
    taken: list[SessionKeys] = []
    logs: list[Log] = []
    behind: list[int] = []
    unseen, width = len(partitions), 1
    while unseen and not room.full:
        some = list(islice(partitions, min(width, unseen)))
        limit = max(1, min(state.settings.claim, room.ops) // len(some))
        found = yield from draining.claim(state, [state.keyspace.of_partition(one) for one in some], limit, mode)
        for number, names in zip(some, found, strict=True):
            if not room.full:
                partitions.rotate(-1)
            keys = [state.keyspace.of(name) for name in names]
            taken += keys
            logs += yield from _peek(state, keys, room, drained)
            if len(names) == limit:
                drained.more = True
                behind += [number] * (len(some) > 1)
        unseen, width = unseen - len(some), min(2 * width, WIDEST)
    for number in reversed(behind):
        partitions.remove(number)
        partitions.appendleft(number)
    drained.more |= room.full
    return taken, logs


def heads(state: State, keys: Sequence[SessionKeys], room: Room, drained: Drained) -> Flow[list[Log]]:
    """The heads of these keys' logs, as far as there is room, which they take."""
    found: list[Log] = []
    by_partition = groupby(sorted(keys, key=_partition), key=_partition)
    for _, some in by_partition:
        if room.full:
            break
        found += yield from _peek(state, list(some), room, drained)
    return found


def _partition(keys: SessionKeys) -> int:
    return keys.partition


def _peek(state: State, keys: Sequence[SessionKeys], room: Room, drained: Drained) -> Flow[list[Log]]:
    """The same, of keys of one partition."""
    if not keys or room.full:
        return []
    found = yield from draining.peek(state, keys, room.ops, room.bytes)
    room.ops -= sum(map(len, found))
    room.bytes -= sum(len(element) for elements in found for element in elements)
    logs = []
    for key, elements in zip(keys, found, strict=True):
        log_ = yield from _readable(state, key, elements)
        drained.more |= log_ is not None and len(log_) != len(elements)
        if log_:
            logs.append(Log(key.session_key, log_))
        elif log_ is None:
            drained.add(stopped(state, key.session_key, _unknown(key.session_key)))
    return logs


def _readable(state: State, keys: SessionKeys, elements: Sequence[bytes]) -> Flow[list[Op] | None]:
    """The ops at the head of a log, once what is no op before them is buried; None for a log that begins with others."""
    while elements and not (found := op.readable(elements)):
        corrupt = op.corrupt_in(elements)
        if corrupt is None:
            return None
        yield from draining.bury(state, keys, corrupt)
        dead(state, keys.session_key, 1, "corrupt")
        (elements,) = yield from draining.peek(state, [keys], state.settings.batch, state.settings.batch_bytes)
    return found if elements else []


def _unknown(session_key: str) -> CorruptLog:
    return CorruptLog(
        f"The pending log of session key {session_key!r} begins with an op that this version does not know; upgrade the "
        "workers, or look at it with redis-cli."
    )
