"""Appending: which messages, under which ids, and how far they have got when the call returns (`durability`).

Redis is asked on the connection that ran the script, whose every run writes, a repeat's too: a repeat waits as truly as the
first. SQL is asked for the messages themselves, once the key is drained.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

from sessioncache import durability
from sessioncache.durability import CACHED, STORED, Replicated, Synced
from sessioncache.errors import DurabilityNotReached, InvalidKey, InvalidMessage, SessionCacheError
from sessioncache.flow import Flow, Transact
from sessioncache.hot import writing
from sessioncache.keys import check_name
from sessioncache.lifecycle.handle import Handle, changed
from sessioncache.message import encode
from sessioncache.op import APPEND, EVENT, message_ids, op_id_of
from sessioncache.records import Record, record
from sessioncache.state import State
from sessioncache.store import load
from sessioncache.write_behind import drain_key

# Each is remembered beside the hot copy, which is rewritten with every write.
MAX_IDS = 1000


class Terms(NamedTuple):
    """On what terms messages are appended.

    Attributes:
        expected_version: the version the key must have; None for any.
        activity: whether it counts as activity.
        durability: how far they shall have got.
    """

    expected_version: int | None
    activity: bool
    durability: object


def append(
    state: State,
    handle: Handle,
    messages: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    ids: str | Sequence[str] | None,
    asked: Terms,
) -> Flow[list[Record]]:
    """Append one message or several, all or none of them; their records, in order.

    Raises:
        InvalidMessage, InvalidKey, InvalidInput: a message, an id or a level is refused; nothing was written.
        SessionMoved, SessionDeleted: the handle's session is not current any more.
        VersionConflict, TurnLost: the terms do not hold.
        Backpressure: too much waits for the store.
        DurabilityUnavailable: Redis has no such level; nothing was written.
        DurabilityNotReached: they are accepted, but have not got so far.
    """
    known: dict[str, str | int] = {"session_id": handle.session_id, "partition": handle.keys.partition}
    return state.traced("append", _append(state, handle, messages, ids, asked), known, _told)


def _told(records: Sequence[Record]) -> dict[str, int]:
    return {"messages": len(records), "version": records[-1].seq if records else 0}


def _append(
    state: State,
    handle: Handle,
    messages: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    ids: str | Sequence[str] | None,
    asked: Terms,
) -> Flow[list[Record]]:
    begun = time.perf_counter()
    level, question = durability.named(asked.durability)
    packed = encoded(state, as_list(messages))
    wait = durability.wait_of(question, state.settings.redis_timeout) if question else None
    terms = handle.change(asked.expected_version, wait)
    names, op_ids = _names(handle.session_id, ids, len(packed), terms.op_id)
    if not packed:
        return []
    named, kind = with_names(names, packed), APPEND if asked.activity else EVENT
    attempt = partial(writing.append, state, handle.keys, terms, kind, op_ids, named)
    reply = yield from changed(state, handle, attempt)
    state.counters.observe("append_seconds", time.perf_counter() - begun, appends=1, messages_appended=len(packed))
    elements = reply.elements
    if reply.version == reply.before + len(elements):  # none of them was there before
        near = handle.keys.session_key, handle.session_id, reply.revision
        state.near.follow(*near, reply.before, reply.version, elements)
    if level == STORED:
        missing = yield from _missing(state, handle, names)
    else:
        missing = _short_of(question, reply.waited) if question else ""
    if missing:
        raise _not_reached(level, missing, [record(one, CACHED) for one in elements])
    return list(map(record, elements, repeat(level)))


def _short_of(question: Replicated | Synced, answer: object) -> SessionCacheError | str:
    """What Redis's answer lacks; nothing where it is enough."""
    if isinstance(answer, SessionCacheError):
        return answer
    if durability.wait_of(question, 1.0).reached(answer):
        return ""
    if isinstance(question, Replicated):
        return f"{answer} of {question.replicas} replicas have it after {question.timeout} s"
    on_disk, replicas = answer if isinstance(answer, list) else (0, 0)
    synced = "Redis has synced it" if on_disk else "Redis has not synced it"
    return f"{synced}, and {replicas} of {question.replicas} replicas have, after {question.timeout} s"


def _missing(state: State, handle: Handle, names: Sequence[str]) -> Flow[SessionCacheError | str]:
    """Why the store, once the key is drained, does not have these messages; nothing where it has, or had, them all."""
    work = partial(load.missing, session_id=handle.session_id, message_ids=names)
    try:
        yield from drain_key(state, handle.keys.session_key)
        missing: int = yield Transact(work, writes=False)
    except SessionCacheError as error:
        return error
    return f"the store set {missing} of them aside: see dead_letters()" if missing else ""


def _not_reached(level: str, missing: SessionCacheError | str, records: list[Record]) -> DurabilityNotReached:
    error = DurabilityNotReached(
        f"What was appended is accepted by Redis, but is not known to be {level}: {missing}. Do not append it anew; with "
        "the same id, append waits again.",
        durability=level,
        records=records,
    )
    error.__cause__ = missing if isinstance(missing, SessionCacheError) else None
    return error


def encoded(state: State, messages: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """The msgpack of each message.

    Raises:
        InvalidMessage: one is refused, or together they are too large.
    """
    settings = state.settings
    packed = list(map(encode, messages, repeat(settings.max_message_bytes)))
    if sum(map(len, packed)) > max(settings.batch_bytes, settings.max_message_bytes):
        raise InvalidMessage(f"One call takes at most batch_bytes ({settings.batch_bytes}); append in pieces.")
    return packed


def with_names(names: Sequence[str], packed: Sequence[bytes]) -> list[bytes]:
    """Messages as scripts are given them."""
    return list(map(b"%b\n%b".__mod__, zip(map(str.encode, names), packed, strict=True)))


def as_list(messages: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """One message, or several.

    Raises:
        InvalidMessage: it is neither.
    """
    if isinstance(messages, dict):
        return [messages]
    if isinstance(messages, list | tuple):
        return messages
    raise InvalidMessage(f"It takes a message or a list of messages, not {type(messages).__name__}.")


def _names(session_id: str, ids: str | Sequence[str] | None, count: int, op_id: str) -> tuple[list[str], list[str]]:
    """Message ids and op ids; messages without ids of their own share one op id."""
    if ids is None:
        return message_ids(op_id, count), [op_id] * count
    if not isinstance(ids, str | list | tuple):
        raise InvalidKey(f"id takes a message id or a list of them, not {type(ids).__name__}.")
    if count > MAX_IDS:
        raise InvalidMessage(f"One append takes at most {MAX_IDS} messages with ids of their own; append in pieces.")
    names = [check_name(one, "message id") for one in ([ids] if isinstance(ids, str) else ids)]
    if len(names) != count or len(set(names)) != count:
        raise InvalidKey(f"{count} messages need {count} different ids, not {len(set(names))}.")
    return names, [op_id_of(session_id, name) for name in names]
