"""Where a Celery client's `infer` goes that names no queue."""

from __future__ import annotations

import pytest

from common.broker import create_app, route_to_lane
from common.errors import InvalidInput
from common.settings import Settings


def test_infer_goes_to_its_models_lane() -> None:
    assert route_to_lane("infer", (), {"model": "echo", "input": 1}, {}) == {"queue": "echo"}
    assert route_to_lane("infer", ("echo", 1), None, {}, task=None) == {"queue": "echo"}
    assert route_to_lane("other", (), {}, {}) is None


@pytest.mark.parametrize("kwargs", [{}, {"model": ""}, {"model": 5}, {"input": 1}])
def test_infer_without_a_model_is_refused_where_it_is_sent(kwargs: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="or a queue"):
        route_to_lane("infer", (), kwargs, {})


def test_a_queue_that_is_named_wins() -> None:
    app = create_app("redis://localhost", Settings())
    for queue, wanted in ((None, "echo"), ("elsewhere", "elsewhere")):
        options = {"queue": queue} if queue else {}
        route = app.amqp.router.route(options, "infer", (), {"model": "echo"})
        assert route["queue"].name == wanted
