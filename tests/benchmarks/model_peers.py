"""MiniLM as Celery serves it: `python -m tests.benchmarks.model_peers ROLE URL`.

With batches of up to 32 where there are batches, and one torch thread. All but
plain Celery run in an environment of their own, in front of which are the
peers' packages and behind which are ours. The peers that speak HTTP have a
module each, since they start processes that import it again.
"""

from __future__ import annotations

import sys
from typing import Any

from tests.benchmarks.offline import BATCH, PlainMiniLM

QUEUE = "celery"
TASK = "bench.embed"
PATHS = {"mosec": "/inference", "litserve": "/predict"}
WAIT_MS = 10
"""How long those wait for company."""


def celery_app(url: str) -> Any:
    """Plain Celery with its defaults."""
    from celery import Celery

    app = Celery("bench", broker=url, backend=url, set_as_current=False)
    app.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)
    return app


def run_celery(url: str) -> None:
    """One text a task; fetching ahead is Celery's default of 4."""
    app, model = celery_app(url), PlainMiniLM()

    @app.task(name=TASK, shared=False)
    def embed(text: str) -> list[float]:
        return model.embed([text])[0]

    _work(app)


def run_celery_batches(url: str) -> None:
    """`flush_every` needs as many prefetched, so that a batch can fill."""
    from celery_batches import Batches

    app, model = celery_app(url), PlainMiniLM()
    app.conf.worker_prefetch_multiplier = 2 * BATCH

    def embed(requests: list[Any]) -> None:
        vectors = model.embed([request.args[0] for request in requests])
        for request, vector in zip(requests, vectors, strict=True):
            app.backend.mark_as_done(request.id, vector, request=request)

    app.task(name=TASK, base=Batches, flush_every=BATCH, flush_interval=0.1, shared=False)(embed)
    _work(app)


def _work(app: Any) -> None:
    app.worker_main(["worker", "--pool", "solo", "--concurrency", "1", "--loglevel", "WARNING"])


def main(role: str, url: str) -> None:
    """Run one role until it is killed."""
    roles = {
        "celery": run_celery,
        "celery-batches": run_celery_batches,
    }
    roles[role](url)


if __name__ == "__main__":
    main(*sys.argv[1:])
