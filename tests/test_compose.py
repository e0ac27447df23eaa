"""docker-compose.yml: it follows the specification, and every command line in it runs, as a process of this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml
from conftest import missing
from jsonschema import Draft202012Validator
from servers import RedisServer, free_port, python
from sqlalchemy.engine import make_url
from test_runbook import lines
from test_workers import until

from sessioncache import SessionCache, Settings
from sessioncache.cli.main import cli
from sessioncache.config import settings_from

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docker-compose.yml").read_text()
SCHEMA = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text())
# Which test runs which line.
RUN_BY = {
    ("redis", "command"): "test_redis",
    ("redis", "healthcheck"): "test_redis",
    ("postgres", "healthcheck"): "test_postgres",
    ("migrate", "command"): "test_all_of_it_with_the_demo",
    ("workers", "command"): "test_all_of_it_with_the_demo",
    ("workers", "healthcheck"): "test_all_of_it_with_the_demo",
    ("demo", "command"): "test_all_of_it_with_the_demo",
    ("prometheus", "healthcheck"): "test_a_health_check_over_http",
    ("grafana", "healthcheck"): "test_a_health_check_over_http",
}
METRICS_PORT = "9464"


def interpolated(text: str) -> str:
    """As Compose reads it where no variable is set."""
    return re.sub(r"\$\{\w+:-(\w+)\}", r"\1", text)


def services() -> dict[str, dict]:
    return yaml.safe_load(interpolated(TEXT))["services"]


def words(service: str, what: str) -> list[str]:
    """A command line as a container gets it, after the entry point of its image."""
    if what == "command":
        command = services()[service]["command"]
        return shlex.split(command) if isinstance(command, str) else command
    kind, *rest = services()[service]["healthcheck"]["test"]
    assert kind in {"CMD", "CMD-SHELL"}
    return rest if kind == "CMD" else ["sh", "-c", *rest]


def test_it_follows_the_specification():
    """The JSON schema of the Compose Specification, whole; a key that is none is refused."""
    Draft202012Validator.check_schema(SCHEMA)
    validator = Draft202012Validator(SCHEMA)
    document = yaml.safe_load(TEXT)
    assert [error.message for error in validator.iter_errors(document)] == []
    for part in (document, document["services"]["redis"], document["services"]["workers"]["healthcheck"]):
        part["unheard_of"] = True
        assert list(validator.iter_errors(document))
        del part["unheard_of"]
    assert not list(validator.iter_errors(document))


def test_no_variable_is_left():
    """Each has a default, and nothing else begins with a dollar sign."""
    assert "$" not in interpolated(TEXT)


def test_every_command_line_is_run_by_a_test():
    """Those of services and of health checks; a new one needs a test."""
    found = {(name, "command") for name, one in services().items() if "command" in one}
    found |= {(name, "healthcheck") for name, one in services().items() if "healthcheck" in one}
    assert found == set(RUN_BY)
    assert all(callable(globals()[name]) for name in RUN_BY.values())
    assert not [name for name, one in services().items() if "entrypoint" in one]


def test_it_is_what_the_design_asks_for():
    """Redis keeps what has no TTL, a migration runs before the workers, health checks, restarts, two profiles."""
    found = services()
    assert set(found) == {"redis", "postgres", "migrate", "workers", "demo", "prometheus", "grafana"}
    assert found["workers"]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    profiles = {name: one["profiles"] for name, one in found.items() if "profiles" in one}
    assert profiles == {"demo": ["demo"], "prometheus": ["monitoring"], "grafana": ["monitoring"]}
    for name in set(found) - {"migrate", "demo"}:
        assert found[name]["restart"] == "unless-stopped"
        assert "healthcheck" in found[name]
    for name in ("migrate", "workers", "demo"):
        assert found[name]["command"][0] in cli.commands
        assert set(found[name]["environment"]) <= {f"SESSIONCACHE_{one.name.upper()}" for one in fields(Settings)}


def test_what_is_mounted_is_there_and_what_is_named_is_declared():
    """Files of this repository, read-only; volumes at the foot of the file."""
    document = yaml.safe_load(interpolated(TEXT))
    for service in document["services"].values():
        for volume in service.get("volumes", []):
            source, _, target = volume.partition(":")
            if source.startswith("./"):
                assert (ROOT / source).is_dir()
                assert target.endswith(":ro")
            else:
                assert source in document["volumes"]


def test_nothing_listens_beyond_this_machine():
    """Published ports are bound to loopback, and images have a tag that says which version they are."""
    for service in services().values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert "build" in service or re.search(r":v?\d", service["image"])


def test_the_urls_name_the_services():
    """Host, user, password and database are those that the containers are given."""
    found = services()
    environment = found["workers"]["environment"]
    settings = settings_from({}, environment)
    store, postgres = make_url(settings.database_url), found["postgres"]["environment"]
    assert (store.host, store.port) == ("postgres", 5432)
    assert store.username == postgres["POSTGRES_USER"]
    assert store.password == postgres["POSTGRES_PASSWORD"]
    assert store.database == postgres["POSTGRES_DB"]
    assert settings.redis_url == "redis://redis:6379/0"
    assert {"redis", "postgres"} <= set(found["workers"]["depends_on"])


def test_the_port_of_the_metrics_is_the_same_everywhere():
    """In the workers' command, in their health check, between containers, and in what Prometheus scrapes."""
    scraped = yaml.safe_load((ROOT / "monitoring" / "prometheus" / "prometheus.yml").read_text())
    assert scraped["scrape_configs"][0]["dns_sd_configs"] == [
        {"names": ["workers"], "type": "A", "port": int(METRICS_PORT)}
    ]
    assert services()["workers"]["expose"] == [METRICS_PORT]
    assert words("workers", "command")[-1] == f"0.0.0.0:{METRICS_PORT}"
    assert f"127.0.0.1:{METRICS_PORT}/livez" in words("workers", "healthcheck")[-1]


