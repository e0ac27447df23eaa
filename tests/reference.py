"""The reference of the commands in docs/commands.md, made from the commands themselves; the same with every click."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click

from sessioncache.cli.main import cli

PAGE = Path(__file__).parent.parent / "docs" / "commands.md"
BEGINS = "## Reference\n"
VALUES = {"text": "TEXT", "integer": "NUMBER", "integer range": "NUMBER", "float": "NUMBER", "float range": "NUMBER",
          "path": "PATH", "file": "FILE", "filename": "FILE"}  # fmt: skip


def page() -> str:
    """docs/commands.md, as it has to be: what was written by hand, then the reference."""
    return PAGE.read_text().partition(BEGINS)[0] + BEGINS + "\n" + "\n".join(_described())


def commands(group: click.Group = cli, path: str = "sessioncache") -> Iterator[tuple[str, click.Command]]:
    """Every command with its name, in the order of the alphabet; groups before what is in them."""
    for name, command in sorted(group.commands.items()):
        if not command.hidden:
            yield f"{path} {name}", command
            if isinstance(command, click.Group):
                yield from commands(command, f"{path} {name}")


def _described() -> Iterator[str]:
    yield "Options of the whole command stand before the name of a command: `sessioncache --set partitions=8 stats`.\n"
    yield _options(cli)
    for path, command in commands():
        names = [_argument(one) for one in command.params if isinstance(one, click.Argument)]
        options = _options(command)
        usage = " ".join([path, *(["[OPTIONS]"] if options else []), *names])
        usage += " COMMAND" if isinstance(command, click.Group) else ""
        words = cleandoc(command.help or "").replace("\b\n", "")
        yield f"### {path}\n\n`{usage}`\n\n{words}\n"
        if options:
            yield options


def _argument(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    name += "..." if argument.nargs != 1 and not name.endswith("...") else ""
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _options(command: click.Command) -> str:
    """The options of a command, as a table; nothing where it has none."""
    rows = [_row(one) for one in command.params if isinstance(one, click.Option) and not one.hidden]
    return "".join(["| option | what it is |\n|---|---|\n", *rows]) if rows else ""


def _row(option: click.Option) -> str:
    names = ", ".join((*option.opts, *option.secondary_opts))
    value = "" if option.is_flag or option.count else f" {_value(option)}"
    default = option.default if option.show_default else None
    said = (option.help, None if default is None else f"Without it: `{default}`.", "Needed." if option.required else None)
    words = " ".join(" ".join(one.split()) for one in said if one)
    cells = (cell.replace("|", r"\|") for cell in (f"`{names}{value}`", words))
    return f"| {' | '.join(cells)} |\n"


def _value(option: click.Option) -> str:
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    return VALUES.get(option.type.name, option.type.name.upper())
