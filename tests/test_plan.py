"""What a log does to the store, as a pure function; and the drivers and near copies, without any server."""

from __future__ import annotations

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessioncache import op as ops
from sessioncache.config import Settings
from sessioncache.errors import HotTierUnavailable, SessionCacheError
from sessioncache.flow import Pause, arun, run
from sessioncache.near import Copy, NearCopies
from sessioncache.op import Op
from sessioncache.repeat import evaluate
from sessioncache.scripts import APPEND
from sessioncache.state import State
from sessioncache.store.plan import DELETED, MISSING, MOVED, plan
from sessioncache.store.planned import Log, Route, Standing


def messages_of(made):
    return [one for step in made.steps for one in step.messages]


def make(version, kind, session_id="s", name=None, left=0):
    message_id = f"m{name or version}" if kind == ops.APPEND else ""
    payload = f"{message_id}\n".encode() if message_id else b""
    return Op(version, name or f"op{version}", left, 1000 + version, kind, session_id, payload, message_id)


def standing(route=("s", 0), known=(), deleted=()):
    known_of_s = {("s", name): at for name, at in dict(known).items()}
    return Standing({"k": Route(*route)}, known_of_s, set(), set(deleted), dict.fromkeys(["s", "t", "old"], "k"))


def outcome(log, before):
    made = plan([Log("k", log)], before)
    return made, made.outcomes[0]


def test_new_ops_take_effect():
    """In order, each under its own version."""
    made, found = outcome([make(1, ops.START), make(2, ops.APPEND), make(3, ops.APPEND)], standing(("", 0)))
    assert [one.seq for one in messages_of(made)] == [2, 3]
    assert made.routes == {"k": Route("s", 3)}
    assert (found.applied, found.version, found.drop) == (["1 op1", "2 op2", "3 op3"], 3, False)
    assert (made.activity["s"].added, made.activity["s"].last_seq) == (2, 3)


def test_known_ops_are_skipped_and_acknowledged():
    """A log delivered again changes nothing."""
    made, found = outcome([make(2, ops.APPEND), make(3, ops.APPEND)], standing(("s", 3), known={"m2": 2, "m3": 3}))
    assert (messages_of(made), found.applied, found.repeats, found.drop) == ([], ["2 op2", "3 op3"], 2, False)
    assert made.routes == {"k": Route("s", 3)}


def test_a_repeat_that_redis_took_for_new_drops_the_hot_copy():
    """It would show twice there."""
    made, found = outcome([make(9, ops.APPEND, name="x")], standing(("s", 8), known={"mx": 4}))
    assert (messages_of(made), found.drop, found.version) == ([], True, 8)


def test_a_repeat_keeps_dropping_the_hot_copy_until_it_is_acknowledged():
    """The drainer that found it may die before its ack: whoever drains it again says the same."""
    log = [make(9, ops.APPEND, name="x"), make(10, ops.APPEND)]
    _, found = outcome(log, standing(("s", 10), known={"mx": 4, "m10": 10}))
    assert (found.drop, found.applied) == (True, ["9 x", "10 op10"])


def test_versions_given_out_again():
    """The first new op at or below the store's version is renumbered, with all that follow."""
    made, found = outcome(
        [make(4, ops.APPEND), make(5, ops.APPEND), make(9, ops.APPEND)], standing(("s", 6), known={"m4": 4})
    )
    assert [one.seq for one in messages_of(made)] == [7, 8]
    assert (found.renumbered, found.drop, found.version, made.activity["s"].last_seq) == (2, True, 8, 8)


def test_ops_for_a_deleted_session():
    """Refused, remembered as such, and refused again until they are acknowledged; a session is never revived."""
    made, found = outcome([make(2, ops.APPEND), make(3, ops.APPEND)], standing(("", 1), deleted=["s"]))
    assert (messages_of(made), found.applied, found.drop) == ([], [], True)
    assert found.refused == [("2 op2", DELETED), ("3 op3", DELETED)]
    assert [one.refused for one in made.applied_ops] == [True, True]
    again = standing(("", 1), deleted=["s"])
    again.refused.update({("s", "m2"), ("s", "m3")})
    assert outcome([make(2, ops.APPEND), make(3, ops.APPEND)], again)[1].refused == found.refused


