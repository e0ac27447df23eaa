"""Alerts and dashboard: PromQL over names that are exported; each alert leads to its section of the runbook."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import promql_parser
import pytest
import yaml
from conftest import binary_of
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from promql_parser import AggregateExpr, BinaryExpr, Call, MatrixSelector, NumberLiteral, SubqueryExpr, VectorSelector
from servers import RedisServer, free_port
from test_runbook import sections

from sessioncache import SessionCache, Settings
from sessioncache.connect import BlockingConnections
from sessioncache.prometheus import Collector
from workers.endpoint import Endpoint

ROOT = Path(__file__).parent.parent
MONITORING = ROOT / "monitoring"
ALERTS = yaml.safe_load((MONITORING / "prometheus" / "alerts.yml").read_text())
DASHBOARD = json.loads((MONITORING / "grafana" / "dashboards" / "sessioncache.json").read_text())
RULES = {rule["alert"]: rule for group in ALERTS["groups"] for rule in group["rules"]}
# What Prometheus makes itself, and what redis_exporter has, which one of the groups of rules is for.
PROMETHEUS = {"up": set()}
REDIS_EXPORTER = {
    "redis_memory_used_bytes": set(),
    "redis_memory_max_bytes": set(),
    "redis_db_keys": {"db"},
    "redis_db_keys_expiring": {"db"},
}
# Prometheus puts these on every series that it scrapes.
OF_TARGET = {"instance", "job"}
GROWING = ("_total", "_bucket", "_sum", "_count")


@dataclass
class Exported:
    """What can be asked for: the labels of each name, and what stands in those that are not of a process."""

    labels: dict[str, frozenset[str]]
    values: dict[str, set[str]]


def scrapes(redis_url: str, database_url: str) -> list[str]:
    """What Prometheus gets from an app server and from a worker."""
    settings = Settings(redis_url=redis_url, database_url=database_url, http=f"127.0.0.1:{free_port()}")
    registry, connections = CollectorRegistry(), BlockingConnections(settings, kind="worker")
    with SessionCache(settings=settings) as cache:
        cache.open("telegram:dm:42").append({"role": "user", "content": "hello"})
        registry.register(Collector(cache))
        endpoint = Endpoint(settings, dict, lambda _told: [connections.reporter.present()])
        try:
            with urlopen(f"http://{settings.http}/metrics", timeout=30) as reply:
                return [generate_latest(registry).decode(), reply.read().decode()]
        finally:
            endpoint.close()
            connections.close()


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Exported:
    """As two scrapes have it, read by Prometheus's own parser; with what Prometheus and redis_exporter add."""
    store = f"sqlite:///{tmp_path_factory.mktemp('scraped')}/store.db"
    with closing(RedisServer(binary_of("valkey9")).start()) as server:
        texts = scrapes(server.url, store)
    labels: dict[str, set[str]] = {}
    values: dict[str, set[str]] = {name: set() for name in ("outcome", "tier", "kind")}
    for sample in (
        sample for text in texts for family in text_string_to_metric_families(text) for sample in family.samples
    ):
        labels.setdefault(sample.name, set()).update(sample.labels)
        for name in values.keys() & sample.labels.keys():
            values[name].add(sample.labels[name])
    assert len(labels) > 40
    known = labels | PROMETHEUS | REDIS_EXPORTER
    return Exported({name: frozenset(had | OF_TARGET) for name, had in known.items()}, values)


def plain(expression: str) -> str:
    """As Grafana sends it, with its variables filled in."""
    filled = expression.replace("$__rate_interval", "1m").replace("$instance", ".*")
    assert "$" not in filled, expression
    return filled


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> list[tuple[str, str]]:
    """Where it stands, and the query, of every alert and every panel."""
    asked = [(name, rule["expr"]) for name, rule in RULES.items()]
    return asked + [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]


def parts(expression: Any) -> Iterator[Any]:
    """An expression and all that is in it."""
    yield expression
    for name in ("lhs", "rhs", "expr", "param", "vector_selector"):
        if (part := getattr(expression, name, None)) is not None:
            yield from parts(part)
    for argument in getattr(expression, "args", None) or []:
        yield from parts(argument)


def series(expression: Any) -> list[VectorSelector]:
    return [part for part in parts(expression) if isinstance(part, VectorSelector)]


