"""Two servers of KServe's protocol under load, one of which is killed and comes back."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from api.cli.fleet import free_port
from api.client import Client
from tests.models.test_models import need
from tests.support.stack import Process, Stack, wait_until

need("tritonclient", "grpc", "numpy")

CATALOG = """
models:
  double:
    handler: triton
    input: json
    max_batch: 8
    run_identical_once: false
    options:
      url: [{urls}]
"""


def served(port: int, folder: Path) -> Process:
    command = [sys.executable, "-m", "tests.support.kserve", str(port)]
    return Process(command, {}, folder / f"kserve-{port}.log").start()


def is_up(port: int) -> bool:
    import tritonclient.grpc as triton

    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    try:
        return bool(client.get_model_metadata("double", client_timeout=1))
    except triton.InferenceServerException:
        return False
    finally:
        client.close()


@pytest.mark.slow
def test_a_killed_server_loses_nothing_and_gets_work_again(stack: Stack, tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    servers = [served(port, tmp_path) for port in ports]
    try:
        for port in ports:
            wait_until(lambda port=port: is_up(port), 60, "a server")
        catalog = tmp_path / "models.yaml"
        urls = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
        catalog.write_text(CATALOG.format(urls=urls))
        api = stack.api("double", LANEFLEET_CATALOG=str(catalog))
        worker = stack.worker("double", LANEFLEET_CATALOG=str(catalog))
        with Client(api.url) as client:
            jobs = [client.submit("double", [float(n)])["id"] for n in range(500)]
            servers[0].kill()
            jobs += [client.submit("double", [float(n)])["id"] for n in range(500, 900)]
            servers[0] = served(ports[0], tmp_path)
            jobs += [client.submit("double", [float(n)])["id"] for n in range(900, 1000)]
            ended = [client.wait(one, timeout=120) for one in jobs]
            wrong = [job for n, job in enumerate(ended) if job.get("result") != {"Y": [2.0 * n]}]
            assert not wrong, wrong[:3]
            wait_until(lambda: is_up(ports[0]), 60, "the killed one")
            until = time.monotonic() + 90
            while time.monotonic() < until and "triton_recovered" not in worker.output():
                client.submit("double", [1.0], wait=30)
        said = worker.output()
        assert "triton_failed" in said
        assert "triton_recovered" in said
    finally:
        for server in servers:
            server.kill()