def test_delete_in_the_middle_of_a_log():
    """What came before it is applied, what comes after is refused, and a new session may start."""
    log = [make(2, ops.APPEND), make(3, ops.DELETE), make(4, ops.APPEND), make(5, ops.START, "t"), make(6, ops.APPEND, "t")]
    made, found = outcome(log, standing(("s", 1)))
    assert [(one.session_id, one.seq) for one in messages_of(made)] == [("s", 2), ("t", 6)]
    assert (list(made.deletes), found.refused, made.routes["k"]) == (["s"], [("4 op4", DELETED)], Route("t", 6))


def test_an_op_for_a_session_that_is_not_current():
    """It is kept under the session it was written for, and the hot copy is dropped."""
    made, found = outcome([make(5, ops.APPEND, "old")], standing(("s", 4)))
    assert (messages_of(made)[0].session_id, found.drop, made.routes["k"]) == ("old", True, Route("s", 5))


def test_ops_for_a_session_that_is_not_there():
    """Its start was refused: so are they, until it is; another session's ops go on."""
    log = [make(5, ops.APPEND, "lost"), make(6, ops.UPDATE, "lost"), make(7, ops.APPEND)]
    made, found = outcome(log, standing(("s", 4)))
    assert (found.refused, found.applied) == ([("5 op5", MISSING), ("6 op6", MISSING)], ["7 op7"])
    assert [one.session_id for one in messages_of(made)] == ["s"]
    log = [make(5, ops.APPEND, "lost"), make(6, ops.START, "lost"), make(7, ops.APPEND, "lost")]
    assert outcome(log, standing(("s", 4)))[1].refused == [("5 op5", MISSING)]


def test_ops_that_are_to_be_refused():
    """All that are new, with the reason; what is known already is not."""
    logs = [Log("k", [make(5, ops.APPEND), make(6, ops.APPEND), make(7, ops.START, "u"), make(8, ops.DELETE)])]
    made = plan(logs, standing(("s", 5), known={"m5": 5}), "23514")
    (found,) = made.outcomes
    assert (found.applied, found.drop) == (["5 op5"], True)
    assert found.refused == [("6 op6", "23514"), ("7 op7", "23514"), ("8 op8", "23514")]
    assert (made.starts, made.steps, made.deletes, made.routes["k"]) == ([], [], {}, Route("s", 5))


@given(st.lists(st.sampled_from([ops.APPEND, ops.TOUCH]), min_size=1, max_size=12), st.data())
def test_any_split_of_a_log_does_the_same(kinds, data):
    """Applied at once, in pieces, or with pieces delivered again: same messages, same version."""
    log = [make(n + 2, kind) for n, kind in enumerate(kinds)]
    whole, _ = outcome(log, standing(("s", 1)))
    state, at, seen = standing(("s", 1)), 0, []
    while at < len(log):
        end = data.draw(st.integers(at + 1, len(log)))
        begin = data.draw(st.integers(0, at))
        made, found = outcome(log[begin:end], state)
        assert not found.renumbered
        seen += messages_of(made)
        state.routes = made.routes
        at = end
    assert (seen, state.routes) == (messages_of(whole), whole.routes)


def conversation():
    first = yield Pause(1)
    try:
        second = yield Pause(2)
    except SessionCacheError as error:
        second = str(error)
    return first, second


