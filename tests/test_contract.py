"""The contract suite on sessioncache: through both doors, on each kind of tier, hot and cold, before and after a flush."""

from __future__ import annotations

import asyncio
import time

import contract
import contract_conversation
import pytest
from conftest import BETWEEN
from doors import DOORS, opener

from sessioncache import AsyncSessionCache

# Few partitions, so that what looks at all of them is quick.
QUICK = {"partitions": 4, "lanes": 2}


def doors(stack, kind):
    """Opens caches over a stack, once that is ready."""
    with stack.raw() as raw:
        while not raw.info("server")["uptime_in_seconds"]:
            time.sleep(0.05)  # policies wait for a second after a start of Redis, which counts in whole ones
    return opener(stack, kind, **QUICK)


@pytest.fixture(params=BETWEEN)
def between(request):
    """What happens to a session between a write and a read."""

    def happen(cache, key=contract.KEY):
        if "flushed" in request.param:
            cache.flush(key)
        if "evicted" in request.param:
            cache.evict(key)

    return happen


@pytest.fixture(params=DOORS)
def open_door(request, some_stack):
    """Opens caches of one kind, as servers of their own, and closes them."""
    with doors(some_stack, request.param) as door:
        yield door


def turn_losing(stack):
    """What ends the turn that is taken under a key, as if its holder had stalled."""

    def lose(key=contract.KEY):
        with stack.raw() as raw:
            taken = [name for name in raw.scan_iter("sc:*:turn:*") if name.endswith(f":turn:{key}".encode())]
            assert raw.delete(*taken) == 1

    return lose


@pytest.fixture
def lose_turn(some_stack):
    """Ends the turn that is taken under a key."""
    return turn_losing(some_stack)


class TestContract(contract.Contract):
    """Every operation, on every pairing."""


class TestConversation(contract_conversation.Conversation):
    """The conversation layer, on every pairing."""


class TestRefusals(contract.Refusals):
    """Bad input, through both doors."""

    @pytest.fixture(params=DOORS)
    def open_door(self, request, one_stack):
        """Opens caches of one kind on one stack: what is refused gets no further than the door."""
        with doors(one_stack, request.param) as door:
            yield door

    @pytest.fixture
    def lose_turn(self, one_stack):
        """Ends the turn that is taken under a key."""
        return turn_losing(one_stack)


def test_an_awaited_hold_ends_with_its_block(one_stack):
    """Also where the block ends while the hold is being renewed, which happens three times within the time it lasts."""

    async def hold_and_leave():
        async with AsyncSessionCache(settings=one_stack.settings(**QUICK)) as cache:
            session = await cache.open(contract.KEY)
            for _ in range(50):
                hold = session.hold("indexer", ttl=0.1)
                await hold.__aenter__()
                await asyncio.sleep(0.1 / 3)
                leaving = asyncio.create_task(hold.__aexit__(None, None, None))
                await asyncio.wait([leaving], timeout=5)
                assert leaving.done()

    asyncio.run(hold_and_leave())
