"""A clock for tests: what scripts take for Redis's time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha1

import pytest

from sessioncache import scripts
from sessioncache.scripts import Script

KEY = "test:clock"


class Clock:
    """The time of every script of this process; it moves only when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, raw, now: datetime) -> None:
        self._raw = raw
        self.set(now)
        for name, value in list(vars(scripts).items()):
            if isinstance(value, Script):
                assert value.text.count("redis.call('TIME')") == 1
                text = value.text.replace("redis.call('TIME')", f"{{redis.call('GET', '{KEY}'), '0'}}")
                sha = sha1(text.encode(), usedforsecurity=False).hexdigest()
                monkeypatch.setattr(scripts, name, Script(value.verb, text, sha))

    def set(self, now: datetime) -> None:
        """Let it be this time."""
        self.now = now.astimezone(UTC)
        self._raw.set(KEY, f"{self.now.timestamp():.3f}")

    def forward(self, **by: float) -> None:
        """Let so much time pass."""
        self.set(self.now + timedelta(**by))
