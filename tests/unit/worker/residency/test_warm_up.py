"""A generator is warmed up by rows of its own, which leave again; half a generator is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from tests.support.null_generator import NullGenerator
from worker.models import load_handler
from worker.models.generator import Advance
from worker.residency.loading import warm_up


class Counting(NullGenerator):
    """Notes how many rows each step had; fails on request."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.fails = False

    def step(self) -> Sequence[Advance]:
        self.seen.append(len(self.rows))
        if self.fails:
            raise RuntimeError("it cannot step")
        return super().step()


class Half:
    """Lacks verbs."""

    def load(self, spec: ModelSpec, device: str) -> None: ...

    def admit(self, prompt: Any) -> Sequence[int]:
        raise NotImplementedError


def spec(handler: str, **options: Any) -> ModelSpec:
    return ModelSpec(name="gen", handler=handler, options=options)


def test_one_row_then_all_of_them_say_a_few_tokens_and_leave() -> None:
    handler = Counting()
    handler.load(spec("tests.support.null_generator:NullGenerator", slots=3), "cpu")
    warm_up(handler, handler.example(), 32)  # type: ignore[arg-type]
    assert handler.seen == [1, 1, 3, 3]
    assert handler.rows == {}


def test_a_warm_up_that_fails_leaves_no_row() -> None:
    handler = Counting()
    handler.load(spec("tests.support.null_generator:NullGenerator"), "cpu")
    handler.fails = True
    with pytest.raises(RuntimeError, match="it cannot step"):
        warm_up(handler, handler.example(), 1)  # type: ignore[arg-type]
    assert handler.rows == {}


def test_what_half_a_generator_lacks_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"has no decode, cost, step, drop, text, encode;"):
        load_handler(spec("tests.unit.worker.residency.test_warm_up:Half"))