@dataclass
class Critic:
    """Says what is wrong with a query."""

    exported: Exported
    wrong: list[str] = field(default_factory=list)

    def read(self, expression: str) -> list[str]:
        """All that is wrong."""
        try:
            tree = promql_parser.parse(expression)
        except ValueError as error:
            return [f"no PromQL: {error}"]
        for one in series(tree):
            self._selector(one)
        for one in parts(tree):
            if isinstance(one, AggregateExpr):
                self._aggregate(one)
            elif isinstance(one, Call):
                self._call(one)
        self._buckets(tree)
        return self.wrong

    def _see(self, *, right: bool, what: str) -> None:
        if not right:
            self.wrong.append(what)

    def _selector(self, one: VectorSelector) -> None:
        if one.name not in self.exported.labels:
            self.wrong.append(f"nobody exports {one.name}")
            return
        for matcher in one.matchers.matchers:
            self._see(right=matcher.name in self.exported.labels[one.name], what=f"{one.name} has no label {matcher.name}")
            values = self.exported.values.get(matcher.name)
            matching = [value for value in values or () if re.fullmatch(matcher.value, value)]
            self._see(right=values is None or bool(matching), what=f"{matcher.name} is never {matcher.value}")

    def _aggregate(self, one: AggregateExpr) -> None:
        wanted = set(one.modifier.labels) if one.modifier else set()
        for selector in series(one.expr):
            missing = wanted - self.exported.labels.get(selector.name, frozenset(wanted))
            self._see(right=not missing, what=f"{selector.name} has no label {missing}")

    def _call(self, one: Call) -> None:
        counted = one.func.name in {"rate", "increase", "irate", "resets"}
        if counted and isinstance(one.args[0], MatrixSelector):
            name = one.args[0].vector_selector.name
            self._see(right=name.endswith(GROWING), what=f"{one.func.name} of {name}, which is no counter")
        if one.func.name in {"deriv", "delta"}:
            of = one.args[0].expr if isinstance(one.args[0], SubqueryExpr) else one.args[0]
            grows = [selector.name for selector in series(of) if selector.name.endswith(GROWING)]
            self._see(right=not grows, what=f"{one.func.name} of {grows}, which only grows")

    def _buckets(self, tree: Any) -> None:
        """Quantiles are of buckets, by `le`, and buckets are for nothing else."""
        inside = set()
        for one in parts(tree):
            if isinstance(one, Call) and one.func.name == "histogram_quantile":
                names = {selector.name for selector in series(one.args[1])}
                self._see(right=all(name.endswith("_bucket") for name in names), what=f"a quantile of {names}")
                by = one.args[1].modifier.labels if isinstance(one.args[1], AggregateExpr) and one.args[1].modifier else []
                self._see(right="le" in by, what="a quantile without le")
                inside |= names
        outside = {selector.name for selector in series(tree) if selector.name.endswith("_bucket")} - inside
        self._see(right=not outside, what=f"buckets without a quantile: {outside}")


@pytest.mark.parametrize(("where", "query"), queries(), ids=lambda text: re.sub(r"\W+", "-", text)[:40])
def test_every_query_can_be_answered(where, query, exported):
    """It parses, and asks for what is exported, by labels that it has."""
    assert Critic(exported).read(plain(query)) == []


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("sum(rate(sessioncache_appends_total[5m])", "no PromQL"),
        ("sessioncache_append_total", "nobody exports"),
        ("max(sessioncache_pending_ops) + deriv(max(sessioncache_pending_opps)[5m:1m])", "nobody exports"),
        ('sessioncache_reads_total{result="miss"}', "no label result"),
        ('sessioncache_reads_total{outcome="hit"}', "never hit"),
        ("sum by (outcome) (rate(sessioncache_appends_total[5m]))", "no label"),
        ("rate(sessioncache_pending_ops[5m])", "no counter"),
        ("deriv(sessioncache_appends_total[5m])", "only grows"),
        ("histogram_quantile(0.9, sum by (le) (rate(sessioncache_append_seconds_sum[5m])))", "a quantile of"),
        ("histogram_quantile(0.9, sum(rate(sessioncache_append_seconds_bucket[5m])))", "without le"),
        ("sum(rate(sessioncache_append_seconds_bucket[5m]))", "without a quantile"),
    ],
)
def test_the_critic_sees(query, complaint, exported):
    """Each kind of mistake."""
    assert complaint in " ".join(Critic(exported).read(query))


def test_everything_exported_is_used(exported):
    """By the dashboard, every metric of ours; most of them by nobody else."""
    asked = {
        one.name
        for panel in panels()
        for target in panel["targets"]
        for one in series(promql_parser.parse(plain(target["expr"])))
    }
    ours = {name for name in exported.labels if name.startswith("sessioncache_")}
    unused = {name for name in ours - asked if not name.endswith(("_sum", "_count"))}
    assert unused == set()


def test_alerts_are_whole():
    """Each has a severity, a sentence, the section to read; one that could flap waits; names are unlike."""
    assert len(RULES) == sum(len(group["rules"]) for group in ALERTS["groups"])
    for name, rule in RULES.items():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, name
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "runbook_url"}
        assert rule["annotations"]["summary"].endswith((".", "?"))
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
        over_time = re.search(r"\[\d+m\]", rule["expr"])
        assert "for" in rule or over_time, name


