"""Write the alerts as a PrometheusRule, for the Prometheus operator: made anew after each change.

python deploy/prometheus/to_kubernetes.py
"""

from pathlib import Path

import yaml

RULES = Path(__file__).resolve().parent / "rules"
TARGET = RULES.parents[1] / "kubernetes" / "monitoring" / "rules.yaml"
HEAD = "# Written by deploy/prometheus/to_kubernetes.py from deploy/prometheus/rules.\n"


def rule_object() -> str:
    """Return the manifest with the groups of all rule files."""
    groups = [
        group
        for path in sorted(RULES.glob("*.yml"), reverse=True)
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    ]
    manifest = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "lanefleet", "labels": {"app.kubernetes.io/part-of": "lanefleet"}},
        "spec": {"groups": groups},
    }
    return HEAD + str(yaml.safe_dump(manifest, sort_keys=False, width=100))


if __name__ == "__main__":
    TARGET.write_text(rule_object(), encoding="utf-8")
