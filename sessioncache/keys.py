r"""The keyspace: every Redis key of sessioncache, in one table.

===============================  ======  =========  ============================================================
key                              type    TTL        holds
===============================  ======  =========  ============================================================
``sc:{P}:history:K``             list    sliding    the newest messages of K's current session, oldest first
``sc:{P}:meta:K``                hash    the same   run, session id, version, revision, counts, recent op ids
``sc:{P}:pending:K``             list    none       the pending log: ops that are not in SQL yet, in version order
``sc:{P}:lease:K``               string  seconds    the right to hydrate K
``sc:{P}:turn:K``                string  seconds    the right to answer in K's current session
``sc:{P}:dirty``                 zset    none       session keys with a pending log, scored by when a claim is due
``sc:{P}:backlog``               hash    none       ops and bytes of each dirty session key's log, and of all of them
``sc:{P}:oldest``                zset    none       dirty session keys, scored by the time of the first op of their log
``sc:{P}:dead``                  list    none       dead letters
``sc:{P}:holds``                 zset    none       ``<session key>\n<name> <token>`` of each hold, scored by its end
``sc:{P}:held``                  zset    none       the same members, all scored 0: in the order of their session keys
``sc:{P}:wake``                  string  seconds    the doorbell: present while a nudge or a drainer is about
``sc:{P}:titles:<hash>``         string  seconds    who gives unique titles that begin alike to an owner's sessions
``sc:{000}:layout``              hash    none       layout version, number of partitions, which one is coming
``sc:schedule``                  string  seconds    who runs the schedule (one at a time)
``sc:lane:<n>-of-<lanes>``       string  seconds    which job serves a lane (one at a time)
``sc:importing``                 string  seconds    who imports or changes the partitions (one at a time)
``sc:processes``                 zset    an hour    names of processes, scored by the time of their last report
``sc:process:<name>``            string  seconds    what a process counted: JSON
===============================  ======  =========  ============================================================

``sc`` is the configured prefix, ``K`` a session key, ``P`` its partition: ``crc32(K) % partitions``, three digits. The
braces make P the Redis Cluster hash tag, so that one script may touch all keys of a session. The kind stands before K:
no session key can collide with another session's keys. That K has no session at all is a hot copy too: a ``meta``
whose session id is empty and which lives for seconds.

Guarantee (I1): a key with a TTL may vanish at any instant and nothing is lost.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from zlib import crc32

from sessioncache.errors import InvalidKey

LAYOUT_VERSION = 1
MAX_PARTITIONS = 1000
MAX_KEY_BYTES = 512
MAX_NAME_CHARACTERS = 255

_KINDS = ("meta", "history", "pending", "lease", "turn")
_SHARED = ("dirty", "backlog", "oldest", "dead", "wake", "holds", "held")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def check_session_key(key: object) -> str:
    """The key itself, if it is 1 to 512 bytes of UTF-8 without control characters; else `InvalidKey`."""
    text = _clean_text(key, "session key")
    if not 1 <= len(text.encode()) <= MAX_KEY_BYTES:
        raise InvalidKey(f"A session key must be 1 to {MAX_KEY_BYTES} bytes of UTF-8, not {len(text.encode())}.")
    return text


def check_name(value: object, what: str) -> str:
    """An id or owner itself, if it is 1 to 255 characters without control characters; else `InvalidKey`."""
    text = _clean_text(value, what)
    if not 1 <= len(text) <= MAX_NAME_CHARACTERS:
        raise InvalidKey(f"The {what} must be 1 to {MAX_NAME_CHARACTERS} characters long, not {len(text)}.")
    return text


def _clean_text(value: object, what: str) -> str:
    if type(value) is not str:
        raise InvalidKey(f"The {what} must be a str, not {type(value).__name__}.")
    if value.isascii() and value.isprintable():
        return value  # what most are: nothing that is looked for below
    if _CONTROL.search(value):
        raise InvalidKey(f"The {what} must not contain control characters; remove or escape them.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidKey(f"The {what} contains a lone surrogate and is not valid UTF-8.") from error
    return value


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """The Redis keys of one session key, and those of its partition.

    Attributes:
        logging: those of whatever logs an op, in the order of the scripts.
        changing: those of every change.
        changing_quietly: those of a change that asks whether somebody holds the key.
    """

    session_key: str
    partition: int
    meta: str
    history: str
    pending: str
    lease: str
    turn: str
    dirty: str
    backlog: str
    oldest: str
    dead: str
    wake: str
    holds: str
    held: str
    logging: tuple[str, ...]
    changing: tuple[str, ...]
    changing_quietly: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PartitionKeys:
    """The Redis keys of one partition."""

    partition: int
    dirty: str
    backlog: str
    oldest: str
    dead: str
    wake: str
    holds: str
    held: str


class Keyspace:
    """Names every Redis key, for one prefix and number of partitions."""

    def __init__(self, prefix: str, partitions: int) -> None:
        self.prefix = prefix
        self.partitions = partitions
        self.layout = f"{prefix}:{{000}}:layout"
        self.schedule = f"{prefix}:schedule"
        self.importing = f"{prefix}:importing"
        self.processes = f"{prefix}:processes"
        self._of = lru_cache(maxsize=4096)(self._named)

    def partition_of(self, session_key: str) -> int:
        """The partition of a session key: the same on every server."""
        return crc32(session_key.encode()) % self.partitions

    def titles(self, owner: str, base: str) -> str:
        """The key of who gives unique titles that begin so to an owner's sessions; ``""`` for those of no owner."""
        name = f"{owner}\n{base}"
        return f"{self.prefix}:{{{self.partition_of(name):03d}}}:titles:{sha256(name.encode()).hexdigest()[:32]}"

    def lane(self, lane: int, lanes: int) -> str:
        """The key of which job serves a lane."""
        return f"{self.prefix}:lane:{lane}-of-{lanes}"

    def report(self, process: str) -> str:
        """The key of what a process, by its name, counted."""
        return f"{self.prefix}:process:{process}"

    def of_partition(self, partition: int) -> PartitionKeys:
        """The keys of one partition."""
        base = f"{self.prefix}:{{{partition:03d}}}"
        return PartitionKeys(partition, *(f"{base}:{kind}" for kind in _SHARED))

    def of(self, session_key: str) -> SessionKeys:
        """The keys of a session key.

        Raises:
            InvalidKey: it cannot be one.
        """
        return self._of(session_key) if type(session_key) is str else self._named(check_session_key(session_key))

    def _named(self, session_key: str) -> SessionKeys:
        partition = self.partition_of(check_session_key(session_key))
        shared = self.of_partition(partition)
        base = f"{self.prefix}:{{{partition:03d}}}"
        meta, history, pending, lease, turn = (f"{base}:{kind}:{session_key}" for kind in _KINDS)
        logging = meta, history, pending, shared.dirty, shared.wake, shared.backlog, shared.oldest
        changing = *logging, turn, shared.holds
        return SessionKeys(
            session_key, partition, meta, history, pending, lease, turn,
            shared.dirty, shared.backlog, shared.oldest, shared.dead, shared.wake, shared.holds, shared.held,
            logging, changing, (*changing, shared.held),
        )  # fmt: skip
