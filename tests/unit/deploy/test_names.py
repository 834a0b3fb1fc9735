"""Whatever deploy/ and docker-compose.yml name exists: settings, images, ports, paths, metrics."""

from __future__ import annotations

import importlib.util
import json
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from common.metrics.declaration import Metric
from common.metrics.table import METRICS
from common.settings import ENV_PREFIX, Settings
from common.settings.environment import OTHER_NAMES
from common.settings.secret_files import SUFFIX, secret_fields
from tests.support.monitoring import (
    EXPORTED_BY_OTHERS,
    Expression,
    expressions,
    grouped_by,
    panels,
    recorded,
    rules,
    selectors,
)

ROOT = Path(__file__).parents[3]
NAMES = json.loads((ROOT / "tests" / "data" / "public_names.json").read_text(encoding="utf-8"))
FILES = [
    ROOT / "docker-compose.yml",
    *(
        path
        for path in sorted((ROOT / "deploy").rglob("*"))
        if path.suffix in (".yml", ".yaml", ".py", ".json", ".acl") or "Dockerfile" in path.name
    ),
]
MANIFESTS = [path for path in FILES if path.suffix in (".yml", ".yaml")]
OTHERS_VARIABLES = re.compile(r"GF_[A-Z_]+|HF_HOME|HF_HUB_OFFLINE|PATH|PYTHONUNBUFFERED")
GIVEN_BY_PROMETHEUS = {"instance", "job", "le"}
OF_EXPORTERS = {"cpu", "mode"}
FAMILIES = {
    "counter": ("",),
    "gauge": ("",),
    "summary": ("_sum", "_count"),
    "histogram": ("_bucket", "_sum", "_count"),
}
PORTS = {5555, 9090, 9093, 3000, 9100, 6379, 6380}
"""Those that are no settings of ours: Flower, monitoring and Redis."""
DECLARED: dict[str, Metric] = {
    f"{metric.name}{ending}": metric for metric in METRICS for ending in FAMILIES[metric.kind]
}
ALL = list(expressions())
NAMED = re.compile(r"\blanefleet_(?!session)[a-z][a-z_]*[a-z]\b")


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _walk(node: Any) -> Any:
    """Every mapping of a document."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for one in node:
            yield from _walk(one)


@cache
def _mappings(path: Path) -> list[dict[str, Any]]:
    documents = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    return [one for document in documents for one in _walk(document)]


def _settings() -> set[str]:
    known = {f"{ENV_PREFIX}{field.upper()}" for field in Settings.model_fields}
    known |= {f"{ENV_PREFIX}{field.upper()}{SUFFIX}" for field in secret_fields(Settings)}
    return known | OTHER_NAMES


def test_every_setting_that_is_named_exists() -> None:
    for path in FILES:
        named = set(
            re.findall(r"\bLANEFLEET_[A-Z0-9_]*[A-Z0-9]\b", path.read_text(encoding="utf-8"))
        )
        assert named - _settings() == set(), path


def test_every_variable_is_a_setting_or_of_another_program() -> None:
    for path in MANIFESTS:
        for one in _mappings(path):
            given = set(one.get("environment") or ())
            given |= {each["name"] for each in one.get("env") or () if isinstance(each, dict)}
            for name in given - _settings():
                assert OTHERS_VARIABLES.fullmatch(name), (path, name)


def test_every_image_is_built_here_or_has_a_tag() -> None:
    for path in MANIFESTS:
        built = {file.name for file in (ROOT / "deploy" / "docker").glob("Dockerfile.*")}
        for one in _mappings(path):
            image = one.get("image")
            if not isinstance(image, str):
                continue
            name, _, tag = image.partition(":")
            if name.startswith("lanefleet-"):
                assert f"Dockerfile.{name.removeprefix('lanefleet-')}" in built, image
            else:
                assert tag not in ("", "latest"), image


def test_every_file_of_an_image_that_is_named_is_in_it() -> None:
    for path in MANIFESTS:
        for name in re.findall(r"/opt/lanefleet/([\w./-]+)", path.read_text(encoding="utf-8")):
            copied = [
                file.name
                for file in sorted((ROOT / "deploy" / "docker").glob("Dockerfile.*"))
                if f"COPY {name} " in file.read_text(encoding="utf-8")
            ]
            assert copied == ["Dockerfile.api", "Dockerfile.worker"], (path, name)


def _dockerfile_value(name: str, variable: str) -> int:
    text = (ROOT / "deploy" / "docker" / name).read_text(encoding="utf-8")
    found = re.search(rf"{variable}=(\d+)", text)
    assert found is not None
    return int(found[1])


def _known_ports() -> set[int]:
    api = _dockerfile_value("Dockerfile.api", "LANEFLEET_PORT")
    worker = _dockerfile_value("Dockerfile.worker", "LANEFLEET_WORKER_HEALTH_PORT")
    assert api == Settings.model_fields["port"].default
    return {api, worker, _courier_port()} | PORTS


def _courier_port() -> int:
    """Where Compose has the courier listen."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    return int(services["courier"]["environment"]["LANEFLEET_WORKER_HEALTH_PORT"])


