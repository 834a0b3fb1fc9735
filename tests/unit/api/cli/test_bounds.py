"""Times on the command line have an end: what has none fails where a clock is asked for it."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from api.cli.main import app


@pytest.mark.parametrize(
    "command",
    [
        "stages --over",
        "top --interval",
        "profile --seconds",
        "bench --warmup",
        "bench --timeout",
        "bench --duration",
        "bench --threshold",
    ],
)
@pytest.mark.parametrize("value", ["inf", "nan", "-1"])
def test_a_time_without_an_end_is_refused(command: str, value: str) -> None:
    done = CliRunner().invoke(app, [*command.split(), value])
    assert done.exit_code == 2, done.output
    assert "Invalid value" in done.output


@pytest.mark.parametrize(
    "limit", ["--jobs-per-second inf", "--burst 1" + "0" * 23, "--max-in-flight 1" + "0" * 23]
)
def test_a_limit_that_cannot_be_kept_is_refused(limit: str) -> None:
    done = CliRunner().invoke(app, ["keys", "limit", "acme", *limit.split()])
    assert done.exit_code == 2, done.output
    assert "Invalid value" in done.output
