"""What processes expose, as a test reads it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable

import httpx
import pytest
from prometheus_client import Metric as Family
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from common.metrics.declaration import Metric
from common.metrics.table import METRICS

DECLARED = {one.name: one for one in METRICS}


def scrape(url: str) -> str:
    """The text at this address."""
    answer = httpx.get(url, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.text


def families(text: str) -> dict[str, Family]:
    """By the name that is declared."""
    found = {}
    for family in text_string_to_metric_families(text):
        total = "_total" if family.type == "counter" else ""
        found[family.name + total] = family
    return found


def samples(text: str) -> list[Sample]:
    """Every sample."""
    return [one for family in families(text).values() for one in family.samples]


def value(text: str, name: str, **labels: str) -> float:
    """The sum of a sample's values with at least these labels."""
    return sum(
        one.value
        for one in samples(text)
        if one.name == name and labels.items() <= one.labels.items()
    )


def undeclared(text: str) -> list[str]:
    """What is wrong of each family: unknown, or of another kind, help or labels than declared."""
    wrong = []
    for name, family in families(text).items():
        declared = DECLARED.get(name)
        if declared is None:
            wrong.append(f"{name} is not declared")
            continue
        if (family.type, family.documentation) != (declared.kind, declared.help):
            wrong.append(f"{name} is {family.type}: {family.documentation}")
        wrong += [
            f"{name} has the labels {set(one.labels)}"
            for one in family.samples
            if set(one.labels) - {"le"} != set(declared.labels)
        ]
    return wrong


def missing(text: str, expected: Iterable[Metric]) -> set[str]:
    """The names of those that are not exposed."""
    return {one.name for one in expected} - families(text).keys()


def lint(text: str) -> str:
    """What `promtool check metrics` says against it; skips where it is not installed."""
    if shutil.which("promtool") is None:
        pytest.skip("no promtool on this machine: apt-get install prometheus")
    command = ["promtool", "check", "metrics"]
    said = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return said.stdout + said.stderr
