"""Redis comes back older than SQL, with something in it: ops that SQL has, and ops whose versions SQL has for others.

*Repeats*: a snapshot was taken while ops waited; they were drained; the snapshot is restored. *Given out again*: a later
snapshot is put aside, an earlier one is restored, others write and are drained, and then the later one is restored, so
that its ops stand under versions that are taken. Every kind of op, each under a key of its own; two servers with warm
handles and near copies look on. `test_rollback` has the plain cases.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import redis
from conftest import Stack, binary_of
from contract import contents, said
from servers import RedisServer
from sqlalchemy import create_engine, text
from test_refusals import closed_port
from test_workers import until

from sessioncache import Session, SessionCache, SessionDeleted, SessionMoved, SessionNotFound, read_through
from sessioncache.hot import writing
from sessioncache.hot.change import Change
from sessioncache.hot.writing import Stretch
from sessioncache.op import new_op_id

FEW = {"partitions": 2, "lanes": 1}
BEGUN = ["0", "1", "2", "3", "4"]


@dataclass
class Rewound:
    """A Redis of the test's own that can be put back to an earlier time, and the stack it stands in for."""

    stack: Stack
    server: RedisServer
    kept: str

    def keep(self, name: str) -> None:
        """Remember this moment."""
        with self.stack.raw() as raw:
            if self.kept == "appendonlydir":
                raw.bgrewriteaof()
                until(lambda: not raw.info("persistence")["aof_rewrite_in_progress"])
                self.server.kill()
            else:
                raw.save()
        place = self.server.directory
        if self.kept == "appendonlydir":
            shutil.copytree(place / self.kept, place / name)
            self.server.start()
        else:
            shutil.copy(place / self.kept, place / name)

    def back_to(self, name: str) -> None:
        """Stop Redis, put that moment's file in place, start it again."""
        self.server.kill()
        place = self.server.directory
        if self.kept == "appendonlydir":
            shutil.rmtree(place / self.kept)
            shutil.copytree(place / name, place / self.kept)
        else:
            shutil.copy(place / name, place / self.kept)
        self.server.start()


def rewound(stack: Stack, **options: str) -> Iterator[Rewound]:
    kept = "appendonlydir" if options else "dump.rdb"
    server = RedisServer(binary_of(stack.name.partition("-")[0]), **(options or {"dbfilename": kept})).start()
    yield Rewound(replace(stack, server=server, redis_url=server.url), server, kept)
    server.close()


@pytest.fixture
def snapshots(some_stack) -> Iterator[Rewound]:
    """Snapshots, over each kind of store."""
    yield from rewound(some_stack)


@pytest.fixture
def append_only(one_stack) -> Iterator[Rewound]:
    """An append-only file that is written at once."""
    yield from rewound(one_stack, appendonly="yes", appendfsync="always")


@dataclass
class Scene:
    """A key with an ended session, and a current one that has been drained."""

    cache: SessionCache
    key: str
    ended: Session = field(init=False)
    session: Session = field(init=False)

    def __post_init__(self) -> None:
        self.ended = self.cache.open(self.key, title="Before")
        self.ended.append(said("old"))
        self.session = self.ended.reset(title="Before")
        for word in BEGUN:
            self.session.append(said(word), id=f"m{word}")
        self.session.record_usage(input_tokens=5)

    @property
    def seqs(self) -> list[int]:
        return [one.seq for one in self.session.messages()]


@dataclass(frozen=True)
class Kind:
    """What is done to a scene; what its key holds then, and what it holds if "x" and "y" had been appended before it."""

    act: Callable[[Scene], object]
    left: list[str] | None
    after_xy: list[str] | None
    details: dict[str, Any] = field(default_factory=dict)
    tokens: tuple[int, int] = (5, 8)


def then(*calls: Callable[[Scene], object]) -> Callable[[Scene], None]:
    def act(at: Scene) -> None:
        for call in calls:
            call(at)

    return act


def alone(at: Scene, op: Callable[..., Any], **terms: object) -> None:
    """Write one op; the call that is for it drains it at once."""
    at.cache._run(op(at.cache._state, at.cache._state.keyspace.of(at.key), **terms))


def delete(at: Scene, session: Session) -> None:
    change = Change(session.session_id, new_op_id())
    alone(at, writing.delete, terms=change, if_current=session is at.session)


def leave(at: Scene) -> None:
    alone(at, writing.leave, terms=Change(at.session.session_id, new_op_id()), reason="session_switch")


