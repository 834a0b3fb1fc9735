"""The Celery application that workers, Flower and `celery inspect` share.

Operators start Flower and inspect the fleet with `celery -A common.broker`.
"""

from __future__ import annotations

from typing import Any

from celery import Celery

from common.jobs.message import TASK_NAME
from common.redis.embedded_server import resolve_redis_url
from common.settings import Settings, load_settings


def create_app(redis_url: str, settings: Settings) -> Celery:
    """The Celery application that workers, Flower and `celery inspect` share."""
    app = Celery("lanefleet", broker=redis_url, backend=redis_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_expires=settings.result_ttl_seconds,
        broker_connection_retry_on_startup=True,
        broker_channel_error_retry=True,  # a demoted master raises a channel error
        broker_connection_max_retries=None,
        broker_transport_options={
            "master_name": settings.sentinel_master,
            "socket_timeout": settings.socket_timeout_seconds,
            "socket_connect_timeout": settings.socket_timeout_seconds,
            "socket_keepalive": True,
            "queue_order_strategy": "priority",
        },
        result_backend_transport_options={"master_name": settings.sentinel_master},
        redis_socket_timeout=settings.socket_timeout_seconds,
        redis_socket_connect_timeout=settings.socket_timeout_seconds,
        redis_socket_keepalive=True,
        worker_soft_shutdown_timeout=settings.soft_shutdown_seconds,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_prefetch_count_reduction=False,
        task_default_queue="lanefleet.unused",
    )
    app.task(name=TASK_NAME, shared=False, acks_late=True)(_infer)
    return app


def _infer(**_kwargs: Any) -> None:
    """Registers the task's name for clients and Flower; lanes run it, never Celery's pool."""
    raise RuntimeError("`infer` is run by Lanefleet's lanes, not by a Celery pool")


def __getattr__(name: str) -> Any:
    """Make `celery -A common.broker` work without reading the environment at import."""
    if name == "app":
        settings = load_settings()
        return create_app(resolve_redis_url(settings), settings)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
