"""What Celery says of a broker that is away goes where all of a worker's Redis trouble goes.

It says so at every try of its own, beside our threads, which meet the same.
"""

from __future__ import annotations

import logging

from celery.worker.consumer import consumer

from common.redis.trouble import TROUBLE, is_of_redis

_ABOUT_THE_BROKER = (consumer.CONNECTION_ERROR, consumer.CONNECTION_RETRY)


class _BrokerTrouble(logging.Filter):
    """Takes lines of a lost broker out; the trouble log has them, once in a while."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether Celery's own line is printed."""
        words = record.args if isinstance(record.args, tuple) else ()
        error = next((word for word in words if is_of_redis(word)), None)
        about = record.msg in _ABOUT_THE_BROKER or consumer.CONNECTION_RETRY in words
        if not about or not isinstance(error, Exception):
            return True
        TROUBLE.note("listening for Celery", error)
        return False


def _is_of_use(record: logging.LogRecord) -> bool:
    """Not what Celery warns of at each reconnect: how a later version will treat running tasks."""
    return "CPendingDeprecationWarning" not in record.getMessage()


def quieten() -> None:
    """From now on."""
    logging.getLogger("py.warnings").addFilter(_is_of_use)
    logging.getLogger(consumer.__name__).addFilter(_BrokerTrouble())
