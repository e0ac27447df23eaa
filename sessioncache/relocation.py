"""Relocation: dead letters and holds go to the partition where their keys belong now; and the right to change partitions.

Guarantee: a process that was stopped for so long that its right ended moves nothing, whatever others have done since.
Assumes one Redis server, not a Redis Cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sessioncache import dead
from sessioncache.errors import InvalidKey, Repartitioning
from sessioncache.flow import Flow
from sessioncache.hot import leases, partitions
from sessioncache.hot.partitions import Right
from sessioncache.keys import PartitionKeys
from sessioncache.state import State

# How long the right to do this lasts without renewal, in seconds: longer than any of its transactions.
EXCLUSIVE = 60.0

# Told what is being done, and how many of it were done since the last time.
Report = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Alone:
    """The right to change the number of partitions: one process has it at a time, and none while one imports."""

    state: State
    token: str

    @property
    def right(self) -> Right:
        """What Redis says of it."""
        return Right(self.state.keyspace.importing, self.token)

    def take(self) -> Flow[None]:
        """Take the right.

        Raises:
            Repartitioning: another process has it.
        """
        self.confirm(had=(yield from leases.exclusive(self.state, *self.right, EXCLUSIVE)))

    def go_on(self) -> Flow[None]:
        """Keep the right. Once lost it is not taken again: what another process did meanwhile is not known here.

        Raises:
            Repartitioning: it is lost.
        """
        self.confirm(had=(yield from leases.exclusive(self.state, *self.right, EXCLUSIVE, kept=True)))

    def give_back(self) -> Flow[None]:
        """Let another process have the right, if we still had it."""
        yield from leases.exclusive(self.state, *self.right, 0)

    def confirm(self, *, had: bool) -> None:
        """Nothing, if we had the right."""
        if not had:
            raise Repartitioning(
                "Another process changes the number of partitions or imports, or was killed within the last minute, or "
                "Redis has lost who does; try again."
            )


def relocate(alone: Alone, target: State, all_keys: Iterable[PartitionKeys], report: Report) -> Flow[int]:
    """Move dead letters and holds to where a client of ``target`` looks for them; how many went.

    Raises:
        Repartitioning: the right to is lost.
    """
    total = 0
    for keys in all_keys:
        at = 0
        while True:
            letters = yield from partitions.letters(target, keys, at)
            went = yield from _relocate(alone, target, keys, letters)
            total += went
            report("move dead letters and holds", went)
            if len(letters) < partitions.LETTERS:
                break
            at += sum(_home(target, dead.session_key_of(one)) == keys.partition for one in letters)
        yield from alone.go_on()
    return total


def _relocate(alone: Alone, target: State, keys: PartitionKeys, letters: Iterable[bytes]) -> Flow[int]:
    going: dict[int, tuple[list[bytes], list[bytes]]] = {}
    for letter in letters:
        going.setdefault(_home(target, dead.session_key_of(letter)), ([], []))[0].append(letter)
    for hold in (yield from partitions.holds(target, keys)):
        going.setdefault(_home(target, hold.partition(b"\n")[0].decode(errors="replace")), ([], []))[1].append(hold)
    went = 0
    for number, some in going.items():
        if number != keys.partition:
            two = (keys, target.keyspace.of_partition(number))
            moved = yield from partitions.relocate(target, alone.right, two, *some)
            alone.confirm(had=moved is not None)
            went += moved or 0
    return went


def _home(target: State, session_key: str) -> int:
    """The partition of a session key now; the first one for what is none."""
    try:
        return target.keyspace.of(session_key).partition
    except InvalidKey:
        return 0
