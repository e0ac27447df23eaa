"""The opponent: finds what was lost, duplicated, reordered, altered, or is nobody's. It shares no code with the library.

Writers keep two files each, one JSON line for a call, flushed to disk (`Log`): what they are about to try, *before* the
call, and what was acknowledged, *after* it. So what was acknowledged is known whatever is killed; and what was tried
without an acknowledgement may have landed or not, but once, whole, and in its place.

Judged are the rows of the store, which are read by SQL of its own, and histories that somebody read through a cache.

Assumes that writers give every message an id and words that no other message has, and that nobody changes messages but by
appending. Times are of the machine's monotonic clock, which all its processes share.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

ATTEMPTED, ACKNOWLEDGED = ".attempted", ".acknowledged"


def digest(message: Mapping[str, Any]) -> str:
    """The same for messages that are equal, down to types and the order of keys."""
    return hashlib.sha256(json.dumps(message).encode()).hexdigest()[:24]


class Log:
    """A writer's two files. ``durable``: each line is on disk before the call goes on."""

    def __init__(self, directory: Path, name: str, *, durable: bool = True) -> None:
        self._files = {kind: (directory / (name + kind)).open("xb", buffering=0) for kind in (ATTEMPTED, ACKNOWLEDGED)}
        self._durable = durable

    def attempted(self, begun: float, key: str, session_id: str, messages: Mapping[str, Mapping[str, Any]]) -> None:
        """Say what is about to be appended: messages by id."""
        digests = [digest(one) for one in messages.values()]
        self._write(ATTEMPTED, [begun, key, session_id, list(messages), digests])

    def acknowledged(self, ended: float, seqs: Sequence[int], taken: float = 0.0) -> None:
        """Say that what was attempted last was acknowledged, with these seqs, and how many seconds it took."""
        self._write(ACKNOWLEDGED, [ended, list(seqs), taken])

    def _write(self, kind: str, line: list[Any]) -> None:
        self._files[kind].write(json.dumps(line).encode() + b"\n")
        if self._durable:
            os.fsync(self._files[kind].fileno())

    def close(self) -> None:
        for file in self._files.values():
            file.close()


@dataclass(slots=True)
class Call:
    """One append of a writer; ``ended``, ``seqs`` and ``taken`` are None where it was not acknowledged."""

    writer: str
    begun: float
    key: str
    session_id: str
    ids: list[str]
    digests: list[str]
    ended: float | None = None
    seqs: list[int] | None = None
    taken: float | None = None


def calls(directory: Path) -> Iterator[Call]:
    """What all writers logged, each in its order.

    A last line that is not whole was never flushed: the call was not made yet, or its acknowledgement not logged. A
    writer has one call at a time, so the n-th acknowledgement is that of the n-th call.
    """
    for path in sorted(directory.glob("*" + ATTEMPTED)):
        tried, answered = _lines(path), _lines(path.with_suffix(ACKNOWLEDGED))
        assert len(tried) - len(answered) in (0, 1), path
        for at, line in enumerate(tried):
            yield Call(path.stem, *line, *(answered[at] if at < len(answered) else ()))


def acknowledged(directory: Path) -> int:
    """How many messages were acknowledged so far, also while writers write."""
    return sum(len(seqs) for path in directory.glob("*" + ACKNOWLEDGED) for _, seqs, _ in _lines(path))


