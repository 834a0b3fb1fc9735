"""What ships around the code: bootstrap, Makefile, Dockerfiles, Compose file."""

from __future__ import annotations

import fnmatch
import http.server
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILES = ("Dockerfile.api", "Dockerfile.worker")
MODULES = [("Dockerfile.api", "api"), ("Dockerfile.worker", "worker")]
HEALTH_PORTS = [
    ("Dockerfile.api", "LANEFLEET_PORT"),
    ("Dockerfile.worker", "LANEFLEET_WORKER_HEALTH_PORT"),
]


def load_bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "deploy" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bootstrap = load_bootstrap()


@pytest.fixture
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def compose_schema() -> dict[str, Any]:
    return json.loads((ROOT / "tests" / "data" / "compose.schema.json").read_text())


def dockerfile_lines(name: str) -> list[list[str]]:
    """Every instruction as words, comments gone and continued lines joined."""
    text = (ROOT / "deploy" / "docker" / name).read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line.strip()]


def dockerfile_command(name: str, instruction: str) -> list[str]:
    """The exec form of the last such instruction."""
    found = [" ".join(line) for line in dockerfile_lines(name) if line[0] == instruction]
    return json.loads(found[-1][found[-1].index("[") :])


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """A server that answers every GET with one status; yields its port and the paths asked for."""
    paths: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, paths
        server.shutdown()


# Bootstrap: which packages


def test_the_api_profile_brings_no_models() -> None:
    assert bootstrap.parts_of(["api"]) == frozenset()
    assert bootstrap.project_requirement(frozenset()) == "."


def test_the_worker_profile_asks_pip_for_its_extras_and_for_nothing_it_cannot_do() -> None:
    parts = bootstrap.parts_of(["worker"])
    assert {"image", "weights"} <= parts
    assert bootstrap.project_requirement(parts) == ".[audio,onnx,torch]"


def test_profiles_and_extras_add_up() -> None:
    parts = bootstrap.parts_of(["api", "worker"], ["otel"])
    assert bootstrap.project_requirement(parts) == ".[audio,onnx,otel,torch]"


def test_the_test_profile_is_the_demo_and_the_test_extra() -> None:
    assert bootstrap.parts_of(["test"]) == bootstrap.parts_of(["demo"]) | {"test"}


def test_every_part_of_every_profile_is_an_extra_of_the_project() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert bootstrap.parts_of(bootstrap.PROFILES) - {"weights"} <= set(extras)
    assert "image-simd" in extras
    assert any(item.startswith("torch==") for item in extras["torch"])


def test_several_profiles_can_be_named_at_once() -> None:
    options = bootstrap.parse_arguments(["--with", "api", "worker", "--extra", "s3", "otel"])
    assert options.profiles == ["api", "worker"]
    assert options.extras == ["s3", "otel"]


# Bootstrap: what the machine has


def test_a_gpu_is_seen_by_its_tool_or_by_its_device(tmp_path: Path) -> None:
    device = tmp_path / "nvidia0"
    assert not bootstrap.has_nvidia_gpu(lambda _: None, device)
    assert bootstrap.has_nvidia_gpu(lambda _: "/usr/bin/nvidia-smi", device)
    device.touch()
    assert bootstrap.has_nvidia_gpu(lambda _: None, device)


@pytest.mark.parametrize(
    ("choice", "system", "gpu", "expected"),
    [
        ("auto", "Linux", False, True),
        ("auto", "Linux", True, False),
        ("auto", "Darwin", False, False),
        ("cpu", "Linux", True, True),
        ("cuda", "Linux", False, False),
    ],
)
def test_the_cpu_build_of_torch_is_asked_for_where_it_serves(
    choice: str, system: str, gpu: bool, expected: bool
) -> None:
    assert bootstrap.prefers_cpu_torch(choice, system, gpu) is expected


def test_avx2_is_read_from_the_flags_and_nowhere_else() -> None:
    assert bootstrap.has_avx2("model name : x\nflags : fpu sse4_2 avx2\n")
    assert not bootstrap.has_avx2("model name : avx2\nflags : fpu sse4_2 avx\n")
    assert not bootstrap.has_avx2("")


