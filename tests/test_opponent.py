"""The opponent of the long proofs finds what is planted: in the store, in a writer's log, in what a reader saw."""

from __future__ import annotations

import ast
import json
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path

import opponent
import pytest
from opponent import ACKNOWLEDGED, ATTEMPTED, Finding, Log, Stored, digest
from sqlalchemy import create_engine, text
from traffic import fault_of, message

KEYS = ("k:0", "k:1")


@dataclass
class Told:
    """What two writers did over two keys, in three calls each of three messages, and one more that was not acknowledged."""

    directory: Path
    url: str
    seen: dict[str, list[Stored]]
    sessions: list[str]

    def findings(self) -> list[Finding]:
        return opponent.judge(opponent.calls(self.directory), opponent.in_store(self.url))

    def kinds(self) -> set[str]:
        return {one.kind for one in self.findings()}

    def execute(self, statement: str, **values: object) -> None:
        engine = create_engine(self.url)
        with engine.begin() as connection:
            assert connection.execute(text(statement), values).rowcount
        engine.dispose()


@pytest.fixture
def told(one_stack, tmp_path):
    directory = tmp_path / "logs"
    directory.mkdir()
    chance = random.Random(1)
    with one_stack.cache() as cache:
        sessions = [cache.open(key) for key in KEYS]
        logs = {name: Log(directory, name, durable=False) for name in ("one", "two")}
        n = 0
        for session in sessions:
            for turn in range(4):
                for name, log in logs.items():
                    if turn < 3 or name == "two":
                        sent = {f"{name}-{n + m}": message(name, n + m, chance) for m in range(3)}
                        n += 3
                        log.attempted(time.monotonic(), session.key, session.session_id, sent)
                        records = session.append(list(sent.values()), id=list(sent))
                        log.acknowledged(time.monotonic(), [one.seq for one in records])
        # It landed, but nobody was told.
        sent = {f"one-{n}": message("one", n, chance), f"one-{n + 1}": message("one", n + 1, chance)}
        logs["one"].attempted(time.monotonic(), sessions[0].key, sessions[0].session_id, sent)
        sessions[0].append(list(sent.values()), id=list(sent))
        # It did not land.
        logs["two"].attempted(time.monotonic(), KEYS[0], sessions[0].session_id, {"two-never": {"content": "never"}})
        for log in logs.values():
            log.close()
        cache.flush()
    with one_stack.cache() as cold:
        seen = {
            one.session_id: [Stored(r.seq, r.id, digest(r.data)) for r in cold.get(one.key).messages()] for one in sessions
        }
    return Told(directory, one_stack.database_url, seen, [one.session_id for one in sessions])


def test_it_shares_no_code_with_the_library():
    """What it knows of the store is the tables."""
    tree = ast.parse(Path(opponent.__file__).read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in modules} <= {
        "__future__", "collections", "dataclasses", "hashlib", "itertools", "json", "os", "pathlib", "sqlalchemy", "typing",
    }  # fmt: skip


def test_it_finds_nothing_where_all_is_well(told):
    """In the store and in a history; an unacknowledged call may have landed or not."""
    assert told.findings() == []
    assert opponent.judge(opponent.calls(told.directory), told.seen) == []
    assert told.seen == opponent.in_store(told.url)
    assert opponent.counts_that_differ(told.url) == []


def _nth(told: Told, session: int, n: int) -> tuple[str, int, str]:
    """Session id, seq and message id of the n-th message of a session."""
    session_id = told.sessions[session]
    return session_id, told.seen[session_id][n].seq, told.seen[session_id][n].id


def lose(told: Told) -> None:
    session_id, seq, _ = _nth(told, 0, 4)
    told.execute("DELETE FROM messages WHERE session_id = :id AND seq = :seq", id=session_id, seq=seq)


def lose_a_whole_session(told: Told) -> None:
    told.execute("DELETE FROM messages WHERE session_id = :id", id=told.sessions[1])


_COPY = (
    "INSERT INTO messages (session_id, seq, message_id, role, body, text, created_at) "
    "SELECT session_id, :to, :name, role, body, text, created_at FROM messages WHERE session_id = :id AND seq = :seq"
)


def duplicate(told: Told) -> None:
    """The same content once more, under an id that was never used."""
    session_id, seq, _ = _nth(told, 0, 4)
    told.execute(_COPY, id=session_id, seq=seq, to=10_000, name="another")


