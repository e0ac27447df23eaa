"""Reading the hot tier, and bringing copies into it: open, read, lease, publish, release, evict, layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sessioncache import scripts
from sessioncache.elements import seq_of
from sessioncache.errors import HotTierRefused
from sessioncache.flow import Evaluate, Flow
from sessioncache.hot.change import full, ring
from sessioncache.hot.writing import Opened, info_of
from sessioncache.info import Info
from sessioncache.keys import SessionKeys
from sessioncache.near import Copy
from sessioncache.op import new_op_id
from sessioncache.repeat import ask_each, evaluate, repeated
from sessioncache.snapshot import Snapshot
from sessioncache.state import State, ms

# So many messages a script passes on as fast as a command beside it.
FEW = 32


@dataclass(frozen=True, slots=True)
class Begin:
    """What `open_session` begins a session with, if it does: opaque for the script, and as fields of meta."""

    session_id: str
    op_id: str
    payload: bytes
    fields: Mapping[str, bytes | str]


@dataclass(frozen=True, slots=True)
class Refused:
    """Why nothing was opened: ``none``, ``other`` (another owner's), ``there``, ``again``, or ``clock`` with its time."""

    why: str
    at_ms: int = 0


def open_session(
    state: State, keys: SessionKeys, verb: str, owner: str, begin: Begin, policies: Sequence[str | int]
) -> Flow[Opened | Refused | None]:
    """Open what is current, or begin a session, as ``verb`` says (see open.lua)."""
    settings = state.settings
    reply = yield from evaluate(
        state, scripts.OPEN, keys.changing_quietly, state.ttl_ms(), ms(settings.wake), state.bounds, settings.keep_ops,
        keys.session_key, begin.session_id, "", "", begin.op_id, ms(settings.hold), verb, ms(settings.touch), new_op_id(),
        owner, begin.payload, len(begin.fields), *(part for pair in begin.fields.items() for part in pair), *policies,
    )  # fmt: skip
    return (yield from _opened(state, keys, reply))


def _opened(state: State, keys: SessionKeys, reply: list[Any]) -> Flow[Opened | Refused | None]:
    match reply[0]:
        case b"miss":
            return None
        case b"full":
            raise full(state.settings, keys, reply)
        case b"ok":
            if reply[1]:
                yield ring(state, keys)
            return Opened(reply[3].decode(), reply[2] == b"1", info_of(keys, reply[4:]))
    return Refused(reply[0].decode(), int(reply[1]) if reply[1:] else 0)


@dataclass(frozen=True, slots=True)
class Looked:
    """The current session of a key, None where there is none; whether the key is held."""

    held: bool
    info: Info | None


def look(state: State, keys: SessionKeys) -> Flow[Looked | None]:
    """Look at the current session of a key; this is no access."""
    four = (keys.meta, keys.history, keys.holds, keys.held)
    reply = yield from evaluate(state, scripts.LOOK, four, keys.session_key, ms(state.settings.hold))
    if reply[0] == b"miss":
        return None
    return Looked(reply[1] == b"1", info_of(keys, reply[2:]) if reply[2:] else None)


def tell(
    state: State,
    keys: SessionKeys,
    session_id: str,
    op_id: str,
    ahead_ms: int,
    policies: Sequence[str | int],
) -> Flow[Opened | Refused | None]:
    """Whether the policy is about to reset this session, and nobody was told; then somebody has been told."""
    settings = state.settings
    reply = yield from evaluate(
        state, scripts.TELL, keys.changing_quietly, state.ttl_ms(), ms(settings.wake), state.bounds, settings.keep_ops,
        keys.session_key, session_id, "", "", op_id, ms(settings.hold), ahead_ms, *policies,
    )  # fmt: skip
    return (yield from _opened(state, keys, reply))


class Found(NamedTuple):
    """A valid hot copy: where the session stands (``session_id`` is ``""`` for none), and all or the newer messages."""

    delta: bool
    session_id: str
    version: int
    revision: str
    total: int
    owner: str
    consolidated_seq: int
    elements: list[bytes]


def read(
    state: State, keys: SessionKeys, want: int, have: Copy | None, op_id: str, *, access: bool = True
) -> Flow[Found | None]:
    """Read the newest ``want`` messages (-1: all that are hot), or those that came after ``have``.

    Without ``access`` it is a look: no access is noted, and the TTL is left as it is.
    """
    settings = state.settings
    known = (have.session_id, have.revision, have.version, have.total) if have else ("", "", "", "")
    first = state.ttl_ms(), ms(settings.wake), state.bounds, ms(settings.touch) if access else "", op_id, keys.session_key
    reply = None
    if have is None and not 0 <= want <= FEW:
        reply = yield from _beside(state, keys, want, (*first, 0, *known))
    if reply is None:
        reply = yield from repeated(state, Evaluate(scripts.READ, keys.logging, (*first, want, *known)))
    if reply[0] == b"miss":
        return None
    kind, session_id, version, revision, total, owner, consolidated, nobody, _, elements = reply
    if nobody:
        yield ring(state, keys)
    return Found(
        kind == b"delta",
        session_id.decode(),
        int(version),
        revision.decode(),
        int(total),
        owner.decode(),
        int(consolidated),
        elements,
    )


def _beside(state: State, keys: SessionKeys, want: int, args: tuple[str | int, ...]) -> Flow[list[Any] | None]:
    """The script's reply, with messages that a command of its own read beside it: a script passes many on slowly.

    None where these are not for certain what the script saw, because something was written between the two, and where the
    script is not there or refuses. While the revision is the same, messages were only appended, and their seqs tell.
    """
    asked = keys.logging
    script = ("EVALSHA", scripts.READ.sha, len(asked), *asked, *args)
    newest = ("LRANGE", keys.history, 0 if want < 0 else -want, -1)
    reply, elements, revision = yield from ask_each(state, (script, newest, ("HGET", keys.meta, "revision")))
    if isinstance(reply, HotTierRefused):
        return None
    if reply[0] == b"miss":
        return list(reply)
    _, _, version, seen, _, _, _, nobody, count, _ = reply
    expected = count if want < 0 else min(count, want)
    if revision == seen and len(elements) == expected and (not elements or seq_of(elements[-1]) <= int(version)):
        return [*reply[:-1], elements]
    if nobody:
        yield ring(state, keys)
    return None


def lease(state: State, keys: SessionKeys, token: str) -> Flow[bool | None]:
    """True: the right to hydrate is ours; False: somebody else's; None: there is nothing to hydrate."""
    four = (keys.meta, keys.history, keys.pending, keys.lease)
    reply = yield from evaluate(state, scripts.LEASE, four, token, ms(state.settings.lease))
    return None if reply[0] == b"have" else bool(reply[0] == b"ours")


def publish(state: State, keys: SessionKeys, token: str, copy: Snapshot) -> Flow[str]:
    """``ok``, ``lost`` (the lease is not ours any more) or ``dirty`` (ops came in: drain and load again)."""
    four = (keys.meta, keys.history, keys.pending, keys.lease)
    ttl_ms = state.ttl_ms() if copy.session_id else ms(state.settings.unknown_ttl)
    ops = ";".join(" ".join(f"{op_id}:{version}" for op_id, version in group) for group in copy.ops)
    fields: dict[str, str | bytes | int] = {
        "session_id": copy.session_id, "version": copy.version, "revision": token, "total": copy.total, "owner": copy.owner,
        "created_ms": copy.created_ms, "updated_ms": copy.updated_ms, "accessed_ms": copy.accessed_ms,
        "touched_ms": copy.accessed_ms, "ops": ops, **copy.fields,
    }  # fmt: skip
    flat = (part for pair in fields.items() for part in pair)
    reply = yield from evaluate(state, scripts.PUBLISH, four, token, ttl_ms, len(fields), *flat, *copy.elements)
    verdict: str = reply.decode()
    return verdict


def release(state: State, keys: SessionKeys, token: str) -> Flow[None]:
    """Give the lease back, if it is still ours."""
    yield from evaluate(state, scripts.RELEASE, (keys.lease,), token)


def evict(state: State, keys: SessionKeys) -> Flow[bool]:
    """Drop the hot copy; True if there was one."""
    return bool((yield from evaluate(state, scripts.EVICT, (keys.meta, keys.history))))
