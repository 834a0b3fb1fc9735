"""A stock Celery application that knows nothing of Lanefleet, for its worker and its clients."""

import os

from celery import Celery

app = Celery(
    "stock", broker=os.environ.get("STOCK_REDIS_URL"), backend=os.environ.get("STOCK_REDIS_URL")
)
app.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)


@app.task(name="stock.add")
def add(*values):
    """The sum."""
    return sum(values)


@app.task(name="stock.total")
def total(values):
    """The sum of a list."""
    return sum(values)


@app.task(name="stock.note")
def note(value, key="notes"):
    """Write the value down, where the test looks."""
    app.backend.client.rpush(f"stock:{key}", str(value))
    return value


@app.task(name="stock.fail")
def fail(*_values):
    """Fail."""
    raise ValueError("on purpose")


@app.task(name="stock.refused")
def refused(task_id):
    """An old-style errback: gets the failed task's id."""
    app.backend.client.rpush("stock:refused", task_id)


@app.task(name="stock.told")
def told(request, exc=None, traceback=None):
    """A new-style errback; a worker that has not its code sends it the id only."""
    app.backend.client.rpush("stock:told", f"{getattr(request, 'id', request)} {exc}")
