"""Dead letters: ops set aside with the reason, because the store refused them or they came for what is gone.

Each stands in the ``dead`` list of its partition until somebody drops it, or retries it: then its group (what was appended
at once) goes to the end of its key's pending log, as new. A retry that is repeated is found when draining, and does
nothing. A session's start is only retried where its key has no session.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from hashlib import sha256
from itertools import groupby
from typing import Any

from sessioncache import hydration
from sessioncache import op as ops
from sessioncache.arguments import LAST_MILLISECOND, number
from sessioncache.errors import InvalidInput, StoreRefused
from sessioncache.flow import Flow, Progress, Transact, unseen
from sessioncache.hot import draining, reading
from sessioncache.keys import PartitionKeys
from sessioncache.message import decode, instant
from sessioncache.op import EDIT, MESSAGE_KINDS, Op
from sessioncache.repeat import ask
from sessioncache.state import State
from sessioncache.store import load
from sessioncache.store.payloads import changes_of, columns_of, count_of, ends_of, text_of
from sessioncache.store.plan import known_id
from sessioncache.write_behind import asks_layout, judge_layout

PAGE = 500
# Letters that are tried at once, and that one script removes: it looks through the whole list for each.
TOGETHER = 100
ID_CHARACTERS = 16
_CHANGES: dict[str, Callable[[Op], Any]] = {
    ops.START: columns_of, ops.UPDATE: changes_of, ops.TRUNCATE: count_of, ops.CLEAR: count_of, ops.RETAIN: ends_of,
    ops.REMOVE: text_of, ops.LEAVE: text_of,
}  # fmt: skip
_MILLISECONDS = re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An op that was set aside.

    Attributes:
        at: when.
        reason: ``session_deleted``, ``session_moved``, ``session_missing``, ``corrupt`` (it is no op), ``payload`` (what it
            holds cannot be read), or the database's own code.
        session_id, kind, op_id, version: of the op; empty where it is none.
        message_id, message: of an append or an edit; None for what is neither, or cannot be read.
        change: what any other op carries, as JSON can say it; None for nothing, and what cannot be read.
        raw: the letter as it stands in Redis.
    """

    at: datetime
    reason: str
    session_key: str
    session_id: str
    kind: str
    op_id: str
    version: int
    message_id: str | None
    message: dict[str, Any] | None
    change: Any
    raw: bytes = field(repr=False)

    @property
    def id(self) -> str:
        """What names this letter: the same on every server, however many others come or go."""
        return sha256(self.raw).hexdigest()[:ID_CHARACTERS]

    def to_dict(self) -> dict[str, Any]:
        """The letter as JSON can say it, without `raw`."""
        found = {name: getattr(self, name) for name in self.__slots__ if name != "raw"}
        return {"id": self.id, **found, "at": self.at.isoformat()}


def letters(state: State, session_key: str | None, limit: int) -> Flow[list[DeadLetter]]:
    """The dead letters of one session key, or of all, oldest first in each partition; ``limit`` of them at most.

    Raises:
        InvalidInput: the key or the limit is refused.
    """
    found: list[DeadLetter] = []
    yield from walk(state, session_key, found.append, number(limit, "limit", least=1))
    return found


def walk(state: State, session_key: str | None, see: Callable[[DeadLetter], object], limit: float = math.inf) -> Flow[None]:
    """Show the dead letters of one session key, or of all, one by one, oldest first in each partition.

    Raises:
        InvalidKey: the key is refused.
        LayoutMismatch: Redis is laid out for another number of partitions; they are elsewhere.
    """
    seen = 0
    for partition in _partitions(state, session_key):
        at = 0
        while seen < limit:
            page = yield from _page(state, partition, at)
            for letter in map(_letter, page):
                if seen < limit and session_key in {None, letter.session_key}:
                    see(letter)
                    seen += 1
            if len(page) < PAGE:
                break
            at += PAGE


def _partitions(state: State, session_key: str | None) -> list[PartitionKeys]:
    space = state.keyspace
    named = range(state.settings.partitions) if session_key is None else [space.of(session_key).partition]
    return [space.of_partition(partition) for partition in named]


def _page(state: State, keys: PartitionKeys, at: int) -> Flow[list[bytes]]:
    page, layout = yield from ask(state, (("LRANGE", keys.dead, at, at + PAGE - 1), asks_layout(state)))
    judge_layout(state, layout)
    found: list[bytes] = page
    return found


def _letter(raw: bytes) -> DeadLetter:
    at_ms, reason, session_key = _head(raw)
    element = raw.partition(b"\n")[2]
    op = ops.parsed(element)
    message_id, message = _message(op)
    return DeadLetter(
        at=instant(min(int(at_ms), LAST_MILLISECOND) if _MILLISECONDS.fullmatch(at_ms) else 0),
        reason=reason,
        session_key=session_key,
        session_id=op.session_id if op else "",
        kind=op.kind if op else "",
        op_id=op.op_id if op else "",
        version=op.version if op else 0,
        message_id=message_id,
        message=message,
        change=_change(op) if op else None,
        raw=raw,
    )


def _change(op: Op) -> Any:
    try:
        return _CHANGES[op.kind](op) if op.kind in _CHANGES else None
    except StoreRefused:
        return None