def test_every_process_is_scraped_where_it_listens() -> None:
    text = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    jobs = {job["job_name"]: job for job in yaml.safe_load(text)["scrape_configs"]}
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    ports = {
        "lanefleet-api": _dockerfile_value("Dockerfile.api", "LANEFLEET_PORT"),
        "lanefleet-worker": _dockerfile_value("Dockerfile.worker", "LANEFLEET_WORKER_HEALTH_PORT"),
        "lanefleet-courier": _courier_port(),
    }
    assert ports.keys() == {f"lanefleet-{process}" for one in METRICS for process in one.served_by}
    for name, port in ports.items():
        (found,) = jobs[name]["dns_sd_configs"]
        assert found["port"] == port
        assert set(found["names"]) <= services.keys()
    monitors = ROOT / "deploy" / "kubernetes" / "monitoring" / "monitors.yaml"
    names = {one["metadata"]["name"] for one in _mappings(monitors) if "metadata" in one}
    assert names == ports.keys()
    courier = ROOT / "deploy" / "kubernetes" / "base" / "courier.yaml"
    listening = {one["containerPort"] for one in _mappings(courier) if "containerPort" in one}
    told = {
        one["value"] for one in _mappings(courier) if one.get("name", "").endswith("HEALTH_PORT")
    }
    assert (listening, told) == ({_courier_port()}, {str(_courier_port())})


def test_api_and_courier_find_files_in_one_place() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    urls, mounts = set(), []
    for name in ("api", "courier"):
        urls.add(services[name]["environment"]["LANEFLEET_FILES_URL"])
        mounts.append({one for one in services[name]["volumes"] if one.startswith("api-state:")})
    assert len(urls) == 1
    assert mounts[0] == mounts[1] != set()
    assert urls.pop().startswith("file://" + mounts[0].pop().partition(":")[2])


def test_every_port_is_one_that_something_listens_on() -> None:
    for path in MANIFESTS:
        text = path.read_text(encoding="utf-8")
        named = {int(port) for port in re.findall(r"\b(?:containerPort|port): (\d+)\b", text)}
        named |= {int(port) for port in re.findall(r"https?://[\w.-]+:(\d+)", text)}
        named |= {int(port) for port in re.findall(r"\"127\.0\.0\.1:\d+:(\d+)\"", text)}
        named |= {int(port) for port in re.findall(r"targets: \[\"[\w.-]+:(\d+)\"\]", text)}
        allowed = _known_ports() | ({53, 80, 443} if "network-polic" in path.name else set())
        assert named - allowed == set(), path


def test_every_path_is_a_route() -> None:
    for path in MANIFESTS:
        routes = {operation.partition(" ")[2] for operation in NAMES["operations"].values()}
        for one in _mappings(path):
            if probe := one.get("httpGet"):
                served = {"/health", "/ready", "/metrics"} if probe["port"] == "metrics" else routes
                assert probe["path"] in served, path
            for asked in re.findall(
                r"http://lanefleet-api[\w.-]*:\d+(/[\w/]+)", str(one.get("url"))
            ):
                assert asked in routes


def test_every_secret_is_one_that_make_secrets_writes() -> None:
    for path in MANIFESTS:
        made = _module(ROOT / "deploy" / "make_secrets.py").make(
            "redis:6379", "cache:6380", "http://a", {}
        )
        for one in _mappings(path):
            if one.get("secretName") == "lanefleet":
                assert {item["key"] for item in one["items"]} <= made.keys()
            if one.get("name") == "lanefleet" and "key" in one:
                assert one["key"] in made
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"/run/(?:secrets|lanefleet)/(\w+)", text)) <= made.keys()


# Metrics


def test_every_expression_asks_for_metrics_and_labels_that_are_declared() -> None:
    for one in ALL:
        check(one)


def check(one: Expression) -> None:
    found = selectors(one.text)
    assert found, one
    labels: set[str] = set(GIVEN_BY_PROMETHEUS)
    for selector in found:
        if selector.name in EXPORTED_BY_OTHERS:
            labels |= OF_EXPORTERS
            continue
        if selector.name in recorded():
            labels |= grouped_by(recorded()[selector.name])
            continue
        metric = DECLARED[selector.name]
        assert set(selector.labels) <= {*metric.labels, "job", "instance"}, selector
        labels |= set(metric.labels)
    assert grouped_by(one.text) <= labels, one


def test_no_text_of_deploy_names_another_metric() -> None:
    """Comments, variables of dashboards and the like."""
    known = set(DECLARED) | {metric.name for metric in METRICS}
    for path in FILES:
        named = set(NAMED.findall(path.read_text(encoding="utf-8")))
        assert named - known == set(), path


def test_an_unknown_metric_is_found() -> None:
    one = Expression("here", "sum by (lane) (rate(lanefleet_gone_total[5m]))")
    with pytest.raises(KeyError):
        check(one)


def test_every_alert_has_an_entry_in_the_runbook_and_a_severity() -> None:
    page = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## (\w+)$", page, re.MULTILINE)
    alerts = [rule for rule in rules() if "alert" in rule]
    assert [rule["alert"] for rule in alerts] == heads
    for rule in alerts:
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_silent() -> None:
    cases = yaml.safe_load((ROOT / "tests" / "data" / "alerts_test.yml").read_text())["tests"]
    fired, silent = set(), set()
    for case in cases:
        for test in case["alert_rule_test"]:
            (fired if test["exp_alerts"] else silent).add(test["alertname"])
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert fired == alerts
    assert silent == alerts


def test_the_dashboards_have_the_panels_that_people_look_for() -> None:
    titles = {where.partition(": ")[2] for where, _ in panels()}
    assert {
        "Inference latency over time",
        "GPU utilisation heat map",
        "Request rate by endpoint",
        "Error-rate trends",
        "CPU per core",
        "Network bytes",
    } <= titles
    assert {where.partition(":")[0] for where, _ in panels()} == {
        "overview",
        "lane",
        "device",
        "tenants",
        "webhooks",
    }


def test_every_panel_has_the_source_that_is_chosen() -> None:
    for _, panel in panels():
        assert panel["datasource"]["uid"] == "${source}"