def test_missing_build_needs_are_named_with_their_debian_packages(tmp_path: Path) -> None:
    missing = bootstrap.missing_for_build(tmp_path, "3.12", [tmp_path], lambda _: None)
    assert missing == {
        "a C compiler": "build-essential",
        "Python.h": "python3.12-dev",
        "jpeglib.h": "libjpeg-dev",
        "zlib.h": "zlib1g-dev",
        "webp/decode.h": "libwebp-dev",
        "tiffio.h": "libtiff-dev",
    }


def test_nothing_is_missing_once_compiler_and_headers_are_there(tmp_path: Path) -> None:
    (tmp_path / "webp").mkdir()
    (tmp_path / "x86_64-linux-gnu").mkdir()
    for header in ("Python.h", "zlib.h", "webp/decode.h"):
        (tmp_path / header).touch()
    for header in ("jpeglib.h", "tiffio.h"):
        (tmp_path / "x86_64-linux-gnu" / header).touch()
    assert bootstrap.missing_for_build(tmp_path, "3.12", [tmp_path], lambda _: "/usr/bin/cc") == {}


def test_a_launcher_whose_python_does_not_start_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "python3.13").write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / "python3.12").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    for launcher in tmp_path.iterdir():
        launcher.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bootstrap.find_newer_python() == str(tmp_path / "python3.12")
    assert bootstrap.find_newer_python(["python3.13"]) is None


def test_an_old_python_with_no_newer_one_in_reach_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bootstrap, "find_newer_python", lambda: None)
    with pytest.raises(SystemExit, match=r"^lanefleet needs Python 3\.11 or newer[^\n]*$"):
        bootstrap.rerun_with_newer_python()


# Bootstrap: the stamp and the environment


def test_a_stamp_covers_the_same_inputs_and_fewer_parts(tmp_path: Path) -> None:
    file = tmp_path / "stamp.json"
    bootstrap.Stamp("abc", frozenset({"torch", "test"})).write(file)
    stamp = bootstrap.Stamp.read(file)
    assert stamp.covers("abc", frozenset({"torch"}))
    assert not stamp.covers("abd", frozenset({"torch"}))
    assert not stamp.covers("abc", frozenset({"torch", "onnx"}))


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"fingerprint": "abc"}'])
def test_an_absent_or_damaged_stamp_covers_nothing(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "stamp.json"
    if text is not None:
        file.write_text(text)
    assert not bootstrap.Stamp.read(file).covers("abc", frozenset())


def test_the_fingerprint_changes_with_any_input(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("one")
    second.write_text("two")
    before = bootstrap.fingerprint_of([first, second])
    assert bootstrap.fingerprint_of([first, second]) == before
    assert bootstrap.fingerprint_of([first, second], True) != before
    second.write_text("three")
    assert bootstrap.fingerprint_of([first, second]) != before


@pytest.mark.parametrize(
    ("version", "command", "reason"),
    [
        ("3.12.4", "python3 -m venv --clear {venv}", None),
        ("3.12.4", None, None),
        ("3.11.7", "python3 -m venv --clear {venv}", "it is for Python 3.11.7"),
        ("3.12.4", "python3 -m venv /elsewhere/.venv", "it was moved here from another folder"),
    ],
)
def test_an_environment_is_made_again_when_it_cannot_serve(
    tmp_path: Path, version: str, command: str | None, reason: str | None
) -> None:
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").touch()
    cfg = f"version = {version}\n"
    if command:
        cfg += f"command = {command.format(venv=venv)}\n"
    (venv / "pyvenv.cfg").write_text(cfg)
    assert bootstrap.reason_to_remake(venv, "3.12") == reason


def test_an_environment_whose_python_was_removed_is_made_again(tmp_path: Path) -> None:
    assert bootstrap.reason_to_remake(tmp_path, "3.12") == "it is not there"
    (tmp_path / "pyvenv.cfg").write_text("version = 3.12.4\n")
    assert bootstrap.reason_to_remake(tmp_path, "3.12") == "its Python is gone"


def test_a_failing_command_is_shown_with_the_end_of_its_output() -> None:
    script = "print('first'); print('\\n' * 40 + 'the reason'); raise SystemExit(3)"
    with pytest.raises(bootstrap.SetupError) as failure:
        bootstrap.run([sys.executable, "-c", script])
    assert "exit 3" in str(failure.value)
    assert "the reason" in str(failure.value)
    assert "\n    first" not in str(failure.value)


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ("exit 1 from: pip", "exit 1 from: pip"),
        ("exit 1 from: pip\n  x.c:1: fatal error: y.h: absent\n  error: Command 'cc' returned 1",
         "x.c:1: fatal error: y.h: absent"),
        ("exit 1 from: pip\n  error: Command 'cc' returned 1\n  ERROR: Failed building wheel\n",
         "error: Command 'cc' returned 1"),
        ("", "unknown"),
    ],
)  # fmt: skip
def test_a_failure_is_told_by_its_first_error(output: str, cause: str) -> None:
    assert bootstrap.cause_in(output) == cause


