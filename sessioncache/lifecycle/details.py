"""What is known of a session besides its messages: update, usage."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, TypedDict

from sessioncache import info
from sessioncache.arguments import shown
from sessioncache.errors import InvalidInput
from sessioncache.flow import Flow
from sessioncache.hot import writing
from sessioncache.keys import check_name
from sessioncache.lifecycle.handle import Handle, changed, standing
from sessioncache.state import State


class Changes(TypedDict, total=False):
    """What may be changed of a session; what is not given, or None, stays as it is.

    Attributes:
        title: control characters are removed; ``""``, or nothing left, means none.
        display_name: ``""`` means none.
        origin: where the conversation comes from, as a JSON object.
        metadata: names that are given replace the old value; a name that is None goes; others stay.
        archived: hidden from lists; opening and appending work.
        important: never archived by housekeeping.
        suspended: the next ``open`` begins a fresh session.
    """

    title: str | None
    display_name: str | None
    origin: Mapping[str, Any] | None
    metadata: Mapping[str, Any] | None
    archived: bool | None
    important: bool | None
    suspended: bool | None


class Used(TypedDict, total=False):
    """What a call of a model used; what is not given, or None, stays as it is.

    Tokens and cost are added to what was used before; ``last_prompt_tokens`` and the texts replace what was said last.
    """

    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    last_prompt_tokens: int | None
    estimated_cost: float | None
    cost_status: str | None
    cost_source: str | None
    model: str | None
    provider: str | None
    base_url: str | None


def _given(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise InvalidInput(f"There is no {', '.join(unknown)} to be set here; there is: {', '.join(names)}.")
    return {name: value for name, value in values.items() if value is not None}


def update(state: State, handle: Handle, changes: Changes, expected_version: int | None) -> Flow[int]:
    """Change title, names, origin, flags or metadata. The version.

    Raises:
        InvalidInput: a value is refused; nothing was written.
        SessionMoved, SessionDeleted, VersionConflict, TurnLost, Backpressure: as for `append`.
    """
    columns = {name: _CHECKS[name](value) for name, value in _given(changes, _CHECKS).items()}
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


def _display_name(value: object) -> str:
    return value if value == "" else check_name(value, "display_name")


def _flag(value: object) -> bool:
    if type(value) is not bool:
        raise InvalidInput(f"archived, important and suspended are True or False, not {shown(value)}.")
    return value


_CHECKS: dict[str, Any] = {
    "title": info.clean_title,
    "display_name": _display_name,
    "origin": partial(info.json_object, what="origin"),
    "metadata": info.metadata,
    **dict.fromkeys(info.FLAGS, _flag),
}


def record_usage(state: State, handle: Handle, used: Used, expected_version: int | None) -> Flow[int]:
    """Add tokens and cost to what was used. The version.

    Raises:
        InvalidInput: a value is refused; nothing was written.
        SessionMoved, SessionDeleted, VersionConflict, TurnLost, Backpressure: as for `append`.
    """
    given = _given(used, Used.__annotations__)
    added = {name: info.count(given[name], name) for name in info.TOKENS if name in given}
    if "estimated_cost" in given:
        added["cost_nano"] = info.cost_in_nano(given["estimated_cost"])
    columns: dict[str, Any] = {name: check_name(given[name], name) for name in info.LABELS if name in given}
    if "last_prompt_tokens" in given:
        columns["last_prompt_tokens"] = info.count(given["last_prompt_tokens"], "last_prompt_tokens")
    triples = [part for name, value in info.fields(columns).items() for part in ("set", name, value)]
    triples += [part for name, amount in added.items() for part in ("add", name, str(amount))]
    return (yield from _send(state, handle, {"set": columns, "add": added}, triples, expected_version, activity=True))


def consolidated(
    state: State, handle: Handle, through: int, names: Mapping[str, Any], expected_version: int | None
) -> Flow[int]:
    """Move the consolidated pointer to a seq, and put these names in the metadata. The version.

    Raises:
        InvalidInput: there is no message of this seq yet; nothing was written.
        SessionMoved, SessionDeleted, VersionConflict, TurnLost, Backpressure: as for `append`.
    """
    payload = {"set": {"consolidated_seq": through}, "metadata": names}
    triples = ["reach", "consolidated_seq", str(through), *_metadata_triples(names)]
    return (yield from _send(state, handle, payload, triples, expected_version, activity=False))


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
