"""Settings from arguments, environment, file and defaults; `sessioncache config`; .env.example."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st
from servers import python
from test_workers import order, until

from sessioncache import ConfigurationError, ResetPolicies, SessionCache, Settings
from sessioncache.cli import context
from sessioncache.cli.main import cli
from sessioncache.cli.status import DONE, FAILED, WRONG_USAGE
from sessioncache.config import as_environment, effective, settings_from

ROOT = Path(__file__).parent.parent
FILE = "SESSIONCACHE_CONFIG"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file of settings and names it in the environment."""
    for name in [name for name in os.environ if name.startswith("SESSIONCACHE_")]:
        monkeypatch.delenv(name)

    def write(text: str) -> Path:
        path = tmp_path / "settings.toml"
        path.write_text(text)
        monkeypatch.setenv(FILE, str(path))
        return path

    return write


def run(*words: str):
    """The command, in this process."""
    return CliRunner().invoke(cli, words, catch_exceptions=False)


def shown(*words: str) -> dict[str, dict]:
    """What `sessioncache config --json` prints, by setting."""
    done = run(*words, "config", "--json")
    assert done.exit_code == DONE, done.output
    return {one["setting"]: one for one in map(json.loads, done.stdout.splitlines())}


# Precedence


def test_an_argument_beats_a_variable_which_beats_the_file_which_beats_the_default(write, monkeypatch):
    """In the settings, in the door, and in what the command says of each."""
    path = write('ttl = 1\nwindow = 2\nlinger = 3.5\nprefix = "file"\n')
    monkeypatch.setenv("SESSIONCACHE_WINDOW", "20")
    monkeypatch.setenv("SESSIONCACHE_LINGER", "30")
    expected = Settings(ttl=1.0, window=20, linger=300.0, prefix="file")
    assert settings_from({"linger": 300}) == expected
    with SessionCache.from_url(linger=300) as cache:
        assert cache.settings == expected
    said = {name: (one["value"], one["source"], one["place"]) for name, one in shown("--set", "linger=300").items()}
    assert said["ttl"] == (1.0, "file", str(path))
    assert said["window"] == (20, "environment", "SESSIONCACHE_WINDOW")
    assert said["linger"] == (300.0, "argument", "linger")
    assert said["lanes"] == (4, "default", None)
    assert list(said) == [field.name for field in fields(Settings)]


def test_each_setting_can_stand_in_each_place(write):
    """With a value that is not its default, of every type."""
    changed = Settings(
        **{
            field.name: (not field.default if isinstance(field.default, bool) else field.default * 1.25 + 0.001)
            for field in fields(Settings)
            if isinstance(field.default, bool | float) and field.name != "ttl_jitter"
        },
        **{name: getattr(Settings(), name) + 1 for name in ("partitions", "lanes", "window", "batch", "pool_size")},
        reset=ResetPolicies.parse({"default": {"mode": "daily", "at_hour": 4}}).to_json(),
        prefix="other",
        backpressure="wait",
    )
    lines = []
    for field in fields(Settings):
        value = getattr(changed, field.name)
        lines.append(f"{field.name} = {str(value).lower() if isinstance(value, bool) else json.dumps(value)}")
    write("\n".join(lines))
    assert settings_from({}) == settings_from({}, as_environment(changed)) == changed
    assert {one.source for one in effective({})[1].values()} == {"file"}


@pytest.mark.parametrize("head", ["", "[sessioncache]\n", '[other]\nttl = "theirs"\n[sessioncache]\n'])
def test_settings_may_stand_in_a_table_of_a_file_that_others_use(write, head):
    """And policies in tables of their own."""
    within = "sessioncache." if head else ""
    write(f'{head}ttl = 60\n[{within}reset.default]\nmode = "daily"\nat_hour = 5\n')
    settings = settings_from({})
    assert settings.ttl == 60.0
    assert ResetPolicies.parse(settings.reset).default.at_hour == 5


def test_a_child_process_needs_no_file(write):
    """All settings as variables are all it is told, whatever file its parent read."""
    path = write("ttl = 60\n")
    settings = settings_from({})
    path.unlink()
    assert settings_from({}, {FILE: str(path), **as_environment(settings)}) == settings


