"""The structure: layers, doors, and that nothing exists twice."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from pathlib import Path

import pytest

import sessioncache
from sessioncache import AsyncSession, AsyncSessionCache, Session, SessionCache, scripts

ROOT = Path(sessioncache.__file__).parent.parent

# From the top down; a module may import only from lines below its own. Names on one line are siblings.
LAYERS = [
    ["workers.__main__"],
    ["workers.runtime"],
    ["workers.schedule", "workers.endpoint"],
    ["workers.probe", "workers.logs"],
    ["workers.jobs"],
    ["workers"],
    ["sessioncache.cli.main"],
    [
        "sessioncache.cli.acting",
        "sessioncache.cli.functions",
        "sessioncache.cli.config",
        "sessioncache.cli.database",
        "sessioncache.cli.dead",
        "sessioncache.cli.demo",
        "sessioncache.cli.doctor",
        "sessioncache.cli.housekeeping",
        "sessioncache.cli.live",
        "sessioncache.cli.reading",
        "sessioncache.cli.repartition",
        "sessioncache.cli.top",
        "sessioncache.cli.transfer",
    ],
    ["sessioncache.cli.asking", "sessioncache.cli.progress", "sessioncache.cli.screen", "sessioncache.cli.transcript"],
    ["sessioncache.cli.context", "sessioncache.cli.output"],
    ["sessioncache.cli.status"],
    ["sessioncache.cli.demo_server", "sessioncache.cli.demo_input"],
    ["sessioncache.cli"],
    ["sessioncache"],
    ["sessioncache.prometheus"],
    ["sessioncache.client", "sessioncache.client_async"],
    ["sessioncache.session", "sessioncache.session_async"],
    ["sessioncache.embedded"],
    ["sessioncache.keeper"],
    ["sessioncache.connect"],
    ["sessioncache.doctor", "sessioncache.picture"],
    ["sessioncache.watch"],
    ["sessioncache.registered", "sessioncache.rates"],
    ["sessioncache.checks.queue"],
    ["sessioncache.checks.server", "sessioncache.checks.store", "sessioncache.checks.functions"],
    ["sessioncache.checks"],
    [
        "sessioncache.functions",
        "sessioncache.nudge",
        "sessioncache.startup",
        "sessioncache.ops",
        "sessioncache.process",
        "sessioncache.reports",
        "sessioncache.repartition",
    ],
    ["sessioncache.relocation"],
    ["sessioncache.pools"],
    ["sessioncache.transfer.exported", "sessioncache.transfer.importing", "sessioncache.transfer.exporting"],
    ["sessioncache.finding", "sessioncache.housekeeping", "sessioncache.inspection"],
    ["sessioncache.lifecycle.deleting", "sessioncache.lifecycle.forking"],
    ["sessioncache.lifecycle.moving"],
    ["sessioncache.lifecycle.consolidating", "sessioncache.lifecycle.titles"],
    [
        "sessioncache.lifecycle.opening",
        "sessioncache.lifecycle.messages",
        "sessioncache.lifecycle.details",
        "sessioncache.lifecycle.leases",
    ],
    ["sessioncache.lifecycle.stale", "sessioncache.lifecycle.appending"],
    ["sessioncache.lifecycle.handle"],
    ["sessioncache.lifecycle"],
    ["sessioncache.dead"],
    ["sessioncache.read_through"],
    ["sessioncache.flushing", "sessioncache.hydration", "sessioncache.serving"],
    ["sessioncache.pressure"],
    ["sessioncache.write_behind"],
    ["sessioncache.heads"],
    ["sessioncache.commit"],
    ["sessioncache.hot.reading", "sessioncache.hot.inspecting"],
    ["sessioncache.hot.writing"],
    ["sessioncache.hot.draining"],
    ["sessioncache.hot.change", "sessioncache.hot.leases", "sessioncache.hot.partitions", "sessioncache.hot.server"],
    ["sessioncache.hot"],
    ["sessioncache.repeat"],
    ["sessioncache.store.outgoing", "sessioncache.store.facts", "sessioncache.store.upgrading"],
    [
        "sessioncache.store.apply",
        "sessioncache.store.load",
        "sessioncache.store.incoming",
        "sessioncache.store.check",
        "sessioncache.store.engine",
    ],
    ["sessioncache.store.place", "sessioncache.store.retire", "sessioncache.store.standing"],
    ["sessioncache.store.place", "sessioncache.store.retire", "sessioncache.store.layouts", "sessioncache.store.recent"],
    ["sessioncache.store.details", "sessioncache.store.edits", "sessioncache.store.routes", "sessioncache.store.bulk"],
    ["sessioncache.store.columns"],
    [
        "sessioncache.store.find",
        "sessioncache.store.previews",
        "sessioncache.store.search",
        "sessioncache.store.candidates",
    ],
    ["sessioncache.store.known"],
    ["sessioncache.store.plan"],
    [
        "sessioncache.store.planned",
        "sessioncache.store.statements",
        "sessioncache.store.rows",
        "sessioncache.migrate",
    ],
    ["sessioncache.store.payloads"],
    ["sessioncache.store.words"],
    ["sessioncache.store"],
    ["sessioncache.migrations.env"],
    ["sessioncache.migrations"],
    ["sessioncache.renewal"],
    ["sessioncache.drivers"],
    ["sessioncache.waits"],
    ["sessioncache.state"],
    ["sessioncache.tracing"],
    ["sessioncache.flow"],
    ["sessioncache.hooks"],
    ["sessioncache.bounded", "sessioncache.clients", "sessioncache.deadlines"],
    ["sessioncache.borders", "sessioncache.near", "sessioncache.snapshot", "sessioncache.metrics", "sessioncache.schema"],
    ["sessioncache.transfer.nanobot", "sessioncache.transfer.hermes", "sessioncache.transfer.odysseus"],
    ["sessioncache.transfer.hermes_database"],
    ["sessioncache.transfer.hermes_index", "sessioncache.transfer.transcript", "sessioncache.transfer.tables"],
    ["sessioncache.transfer.columns", "sessioncache.transfer.database"],
    ["sessioncache.transfer.lines"],
    ["sessioncache.transfer.files"],
    ["sessioncache.transfer.found"],
    ["sessioncache.transfer"],
    ["sessioncache.info"],
    ["sessioncache.durability", "sessioncache.records"],
    ["sessioncache.config", "sessioncache.message", "sessioncache.op", "sessioncache.scripts"],
    ["sessioncache.elements", "sessioncache.sources"],
    ["sessioncache.conversation.window", "sessioncache.conversation.retain", "sessioncache.conversation.prompt"],
    ["sessioncache.conversation.pairing", "sessioncache.conversation.tokens", "sessioncache.conversation.key"],
    [
        "sessioncache.conversation.calls",
        "sessioncache.conversation.clean",
        "sessioncache.conversation.source",
        "sessioncache.conversation.privacy",
        "sessioncache.conversation.platforms",
    ],
    ["sessioncache.diagnosis", "sessioncache.keys", "sessioncache.conversation.policy", "sessioncache.conversation.shapes"],
    ["sessioncache.addresses"],
    ["sessioncache.conversation", "sessioncache.arguments", "sessioncache.foreign", "sessioncache.sentinel"],
    ["sessioncache.errors"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module, parsed once."""
    found = {}
    for path in sorted([*ROOT.glob("sessioncache/**/*.py"), *ROOT.glob("workers/**/*.py")]):
        if "versions" not in path.parts:
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = ast.parse(path.read_text())
    return found


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {name if name in LEVEL else node.module for name in (f"{node.module}.{a.name}" for a in node.names)}
    return {name for name in found if name.split(".")[0] in {"sessioncache", "workers"}}