def retain(at: Scene) -> None:
    """Of what is there and two more, the fifth and the first that was added stay."""
    at.session.append(said("n"))
    at.session.append(said("o"))
    view = at.cache._run(read_through.read(at.cache._state, at.cache._state.keyspace.of(at.key)))
    first, last, latest = ((view.messages[place].seq, view.messages[place].id) for place in (4, 5, 6))
    kept = Stretch(view.revision, view.consolidated_seq, first, last, latest, gone=5)
    alone(at, writing.retain, terms=Change(at.session.session_id, new_op_id()), kept=kept)


def switch(at: Scene) -> None:
    now = at.cache._run(read_through.standing(at.cache._state, at.cache._state.keyspace.of(at.key)))
    to = {"session_id": at.ended.session_id, "revision": now.revision, "last_seq": 1}
    alone(at, writing.switch, terms=Change(now.session_id, new_op_id()), **to)


XY = [*BEGUN, "x", "y"]
KINDS = {
    "append": Kind(lambda at: at.session.append(said("n")), [*BEGUN, "n"], [*XY, "n"]),
    "batch": Kind(lambda at: at.session.append(said("n", "o", "p")), [*BEGUN, "n", "o", "p"], [*XY, "n", "o", "p"]),
    "own id": Kind(lambda at: at.session.append(said("n"), id="mine"), [*BEGUN, "n"], [*XY, "n"]),
    "event": Kind(lambda at: at.session.append(said("n"), activity=False), [*BEGUN, "n"], [*XY, "n"]),
    "pop": Kind(lambda at: at.session.pop(), BEGUN[:4], [*BEGUN[:4], "x", "y"]),
    "truncate": Kind(lambda at: at.session.truncate(2), BEGUN[:2], BEGUN[:2]),
    "clear": Kind(lambda at: at.session.clear(), [], []),
    "replace": Kind(
        then(lambda at: at.session.replace(said("r", "s")), lambda at: at.session.append(said("t"))),
        ["r", "s", "t"], ["r", "s", "t"],
    ),
    "edit": Kind(lambda at: at.session.edit("m1", *said("E")), ["0", "E", "2", "3", "4"], ["0", "E", *XY[2:]]),
    "edit of what came": Kind(
        then(lambda at: at.session.append(said("n"), id="mine"), lambda at: at.session.edit("mine", *said("E"))),
        [*BEGUN, "E"], [*XY, "E"],
    ),
    "remove": Kind(lambda at: at.session.remove("m1"), ["0", "2", "3", "4"], ["0", *XY[2:]]),
    "retain": Kind(
        then(lambda at: at.session.retain(2), lambda at: at.session.append(said("n"))), ["3", "4", "n"],
        ["3", "4", "x", "y", "n"],
    ),
    "retain in the middle": Kind(lambda at: at.session.cap(3), BEGUN[2:], [*BEGUN[2:], "x", "y"]),
    "retain of what came": Kind(retain, ["4", "n"], ["4", "x", "y", "n"]),
    "consolidate": Kind(
        lambda at: at.session.consolidate(at.seqs[2], summary="in short"), BEGUN, XY, {"metadata": {"summary": "in short"}}
    ),
    "update": Kind(
        lambda at: at.session.update(title="After", metadata={"a": 1}), BEGUN, XY,
        {"title": "After", "metadata": {"a": 1}},
    ),
    "usage": Kind(lambda at: at.session.record_usage(input_tokens=7), BEGUN, XY, tokens=(12, 15)),
    "archive": Kind(lambda at: at.session.archive(), BEGUN, XY, {"archived": True}),
    "start": Kind(
        then(lambda at: at.session.reset(title="Next").append(said("n"))), ["n"], ["n"], {"title": "Next"}, tokens=(0, 0)
    ),
    "switch": Kind(switch, ["old"], ["old"], tokens=(0, 0)),
    "leave": Kind(leave, None, None),
    "delete": Kind(lambda at: delete(at, at.session), None, None),
    "delete of an ended one": Kind(lambda at: delete(at, at.ended), BEGUN, XY),
    "everything": Kind(
        then(
            lambda at: at.session.append(said("n"), id="mine"),
            lambda at: at.session.remove("m0"),
            lambda at: at.session.record_usage(input_tokens=7),
            lambda at: at.session.append(said("o", "p")),
            lambda at: at.session.pop(),
            lambda at: at.session.update(title="After"),
        ),
        ["1", "2", "3", "4", "n", "o"], [*XY[1:], "n", "o"], {"title": "After"}, tokens=(12, 15),
    ),
}  # fmt: skip


