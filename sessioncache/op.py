r"""Ops: one change under a session key, and its element in the pending log.

An element is a plain header line, then a payload that no script decodes::

    <version> <op id> <left> <milliseconds> <kind> <session id>\n<payload>

``left`` is the number of ops of the same group that follow; a group is never split. Kinds, and their payloads:

=========  ====================================================================  =========================================
append     a message                                                             ``<message id>\n<msgpack>``
event      a message that is no activity                                         the same
replace    every message goes; those of its group come                           none
truncate   the first messages stay                                               how many
clear      every message goes, and the summary                                   ``0``
retain     of the messages that were seen a run stays                            seq and id of its first and last, and of
                                                                                 the last one seen, by line
remove     one message goes                                                      its id
edit       one message gets another content                                      ``<message id>\n<msgpack>``
update     what is known of the session changes                                  ``1`` (activity) or ``0``, then msgpack
touch      the session was accessed                                              none
tell       the application was told that it is about to be reset                 none
start      the session begins, and ends the one that was current                 ``1`` (it replaces one) or ``0``, msgpack
switch     the session becomes current, and ends the one that was                none
leave      the session is not this key's any more                                why
delete     the session is deleted, current or not                                none
=========  ====================================================================  =========================================

An op id is sixteen characters of base64url: 96 random bits, or, for a caller's own message id, 96 bits of a SHA-256 over
session id and message id, so that the same message id in the same session always makes the same op id.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from binascii import b2a_base64
from collections.abc import Sequence
from hashlib import sha256
from itertools import zip_longest
from os import urandom
from typing import NamedTuple

from sessioncache.arguments import LAST_MILLISECOND
from sessioncache.keys import MAX_NAME_CHARACTERS

APPEND, EVENT = "append", "event"
REPLACE, TRUNCATE, CLEAR, RETAIN, REMOVE, EDIT = "replace", "truncate", "clear", "retain", "remove", "edit"
UPDATE, TOUCH, TELL = "update", "touch", "tell"
START, SWITCH, LEAVE, DELETE = "start", "switch", "leave", "delete"
MESSAGE_KINDS = frozenset({APPEND, EVENT})
KINDS = frozenset(
    {APPEND, EVENT, REPLACE, TRUNCATE, CLEAR, RETAIN, REMOVE, EDIT, UPDATE, TOUCH, TELL, START, SWITCH, LEAVE, DELETE}
)

_KINDS = {kind.encode(): kind for kind in KINDS}
# Kinds whose payload begins with a message id and a line break.
_NAMING = MESSAGE_KINDS | {EDIT}
_HEADER = re.compile(rb"(\d{1,16}) ([\w-]{16}) (\d{1,9}) (\d{1,15}) ([a-z_]+) ([^\n]{1,1024})\n")
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_OWN_MESSAGE_ID = re.compile(r"([A-Za-z0-9_-]{16})(?:\.(\d+))?")


def new_op_id() -> str:
    """An op id that nobody else has."""
    return b2a_base64(urandom(12), newline=False).translate(_URL_SAFE).decode()


def message_ids(op_id: str, count: int) -> list[str]:
    """The message ids of a group of messages that came without ids of their own."""
    return [op_id] if count == 1 else [f"{op_id}.{index}" for index in range(count)]


def replacing_ids(op_id: str, count: int) -> list[str]:
    """The message ids of a replace, whose own version is the first of its group."""
    return [f"{op_id}.{index}" for index in range(1, count + 1)]


def op_id_of(session_id: str, message_id: str) -> str:
    """The op id of a message that came with an id of its own."""
    return urlsafe_b64encode(sha256(f"{session_id}\n{message_id}".encode()).digest()[:12]).decode()


def remembered(session_id: str, message_id: str, seq: int) -> tuple[str, int]:
    """The op id and its first version, from a message that SQL kept.

    A caller's id that looks like one that was made here is remembered under another op id than its append used; then a
    repeat is found when draining instead of in Redis.
    """
    own = _OWN_MESSAGE_ID.fullmatch(message_id)
    if own is None:
        return op_id_of(session_id, message_id), seq
    return own[1], seq - int(own[2] or 0)


class Op(NamedTuple):
    """One op, as it stands in a pending log.

    Attributes:
        message_id: of kinds whose payload begins with one; else empty.
    """

    version: int
    op_id: str
    left: int
    at_ms: int
    kind: str
    session_id: str
    payload: bytes
    message_id: str = ""

    @property
    def name(self) -> str:
        """What tells it from every other op of its log: a repeat has the same op id under another version."""
        return f"{self.version} {self.op_id}"


def parse(element: bytes) -> Op:
    """The op in an element of a pending log.

    Raises:
        ValueError: it holds none, or one of a kind that this version does not know.
    """
    header = _HEADER.match(element)
    if header is None:
        raise ValueError("no op")
    version, op_id, left, at_ms, kind, session_id = header.groups()
    known, at, message_id, payload = _KINDS.get(kind), int(at_ms), "", element[header.end() :]
    if known is None:
        raise ValueError("an unknown kind of op")
    if at > LAST_MILLISECOND:
        raise ValueError("no time")
    if known in _NAMING:
        message_id = payload.partition(b"\n")[0].decode()
        if not 0 < len(message_id) <= MAX_NAME_CHARACTERS:
            raise ValueError("no message id")
    return Op(int(version), op_id.decode(), int(left), at, known, session_id.decode(), payload, message_id)


def is_corrupt(element: bytes) -> bool:
    """Whether an element is no op of any version: neither of this one, nor one that has a header as ops have."""
    header = _HEADER.match(element)
    return parsed(element) is None and (header is None or header[5].decode() in KINDS)


def corrupt_in(elements: Sequence[bytes]) -> bytes | None:
    """The first element of a log's head that is no op, or whose group does not follow it; None where there is none."""
    for element, following in zip_longest(elements, elements[1:]):
        if is_corrupt(element):
            return element
        found, after = parsed(element), following and parsed(following)
        if found is not None and found.left and (not following or (after and after.left != found.left - 1)):
            return element
    return None


def unversioned(op: Op, left: int) -> bytes:
    """The element of an op without its version, in a group of which so many follow."""
    header = f"{op.op_id} {left} {op.at_ms} {op.kind} {op.session_id}\n"
    return header.encode() + op.payload


def parsed(element: bytes) -> Op | None:
    """The op in an element of a pending log, if it holds one that this version knows."""
    try:
        return parse(element)
    except ValueError:
        return None


def readable(elements: Sequence[bytes]) -> list[Op]:
    """The ops at the head of a log, in whole groups, up to the first element that holds none."""
    found: list[Op] = []
    for element in elements:
        op = parsed(element)
        if op is None or (found and found[-1].left and op.left != found[-1].left - 1):
            break
        found.append(op)
    while found and found[-1].left:
        found.pop()
    return found


def message_of(op: Op) -> tuple[str, bytes]:
    """The message id and the encoded message of an append."""
    return op.message_id, op.payload.partition(b"\n")[2]