@pytest.mark.parametrize("fails", [False, True])
def test_both_drivers_perform_a_flow_alike(fails):
    """Replies are sent back, errors thrown in at the request that met them."""
    asked = []

    def perform(request):
        asked.append(request.seconds)
        if fails and request.seconds == 2:
            raise SessionCacheError("no")
        return request.seconds * 10

    async def aperform(request):
        return perform(request)

    expected = (10, "no" if fails else 20)
    assert run(conversation(), perform) == asyncio.run(arun(conversation(), aperform)) == expected
    assert asked == [1, 2, 1, 2]


def test_a_command_without_an_answer_is_repeated_for_a_bounded_time():
    """Growing, jittered pauses; then the error."""
    state = State.of(Settings(timeout=2.0, redis_timeout=1.9))
    flow, pauses = evaluate(state, APPEND, ("k",)), []
    request = next(flow)
    with pytest.raises(HotTierUnavailable):
        for _ in range(50):
            pause = flow.throw(HotTierUnavailable("gone"))
            assert isinstance(pause, Pause)
            pauses.append(pause.seconds)
            threading.Event().wait(pause.seconds)
            assert flow.send(None) is request
    assert 1 <= len(pauses) < 10
    assert sum(pauses) <= 0.1


def copy_of(count, revision="r", size=10):
    raw = [b"x" * size for _ in range(count)]
    return Copy("s", revision, count, count, raw, count, count * size)


def test_near_copies_are_bounded():
    """By sessions and by bytes; the least recently used goes first."""
    near = NearCopies(3, 1000)
    for name in "abcd":
        near.put(name, copy_of(5))
    assert near.get("a") is None
    near.get("b")
    near.put("e", copy_of(5))
    assert [near.get(name) is not None for name in "bcde"] == [True, False, True, True]
    near.put("big", copy_of(95))
    assert [near.get(name) is not None for name in ("b", "d", "e", "big")] == [False, False, True, True]
    near.put("huge", copy_of(200))
    assert near.get("huge") is None
    near.drop("big")
    near.drop("big")


def test_readers_that_extend_the_same_copy_agree():
    """Threads that saw different lengths extend one list; each keeps its own length."""
    near, base = NearCopies(10, 10**9), copy_of(1)
    later = [b"%d" % n for n in range(1, 50)]

    def extend(upto):
        made = near.extend(base, 1 + upto, later[:upto], 0)
        assert made.length == 1 + upto
        near.put("k", made)

    threads = [threading.Thread(target=extend, args=(n,)) for n in (1, 30, 7, 49, 12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert base.raw[1:] == later
    assert near.get("k").version == 50


@pytest.mark.parametrize(
    ("kinds", "told"),
    [
        ([ops.APPEND, ops.TELL], True),
        ([ops.TELL, ops.APPEND], False),
        ([ops.TELL, ops.EVENT], True),
        ([ops.TELL, ops.TOUCH], True),
    ],
)
def test_activity_after_it_was_told(kinds, told):
    """Only what is activity makes the application be told again."""
    made, _ = outcome([make(n, kind) for n, kind in enumerate(kinds, 1)], standing(("s", 0)))
    assert made.activity["s"].told is told


def test_late_messages_of_a_session_that_is_another_keys():
    """They become dead letters; a deletion of it changes nothing, and says so by no tombstone."""
    before = standing(("t", 3))
    before.keys["s"] = "other"
    made, found = outcome([make(4, ops.APPEND), make(5, ops.DELETE), make(6, ops.SWITCH)], before)
    assert (messages_of(made), made.deletes, made.routes["k"]) == ([], {}, Route("t", 5))
    assert found.refused == [("4 op4", MOVED), ("6 op6", MOVED)]


def test_a_late_message_comes_after_the_last():
    """A session that was brought back keeps its order, whatever version its late message had."""
    before = standing(("t", 3))
    before.last_seqs["s"] = 20
    made, found = outcome([make(4, ops.APPEND), make(5, ops.APPEND, "t")], before)
    assert [(one.session_id, one.seq) for one in messages_of(made)] == [("s", 21), ("t", 22)]
    assert (found.drop, found.renumbered) == (True, 2)