def _lines(path: Path) -> list[list[Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something that must not be: what kind, in which session, and of whom."""

    kind: str
    session_id: str
    what: str


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as somebody found it."""

    seq: int
    id: str
    digest: str


def in_store(database_url: str) -> dict[str, list[Stored]]:
    """The messages of each session by SQL, in order of seq."""
    engine = create_engine(database_url)
    found: dict[str, list[Stored]] = {}
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT session_id, seq, message_id, body FROM messages ORDER BY session_id, seq"))
        for session_id, seq, message_id, body in rows:
            found.setdefault(session_id, []).append(Stored(seq, message_id, digest(json.loads(body))))
    engine.dispose()
    return found


def counts_that_differ(database_url: str) -> list[Finding]:
    """Sessions that stand and whose own books, count and last seq, are not those of their messages."""
    engine = create_engine(database_url)
    with engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT s.session_id, s.message_count, s.last_seq, count(m.seq), coalesce(max(m.seq), 0) "
                "FROM sessions s LEFT JOIN messages m USING (session_id) WHERE NOT s.deleted "
                "GROUP BY s.session_id, s.message_count, s.last_seq"
            )
        ).all()
    engine.dispose()
    return [Finding("miscounted", row[0], str(row[1:])) for row in rows if tuple(row[1:3]) != tuple(row[3:])]


def judge(logged: Iterable[Call], found: Mapping[str, Sequence[Stored]]) -> list[Finding]:
    """Everything that must not be, by session id of what was found; nothing if all is well."""
    by_session: dict[str, list[Call]] = {}
    for call in logged:
        by_session.setdefault(call.session_id, []).append(call)
    findings: list[Finding] = []
    for session_id in sorted({*by_session, *found}):
        session = _Session(session_id, by_session.get(session_id, []), found.get(session_id, []))
        findings += session.judged()
    return sorted(findings)


class _Session:
    """One session: what was tried, and what is there."""

    def __init__(self, session_id: str, tried: list[Call], found: Sequence[Stored]) -> None:
        self.session_id, self.tried, self.found = session_id, tried, found
        self.place = {one.id: at for at, one in reversed(list(enumerate(found)))}
        self.findings: list[Finding] = []

    def judged(self) -> list[Finding]:
        known = {message_id: call for call in self.tried for message_id in call.ids}
        for call in self.tried:
            self._landed(call)
        self._nobodys(known)
        self._twice()
        self._out_of_order(known)
        return self.findings

    def _say(self, kind: str, what: object) -> None:
        self.findings.append(Finding(kind, self.session_id, str(what)))

    def _landed(self, call: Call) -> None:
        """Whole, unaltered, side by side, under the seqs that were told; or, unless acknowledged, not at all."""
        places = [self.place[one] for one in call.ids if one in self.place]
        if call.seqs is not None:
            for one in call.ids:
                if one not in self.place:
                    self._say("lost", one)
        elif 0 < len(places) < len(call.ids):
            self._say("torn", call.ids)
        for message_id, expected in zip(call.ids, call.digests, strict=True):
            if message_id in self.place and self.found[self.place[message_id]].digest != expected:
                self._say("altered", message_id)
        if len(places) == len(call.ids):
            if places != list(range(places[0], places[0] + len(places))):
                self._say("reordered", call.ids)
            if call.seqs is not None and [self.found[at].seq for at in places] != call.seqs:
                self._say("renumbered", call.ids)

    def _nobodys(self, known: Mapping[str, Call]) -> None:
        for one in self.found:
            if one.id not in known:
                self._say("foreign", one.id)

    def _twice(self) -> None:
        for name in ("id", "digest", "seq"):
            for value, count in Counter(getattr(one, name) for one in self.found).items():
                if count > 1:
                    self._say("duplicated", f"{name} {value}")

    def _out_of_order(self, known: Mapping[str, Call]) -> None:
        """By seq; each writer's calls in its order; and no call before one that had ended when it began."""
        for earlier, later in pairwise(self.found):
            if earlier.seq >= later.seq:
                self._say("reordered", (earlier.id, later.id))
        begun = -1.0
        for one in self.found:
            call = known.get(one.id)
            if call is not None:
                if call.ended is not None and call.ended < begun:
                    self._say("reordered", one.id)
                begun = max(begun, call.begun)
        last: dict[str, int] = {}
        for call in self.tried:
            places = [self.place[one] for one in call.ids if one in self.place]
            if places:
                if places[0] < last.get(call.writer, -1):
                    self._say("reordered", call.ids)
                last[call.writer] = max(last.get(call.writer, -1), *places)
