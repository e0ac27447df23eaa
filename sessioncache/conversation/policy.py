"""Reset policies: when a conversation is over, and the next message under its key begins a new session.

A policy is chosen by platform, else by chat type, else it is the default. *idle*: nothing happened for longer than
`idle_minutes`. *daily*: nothing happened since the newest boundary, which is today at `at_hour` in `zone`, or yesterday's
while that hour has not come. *both*: either; idle is asked first. A suspended session is over under any policy.

Whether a session is due is decided in Redis alone (`lua/policy.lua`), by Redis's clock and what it knows of the session.
Python gives what Lua cannot know, the boundaries of the days around (`rows`), and what SQL needs to find candidates
(`cutoff`). A client's clock only chooses the days that are sent: the script says so if they are not the right ones.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

from sessioncache.arguments import shown
from sessioncache.errors import ConfigurationError

Mode = Literal["none", "idle", "daily", "both"]
MODES = get_args(Mode)
MAX_IDLE_MINUTES = 100 * 366 * 24 * 60
MAX_NAME_CHARACTERS = 255
# The local days that are sent: enough for two clocks that are two days apart, in any zone.
DAYS = range(-3, 4)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
# Zone files that mean another thing on another machine, or count leap seconds.
_NO_ZONES = ("localtime", "posixrules", "right/")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetPolicy:
    """When a session is over. What its mode does not use is checked all the same.

    Attributes:
        mode: ``none``, ``idle``, ``daily`` or ``both``.
        idle_minutes: how long nothing may happen.
        at_hour: the hour of the day at which a new day begins, 0 to 23.
        zone: the time zone of that hour, by its IANA name.
    """

    mode: Mode = "none"
    idle_minutes: int | float = 1440
    at_hour: int = 4
    zone: str = "UTC"

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.mode not in MODES:
            raise _refused("mode", f"one of {', '.join(MODES)}", self.mode)
        _check_idle(self.idle_minutes)
        _check_hour(self.at_hour)
        _check_zone(self.zone)

    @property
    def idle_ms(self) -> int | None:
        """The longest pause in milliseconds; None where pauses do not matter."""
        return max(1, round(self.idle_minutes * 60_000)) if self.mode in {"idle", "both"} else None

    @property
    def daily(self) -> bool:
        """Whether boundaries matter."""
        return self.mode in {"daily", "both"}


_FIELDS = {one.name for one in fields(ResetPolicy)}


def _check_idle(value: object) -> None:
    if type(value) not in (int, float) or not 0 < value <= MAX_IDLE_MINUTES:  # type: ignore[operator]  # a number
        raise _refused("idle_minutes", f"a number above 0 and up to {MAX_IDLE_MINUTES:,} (100 years)", value)


def _check_hour(value: object) -> None:
    if type(value) is not int or not 0 <= value <= 23:  # noqa: PLR2004 - the last hour of a day
        raise _refused("at_hour", "a whole number from 0 to 23", value)


def _check_zone(value: object) -> None:
    wanted = "an IANA time zone like 'UTC' or 'Europe/Berlin'"
    if type(value) is not str or value.startswith(_NO_ZONES):
        raise _refused("zone", wanted, value)
    try:
        ZoneInfo(value)
    except (LookupError, ValueError, OSError) as error:
        raise _refused("zone", wanted, value) from error


def _refused(name: str, wanted: str, value: object) -> ConfigurationError:
    return ConfigurationError(f"{name} of a reset policy must be {wanted}, not {shown(value)}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetPolicies:
    """The policies of an application: that of the platform, else that of the chat type, else the default."""

    default: ResetPolicy = ResetPolicy()
    by_platform: Mapping[str, ResetPolicy] = field(default_factory=dict)
    by_type: Mapping[str, ResetPolicy] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep copies of its own; refuse names that no session can have, and what is no policy."""
        if not isinstance(self.default, ResetPolicy):
            raise ConfigurationError(f"default must be a ResetPolicy, not {type(self.default).__name__}.")
        for name in ("by_platform", "by_type"):
            given = dict(getattr(self, name))
            for key, value in given.items():
                _check_name(name, key)
                if not isinstance(value, ResetPolicy):
                    raise ConfigurationError(f"{name}[{shown(key)}] must be a ResetPolicy, not {type(value).__name__}.")
            object.__setattr__(self, name, given)

    @classmethod
    def parse(cls, given: object) -> ResetPolicies:
        """Policies from JSON text or a mapping; a bare policy is the default one, empty text is no policy.

        Raises:
            ConfigurationError: it is something else, or holds an unknown name or a wrong value; says where.
        """
        if isinstance(given, cls):
            return given
        if isinstance(given, str):
            given = _decoded(given)
        if isinstance(given, ResetPolicy):
            return cls(default=given)
        names = {one.name for one in fields(cls)}
        given = _mapping(given, names | _FIELDS, "reset")
        if names.isdisjoint(given):
            return cls(default=_policy(given, "reset"))
        given = _mapping(given, names, "reset")
        parts: dict[str, Any] = {"default": _policy(given.get("default", {}), "default")}
        for name in ("by_platform", "by_type"):
            inner = _mapping(given.get(name, {}), None, name)
            parts[name] = {key: _policy(value, f"{name}[{shown(key)}]") for key, value in inner.items()}
        return cls(**parts)

    def to_json(self) -> str:
        """The text that `parse` makes the same policies of."""
        return json.dumps(asdict(self))

    def all(self) -> Iterator[ResetPolicy]:
        """Every policy, some perhaps more than once."""
        yield self.default
        yield from self.by_platform.values()
        yield from self.by_type.values()


