"""A Redis at ``maxmemory``: which eviction policies are refused, and that nothing is lost, half-written or stuck."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sessioncache import UnsafeEviction
from sessioncache.connect import BlockingConnections
from sessioncache.hot.server import eviction_refusal, server_facts


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
def test_a_policy_that_evicts_everything_is_refused_at_start(some_stack, policy):
    """Nothing is written, whatever the bound; `allow_eviction` starts all the same; the sentence says what to do."""
    with some_stack.raw() as raw:
        raw.config_set("maxmemory-policy", policy)
        try:
            with some_stack.cache() as cache, pytest.raises(UnsafeEviction, match="volatile-lru or noeviction"):
                cache.open("k")
            assert raw.dbsize() == 0
            with some_stack.cache(allow_eviction=True) as cache:
                cache.open("k").append({"content": "a"})
        finally:
            raw.config_set("maxmemory-policy", "noeviction")


def test_what_a_server_says_of_itself(some_stack):
    """One INFO: enough to tell policy, bound and role, on Redis and Valkey; the rule on policies, also on those to come."""
    connections = BlockingConnections(some_stack.settings())
    try:
        facts = connections.run(server_facts(connections.state))
    finally:
        connections.close()
    with some_stack.raw() as raw:
        info = raw.info()
    assert (facts.run_id, facts.role, facts.policy, facts.maxmemory) == (info["run_id"], "master", "noeviction", 0)
    assert facts.product == ("valkey" if some_stack.name.startswith("valkey") else "redis")
    assert facts.used > 100_000
    assert {facts.append_only, facts.append_failed, facts.snapshot_failed, facts.cluster} == {False}
    assert facts.version
    for policy, refused in [("allkeys-lrm", True), ("allkeys-new", True), ("volatile-ttl", False), ("", False)]:
        assert bool(eviction_refusal(replace(facts, policy=policy))) == refused
