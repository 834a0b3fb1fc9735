"""Flower as the containers run it: behind a login, and unable to change the fleet."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from api.cli.fleet import free_port
from tests.support.stack import ROOT, Stack, wait_until

LOGIN = ("flower", "a password")


@pytest.mark.slow
def test_flower_shows_the_fleet_to_who_has_the_login_and_changes_nothing(
    stack: Stack, tmp_path: Path
) -> None:
    (tmp_path / "login").write_text(":".join(LOGIN) + "\n")
    worker = stack.worker("echo")
    (name,) = (report.worker for report in stack.reports())
    url = f"http://127.0.0.1:{(port := free_port())}"
    config = ROOT / "deploy" / "flower" / "flowerconfig.py"
    stack._start(
        "flower",
        ["-m", "celery", "-A", "common.broker:app", "flower", f"--port={port}", f"--conf={config}"],
        "echo",
        {"FLOWER_LOGIN_FILE": str(tmp_path / "login")},
    )

    def shows_the_worker() -> bool:
        try:
            return name in httpx.get(f"{url}/api/workers?refresh=1", auth=LOGIN, timeout=10).text
        except httpx.HTTPError:
            return False

    wait_until(shows_the_worker, 60, "Flower to know the worker")
    assert httpx.get(f"{url}/healthcheck", timeout=10).status_code == 200
    for path in ("/", "/api/workers", "/tasks"):
        assert httpx.get(f"{url}{path}", timeout=10).status_code == 401
        assert httpx.get(f"{url}{path}", auth=("flower", "wrong"), timeout=10).status_code == 401
    for path in (
        f"/api/worker/shutdown/{name}",
        f"/api/worker/queue/add-consumer/{name}?queue=other",
        "/api/task/send-task/infer",
        "/api/task/revoke/some-id",
    ):
        answer = httpx.post(f"{url}{path}", auth=LOGIN, json={"args": []}, timeout=20)
        assert answer.status_code == 403, path
    assert worker.alive