def seen(cache: SessionCache, key: str) -> dict[str, Any] | None:
    """What a server is told of a key."""
    try:
        session = cache.get(key)
    except SessionNotFound:
        return None
    info = session.info
    return {
        "messages": contents(session.history()),
        "title": info.title,
        "tokens": info.usage.input_tokens,
        "metadata": dict(info.metadata),
        "archived": info.archived,
        "count": info.message_count,
    }


def due(kind: Kind, *, xy: bool) -> dict[str, Any] | None:
    """What it shall be told; three tokens more if "x" and "y" came before."""
    messages = kind.after_xy if xy else kind.left
    if messages is None:
        return None
    told = {"title": "Before", "metadata": {}, "archived": False, **kind.details}
    return {**told, "tokens": kind.tokens[xy], "messages": messages, "count": len(messages)}


def everywhere(caches: tuple[SessionCache, ...], expected: dict[str, Any]) -> None:
    """Each server is told this, while it is hot and after it has been brought back from SQL; and seqs ascend."""
    for _ in range(2):
        for cache in caches:
            assert {name: seen(cache, name) for name in expected} == expected
        for name in expected:
            caches[0].evict(name)
    for name in expected:
        with suppress(SessionNotFound):
            seqs = [one.seq for one in caches[-1].get(name).messages()]
            assert seqs == sorted(set(seqs))


def rows(stack: Stack) -> dict[str, list]:
    """What SQL holds, but for when it was looked at."""
    engine = create_engine(stack.database_url)
    with engine.connect() as connection:
        found = {
            "messages": list(map(tuple, connection.execute(text("SELECT * FROM messages ORDER BY session_id, seq")))),
            "routes": list(map(tuple, connection.execute(text("SELECT * FROM routes ORDER BY session_key")))),
            "applied": list(map(tuple, connection.execute(text("SELECT * FROM applied_ops ORDER BY session_id, op_id")))),
        }
        columns = connection.execute(text("SELECT * FROM sessions ORDER BY session_id")).mappings()
        found["sessions"] = [{name: row[name] for name in row if name != "last_accessed"} for row in columns]
    engine.dispose()
    return found


def counted(caches: tuple[SessionCache, ...], name: str) -> int:
    return sum(cache.stats().counters[name] for cache in caches)


def scenes(caches: tuple[SessionCache, ...], names=KINDS) -> dict[str, Scene]:
    """One for each kind of op, drained; the second server has a near copy of each."""
    made = {name: Scene(caches[0], name) for name in names}
    caches[0].flush()
    for name in names:
        caches[1].get(name).history()
    return made


def test_ops_that_sql_has_already(snapshots):
    """Delivered again by an older Redis they change nothing: not a row of SQL, not a token, not an order."""
    stack = snapshots.stack
    with stack.cache(**FEW) as one, stack.cache(**FEW) as two:
        caches = (one, two)
        made = scenes(caches)
        for name, kind in KINDS.items():
            kind.act(made[name])
        snapshots.keep("pending")
        one.flush()
        before = rows(stack)
        snapshots.back_to("pending")
        waiting = two.stats().pending
        assert two.flush().ops == waiting > len(KINDS)
        assert rows(stack) == before
        assert counted(caches, "repeats") == waiting
        everywhere(caches, {name: due(kind, xy=False) for name, kind in KINDS.items()})
        assert (counted(caches, "renumbered"), one.stats().dead) == (0, 0)
        for name in KINDS:
            one.open(name).append(said("next"))
            assert two.get(name).history(1) == said("next")
        one.flush()
        assert one.stats().dead == 0


def test_versions_are_given_out_again(snapshots, caplog):
    """Every kind of op takes effect once, after what SQL had by then; who held a copy sees it; it is counted and told."""
    stack = snapshots.stack
    with stack.cache(**FEW) as one, stack.cache(**FEW) as two:
        caches = (one, two)
        made = scenes(caches)
        snapshots.keep("early")
        for name, kind in KINDS.items():
            kind.act(made[name])
        snapshots.keep("late")
        snapshots.back_to("early")
        for name, scene in made.items():
            handle = two.get(name)
            handle.append(said("x"), id="x")
            handle.append(said("y"))
            handle.record_usage(input_tokens=3)
            assert contents(scene.session.history()) == XY
        two.flush()
        assert counted(caches, "renumbered") == 0
        snapshots.back_to("late")
        waiting = one.stats().pending
        one.flush()
        everywhere(caches, {name: due(kind, xy=True) for name, kind in KINDS.items()})
        assert (one.stats().dead, one.stats().pending) == (0, 0)
        assert counted(caches, "renumbered") == waiting
        told = {record.session_key for record in caplog.records if "came back older" in record.message}
        assert told == set(KINDS)
        assert contents(two.read(made["start"].session.session_id)) == XY