def _head(raw: bytes) -> tuple[str, str, str]:
    """Milliseconds, reason and session key; empty where they are missing."""
    at_ms, reason, session_key = (*raw.partition(b"\n")[0].decode(errors="replace").split(" ", 2), "", "")[:3]
    return at_ms, reason, session_key


def session_key_of(raw: bytes) -> str:
    """The session key of a letter as it stands in Redis; anything, also ``""``, where somebody put garbage there."""
    return _head(raw)[2]


def _message(op: Op | None) -> tuple[str | None, dict[str, Any] | None]:
    if op is None or op.kind not in MESSAGE_KINDS | {EDIT}:
        return None, None
    message_id, packed = ops.message_of(op)
    try:
        return message_id, decode(packed)
    except ValueError:
        return message_id, None


def forget(state: State, unwanted: Callable[[DeadLetter], bool]) -> Flow[int]:
    """Remove those of all dead letters that are unwanted; how many it were."""
    total = 0
    for keys in _partitions(state, None):
        at = 0
        while True:
            page = yield from _page(state, keys, at)
            going = [raw for raw in page if unwanted(_letter(raw))]
            removed = (yield from draining.forget_dead(state, keys, going)) if going else 0
            total += removed
            if len(page) < PAGE:
                break
            at += PAGE - removed
    return total


def drop(state: State, unwanted: Iterable[DeadLetter], progress: Progress = unseen) -> Flow[int]:
    """Remove these dead letters; how many were still there. ``progress`` is told how many were looked for, of all.

    Raises:
        InvalidInput: one is no dead letter.
    """
    total, done, given = 0, 0, _given(unwanted)
    for session_key, some in groupby(given, key=_key):
        raw = [one.raw for one in some]
        for at in range(0, len(raw), TOGETHER):
            together = raw[at : at + TOGETHER]
            total += yield from _drop(state, session_key, together)
            done += len(together)
            progress(done, len(given))
    return total


def _drop(state: State, session_key: str, raw: list[bytes]) -> Flow[int]:
    """Remove letters of one session key. Garbage names none, and stands in the partition where somebody put it."""
    space, removed = state.keyspace, 0
    own = space.partition_of(session_key)
    for partition in [own, *(other for other in range(space.partitions) if other != own)]:
        removed += yield from draining.forget_dead(state, space.of_partition(partition), raw)
        if removed >= len(raw) or ops.parsed(raw[0].partition(b"\n")[2]):
            break
    return removed


def retry(state: State, wanted: Iterable[DeadLetter], progress: Progress = unseen) -> Flow[int]:
    """Let the ops of these dead letters be tried again, as new ones; how many were queued, which are letters no more.

    ``progress`` is told how many were tried, of all.

    Raises:
        InvalidInput: one is no dead letter.
        StoreUnavailable, Backpressure: what was queued before stays queued.
    """
    total, done, given = 0, 0, _given(wanted)
    for groups in _together(given, state.settings.batch_bytes):
        if groups[0][0].op_id:
            total += yield from _retry(state, groups)
        done += sum(map(len, groups))
        progress(done, len(given))
    return total


def _together(given: Iterable[DeadLetter], most_bytes: int) -> Iterator[list[list[DeadLetter]]]:
    """The letters in whole groups, and as many groups of one key as are tried at once; a start alone, garbage apart."""
    groups: list[list[DeadLetter]] = []
    count = size = 0
    for _, some in groupby(given, key=_group):
        group = list(some)
        full = count >= TOGETHER or size >= most_bytes
        if groups and (full or _apart(groups[-1][0], group[0])):
            yield groups
            groups, count, size = [], 0, 0
        groups.append(group)
        count, size = count + len(group), size + sum(len(one.raw) for one in group)
    if groups:
        yield groups


def _apart(one: DeadLetter, other: DeadLetter) -> bool:
    return ops.START in {one.kind, other.kind} or (one.session_key, one.op_id == "") != (
        other.session_key,
        other.op_id == "",
    )


def _retry(state: State, groups: Sequence[Sequence[DeadLetter]]) -> Flow[int]:
    """Queue groups of one key, whole or not at all. The copy that tells where the key stands needs no messages: it goes."""
    found = [[ops.parse(one.raw.partition(b"\n")[2]) for one in group] for group in groups]
    names = [(op.session_id, known_id(op)) for group in found for op in group]
    yield Transact(partial(load.forgive, names=names), writes=True)
    keys, kind = state.keyspace.of(groups[0][0].session_key), found[0][0].kind
    elements = [ops.unversioned(op, len(group) - n) for group in found for n, op in enumerate(group, 1)]
    queue = partial(draining.requeue, state, keys, kind, elements)
    if (yield from hydration.warm(state, keys, queue, window=0)):
        return (yield from drop(state, (one for group in groups for one in group)))
    yield from reading.evict(state, keys)
    return 0


def _given(letters_: Iterable[DeadLetter]) -> list[DeadLetter]:
    given = list(letters_)
    if not all(isinstance(one, DeadLetter) for one in given):
        raise InvalidInput("It takes dead letters, as `dead_letters` gives them.")
    return given


def _key(letter: DeadLetter) -> str:
    return letter.session_key


def _group(letter: DeadLetter) -> tuple[str, str]:
    return letter.session_key, letter.op_id
