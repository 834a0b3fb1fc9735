"""A model in another precision serves only where it agrees with fp32, and says where it is slow."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tests.support.stack import Stack, wait_until

SETTINGS = {"LANEFLEET_ACCURACY_GATE_SECONDS": "60"}


def catalog(stack: Stack, **models: Any) -> None:
    entries = {
        name: {"handler": "tests.support.moded:Moded", "input": "text", "precision": "bf16", **body}
        for name, body in models.items()
    }
    path = stack.folder / "models.yaml"
    path.write_text(yaml.safe_dump({"models": entries}))
    stack.environment["LANEFLEET_CATALOG"] = str(path)
    stack.environment["LANEFLEET_STATE_DIR"] = str(stack.folder / "state")


def lane(stack: Stack, name: str) -> Any:
    return next((one.lanes[name] for one in stack.reports() if name in one.lanes), None)


def test_a_bad_model_is_taken_out_and_a_slow_one_is_warned_of_while_others_serve(
    own_stack: Stack,
) -> None:
    catalog(
        own_stack,
        bad={"options": {"error": 1.0}},
        slow={"options": {"spin_ms": 10}},
        plain={"precision": "fp32"},
    )
    own_stack.worker("", **SETTINGS)
    assert lane(own_stack, "bad").loaded
    wait_until(lambda: lane(own_stack, "bad").error, 60, "the verdict")
    wait_until(lambda: not lane(own_stack, "bad").loaded, 20, "its end")
    assert "bf16 gives min cosine 0." in lane(own_stack, "bad").error
    assert "below its tolerance 0.99" in lane(own_stack, "bad").error
    wait_until(lambda: lane(own_stack, "slow").warning, 60, "the other verdict")
    assert "bf16 runs at 0." in lane(own_stack, "slow").warning
    assert lane(own_stack, "slow").loaded
    assert lane(own_stack, "plain").warning is None
    verdicts = [
        json.loads(one.read_text()) for one in (own_stack.folder / "state/verdicts").iterdir()
    ]
    assert {one["model"] for one in verdicts} == {"bad", "slow"}
    assert "on the model's example alone" in verdicts[0]["note"].replace("judged ", "")


@pytest.mark.slow
def test_the_next_worker_finds_the_verdict_and_readers_see_it(own_stack: Stack) -> None:
    catalog(own_stack, bad={"options": {"error": 1.0}}, slow={"options": {"spin_ms": 10}})
    first = own_stack.worker("", **SETTINGS)
    wait_until(lambda: lane(own_stack, "slow").warning, 60, "both verdicts")
    assert first.stop() == 0
    report = own_stack.await_worker(own_stack.worker("", **SETTINGS))
    assert "below its tolerance" in (report.lanes["bad"].error or "")
    assert report.lanes["slow"].loaded
    api = own_stack.api("")
    slow = api.client.get_model("slow")
    (warning,) = slow["warnings"].values()
    assert "bf16 runs at 0." in warning
    assert slow["loaded_by"]
    assert "below its tolerance" in next(iter(api.client.get_model("bad")["errors"].values()))


@pytest.mark.slow
def test_where_the_verdict_is_required_a_bad_model_never_serves(own_stack: Stack) -> None:
    catalog(own_stack, bad={"options": {"error": 1.0}}, good={})
    own_stack.worker("", LANEFLEET_ACCURACY_GATE="require", **SETTINGS)
    assert lane(own_stack, "good").loaded
    assert "below its tolerance" in lane(own_stack, "bad").error
    assert not lane(own_stack, "bad").loaded
