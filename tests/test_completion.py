"""Shell completion: what a shell is given to load, and what it then offers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import get_completion_class
from conftest import missing

from sessioncache.cli.main import cli

VARIABLE = "_SESSIONCACHE_COMPLETE"


def offered(words: list[str], incomplete: str) -> set[str]:
    """What is offered after these words, for one that begins so."""
    completion = get_completion_class("bash")(cli, {}, "sessioncache", VARIABLE)
    return {one.value for one in completion.get_completions(words, incomplete)}


def test_commands_and_options_are_offered():
    """Commands, subcommands, options and the words that an option takes; nothing is asked of a server."""
    assert {"ls", "show", "history", "tail", "search", "keys", "stats", "db", "export"} <= offered([], "")
    assert offered([], "st") == {"stats"}
    assert {"upgrade", "current"} <= offered(["db"], "")
    assert {"--follow", "--limit", "--owner", "--json"} <= offered(["tail"], "--")
    assert offered(["ls", "--ended"], "") == {"yes", "no", "any"}
    assert offered(["show"], "") == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_for_shells(shell):
    """Each names the program and its variable."""
    source = get_completion_class(shell)(cli, {}, "sessioncache", VARIABLE).source
    if shell == "bash" and not shutil.which("bash"):
        missing("bash")
    printed = source()
    assert f"{VARIABLE}={shell}_complete" in printed
    assert "sessioncache" in printed


def test_in_a_shell(tmp_path):
    """Loaded as docs/commands.md says, a real bash completes subcommands."""
    bash = shutil.which("bash") or missing("bash")
    program = tmp_path / "sessioncache"
    program.write_text(f"#!{sys.executable}\nfrom sessioncache.cli.main import main\nmain()\n")
    program.chmod(0o755)
    script = f"""
        eval "$({VARIABLE}=bash_source sessioncache)"
        COMP_WORDS=(sessioncache db up) COMP_CWORD=2
        _sessioncache_completion sessioncache up db
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [bash, "--noprofile", "--norc", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout.split(), done.stderr) == (["upgrade"], "")
