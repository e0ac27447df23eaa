"""What is known of a session besides its messages: update, usage."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from sessioncache import info
from sessioncache.arguments import shown
from sessioncache.errors import InvalidInput
from sessioncache.flow import Flow
from sessioncache.hot import writing
from sessioncache.keys import check_name
from sessioncache.lifecycle.handle import Handle, changed, standing
from sessioncache.state import State


def update(state: State, handle: Handle, given: Mapping[str, Any], expected_version: int | None) -> Flow[int]:
    """Change title, names, origin, flags or metadata; what is None stays as it is. The version.

    Raises:
        InvalidInput: a value is refused; nothing was written.
        SessionMoved, SessionDeleted, VersionConflict, TurnLost, Backpressure: as for `append`.
    """
    columns = {name: _CHECKS[name](value) for name, value in given.items() if value is not None}
    metadata = columns.pop("metadata", {})
    payload = {"set": {name: None if value == "" else value for name, value in columns.items()}, "metadata": metadata}
    triples = [part for name, value in info.fields(columns).items() for part in ("set", name, value)]
    triples += _metadata_triples(metadata)
    return (yield from _send(state, handle, payload, triples, expected_version, activity=False))


def _metadata_triples(names: Mapping[str, Any]) -> list[str | bytes]:
    found: list[str | bytes] = []
    for name, value in names.items():
        removed = value is None
        found += ("remove" if removed else "set", info.METADATA + name, b"" if removed else info.packed(value))
    return found


def _title(value: object) -> str:
    return info.clean_title(value)


def _display_name(value: object) -> str:
    return value if value == "" else check_name(value, "display_name")


def _flag(value: object) -> bool:
    if type(value) is not bool:
        raise InvalidInput(f"archived, important and suspended are True or False, not {shown(value)}.")
    return value


_CHECKS: dict[str, Any] = {
    "title": _title,
    "display_name": _display_name,
    "origin": partial(info.json_object, what="origin"),
    "metadata": info.metadata,
    **dict.fromkeys(info.FLAGS, _flag),
}


def record_usage(state: State, handle: Handle, given: Mapping[str, Any], expected_version: int | None) -> Flow[int]:
    """Add tokens and cost to what was used; what is None stays as it is. The version.

    Raises:
        InvalidInput: a value is refused; nothing was written.
        SessionMoved, SessionDeleted, VersionConflict, TurnLost, Backpressure: as for `append`.
    """
    given = {name: value for name, value in given.items() if value is not None}
    added = {name: info.count(given[name], name) for name in info.TOKENS if name in given}
    if "estimated_cost" in given:
        added["cost_nano"] = info.cost_in_nano(given["estimated_cost"])
    columns: dict[str, Any] = {name: check_name(given[name], name) for name in info.LABELS if name in given}
    if "last_prompt_tokens" in given:
        columns["last_prompt_tokens"] = info.count(given["last_prompt_tokens"], "last_prompt_tokens")
    triples = [part for name, value in info.fields(columns).items() for part in ("set", name, value)]
    triples += [part for name, amount in added.items() for part in ("add", name, str(amount))]
    return (yield from _send(state, handle, {"set": columns, "add": added}, triples, expected_version, activity=True))


def _send(
    state: State,
    handle: Handle,
    payload: Mapping[str, Any],
    triples: list[str | bytes],
    expected_version: int | None,
    *,
    activity: bool,
) -> Flow[int]:
    terms = handle.change(expected_version)
    if not triples:
        return (yield from standing(state, handle)).version
    attempt = partial(writing.update, state, handle.keys, terms, info.packed(payload), triples, activity=activity)
    return (yield from changed(state, handle, attempt))
