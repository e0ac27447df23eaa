"""The ops that were applied last under a key: what a hot copy remembers, so that a repeat gets the first answer again.

An append is remembered by its messages. Where those of the current session are at hand and no other session of the key was
written lately, they are not read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, and_, bindparam, exists, func, select

from sessioncache.op import remembered
from sessioncache.schema import applied_ops, messages, routes, sessions

# Characters of an op id; applied_ops also holds message ids of messages that were removed, which may be longer.
OP_ID = 16
# Messages of one time that are remembered together: as many as one append takes with ids of their own. Imported ones may
# be more.
LARGEST_GROUP = 1000

_SINCE = bindparam("since", type_=BigInteger)
_APPENDED = (
    select(messages.c.session_id, messages.c.message_id, messages.c.seq, messages.c.created_at)
    .join(sessions, sessions.c.session_id == messages.c.session_id)
    .where(sessions.c.session_key == bindparam("session_key"), sessions.c.last_seq > _SINCE)
    .order_by(messages.c.seq.desc())
)
_LATELY = _APPENDED.where(messages.c.seq > _SINCE, messages.c.seq <= bindparam("version", type_=BigInteger)).limit(
    bindparam("count", type_=BigInteger)
)
_SAME_TIME = _APPENDED.where(
    messages.c.session_id == bindparam("session_id"),
    messages.c.seq <= _SINCE,
    messages.c.seq > _SINCE - LARGEST_GROUP,
    messages.c.created_at == bindparam("created_at"),
).limit(LARGEST_GROUP)
_OTHER_OPS = select(applied_ops.c.op_id, applied_ops.c.version).where(
    applied_ops.c.session_key == bindparam("session_key"),
    applied_ops.c.version > _SINCE,
    func.length(applied_ops.c.op_id) == OP_ID,
)


_other = sessions.alias()
# Whether another session than the current one may have ops among the last ``keep`` of a route's key.
HAS_OTHERS = exists().where(
    and_(
        _other.c.session_key == routes.c.session_key,
        _other.c.last_seq > routes.c.version - bindparam("keep", type_=BigInteger),
        _other.c.session_id != routes.c.session_id,
    )
)


class _Message(NamedTuple):
    """A message, and when it was accepted: equal for what was appended at once."""

    session_id: str
    message_id: Any
    seq: int
    at: Any


class Loaded(NamedTuple):
    """The newest messages of a session as elements, oldest first, and whether they are all."""

    session_id: str
    elements: Sequence[bytes]
    is_all: bool


def recent_ops(
    connection: Connection, session_key: str, version: int, keep: int, loaded: Loaded | None = None
) -> list[list[tuple[str, int]]]:
    """The op ids of a key's last ``keep`` versions, each with its (first) version, in groups, oldest first.

    What was appended at once was accepted at the same time and is one group; the oldest one is given whole. With ``loaded``
    the messages are those of the only session that may have any among those versions.
    """
    since = version - keep
    found = None if loaded is None else _among(loaded, since, version)
    if found is None:
        found = _stored(connection, session_key, since, version)
    groups: dict[Any, dict[str, int]] = {}
    for one in found:
        if type(one.message_id) is not str:
            continue  # nobody repeats it; SQLite keeps anything in any column
        op_id, first = remembered(one.session_id, one.message_id, one.seq)
        groups.setdefault(one.at, {})[op_id] = first
    others = connection.execute(_OTHER_OPS, {"session_key": session_key, "since": since})
    whole = [sorted(group.items(), key=_version) for group in groups.values()]
    whole += [[(row.op_id, row.version)] for row in others]
    return sorted(whole, key=lambda group: group[0][1])


def _among(loaded: Loaded, since: int, version: int) -> list[_Message] | None:
    """The messages above ``since``, and those that were appended at once with the oldest; None where more are needed."""
    found: list[_Message] = []
    for raw in reversed(loaded.elements):
        seq, at, message_id = raw[: raw.index(b"\n")].split(b" ", 2)
        if int(seq) <= since and (not found or found[-1].at != at or len(found) > LARGEST_GROUP):
            return found
        if int(seq) <= version:
            found.append(_Message(loaded.session_id, message_id.decode(), int(seq), at))
    return found if loaded.is_all else None


def _stored(connection: Connection, session_key: str, since: int, version: int) -> list[_Message]:
    """The same from the store, of all sessions of the key."""
    bounds = {"session_key": session_key, "since": since}
    found = list(connection.execute(_LATELY, {**bounds, "version": version, "count": version - since}))
    if found:
        cut = found[-1]
        found += connection.execute(_SAME_TIME, {**bounds, "session_id": cut.session_id, "created_at": cut.created_at})
    return [_Message(*row) for row in found]


def _version(pair: tuple[str, int]) -> int:
    return pair[1]
