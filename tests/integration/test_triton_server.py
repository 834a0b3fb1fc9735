"""Jobs through two real Triton servers of which one is killed, and comes back.

TRITONSERVER names the program where it is not on the PATH, TRITON_BACKENDS the folder of its
backends, of which `python` is used. `PYTHONPATH` and `LD_LIBRARY_PATH` are handed on.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.cli.fleet import free_port
from common.jobs.job import Job
from tests.support.stack import Process, Stack, wait_until

SERVER = os.environ.get("TRITONSERVER") or shutil.which("tritonserver")
JOBS = 1000

CONFIG = """
name: "double"
backend: "python"
max_batch_size: 16
input [{ name: "X" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "Y" data_type: TYPE_FP32 dims: [4] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""
MODEL = '''
import numpy as np
import triton_python_backend_utils as utils


def answer(numbers):
    """By DLPack, as a stub that was built for numpy 1 finds no bytes in an array of numpy 2."""
    return utils.Tensor.from_dlpack("Y", numbers.__dlpack__())


class TritonPythonModel:
    def execute(self, requests):
        return [
            utils.InferenceResponse([answer(np.from_dlpack(one) * np.float32(2))])
            for one in (utils.get_input_tensor_by_name(each, "X") for each in requests)
        ]
'''


class Triton:
    """A server of the model `double`, on the same ports each time."""

    def __init__(self, folder: Path, name: str) -> None:
        model = folder / "repository" / "double"
        (model / "1").mkdir(parents=True, exist_ok=True)
        (model / "config.pbtxt").write_text(CONFIG)
        (model / "1" / "model.py").write_text(MODEL)
        port = free_port()
        self.url = f"127.0.0.1:{port}"
        backends = os.environ.get("TRITON_BACKENDS")
        more = ("--backend-directory", backends) if backends else ()
        command = [str(SERVER), "--model-repository", str(model.parent), *more]
        command += ["--grpc-address", "127.0.0.1", "--grpc-port", str(port)]
        command += ["--allow-http", "false", "--allow-metrics", "false"]
        path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), *sys.path)))
        self._process = Process(command, {"PYTHONPATH": path}, folder / f"{name}.log")

    def start(self) -> None:
        """Until it is ready."""
        self._process.start()
        wait_until(self._is_ready, 60, "a Triton server")

    def kill(self) -> None:
        """SIGKILL, to its stubs too."""
        with suppress(AttributeError, ProcessLookupError):  # it has not been started
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()

    def requests(self) -> int:
        """Items that it has answered since it started."""
        with self._client() as client:
            return int(client.get_inference_statistics("double").model_stats[0].inference_count)

    def _client(self) -> Any:
        from tritonclient.grpc import InferenceServerClient

        return InferenceServerClient(self.url)

    def _is_ready(self) -> bool:
        from tritonclient.utils import InferenceServerException

        assert self._process.alive, self._process.output()
        try:
            with self._client() as client:
                return bool(client.is_server_ready())
        except InferenceServerException:
            return False


@pytest.mark.slow
@pytest.mark.skipif(
    SERVER is None or importlib.util.find_spec("tritonclient") is None,
    reason="needs tritonserver, and the extra `triton`",
)
def test_a_killed_server_of_two_loses_no_job(stack: Stack, tmp_path: Path) -> None:
    servers = [Triton(tmp_path, name) for name in ("first", "second")]
    entry = {
        "handler": "triton",
        "input": "json",
        "max_batch": 16,
        "options": {"url": [one.url for one in servers], "model": "double"},
    }
    catalog = tmp_path / "models.yaml"
    catalog.write_text(yaml.safe_dump({"models": {"double": entry}}))
    stack.environment["LANEFLEET_CATALOG"] = str(catalog)
    try:
        for server in servers:
            server.start()
        stack.worker("double")
        ids: list[str] = []

        def more(count: int) -> list[str]:
            numbers = range(len(ids), len(ids) + count)
            fresh = stack.publish([Job("double", [number, 1, 2, 3]) for number in numbers])
            ids.extend(fresh)
            return fresh

        def end(of: list[str]) -> None:
            wait_until(lambda: stack.states(of) == {"succeeded": len(of)}, 120, "all jobs")

        end(more(300))
        assert all(server.requests() > 0 for server in servers)
        during = more(300)
        servers[0].kill()
        end(during)
        end(more(100))
        servers[0].start()
        while len(ids) < JOBS or not servers[0].requests():
            assert len(ids) < 4 * JOBS, "the server that came back gets nothing"
            end(more(20))
        assert {len(ids)} == set(stack.states(ids).values())
        for number, one in enumerate(ids):
            record = stack.record(one)
            assert record is not None
            assert record.result == {"Y": [2.0 * number, 2.0, 4.0, 6.0]}
    finally:
        for server in servers:
            server.kill()