def test_every_module_stands_in_the_list():
    """A new module takes its place in the layers before it is used."""
    assert set(modules()) == set(LEVEL)


@pytest.mark.parametrize("name", sorted(LEVEL))
def test_imports_point_down(name):
    """No import points up or sideways; so there is no circle either."""
    upward = {other for other in imports(modules()[name]) if LEVEL[other] <= LEVEL[name]}
    assert not upward


@pytest.mark.parametrize("name", sorted(LEVEL))
def test_no_import_hides_in_a_function(name):
    """Whoever reads the top of a module knows what it needs."""
    functions = (node for node in ast.walk(modules()[name]) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    hidden = [n for function in functions for n in ast.walk(function) if isinstance(n, ast.Import | ast.ImportFrom)]
    assert not hidden


def test_sessioncache_never_imports_workers():
    """The job's dotted name is configuration."""
    assert not any(other.startswith("workers") for name, tree in modules().items() if name.startswith("sessioncache")
                   for other in imports(tree))  # fmt: skip


def public(door: type) -> dict[str, inspect.Signature]:
    """Signatures of its methods and properties; constructors are compared apart."""
    values = {name: value for name, value in vars(door).items() if not name.startswith("_")}
    methods = {name: value for name, value in values.items() if inspect.isfunction(value)}
    properties = {name: value.fget for name, value in values.items() if isinstance(value, property)}
    return {name: inspect.signature(value) for name, value in (methods | properties).items()}


@pytest.mark.parametrize(("blocking", "awaiting"), [(SessionCache, AsyncSessionCache), (Session, AsyncSession)])
def test_the_doors_agree(blocking, awaiting):
    """Same names, same parameters, same answers; one of them awaited."""
    ours, theirs = public(blocking), public(awaiting)
    assert set(ours) == set(theirs)
    assert set(dir(blocking)) - {"__enter__", "__exit__"} == set(dir(awaiting)) - {"__aenter__", "__aexit__"}
    for name, signature in ours.items():
        theirs_is = vars(awaiting)[name]
        awaited = inspect.iscoroutinefunction(theirs_is) or inspect.isasyncgenfunction(theirs_is)
        assert isinstance(theirs_is, property) or awaited or name in {"hold", "turn"}, name
        assert signature.parameters == theirs[name].parameters, name
        returned = theirs[name].return_annotation.replace("Async", "").replace("Awaiting", "Blocking")
        assert str(signature.return_annotation) == returned, name


@pytest.mark.parametrize("name", ["from_url", "embedded"])
def test_the_constructors_agree(name):
    """Either door is built in the same way."""
    assert inspect.signature(getattr(SessionCache, name)) == inspect.signature(getattr(AsyncSessionCache, name))


def test_flows_are_written_once():
    """Only the driver, the awaiting door, its connections, its deadlines, and what psycopg has apart, know asyncio."""
    awaiting = {
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncFunctionDef | ast.Await)
    }
    doors = {"sessioncache.client_async", "sessioncache.session_async", "sessioncache.renewal"}
    assert (
        awaiting
        == {
            "sessioncache.flow",
            "sessioncache.drivers",
            "sessioncache.connect",
            "sessioncache.bounded",
            "sessioncache.clients",
            "sessioncache.deadlines",
            "sessioncache.pools",
            "sessioncache.store.bulk",  # psycopg has COPY under two names
        }
        | doors
    )


