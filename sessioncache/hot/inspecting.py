"""Inspecting: what stands in Redis under a session key, for an operator.

Guarantees: one round trip, whose work is bounded whatever stands there; nothing is changed, and it is no access; keys of
wrong types count for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sessioncache import scripts
from sessioncache.flow import Flow
from sessioncache.hot.writing import info_of
from sessioncache.info import Info
from sessioncache.keys import SessionKeys
from sessioncache.repeat import evaluate
from sessioncache.state import State

# Dead letters and holds of a partition that are looked at, the newest ones.
LOOKED_AT = 1000


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands in Redis under a session key.

    Attributes:
        copy: ``hot``, ``other`` (what stands there is no valid hot copy) or ``none``.
        ttl: of the copy, in seconds; None without one.
        messages: that are hot.
        pending, pending_bytes: ops that are not in the store, and their size.
        oldest_pending: age of the first of them, in seconds; 0 if there is none.
        due: seconds until the key is due for a claim, below 0 for one that is; None for a key that is not dirty.
        dead: its dead letters, among the newest of its partition.
        lease, turn: seconds until the right to hydrate it, and the turn in it, end; 0 where nobody has them.
        holds: names of holds, and seconds until they end.
        info: the current session; None where there is none, or no valid hot copy.
    """

    copy: str
    ttl: float | None
    messages: int
    pending: int
    pending_bytes: int
    oldest_pending: float
    due: float | None
    dead: int
    lease: float
    turn: float
    holds: dict[str, float]
    info: Info | None


def inspect(state: State, keys: SessionKeys) -> Flow[Standing]:
    """What stands in Redis under a session key; this changes nothing."""
    ten = (
        keys.meta, keys.history, keys.pending, keys.dirty, keys.backlog, keys.oldest, keys.dead, keys.lease, keys.turn,
        keys.holds,
    )  # fmt: skip
    (now, copy, ttl, *rest), holds, fields = yield from evaluate(state, scripts.INSPECT, ten, keys.session_key, LOOKED_AT)
    messages, pending, pending_bytes, oldest, due, dead, lease_, turn = rest
    now_ms, info = int(now), _info(keys, fields)
    return Standing(
        copy.decode() if info or not fields else "other",
        int(ttl) / 1000 if int(ttl) >= 0 else None,
        int(messages),
        int(pending),
        int(pending_bytes),
        max(0.0, (now_ms - float(oldest)) / 1000) if oldest else 0.0,
        (float(due) - now_ms) / 1000 if due else None,
        int(dead),
        int(lease_) / 1000,
        int(turn) / 1000,
        {name.decode(errors="replace"): (int(end) - now_ms) / 1000 for name, end in zip(*[iter(holds)] * 2, strict=True)},
        info,
    )


def _info(keys: SessionKeys, fields: Sequence[bytes]) -> Info | None:
    """The session in fields of meta; None for none, and for garbage, which the next read replaces."""
    try:
        return info_of(keys, fields) if fields else None
    except (ValueError, KeyError, OverflowError):
        return None
