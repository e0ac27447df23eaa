"""Repartition: another number of partitions, while servers and workers run.

1. The table ``layout`` says that the number is being changed. Every hydration reads it in the transaction in which it
   loads, under a lease that it took before. So from then on no load succeeds: clients are told `Repartitioning`.
2. A pass through all keys of Redis drops all leases. What had been loaded before 1 was loaded under one of them, and
   without it is not installed: after this pass no hot copy appears any more.
3. A second pass drops all copies: there was none after it, and none comes. Every script that logs an op wants a valid
   copy first (`requeue` too), so no log grows any more, of whatever number of partitions.
4. Further passes drain the logs that they meet, wherever those are, until one meets none.
5. What no hydration brings back, dead letters and holds, goes to the partition where its key belongs now.
6. Redis, then the database say the new number, and clients of that number start. Those of the old one are told so by
   `LayoutMismatch` as soon as they look for what may wait, as are workers at their next job.

A pass is an iteration of SCAN from its beginning to its end, which shows every key that is there all the time. Where Redis
starts anew, or another takes its place, leases and copies of before are void (they are bound to its run), but the pass is
not whole: no log is said to be missing by it.

Guarantees: nothing is lost (I1: only what may vanish is dropped; I2, I3: logs are drained by the code that always does),
whatever Redis loses or who is killed meanwhile; each step may be repeated, so after an end at any request the same call
completes the change, and a call with the old number takes it back, for which logs that are where that number has them need
not be drained. Until 1 nothing is changed: what would keep 4 or 5 from succeeding is looked for before. A process that was
stopped for so long that another one took its right over changes nothing by what it still does: 1, 5 and 6 ask, in the
script or the transaction in which they write, for the right or whether all stands as it was found; 2 to 4 only drop and
drain. (Where others changed the number to and fro meanwhile, 1 is done: clients are told until a run completes it.)

Assumes that all processes are of a release that has this module: an earlier one reads no ``layout`` when it hydrates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from sessioncache.commit import Drained
from sessioncache.errors import ConfigurationError, CorruptLog, InvalidKey, Repartitioning, SessionCacheError
from sessioncache.flow import Flow, Interrupted, Transact
from sessioncache.hot import draining, partitions
from sessioncache.hot.server import server_facts
from sessioncache.keys import LAYOUT_VERSION, PartitionKeys
from sessioncache.op import new_op_id
from sessioncache.relocation import Alone, Report, relocate
from sessioncache.state import State
from sessioncache.store import layouts
from sessioncache.store.layouts import Recorded, compare_layout
from sessioncache.write_behind import drain_to_end

# Passes that drop leases and copies, before one without a log says that there is none; and all of them at most.
DROPPING = 2
PASSES = 20


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
        StoreRefused, CorruptLog, HotTierRefused: a log cannot be drained or is where no number has it, or a key is of a
            wrong type; mend it first.
        StoreUnavailable, HotTierUnavailable: run it again.
    """
    replace(state.settings, partitions=to, lanes=1)  # refuses a number that cannot be
    alone = Alone(state, new_op_id())
    yield from alone.take()
    try:
        done = yield from _change(state, to, alone, report)
    except (SessionCacheError, Interrupted):
        yield from alone.give_back()
        raise
    yield from alone.give_back()
    return done


def _change(state: State, to: int, alone: Alone, report: Report) -> Flow[Repartitioned]:
    standing = yield from _standing(state, to)
    done = Repartitioned(standing.before, to)
    if standing.numbers == {to}:
        return done
    states = [_of(state, number) for number in sorted(standing.numbers | {to})]
    move = _Move(state, to, states, to == standing.before, alone, report, done)
    yield from move.try_out()
    begin = partial(layouts.begin_move, partitions=standing.before, moving_to=standing.moving_to, to=to)
    yield Transact(begin, writes=True)
    alone.confirm(had=(yield from partitions.begin(state, alone.right, to)))
    yield from move.drop_and_drain()
    done.relocated = yield from relocate(alone, _of(state, to), move.all_keys, report)
    yield from alone.go_on()
    alone.confirm(had=(yield from partitions.record(state, alone.right, to)))
    yield Transact(partial(layouts.end_move, to=to), writes=True)
    return done