def test_the_option_names_the_file_in_place_of_the_variable(write, tmp_path, monkeypatch):
    """A relative name too, whoever changes the directory after."""
    write("ttl = 1\n")
    (tmp_path / "mine.toml").write_text("ttl = 2\n")
    monkeypatch.chdir(tmp_path)
    ttl = shown("--config", "mine.toml")["ttl"]
    assert (ttl["value"], ttl["place"]) == (2.0, str(tmp_path / "mine.toml"))
    assert shown()["ttl"]["value"] == 1.0


# What is refused

REFUSED = [
    ("tll = 5", "there is no setting 'tll'; there are: redis_url,"),
    ("[sessioncache]\ntll = 5", "there is no setting 'tll'"),
    ("[server]\nttl = 5", "there is no setting 'server'"),
    ('ttl = "5"', "ttl must be float, not str"),
    ("ttl = true", "ttl must be float, not bool"),
    ("ttl = 2026-01-01", "ttl must be float, not date"),
    ("ttl = [5]", "ttl must be float, not list"),
    ("window = 1.5", "window must be a whole number, not 1.5"),
    ("window = inf", "window must be a whole number, not inf"),
    ("ttl = nan", "ttl must be more than 0, not nan"),
    (f"ttl = 0x1{'0' * 5000}", "ttl must be a number .float., not an integer beyond 64 bit"),
    ("stale_reads = 1", "stale_reads must be bool, not int"),
    ('stale_reads = "true"', "stale_reads must be bool, not str"),
    ("redis_url = 6379", "redis_url must be str, not int"),
    ('redis_url = "http://localhost"', "redis_url must begin with redis://"),
    ("reset = 5", "reset must be text or a table, not int"),
    ('[reset]\nmode = "weekly"', "reset is refused: mode of a reset policy must be"),
    ("partitions = 0", "partitions must be more than 0"),
    ("lease = 1", "database_timeout must be below lease"),
    ("ttl = 5\n[sessioncache]\nlanes = 1", r"ttl must stand in the table \[sessioncache\]"),
    ("sessioncache = 5", "sessioncache must be a table"),
    ("ttl = ", "the settings cannot be read as TOML: Invalid value .at end of document"),
    (f"ttl = {'[' * 100_000}", "the settings cannot be read as TOML: RecursionError"),
    (f"ttl = {'9' * 5000}", "the settings cannot be read as TOML: ValueError"),
]


@pytest.mark.parametrize(("text", "words"), REFUSED, ids=[words[:30] for _, words in REFUSED])
def test_a_wrong_file(write, text, words):
    """The sentence names the file and the setting; the command says it, with the status of what failed."""
    path = write(text)
    with pytest.raises(ConfigurationError, match=f"^{re.escape(str(path))}: .*{words}") as refused:
        settings_from({})
    assert str(refused.value).endswith(".")
    assert isinstance(CliRunner().invoke(cli, ["config"]).exception, ConfigurationError)


@pytest.mark.parametrize("kind", ["missing", "directory", "latin-1", "NUL"])
def test_a_file_that_cannot_be_read(write, tmp_path, monkeypatch, kind):
    """Never taken for an empty one."""
    place = {"missing": tmp_path / "no.toml", "directory": tmp_path, "NUL": tmp_path / "a\0b"}.get(kind) or write("")
    if kind == "latin-1":
        place.write_bytes(b'prefix = "\xe9"')
    with pytest.raises(ConfigurationError, match="the settings cannot be read"):
        settings_from({}, {FILE: str(place)})


@given(
    st.dictionaries(
        st.sampled_from([field.name for field in fields(Settings)]) | st.text("abc", min_size=1, max_size=3),
        st.integers() | st.floats() | st.booleans() | st.text("a1:/\n", max_size=5) | st.lists(st.integers(), max_size=1),
        max_size=4,
    )
)
@example({"window": 2**70})
@example({"ttl": -0.0})
def test_whatever_stands_in_a_file_is_good_or_refused(tmp_path_factory, values):
    """By a `ConfigurationError` that begins with the file."""
    path = tmp_path_factory.mktemp("any") / "any.toml"
    path.write_text("\n".join(f"{name} = {str(value).lower() if isinstance(value, bool | float) else json.dumps(value)}"
                              for name, value in values.items()))  # fmt: skip
    try:
        settings_from({}, {FILE: str(path)})
    except ConfigurationError as error:
        assert str(error).startswith(f"{path}: ")
        assert str(error).endswith(".")


