"""What workers tell fronts of an alias with shares, and what is none of it."""

from __future__ import annotations

import pytest

from common.catalog import Target
from common.jobs.shared_weights import SharedWeights

TARGET = Target({"m@1": 0.5, "m@2": 0.5}, sticky=True)


def test_what_is_dumped_is_loaded() -> None:
    said = SharedWeights(TARGET, {"m@1": "abc", "m@2": ""})
    assert SharedWeights.load(said.dump()) == said
    assert " " not in said.dump(), "an earlier front reads a model up to the first space"


@pytest.mark.parametrize(
    "text",
    [
        "m@1 abc",
        "{",
        "{}",
        '{"target": "{", "weights": {"m@1": "a"}}',
        '{"target": "m@1", "weights": {}}',
        '{"target": "m@1", "weights": {"other": "a"}}',
        '{"target": 1, "weights": ["m@1"]}',
    ],
)
def test_what_is_something_else_is_none(text: str) -> None:
    assert SharedWeights.load(text) is None
