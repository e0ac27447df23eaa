"""What the flows of a cache ask of the outside world, as they ask it."""

from __future__ import annotations

from contextlib import contextmanager

from sessioncache.flow import Evaluate

# All keys in one partition.
ALONE = {"partitions": 1, "lanes": 1}


@contextmanager
def requests(cache):
    """The requests of a cache's flows, as they are made."""
    seen, driver = [], cache._connections.driver
    perform = driver.perform

    def see(request):
        seen.append(request)
        return perform(request)

    driver.perform = see
    yield seen
    driver.perform = perform


def kinds(seen):
    """The verb of each script, and the kinds of other requests."""
    return [one.script.verb if isinstance(one, Evaluate) else type(one) for one in seen]
