"""structlog, set up once per process: JSON in production, console in a terminal."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

import structlog
from structlog.typing import Processor

from common.settings import LogSettings

_NOISY = ("httpx", "httpcore", "transformers", "urllib3", "kombu", "celery.worker.strategy")
_KEY = re.compile(r"(lfk_[0-9a-f]{12}_)[0-9a-f]{8,64}")


def mask_keys(_logger: object, _name: str, line: str) -> str:
    """Mask the secret of any API key in a log line."""
    return _KEY.sub(r"\1********", line) if "lfk_" in line else line


def configure_logging(settings: LogSettings, role: str, *also: Processor) -> None:
    """Send structlog and the standard library's loggers through one renderer.

    The processors in `also` add context to each event, such as the request it belongs to.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        *also,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            *shared,
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.log_level.upper()]
        ),
        cache_logger_on_first_use=True,
    )
    rendering: list[Any] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        _renderer(settings.log_format),
        mask_keys,
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.processors.format_exc_info],
            processors=rendering,
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(role=role)


def _renderer(log_format: str) -> Any:
    """A renderer for a terminal, or for one JSON object a line; `auto` detects a terminal."""
    terminal = sys.stderr.isatty()
    if log_format == "console" or (log_format == "auto" and terminal):
        return structlog.dev.ConsoleRenderer(colors=terminal)
    return structlog.processors.JSONRenderer()