@pytest.mark.parametrize("words", [("--set", "ttl"), ("--set", "tll=5"), ("--config", "no.toml")])
def test_wrong_options(tmp_path, monkeypatch, words):
    """Wrong usage, before anything is asked."""
    monkeypatch.chdir(tmp_path)
    assert run(*words, "config").exit_code == WRONG_USAGE


def test_a_wrong_value_ends_a_command_with_a_sentence(write):
    """No traceback; a worker too."""
    path = write("ttl = 0\n")
    environment = {**os.environ, FILE: str(path)}
    entry = "from sessioncache.cli.main import main; main()"
    for command in ([sys.executable, "-c", entry, "config"], [sys.executable, "-m", "workers"]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == FAILED
        assert f"{path}: ttl must be more than 0" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["redis_url", "queue_url", "database_url"])
def test_an_address_without_a_scheme_is_not_quoted(name):
    """It may hold a password."""
    with pytest.raises(ConfigurationError) as refused:
        settings_from({name: "default:hunter2@localhost:6379"}, {})
    assert "hunter2" not in str(refused.value)


# The command


def test_secrets_are_masked(write, monkeypatch):
    """In text and JSON, wherever they come from."""
    path = write('database_url = "postgresql://sally:hunter2@db/app?sslpassword=hunter2"\n')
    monkeypatch.setenv(
        "SESSIONCACHE_REDIS_URL", "rediss+sentinel://bob:hunter2@host:1,host:2/main/0?sentinel_password=hunter2"
    )
    words = ("--set", "queue_url=unix:///a.sock?password=hunter2&db=1")
    texts = [run(*words, "config", *more).output for more in ((), ("--json",), ("--changed",))]
    for text in texts:
        assert not {word for word in ("hunter2", "sally", "bob") if word in text}
        assert "postgresql://***@db/app" in text
        assert "rediss+sentinel://***@host:1,host:2/main/0?sentinel_password=***" in text
        assert "unix:///a.sock?password=***&db=1" in text
    changed = [line.split()[0] for line in texts[2].splitlines()]
    assert changed == ["setting", "redis_url", "database_url", "queue_url"]
    assert f"file {path}" in texts[0]
    assert "environment SESSIONCACHE_REDIS_URL" in texts[0]
    assert "argument queue_url" in texts[0]


def test_a_variable_that_is_no_setting_is_told_of(write, monkeypatch):
    """On standard error, so that a slip of the finger is seen; its value is not shown."""
    monkeypatch.setenv("SESSIONCACHE_RDIS_URL", "redis://:hunter2@host")
    done = run("config")
    assert done.exit_code == DONE
    assert "There is no setting SESSIONCACHE_RDIS_URL" in done.output
    assert "hunter2" not in done.output


def test_every_command_has_the_same_settings(write, monkeypatch):
    """What a command works with, and what it passes on to its children, is what was given."""
    path = write("ttl = 7\n")
    seen = []

    @cli.command("look")
    def look() -> None:
        seen.append((context.settings(), settings_from({}, context.passed_on())))

    monkeypatch.delenv(FILE)
    try:
        assert run("--config", str(path), "--set", "window=8", "--set", "database_url=sqlite:///a=b", "look").exit_code == 0
    finally:
        del cli.commands["look"]
    assert seen == [(Settings(ttl=7.0, window=8, database_url="sqlite:///a=b"),) * 2]
    assert FILE not in os.environ


