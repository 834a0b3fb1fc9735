"""The Celery application that workers, Flower and `celery inspect` share.

Operators start Flower and inspect the fleet with `celery -A common.broker`.
"""

from __future__ import annotations

import sys
from typing import Any

from celery import Celery

from common.errors import ConfigurationError
from common.jobs.message import TASK_NAME
from common.net.redis_address import RedisAddress
from common.redis.connect import master_tls, probes, sentinel_options
from common.redis.embedded_server import resolve_redis_url
from common.settings import Settings, load_settings


def create_app(redis_url: str, settings: Settings) -> Celery:
    """The Celery application that workers, Flower and `celery inspect` share."""
    address = RedisAddress.parse(redis_url)
    url, has_keepalive = address.celery_url, address.kind != "unix"
    app = Celery("lanefleet", broker=url, backend=url, set_as_current=False)
    sentinel: dict[str, Any] = {}
    if address.kind == "sentinel":
        sentinel = {
            "master_name": settings.sentinel_master,
            "sentinel_kwargs": sentinel_options(address, settings),
        }
        if tls := master_tls(address):
            del tls["ssl"]  # that these are there says as much
            app.conf.update(broker_use_ssl=tls, redis_backend_use_ssl=tls)
    app.conf.update(
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_expires=settings.result_ttl_seconds,
        broker_connection_retry_on_startup=True,
        broker_channel_error_retry=True,  # a demoted master raises a channel error
        broker_connection_max_retries=None,
        broker_transport_options={
            **sentinel,
            "socket_timeout": settings.socket_timeout_seconds,
            "socket_connect_timeout": settings.socket_timeout_seconds,
            "socket_keepalive": has_keepalive,
            **({"socket_keepalive_options": probes(settings)} if has_keepalive else {}),
            "health_check_interval": settings.redis_keepalive_seconds,
            "queue_order_strategy": "priority",
        },
        result_backend_transport_options=sentinel,
        redis_socket_timeout=settings.socket_timeout_seconds,
        redis_socket_connect_timeout=settings.socket_timeout_seconds,
        redis_socket_keepalive=has_keepalive,  # the backend passes it to sockets as well
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
        return _app_of_the_environment()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _app_of_the_environment() -> Celery:
    """Ends the process with status 2 where it cannot be, as every other way in does: `celery`
    would print the traceback of an error, and say that it could not find the application.
    """
    try:
        settings = load_settings()
        return create_app(resolve_redis_url(settings), settings)
    except ConfigurationError as exc:
        print(f"lanefleet celery: {exc}", file=sys.stderr)  # noqa: T201 - the one line a person needs
        raise SystemExit(2) from None
