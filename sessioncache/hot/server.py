"""What a Redis says of itself, by one INFO, which works where CONFIG is forbidden, as at managed services.

`server_facts` asks; `eviction_refusal` is the one rule on eviction policies. Assumes a Redis 6.2 or a Valkey, or later;
what a server leaves out is ``""``, 0 or False.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sessioncache.flow import Flow
from sessioncache.repeat import ask
from sessioncache.state import State

# Policies of this family evict keys without a TTL too: allkeys-lru, -lfu, -random, -lrm and what is still to come.
EVICTS_EVERYTHING = "allkeys-"


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A Redis server as it was at one instant.

    Attributes:
        run_id: the identity of the running process.
        product: ``redis`` or ``valkey``.
        version: of that product, like ``7.2.4``.
        role: ``master`` or ``slave``, in the server's own words.
        maxmemory: bytes; 0 where there is no bound, or none is told.
        policy: what is evicted at ``maxmemory``, like ``noeviction``.
        used: bytes in use.
        evicted: keys evicted since it started.
        append_only: whether there is an append-only file.
        append_failed, snapshot_failed: whether the last write to that file, or the last snapshot, failed.
        replicas: that are connected.
        uptime: seconds since it started.
        cluster: whether it is part of a Redis Cluster.
    """

    run_id: str
    product: str
    version: str
    role: str
    maxmemory: int
    policy: str
    used: int
    evicted: int
    append_only: bool
    append_failed: bool
    snapshot_failed: bool
    replicas: int
    uptime: int
    cluster: bool


def server_facts(state: State) -> Flow[ServerFacts]:
    """Ask Redis what it is, in one round trip.

    Raises:
        HotTierUnavailable: Redis does not answer.
        HotTierRefused: this user may not use INFO, which scripts need as well.
    """
    (answer,) = yield from ask(state, (("INFO",),))
    return facts_in(answer)


def facts_in(info: Mapping[str, Any]) -> ServerFacts:
    """The facts in the answer to an INFO, as redis-py gives it."""
    product = "valkey" if "valkey_version" in info else "redis"
    return ServerFacts(
        run_id=str(info.get("run_id", "")),
        product=product,
        version=str(info.get(f"{product}_version", "")),
        role=str(info.get("role", "")),
        maxmemory=int(info.get("maxmemory", 0)),
        policy=str(info.get("maxmemory_policy", "")),
        used=int(info.get("used_memory", 0)),
        evicted=int(info.get("evicted_keys", 0)),
        append_only=info.get("aof_enabled", 0) == 1,
        append_failed=info.get("aof_last_write_status", "ok") != "ok",
        snapshot_failed=info.get("rdb_last_bgsave_status", "ok") != "ok",
        replicas=int(info.get("connected_slaves", 0)),
        uptime=int(info.get("uptime_in_seconds", 0)),
        cluster=info.get("cluster_enabled", 0) == 1,
    )


def eviction_refusal(facts: ServerFacts) -> str:
    """Why this server's eviction policy would lose messages, and what to do; ``""`` where it would not.

    The bound itself is not looked at: it can be set at any time, and some services do not tell it.
    """
    if not facts.policy.startswith(EVICTS_EVERYTHING):
        return ""
    return (
        f"The maxmemory-policy of Redis is {facts.policy}, which may evict what is not in the database yet; set it to "
        "volatile-lru or noeviction (CONFIG SET maxmemory-policy volatile-lru, and in its configuration file), or set "
        "allow_eviction=True to risk it."
    )
