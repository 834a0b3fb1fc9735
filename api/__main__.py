"""`python -m api`: serve HTTP until SIGTERM."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Sequence

from common.errors import ConfigurationError
from common.log import configure_logging
from common.settings import Settings, load_settings


def main(arguments: Sequence[str] = ()) -> int:
    """Run until SIGTERM; returns the exit status.

    The supervisor of several processes passes `LISTENER NOTICE METRICS`: the descriptors of the
    socket to serve, of a pipe to which it writes when it begins to drain, and of the socket on
    which the metrics of all are added up.
    """
    from api.http.request_context import add_request
    from api.tenants.exposure import check_exposure
    from common.redis.connect import connect
    from common.redis.embedded_server import obtain_redis
    from common.redis.format_version import check_format

    try:
        settings = load_settings()
        configure_logging(settings, "api", add_request)
        redis = obtain_redis(settings)
    except ConfigurationError as exc:
        print(f"lanefleet api: {exc}", file=sys.stderr)  # noqa: T201 - the one line a person needs
        return 2
    try:
        if not arguments:
            check_format(redis.url, settings)
            with connect(redis.url, settings) as client:
                check_exposure(client, settings)
        if arguments:
            listener, notice, metrics = map(int, arguments)
            _serve(settings, redis.url, [socket.socket(fileno=listener)], notice, metrics)
        elif settings.api_workers > 1 or settings.max_requests:
            from api.server.supervisor import supervise

            return supervise(settings, redis.url)
        else:
            _serve(settings, redis.url)
    except ConfigurationError as exc:
        print(f"lanefleet api: {exc}", file=sys.stderr)  # noqa: T201 - as above
        return 2
    finally:
        redis.stop()
    return 0


def _serve(
    settings: Settings,
    redis_url: str,
    sockets: list[socket.socket] | None = None,
    notice: int | None = None,
    metrics: int | None = None,
) -> None:
    gc.disable()  # until all is imported: a fifth of the time that this takes
    from api.server.server import serve

    def tell() -> None:
        if notice is not None:
            os.write(notice, b"draining\n")

    # uvicorn raises a caught signal again once it has shut down; with the
    # default handler that would end the process with an error status.
    early: list[int] = []
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda signum, _frame: early.append(signum))
    serve(settings, redis_url, sockets, tell, metrics, lambda: bool(early))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