def test_packages_that_only_root_can_install_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 1000)
    with pytest.raises(bootstrap.SetupError, match="apt-get install libwebp-dev"):
        bootstrap.apt_install(["libwebp-dev"])


# Bootstrap: pillow-simd and Pillow


class RecordingInstaller(bootstrap.Installer):
    """An installer whose environment is a list of names."""

    def pip(self, *arguments: str, env: Any = None) -> None:
        self.extras.setdefault("commands", []).append(" ".join(arguments))

    def installed(self) -> dict[str, str]:
        return dict.fromkeys(self.extras.get("there", []), "1")

    def check_image(self) -> None:
        pass

    def wheel_cache(self, flavour: str) -> dict[str, str]:
        return {}

    def passes(self, check: str) -> bool:
        return check not in self.extras.get("failing", [])


def recording_installer(**there: list[str]) -> RecordingInstaller:
    extras = {"image": ["pillow>=11"], "image-simd": ["pillow-simd>=9.5"], **there}
    return RecordingInstaller(Path("/nowhere"), extras, "auto", "")


def on_linux_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = SimpleNamespace(system=lambda: "Linux", machine=lambda: "x86_64")
    monkeypatch.setattr(bootstrap, "platform", machine)


def test_pillow_takes_over_when_pillow_simd_cannot_be_built_and_one_line_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_compiler(_: object) -> None:
        raise bootstrap.SetupError("exit 1 from: pip\n    no compiler")

    on_linux_x86(monkeypatch)
    monkeypatch.setattr(bootstrap.Installer, "install_pillow_simd", no_compiler)
    installer = recording_installer(there=["pillow-simd"])
    installer.install_image()
    assert installer.extras["commands"] == ["uninstall --yes pillow-simd", "install pillow>=11"]
    reasons = [line for line in capsys.readouterr().out.splitlines() if "pillow-simd" in line]
    assert reasons == ["  Using Pillow, since pillow-simd cannot be built: no compiler"]


@pytest.mark.parametrize(
    ("there", "removed"),
    [
        ([], []),
        (["pillow-simd"], []),
        (["pillow"], ["uninstall --yes pillow"]),
        (["pillow", "pillow-simd"], ["uninstall --yes pillow pillow-simd"]),
    ],
)
def test_pillow_never_stays_beside_pillow_simd(there: list[str], removed: list[str]) -> None:
    installer = recording_installer(there=there)
    installer.keep_only("pillow-simd")
    assert installer.extras.get("commands", []) == removed


def build_pillow_simd(
    monkeypatch: pytest.MonkeyPatch, missing: dict[str, str], **there: list[str]
) -> list[str]:
    """Let the installer build it where only root may install packages; the commands of pip."""
    monkeypatch.setattr(bootstrap, "missing_for_build", lambda *_: missing)
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 1000)
    installer = recording_installer(**there)
    installer.install_pillow_simd()
    return installer.extras["commands"]


def test_pillow_simd_is_built_without_libtiff_where_that_cannot_be_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = {"tiffio.h": "libtiff-dev"}
    commands = build_pillow_simd(monkeypatch, missing, failing=[bootstrap.LIBTIFF_CHECK])
    assert commands == ["install --no-binary=pillow-simd pillow-simd>=9.5"]
    said = capsys.readouterr().out
    assert "workers refuse compressed TIFFs: missing here; on Debian: apt-get install" in said
    with pytest.raises(bootstrap.SetupError, match="libjpeg-dev libtiff-dev"):
        build_pillow_simd(monkeypatch, {"jpeglib.h": "libjpeg-dev", **missing})


