"""The exit status of commands.

Others are those of shells: 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import signal

from sessioncache.errors import (
    Backpressure,
    HotTierFull,
    HotTierUnavailable,
    HydrationTimeout,
    Repartitioning,
    StoreUnavailable,
)

DONE = 0
FAILED = 1
WRONG_USAGE = 2
# What was asked for is not there: no such session, no such dead letter.
NOT_FOUND = 3
# What was to be checked is not as it should be.
UNHEALTHY = 4
# A tier cannot be reached, or has no room: the same command may succeed later.
UNAVAILABLE = 5
PASSING = (HotTierUnavailable, HotTierFull, HydrationTimeout, StoreUnavailable, Backpressure, Repartitioning)
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
