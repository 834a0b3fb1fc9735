"""A collector that does not answer keeps no process from ending."""

from __future__ import annotations

import subprocess
import sys
import time

from tests.support.stack import ROOT

_ENDS_WITH_A_SPAN = """
from common.settings import TraceSettings
from common.tracing.spans import open_tracing

tracing = open_tracing(TraceSettings(traces=True), "test")
for _ in range(2000):
    tracing.start("work", "SERVER", "", {}).end()
print("recorded", flush=True)
"""


def test_a_process_with_unsent_spans_ends_soon_where_the_collector_is_away() -> None:
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
    }
    command = [sys.executable, "-c", _ENDS_WITH_A_SPAN]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=quiet
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"recorded\n"
            recorded_at = time.monotonic()
            assert process.wait(timeout=60) == 0
            took = time.monotonic() - recorded_at
        finally:
            process.kill()
    assert took < 20  # OpenTelemetry by itself waits for 30 s
