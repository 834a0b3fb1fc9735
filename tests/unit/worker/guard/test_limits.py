"""How long a verb may take: the catalog's figure before the setting's; 0 is off."""

from __future__ import annotations

from math import inf

from common.catalog import ModelSpec
from common.settings import Settings
from worker.guard.limits import VerbLimits


def test_the_catalog_comes_before_the_setting_and_zero_is_off() -> None:
    limits = VerbLimits(Settings(load_timeout_seconds=7, encode_timeout_seconds=0))
    plain = ModelSpec(name="m", handler="echo")
    own = ModelSpec(name="m", handler="echo", load_timeout_seconds=0, infer_timeout_seconds=2.5)
    assert [limits.of("load", one) for one in (plain, own)] == [7, inf]
    assert [limits.of("warm-up", one) for one in (plain, own)] == [7, inf]
    assert [limits.of("infer", one) for one in (plain, own)] == [120, 2.5]
    assert [limits.of("encode", one) for one in (plain, own)] == [inf, inf]
    steps = ModelSpec(name="m", handler="echo", step_timeout_seconds=3)
    assert [limits.of(verb, steps) for verb in ("admit", "step", "drop", "text")] == [3, 3, 3, inf]
    assert limits.look_seconds([plain]) == 1
    assert limits.look_seconds([plain, own]) == 2.5 / 4
    assert limits.look_seconds([]) == 1
