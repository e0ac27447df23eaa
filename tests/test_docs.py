"""What README and docs say is true: examples run and print what stands below them, names exist, settings agree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import click
import pytest
import reference
from conftest import binary_of

import sessioncache
from sessioncache import AsyncSession, AsyncSessionCache, Session, SessionCache, Settings, errors
from sessioncache.cli.main import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PRINTING = re.compile(r"```python\n((?:(?!```).)*)```\n\n```text\n(.*?)```", re.DOTALL)
EXAMPLES = [
    pytest.param(code, output, id=f"{page.name}-{number}")
    for page in PAGES
    for number, (code, output) in enumerate(PRINTING.findall(page.read_text()))
]


@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_examples_print_what_stands_below_them(code, output, tmp_path):
    """As a new user would run them: in an empty directory."""
    binary_of("valkey9")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SESSIONCACHE_")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.stderr == ""
    assert done.stdout == output


def test_there_are_examples():
    """The README's ten lines, and both doors in the usage page."""
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Files of this repository that a page links to exist."""
    for link in re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lists_stand_after_an_empty_line(page):
    """Else they are lists here, and no lists on the site."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert not re.findall(r"^(?! |[-*] |\d+\. ).+\n(?:[-*] |\d+\. ).*", text, re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "runbook.md"], ids=lambda page: page.name)
def test_commands_exist(page):
    """`make` targets and `sessioncache` commands that a page names; those of the runbook are looked at in its own tests."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in re.findall(r"\bmake ((?:[a-z-]+ )*[a-z-]+)`", page.read_text()):
        assert set(words.split()) <= targets, words
    for name in re.findall(r"`sessioncache ([a-z]+)", page.read_text()):
        assert name in cli.commands, name


def test_readme_names_two_commands_first():
    """Before anything else that can be typed."""
    typed = re.findall(r"^\$ (.*?)(?:  |$)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert typed[:2] == ["make demo", "make test"]


def test_every_public_call_and_error_is_documented():
    """In the usage page."""
    usage = (ROOT / "docs" / "usage.md").read_text()
    for door in (SessionCache, AsyncSessionCache, Session, AsyncSession):
        for name in vars(door):
            if not name.startswith("_") and name != "settings":
                assert f"`{name}" in usage or f".{name}(" in usage, name
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, sessioncache.SessionCacheError):
            assert f"`{name}`" in usage, name


def test_every_feature_names_tests_that_are_there():
    """The rows of three session managers, each with calls and tests."""
    rows = [line for line in (ROOT / "docs" / "features.md").read_text().splitlines() if re.match(r"\| \d+ ", line)]
    numbers = [int(row.split("|")[1]) for row in rows]
    assert numbers == [*range(1, 37)]
    for row in rows:
        names_tests(row)


def names_tests(row: str) -> None:
    """A row of a table names tests, which exist."""
    named = re.findall(r"`(tests/\w+\.py)(?:::(test_\w+))?`", row)
    assert named, row
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text() if name else (ROOT / path).exists(), (path, name)


def test_every_guarantee_names_tests_that_are_there():
    """A fault, what is lost, what a caller sees, and the tests that show it."""
    rows = [line for line in (ROOT / "docs" / "guarantees.md").read_text().splitlines() if line.startswith("| ")]
    faults = [row for row in rows if not row.startswith(("| what happens", "| durability"))]
    assert len(faults) >= 40
    for row in faults:
        assert row.count("|") == 5, row
        names_tests(row)


def described() -> dict[str, str]:
    """What the docstring of `Settings` says of each."""
    text = Settings.__doc__.partition("Attributes:\n")[2]
    found = re.findall(r"^        (\w+): (.*?)(?=^        \w+: |\Z)", text, re.DOTALL | re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in found}


KINDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def settings_page() -> str:
    """docs/settings.md, as it has to be."""
    head = """\
# Settings

An argument beats a variable, which beats the file, which beats the default. The variable of a setting is its name in
capitals after `SESSIONCACHE_`, as in `SESSIONCACHE_REDIS_URL`; in a file it has its name as it stands here.
`SESSIONCACHE_CONFIG` names the file. [Getting started](getting-started.md#settings) shows all three, and
`sessioncache config` what is in force. Times are seconds, sizes bytes, unless it says otherwise.

| setting | type | default | what it is |
|---|---|---|---|
"""
    rows = ((one.name, one.default, described()[one.name].replace("``", "`")) for one in fields(Settings))
    return head + "".join(f"| `{name}` | {KINDS[type(one)]} | {shown(one)} | {words} |\n" for name, one, words in rows)


def shown(default: object) -> str:
    """A default as it is written in a file."""
    return f"`{default}`" if default != "" and not isinstance(default, bool) else str(default).lower()


def test_settings_are_documented():
    """Each with its default, and the same words as in the code; `python tests/test_docs.py` writes the page anew."""
    assert set(described()) == {one.name for one in fields(Settings)}
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page()


def test_commands_are_documented():
    """Every command and option there is, in the words of its help; `python tests/test_docs.py` writes the page anew."""
    text = reference.PAGE.read_text()
    assert text == reference.page()
    for path, command in reference.commands():
        assert command.help, path
        assert f"### {path}\n" in text
        options = [one for one in command.params if isinstance(one, click.Option)]
        assert all(one.help or one.show_default for one in options), path


def error_tree(root: type = sessioncache.SessionCacheError, indent: str = "") -> str:
    """The errors, each below what it is a kind of, in the order of the code."""
    below = [one for one in vars(errors).values() if isinstance(one, type) and root in one.__bases__]
    return f"{indent}{root.__name__}\n" + "".join(error_tree(one, indent + "    ") for one in below)


API = ROOT / "docs" / "api.md"
TREE = re.compile(r"(?<=```text\n)SessionCacheError\n(?: +\w+\n)*(?=```)")


def test_the_reference_has_every_public_name():
    """From the code: no name is missing, none is there twice, and the tree of errors is the one there is."""
    text = API.read_text()
    named = re.findall(r"^::: sessioncache\.(\w+)$", text, re.MULTILINE)
    of_errors = set(error_tree().split())
    assert len(named) == len(set(named))
    assert set(named) - {"errors"} == set(sessioncache.__all__) - of_errors - {"__version__"}
    assert "errors" in named
    assert TREE.findall(text) == [error_tree()]


def test_the_site_has_every_page():
    """Each page of docs/ stands in the navigation once; the home page and the changelog stand outside docs/."""
    text = (ROOT / "mkdocs.yml").read_text()
    named = re.findall(r"^ +- .*: (\S+\.md)", text, re.MULTILINE)
    assert len(named) == len(set(named))
    assert set(named) == {page.name for page in PAGES} - {"README.md"} | {"index.md", "changelog.md"}


if __name__ == "__main__":
    (ROOT / "docs" / "settings.md").write_text(settings_page())
    reference.PAGE.write_text(reference.page())
    API.write_text(TREE.sub(lambda _: error_tree(), API.read_text()))
