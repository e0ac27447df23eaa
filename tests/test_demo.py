"""The demo, as a user runs it; its checker, with planted faults; its input, with bad lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.resources import files
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import binary_of
from test_workers import until, workers

from sessioncache.cli import main as command
from sessioncache.cli.demo import Audit, Results, audit
from sessioncache.cli.demo_input import canonical, read_conversations
from sessioncache.config import as_environment

PROGRAM = [sys.executable, "-c", "from sessioncache.cli.main import main; main()", "demo"]


def talk(*words):
    return [{"role": "user", "content": word} for word in words]


@pytest.mark.parametrize(
    ("found", "lost", "duplicated", "out_of_order"),
    [
        ("abca", 0, 0, 0),
        ("abc", 1, 0, 0),
        ("aab", 1, 0, 1),
        ("abcaa", 0, 1, 0),
        ("abbca", 0, 1, 0),
        ("abac", 0, 0, 2),
        ("", 4, 0, 0),
        ("abcx", 1, 1, 0),
        ("xabca", 0, 1, 0),
    ],
)
def test_the_checker_catches_planted_faults(found, lost, duplicated, out_of_order):
    """A loss, a duplicate, a swap, a ghost, each counted."""
    result = audit(talk(*"abca"), talk(*found))
    assert (result.lost, result.duplicated) == (lost, duplicated)
    assert (result.out_of_order > 0) == (out_of_order > 0)
    assert result.clean == (found == "abca")


def test_the_checker_compares_types_and_order_of_keys():
    """1 is not 1.0, nor True; and the order of keys counts."""
    assert len({canonical({"a": value}) for value in (1, 1.0, True, "1")}) == 4
    assert not audit([{"a": 1, "b": 2}], [{"b": 2, "a": 1}]).clean


def test_anything_that_differs_is_exit_status_1(monkeypatch):
    """One lost message, one read that missed a write, one message not drained."""
    for results in (Results(audit=Audit(lost=1)), Results(unseen=1), Results(undrained=1), Results()):
        monkeypatch.setattr(command, "_embedded", lambda *_, results=results: results)
        assert CliRunner().invoke(command.cli, ["demo"]).exit_code == (0 if results.clean else 1)
    assert Results().clean


def test_bad_lines_are_reported_by_number_and_skipped():
    """Whatever is wrong with them."""
    good = {"session": "k", "role": "user", "content": "a", "extra": [1]}
    bad = ["\udcff", "{", "[]", '"x"', "{}", json.dumps({**good, "session": ""}), json.dumps({**good, "session": 5}),
           json.dumps({**good, "role": None}), json.dumps({**good, "content": 5}), '{"session": "k", "role": "user"}',
           json.dumps({**good, "content": float("nan")}), json.dumps({**good, "n": 2**70}), "[" * 100_000]  # fmt: skip
    lines = ["\ufeff" + json.dumps(good), "", *bad, json.dumps(good)]
    problems = []
    found = read_conversations((line.encode(errors="surrogateescape") for line in lines), 10**6, problems.append)
    assert found == {"k": [{"role": "user", "content": "a", "extra": [1]}] * 2}
    assert [problem.split(" is skipped: ")[0] for problem in problems] == [f"line {n + 3}" for n in range(len(bad))]


def test_the_sample_is_of_real_shape():
    """A few hundred messages: scripts of the world, emoji, tools, blocks, empty and long contents; no bad line."""
    problems = []
    text = (files("sessioncache") / "data" / "sample.jsonl").read_text(encoding="utf-8")
    found = read_conversations(text.encode().split(b"\n"), 2**20, problems.append)
    everything = [message for messages in found.values() for message in messages]
    assert problems == []
    assert 200 <= len(everything) <= 1000
    contents = [message["content"] for message in everything]
    assert {type(content) for content in contents} == {str, list, type(None)}
    assert {"user", "assistant", "tool", "system"} == {message["role"] for message in everything}
    assert any("tool_calls" in message for message in everything)
    assert "" in contents
    assert [] in contents
    assert max(len(content) for content in contents if isinstance(content, str)) > 10_000
    for sign in "éüßあ码عשіहไ한Γ🍤👩🇵\u0000\u2028":
        assert sign in text or json.dumps(sign)[1:-1] in text, sign


@pytest.fixture
def run():
    """Runs the demo in an empty directory, and sees that it leaves none of its temporary files behind."""
    binary_of("valkey9")
    with tempfile.TemporaryDirectory(prefix="sc-") as place:

        def start(*arguments, **environment):
            full = {**os.environ, "COLUMNS": "120", "TMPDIR": place, **environment}
            command = [*PROGRAM, *arguments]
            done = subprocess.run(command, env=full, capture_output=True, text=True, timeout=170, check=False, cwd=place)
            assert list(Path(place).iterdir()) == []
            return done

        yield start


def figures(output: str) -> dict[str, str]:
    lines = (line.rsplit("  ", 1) for line in output.splitlines() if "  " in line)
    return {name.strip(): value.strip() for name, value in lines}


def test_the_demo_runs(run):
    """Three servers, the sample, a killed worker, evicted copies: nothing lost, duplicated or out of order."""
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    shown = figures(done.stdout)
    assert (shown["lost"], shown["duplicated"], shown["out of order"]) == ("0", "0", "0")
    assert int(shown["messages"]) >= 200
    assert int(shown["hydrations"]) >= int(shown["sessions"])
    assert done.stdout.count("with SIGKILL") == 1
    assert "evicted the hot copies" in done.stdout
    assert " ms" in shown["append, median / p99"]


@pytest.mark.long
def test_the_demo_takes_other_input(run, tmp_path):
    """A file with a bad line, over two servers; standard input; nothing that can be used is an error."""
    lines = [json.dumps({"session": f"s{n % 7}", "role": "user", "content": str(n), "n": n}) for n in range(60)]
    path = tmp_path / "talk.jsonl"
    path.write_text("\n".join([*lines, "oops"]))
    done = run("--input", str(path), "--servers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "line 61 is skipped" in done.stderr
    assert figures(done.stdout)["messages"] == "60"
    path.write_text("oops\n")
    done = run("--input", str(path))
    assert done.returncode == 1
    assert "no line that could be used" in done.stderr


@pytest.mark.parametrize(
    ("number", "status", "said"), [(signal.SIGINT, 130, "sessioncache: aborted"), (signal.SIGTERM, 143, "")]
)
def test_an_interrupted_demo_leaves_nothing(number, status, said):
    """Its servers and files go with it, without a traceback."""
    binary_of("valkey9")
    with tempfile.TemporaryDirectory(prefix="sc-") as place:
        environment = {**os.environ, "TMPDIR": place}
        heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what a shell runs behind it may ignore SIGINT
        demo = subprocess.Popen(
            PROGRAM, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=place, start_new_session=True,
            preexec_fn=heeds,
        )  # fmt: skip
        until(lambda: list(Path(place).glob("*demo*/keeper.json")))
        time.sleep(0.8)
        os.killpg(demo.pid, number) if number == signal.SIGINT else demo.send_signal(number)
        _, errors = demo.communicate(timeout=60)
        assert (demo.returncode, errors.decode().strip()) == (status, said)
        until(lambda: not list(Path(place).iterdir()), 20)


@pytest.mark.long
def test_the_demo_over_servers_of_ones_own(run, one_stack):
    """Under keys of its own, which it deletes; a worker must run."""
    settings = one_stack.settings(lanes=1)
    with workers(settings, "--processes", "1"):
        done = run("--external", **as_environment(settings))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "with SIGKILL" not in done.stdout
    with one_stack.cache(lanes=1) as cache:
        assert (cache.stats().sessions, cache.stats().pending) == (0, 0)