def _of(state: State, number: int) -> State:
    return State.of(replace(state.settings, partitions=number, lanes=min(state.settings.lanes, number)))


class _Standing(NamedTuple):
    """The number of partitions, which one it is being changed to, and all that Redis or the database are laid out for."""

    before: int
    moving_to: int | None
    numbers: set[int]


def _standing(state: State, to: int) -> Flow[_Standing]:
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
    numbers = {before} | ({in_redis[1]} if in_redis else set()) | ({moving_to} if moving_to is not None else set())
    return _Standing(before, moving_to, numbers)


@dataclass(frozen=True, slots=True)
class _Move:
    """One change.

    Attributes:
        states: what a client knows, for each number of partitions that there is or was, and the new one.
        stays: whether the number is what it was: then logs that are where it has them may wait.
    """

    state: State
    to: int
    states: list[State]
    stays: bool
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
        seen = yield from self._pass(drop=False)
        if seen.astray and not self.stays:
            raise _astray(seen.astray, self.states)
        yield from self._drain(seen.logs)

    def drop_and_drain(self) -> Flow[None]:
        """Drop leases, copies, and drain logs until there are none; what each pass is good for stands above."""
        for number in range(PASSES):
            seen = yield from self._pass(drop=True)
            yield from self._drain(seen.logs)
            if number >= DROPPING and seen.whole and not seen.live and not seen.logs:
                return
        raise Repartitioning(
            "Hot copies or pending logs come back: end servers and workers of earlier releases, then run this again."
        )

    def _pass(self, *, drop: bool) -> Flow[_Seen]:
        seen, cursor, run = _Seen(), 0, (yield from server_facts(self.state)).run_id
        while True:
            page = yield from partitions.page(self.state, cursor)
            if drop:
                yield from partitions.drop(self.state, page.passing)
                self.done.copies += page.live
                self.report("drop hot copies", page.live)
            seen.live, cursor = seen.live + page.live, page.cursor
            self._sort(page.logs, seen)
            yield from self.alone.go_on()
            if not cursor:
                seen.whole = (yield from server_facts(self.state)).run_id == run
                return seen

    def _sort(self, logs: dict[str, str], seen: _Seen) -> None:
        for name, session_key in logs.items():
            holders = [one.settings.partitions for one in self.states if _is_log(one, name, session_key)]
            if not holders:
                seen.astray[name] = session_key
            elif not (self.stays and self.to in holders):
                seen.logs[name] = session_key

    def _drain(self, logs: dict[str, str]) -> Flow[None]:
        for one in self.states:
            keys = [key for name, key in logs.items() if _is_log(one, name, key)]
            for at in range(0, len(keys), one.settings.claim):
                some = [one.keyspace.of(key) for key in keys[at : at + one.settings.claim]]
                drained = Drained()
                yield from drain_to_end(one, some, drained, any_layout=True)
                self._drained(drained)
                yield from self.alone.go_on()

    def _drained(self, drained: Drained) -> None:
        for error in drained.stopped.values():
            raise error
        self.done.ops += drained.ops
        self.report("drain", drained.ops)


@dataclass(slots=True)
class _Seen:
    """What a pass met: how many hot copies; logs to drain, and logs that are where no number has them.

    ``whole``: the same Redis was there from its beginning to its end.
    """

    live: int = 0
    logs: dict[str, str] = field(default_factory=dict)
    astray: dict[str, str] = field(default_factory=dict)
    whole: bool = False


def _is_log(state: State, name: str, session_key: str) -> bool:
    try:
        return state.keyspace.of(session_key).pending == name
    except InvalidKey:
        return False


def _astray(logs: dict[str, str], states: Iterable[State]) -> CorruptLog:
    name = min(logs)
    numbers = " or ".join(str(one.settings.partitions) for one in states)
    return CorruptLog(
        f"Redis has the pending log {name!r} (of {len(logs)} such ones) where none of {numbers} partitions has it, so "
        "nobody drains it. Look at it with redis-cli LRANGE; RENAMENX it to where `sessioncache keys` has the pending log "
        "of its session, or to a name of your own."
    )
