"""Functions for redis-cli: a Redis Functions library that shows sessions, what waits and what is wrong, and only reads.

`install`, `look` and `remove` are flows. The library is the text of ``lua/functions/library.lua``, of ``lua/common.lua``
(so that it judges a hot copy as every script does) and of the other files of that folder; its version is that text.
docs/redis-cli.md says what the functions show.

Assumes Redis 7 or Valkey; an older Redis has no functions, and that is said. In a Redis Cluster each primary has functions
of its own; here the one is asked that ``redis_url`` leads to.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from importlib.resources import files
from typing import Any

from sessioncache.errors import HotTierRefused
from sessioncache.flow import Flow
from sessioncache.hot.server import ServerFacts, server_facts
from sessioncache.repeat import ask
from sessioncache.state import State

LIBRARY = "sessioncache"
NAMES = ("sc_show", "sc_tail", "sc_pending", "sc_summary", "sc_lanes", "sc_dirty", "sc_dead")
OLDEST_REDIS = 7

_FOLDER = files("sessioncache") / "lua"
_PARTS = ("functions/library", "common", "functions/json", "functions/lines", "functions/session", "functions/partitions")
TEXT = "".join((_FOLDER / f"{part}.lua").read_text() for part in _PARTS)
# What our library has begun with in every version.
_OURS = "#!lua name=sessioncache\n-- The functions of sessioncache"
_NEEDS = "functions need Redis 7 or Valkey, and a user who may use FUNCTION LOAD, LIST and DELETE"


class Installed(Enum):
    """Which library of our name a Redis has."""

    CURRENT = "current"
    MISSING = "missing"
    OTHER_VERSION = "of another version"
    FOREIGN = "not ours"
    UNSUPPORTED = "not supported"


def look(state: State) -> Flow[Installed]:
    """Which functions are installed.

    Raises:
        HotTierUnavailable: Redis does not answer.
        HotTierRefused: this user may not ask.
    """
    if not has_functions((yield from server_facts(state))):
        return Installed.UNSUPPORTED
    (found,) = yield from _asked(state, "LIST", "LIBRARYNAME", LIBRARY, "WITHCODE")
    codes = [_code(one) for one in found]
    if not codes:
        return Installed.MISSING
    if codes == [TEXT]:
        return Installed.CURRENT
    return Installed.OTHER_VERSION if codes[0].startswith(_OURS) else Installed.FOREIGN


def has_functions(facts: ServerFacts) -> bool:
    """Whether a server of this version has functions."""
    return facts.product == "valkey" or int(facts.version.partition(".")[0] or 0) >= OLDEST_REDIS


def install(state: State) -> Flow[Installed]:
    """Install the functions, in place of those of another version; what was there before.

    Raises:
        HotTierUnavailable, HotTierFull: Redis does not answer, or has no room.
        HotTierRefused: it has no functions, this user may not, or another library has this name or one of a function's.
    """
    before = yield from _ours_or_none(state)
    if before is not Installed.CURRENT:
        yield from _asked(state, "LOAD", "REPLACE", TEXT)
    return before


def remove(state: State) -> Flow[bool]:
    """Remove the functions; whether there were any.

    Raises:
        HotTierUnavailable: Redis does not answer.
        HotTierRefused: it has no functions, this user may not, or the library of this name is not ours.
    """
    if (yield from _ours_or_none(state)) is Installed.MISSING:
        return False
    yield from _asked(state, "DELETE", LIBRARY)
    return True


def _ours_or_none(state: State) -> Flow[Installed]:
    found = yield from look(state)
    if found is Installed.UNSUPPORTED:
        raise HotTierRefused(f"This Redis has no functions; {_NEEDS}. redis-cli's own commands show what there is, too.")
    if found is Installed.FOREIGN:
        raise HotTierRefused(
            f"This Redis has a library named {LIBRARY} that is not ours; look at it with FUNCTION LIST LIBRARYNAME "
            f"{LIBRARY} WITHCODE, and if nobody needs it, FUNCTION DELETE {LIBRARY}."
        )
    return found


def _asked(state: State, *words: str) -> Flow[list[Any]]:
    try:
        return (yield from ask(state, (("FUNCTION", *words),)))
    except HotTierRefused as refused:
        raise HotTierRefused(f"{str(refused).rstrip('.')}; {_NEEDS}.") from refused


def _code(library: Any) -> str:
    """The code in an item of FUNCTION LIST, which is flat or a mapping, as the protocol has it."""
    flat: Iterable[Any] = [part for pair in library.items() for part in pair] if isinstance(library, dict) else library
    words = [part.decode(errors="replace") if isinstance(part, bytes) else part for part in flat]
    return str(words[words.index("library_code") + 1])
