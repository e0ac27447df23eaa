"""Durability levels: how far an append has got when it returns, and what Redis is asked to know it.

``cached``: Redis has accepted it. ``replicated``: so have this many replicas (WAIT). ``synced``: it is on Redis's disk
(WAITAOF). ``stored``: it is committed to SQL. Each is more than ``cached``; none includes another.

Assumes that the question is asked on the connection that wrote, because Redis answers for what was written there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sessioncache.arguments import number, seconds, shown
from sessioncache.errors import InvalidInput

CACHED, REPLICATED, SYNCED, STORED = "cached", "replicated", "synced", "stored"


@dataclass(frozen=True, slots=True)
class Replicated:
    """Accepted by so many replicas of Redis.

    Attributes:
        replicas: how many, 1 or more.
        timeout: how long to wait for them, in seconds.
    """

    replicas: int = 1
    timeout: float = 1.0


@dataclass(frozen=True, slots=True)
class Synced:
    """Written to the append-only file of Redis, on disk, and to those of so many of its replicas.

    Attributes:
        replicas: how many, 0 or more.
        timeout: how long to wait for it, in seconds; with ``appendfsync everysec`` it takes up to two.
    """

    replicas: int = 0
    timeout: float = 3.0


_NAMED = {CACHED: None, STORED: None, REPLICATED: Replicated(), SYNCED: Synced()}

Durability = Literal["cached", "replicated", "synced", "stored"] | Replicated | Synced


@dataclass(frozen=True, slots=True)
class Wait:
    """What Redis is asked after a script, on the same connection, until it answers enough or time is up.

    Attributes:
        command: the question; milliseconds follow it.
        probe: a question that fails where Redis cannot answer this one; asked before the script. Empty: none.
        enough: the numbers that the answer must reach.
        timeout: in seconds.
        step: the longest one question takes, in seconds: below the time that a reply may take.
    """

    command: tuple[str | int, ...]
    probe: tuple[str | int, ...]
    enough: tuple[int, ...]
    timeout: float
    step: float

    def reached(self, answer: object) -> bool:
        """Whether an answer is enough."""
        found = answer if isinstance(answer, list) else [answer]
        return all(one >= least for one, least in zip(found, self.enough, strict=True))


def named(durability: object) -> tuple[str, Replicated | Synced | None]:
    """The name of a level, and its terms where Redis is to be asked.

    Raises:
        InvalidInput: there is no such level.
    """
    if isinstance(durability, str) and durability in _NAMED:
        return durability, _NAMED[durability]
    if not isinstance(durability, Replicated | Synced):
        raise InvalidInput(
            f"durability is {', '.join(map(repr, _NAMED))}, Replicated(…) or Synced(…), not {shown(durability)}."
        )
    name = REPLICATED if isinstance(durability, Replicated) else SYNCED
    number(durability.replicas, "replicas", least=int(name == REPLICATED))
    seconds(durability.timeout, "timeout")
    return name, durability


def wait_of(terms: Replicated | Synced, redis_timeout: float) -> Wait:
    """What Redis is asked, where a reply may take ``redis_timeout`` seconds."""
    step = redis_timeout / 2
    if isinstance(terms, Replicated):
        return Wait(("WAIT", terms.replicas), (), (terms.replicas,), terms.timeout, step)
    command = ("WAITAOF", 1, terms.replicas)
    return Wait(command, ("WAITAOF", 1, 0, 1), (1, terms.replicas), terms.timeout, step)