def test_the_dockerfile():
    """What it copies is there and sent to the builder; extras, entry point and command are ours."""
    text = (ROOT / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for name in line.split()]
    assert set(copied) == sent
    assert all((ROOT / name).exists() for name in copied)
    assert {"README.md", "LICENSE", "sessioncache", "workers"} <= set(copied)
    (extras,) = re.findall(r"'\.\[([a-z,]+)\]'", text)
    assert set(extras.split(",")) == {"postgres", "metrics"}
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    (entry,) = json.loads(re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[0])
    assert entry in project["scripts"]
    (command,) = json.loads(re.findall(r"^CMD (.*)$", text, re.MULTILINE)[0])
    assert command in cli.commands
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["sessioncache"]
    copies = re.findall(r"^COPY --from=build (\S+) (\S+)$", text, re.MULTILINE)
    assert copies == [("/opt/sessioncache", "/opt/sessioncache")]
    assert "ENV PATH=/opt/sessioncache/bin:$PATH" in text


# What runs.


@contextmanager
def redis_of_compose() -> Iterator[RedisServer]:
    """The server that the line starts, with its options; on a unix socket, in a directory of its own."""
    program, *options = words("redis", "command")
    binary = shutil.which(program) or missing(program)
    names = [option.removeprefix("--") for option in options[::2]]
    server = RedisServer(binary, **dict(zip(names, options[1::2], strict=True)))
    with closing(server.start()):
        yield server


