"""The Model protocol: what a handler must do to be served.

Five verbs, called in this order. `load` runs once, on a thread of its own and
before all others, while other models go on; `decode`, `cost` and `encode` may run
on any thread and must not touch the device; `infer` runs only on the device thread
and gets one batch.

Two more, for those who have them: `example()` returns an input as `decode` takes it,
with which the model is warmed up before it counts as ready (the catalog's `warm_up`
goes before it); `unload()` frees what dropping the object would not. And one word,
`pads = False`, for those whose batches cost what their items cost together, because
nothing in them is padded to the largest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from common.catalog import ModelSpec
from worker.transfer import Later

VERBS = ("load", "decode", "cost", "infer", "encode")

Json = Any
"""Any value that JSON can carry: None, bool, int, float, str, list, dict."""


class Model(Protocol):
    """What a handler class offers. It is constructed without arguments."""

    def load(self, spec: ModelSpec, device: str) -> None:
        """Read weights and get ready.

        device is "cpu", "cuda:0" or "mps". Raise ConfigurationError with a
        sentence that says what to install or change when that cannot be done.
        """

    def decode(self, value: Any, params: Mapping[str, Any]) -> Any:
        """Turn one job's input into an item for `infer`.

        value is str for `input: text` models, the encoded image's bytes for
        `input: image`, and the parsed JSON value for `input: json`.
        Raise InvalidInput with a sentence that says what to send instead.
        """

    def cost(self, item: Any) -> float:
        """Say what the item adds to a batch: tokens, pixels, or 1.

        Items of like cost are put together, and a batch's padded cost
        (largest cost times count; their sum where nothing is padded) stays
        under the spec's `max_cost`.
        """

    def infer(self, items: Sequence[Any]) -> Sequence[Any] | Later:
        """Run one batch. Return one output per item, in order.

        On a device that works by itself it may return a `Later` (see `worker.transfer`):
        then the next batch is put together and started while this one runs.
        """

    def encode(self, output: Any) -> Json:
        """Turn one output into JSON that a client reads. NaN is refused."""
