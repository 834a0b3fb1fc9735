"""The topology of docker-compose.yml for containers.sh: what differs, and what is tried on it.

    python -m tests.e2e.containers_topology write|healthy|exercise FOLDER

All containers share one network namespace that has loopback only. So they get names for it in
their hosts file, Prometheus gets its targets by name instead of by DNS, and a second worker a
health port of its own. What a container may do is left as it is in docker-compose.yml.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from api.client import Client
from tests.support.stack import ROOT, wait_until

STANDIN = {
    "redis": ("standin-redis", None),
    "cache-redis": ("standin-redis", None),
    "prometheus": ("standin-monitoring", "prometheus"),
    "alertmanager": ("standin-monitoring", "prometheus-alertmanager"),
    "node-exporter": ("standin-monitoring", "prometheus-node-exporter"),
}
LEFT_OUT = ("grafana", "worker-gpu")
UNKNOWN_TO_VERSION_1 = ("build", "ports", "networks", "profiles", "network_mode", "extra_hosts")
SECOND = "worker-cpu-2"
NODE = "127.0.0.1"
API = "http://127.0.0.1:8000"
HELD_JOBS = 12


def topology(folder: Path) -> dict[str, Any]:
    """The file for docker-compose 1."""
    text = (ROOT / "docker-compose.yml").read_text()
    found: dict[str, Any] = yaml.safe_load(
        text.replace("${NODE_EXPORTER_ADDRESS:-172.17.0.1}", NODE)
    )
    services = {name: one for name, one in found["services"].items() if name not in LEFT_OUT}
    hosts = [f"{name}:127.0.0.1" for name in (*services, SECOND, "host.docker.internal")]
    for name, service in services.items():
        services[name] = _adapted(name, service, folder, hosts)
    second = json.loads(json.dumps(services["worker-cpu"]))
    second["environment"]["LANEFLEET_WORKER_HEALTH_PORT"] = "8002"
    services[SECOND] = second
    secrets = {
        name: {"file": str(folder / "secrets" / name)} for name in found["secrets"]
    }  # fmt: skip
    volumes = {name: {} for name in found["volumes"] if not name.startswith("grafana")}
    return {"version": "3.9", "services": services, "secrets": secrets, "volumes": volumes}


def _adapted(name: str, service: dict[str, Any], folder: Path, hosts: list[str]) -> dict[str, Any]:
    made = {key: value for key, value in service.items() if key not in UNKNOWN_TO_VERSION_1}
    made.update(network_mode="host", extra_hosts=hosts)
    if name in STANDIN:
        image, entrypoint = STANDIN[name]
        made["image"] = image
        if entrypoint:
            made["entrypoint"] = [entrypoint]
    if name in ("prometheus", "alertmanager"):
        made["volumes"] = [
            volume.replace(f"./deploy/{name}", str(folder / name)) for volume in made["volumes"]
        ]
    if name == "worker-cpu":
        made["environment"] = {**made["environment"], "LANEFLEET_MODELS": "echo,minilm"}
    return made


def write_monitoring(folder: Path) -> None:
    """Prometheus' and Alertmanager's files, with names that need no DNS server."""
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    targets = {
        "lanefleet-api": ["api:8000"],
        "lanefleet-worker": ["worker-cpu:8001", f"{SECOND}:8002"],
    }
    for job in prometheus["scrape_configs"]:
        if job.pop("dns_sd_configs", None):
            job["static_configs"] = [{"targets": targets[job["job_name"]]}]
    (folder / "prometheus" / "rules").mkdir(parents=True, exist_ok=True)
    (folder / "prometheus" / "prometheus.yml").write_text(yaml.safe_dump(prometheus))
    for rules in (ROOT / "deploy/prometheus/rules").glob("*.yml"):
        (folder / "prometheus" / "rules" / rules.name).write_text(rules.read_text())
    text = (ROOT / "deploy/alertmanager/alertmanager.yml").read_text()
    # 0.25 of Debian 12 knows no url_file.
    text = text.replace("url_file: /run/secrets/alert_webhook_url", "url: http://127.0.0.1:9/")
    (folder / "alertmanager").mkdir(exist_ok=True)
    (folder / "alertmanager" / "alertmanager.yml").write_text(text)


def write(folder: Path) -> None:
    """Write all of it into the folder."""
    write_monitoring(folder)
    (folder / "topology.json").write_text(json.dumps(topology(folder), indent=1))


def states(folder: Path) -> dict[str, str]:
    """Each service's container: its health, or its status where it has no check."""
    services = json.loads((folder / "topology.json").read_text())["services"]
    found = {}
    for name in services:
        said = docker(
            "inspect",
            "-f",
            "{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{end}}",
            container(name),
        ).split()
        found[name] = said[-1] if said else "absent"
    return found


