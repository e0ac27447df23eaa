"""`sessioncache config`: the settings in force, and where each comes from. Asks no server; shows no password."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import click

from sessioncache.addresses import masked
from sessioncache.cli.context import arguments, environment
from sessioncache.cli.output import harmless, with_json, write_json, write_table
from sessioncache.config import effective, unknown_variables

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class _Shown:
    """A setting as it is shown; ``place`` is the argument, variable or file it comes from, None for a default."""

    setting: str
    value: Any
    source: str
    place: str | None


@click.command()
@click.option("--changed", is_flag=True, help="Only those that have not their default.")
@with_json
def config(*, changed: bool, as_json: bool) -> None:
    """Show the settings in force, and where each comes from: default, file, environment, argument.

    Asks no server. Users and passwords in addresses are masked.
    """
    surroundings = environment()
    shown = [one for one in _shown(surroundings) if one.source != DEFAULT or not changed]
    for name in unknown_variables(surroundings):
        click.echo(f"There is no setting {harmless(name)}; it is left alone.", err=True)
    if as_json:
        for one in shown:
            write_json(one)
    else:
        write_table(("setting", "value", "from"), ((one.setting, _text(one.value), _origin(one)) for one in shown))


def _shown(surroundings: Mapping[str, str]) -> list[_Shown]:
    settings, found = effective(arguments(), surroundings)
    shown = []
    for field in fields(settings):
        value = getattr(settings, field.name)
        value = masked(value) if field.name.endswith("_url") else value
        origin = found.get(field.name)
        shown.append(_Shown(field.name, value, origin.source if origin else DEFAULT, origin.place if origin else None))
    return shown


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _origin(one: _Shown) -> str:
    """Where a setting comes from, in words."""
    return {"default": "default", "argument": f"argument {one.setting}"}.get(one.source, f"{one.source} {one.place}")
