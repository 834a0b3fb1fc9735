"""`python -m api`: serve HTTP until SIGTERM."""

from __future__ import annotations

import gc
import signal
import sys

import uvicorn

from common.errors import ConfigurationError
from common.log import configure_logging
from common.settings import load_settings

_GRACEFUL_SECONDS = 30


def main() -> int:
    """Run until SIGTERM; returns the exit status."""
    from api.app import create_app
    from api.hot import HotSubmit
    from common.redis_server import obtain_redis

    try:
        settings = load_settings()
        configure_logging(settings, "api")
        redis = obtain_redis(settings)
    except ConfigurationError as exc:
        print(f"lanefleet api: {exc}", file=sys.stderr)  # noqa: T201 - the one line a person needs
        return 2
    try:
        app = HotSubmit(create_app(settings, redis.url))
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_GRACEFUL_SECONDS,
            )
        )
        # uvicorn raises a caught signal again once it has shut down; left to the
        # default handler that would end us with an error status.
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda _signum, _frame: None)
        gc.collect()
        gc.freeze()  # what was imported stays; walking it again and again cost bulk 6 %
        server.run()
    except ConfigurationError as exc:
        print(f"lanefleet api: {exc}", file=sys.stderr)  # noqa: T201 - as above
        return 2
    finally:
        redis.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
