"""Keys on the command line are told by their ids, and never shown."""

from __future__ import annotations

import pytest
from typer import BadParameter
from typer.testing import CliRunner

from api.cli import app
from api.cli.keys import id_of

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
