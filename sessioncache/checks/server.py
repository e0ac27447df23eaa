"""Checks of the hot tier: the server, its memory and its persistence, scripts, our keys, the backlog."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sessioncache import ops, scripts
from sessioncache.diagnosis import Finding, error, info, ok, warning
from sessioncache.errors import HotTierRefused, LayoutMismatch
from sessioncache.flow import Flow
from sessioncache.hot import reading
from sessioncache.hot.server import ServerFacts, eviction_refusal, server_facts
from sessioncache.op import new_op_id
from sessioncache.repeat import ask, evaluate
from sessioncache.state import State

OLDEST = {"redis": (6, 2), "valkey": (7, 2)}
# From this share of maxmemory on it is told of.
NEARLY_FULL = 0.9
# Redis's own word for a replica's role.
REPLICA = "slave"
TYPES = {
    "dirty": "zset", "holds": "zset", "held": "zset", "dead": "list", "wake": "string", "backlog": "hash", "oldest": "zset",
}  # fmt: skip


def redis(state: State) -> Flow[list[Finding]]:
    """The server: version, role, memory, what it evicts, and what it keeps over a restart."""
    facts = yield from server_facts(state)
    config = yield from _config(state)
    return [
        *_product(facts),
        *_role(facts),
        *eviction("redis", facts, allowed=state.settings.allow_eviction),
        *_memory(facts),
        *_persistence(facts, config),
    ]


def _product(facts: ServerFacts) -> list[Finding]:
    name = f"{facts.product.capitalize()} {facts.version}"
    if is_too_old(facts.product, facts.version):
        return [error("redis", f"Redis is {name}; scripts need 6.2.", "Upgrade to Redis 6.2 or later, or Valkey.")]
    return [ok("redis", f"{name} answers.")]


def is_too_old(product: str, version: str) -> bool:
    """Whether scripts may fail there."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    return numbers < OLDEST.get(product, (6, 2))


def _role(facts: ServerFacts) -> list[Finding]:
    found = []
    if facts.role == REPLICA:
        found.append(
            error("redis", "The URL leads to a replica, which takes no writes.", "Point redis_url at the primary.")
        )
    if facts.cluster:
        found.append(
            warning(
                "redis",
                "Redis runs as a cluster, which a client for a single server can use only in part.",
                "Hand in a client that follows redirections, and give RQ a Redis of its own by queue_url.",
            )
        )
    return found


def eviction(check: str, facts: ServerFacts, *, allowed: bool) -> list[Finding]:
    """What the server evicts."""
    refusal = eviction_refusal(facts)
    if not refusal:
        return [ok(check, f"Its maxmemory-policy, {facts.policy}, keeps what has no TTL.")]
    made = warning if allowed else error
    found = f"Its maxmemory-policy is {facts.policy}, which may evict what only Redis knows."
    return [made(check, found, "CONFIG SET maxmemory-policy volatile-lru, and say so in its configuration file.")]


def _memory(facts: ServerFacts) -> list[Finding]:
    if not facts.maxmemory:
        return [
            info(
                "redis",
                "It has no maxmemory: where the machine's memory ends, it is killed.",
                "Set maxmemory below the memory of its machine.",
            )
        ]
    share = facts.used / facts.maxmemory
    if share >= NEARLY_FULL:
        return [
            warning(
                "redis",
                f"It uses {share:.0%} of maxmemory; appends are refused when it is full.",
                "See that workers drain; run sessioncache flush; give it more memory.",
            )
        ]
    return [ok("redis", f"It uses {share:.0%} of maxmemory.")]


def _config(state: State) -> Flow[Mapping[str, str]]:
    """What CONFIG tells of persistence; nothing where this user may not ask."""
    try:
        replies = yield from ask(state, (("CONFIG", "GET", "appendfsync"), ("CONFIG", "GET", "save")))
    except HotTierRefused:
        return {}
    return {name: _value(reply) for name, reply in zip(("appendfsync", "save"), replies, strict=True)}


