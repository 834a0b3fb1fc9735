"""The client by itself: its wheel in an empty environment, and its name in a checkout."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from pkgutil import iter_modules

import pytest

import api.client
from tests.support.stack import ROOT

PROJECT = ROOT / "deploy" / "client"
USE = """
import api, importlib, pickle, pkgutil, sys
assert api.OWN, "a project's own `api` is hidden"
import lanefleet
for found in pkgutil.iter_modules(lanefleet.__path__):
    importlib.import_module(f"lanefleet.{found.name}")
import httpx
answer = httpx.Response(200, json={"id": "j1", "state": "succeeded", "result": 7})
http = httpx.Client(transport=httpx.MockTransport(lambda _: answer), base_url="http://fleet")
with lanefleet.Client(http=http) as client:
    assert client.submit("echo", 1, wait=1)["result"] == 7
error = pickle.loads(pickle.dumps(lanefleet.ApiError(429, {"detail": "later"})))
assert (type(error), error.status) == (lanefleet.ApiError, 429)
for name in ("common", "worker"):
    assert importlib.util.find_spec(name) is None, name
try:
    list(lanefleet.Client(http=http).map("echo", [1], progress=True))
except lanefleet.ClientError as exc:
    assert "pip install rich" in str(exc)
print(lanefleet.__name__)
"""


def run(*command: str | Path, **options: object) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    answer = subprocess.run(
        [str(part) for part in command],
        env=environment, capture_output=True, text=True, timeout=100, **options,  # type: ignore[call-overload]
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return str(answer.stdout)


def needed(*names: str) -> set[str]:
    """These distributions and what they need here, extras left out."""
    found: set[str] = set()
    left = [*names]
    while left:
        name = left.pop()
        with contextlib.suppress(PackageNotFoundError):  # needed on another Python only
            texts = [text for text in distribution(name).requires or () if "extra ==" not in text]
            left += [re.split(r"[\s;<>=!~\[]", text)[0] for text in texts if name not in found]
            found.add(name)
    return found


def link_into(site: Path, names: set[str]) -> None:
    """Let these distributions be imported there, offline."""
    for name in names:
        one = distribution(name)
        for top in {file.parts[0] for file in one.files or () if file.parts[0] != ".."}:
            if top != "__pycache__" and not (site / top).exists():
                (site / top).symlink_to(str(one.locate_file(top)))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the tree stays as it is."""
    copy = tmp_path_factory.mktemp("source")
    shutil.copytree(PROJECT, copy / "deploy" / "client", ignore=shutil.ignore_patterns("build"))
    shutil.copytree(ROOT / "api" / "client", copy / "api" / "client")
    offline = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet")
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "pip", "wheel", *offline, "-w", out, copy / "deploy" / "client")
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_has_the_client_and_no_other_name(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {
        "lanefleet", "lanefleet_client-0.1.0.dist-info"
    }  # fmt: skip
    modules = {path.name for path in (ROOT / "api" / "client").iterdir() if path.is_file()}
    assert {name.removeprefix("lanefleet/") for name in names if "dist-info" not in name} == modules
    assert "lanefleet_client-0.1.0.dist-info/licenses/LICENSE" in names


def test_it_works_alone_beside_a_project_with_an_api_of_its_own(
    wheel: Path, tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    target = ("--python", str(python), "install", "--no-index", "--no-deps", "--quiet")
    run(sys.executable, "-m", "pip", *target, wheel)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    requirements = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    link_into(site, needed(*(re.split("[<>=]", one)[0] for one in requirements["dependencies"])))
    (tmp_path / "project" / "api").mkdir(parents=True)
    (tmp_path / "project" / "api" / "__init__.py").write_text("OWN = True\n")
    assert run(python, "-c", USE, cwd=tmp_path / "project") == "lanefleet\n"


def test_both_distributions_have_one_version_and_one_floor_for_what_they_share() -> None:
    ours, whole = (
        tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        for folder in (PROJECT, ROOT)
    )
    assert ours["version"] == whole["version"]
    assert set(ours["dependencies"]) <= set(whole["dependencies"])
    assert set(ours["optional-dependencies"]["progress"]) <= set(whole["dependencies"])


def test_in_a_checkout_the_name_is_another_one_for_the_same_objects() -> None:
    lanefleet = importlib.import_module("lanefleet")
    for name in api.client.__all__:
        assert getattr(lanefleet, name) is getattr(api.client, name)
    modules = [found.name for found in iter_modules(api.client.__path__)]
    assert "errors" in modules
    for name in modules:
        ours = importlib.import_module(f"api.client.{name}")
        theirs = importlib.import_module(f"lanefleet.{name}")
        assert ours is theirs


def test_a_module_of_that_name_is_the_same_whichever_is_imported_first() -> None:
    code = (
        "import lanefleet.errors as ours, api.client; print(ours.ApiError is api.client.ApiError)"
    )
    path = os.pathsep.join(map(str, (ROOT, PROJECT / "checkout")))
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    assert answer.stdout == "True\n", answer.stderr