def test_the_demo_has_them_too(write, monkeypatch):
    """Also over servers of its own."""
    path = write("window = 8\npartitions = 2\nlanes = 2\n")
    monkeypatch.delenv(FILE)
    seen = {}

    def embedded(_directory, **settings):
        seen.update(settings)
        raise ConfigurationError("Enough.")

    monkeypatch.setattr(SessionCache, "embedded", embedded)
    assert isinstance(
        CliRunner().invoke(cli, ["--config", str(path), "--set", "ttl=7", "demo"]).exception, ConfigurationError
    )
    assert (seen["window"], seen["ttl"]) == (8, 7.0)


@pytest.mark.parametrize(
    "way", ["sessioncache", *(pytest.param(way, marks=pytest.mark.long) for way in ("workers", "environment"))]
)
def test_workers_see_the_file(write, one_stack, way):
    """Worker processes and the jobs they run: what was appended under the file's prefix is drained by them.

    A variable that is no setting is told of.
    """
    path = write(f"""[sessioncache]
redis_url = "{one_stack.redis_url}"
database_url = "{one_stack.database_url}"
prefix = "filed"
linger = 0.1
sweep = 0.5
""")
    settings = settings_from({})
    environment = {name: value for name, value in os.environ.items() if name != FILE}
    environment |= {FILE: str(path)} if way == "environment" else {"SESSIONCACHE_RDIS_URL": "redis://:hunter2@host"}
    words = {
        "sessioncache": ["-c", "from sessioncache.cli.main import main; main()", "--config", str(path), "worker"],
        "workers": ["-m", "workers", "--config", str(path)],
        "environment": ["-m", "workers"],
    }[way]
    process = python(
        *words, "--processes", "1", "--log-level", "WARNING", env=environment, text=True, stderr=subprocess.PIPE
    )
    try:
        with SessionCache(settings=settings) as cache:
            cache.open("k").append({"content": "drained"})
            until(lambda: order(one_stack) == {"k": ["drained"]})
    finally:
        process.terminate()
        _, complaint = process.communicate(timeout=30)
    assert ("there is no setting SESSIONCACHE_RDIS_URL" in complaint) == (way != "environment")
    assert "hunter2" not in complaint


# What the pages and the example environment say


def test_the_page_shows_what_is_shown(tmp_path, monkeypatch):
    """The files of docs/getting-started.md are good, and the command prints the lines that stand there."""
    page = (ROOT / "docs" / "getting-started.md").read_text()
    first, *others = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for file in (*others, first):
        (tmp_path / "sessioncache.toml").write_text(file)
        assert effective({}, {FILE: "sessioncache.toml"})[1]
    monkeypatch.setenv(FILE, "sessioncache.toml")
    monkeypatch.setenv("SESSIONCACHE_REDIS_URL", "redis://:hunter2@cache:6379/0")
    words, lines = re.findall(r"\$ sessioncache (--set .*)\n((?:\w.*\n)+)", page)[0]
    printed = run(*words.split()).stdout
    assert "".join(printed.split()) == "".join(lines.split())


def test_the_example_environment_is_true():
    """Each variable stands below what it is for, names a setting and has its default; compose's own ones have compose's."""
    text = (ROOT / ".env.example").read_text()
    named = dict(re.findall(r"(?<=\.\n)#([A-Z_]+)=(.*)$", text, re.MULTILINE))
    assert len(named) == len(re.findall(r"^#?[A-Z_]+=", text, re.MULTILINE))
    ours = {name: value for name, value in named.items() if name.startswith("SESSIONCACHE_")}
    defaults = {name: as_written(value) for name, value in as_environment(Settings()).items()}
    assert ours == {name: defaults[name] for name in ours}
    assert {"SESSIONCACHE_REDIS_URL", "SESSIONCACHE_DATABASE_URL", FILE, "SESSIONCACHE_TTL"} <= set(ours)
    assert settings_from({}, ours) == Settings()
    compose = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", (ROOT / "docker-compose.yml").read_text()))
    theirs = set(named) - set(ours)
    assert {name: named[name] for name in theirs} == {name: compose[name] for name in theirs}


def as_written(default: str) -> str:
    """A default as a person writes it: 3600 for 3600.0, false for False."""
    return re.sub(r"\.0$", "", default).replace("False", "false").replace("True", "true")
