"""Keys on the command line are told by their ids, and never shown."""

from __future__ import annotations

import pytest
from typer import BadParameter
from typer.testing import CliRunner

from api.cli import app
from api.cli.keys import _moment, id_of, seconds_of
from common.errors import ConfigurationError

KEY = "lfk_0a1b2c3d4e5f_" + "9" * 64


@pytest.mark.parametrize("given", ["0a1b2c3d4e5f", " 0a1b2c3d4e5f ", KEY, f"{KEY}\n"])
def test_a_key_is_told_by_its_id_or_itself(given: str) -> None:
    assert id_of(given) == "0a1b2c3d4e5f"


@pytest.mark.parametrize("given", [KEY[:-1], KEY + "0", "lfk_"])
def test_what_is_only_like_a_key_is_not_shown(given: str) -> None:
    with pytest.raises(BadParameter, match="give the key's id"):
        id_of(given)
    for command in ("revoke", "rotate", "forget"):
        answer = CliRunner().invoke(app, ["keys", command, given])
        assert answer.exit_code == 2
        assert "9999" not in answer.output


@pytest.mark.parametrize("text", ["99999999999999d", "36526d", "9" * 5000 + "s", "1y", "-1d", ""])
def test_a_span_that_no_calendar_has_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"longer than|no span"):
        seconds_of(text)


def test_a_key_that_never_ends_does_not_hide_the_others() -> None:
    assert _moment(8.64e18) == _moment(float("inf")) == "after the year 9999"
    assert _moment(0.0) == "1970-01-01T00:00:00+00:00"
    assert seconds_of("36525d") == 36_525 * 86_400
