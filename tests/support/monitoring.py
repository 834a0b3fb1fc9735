"""Every expression of the shipped rules and dashboards, and the series that each asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import promql_parser
import yaml

from tests.support.stack import ROOT

RULES = sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
VARIABLES = {"$__rate_interval": "1m", "$lane": ".*", "$__interval": "1m", "$__range": "1h"}
"""What Grafana puts in place of its variables."""
EXPORTED_BY_OTHERS = {
    "up": "Prometheus itself",
    "node_cpu_seconds_total": "node-exporter",
    "node_memory_MemAvailable_bytes": "node-exporter",
    "node_memory_MemTotal_bytes": "node-exporter",
    "node_network_receive_bytes_total": "node-exporter",
    "node_network_transmit_bytes_total": "node-exporter",
}


class Expression(NamedTuple):
    """One expression, and where it stands."""

    where: str
    text: str


class Selector(NamedTuple):
    """Series that an expression asks for."""

    name: str
    labels: tuple[str, ...]
    """Those that it is matched by."""


@cache
def rules() -> list[dict[str, Any]]:
    """Every rule, recorded or alerting."""
    groups = (
        group
        for path in RULES
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    )
    return [rule for group in groups for rule in group["rules"]]


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every panel with its place, rows left out."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            if panel["type"] != "row":
                yield f"{path.stem}: {panel['title']}", panel


def expressions() -> Iterator[Expression]:
    """Of rules and panels, variables replaced."""
    for rule in rules():
        yield Expression(rule.get("alert") or rule["record"], rule["expr"])
    for where, panel in panels():
        for target in panel["targets"]:
            yield Expression(where, replaced(target["expr"]))


def replaced(text: str) -> str:
    """A panel's expression without Grafana's variables."""
    for variable, value in VARIABLES.items():
        text = text.replace(variable, value)
    return text


def selectors(text: str) -> list[Selector]:
    """The series that an expression asks for; raises ValueError where it does not parse."""
    return list(_selectors(promql_parser.parse(text)))


def _selectors(node: Any) -> Iterator[Selector]:
    if isinstance(node, promql_parser.VectorSelector):
        yield Selector(node.name, tuple(match.name for match in node.matchers.matchers))
    for name in ("lhs", "rhs", "expr", "args", "vector_selector", "param"):
        found = getattr(node, name, None)
        for inner in found if isinstance(found, list) else [found]:
            if inner is not None and not isinstance(inner, str | int | float):
                yield from _selectors(inner)


def grouped_by(text: str) -> set[str]:
    """The labels that an expression groups or matches by."""
    found = re.findall(r"\b(?:by|on|without|ignoring) ?\(([^)]*)\)", text)
    return {label.strip() for labels in found for label in labels.split(",") if label.strip()}


def recorded() -> Mapping[str, str]:
    """The recorded series with their expressions."""
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
