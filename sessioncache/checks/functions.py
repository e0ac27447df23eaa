"""The check of the functions for redis-cli: whether they are installed, and of this version. Nothing depends on them."""

from __future__ import annotations

from sessioncache.diagnosis import Finding, info, ok, warning
from sessioncache.errors import HotTierRefused
from sessioncache.flow import Flow
from sessioncache.functions import LIBRARY, Installed, look
from sessioncache.state import State

_LOAD = "Run sessioncache functions load."
_FINDINGS = {
    Installed.CURRENT: ok("functions", "The functions for redis-cli are installed, and of this version."),
    Installed.UNSUPPORTED: ok("functions", "This Redis has no functions; redis-cli's own commands show what there is."),
    Installed.MISSING: info("functions", "The functions for redis-cli are not installed.", _LOAD),
    Installed.OTHER_VERSION: warning(
        "functions", "The functions for redis-cli are of another version than this one, and may show what is not so.", _LOAD
    ),
    Installed.FOREIGN: warning(
        "functions",
        f"Redis has a function library named {LIBRARY} that is not ours.",
        f"Look at it with FUNCTION LIST WITHCODE; if nobody needs it, FUNCTION DELETE {LIBRARY}, then sessioncache "
        "functions load.",
    ),
}


def functions(state: State) -> Flow[list[Finding]]:
    """Which functions are installed; a user who may not ask is no fault."""
    try:
        return [_FINDINGS[(yield from look(state))]]
    except HotTierRefused:
        return [info("functions", "This Redis user may not ask for functions; redis-cli may still have them.")]
