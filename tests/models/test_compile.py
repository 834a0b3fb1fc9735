"""`lanefleet compile`: from a network to sealed machine code, and a load that takes it or not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.catalog import load_catalog
from common.errors import ConfigurationError
from common.settings import Settings
from tests.support.stack import ROOT, wait_until
from worker.checking.gate import make_verdict
from worker.residency.compiled import CompiledNetworks
from worker.residency.loading import loader_for
from worker.tools import compile as compile_tool
from worker.tools.pace import outputs_of

CATALOG = """models:
  steps: {handler: "tests.support.compilable:Steps", options: {slowly: false}}
  slow: {handler: "tests.support.compilable:Steps", options: {slowly: true}}
  echo: {handler: echo}
  resnet: {handler: resnet50, input: image, weights: random, max_batch: 8}
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    catalog = tmp_path / "models.yaml"
    catalog.write_text(CATALOG)
    monkeypatch.setenv("LANEFLEET_CATALOG", str(catalog))
    monkeypatch.setenv("LANEFLEET_STATE_DIR", str(tmp_path / "state"))
    return Settings(catalog=catalog, state_dir=tmp_path / "state")


def start(settings: Settings, model: str, **environment: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "LANEFLEET_CATALOG": str(settings.catalog),
        "LANEFLEET_STATE_DIR": str(settings.state_dir),
        **environment,
    }
    command = [sys.executable, "-m", "worker.tools", "compile", json.dumps({"model": model})]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def last_line(settings: Settings, model: str, **environment: str) -> dict[str, Any]:
    out, err = start(settings, model, **environment).communicate()
    assert out, err
    line: dict[str, Any] = json.loads(out.splitlines()[-1])
    return line


def served_by(settings: Settings, model: str) -> str:
    """Who runs the network that a load takes."""
    spec = load_catalog(settings.catalog)[model].model_copy(update={"compiled": True})
    handler: Any = loader_for("cpu", settings)(spec)
    [output] = outputs_of(handler, [handler.decode(handler.example(), {})])
    return str(handler.encode(output).get("ran"))


def made(settings: Settings) -> list[Path]:
    return sorted((settings.state_dir / "compiled").glob("[!.]*/[!.]*"))


def test_a_model_that_was_never_compiled_is_served_as_it_is(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    assert served_by(settings, "steps") == "eager"
    assert "lanefleet compile steps" in capfd.readouterr().out


def test_a_handler_without_a_network_to_exchange_says_so(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="has no compilable and use_compiled"):
        served_by(settings, "echo")
    with pytest.raises(ConfigurationError, match="has no compilable and use_compiled"):
        compile_tool.run({"model": "echo"}, settings, lambda *_: None)


def test_without_a_compiler_it_says_what_to_install(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ConfigurationError, match="no C\\+\\+ compiler 'no-such-compiler' here; inst"
    ):
        compile_tool.run({"model": "steps"}, settings, lambda *_: None)


def test_a_graph_is_not_compiled_here(settings: Settings) -> None:
    spec = load_catalog(settings.catalog)["steps"]
    spec = spec.model_copy(update={"backend": "onnx", "compiled": True})
    with pytest.raises(ConfigurationError, match="compiles its graph by itself"):
        loader_for("cpu", settings)(spec)


@pytest.fixture
def compiler() -> None:
    if shutil.which("g++") is None:
        pytest.skip("no g++ on this machine")


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_what_was_compiled_is_taken_by_the_next_load_and_by_no_other(
    settings: Settings, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = last_line(settings, "steps")["report"]
    assert report["refused"] == []
    assert report["ratio"] > 1
    assert report["agreement"] > 0.999
    assert [str(one) for one in made(settings)] == [report["made"]]
    assert served_by(settings, "steps") == "compiled"
    assert "--again" in last_line(settings, "steps")["error"]

    eager = load_catalog(settings.catalog)["steps"]
    compiled = eager.model_copy(update={"compiled": True})
    verdict = make_verdict(compiled, eager, settings, "cpu", nice=False)
    assert (verdict.mode, verdict.trouble) == ("torch:compiled fp32", "")
    assert verdict.agreement > 0.999
    assert "threads 1, not 2" in make_verdict(compiled, eager, settings, "cpu", threads=2).trouble

    place = Path(report["made"])
    assert [stat.S_IMODE(one.stat().st_mode) for one in (place, place.parent)] == [0o700, 0o700]
    for writable in (place, place.parent):
        writable.chmod(0o770)
        assert served_by(settings, "steps") == "eager"
        assert f"{writable} may be written by others" in capfd.readouterr().out
        writable.chmod(0o700)
    assert served_by(settings, "steps") == "compiled"
    code = place / "network.pt2"
    content, key = code.read_bytes(), settings.state_dir / "compiled.key"
    code.write_bytes(content[:-1] + b"x")
    assert served_by(settings, "steps") == "eager"
    assert "was changed since it was made" in capfd.readouterr().out
    code.write_bytes(content)
    old = key.read_bytes()
    key.write_bytes(os.urandom(32))
    assert served_by(settings, "steps") == "eager"
    assert "sealed with another key" in capfd.readouterr().out
    key.write_bytes(old)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert served_by(settings, "steps") == "eager"
    assert "threads 1, not 2" in capfd.readouterr().out
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("worker.residency.compiled.processor", lambda: "another")
    assert served_by(settings, "steps") == "eager"
    assert "not another" in capfd.readouterr().out
    monkeypatch.undo()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    spec = load_catalog(settings.catalog)["steps"]
    networks = CompiledNetworks(settings.state_dir)
    other = networks.place(spec.model_copy(update={"name": "slow"}), networks.facts(spec, "cpu"))
    other.parent.mkdir()
    place.rename(other)
    assert served_by(settings, "steps") == "eager"
    assert served_by(settings, "slow") == "eager"


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_what_is_slower_is_not_kept_and_the_figures_are_told(settings: Settings) -> None:
    report = last_line(settings, "slow")["report"]
    assert report["made"] is None
    [refused] = report["refused"]
    assert "no faster than eager on this machine" in refused["why"]
    assert made(settings) == []


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_killed_half_way_it_leaves_nothing_that_loads(settings: Settings) -> None:
    program = start(settings, "steps")
    folder = settings.state_dir / "compiled" / "steps"
    wait_until(lambda: list(folder.glob(".compiling-*/cache/*")), 60, "a compiler at work")
    assert "is being compiled already" in last_line(settings, "steps")["error"]
    program.send_signal(signal.SIGKILL)
    program.communicate()
    assert made(settings) == []
    assert served_by(settings, "steps") == "eager"
    assert list(folder.glob(".compiling-*"))
    assert last_line(settings, "steps")["report"]["made"]
    assert not list(folder.glob(".compiling-*"))


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_resnet_is_compiled_with_the_same_labels(settings: Settings) -> None:
    report = last_line(settings, "resnet")["report"]
    assert report["agreement"] == 1
    if report["made"]:  # no faster on some machines, which the report says
        spec = load_catalog(settings.catalog)["resnet"]
        handlers: list[Any] = [
            loader_for("cpu", settings)(spec.model_copy(update={"compiled": compiled}))
            for compiled in (False, True)
        ]
        item = handlers[0].decode(handlers[0].example(), {})
        scores = [outputs_of(one, [item, item])[0].probabilities for one in handlers]
        assert abs(scores[0] - scores[1]).max() < 1e-5
