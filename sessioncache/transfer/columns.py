"""Columns of a session, from what another store says of it: one table per layout, one check per column.

Guarantee: a value that cannot be kept spoils only itself, and is reported by the name it has there. What is absent, null or
empty is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, tzinfo
from typing import Any

from sessioncache import info
from sessioncache.errors import InvalidInput
from sessioncache.keys import check_name
from sessioncache.transfer.files import Unreadable
from sessioncache.transfer.lines import moment, parsed

MAX_REASON_CHARACTERS = 64

# Our name of a column: its name there, and what makes the value.
Layout = Mapping[str, tuple[str, Callable[[Any], Any]]]


def columns(told: Mapping[str, Any], layout: Layout, refused: Callable[[str], None]) -> dict[str, Any]:
    """What can be kept of what is told.

    Args:
        told: values, by their names there.
        layout: which become columns, and how.
        refused: told, in a sentence, of each that cannot.
    """
    found: dict[str, Any] = {}
    for ours, (theirs, made) in layout.items():
        value = told.get(theirs)
        if value is None or value == "":
            continue
        try:
            kept = made(value)
        except ValueError:
            refused(f"its {theirs} cannot be kept and is left out")
        else:
            if kept not in ("", {}):
                found[ours] = kept
    return found


def metadata_of(told: Mapping[str, Any], layout: Layout, refused: Callable[[str], None]) -> dict[str, Any]:
    """The column ``metadata``, of values that have no column of their own."""
    return columns({"metadata": columns(told, layout, refused)}, {"metadata": ("metadata", metadata)}, refused)


def name(value: object) -> str:
    """A name of at most 255 characters; whose, nobody asks."""
    return check_name(value, "name")


def reason(value: object) -> str:
    """Why a session ended."""
    if len(name(value)) > MAX_REASON_CHARACTERS:
        raise Unreadable("it is too long for a reason")
    return name(value)


def title(value: object) -> str:
    """A title, cut where it is too long."""
    try:
        return info.clean_title(value)
    except InvalidInput:
        if type(value) is not str or len(value) <= info.MAX_TITLE_CHARACTERS:
            raise
        return info.clean_title(value[: info.MAX_TITLE_CHARACTERS])


def metadata(value: object) -> dict[str, Any]:
    """Metadata without names that are None."""
    return info.without_none(info.metadata(value))


def origin(value: object) -> dict[str, Any]:
    """Where a session came from."""
    return info.json_object(value, "origin")


def count(value: object) -> int:
    """A number of tokens."""
    return info.count(value, "it")


def flag(value: object) -> bool:
    """True or false, also as SQLite keeps it."""
    if type(value) not in (bool, int) or value not in (0, 1):
        raise Unreadable("it is neither true nor false")
    return bool(value)


def json_text(value: object) -> Any:
    """What a text says in JSON; anything else as it is."""
    return parsed(value) if type(value) is str else value


def time_in(zone: tzinfo) -> Callable[[object], datetime]:
    """What makes times of values, in a zone."""
    return lambda value: moment(value, zone)


TOKENS: Layout = {one: (one, count) for one in (*info.TOKENS, "last_prompt_tokens")}
COSTS: Layout = {
    "cost_nano": ("estimated_cost_usd", info.cost_in_nano),
    "cost_status": ("cost_status", name),
    "cost_source": ("cost_source", name),
}