def test_pillow_simd_is_built_again_once_libtiff_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = "install --no-binary=pillow-simd pillow-simd>=9.5"
    assert build_pillow_simd(monkeypatch, {}) == [plain]
    again = build_pillow_simd(monkeypatch, {}, failing=[bootstrap.LIBTIFF_CHECK])
    assert again == [plain, plain.replace("install", "install --force-reinstall --no-deps", 1)]


def test_an_image_has_the_libraries_that_pillow_simd_is_linked_with() -> None:
    installed = " ".join(word for line in dockerfile_lines("Dockerfile.worker") for word in line)
    for package in ("libjpeg62-turbo", "libtiff6", "libwebp7", "zlib1g"):
        assert f" {package} " in installed


def test_the_image_check_passes_with_what_is_installed() -> None:
    pytest.importorskip("PIL")
    subprocess.run([sys.executable, "-c", bootstrap.IMAGE_CHECK], check=True, timeout=60)


# Makefile and CI


def makefile_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text()
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", text, flags=re.MULTILINE))


def test_make_help_lists_every_target_and_is_the_default() -> None:
    listed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert set(re.findall(r"^  make ([a-z-]+) +\S", listed, flags=re.MULTILINE)) == (
        makefile_targets()
    )


def test_every_target_of_the_makefile_is_phony() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == makefile_targets()


def test_ci_runs_what_make_check_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make check" in script.read_text()


# Dockerfiles


def copied_from_the_checkout(name: str) -> list[str]:
    copies = [line[1:] for line in dockerfile_lines(name) if line[0] == "COPY"]
    return [
        source
        for words in copies
        if not words[0].startswith("--from=")
        for source in words[:-1]
    ]  # fmt: skip


@pytest.mark.parametrize("name", DOCKERFILES)
def test_every_file_an_image_copies_exists_and_is_not_ignored(name: str) -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line[1:] for line in ignore if line.startswith("!")]
    for source in copied_from_the_checkout(name):
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in kept), source


@pytest.mark.parametrize(("name", "profile"), MODULES)
def test_an_image_is_made_by_the_bootstrap_with_its_own_profile(name: str, profile: str) -> None:
    runs = [" ".join(line) for line in dockerfile_lines(name) if line[0] == "RUN"]
    called = [line for line in runs if "deploy/bootstrap.py" in line]
    assert len(called) == 1
    assert f"python deploy/bootstrap.py --with {profile} " in called[0]
    assert profile in bootstrap.PROFILES


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_does_not_run_as_root(name: str) -> None:
    users = [line[1] for line in dockerfile_lines(name) if line[0] == "USER"]
    assert users == ["10001"]


@pytest.mark.parametrize(("name", "module"), MODULES)
def test_an_image_starts_its_own_module(name: str, module: str) -> None:
    assert dockerfile_command(name, "CMD") == ["python", "-m", module]


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
@pytest.mark.parametrize(("name", "variable"), HEALTH_PORTS)
def test_the_health_check_follows_what_health_answers(
    name: str, variable: str, status: int, healthy: bool
) -> None:
    command = dockerfile_command(name, "HEALTHCHECK")
    assert command[0] == "python"
    with answering(status) as (port, paths):
        code = subprocess.call([sys.executable, *command[1:]], env={variable: str(port)})
    assert paths == ["/health"]
    assert (code == 0) is healthy


# Compose


def test_the_compose_file_keeps_to_the_schema(compose: dict[str, Any]) -> None:
    jsonschema.Draft7Validator(compose_schema()).validate(compose)


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ("api", "enviroment", {}),
        ("api", "ports", ["8000:8000"]),
        ("api", "read_only", False),
        ("worker-cpu", "cap_drop", ["NET_RAW"]),
        ("prometheus", "user", "0:0"),
        ("redis", "stop_grace_period", "30"),
        ("worker-cpu", "depends_on", {"redis": {"condition": "healthy"}}),
    ],
)
def test_the_schema_refuses_a_slip(
    compose: dict[str, Any], where: str, key: str, value: object
) -> None:
    compose["services"][where][key] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(compose_schema()).validate(compose)


