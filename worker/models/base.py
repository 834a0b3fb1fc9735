"""The Model protocol: the interface that a handler must implement.

Five verbs, called in this order. `load` runs once, on a thread of its own and
before all others, while other models run; `decode`, `cost` and `encode` may run
on any thread and must not touch the device; `infer` runs only on the device thread
and gets one batch.

Two more are optional: `example()` returns an input for `decode`, with which the model is warmed
up before it counts as ready (the catalog's `warm_up` takes precedence); `unload()` frees what
dropping the object would not. And one attribute, `pads = False`, for models whose batches cost
the sum of their items, because nothing in them is padded to the largest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from common.catalog import ModelSpec
from worker.transfer import Later

VERBS = ("load", "decode", "cost", "infer", "encode")

ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "load": ("spec", "device"),
    "decode": ("value", "params"),
    "cost": ("item",),
    "infer": ("items",),
    "encode": ("output",),
}
"""What each verb is called with, in this order."""

Json = Any
"""Any value that JSON can represent: None, bool, int, float, str, list, dict."""


class Model(Protocol):
    """The interface of a handler class. It is constructed without arguments."""

    def load(self, spec: ModelSpec, device: str) -> None:
        """Read weights and get ready.

        device is "cpu", "cuda:0" or "mps". Raise ConfigurationError with a
        sentence that says what to install or change when that cannot be done.
        """

    def decode(self, value: Any, params: Mapping[str, Any]) -> Any:
        """Turn one job's input into an item for `infer`.

        value is str for `input: text` models, the file's bytes for
        `input: image` and `audio`, and the parsed JSON value for `input: json`.
        Raise InvalidInput with a sentence that says what to send instead.
        """

    def cost(self, item: Any) -> float:
        """The item's contribution to the cost of a batch: tokens, pixels, or 1.

        Items of similar cost are batched together, and a batch's padded cost
        (largest cost times count; their sum where nothing is padded) stays
        under the spec's `max_cost`.
        """

    def infer(self, items: Sequence[Any]) -> Sequence[Any] | Later:
        """Run one batch. Return a list, or another sequence, of one output per item, in order.

        On an asynchronous device it may return a `Later` (see `worker.transfer`): then the next
        batch is collated and started while this one runs.
        """

    def encode(self, output: Any) -> Json:
        """Convert one output to the JSON result. NaN and infinity are refused."""