@pytest.mark.parametrize("batch", [1, 1000])
def test_what_nobody_summarised_is_not_taken_for_it(snapshots, batch):
    """A consolidated pointer whose seq was given out again covers nothing that came in its place, however it is drained."""
    stack = snapshots.stack
    with stack.cache(**FEW, batch=batch) as one, stack.cache(**FEW, batch=batch) as two:
        (scene,) = scenes((one, two), ["k"]).values()
        scene.session.consolidate(scene.seqs[1], summary="up to 1")
        one.flush()
        snapshots.keep("early")
        (record,) = scene.session.append(said("n"))
        scene.session.consolidate(record.seq, summary="up to n")
        snapshots.keep("late")
        snapshots.back_to("early")
        two.get("k").append(said("x", "y"))
        two.flush()
        snapshots.back_to("late")
        one.flush()
        for cache in (one, two):
            session = cache.get("k")
            records, pointer = session.messages(), session.info.consolidated_seq
            assert contents(records) == [*XY, "n"]
            assert contents([one for one in records if one.seq > pointer]) == ["2", "3", "4", "x", "y", "n"]
            assert session.info.metadata["summary"] == "up to n"
            cache.evict("k")


def test_deleted_meanwhile(snapshots):
    """An older Redis that knows a session brings nothing of it back; what it alone has of it becomes dead letters."""
    stack = snapshots.stack
    with stack.cache(**FEW) as one, stack.cache(**FEW) as two:
        made = scenes((one, two), ["current", "ended", "again"])
        snapshots.keep("early")
        for scene in made.values():
            scene.session.append(said("late"))
            scene.session.record_usage(input_tokens=1)
        snapshots.keep("late")
        snapshots.back_to("early")
        handles = {name: two.get(name) for name in made}
        assert two.delete("current")
        handles["ended"].reset().append(said("new"))
        assert two.delete_session(made["ended"].session.session_id)
        assert two.delete("again")
        two.open("again").append(said("new"))
        two.flush()
        expected = {name: None if name == "current" else ["new"] for name in made}
        for moment in ("early", "late"):
            snapshots.back_to(moment)
            for cache in (one, two):
                cache.flush()
                for name, scene in made.items():
                    found = seen(cache, name)
                    assert (found and found["messages"]) == expected[name]
                    for call in (lambda at=scene: at.session.append(said("no")), scene.session.history):
                        with pytest.raises(SessionDeleted):
                            call()
                    cache.evict(name)
        letters = one.dead_letters()
        assert {(one.session_key, one.kind, one.reason) for one in letters} == {
            (name, kind, "session_deleted") for name in made for kind in ("append", "update")
        }
        assert not any("late" in str(row) for row in rows(stack)["messages"])


def test_reset_meanwhile(snapshots):
    """An older Redis believes the earlier session to be current; SQL knows better. Late ops go where they were meant."""
    stack = snapshots.stack
    with stack.cache(**FEW) as one, stack.cache(**FEW) as two:
        (scene,) = scenes((one, two), ["k"]).values()
        snapshots.keep("early")
        scene.session.append(said("late"), id="late")
        snapshots.keep("late")
        snapshots.back_to("early")
        fresh = two.get("k").reset()
        fresh.append(said("new"))
        two.flush()
        snapshots.back_to("early")
        assert contents(one.get("k").history()) == ["new"]
        for call in (lambda: scene.session.append(said("no")), scene.session.history):
            with pytest.raises(SessionMoved) as moved:
                call()
            assert moved.value.current == fresh.session_id
        snapshots.back_to("late")
        for cache in (two, one):
            assert contents(cache.get("k").history()) == ["new"]
            assert contents(cache.read(scene.session.session_id)) == [*BEGUN, "late"]
            assert contents(fresh.history()) == ["new"]
        back = one.get("k").switch(scene.session.session_id)
        back.append(said("late"), id="late")
        assert contents(back.history()) == [*BEGUN, "late"]
        assert one.stats().dead == 0