def test_no_function_is_written_twice():
    """No two functions outside the doors have the same body; statements are made in the store alone."""
    bodies: dict[str, str] = {}
    for name, tree in modules().items():
        if name.removesuffix("_async") in {"sessioncache.client", "sessioncache.session"}:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and len(node.body) > 2:
                body = ast.dump(ast.Module(node.body[1:] if ast.get_docstring(node) else node.body, []))
                assert body not in bodies, (name, node.name, bodies[body])
                bodies[body] = f"{name}.{node.name}"
        sql = {"select", "insert", "update", "delete", "text"} & {
            alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "sqlalchemy"
            for alias in node.names
        }  # fmt: skip
        assert not sql or name.startswith("sessioncache.store.") or name == "sessioncache.schema", name


def test_every_script_is_a_file_and_every_file_a_script():
    """Scripts are source code, never built from strings."""
    files = {path.stem for path in (ROOT / "sessioncache/lua").glob("*.lua")} - set(scripts.PARTS)
    assert files == {value.verb for value in vars(scripts).values() if isinstance(value, scripts.Script)}
    for path in (ROOT / "sessioncache").glob("**/*.py"):
        assert "redis.call" not in path.read_text(), path


@pytest.mark.parametrize("path", sorted(ROOT.glob("sessioncache/lua/*.lua")), ids=lambda path: path.stem)
def test_scripts_open_with_their_contract(path):
    """KEYS, ARGV and the reply stand on top."""
    head = path.read_text().split("\nlocal ")[0]
    assert path.stem in scripts.PARTS or all(word in head for word in ("-- KEYS", "-- Reply", f"-- {path.stem}:"))


def test_modules_stay_small():
    """300 lines are the ceiling of a module, 40 of a function."""
    for path in [*ROOT.glob("sessioncache/**/*.py"), *ROOT.glob("workers/*.py")]:
        assert len(path.read_text().splitlines()) <= 300, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                documented = ast.get_docstring(node, clean=False) or ""
                assert node.end_lineno - node.lineno - documented.count("\n") <= 40, (path, node.name)
