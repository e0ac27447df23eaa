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
PARTS = ("common", "policy", "session")


def _load(verb: str, *parts: str) -> Script:
    folder = files("sessioncache") / "lua"
    text = "".join((folder / f"{name}.lua").read_text() for name in ("common", *parts, verb))
    return Script(verb, text, sha1(text.encode(), usedforsecurity=False).hexdigest())


ACK = _load("ack")
APPEND = _load("append")
BURY = _load("bury")
CLAIM = _load("claim")
DELETE = _load("delete")
EDIT = _load("edit")
EVICT = _load("evict")
EXCLUSIVE = _load("exclusive")
FORGET_DEAD = _load("forget_dead")
HOLD = _load("hold")
INSPECT = _load("inspect", "session")
LAYOUT = _load("layout")
LEASE = _load("lease")
LEAVE = _load("leave")
LOOK = _load("look", "session")
OPEN = _load("open", "policy", "session")
PEEK = _load("peek")
POP = _load("pop")
PUBLISH = _load("publish")
READ = _load("read", "session")
RECORD = _load("record")
RELEASE = _load("release")
RELOCATE = _load("relocate")
REPLACE = _load("replace")
REPORT = _load("report")
REQUEUE = _load("requeue")
RETAIN = _load("retain")
START = _load("start", "session")
STATS = _load("stats")
SWITCH = _load("switch")
TELL = _load("tell", "policy", "session")
TRUNCATE = _load("truncate")
TURN = _load("turn")
UPDATE = _load("update")
