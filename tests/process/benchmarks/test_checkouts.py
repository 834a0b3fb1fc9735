"""Which trees a comparison takes for checkouts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.checkouts import Checkout, open_checkout
from tests.support.stack import ROOT


def test_this_tree_is_a_checkout_that_runs_its_own_packages(tmp_path: Path) -> None:
    with open_checkout(str(ROOT), tmp_path) as found:
        assert found.root == ROOT
        assert str(ROOT) in found.title


def test_what_is_neither_a_tree_nor_a_revision_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="neither a tree of this project nor a revision"),
        open_checkout("no-such-revision", tmp_path),
    ):
        pass


def test_a_tree_without_packages_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="would run"):
        Checkout("empty", tmp_path, tmp_path / "bytecode").check()
