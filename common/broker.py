"""The Celery application that workers, Flower and `celery inspect` share.

Operators start Flower and inspect the fleet with `celery -A common.broker`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from celery import Celery, bootsteps
from celery.exceptions import Reject
from redis.exceptions import RedisError

from common.errors import ConfigurationError, InvalidInput
from common.jobs.message import TASK_NAME
from common.jobs.system_lanes import is_system
from common.net.redis_address import RedisAddress
from common.redis.connect import master_tls, probes, sentinel_options
from common.redis.embedded_server import resolve_redis_url
from common.redis.keys import OVER_TOTALS, LaneKeys
from common.settings import Settings, load_settings


def create_app(redis_url: str, settings: Settings) -> Celery:
    """The Celery application that workers, Flower and `celery inspect` share."""
    address = RedisAddress.parse(redis_url)
    url, has_keepalive = address.celery_url, address.kind != "unix"
    app = Celery("lanefleet", broker=url, backend=url, set_as_current=False)
    sentinel = _by_sentinel(app, address, settings) if address.kind == "sentinel" else {}
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
        task_routes=(route_to_lane,),
    )
    app.task(name=TASK_NAME, shared=False, acks_late=True)(_infer)
    app.steps["worker"].add(LanesOnly)
    return app


def _by_sentinel(app: Celery, address: RedisAddress, settings: Settings) -> dict[str, Any]:
    """The transport's options that find the master; TLS to it is set in the application."""
    if tls := master_tls(address):
        del tls["ssl"]  # that these are there says as much
        app.conf.update(broker_use_ssl=tls, redis_backend_use_ssl=tls)
    return {
        "master_name": settings.sentinel_master,
        "sentinel_kwargs": sentinel_options(address, settings),
    }


def route_to_lane(
    name: str, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, *_: Any, **__: Any
) -> dict[str, str] | None:
    """The queue of an `infer` that names none, as Flower sends it: its model's lane.

    Raises InvalidInput where it names no model either: nobody would ever read it.
    """
    if name != TASK_NAME:
        return None
    model = (kwargs or {}).get("model") or next(iter(args or ()), None)
    if not isinstance(model, str) or not model:
        raise InvalidInput("`infer` needs kwargs={'model': ..., 'input': ...}, or a queue")
    if is_system(model):
        raise InvalidInput(f"no model is called {model!r}; /v1/models lists them")
    return {"queue": model}


class LanesOnly(bootsteps.Step):  # type: ignore[misc]  # Celery has no types
    """Lets no worker of this app start that serves no lanes: it would take jobs and lose them."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **_: Any) -> None:
        if not hasattr(worker.app, "lanefleet_engine_factory"):
            print(  # noqa: T201 - the one line a person needs
                "`celery worker` does not run models and would lose a lane's jobs; "
                "start `lanefleet worker` instead (LANEFLEET_MODELS chooses its lanes)",
                file=sys.stderr,
            )
            raise SystemExit(2)


_GIVE_BACK_SECONDS = 1.0
"""A pause, so that a pool that should not have it does not hand it round and round."""


def _infer(*_args: Any, **_kwargs: Any) -> NoReturn:
    """Named so that clients and Flower know it; lanes run it. A pool gives the message back."""
    time.sleep(_GIVE_BACK_SECONDS)
    raise Reject("`infer` is run by Lanefleet's lanes, not by a Celery pool", requeue=True)


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
        app = create_app(resolve_redis_url(settings), settings)
    except ConfigurationError as exc:
        print(f"lanefleet celery: {exc}", file=sys.stderr)  # noqa: T201 - the one line a person needs
        raise SystemExit(2) from None
    # Flower asks the current app for results, on threads of its own too.
    app.set_current()
    app.set_default()
    if "flower.command" in sys.modules:  # the `celery` command has found it
        _count_beside()
    return app


def _count_beside() -> None:
    """Have Flower's queue lengths include what tenants have beside the bands' lists.

    It asks for the lengths of lists, and shows those as they are where it may ask for no more.
    """
    try:
        from flower.utils.broker import RedisBase
    except ImportError:
        return
    lengths_of_lists = RedisBase.queues

    async def queues(self: Any, names: Iterable[str]) -> list[dict[str, Any]]:
        lanes = list(names)
        try:
            async with self.redis.pipeline(transaction=False) as pipe:
                for lane in lanes:
                    pipe.hmget(LaneKeys.of(lane).over, OVER_TOTALS)
                beside = await pipe.execute()
        except RedisError:
            beside = []
        found: list[dict[str, Any]] = await lengths_of_lists(self, lanes)
        for one, counts in zip(found, beside, strict=False):
            one["messages"] += sum(int(count or 0) for count in counts)
        return found

    RedisBase.queues = queues