def _value(reply: Any) -> str:
    values = list(reply.values()) if isinstance(reply, dict) else list(reply)[1:]
    value = values[0] if values else b""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _persistence(facts: ServerFacts, config: Mapping[str, str]) -> list[Finding]:
    found = []
    if facts.append_failed or facts.snapshot_failed:
        what = "its append-only file" if facts.append_failed else "its snapshot"
        found.append(error("redis", f"The last write of {what} failed.", "Look into Redis's log, and at its disk."))
    if facts.append_only:
        return [*found, *_fsync(config.get("appendfsync", ""))]
    kept = "only what the last snapshot held" if config.get("save", "?") else "nothing"
    advice = "Set appendonly yes and appendfsync everysec (or always), in its configuration file too."
    what = f"It has no append-only file: after a crash it knows {kept}, and ops that were not in SQL yet are lost."
    return [*found, warning("redis", what, advice)]


def _fsync(policy: str) -> list[Finding]:
    if policy == "no":
        what = "It leaves it to the system when its append-only file reaches the disk (appendfsync no)."
        return [warning("redis", what, "Set appendfsync everysec, or always.")]
    if policy == "always":
        return [ok("redis", "Its append-only file is on disk before it answers (appendfsync always).")]
    if policy == "everysec":
        what = "A crash of its machine may lose the last second of what was not in SQL yet (appendfsync everysec)."
        return [ok("redis", what)]
    return [info("redis", "It has an append-only file; how often that is synced, this user may not ask.")]


def runs_scripts(state: State) -> Flow[list[Finding]]:
    """Scripts: that they may be run, and may ask for the time and for INFO. What they are asked changes nothing."""
    keys, partition = state.keyspace.of("doctor"), state.keyspace.of_partition(0)
    yield from reading.release(state, keys, new_op_id())
    yield from evaluate(state, scripts.STATS, (partition.dirty, partition.dead), 1)
    return [ok("scripts", "Scripts run, and may ask for TIME and INFO.")]


def types(state: State) -> Flow[list[Finding]]:
    """The keys of partitions, which only Redis has: that they are what they should be."""
    space = state.keyspace
    names = {
        getattr(space.of_partition(partition), kind): wanted
        for partition in range(state.settings.partitions)
        for kind, wanted in TYPES.items()
    }
    names[space.layout] = "hash"
    replies = yield from ask(state, tuple(("TYPE", name) for name in names))
    found = []
    for (name, wanted), reply in zip(names.items(), replies, strict=True):
        kind = reply.decode() if isinstance(reply, bytes) else str(reply)
        if kind not in {wanted, "none"}:
            what = f"{name} is of type {kind}, not {wanted}: what needs it is refused."
            found.append(error("keys", what, f"Look at it, then RENAME {name} to a name of your own, or delete it."))
    return found or [ok("keys", "The keys of every partition are of the right types.")]


def backlog(state: State) -> Flow[list[Finding]]:
    """What waits for the store, for how long, and what was set aside."""
    try:
        partitions = yield from ops.backlogs(state)
    except LayoutMismatch:
        what = "What waits for SQL was not looked at: the settings have another number of partitions."
        return [info("backlog", what, "See what is said of the layout.")]
    dirty, dead = sum(one.dirty for one in partitions), sum(one.dead for one in partitions)
    lag, bound = max(max(one.oldest_pending, one.overdue) for one in partitions), state.settings.ready_lag
    found = []
    if lag > bound:
        what = f"{dirty} session keys wait for SQL, the first of them for {lag:.0f} s, longer than ready_lag ({bound:g} s)."
        found.append(warning("backlog", what, "Start workers; their log names what keeps them; or sessioncache flush."))
    if dead:
        what = f"There are {dead} dead letters: ops that SQL refused, or whose session is gone."
        advice = (
            "sessioncache dead list shows them; mend the cause, then sessioncache dead retry or sessioncache dead drop."
        )
        found.append(warning("backlog", what, advice))
    return found or [ok("backlog", f"{dirty} session keys wait for SQL, none for long; there is no dead letter.")]