def swap(told: Told, session: int, n: int, m: int) -> None:
    """Two messages in each other's place, ids and all."""
    (session_id, one, _), (_, other, _) = _nth(told, session, n), _nth(told, session, m)
    for here, there in ((one, -1), (other, one), (-1, other)):
        statement = "UPDATE messages SET seq = :there WHERE session_id = :id AND seq = :here"
        told.execute(statement, id=session_id, here=here, there=there)


def alter(told: Told) -> None:
    """One character of the body."""
    session_id, seq, _ = _nth(told, 1, 2)
    statement = "UPDATE messages SET body = replace(body, 'ü', 'u') WHERE session_id = :id AND seq = :seq"
    told.execute(statement, id=session_id, seq=seq)


def reorder_keys(told: Told) -> None:
    """The same object with its keys in another order."""
    session_id, seq, _ = _nth(told, 1, 2)
    engine = create_engine(told.url)
    with engine.connect() as connection:
        where = {"id": session_id, "seq": seq}
        body = connection.execute(text("SELECT body FROM messages WHERE session_id = :id AND seq = :seq"), where).scalar()
    engine.dispose()
    turned = json.dumps(dict(reversed(json.loads(body).items())))
    told.execute("UPDATE messages SET body = :body WHERE session_id = :id AND seq = :seq", body=turned, **where)


def move_to_another_session(told: Told) -> None:
    session_id, seq, _ = _nth(told, 0, 4)
    statement = "UPDATE messages SET session_id = :to, seq = 10000 WHERE session_id = :id AND seq = :seq"
    told.execute(statement, id=session_id, seq=seq, to=told.sessions[1])


def invent(told: Told) -> None:
    session_id, seq, _ = _nth(told, 0, 4)
    told.execute(_COPY, id=session_id, seq=seq, to=10_000, name="invented")
    told.execute("UPDATE messages SET body = '{}' WHERE message_id = 'invented'")


def renumber(told: Told) -> None:
    """The last message keeps its place and gets another seq."""
    session_id, seq, _ = _nth(told, 1, -1)
    told.execute("UPDATE messages SET seq = 10000 WHERE session_id = :id AND seq = :seq", id=session_id, seq=seq)


def tear(told: Told) -> None:
    """Half of what was never acknowledged."""
    session_id, seq, name = _nth(told, 0, -1)
    assert name.startswith("one-")
    told.execute("DELETE FROM messages WHERE session_id = :id AND seq = :seq", id=session_id, seq=seq)


PLANTED = {
    "lost": (lose, {"lost"}),
    "lost with its session": (lose_a_whole_session, {"lost"}),
    "duplicated": (duplicate, {"duplicated", "foreign"}),
    "swapped within a call": (lambda told: swap(told, 0, 0, 1), {"reordered", "renumbered"}),
    "swapped between calls of a writer": (lambda told: swap(told, 0, 0, 6), {"reordered", "renumbered"}),
    "swapped between writers": (lambda told: swap(told, 1, 2, 3), {"reordered", "renumbered"}),
    "altered": (alter, {"altered"}),
    "altered in the order of keys": (reorder_keys, {"altered"}),
    "in another session": (move_to_another_session, {"lost", "foreign"}),
    "invented": (invent, {"foreign"}),
    "renumbered": (renumber, {"renumbered"}),
    "torn": (tear, {"torn"}),
}


@pytest.mark.parametrize("name", PLANTED)
def test_it_finds_what_is_planted_in_the_store(told, name):
    """And says of what kind it is."""
    plant, kinds = PLANTED[name]
    plant(told)
    assert told.kinds() == kinds


def test_it_finds_books_that_do_not_balance(told):
    """A count of a session that is not that of its messages."""
    told.execute("UPDATE sessions SET message_count = message_count + 1 WHERE session_id = :id", id=told.sessions[0])
    (one,) = opponent.counts_that_differ(told.url)
    assert (one.kind, one.session_id) == ("miscounted", told.sessions[0])


def _rewrite(path: Path, change) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in change(lines)))


def claim_more(told: Told) -> None:
    """The log has an acknowledgement of what never landed."""
    _rewrite(told.directory / f"two{ACKNOWLEDGED}", lambda lines: [*lines, [time.monotonic(), [9999], 0.0]])


