"""What the fleet says of itself before and after a stage: its models, batch sizes, devices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from api.client import ApiError, Client
from common.errors import ConfigurationError
from common.worker_report import DeviceTimes, LaneReport, WorkerReport

_PREFERRED = ("text", "image", "json")


@dataclass(frozen=True, slots=True)
class Ran:
    """What workers did between two readings."""

    batches: Mapping[int, int]
    """Number by size, of the lane."""
    device_busy: float | None


def choose_model(client: Client, name: str | None, wanted: str | None) -> tuple[str, str]:
    """The model to load and what it takes.

    wanted is what the inputs given are for, where any were. Without a name it is the first loaded
    model that takes that, or a text, an image, else JSON. Raises ConfigurationError.
    """
    models: list[dict[str, Any]] = client.list_models()
    if name is not None:
        found = next((one for one in models if one["name"] == name), None)
        if found is None:
            known = ", ".join(one["name"] for one in models)
            raise ConfigurationError(f"no model {name!r}; the fleet serves {known or 'none'}")
        return found["name"], found["input"]
    ready = [one for one in models if one["loaded_by"]] or models
    for kind in (wanted,) if wanted else _PREFERRED:
        for one in ready:
            if one["input"] == kind:
                return one["name"], kind
    raise ConfigurationError(
        f"the fleet serves no model that takes {wanted or 'anything'}; name one with --model"
    )


def read_workers(client: Client) -> list[WorkerReport] | None:
    """The workers' reports; None where the key may not read them, or they cannot be had."""
    try:
        return [WorkerReport.of(one) for one in client.list_workers()]
    except (ApiError, httpx.HTTPError):
        return None


def ran_between(
    before: Sequence[WorkerReport] | None, after: Sequence[WorkerReport] | None, lane: str
) -> Ran | None:
    """Batches of the lane and the devices' busy share between two readings; None without them."""
    if before is None or after is None:
        return None
    earlier = {(one.worker, one.pid): one for one in before}
    batches: Counter[int] = Counter()
    busy: list[float] = []
    for report in after:
        if lane not in report.lanes:
            continue
        old = earlier.get((report.worker, report.pid))
        then = old.lanes.get(lane, LaneReport()) if old else LaneReport()
        for size, count in report.lanes[lane].batches.items():
            batches[int(size)] += count - then.batches.get(size, 0)
        was = (old.device_time if old else None) or DeviceTimes()
        now = report.device_time or DeviceTimes()
        if now.seconds > was.seconds:
            busy.append((now.busy - was.busy) / (now.seconds - was.seconds))
    return Ran(+batches, sum(busy) / len(busy) if busy else None)