def test_summaries_name_labels_that_are_there(exported):
    """What the summary quotes of the series is not aggregated away."""
    for name, rule in RULES.items():
        quoted = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        tree = promql_parser.parse(rule["expr"])
        aggregated = any(isinstance(one, AggregateExpr) for one in parts(tree))
        assert not quoted or (not aggregated and quoted <= exported.labels[series(tree)[0].name]), name


def test_every_alert_leads_to_its_section_and_back():
    """The section's first line names the alerts that lead to it, all of them and no other; planned work has none."""
    leading: dict[str, set[str]] = {anchor: set() for anchor in sections()}
    for name, rule in RULES.items():
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert page == "docs/runbook.md"
        leading[anchor].add(name)
    for anchor, text in sections().items():
        told = re.search(r"^\*\*What you see\.\*\* (?:Alerts|Alert) (.*?)[.;]", text, re.MULTILINE | re.DOTALL)
        named = set(re.findall(r"`(\w+)`", told[1])) if told else set()
        assert named == leading[anchor], anchor
    planned = {"bigger-redis", "change-partitions", "rolling-upgrade", "backup-and-restore", "erase-a-person"}
    assert {anchor for anchor, names in leading.items() if not names} == planned


def test_the_dashboard_is_whole():
    """Panels have titles, units, a datasource that is a variable, and places that do not overlap; no plugin is needed."""
    assert {panel["type"] for panel in DASHBOARD["panels"]} == {"row", "timeseries", "stat"}
    variables = {one["name"] for one in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "instance"}
    seen: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & seen, panel["title"]
        seen |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {one["uid"] for one in sources} == {"${datasource}"}


def test_the_variable_asks_for_what_is_exported(exported):
    """`label_values` of a metric and a label that it has."""
    (query,) = (one["query"]["query"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query")
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", query).groups()
    assert label in exported.labels[metric]


def test_legends_name_labels_that_are_left():
    """`{{outcome}}` stands in a legend where the query groups by it."""
    for panel in panels():
        for target in panel["targets"]:
            tree = promql_parser.parse(plain(target["expr"]))
            grouped = set(tree.modifier.labels) if isinstance(tree, AggregateExpr) and tree.modifier else set()
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) == grouped, panel["title"]


def test_what_is_provisioned_fits_together():
    """Rules that are loaded exist, and the datasource and the dashboards are where the compose file puts them."""
    prometheus = yaml.safe_load((MONITORING / "prometheus" / "prometheus.yml").read_text())
    assert all((MONITORING / "prometheus" / name).exists() for name in prometheus["rule_files"])
    jobs = {one["job_name"] for one in prometheus["scrape_configs"]}
    named = {matcher.value for rule in RULES.values() for one in series(promql_parser.parse(rule["expr"]))
             for matcher in one.matchers.matchers if matcher.name == "job"}  # fmt: skip
    assert named <= jobs
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    grafana = MONITORING / "grafana" / "provisioning"
    (source,) = yaml.safe_load((grafana / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((grafana / "dashboards" / "sessioncache.yml").read_text())["providers"]
    assert f"./monitoring/grafana/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]
    assert "./monitoring/grafana/provisioning:/etc/grafana/provisioning:ro" in services["grafana"]["volumes"]
    assert "./monitoring/prometheus:/etc/prometheus:ro" in services["prometheus"]["volumes"]


def worth(tree: Any, grown: list[Sample]) -> float:
    """What an expression of sums of rates, ``/``, ``<``, ``>`` and ``and`` is, 0 or 1 for what is or is not true."""
    if isinstance(tree, NumberLiteral):
        return float(tree.val)
    if isinstance(tree, BinaryExpr):
        first, second = worth(tree.lhs, grown), worth(tree.rhs, grown)
        return {"/": lambda: first / second, "<": lambda: first < second, ">": lambda: first > second,
                "and": lambda: first and second}[str(tree.op)]()  # fmt: skip
    (one,) = series(tree)
    wanted = {matcher.name: matcher.value for matcher in one.matchers.matchers}
    return sum(
        sample.value for sample in grown
        if sample.name == one.name and all(re.fullmatch(value, sample.labels[name]) for name, value in wanted.items())
    )  # fmt: skip


@pytest.mark.parametrize("missing", [False, True])
def test_the_alert_for_the_hit_ratio_fires_for_reads_that_miss(one_stack, missing):
    """By the arithmetic of its expression over what a scrape has after ten reads; not for reads that hit."""
    registry = CollectorRegistry()
    with one_stack.cache() as cache:
        registry.register(Collector(cache))
        session = cache.open("k")
        for _ in range(10):
            session.append({"content": "a"})
            if missing:
                cache.evict("k")
            session.history()
        families = text_string_to_metric_families(generate_latest(registry).decode())
    samples = [sample for family in families for sample in family.samples]
    assert bool(worth(promql_parser.parse(RULES["SessioncacheHitRatio"]["expr"]), samples)) == missing