def test_make_compose_check_finds_the_file_in_order() -> None:
    check = [sys.executable, str(ROOT / "deploy" / "compose_check.py")]
    result = subprocess.run(check, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("docker-compose.yml is in order, by ")


def test_compose_waits_for_redis_to_be_healthy(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name in ("api", "courier", "worker-cpu", "worker-gpu", "flower"):
        for needed in ("redis", "cache-redis"):
            assert services[name]["depends_on"][needed] == {"condition": "service_healthy"}


def test_every_service_has_a_health_check_of_its_own_or_its_images(
    compose: dict[str, Any],
) -> None:
    for name, service in compose["services"].items():
        assert "healthcheck" in service or name in ("api", "worker-cpu", "worker-gpu")


def test_no_service_runs_as_root(compose: dict[str, Any]) -> None:
    """Our own images name their user; of the others it is named here."""
    for name, service in compose["services"].items():
        assert "user" in service or service["image"].startswith("lanefleet-"), name


def test_the_profiles_are_those_of_the_docs(compose: dict[str, Any]) -> None:
    found: dict[str, set[str]] = {}
    for name, service in compose["services"].items():
        for profile in service.get("profiles", ["none"]):
            found.setdefault(profile, set()).add(name)
    assert found == {
        "none": {"redis", "cache-redis", "api", "courier"},
        "cpu": {"worker-cpu"},
        "gpu": {"worker-gpu"},
        "monitoring": {"flower", "prometheus", "alertmanager", "grafana", "node-exporter"},
    }


def test_compose_names_only_files_services_and_volumes_that_exist(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service in services.values():
        assert service.get("depends_on", {}).keys() <= services.keys()
        assert set(service.get("networks", ())) <= compose["networks"].keys()
        assert set(service.get("secrets", ())) <= compose["secrets"].keys()
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (ROOT / source).exists()


def test_a_secret_of_compose_is_written_by_make_secrets_and_used_by_a_service(
    compose: dict[str, Any], tmp_path: Path
) -> None:
    make = [sys.executable, str(ROOT / "deploy" / "make_secrets.py"), str(tmp_path / "secrets")]
    subprocess.run(make, check=True, capture_output=True)
    written = {path.name: path for path in (tmp_path / "secrets").iterdir()}
    named = {Path(one["file"]).name for one in compose["secrets"].values()}
    assert named <= written.keys()
    used = {name for service in compose["services"].values() for name in service.get("secrets", ())}
    assert used == compose["secrets"].keys()
    users = written["redis_users"].read_text()
    assert "change-me" not in users
    for role in ("api", "worker", "flower", "keda", "admin"):
        password = re.search(rf"^user {role} on >(\S+)", users, re.MULTILINE)
        assert password is not None
        assert f"//{role}:{password[1]}@redis:6379" in written[f"redis_url_{role}"].read_text()


def _secrets(folder: Path) -> dict[str, str]:
    make = [sys.executable, str(ROOT / "deploy" / "make_secrets.py"), str(folder)]
    subprocess.run(make, check=True, capture_output=True)
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_make_secrets_changes_nothing_that_is_there(tmp_path: Path) -> None:
    before = _secrets(tmp_path)
    (tmp_path / "metrics_key").unlink()
    (tmp_path / "metrics_key").write_text("lfk_made_later")
    assert _secrets(tmp_path) == {**before, "metrics_key": "lfk_made_later"}
    assert (tmp_path / "redis_users").stat().st_mode & 0o777 == 0o444


def test_make_secrets_brings_the_users_rules_up_to_date_and_keeps_passwords(tmp_path: Path) -> None:
    before = _secrets(tmp_path)
    (tmp_path / "redis_users").chmod(0o644)
    (tmp_path / "redis_users").write_text("user default off\nuser api on >old ~* +get\n")
    assert _secrets(tmp_path) == before


def test_make_secrets_makes_a_deleted_login_anew_on_both_sides(tmp_path: Path) -> None:
    before = _secrets(tmp_path)
    (tmp_path / "redis_url_api").unlink()
    after = _secrets(tmp_path)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"redis_url_api", "redis_users"}
    assert after["redis_url_api"].split(":")[2].split("@")[0] in after["redis_users"]


def test_compose_lets_a_worker_drain_before_it_is_killed(compose: dict[str, Any]) -> None:
    for name in ("worker-cpu", "worker-gpu"):
        service = compose["services"][name]
        drain = float(service["environment"]["LANEFLEET_SHUTDOWN_GRACE_SECONDS"])
        assert float(service["stop_grace_period"].removesuffix("s")) > drain
