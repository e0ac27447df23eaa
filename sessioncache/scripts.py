"""The Lua scripts: `.lua` files of this package, one verb each, read once.

Guarantee: a script is the text of `common.lua`, of the parts it names, and of its own file, and nothing else; it is never
built from strings. `Script.sha` is what Redis calls it by, so a warm server is sent forty characters, not the text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha1
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """One script: its verb, its text and the SHA-1 under which Redis caches it."""

    verb: str
    text: str = field(repr=False)
    sha: str


# Files that are no scripts, but parts that several begin with; `common` is part of each.
PARTS = ("common", "policy")


def _load(verb: str, *parts: str) -> Script:
    folder = files("sessioncache") / "lua"
    text = "".join((folder / f"{name}.lua").read_text() for name in ("common", *parts, verb))
    return Script(verb, text, sha1(text.encode(), usedforsecurity=False).hexdigest())


ACK = _load("ack")
APPEND = _load("append")
CLAIM = _load("claim")
DELETE = _load("delete")
EVICT = _load("evict")
LAYOUT = _load("layout")
LEASE = _load("lease")
PEEK = _load("peek")
PUBLISH = _load("publish")
READ = _load("read")
RELEASE = _load("release")
SCHEDULE = _load("schedule")
START = _load("start")
STATS = _load("stats")
