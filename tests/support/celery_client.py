"""A stock Celery client, as anybody may have it; it imports nothing of ours."""

from __future__ import annotations

from typing import Any

from celery import Celery

from tests.support.lanes import LANE
from tests.support.stack import Stack


def client(stack: Stack, **conf: Any) -> Celery:
    """A producer as anybody may have it."""
    app = Celery("producer", broker=stack.redis_url, backend=stack.redis_url, set_as_current=False)
    app.conf.update(conf)
    return app


def send(app: Celery, value: str, options: dict[str, Any] | None = None, **params: Any) -> Any:
    """One job of the recorder's lane."""
    kwargs = {"model": LANE, "input": value, "params": params}
    return app.send_task("infer", kwargs=kwargs, queue=LANE, **(options or {}))