def _decoded(text: str) -> object:
    try:
        return json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(
            f'reset must be JSON text like {{"mode": "daily"}}; it cannot be read: {error}.'
        ) from error


def _mapping(given: object, names: set[str] | None, where: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"{where} must be a JSON object or a mapping, not {type(given).__name__}.")
    unknown = [shown(name) for name in given if names is not None and name not in names]
    if unknown:
        raise ConfigurationError(f"{where} has no {', '.join(unknown)}; there are: {', '.join(sorted(names or ()))}.")
    return given


def _policy(given: object, where: str) -> ResetPolicy:
    if isinstance(given, ResetPolicy):
        return given
    values = _mapping(given, _FIELDS, where)
    try:
        return ResetPolicy(**values)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where} is refused: {error}") from error


def _check_name(where: str, name: object) -> None:
    if type(name) is not str or not 1 <= len(name) <= MAX_NAME_CHARACTERS or not name.isprintable():
        raise ConfigurationError(
            f"{where} is by names of 1 to {MAX_NAME_CHARACTERS} printable characters, not {shown(name)}."
        )


def boundaries(policy: ResetPolicy, around: datetime) -> list[int]:
    """When the local days from three before to three after `around` begin, in milliseconds since 1970.

    Each day has one boundary: the first instant at which the clocks there show `at_hour` of that day or later. So an hour
    that the clocks skip counts from the end of the gap, and one that they show twice from the first time.
    """
    zone = ZoneInfo(policy.zone)
    return list(_boundaries(zone, policy.at_hour, around.astimezone(zone).date()))


@lru_cache(maxsize=256)
def _boundaries(zone: ZoneInfo, at_hour: int, today: date) -> tuple[int, ...]:
    days = (today + timedelta(days=offset) for offset in DAYS)
    return tuple(1000 * _reached(zone, datetime.combine(day, time(at_hour))) for day in days)


def _reached(zone: ZoneInfo, wall: datetime) -> int:
    """The first second since 1970 at which the clocks of a zone show this time or a later one."""
    first, second = (round(wall.replace(tzinfo=zone, fold=fold).timestamp()) for fold in (0, 1))
    if first <= second:
        return first
    # Clocks skip this time: read with the offset before the gap it comes out after it, with the other one before it.
    gap = range(second, first)
    return second + bisect_left(gap, wall, key=lambda at: datetime.fromtimestamp(at, zone).replace(tzinfo=None))


def rows(policies: ResetPolicies, around: datetime) -> list[str | int]:
    """The policies as arguments of a script that asks ``due`` of ``policy.lua``, which says how they are laid out.

    Args:
        policies: those of the application.
        around: an aware time, about now.
    """
    numbers: dict[tuple[str | int, str], int] = {}
    rules: list[str | int] = []
    for name, policy in _rules(policies):
        days = " ".join(map(str, boundaries(policy, around))) if policy.daily else ""
        effect = ("" if policy.idle_ms is None else policy.idle_ms, days)
        rules += [name, numbers.setdefault(effect, len(numbers) + 1)]
    return [len(rules) // 2, len(numbers), *rules, *(value for effect in numbers for value in effect)]


def _rules(policies: ResetPolicies) -> Iterator[tuple[str, ResetPolicy]]:
    yield "default", policies.default
    for name, policy in policies.by_platform.items():
        yield f"platform:{name}", policy
    for name, policy in policies.by_type.items():
        yield f"type:{name}", policy


def cutoff(policies: ResetPolicies, now: datetime) -> datetime | None:
    """A bound for SQL: only sessions whose `updated_at` is before it can be due at `now`; None where none ever is.

    Suspended sessions apart, which are due whatever the time. With one policy it is exact.
    """
    found = []
    for policy in policies.all():
        if policy.idle_ms is not None:
            found.append(now - policy.idle_ms * _MILLISECOND)
        if policy.daily:
            found.append(max(at for ms in boundaries(policy, now) if (at := _EPOCH + ms * _MILLISECOND) <= now))
    return max(found, default=None)
