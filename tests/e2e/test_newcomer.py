"""What a newcomer does first: the demo, `lanefleet up`, the README's and the docs' examples."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx

from tests.e2e.conftest import LANEFLEET, Up
from tests.support.stack import ROOT, Stack, wait_until

README = (ROOT / "README.md").read_text()


def processes() -> list[tuple[int, int, str]]:
    """Every process of this machine as (pid, parent, command)."""
    listed = subprocess.run(
        ["ps", "-axo", "pid=,ppid=,command="], capture_output=True, text=True, check=True
    )
    rows = (line.split(None, 2) for line in listed.stdout.splitlines())
    return [(int(row[0]), int(row[1]), row[2] if len(row) > 2 else "") for row in rows]


def blocks(language: str) -> list[str]:
    """The README's code blocks of this language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_curl_commands_of_the_readme_run_as_printed(up: Up) -> None:
    commands = [block for block in blocks("sh") if block.startswith("curl")]
    assert len(commands) == 2
    for command in commands:
        local = command.replace("http://127.0.0.1:8000", up.url)
        answer = subprocess.run(
            local, shell=True, cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert json.loads(answer.stdout)["state"] == "succeeded", answer.stdout


def test_the_lanefleet_commands_of_the_readme_run_as_printed(up: Up) -> None:
    (block,) = [block for block in blocks("sh") if "lanefleet submit" in block]
    for line in block.splitlines():
        command = [*LANEFLEET, *shlex.split(line, comments=True)[1:]]
        answer = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "LANEFLEET_URL": up.url},
            capture_output=True,
            text=True,
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_other_commands_print_json(up: Up) -> None:
    for arguments, shape in (
        (["status", "--json"], dict),
        (["submit", "echo", "-", "--json"], dict),
        (["dead", "list", "echo", "--json"], list),
        (["dead", "retry", "echo", "--json"], dict),
        (["dead", "purge", "echo", "--yes", "--json"], dict),
    ):
        answer = subprocess.run(
            [*LANEFLEET, *arguments],
            cwd=ROOT,
            env={**os.environ, "LANEFLEET_URL": up.url},
            input="from standard input",
            capture_output=True,
            text=True,
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert isinstance(json.loads(answer.stdout), shape)


def test_a_wrong_command_is_one_sentence(up: Up) -> None:
    environment = {**os.environ, "LANEFLEET_URL": up.url}
    for arguments, says in (
        (["submit", "nope", "x"], "this fleet serves"),
        (["status", "--url", "http://127.0.0.1:9"], "lanefleet up"),
    ):
        answer = subprocess.run(
            [*LANEFLEET, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert answer.returncode == 1
        assert says in answer.stderr
        assert "Traceback" not in answer.stderr


def test_the_celery_snippet_of_the_readme_runs_as_printed(up: Up) -> None:
    (snippet,) = [block for block in blocks("python") if "celery" in block]
    code = f"REDIS_URL = {up.redis_url()!r}\n{textwrap.dedent(snippet)}"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert "'dimensions': 384" in answer.stdout


def test_flower_shows_the_worker_and_one_task_per_job(up: Up) -> None:
    def workers() -> dict[str, object]:
        try:
            found: dict[str, object] = httpx.get(f"{up.flower}/api/workers?refresh=1").json()
        except httpx.HTTPError:
            return {}
        return found

    (name,) = wait_until(workers, 30, "Flower to see the worker")
    assert "@" in name

    def tasks() -> dict[str, dict[str, str]]:
        lines = b'{"model": "echo", "input": "seen by flower"}\n' * 8
        answer = httpx.post(f"{up.url}/v1/jobs/bulk", content=lines).text.splitlines()
        ids = {json.loads(line)["id"] for line in answer}
        found: dict[str, dict[str, str]] = httpx.get(f"{up.flower}/api/tasks?limit=500").json()
        done = {one for one in ids if found.get(one, {}).get("state") == "SUCCESS"}
        return found if done == ids else {}

    def seen() -> bool:
        found = tasks()
        return bool(found) and all(task["name"] == "infer" for task in found.values())

    wait_until(seen, 30, "Flower to see every job of a batch")


def test_doctor_tells_settings_with_secrets_masked() -> None:
    answer = subprocess.run(
        [*LANEFLEET, "doctor", "--json"],
        cwd=ROOT,
        env={**os.environ, "LANEFLEET_REDIS_URL": "redis://:hunter2@127.0.0.1:1/0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "hunter2" not in answer.stdout
    report = json.loads(answer.stdout)
    url = next(row for row in report["settings"] if row["name"] == "LANEFLEET_REDIS_URL")
    assert url == {"name": "LANEFLEET_REDIS_URL", "value": "********", "source": "environment"}
    assert report["packages"]["celery"]


def test_ctrl_c_stops_all_of_it(up: Up) -> None:
    log = up.log.read_text()
    for name in ("api", "worker"):
        assert f"{name:>7} │" in log
    children = [pid for pid, parent, _ in processes() if parent == up.popen.pid]
    assert len(children) >= 4, "redis, api, worker, flower"
    up.popen.send_signal(signal.SIGINT)
    assert up.popen.wait(60) == 0
    assert not {pid for pid, _, _ in processes()} & set(children)


def test_the_demo_shows_a_result_and_leaves_nothing_running(tmp_path: Path) -> None:
    answer = subprocess.run(
        [*LANEFLEET, "demo", "--json", "--output", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        start_new_session=True,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    shown = json.loads(answer.stdout)
    assert len(shown["boxes"]["sign.png"]) == 2
    assert shown["boxes"]["astronaut.png"]
    assert "cat" in shown["labels"]["cat.jpg"][0]["label"]
    assert shown["labels"]["coffee.jpg"][0]["label"] == "espresso"
    assert shown["labels"]["rocket.jpg"][0]["label"] in ("missile", "projectile")
    assert all(Path(picture).exists() for picture in shown["pictures"])
    best = shown["pairs"][0]
    assert best[0] > 0.5
    assert sum(map(int, shown["batches"]["minilm"].values())) >= 1
    assert not [command for _, _, command in processes() if "lanefleet-demo-" in command]


def test_a_wrong_setting_is_one_line_that_names_it(stack: Stack) -> None:
    for module in ("api", "worker"):
        answer = subprocess.run(
            [sys.executable, "-m", module],
            cwd=ROOT,
            env={**os.environ, "LANEFLEET_LEASE_SECONDS": "10", "LANEFLEET_RENEW_SECONDS": "9"},
            capture_output=True,
            text=True,
        )
        assert answer.returncode == 2
        (line,) = answer.stderr.strip().splitlines()
        assert "renew_seconds" in line
        assert "lease_seconds" in line