def test_sessions_that_were_moved_and_forked(snapshots):
    """What moves between keys is in SQL when the call returns: an older Redis that knows nothing of it cannot undo it."""
    stack = snapshots.stack
    with stack.cache(**FEW) as one, stack.cache(**FEW) as two:
        made = scenes((one, two), ["from", "to", "parent"])
        snapshots.keep("early")
        one.get("to").switch(made["from"].session.session_id).append(said("moved"))
        one.get("parent").fork("child").append(said("forked"))
        snapshots.keep("late")
        snapshots.back_to("early")
        with pytest.raises(SessionMoved):
            made["from"].session.append(said("no"))
        two.get("child").append(said("other"))
        two.get("to").append(said("x"))
        two.open("from").append(said("new"))
        two.flush()
        snapshots.back_to("late")
        one.flush()
        expected = {"from": ["new"], "to": [*BEGUN, "x", "moved"], "child": [*BEGUN, "other", "forked"], "parent": BEGUN}
        for cache in (one, two, one):
            found = {name: seen(cache, name)["messages"] for name in expected}
            assert found == expected
            for name in expected:
                cache.evict(name)
        assert contents(two.read(made["to"].session.session_id)) == BEGUN
        assert one.stats().dead == 0


def test_an_older_append_only_file(append_only):
    """The same from an append-only file."""
    stack = append_only.stack
    with stack.cache(**FEW) as one, stack.cache(**FEW) as two:
        (scene,) = scenes((one, two), ["k"]).values()
        append_only.keep("early")
        scene.session.append(said("n"))
        append_only.keep("late")
        append_only.back_to("early")
        two.get("k").append(said("x"))
        two.flush()
        append_only.back_to("late")
        assert contents(two.get("k").history()) == [*BEGUN, "x", "n"]
        assert contents(scene.session.history()) == [*BEGUN, "x", "n"]
        one.evict("k")
        assert contents(one.get("k").history()) == [*BEGUN, "x", "n"]
        assert counted((one, two), "renumbered") == 1


def test_a_replica_that_lagged_is_promoted(some_stack, proxy):
    """The primary dies after SQL had what the replica never got; servers reach the replica under the same address."""
    port, binary = str(closed_port()), binary_of(some_stack.name.partition("-")[0])
    primary = RedisServer(binary, port=port, bind="127.0.0.1", **{"repl-diskless-sync-delay": "0"}).start()
    replica = RedisServer(binary).start()
    between = proxy(primary.socket)
    stack = replace(some_stack, redis_url=between.url)
    try:
        with stack.cache(**FEW) as one, stack.cache(**FEW) as two, redis.Redis.from_url(replica.url) as other:
            mine = one.open("k")
            mine.append(said("a"))
            theirs = two.get("k")
            assert contents(theirs.history()) == ["a"]
            other.replicaof("127.0.0.1", port)
            until(lambda: other.info("replication").get("master_link_status") == "up")
            one.stats()
            until(lambda: other.llen(one._state.keyspace.of("k").pending) == 2)
            other.replicaof("NO", "ONE")  # it gets nothing more, as one that lags
            mine.append(said("b", "c"))
            one.flush()
            mine.append(said("only in the primary"))
            primary.kill()
            between.target = replica.socket
            assert contents(theirs.history()) == ["a", "b", "c"]
            new = theirs.append(said("d"))
            assert contents(mine.history()) == ["a", "b", "c", "d"]
            assert new[0].seq > mine.messages()[2].seq
            two.flush()
            one.evict("k")
            assert contents(mine.history()) == ["a", "b", "c", "d"]
            assert (one.stats().dead, one.stats().pending) == (0, 0)
    finally:
        primary.close()
        replica.close()


def test_a_snapshot_older_than_what_sql_remembers(snapshots):
    """Messages that stand are known by themselves; what only op ids tell is taken for new. An empty Redis is safe."""
    stack = snapshots.stack
    with stack.cache(**FEW) as one, stack.cache(**FEW) as two:
        (scene,) = scenes((one, two), ["k"]).values()
        scene.session.append(said("n"))
        scene.session.remove("m1")
        scene.session.record_usage(input_tokens=7)
        snapshots.keep("pending")
        one.flush()
        with stack.cache(**FEW, op_retention=0.001) as forgetful:
            from sessioncache import ops

            assert forgetful._run(ops.forget_ops(forgetful._state))
        snapshots.back_to("pending")
        two.flush()
        found = seen(two, "k")
        assert found["messages"] == ["0", "2", "3", "4", "n"]
        assert found["tokens"] == 5 + 7 + 7
        snapshots.back_to("pending")
        with stack.raw() as raw:
            raw.flushall()
        two.flush()
        assert seen(one, "k") == found