def container(service: str) -> str:
    """The name that docker-compose 1 gives to the first container of a service."""
    return f"lanefleet_{service}_1"


def docker(*words: str) -> str:
    """The output of a docker command."""
    return subprocess.run(["docker", *words], capture_output=True, text=True).stdout.strip()


def healthy(folder: Path) -> None:
    """Wait until every container is healthy, and print what each took of memory."""
    deadline = time.monotonic() + 420
    while set((now := states(folder)).values()) != {"healthy"}:
        if time.monotonic() > deadline:
            sys.exit(f"not healthy: {now}")
        time.sleep(1)
    print(f"healthy: {', '.join(now)}")
    print(docker("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}"))


def hardened(folder: Path) -> None:
    """No container runs as root, can write to its root, or has a capability."""
    form = "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}}"
    for name in states(folder):
        user, read_only, dropped = docker("inspect", "-f", form, container(name)).split()
        assert user not in ("", "0", "root"), name
        assert (read_only, dropped) == ("true", "[ALL]"), name
    assert _in_the_api("touch /var/lib/lanefleet/tried && echo written") == "written"
    assert _in_the_api("touch /opt/lanefleet/tried 2>/dev/null || echo refused") == "refused"
    made = _in_the_api("lanefleet keys create tried --tenant ops --scopes metrics")
    assert "lfk_" in made, made


def _in_the_api(command: str) -> str:
    return docker("exec", container("api"), "sh", "-c", command)


def exercise(folder: Path) -> None:
    """Run jobs; kill the container of a worker that holds some; none may be lost."""
    hardened(folder)
    client = Client(API, timeout=60)
    began = time.monotonic()
    first = client.submit("minilm", "The quick brown fox.", wait=60)
    assert first["state"] == "succeeded", first
    print(f"first embedding: {len(first['result']['embedding'])} numbers")
    ids = [
        client.submit("echo", f"held {number}", params={"sleep_ms": 3000})["id"]
        for number in range(HELD_JOBS)
    ]
    held = wait_until(lambda: _holding(client), 30, "a worker that holds jobs")
    victim = container("worker-cpu" if held == 8001 else SECOND)
    docker("kill", "--signal", "KILL", victim)
    killed = time.monotonic()
    print(f"killed {victim} while it held jobs")
    done = [client.get(one, wait=60) for one in ids]
    assert {one["state"] for one in done} == {"succeeded"}, [one["state"] for one in done]
    again = sum(one.get("attempt", one.get("attempts", 1)) > 1 for one in done)
    print(
        f"{HELD_JOBS} jobs succeeded, {again} of them in a second attempt; "
        f"{time.monotonic() - killed:.1f} s after the kill, {time.monotonic() - began:.1f} s in all"
    )
    _prometheus_sees()


def _holding(client: Client) -> int:
    """The health port of a worker that holds jobs, or 0."""
    for port in (8001, 8002):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        values = [
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith("lanefleet_worker_jobs_in_hand")
        ]
        if sum(values):
            return port
    return 0


def _prometheus_sees() -> None:
    up = [f"{one['metric']['job']} {one['value'][1]}" for one in _query("up")]
    print(f"Prometheus: {', '.join(sorted(up))}")
    print(f"cores seen: {len(_query('count by (cpu) (node_cpu_seconds_total)'))}")


def _query(expression: str) -> list[dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", 9090, timeout=5)
    connection.request("GET", f"/api/v1/query?{urlencode({'query': expression})}")
    found: list[dict[str, Any]] = json.loads(connection.getresponse().read())["data"]["result"]
    return found


if __name__ == "__main__":
    {"write": write, "healthy": healthy, "exercise": exercise}[sys.argv[1]](Path(sys.argv[2]))
