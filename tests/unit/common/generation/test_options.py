"""Options of a generation: what is refused, and in how many words."""

from __future__ import annotations

from typing import Any

import pytest

from common.generation.options import InvalidOption, read_options


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"logit_bias": {"0" * 5_000: 1}}, "params.logit_bias: '000"),
        ({"logit_bias": {"0" * 5_000: 101}}, "params.logit_bias.000"),
        ({"logit_bias": {"{x}": 1}}, "params.logit_bias: '{x}' is no token id"),
        ({"logit_bias": {"\u0663": 1}}, "is no token id"),
        ({"logit_bias": {"+1": 1}}, "'+1' is no token id"),
        ({"logit_bias": {"1": float("nan")}}, "params.logit_bias.1"),
        ({"x" * 5_000: 1}, "params.xxx"),
        ({"repetition_penalty": 1e-300}, "params.repetition_penalty"),
        ({"temperature": float("nan")}, "params.temperature"),
        ({"top_p": float("nan")}, "params.top_p"),
        ({"max_tokens": float("inf")}, "params.max_tokens"),
        ({"stop": ["\ud800"]}, "params.stop.0"),
        ({"seed": 1e300}, "params.seed"),
    ],
)
def test_what_is_wrong_is_named_in_a_short_sentence(params: Any, said: str) -> None:
    """A logit that a penalty makes infinite, and a key that `int` refuses, were faults of ours."""
    with pytest.raises(InvalidOption) as raised:
        read_options(params)
    assert said in str(raised.value)
    assert len(str(raised.value)) < 600
