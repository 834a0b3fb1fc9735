"""The rules, Alertmanager's file and the dashboards, by the programs that read or make them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.stack import ROOT

DEPLOY = ROOT / "deploy"


def run(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of Debian's packages; a missing one skips the test."""
    path = shutil.which(name)
    if path is None:
        message = f"no {name} on PATH (Debian: prometheus, prometheus-alertmanager)"
        pytest.skip(message)
    return subprocess.run([path, *words], capture_output=True, text=True, check=False)


def test_every_alert_fires_and_is_silent_as_its_cases_say() -> None:
    result = run("promtool", "test", "rules", str(ROOT / "tests" / "data" / "alerts_test.yml"))
    assert result.returncode == 0, result.stdout + result.stderr


def test_promtool_finds_the_rules_and_the_configuration_in_order() -> None:
    files = [str(path) for path in sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))]
    checked = run("promtool", "check", "rules", "--lint=all", "--lint-fatal", *files)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    config = str(DEPLOY / "prometheus" / "prometheus.yml")
    checked = run("promtool", "check", "config", "--syntax-only", config)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_amtool_finds_alertmanagers_file_in_order(tmp_path: Path) -> None:
    text = (DEPLOY / "alertmanager" / "alertmanager.yml").read_text(encoding="utf-8")
    assert "url_file: /run/secrets/alert_webhook_url" in text
    # Versions before 0.26 know no url_file.
    old = text.replace("url_file: /run/secrets/alert_webhook_url", "url: http://127.0.0.1:9/")
    (tmp_path / "alertmanager.yml").write_text(old, encoding="utf-8")
    checked = run("amtool", "check-config", str(tmp_path / "alertmanager.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("labels", "receiver"), [("severity=critical", "now"), ("severity=warning", "later")]
)
def test_what_is_critical_is_told_at_once(labels: str, receiver: str, tmp_path: Path) -> None:
    text = (DEPLOY / "alertmanager" / "alertmanager.yml").read_text(encoding="utf-8")
    old = text.replace("url_file: /run/secrets/alert_webhook_url", "url: http://127.0.0.1:9/")
    (tmp_path / "alertmanager.yml").write_text(old, encoding="utf-8")
    routed = run(
        "amtool", "config", "routes", "test",
        f"--config.file={tmp_path / 'alertmanager.yml'}", labels,
    )  # fmt: skip
    assert routed.stdout.split() == [receiver], routed.stderr


def test_the_dashboards_are_what_the_code_makes(tmp_path: Path) -> None:
    if importlib.util.find_spec("grafana_foundation_sdk") is None:
        pytest.skip("no grafana-foundation-sdk: pip install '.[dashboards]'")
    build = [sys.executable, str(DEPLOY / "grafana" / "build.py"), str(tmp_path)]
    subprocess.run(build, check=True, capture_output=True)
    made = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.json")}
    committed = {
        path.name: path.read_text(encoding="utf-8")
        for path in (DEPLOY / "grafana" / "dashboards").glob("*.json")
    }
    assert made == committed, "run make dashboards"