def claim_another_order(told: Told) -> None:
    """The log has its first two calls the other way round, with their seqs, as if made within one instant."""
    for kind in (ATTEMPTED, ACKNOWLEDGED):
        _rewrite(told.directory / f"one{kind}", lambda lines: [lines[1], lines[0], *lines[2:]])


def forget(told: Told) -> None:
    """The log does not have the last call, which landed."""
    for kind in (ATTEMPTED, ACKNOWLEDGED):
        _rewrite(told.directory / f"one{kind}", lambda lines: lines[:6])


def claim_other_words(told: Told) -> None:
    _rewrite(told.directory / f"one{ATTEMPTED}", lambda lines: [[*lines[0][:4], ["0" * 24] * 3], *lines[1:]])


def claim_another_session(told: Told) -> None:
    other = told.sessions[1]
    _rewrite(told.directory / f"one{ATTEMPTED}", lambda lines: [[*lines[0][:2], other, *lines[0][3:]], *lines[1:]])


IN_THE_LOG = {
    "more was acknowledged": (claim_more, {"lost"}),
    "in another order": (claim_another_order, {"reordered"}),
    "less was tried": (forget, {"foreign"}),
    "other words": (claim_other_words, {"altered"}),
    "another session": (claim_another_session, {"lost", "foreign"}),
}


@pytest.mark.parametrize("name", IN_THE_LOG)
def test_it_finds_what_is_planted_in_a_log(told, name):
    """Where the store is right and the log says otherwise."""
    plant, kinds = IN_THE_LOG[name]
    plant(told)
    assert told.kinds() == kinds


def test_a_line_that_is_not_whole_counts_for_nothing(told):
    """The writer was killed while it wrote it: it was not acknowledged, and may have landed all the same."""
    _rewrite(told.directory / f"two{ATTEMPTED}", lambda lines: lines[:-1])
    path = told.directory / f"two{ACKNOWLEDGED}"
    path.write_bytes(path.read_bytes()[:-5])
    assert told.findings() == []
    session_id, _, _ = _nth(told, 1, -1)
    statement = "DELETE FROM messages WHERE session_id = :id AND message_id IN (:a, :b, :c)"
    names = [_nth(told, 1, n)[2] for n in (-3, -2, -1)]
    told.execute(statement, id=session_id, **dict(zip("abc", names, strict=True)))
    assert told.findings() == []


@pytest.mark.parametrize("what", ["lost", "duplicated", "reordered", "foreign"])
def test_it_finds_what_is_planted_in_a_history(told, what):
    """What a reader saw is judged as the store is."""
    seen = told.seen[told.sessions[0]]
    planted = {
        "lost": seen[:3] + seen[4:],
        "duplicated": [*seen, replace(seen[0], seq=10_000)],
        "reordered": [seen[3], *seen[:3], *seen[4:]],
        "foreign": [*seen, Stored(10_000, "nobody's", "0")],
    }
    findings = opponent.judge(opponent.calls(told.directory), {**told.seen, told.sessions[0]: planted[what]})
    assert what in {one.kind for one in findings}


SEEN = [(1, "a"), (2, "b"), (5, "c")]


@pytest.mark.parametrize(
    ("seen", "before", "acknowledged", "fault"),
    [
        (SEEN, SEEN[:2], {"a", "c"}, ""),
        (SEEN, [], {"d"}, "missing"),
        ([*SEEN, (6, "a")], [], set(), "twice"),
        ([SEEN[1], SEEN[0]], [], set(), "rise"),
        (SEEN[:2], SEEN, set(), "begin"),
        ([(1, "a"), (3, "x")], SEEN[:2], set(), "begin"),
    ],
)
def test_a_reader_finds_what_it_must_not_see(seen, before, acknowledged, fault):
    """Missing, twice, out of order, gone again."""
    found = fault_of(seen, before, acknowledged)
    assert bool(found) == bool(fault)
    assert fault in found


def test_words_are_unique_and_come_back_equal():
    """What the writers of the long proofs say."""
    chance = random.Random(3)
    said = [message("w", n, chance) for n in range(200)]
    assert len({digest(one) for one in said}) == 200
    assert [digest(json.loads(json.dumps(one))) for one in said] == [digest(one) for one in said]
