"""What Redis took, replayed by rules of its own, and compared with SQL and with what each writer was told.

The source is Redis's append-only file: every write that any script made, in the order in which it was made. Out of it come
the ops in their total order, which are played, one by one, on plain lists: no code of the library takes part, but for
`op.parse`. What SQL alone does (claims, forks, reservations) was noted by whoever did it, in the same transaction.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
from chaos import Call, Sent
from sqlalchemy import create_engine, text

from sessioncache.op import Op, parse

MESSAGE = ("append", "event")


def commands(directory: Path) -> Iterator[list[bytes]]:
    """Every command of an append-only file that was never rewritten."""
    for path in sorted(directory.glob("appendonlydir/*.incr.aof"), key=lambda path: int(path.name.split(".")[-3])):
        with path.open("rb") as file:
            while line := file.readline():
                command = []
                for _ in range(int(line[1:])):
                    size = int(file.readline()[1:])
                    command.append(file.read(size + 2)[:-2])
                yield command


@dataclass
class Taken:
    """One op that Redis took, and where it stands in the order of all.

    Attributes:
        group: the ops that came with it; the first one's position names them.
        gone: the position at which it was removed from its log.
    """

    position: int
    key: str
    op: Op
    gone: int = 2**62
    ghost: bool = False


def taken(directory: Path, prefix: str = "sc") -> tuple[list[Taken], list[bytes]]:
    """The ops that Redis took, in order; and the dead letters."""
    logs: dict[str, list[Taken]] = defaultdict(list)
    found, dead = [], []
    for position, command in enumerate(commands(directory)):
        name = command[0].upper()
        kind, _, key = (
            (command[1].decode() if command[1:] else "").removeprefix(f"{prefix}:").partition(":")[2].partition(":")
        )
        if kind == "pending" and name == b"RPUSH":
            some = [Taken(position, key, parse(element)) for element in command[2:]]
            found += some
            logs[key] += some
        elif kind == "pending" and name == b"LTRIM":
            for one in logs[key][: int(command[2])]:
                one.gone = position
            del logs[key][: int(command[2])]
        elif kind == "dead" and name == b"RPUSH":
            dead += command[2:]
        else:
            assert kind not in {"pending", "dead"}, command[:2]
    assert not any(logs.values()), "something is pending"
    return found, dead


def data_of(packed: bytes) -> str:
    return repr(msgpack.unpackb(packed))


def stretch(messages: list[tuple], op: Op) -> list[tuple]:
    """What a retain leaves: from its first message to its last, and what came after the last one that it saw."""
    first, last, seen = (end.split(" ", 1)[1] for end in op.payload.decode().split("\n"))
    ids = [one[1] for one in messages]
    after = ids.index(seen) + 1
    return (messages[ids.index(first) : ids.index(last) + 1] if first else []) + messages[after:]


@dataclass
class Life:
    """One session, as the replay has it, and as it was at every time."""

    session_id: str
    key: str
    created_ms: int
    messages: list[tuple] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    columns: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    counters: Counter = field(default_factory=Counter)
    updated_ms: int = 0
    message_ms: int = 0
    deleted_at: int | None = None
    claims: int = 0
    forked: bool = False
    times: list[int] = field(default_factory=list)
    states: list[tuple] = field(default_factory=list)

    def facts(self) -> tuple:
        """As `chaos.facts`."""
        one, count = self.columns, self.counters
        return (
            one.get("title") or "", repr(sorted(self.metadata.items())), bool(one.get("archived")),
            bool(one.get("important")), bool(one.get("suspended")), count["input_tokens"], count["output_tokens"],
            count["cost_nano"], one.get("last_prompt_tokens", 0), one.get("model") or "",
        )  # fmt: skip

    def note(self, at_ms: int) -> None:
        """Keep the state as it is from now on."""
        self.times.append(at_ms)
        self.states.append((tuple(self.messages), self.facts()))

    def between(self, begun: float, ended: float) -> list[tuple]:
        """The states of some instant between two times."""
        first = max(0, bisect_left(self.times, int(begun * 1000)) - 1)
        return self.states[first : bisect_right(self.times, int(ended * 1000))]

    def play(self, op: Op) -> bool:
        """Do what an op does; False for a message that is known."""
        getattr(self, f"_{op.kind}")(op)
        return True

    def add(self, op: Op) -> bool:
        name, _, packed = op.payload.partition(b"\n")
        if name.decode() in self.known:
            return False
        self.known.add(name.decode())
        self.messages.append((op.version, name.decode(), op.at_ms, data_of(packed)))
        self.message_ms = op.at_ms
        if op.kind == "append":
            self.updated_ms = op.at_ms
        return True

    def _replace(self, _op: Op) -> None:
        self.messages.clear()

    def _clear(self, _op: Op) -> None:
        self.messages.clear()
        self.metadata.pop("summary", None)

    def _truncate(self, op: Op) -> None:
        del self.messages[int(op.payload) :]

    def _retain(self, op: Op) -> None:
        self.messages = stretch(self.messages, op)

    def _remove(self, op: Op) -> None:
        self.messages = [one for one in self.messages if one[1] != op.payload.decode()]

    def _edit(self, op: Op) -> None:
        name, _, packed = op.payload.partition(b"\n")
        edited = data_of(packed)
        self.messages = [(*one[:3], edited) if one[1] == name.decode() else one for one in self.messages]

    def _update(self, op: Op) -> None:
        payload = msgpack.unpackb(op.payload[1:])
        self.columns.update(payload.get("set", {}))
        self.counters.update(payload.get("add", {}))
        for name, value in payload.get("metadata", {}).items():
            self.metadata.pop(name, None)
            if value is not None:
                self.metadata[name] = value
        if op.payload[:1] == b"1":
            self.updated_ms = op.at_ms

    def _touch(self, _op: Op) -> None:
        pass


class Replay:
    """All ops played, and what does not agree, as sentences."""

    def __init__(self, ops: list[Taken], calls: list[Call]) -> None:
        self.ops, self.calls = ops, calls
        self.wrong: list[str] = []
        self.checked: Counter = Counter()
        self.lives: dict[str, Life] = {}
        # For each key: its version, and from when on which session was current.
        self.version: dict[str, int] = defaultdict(int)
        self.times: dict[str, list[int]] = defaultdict(lambda: [0])
        self.current: dict[str, list[str]] = defaultdict(lambda: [""])
        self.before: dict[tuple[str, str], list[tuple]] = {}
        self.by_op: dict[tuple[str, str], list[Taken]] = defaultdict(list)
        self.ghosts: dict[str, list[Taken]] = defaultdict(list)
        self.deletions: dict[str, list[Taken]] = defaultdict(list)
        self.last_seq: dict[str, int] = {}
        self.told_deleted: set[str] = set()
        self._store_side()
        index = 0
        while index < len(ops):
            group = ops[index : index + ops[index].op.left + 1]
            index += len(group)
            self._group(group)

    def say(self, sentence: str) -> None:
        self.wrong.append(sentence)

    def check(self, holds: object, sentence: str, *about: object) -> None:
        self.checked[sentence] += 1
        if not holds:
            self.say(f"{sentence}: {' | '.join(map(str, about))}"[:1500])

    def _store_side(self) -> None:
        """Sessions that SQL made, and where they belong; and those of which somebody was told that they are deleted."""
        for call in self.calls:
            if call.name.startswith("delete") and not call.error and call.told:
                # Of a key, one that was replaced between the look and the deletion is not the one that was deleted.
                done = [sent for sent in call.sent if sent.verb == "delete" and sent.reply[0] == b"ok"]
                self.told_deleted.update(sent.session_id for sent in done)
        self.claims: dict[str, dict[int, str]] = defaultdict(dict)
        for call in self.calls:
            for kind, session_id, key, *more in call.stored:
                if kind == "claim":
                    self.check(more[0] not in self.claims[session_id], "a claim counts once", session_id, more)
                    self.claims[session_id][more[0]] = key
                elif kind == "reserve":
                    self.lives.setdefault(session_id, Life(session_id, key, 0))
                else:
                    life = self.lives[session_id] = Life(session_id, key, 0, forked=True)
                    life.messages = [(seq, name, ms, repr(json.loads(body))) for seq, name, ms, body in more[1]]
                    life.known = {one[1] for one in life.messages}
                    life.message_ms = life.messages[-1][2] if life.messages else 0

    def _group(self, group: list[Taken]) -> None:
        first, op = group[0], group[0].op
        key, current = first.key, self.current[first.key][-1]
        for at, one in enumerate(group):
            self.check(one.op.left == len(group) - 1 - at and one.key == key, "a group is whole", one)
            expected = self.version[key] + 1
            if op.kind == "switch" and op.session_id in self.lives:
                expected = max([expected, *(m + 1 for m in [self._last_seq(op.session_id)])])
            self.check(one.op.version == expected, "versions follow each other", key, one.op, self.version[key])
            self.version[key] = one.op.version
            self.by_op[key, one.op.op_id].append(one)
            self.before[key, one.op.op_id] = self._stands(op.session_id)
        kind = op.kind
        if kind in {"start", "switch", "leave", "delete"}:
            self._move(first, key, op, current)
            return
        self.check(op.session_id == current, "an op is for the current session", key, op, current)
        life = self.lives[op.session_id]
        self.check(life.deleted_at is None, "no op after a deletion", op)
        for one in group:
            if one.op.kind in MESSAGE:
                if not life.add(one.op):
                    one.ghost = True
                    self.ghosts[op.session_id].append(one)
                else:
                    self.last_seq[op.session_id] = one.op.version
            else:
                life.play(one.op)
        life.note(op.at_ms)

    def _last_seq(self, session_id: str) -> int:
        life = self.lives[session_id]
        if session_id not in self.last_seq and life.forked:
            self.last_seq[session_id] = max((one[0] for one in life.messages), default=0)
        return self.last_seq.get(session_id, 0)

    def _stands(self, session_id: str) -> tuple:
        life = self.lives.get(session_id)
        return (tuple(life.messages), life.facts()) if life else ((), ())

    def _move(self, one: Taken, key: str, op: Op, current: str) -> None:
        becomes = current
        if op.kind == "start":
            self.check(op.session_id not in self.lives, "a session starts once", op)
            given = msgpack.unpackb(op.payload[1:])
            life = self.lives[op.session_id] = Life(op.session_id, key, op.at_ms, updated_ms=op.at_ms)
            life.metadata = given.pop("metadata", None) or {}
            life.columns.update(given)
            self.check((op.payload[:1] == b"1") == bool(current), "a start knows what it replaces", op, current)
            life.note(op.at_ms)
            becomes = op.session_id
        elif op.kind == "switch":
            life = self.lives[op.session_id]
            self.check(life.deleted_at is None, "no switch to a deleted session", op)
            life.columns["suspended"] = False  # what is brought back is active, and suspended no more
            life.updated_ms = op.at_ms
            life.note(op.at_ms)
            elsewhere = [other for other, ids in self.current.items() if other != key and ids[-1] == op.session_id]
            self.check(not elsewhere, "a session is current under one key", op, elsewhere)
            becomes = op.session_id
        elif current == op.session_id:
            becomes = ""
        if op.kind == "delete":
            self.deletions[op.session_id].append(one)
            if current == op.session_id:
                self.lives[op.session_id].deleted_at = op.at_ms
        if becomes != current:
            self.times[key].append(op.at_ms)
            self.current[key].append(becomes)

    def _current_between(self, key: str, begun: float, ended: float) -> list[str]:
        times = self.times[key]
        first = max(0, bisect_left(times, int(begun * 1000)) - 1)
        return self.current[key][first : bisect_right(times, int(ended * 1000))]

    # SQL

    def compare_store(self, database_url: str) -> None:
        """SQL has what was played, and nothing else."""
        engine = create_engine(database_url)
        with engine.connect() as connection:
            rows = {row.session_id: row for row in connection.execute(text("SELECT * FROM sessions"))}
            stored: dict[str, list[tuple]] = defaultdict(list)
            for row in connection.execute(text("SELECT session_id, seq, message_id, body FROM messages ORDER BY 1, 2")):
                stored[row[0]].append((row[1], row[2], repr(json.loads(row[3]))))
            routes = {row[0]: (row[1] or "", row[2]) for row in connection.execute(text("SELECT * FROM routes"))}
        engine.dispose()
        played = {key: (self.current[key][-1], version) for key, version in self.version.items()}
        routes = {key: route for key, route in routes.items() if key in played or route[0]}
        self.check(routes == played, "routes", set(routes.items()) ^ set(played.items()))
        currents = [session_id for session_id, _ in routes.values() if session_id]
        self.check(len(currents) == len(set(currents)), "current under one key", currents)
        self.check(set(rows) == set(self.lives), "the sessions", set(rows) ^ set(self.lives))
        for session_id, life in self.lives.items():
            if session_id in rows:
                self._compare_session(rows[session_id], life, stored[session_id], current=session_id in currents)

    def _compare_session(self, row: Any, life: Life, stored: list[tuple], *, current: bool) -> None:
        name = life.session_id
        claims = self.claims[name]
        self.check(row.claims == max(claims, default=0) == len(claims), "claims", name, row.claims, claims)
        key = claims[max(claims)] if claims else life.key
        self.check(row.session_key == key, "the key of a session", name, row.session_key, key)
        self._deletion(row, life)
        if row.deleted:
            self.check(not stored and row.message_count == 0, "a tombstone is empty", name, stored)
            return
        expected = [(one[0], one[1], one[3]) for one in life.messages]
        self.check(stored == expected, "the messages of a session", name, difference(stored, expected))
        self.check(row.message_count == len(stored), "message_count", name, row.message_count, len(stored))
        self.check(
            bool(row.ended_at) != current, "a session ended unless it is current", name, row.ended_at, row.end_reason
        )
        tokens = (row.input_tokens, row.output_tokens, row.cost_nano)
        used = (life.counters["input_tokens"], life.counters["output_tokens"], life.counters["cost_nano"])
        self.check(tokens == used, "usage", name, tokens, used)
        if not life.forked:
            found = json.loads(row.metadata) if isinstance(row.metadata, str) else row.metadata
            self.check((found or {}) == life.metadata, "metadata", name, found, life.metadata)
            self.check((row.title or "") == (life.columns.get("title") or ""), "title", name, row.title, life.columns)
        for flag in ("archived", "important", "suspended"):
            self.check(bool(getattr(row, flag)) == bool(life.columns.get(flag)), flag, name, row, life.columns)

    def _deletion(self, row: Any, life: Life) -> None:
        asked = {one.op.op_id for one in self.deletions[life.session_id]}
        self.check(not row.deleted or asked, "nobody deleted this", life.session_id)
        told = life.session_id in self.told_deleted
        if row.deleted and not told:
            self.told_deleted.add(life.session_id)
            theirs = [self._short(call) + call.error for call in self.calls for one in call.sent if asked & {*one.op_ids}]
            self.check(told, "deleted, but nobody was told", life.session_id, theirs, self.deletions[life.session_id])
        self.check(row.deleted or not told, "deleted, but it stands", life.session_id)
        self.check(row.deleted or life.deleted_at is None, "deleted while current, but it stands", life.session_id)

    # What each writer was told.

    def compare_told(self) -> None:
        """Each answer was true at some instant of its call; each op was one call's, and the other way round."""
        sent: dict[tuple[str, str], list[tuple[Call, Sent]]] = defaultdict(list)
        for call in self.calls:
            for one in call.sent:
                if one.reply[0] == b"ok":
                    for op_id in one.op_ids:
                        sent[one.key, op_id].append((call, one))
        for name, ops in self.by_op.items():
            if ops[0].op.kind != "touch":
                self.check(name in sent, "an op that nobody asked for", ops[0].op)
            kinds = {op.op.kind for op in ops}
            once = kinds <= {*MESSAGE, "replace"} or len(ops) == 1
            self.check(once, "an op was taken twice", ops)
        for call in self.calls:
            if call.error:
                self._refused(call)
            else:
                judge = getattr(self, f"_told_{call.name}".replace(" ", "_"), None)
                if judge is not None:
                    judge(call)
        self._turns(sent)

    def _op(self, call: Call) -> Op | None:
        """The one op of a call, if it was logged."""
        ok = [one for one in call.sent if one.reply[0] == b"ok"]
        found = self.by_op.get((ok[-1].key, ok[-1].op_ids[0])) if ok else None
        return found[0].op if found else None

    def _haunted(self, session_id: str) -> bool:
        return bool(self.ghosts.get(session_id))

    def _told_append(self, call: Call) -> None:
        self._records(call, call.told, call.asked["sent"], call.asked["version"], call.sent[-1])

    def _records(self, call: Call, told: list, asked: list, version: int | None, sent: Sent, skip: int = 0) -> None:
        ops = [one.op for one in self.by_op[sent.key, sent.op_ids[0]]][skip:]
        logged = [(op.version, op.payload.partition(b"\n")[0].decode(), op.at_ms, data_of(op.payload.partition(b"\n")[2]))
                  for op in ops]  # fmt: skip
        self.check([tuple(one) for one in told] == logged, "the records of a call", call, logged)
        self.check([one[3] for one in logged] == asked, "what was asked was logged", call, logged)
        self.check(all(op.session_id == call.session_id for op in ops), "the session of a record", call, ops)
        if version is not None and ops:
            self.check(ops[0].version - skip == version + 1, "expected version", call, ops[0])

    def _told_append_with_ids(self, call: Call) -> None:
        for told, asked, op_id in zip(call.told, call.asked["sent"], call.sent[-1].op_ids, strict=True):
            ops = [one.op for one in self.by_op[call.sent[-1].key, op_id]]
            same = [op for op in ops if op.version == told[0]]
            if not ops:  # its first record came under another key
                names = [op for (_, name), some in self.by_op.items() if name == op_id for op in some]
                same = [one.op for one in names if one.op.version == told[0]]
            self.check(same, "the record of a message with an id", call, told, ops)
            self.check(told[3] == asked, "the data of a record", call)
            for op in same:
                self.check(
                    data_of(op.payload.partition(b"\n")[2]) == asked, "what was logged of a message with an id", call
                )

    def _told_replace(self, call: Call) -> None:
        self._records(call, call.told, call.asked["sent"], call.asked["version"], call.sent[-1], skip=1)

    def _told_pop(self, call: Call) -> None:
        op = self._op(call)
        if self._haunted(call.session_id):
            return
        if call.told is None:
            empty = any(not state[0] for state in self._states(call))
            self.check(empty, "pop found nothing, but there was something", call)
            return
        self.check(op is not None, "a pop without an op", call)
        before = self.before[call.sent[-1].key, op.op_id][0]
        self.check(before and before[-1] == tuple(call.told), "what pop removed", call, before[-2:])
        self._version(call, op)

    def _version(self, call: Call, op: Op) -> None:
        if call.asked.get("version") is not None:
            self.check(op.version == call.asked["version"] + 1, "expected version", call, op)

    def _states(self, call: Call) -> list[tuple]:
        life = self.lives.get(call.session_id or call.asked.get("target", ""))
        return life.between(call.begun, call.ended) if life else []

    def _told_truncate(self, call: Call) -> None:
        op, keep = self._op(call), call.asked["keep"]
        if self._haunted(call.session_id):
            return
        if op is None:
            self.check(
                call.told <= keep and any(len(state[0]) == call.told for state in self._states(call)),
                "truncate had nothing to do, but there was", call, [len(state[0]) for state in self._states(call)],
            )  # fmt: skip
            return
        before = self.before[call.sent[-1].key, op.op_id][0]
        self.check(call.told == keep < len(before), "what truncate left", call, len(before))
        self._version(call, op)

    def _told_retain(self, call: Call) -> None:
        op, count = self._op(call), call.asked["count"]
        if self._haunted(call.session_id):
            return
        if op is None:
            self.check(
                call.told <= count and any(len(state[0]) == call.told for state in self._states(call)),
                "retain had nothing to do, but there was", call, [len(state[0]) for state in self._states(call)],
            )  # fmt: skip
            return
        before = self.before[call.sent[-1].key, op.op_id][0]
        self.check(call.told == len(stretch(before, op)) < len(before), "what retain left", call, len(before))
        self._version(call, op)

    def _told_clear(self, call: Call) -> None:
        op = self._op(call)
        self.check(op is not None, "a clear without an op", call)
        self._version(call, op)

    def _told_edit(self, call: Call) -> None:
        op = self._op(call)
        if self._haunted(call.session_id):
            return
        if call.told:
            self.check(op is not None, "an edit without an op", call)
            before = self.before[call.sent[-1].key, op.op_id][0]
            self.check(any(one[1] == call.asked["id"] for one in before), "what was edited was there", call, op)
            self._version(call, op)
        else:
            there = [any(one[1] == call.asked["id"] for one in state[0]) for state in self._states(call)]
            self.check(not all(there), "not found, but it was there", call, there, self._around(call))
            self.check(op is None, "not found, but an op", call, op)

    _told_remove = _told_edit

    def _told_update(self, call: Call) -> None:
        op = self._op(call)
        self.check(op is not None and op.version == call.told, "the version of an update", call, op)
        if op is not None:
            self._version(call, op)

    def _told_usage(self, call: Call) -> None:
        self._told_update(call)
        op = self._op(call)
        added = msgpack.unpackb(op.payload[1:])["add"]
        used = call.asked["used"]
        expected = {name: used[name] for name in ("input_tokens", "output_tokens")}
        expected["cost_nano"] = round(used["estimated_cost"] * 10**9)
        self.check(added == expected, "the usage of a call", call, added)

    def _told_messages(self, call: Call) -> None:
        limit = call.asked["limit"]
        self._read(call, lambda messages: messages if limit is None else messages[max(0, len(messages) - limit) :])

    def _told_page(self, call: Call) -> None:
        before, limit = call.asked["before"], call.asked["limit"]

        def page(messages):
            found = [one for one in messages if one[0] < before]
            return found if limit is None else found[max(0, len(found) - limit) :]

        self._read(call, page)

    def _told_iterate(self, call: Call) -> None:
        self._read(call, lambda messages: [one for one in messages if one[0] > call.asked["after"]])

    def _told_read(self, call: Call) -> None:
        self._told_messages(call)

    def _read(self, call: Call, part) -> None:
        if self._haunted(call.session_id or call.asked["target"]):
            self.checked["reads not judged"] += 1
            return
        told, states = [tuple(one) for one in call.told], self._states(call)
        if not states and call.name == "read":
            life = self.lives[call.asked["target"]]  # it was never current: reserved or forked
            states = [(life.messages, ())] if not life.states else life.states[:1]
        true = any(list(part(state[0])) == told for state in states)
        last = list(part(states[-1][0])) if states else []
        self.check(true, "a read that was never true", self._short(call), len(states), difference(told, last))

    def _around(self, call: Call) -> list[str]:
        """What happened to the session of a call a little before it and during it, in milliseconds since it began."""
        begun, ended, name = call.begun * 1000, call.ended * 1000, call.session_id or call.asked.get("target", "")
        ours = (one for one in self.ops if one.op.session_id == name and begun - 50 <= one.op.at_ms <= ended)
        return [f"{one.op.at_ms - begun:.0f} {one.key} {one.op.kind} {one.op.version}" for one in ours]

    @staticmethod
    def _short(call: Call) -> str:
        return f"{call.who} {call.name} {call.key} {call.session_id} {call.asked} {call.begun:.4f} {call.ended:.4f}"

    def _told_refresh(self, call: Call) -> None:
        self._known(call, call.told, call.session_id)
        self._session(call, call.key)

    def _known(self, call: Call, told: dict, session_id: str) -> None:
        life = self.lives[session_id]
        if life.forked or self._haunted(session_id):
            return
        pairs = [(len(state[0]), state[1]) for state in life.between(call.begun, call.ended)]
        self.check(
            (told["count"], told["facts"]) in pairs, "what is known of a session", self._short(call), told, pairs[-2:]
        )

    def _session(self, call: Call, key: str) -> None:
        current = self._current_between(key, call.begun, call.ended)
        self.check(call.told["session_id"] in current, "the session was current", self._short(call), call.told, current)

    def _told_open(self, call: Call) -> None:
        self._session(call, call.key)
        self._known(call, call.told, call.told["session_id"])
        op, why = self._op(call), call.told["reason"]
        if op is None:
            self.check(why is None, "reset, but nothing began", call)
            return
        self.check(op.session_id == call.told["session_id"], "what began is what was opened", call, op)
        replaces = op.payload[:1] == b"1"
        self.check(why == ("suspended" if replaces else None), "why it began", call, op)

    _told_ensure = _told_get = _told_open

    def _told_reset(self, call: Call) -> None:
        op = self._op(call)
        self.check(op is not None and op.kind == "start", "a reset without an op", call)
        self.check(op.session_id == call.told["session_id"], "what began is what was told", call, op)
        self.check(call.told["reason"] == "reset", "the reason", call)
        messages, known = self._before_reset(call, op)
        if not self._haunted(call.session_id):
            active = bool(messages) or bool(known and (known[5] or known[6]))
            self.check(call.told["had_activity"] == active, "had_activity", call, messages[-1:], known)
        self._version(call, op)

    def _before_reset(self, call: Call, op: Op) -> tuple:
        life = self.lives[call.session_id]
        at = bisect_right(life.times, op.at_ms) - 1
        return life.states[at]

    def _told_create(self, call: Call) -> None:
        op = self._op(call)
        self.check(op is not None and op.session_id == call.told["session_id"], "what was created", call, op)

    def _told_switch(self, call: Call) -> None:
        wanted = call.asked["target"]
        self.check(call.told["session_id"] == wanted, "switched to what was asked for", self._short(call), call.told)
        self._session(call, call.key)

    def _told_resume(self, call: Call) -> None:
        self.check(
            call.told["session_id"] == call.asked["target"], "resumed what was asked for", self._short(call), call.told
        )

    def _told_create_of_id(self, call: Call) -> None:
        self._told_switch(call)
        times = self.lives[call.asked["target"]].times
        self.check(times and times[0] >= int(call.begun * 1000), "created what was there", self._short(call), times[:1])

    def _told_fork(self, call: Call) -> None:
        self._session(call, call.key)
        forks = [one for one in call.stored if one[0] == "fork"]
        self.check(
            len(forks) == 1 and forks[0][1] == call.told["session_id"], "forked what was asked for", self._short(call)
        )
        (_, _, _, parent_id, base), through = forks[0], call.asked["through"]
        if self._haunted(parent_id):
            return
        parent = self.lives[parent_id]
        states = parent.between(call.begun, call.ended) or [(parent.messages, ())]
        base = [(seq, name, ms, repr(json.loads(body))) for seq, name, ms, body in base]
        true = any([one for one in state[0] if through is None or one[0] <= through] == base for state in states)
        self.check(true, "a fork of what never was", self._short(call), difference(base, list(states[-1][0])))

    def _told_delete(self, call: Call) -> None:
        if not call.told:
            target = call.asked.get("target", "")
            times = [one.op.at_ms for one in self.deletions[target]]
            gone = any(at <= call.ended * 1000 + 1 for at in times)
            self.check(gone, "not deleted, though it was there", call)

    _told_delete_id = _told_delete

    def _told_delete_key(self, call: Call) -> None:
        if not call.told:
            current = self._current_between(call.key, call.begun, call.ended)
            self.check("" in current, "nothing to delete, though there always was", self._short(call), current)

    def _refused(self, call: Call) -> None:
        """What was refused was not there, and wrote nothing."""
        target = call.asked.get("target", "")
        current = self._current_between(call.key, call.begun, call.ended) if call.key else []
        if call.error == "SessionMoved":
            self.check(set(current) != {call.session_id}, "moved, though it was current all the time", call, current)
        elif call.error == "SessionDeleted":
            forked = [one[1] for one in call.stored if one[0] == "fork"]
            times = [one.op.at_ms for name in (call.session_id, target, *forked) for one in self.deletions[name]]
            self.check(any(at <= call.ended * 1000 + 1 for at in times), "deleted, though nobody did", call)
        elif call.error == "SessionNotFound" and target and target in self.lives:
            times = [one.op.at_ms for one in self.deletions[target]]
            self.check(
                any(at <= call.ended * 1000 + 1 for at in times), "not found, though it stood", self._short(call), call.told
            )
        elif call.error == "SessionNotFound" and call.name == "get":
            self.check("" in current, "not found, though there always was one", self._short(call), current)
        elif call.error == "SessionExists":
            known = call.name == "create_of_id" and target in self.lives
            self.check(known or set(current) != {""}, "it exists, though there was none", self._short(call), current)
        elif call.error == "VersionConflict":
            self.check(call.told["current"] != call.told["expected"], "a conflict of one version", call)
        if call.name not in {"switch", "resume", "fork", "create_of_id", "delete", "delete_id", "delete_key"}:
            self.check(self._op(call) is None, "refused, but written", call, self._op(call))

    def _turns(self, sent: dict) -> None:
        """While one has the turn, no other one's answer comes between."""
        order: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for one in self.ops:
            if one.op.kind in MESSAGE and (one.key, one.op.op_id) in sent:
                turn = sent[one.key, one.op.op_id][0][1].turn
                if turn:
                    order[one.op.session_id].append((one.key, turn))
        for session_id, turns in order.items():
            blocks = [turn for at, turn in enumerate(turns) if at == 0 or turns[at - 1] != turn]
            self.check(len(blocks) == len(set(blocks)), "turns are not mixed", session_id, turns)


def difference(found: list, expected: list) -> str:
    """Where two lists differ."""
    at = next(
        (at for at, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected))
    )
    return f"{len(found)} found, {len(expected)} expected, from {at} on: {found[at : at + 3]} not {expected[at : at + 3]}"
