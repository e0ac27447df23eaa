"""Repartition: another number of partitions, while servers and workers run.

1. The table ``layout`` says that the number is being changed. Every hydration reads it in the transaction in which it
   loads, so from then on nobody's succeeds: clients are told `Repartitioning`. What had been loaded before is not
   installed either, because each partition is marked in Redis next.
2. All hot copies go. Without one every change misses, and nothing brings one back: no log grows any more.
3. All pending logs are drained, from wherever they are.
4. What no hydration brings back, dead letters and holds, goes to the partition where its key belongs now.
5. Redis, then the database say the new number, and clients of that number start. Those of the old one are told so by
   `LayoutMismatch` at their next miss, as are workers at their next job.

Guarantees: nothing is lost (I1: only copies are dropped; I2, I3: logs are drained by the code that always does), whatever
Redis loses or who is killed meanwhile; each step may be repeated, so after an end at any request the same call completes
the change, and a call with the old number takes it back. Until 1 nothing is changed: what would keep 3 or 4 from
succeeding is looked for before.

Assumes that all processes are of a release that has this module: an earlier one reads no ``layout`` when it hydrates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

from sessioncache import dead
from sessioncache.commit import Drained
from sessioncache.errors import ConfigurationError, InvalidKey, Repartitioning, SessionCacheError
from sessioncache.flow import Flow, Interrupted, Transact
from sessioncache.flushing import flush
from sessioncache.hot import draining, leases, partitions
from sessioncache.keys import LAYOUT_VERSION, PartitionKeys
from sessioncache.op import new_op_id
from sessioncache.state import State
from sessioncache.store import layouts
from sessioncache.store.layouts import Recorded, compare_layout
from sessioncache.write_behind import drain_to_end

# How long the right to do this lasts without renewal, in seconds: longer than any of its transactions.
EXCLUSIVE = 60.0
# Times that all copies are dropped before it is said that somebody brings them back.
ROUNDS = 20

# Told what is being done, and how many of it were done since the last time.
Report = Callable[[str, int], None]


@dataclass(slots=True)
class Repartitioned:
    """What a change of the number of partitions did.

    Attributes:
        before: the number of partitions before; the same as ``partitions`` where nothing was to be done.
        partitions: the number of partitions now.
        copies: hot copies that were dropped.
        ops: ops that were drained.
        relocated: dead letters and holds that went to another partition.
    """

    before: int
    partitions: int
    copies: int = 0
    ops: int = 0
    relocated: int = 0


def repartition(state: State, to: int, report: Report = lambda _what, _by: None) -> Flow[Repartitioned]:
    """Change the number of partitions to ``to``, whatever number the settings say.

    Raises:
        ConfigurationError: there can be no such number, or nothing is laid out yet.
        Repartitioning: another process is at it, or the change to another number was begun.
        StoreRefused, CorruptLog, HotTierRefused: a log cannot be drained, or a key is of a wrong type; mend it first.
        StoreUnavailable, HotTierUnavailable: run it again.
    """
    replace(state.settings, partitions=to, lanes=1)  # refuses a number that cannot be
    alone = Alone(state, new_op_id())
    yield from alone.go_on()
    try:
        done = yield from _change(state, to, alone, report)
    except (SessionCacheError, Interrupted):
        yield from leases.exclusive(state, alone.key, alone.token, 0)
        raise
    yield from leases.exclusive(state, alone.key, alone.token, 0)
    return done


@dataclass(frozen=True, slots=True)
class Alone:
    """The right to change the number of partitions: one process has it at a time, and none while one imports."""

    state: State
    token: str

    @property
    def key(self) -> str:
        """The Redis key that says who has it."""
        return self.state.keyspace.importing

    def go_on(self) -> Flow[None]:
        """Take the right, or keep it."""
        if not (yield from leases.exclusive(self.state, self.key, self.token, EXCLUSIVE)):
            raise Repartitioning(
                "Another process changes the number of partitions or imports, or was killed within the last minute; "
                "try again."
            )


def _change(state: State, to: int, alone: Alone, report: Report) -> Flow[Repartitioned]:
    before, numbers = yield from _standing(state, to)
    done = Repartitioned(before, to)
    if numbers == {to}:
        return done
    move = _Move(state, to, [_of(state, number) for number in sorted(numbers | {to})], alone, report, done)
    yield from move.try_out()
    yield Transact(partial(layouts.begin_move, partitions=before, to=to), writes=True)
    yield from partitions.mark(state, move.all_keys, to)
    yield from move.drop_and_drain()
    yield from move.relocate()
    yield from move.tidy()
    yield from alone.go_on()
    yield from partitions.record(state, to)
    yield Transact(partial(layouts.end_move, to=to), writes=True)
    return done


def _of(state: State, number: int) -> State:
    return State.of(replace(state.settings, partitions=number, lanes=min(state.settings.lanes, number)))


def _standing(state: State, to: int) -> Flow[tuple[int, set[int]]]:
    """The number of partitions, and all numbers that Redis or the database are or were being laid out for."""
    in_redis = yield from draining.layout(state, LAYOUT_VERSION, to, record=False)
    in_store: Recorded | None = yield Transact(layouts.recorded, writes=False)
    for where, found in (("Redis", in_redis), ("The database", in_store)):
        if found:
            compare_layout(where, (found[0], to), (LAYOUT_VERSION, to))
    moving_to = in_store.moving_to if in_store else None
    before = in_store.partitions if in_store else in_redis[1] if in_redis else 0
    if not before:
        raise ConfigurationError(f"Nothing is stored yet; set SESSIONCACHE_PARTITIONS={to} and start.")
    if moving_to is not None and to not in {moving_to, before}:
        raise Repartitioning(
            f"A change from {before} to {moving_to} partitions was begun; first run `sessioncache repartition {moving_to}` "
            f"to complete it, or `sessioncache repartition {before}` to take it back."
        )
    return before, {before} | ({in_redis[1]} if in_redis else set()) | ({moving_to} if moving_to is not None else set())


@dataclass(frozen=True, slots=True)
class _Move:
    """One change: for each number of partitions that there is or was, and the new one, what such a client knows."""

    state: State
    to: int
    states: list[State]
    alone: Alone
    report: Report
    done: Repartitioned

    @property
    def all_keys(self) -> list[PartitionKeys]:
        """The keys of every partition, of any of these numbers."""
        return [self.state.keyspace.of_partition(number) for number in range(self.states[-1].settings.partitions)]

    def try_out(self) -> Flow[None]:
        """Drain what waits while all goes on as it did: what cannot be drained or moved is found before anybody waits."""
        self.report("drain", 0)
        yield from partitions.look(self.state, self.all_keys)
        for one in self.states:
            self.done.ops += (yield from flush(one)).ops

    def drop_and_drain(self) -> Flow[None]:
        """Drop copies and drain logs until there are none."""
        for _ in range(ROUNDS):
            live, logs = yield from self._drop()
            yield from self._drain(logs)
            if not live and not logs:
                return
        raise Repartitioning(
            "Hot copies or pending logs come back: end servers and workers of earlier releases, then run this again."
        )

    def _drop(self) -> Flow[tuple[int, dict[str, str]]]:
        live, logs, cursor = 0, {}, 0
        while True:
            page = yield from partitions.page(self.state, cursor)
            yield from partitions.drop(self.state, page.copies)
            live, cursor = live + page.live, page.cursor
            logs.update(
                {name: key for name, key in page.logs.items() if any(_is_log(one, name, key) for one in self.states)}
            )
            self.report("drop hot copies", page.live)
            yield from self.alone.go_on()
            if not cursor:
                self.done.copies += live
                return live, logs

    def _drain(self, logs: dict[str, str]) -> Flow[None]:
        for one in self.states:
            keys = [key for name, key in logs.items() if _is_log(one, name, key)]
            for at in range(0, len(keys), one.settings.claim):
                some = [one.keyspace.of(key) for key in keys[at : at + one.settings.claim]]
                drained = Drained()
                yield from drain_to_end(one, some, drained)
                self._drained(drained)
                yield from self.alone.go_on()

    def _drained(self, drained: Drained) -> None:
        for error in drained.stopped.values():
            raise error
        self.done.ops += drained.ops
        self.report("drain", drained.ops)

    def relocate(self) -> Flow[None]:
        """Move dead letters and holds to where their keys belong now."""
        for keys in self.all_keys:
            at = 0
            while True:
                letters = yield from partitions.letters(self.state, keys, at)
                went = yield from self._relocate(keys, letters, (yield from partitions.holds(self.state, keys)))
                self.done.relocated += went
                self.report("move dead letters and holds", went)
                if len(letters) < partitions.LETTERS:
                    break
                at += sum(self._home(dead.session_key_of(one)) == keys.partition for one in letters)
            yield from self.alone.go_on()

    def _relocate(self, keys: PartitionKeys, letters: Iterable[bytes], holds: Iterable[bytes]) -> Flow[int]:
        going: dict[int, tuple[list[bytes], list[bytes]]] = {}
        for letter in letters:
            going.setdefault(self._home(dead.session_key_of(letter)), ([], []))[0].append(letter)
        for hold in holds:
            going.setdefault(self._home(hold.partition(b"\n")[0].decode(errors="replace")), ([], []))[1].append(hold)
        went = 0
        for number, some in going.items():
            if number != keys.partition:
                target = self.state.keyspace.of_partition(number)
                went += yield from partitions.relocate(self.state, keys, target, *some)
        return went

    def _home(self, session_key: str) -> int:
        """The partition of a session key now; the first one for what is none."""
        target = next(one for one in self.states if one.settings.partitions == self.to)
        try:
            return target.keyspace.of(session_key).partition
        except InvalidKey:
            return 0

    def tidy(self) -> Flow[None]:
        """Remove what counts and announces logs: there are none."""
        keys = self.all_keys
        names = [name for one in keys for name in (one.dirty, one.backlog, one.oldest, one.wake)]
        yield from partitions.drop(self.state, names)


def _is_log(state: State, name: str, session_key: str) -> bool:
    try:
        return state.keyspace.of(session_key).pending == name
    except InvalidKey:
        return False
