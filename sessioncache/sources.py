"""Where settings come from: arguments, ``SESSIONCACHE_*`` variables, and the TOML file that ``SESSIONCACHE_CONFIG`` names.

Guarantees: an argument beats a variable, which beats the file. A value is of its setting's type, or a `ConfigurationError`
names the setting, and the file where it stands in one. What a file holds is not shown in any message but for numbers.
What a setting means is not known here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sessioncache.arguments import shown
from sessioncache.conversation.policy import ResetPolicies
from sessioncache.errors import ConfigurationError

ENVIRONMENT = "SESSIONCACHE_"
FILE = "SESSIONCACHE_CONFIG"
# The table of a file that holds the settings, where it holds other things too.
TABLE = "sessioncache"

Kinds = Mapping[str, type]


@dataclass(frozen=True, slots=True)
class Given:
    """A value that was given for a setting.

    Attributes:
        value: the value, of the setting's type.
        source: ``argument``, ``environment`` or ``file``.
        place: the argument, the variable, or the path of the file.
    """

    value: Any
    source: str
    place: str


def given(kinds: Kinds, arguments: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Given]:
    """What was given for each setting, and where; nothing for those that have their default.

    Args:
        kinds: the type of each setting, by name.
        arguments: values by name.
        environment: variables; those of no setting are left alone.

    Raises:
        ConfigurationError: an unknown name, a value of the wrong type, or a file that cannot be used.
    """
    unknown = sorted(set(arguments) - set(kinds))
    if unknown:
        raise ConfigurationError(f"There is no setting {', '.join(unknown)}; there are: {', '.join(kinds)}.")
    path = environment.get(FILE, "")
    found = {name: Given(value, "file", path) for name, value in _in_file(path, kinds).items()} if path else {}
    variables = {name: variable(name) for name in kinds if variable(name) in environment}
    found |= {name: Given(environment[one], "environment", one) for name, one in variables.items()}
    found |= {name: Given(value, "argument", name) for name, value in arguments.items()}
    return {name: replace(one, value=_converted(name, kinds[name], one)) for name, one in found.items()}


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return ENVIRONMENT + name.upper()


def strangers(kinds: Kinds, environment: Mapping[str, str]) -> list[str]:
    """Variables that look like settings and are none: slips of the finger, or of another version."""
    known = {variable(name) for name in kinds} | {FILE}
    return sorted(name for name in environment if name.startswith(ENVIRONMENT) and name not in known)


def _in_file(path: str, kinds: Kinds) -> dict[str, Any]:
    table = _table(path, kinds)
    for name, value in table.items():
        if name not in kinds:
            raise ConfigurationError(f"{path}: there is no setting {shown(name)}; there are: {', '.join(kinds)}.")
        if not _fits(name, kinds[name], value):
            wanted = "text or a table" if name == "reset" else kinds[name].__name__
            raise ConfigurationError(f"{path}: {name} must be {wanted}, not {type(value).__name__}.")
    return table


def _table(path: str, kinds: Kinds) -> dict[str, Any]:
    """The settings of a file: its table ``sessioncache``, or where it has none, all of it."""
    whole = _parsed(path)
    table = whole.get(TABLE)
    if table is None:
        return whole
    if not isinstance(table, dict):
        raise ConfigurationError(f"{path}: {TABLE} must be a table, as in [{TABLE}], not {type(table).__name__}.")
    outside = sorted(set(whole) & set(kinds))
    if outside:
        raise ConfigurationError(
            f"{path}: {', '.join(outside)} must stand in the table [{TABLE}], with the other settings."
        )
    return table


def _parsed(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(
            f"{path}: the settings cannot be read: {why}; {FILE} or --config names the file."
        ) from None
    except (ValueError, RecursionError) as error:
        where = str(error) if isinstance(error, tomllib.TOMLDecodeError) else type(error).__name__
        raise ConfigurationError(f"{path}: the settings cannot be read as TOML: {where.rstrip('.')}.") from None


def _fits(name: str, kind: type, value: object) -> bool:
    """Whether a file's value is of a setting's type: there a number is not written as text."""
    if name == "reset":
        return isinstance(value, str | dict)
    if kind in (bool, str):
        return isinstance(value, kind)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _converted(name: str, kind: type, one: Given) -> Any:
    try:
        return _convert(name, kind, one.value)
    except ConfigurationError as error:
        if one.source != "file":
            raise
        raise ConfigurationError(f"{one.place}: {error}") from error


def _convert(name: str, kind: type, value: object) -> Any:
    if name == "reset":
        return value if isinstance(value, str) else ResetPolicies.parse(value).to_json()
    if kind is bool:
        return _switch(name, value)
    if isinstance(value, bool) or (kind is str and not isinstance(value, str)):
        raise ConfigurationError(f"{name} must be {kind.__name__}, not {type(value).__name__}.")
    if kind is str:
        return value
    if kind is int and isinstance(value, float) and not value.is_integer():
        raise ConfigurationError(f"{name} must be a whole number, not {value}.")
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigurationError(f"{name} must be a number ({kind.__name__}), not {shown(value)}.") from error


def _switch(name: str, value: object) -> bool:
    found = {"true": True, "1": True, "false": False, "0": False}.get(str(value).lower())
    if found is None:
        raise ConfigurationError(f"{name} is true or false, not {shown(value)}.")
    return found
