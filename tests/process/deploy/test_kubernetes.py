"""The manifests are valid, pods may do nothing they need not, and times contain each other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[3]
MANIFESTS = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("cpu", "gpu", "production")
COMPONENTS = ("scaling-by-drain", "weights-pvc", "files-pvc", "files-s3")
"""Those that no overlay has: each on top of `gpu`."""
VERSIONS = (
    "1.30",
    pytest.param("1.34", marks=pytest.mark.slow),
    pytest.param("1.37", marks=pytest.mark.slow),
)
OWN_KINDS = {"Deployment", "StatefulSet"}
CRDS = os.environ.get("KEDA_CRDS", "")
"""A folder with KEDA's definitions, which are not ours to ship."""

Manifest = dict[str, Any]


def _built(folder: Path) -> str:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl on PATH: the manifests are not built")
    return subprocess.run(
        [kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=True
    ).stdout


def objects(name: str, tmp: Path) -> list[Manifest]:
    """What kustomize makes of an overlay, or of a component on top of `gpu`."""
    folder = MANIFESTS / "overlays" / name
    if name in COMPONENTS:
        folder = tmp / name
        folder.mkdir()
        # Kustomize knows relative paths only.
        parts = {
            "resources": [os.path.relpath(MANIFESTS / "overlays" / "gpu", folder)],
            "components": [os.path.relpath(MANIFESTS / name, folder)],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(parts))
    return list(yaml.safe_load_all(_built(folder)))


@pytest.fixture(params=[*OVERLAYS, *COMPONENTS], scope="module")
def manifests(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[Manifest]:
    return objects(request.param, tmp_path_factory.mktemp("overlay"))


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [one for one in manifests if one["kind"] in kinds]


def is_custom(one: Manifest) -> bool:
    return one["apiVersion"].split("/")[0] in ("keda.sh", "monitoring.coreos.com")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid(version: str, tmp_path: Path) -> None:
    """What several overlays have alike is looked at once."""
    found = {
        json.dumps(one, sort_keys=True): one
        for name in (*OVERLAYS, *COMPONENTS)
        for one in objects(name, tmp_path)
        if not is_custom(one)
    }
    assert len(found) > 20
    for one in found.values():
        kubernetes_validate.validate(one, version, strict=True)


def test_a_slip_is_not_valid() -> None:
    one = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"prots": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(one, "1.34", strict=True)


def _closed(node: Any) -> Any:
    """A CRD's schema in which unknown fields are errors, as `kubectl apply` takes them."""
    if isinstance(node, list):
        return [_closed(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {key: _closed(value) for key, value in node.items()}
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    is_open = made.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in made
    if made.get("type") == "object" and "properties" in made and not is_open:
        made["additionalProperties"] = False
    return made


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("scaledobjects.yaml", "ScaledObject"),
        ("triggerauthentications.yaml", "TriggerAuthentication"),
    ],
)
def test_what_is_for_keda_fits_its_definitions(
    manifests: list[Manifest], file: str, kind: str
) -> None:
    path = Path(CRDS) / file
    if not path.is_file():
        pytest.skip(f"no {file}: name the folder of KEDA's definitions with KEDA_CRDS")
    definition = yaml.safe_load(path.read_text())
    schema = _closed(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    check = jsonschema.Draft202012Validator(schema)
    for one in of_kind(manifests, kind):
        assert [f"{error.json_path}: {error.message}" for error in check.iter_errors(one)] == []


def test_pods_may_do_nothing_they_need_not(manifests: list[Manifest]) -> None:
    for one in of_kind(manifests, *OWN_KINDS):
        pod = one["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"]["cpu"]
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()


def test_every_name_that_a_pod_refers_to_is_there(manifests: list[Manifest]) -> None:
    made = {(one["kind"], one["metadata"]["name"]) for one in manifests}
    for one in of_kind(manifests, *OWN_KINDS):
        pod = one["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
        volumes |= {
            claim["metadata"]["name"]: {} for claim in one["spec"].get("volumeClaimTemplates", ())
        }
        for volume in volumes.values():
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in made
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
            for source in container.get("envFrom", ()):
                if "configMapRef" in source:
                    assert ("ConfigMap", source["configMapRef"]["name"]) in made
                else:
                    assert source["secretRef"]["optional"] is True
    for one in of_kind(manifests, "ScaledObject"):
        assert ("Deployment", one["spec"]["scaleTargetRef"]["name"]) in made


def test_a_selector_finds_its_own_pods_only(manifests: list[Manifest]) -> None:
    pods = {
        one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"].items()
        for one in of_kind(manifests, *OWN_KINDS)
    }
    for one in of_kind(manifests, *OWN_KINDS, "PodDisruptionBudget"):
        wanted = one["spec"]["selector"]["matchLabels"].items()
        assert [name for name, labels in pods.items() if wanted <= labels] == [
            one["metadata"]["name"]
        ]


def _settings(manifests: list[Manifest]) -> dict[str, float]:
    (found,) = of_kind(manifests, "ConfigMap")
    return {
        name: float(value) for name, value in found["data"].items() if name.endswith("_SECONDS")
    }


def test_times_contain_each_other(manifests: list[Manifest]) -> None:
    given = _settings(manifests)
    batch, load = (
        given["LANEFLEET_INFER_TIMEOUT_SECONDS"],
        given["LANEFLEET_LOAD_TIMEOUT_SECONDS"],
    )
    grace = given["LANEFLEET_SHUTDOWN_GRACE_SECONDS"]
    assert grace >= batch
    for one in of_kind(manifests, "Deployment"):
        name, pod = one["metadata"]["name"], one["spec"]["template"]["spec"]
        if not name.startswith(("lanefleet-api", "lanefleet-worker")):
            continue
        before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        drain = given["LANEFLEET_DRAIN_SECONDS"] if name == "lanefleet-api" else grace
        assert pod["terminationGracePeriodSeconds"] > before + drain
    for one in of_kind(manifests, "ScaledObject"):
        down = one["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
        assert down["stabilizationWindowSeconds"] >= batch
        assert [rule["value"] for rule in down["policies"] if rule["type"] == "Pods"] == [1]
        assert len(down["policies"]) == 1
        assert one["spec"]["cooldownPeriod"] > batch + load


def test_scalers_never_go_to_zero_by_an_outage_and_wake_for_one_job(
    manifests: list[Manifest],
) -> None:
    for one in of_kind(manifests, "ScaledObject"):
        spec = one["spec"]
        assert spec["minReplicaCount"] == 0
        assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
        assert spec["fallback"]["replicas"] > 0
        formula = spec["advanced"].get("scalingModifiers", {}).get("formula", "")
        for trigger in spec["triggers"]:
            if trigger["type"] == "metrics-api":
                assert trigger["metadata"]["activationTargetValue"] == "0"
            if formula:
                # KEDA keeps three digits of a formula: 1 / 1024 is 0, and wakes nobody.
                share = 1 / float(trigger["metadata"]["targetValue"])
                assert share >= 0.001
                assert f"{trigger['name']} / {trigger['metadata']['targetValue']}.0" in formula


def _deployment(manifests: list[Manifest], name: str) -> Manifest:
    return next(one for one in of_kind(manifests, "Deployment") if one["metadata"]["name"] == name)


def test_a_courier_runs_everywhere_and_reaches_what_it_needs(manifests: list[Manifest]) -> None:
    courier = _deployment(manifests, "lanefleet-courier")
    (container,) = courier["spec"]["template"]["spec"]["containers"]
    (front,) = _deployment(manifests, "lanefleet-api")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == front["image"]
    assert courier["spec"]["replicas"] in (1, 2)
    assert container["command"] == ["python", "-m", "worker", "--role", "courier"]
    name = "lanefleet-courier"
    budgets = [one["metadata"]["name"] for one in of_kind(manifests, "PodDisruptionBudget")]
    assert name in budgets
    for policy in of_kind(manifests, "NetworkPolicy"):
        if policy["metadata"]["name"] in ("lanefleet-to-redis", "lanefleet-redis"):
            assert name in json.dumps(policy), policy["metadata"]["name"]


def test_api_and_courier_share_their_files(manifests: list[Manifest]) -> None:
    """With a store both have it, and without one neither says so."""
    found = []
    for name in ("lanefleet-api", "lanefleet-courier"):
        pod = _deployment(manifests, name)["spec"]["template"]["spec"]
        claims = {
            volume["persistentVolumeClaim"]["claimName"]: mount["mountPath"]
            for volume in pod["volumes"]
            for mount in pod["containers"][0]["volumeMounts"]
            if mount["name"] == volume["name"] and "persistentVolumeClaim" in volume
        }
        found.append((claims, pod["containers"][0]["envFrom"]))
    assert found[0] == found[1]
    (settings,) = of_kind(manifests, "ConfigMap")
    url = settings["data"].get("LANEFLEET_FILES_URL", "")
    claims, sources = found[0]
    assert url.removeprefix("file://") in claims.values() if "file://" in url else not claims
    assert ("s3://" in url) == (len(sources) == 2)


def _lanes_of(one: Manifest) -> set[str]:
    (container,) = one["spec"]["template"]["spec"]["containers"]
    return set(
        next(v["value"] for v in container["env"] if v["name"] == "LANEFLEET_MODELS").split(",")
    )


def test_every_lane_of_the_catalog_has_one_group_and_is_asked_for(
    manifests: list[Manifest],
) -> None:
    catalog = yaml.safe_load((ROOT / "deploy" / "models.yaml").read_text())["models"]
    workers = {
        one["metadata"]["name"]: _lanes_of(one)
        for one in of_kind(manifests, "Deployment")
        if one["metadata"]["name"].startswith("lanefleet-worker")
    }
    served = [lane for lanes in workers.values() for lane in lanes]
    assert sorted(served) == sorted(catalog)
    for one in of_kind(manifests, "ScaledObject"):
        asked = {
            trigger["metadata"]["valueLocation"].removeprefix("demand.")
            for trigger in one["spec"]["triggers"]
            if trigger["type"] == "metrics-api"
        }
        assert asked == workers[one["spec"]["scaleTargetRef"]["name"]]


def test_the_front_scales_by_its_processors(manifests: list[Manifest]) -> None:
    (one,) = of_kind(manifests, "HorizontalPodAutoscaler")
    (metric,) = one["spec"]["metrics"]
    assert metric["resource"]["name"] == "cpu"
    assert metric["resource"]["target"]["averageUtilization"] == 70
    assert (one["spec"]["minReplicas"], one["spec"]["maxReplicas"]) in ((2, 10), (3, 30))


def test_the_alerts_of_the_operator_are_those_of_the_rule_files() -> None:
    rules = yaml.safe_load((MANIFESTS / "monitoring" / "rules.yaml").read_text())
    groups = {
        group["name"]: group
        for path in (ROOT / "deploy" / "prometheus" / "rules").glob("*.yml")
        for group in yaml.safe_load(path.read_text())["groups"]
    }
    found = {group["name"]: group for group in rules["spec"]["groups"]}
    assert json.dumps(found, sort_keys=True) == json.dumps(groups, sort_keys=True), (
        "run deploy/prometheus/to_kubernetes.py"
    )