def test_redis():
    """It starts with these options, its health check is right, and doctor finds nothing to mend."""
    program, *rest = words("redis", "healthcheck")
    client = shutil.which(program) or missing(program)
    with redis_of_compose() as server:
        done = subprocess.run([client, "-s", server.socket, *rest], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "PONG"
        with SessionCache.from_url(server.url, "sqlite://") as cache:
            found = [one for one in cache.doctor() if one.check == "redis"]
        assert {one.severity for one in found} == {"ok"}, found
        says = " ".join(one.found for one in found)
        assert "volatile-lru" in says
        assert "appendfsync everysec" in says
        server.kill()
        assert subprocess.run([client, "-s", server.socket, *rest], capture_output=True, check=False).returncode != 0


@dataclass
class Postgres:
    """A PostgreSQL that has the user and the database of the file."""

    url: str
    environment: dict[str, str]


@pytest.fixture
def postgres(own_postgres) -> Iterator[Postgres]:
    """As the image sets it up."""
    named = services()["postgres"]["environment"]
    user, database = named["POSTGRES_USER"], named["POSTGRES_DB"]
    own_postgres._execute(f"CREATE ROLE {user} LOGIN")
    own_postgres._execute(f"CREATE DATABASE {database} OWNER {user}")
    path = f"{own_postgres.binaries}:{os.environ['PATH']}"
    environment = {**os.environ, "PGHOST": str(own_postgres.directory), "PATH": path}
    yield Postgres(f"postgresql://{user}@/{database}?host={own_postgres.directory}", environment)
    own_postgres._execute(f"DROP DATABASE {database} WITH (FORCE)")
    own_postgres._execute(f"DROP ROLE {user}")


def test_postgres(postgres, tmp_path):
    """Its health check says yes, and no where there is none."""
    line = words("postgres", "healthcheck")
    done = subprocess.run(line, env=postgres.environment, capture_output=True, text=True, check=True)
    assert "accepting connections" in done.stdout
    nobody = {**postgres.environment, "PGHOST": str(tmp_path)}
    assert subprocess.run(line, env=nobody, capture_output=True, check=False).returncode != 0


def environment_of(service: str, redis_url: str, database_url: str) -> dict[str, str]:
    """What the service is given, with the addresses of this machine."""
    named = services()[service]["environment"]
    assert set(named) == {"SESSIONCACHE_REDIS_URL", "SESSIONCACHE_DATABASE_URL"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SESSIONCACHE_")}
    return {**inherited, "SESSIONCACHE_REDIS_URL": redis_url, "SESSIONCACHE_DATABASE_URL": database_url}


def run(service: str, redis_url: str, database_url: str) -> subprocess.CompletedProcess[str]:
    """The service's command, behind the entry point of our image."""
    program = str(Path(sys.executable).with_name("sessioncache"))
    environment = environment_of(service, redis_url, database_url)
    command = [program, *words(service, "command")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)


@contextmanager
def workers_of_compose(redis_url: str, database_url: str) -> Iterator[int]:
    """The workers' line, with a free port of loopback; the port, once they are healthy."""
    port = free_port()
    line = [word.replace(f"0.0.0.0:{METRICS_PORT}", f"127.0.0.1:{port}") for word in words("workers", "command")]
    program = "from sessioncache.cli.main import main; main()"
    process = python("-c", program, *line, env=environment_of("workers", redis_url, database_url))
    try:
        until(lambda: healthy(port) or process.poll() is not None, 90)
        assert process.poll() is None
        yield port
    finally:
        process.terminate()
        assert process.wait(40) == 0


def healthy(port: int) -> bool:
    """What the workers' health check says."""
    program, *rest = (word.replace(METRICS_PORT, str(port)) for word in words("workers", "healthcheck"))
    assert program == "python"
    return subprocess.run([sys.executable, *rest], capture_output=True, check=False, timeout=60).returncode == 0


@pytest.mark.long
def test_all_of_it_with_the_demo(postgres):
    """Migrated; workers live as their health check sees it, are ready, and serve the demo, which loses nothing."""
    with redis_of_compose() as server:
        done = run("migrate", server.url, postgres.url)
        assert done.returncode == 0, done.stderr
        with workers_of_compose(server.url, postgres.url) as port:
            until(lambda: answers(port, "readyz") == 200)
            (line,) = {one for one in lines() if one.startswith("curl ")}
            program = shutil.which("curl") or missing("curl")
            asked = [program, *line.replace("WORKER:9464", f"127.0.0.1:{port}").split()[1:]]
            assert json.loads(subprocess.run(asked, capture_output=True, check=True).stdout)["ready"]
            done = run("demo", server.url, postgres.url)
        assert not healthy(port)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every server read back exactly what was written" in done.stdout


def answers(port: int, path: str) -> int:
    """The status of the endpoint."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as reply:
            return reply.status
    except URLError as error:
        return getattr(error, "code", 0)


class Health(BaseHTTPRequestHandler):
    """Answers where Prometheus and Grafana say how they are, and nowhere else."""

    def do_GET(self) -> None:
        """The status of a GET, with an empty body."""
        self.send_response(200 if self.path in {"/-/healthy", "/api/health"} else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("service", ["prometheus", "grafana"])
def test_a_health_check_over_http(service):
    """It says yes to the service's health endpoint, no to an error, no where nobody listens; they have no line of ours."""
    assert "command" not in services()[service]
    program, *rest = words(service, "healthcheck")
    program = shutil.which(program) or missing(program)
    (port,) = re.findall(r"127\.0\.0\.1:(\d+)/", rest[-1])
    assert services()[service]["ports"] == [f"127.0.0.1:{port}:{port}"]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Health)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    here = [program, *rest[:-1], rest[-1].replace(f":{port}/", f":{server.server_port}/")]
    try:
        assert status(here) == 0
        assert status([*here[:-1], here[-1] + "/elsewhere"]) != 0
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert status(["timeout", "2", *here]) != 0


def status(command: list[str]) -> int:
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60).returncode
