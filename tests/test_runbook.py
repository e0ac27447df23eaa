"""The runbook: sections of one form, commands that exist and are used rightly, lines for redis-cli and psql that run."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

import click
import pytest
import redis
from conftest import missing

from sessioncache import SessionCache
from sessioncache.cli.main import cli

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "runbook.md").read_text()
ANCHORS = {
    "redis-full", "redis-lost", "sql-down", "lag-grows", "dead-letters", "worker-stuck", "key-leak", "damaged-data",
    "bigger-redis", "change-partitions", "rolling-upgrade", "backup-and-restore", "erase-a-person",
}  # fmt: skip
PARTS = ["What you see", "What it means", "Look", "Do", "Afterwards", "What is lost"]


@cache
def sections() -> dict[str, str]:
    """The text of each section, by its anchor."""
    found = re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-"): text for title, text in found}


def lines() -> list[str]:
    """What the page says is to be typed, without what is said of it."""
    fenced = "\n".join(re.findall(r"^ *```sh\n(.*?)^ *```", PAGE, re.DOTALL | re.MULTILINE))
    return [re.sub(r"\s+#.*", "", line).strip() for line in fenced.splitlines() if line.strip()]


def beginning(*programs: str) -> list[str]:
    return [line for line in lines() if line.split()[0] in programs]


def commands() -> list[str]:
    """Each `sessioncache` command line, in the text too."""
    inline = re.findall(r"`(sessioncache [^`]+)`", PAGE.replace("\n", " "))
    typed = [
        line[line.index("sessioncache ") :] for line in lines() if re.match(r"(SESSIONCACHE_\w+=\S+ )?sessioncache ", line)
    ]
    return sorted({*inline, *typed})


def test_every_section_has_the_same_form():
    """What you see, what it means, look, do, afterwards, what is lost: all of them, in this order."""
    assert set(sections()) == ANCHORS
    for anchor, text in sections().items():
        headings = [re.split("[:,]", one)[0] for one in re.findall(r"^\*\*([^*]+?)\.?\*\*", text, re.MULTILINE)]
        known = [one for number, one in enumerate(headings) if one in PARTS and one not in headings[:number]]
        assert known == PARTS, anchor


def test_links_within_lead_somewhere():
    """Anchors of this page and of others."""
    for page, anchor in re.findall(r"\]\(([\w./]*)#([\w-]+)\)", PAGE):
        text = (ROOT / "docs" / page).read_text() if page else PAGE
        slugs = {
            re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
            for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        }
        assert anchor in slugs, (page, anchor)


def wrong(line: str) -> str:
    """Why a command line cannot be used; "" if it can."""
    command, path, words = cli, "sessioncache", shlex.split(re.sub(r" [>|].*", "", line))[1:]
    context = click.Context(cli, info_name="sessioncache")
    while isinstance(command, click.Group):
        if words and words[0] in {"--version", "--help"}:
            return ""
        name = words.pop(0) if words else ""
        if name not in command.commands:
            return f"there is no {path} {name}"
        command, path = command.commands[name], f"{path} {name}"
        context = click.Context(command, context, info_name=name)
    try:
        command.parse_args(context, words)
    except click.BadParameter as refused:
        return "" if "does not exist" in str(refused) else str(refused)
    except click.UsageError as refused:
        return str(refused)
    return ""


@pytest.mark.parametrize("line", commands())
def test_every_command_exists_and_takes_what_it_is_given(line):
    """Its name, its options, and as many arguments."""
    assert wrong(line) == ""


@pytest.mark.parametrize(
    "line",
    ["sessioncache flushh", "sessioncache flush --hard", "sessioncache evict", "sessioncache db", "sessioncache db down",
     "sessioncache stats KEY", "sessioncache worker --log-level LOUD"],
)  # fmt: skip
def test_a_wrong_line_is_seen(line):
    """A command, an option or an argument too many, one too few, a value that is none."""
    assert wrong(line)


def run(line: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of the page, with bash."""
    command, full = ["bash", "-o", "pipefail", "-c", line], {**os.environ, **environment}
    return subprocess.run(command, env=full, cwd=directory, capture_output=True, text=True, timeout=60, check=False)


def is_of_a_procedure(line: str) -> bool:
    """Whether it exchanges servers or writes files: a test of its own does what the page says there."""
    return bool(re.search(r" -h (OLD|NEW) | --rdb ", line))


def test_lines_for_redis_run(own_server, tmp_path):
    """On a Redis that has a session; what is asked for is there."""
    client, server = shutil.which("redis-cli") or missing("redis-cli"), own_server(appendonly="yes")
    script = tmp_path / "redis-cli"
    script.write_text(f'#!/bin/sh\nexec {client} -e -s {server.socket} "$@"\n')
    script.chmod(0o755)
    with SessionCache.from_url(server.url, f"sqlite:///{tmp_path}/store.db", queue_url="redis://127.0.0.1:1/0") as cache:
        cache.open("telegram:dm:42").append({"role": "user", "content": "hello"})
        with redis.Redis.from_url(server.url) as raw:
            raw.zadd("sc:{020}:dirty", {"other": 1})
        ran = [line for line in beginning("redis-cli") if not is_of_a_procedure(line)]
        assert len(ran) > 20
        for line in ran:
            done = run(line, tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}")
            assert (done.returncode, done.stderr) == (0, ""), line
            assert "ERR" not in done.stdout, line
            silent = any(word in line for word in ("xargs", "GET", "SMEMBERS", "ACL LOG"))
            assert done.stdout.strip() or silent, line


def test_lines_for_postgresql_run(own_postgres, tmp_path):
    """On a database with our schema."""
    path = f"{own_postgres.binaries}:{os.environ['PATH']}"
    place = {"PGHOST": str(own_postgres.directory), "PGUSER": "postgres", "PGDATABASE": own_postgres.TEMPLATE, "PATH": path}
    ran = beginning("psql")
    assert len(ran) >= 3
    for line in ran:
        done = run(line, tmp_path, **place)
        assert (done.returncode, done.stderr) == (0, ""), line


def test_what_is_not_run_here_is_run_by_a_procedure():
    """Each line that exchanges servers, saves, restores or purges files is typed in a test that does what the page says."""
    tree = ast.parse((ROOT / "tests" / "test_procedures.py").read_text())
    calls = [one for one in ast.walk(tree) if isinstance(one, ast.Call) and getattr(one.func, "id", "") == "typed"]
    named = [word.value for one in calls for word in ast.walk(one) if isinstance(word, ast.Constant)]
    programs = ("sqlite3", "pg_dump", "pg_restore", "cp", "rm")
    elsewhere = beginning(*programs) + [line for line in beginning("redis-cli") if is_of_a_procedure(line)]
    assert len(elsewhere) >= 12
    for line in elsewhere:
        assert any(line.startswith(word) for word in named), line


def test_every_line_is_looked_at_by_some_test():
    """There is no program on the page that nobody runs."""
    programs = {line.split()[0] for line in lines()}
    looked_at = {"sessioncache", "redis-cli", "psql", "sqlite3", "pg_dump", "pg_restore", "cp", "rm", "curl"}
    assert {one for one in programs if not one.startswith("SESSIONCACHE_")} == looked_at
