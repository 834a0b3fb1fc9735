"""Copies between host memory and the device's, overlapped with the device's computing.

On CUDA items are copied through reused pinned buffers, on a stream of their own, and results
are copied back asynchronously: `infer` returns a `Later`, the next batch is collated and sent
meanwhile, and the outputs are built once the device has passed the event behind them. On other
devices both calls are synchronous, so that a handler is written one way.

No GPU was at hand when this was written: the order of events is tested with
a stand-in for `torch.cuda`, the speed is not (tests/benchmarks/gpu.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.errors import text_of

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ("CudaTransfer", "Later", "Transfer", "is_lost", "open_transfer")

_MAX_SPARE = 8
"""Pinned buffers kept for reuse; each holds a batch."""


class Later:
    """Outputs that the device is still computing; `infer` may return it instead of them."""

    def __init__(
        self,
        done: Callable[[], bool],
        outputs: Callable[[], Sequence[Any]],
        device_seconds: Callable[[], float],
    ) -> None:
        self.done = done
        """Whether `wait` would return at once."""
        self.wait = outputs
        """Blocks until the device is done; raises the device's error. Call it once."""
        self.device_seconds = device_seconds
        """The batch's time on the device alone; call it after `wait`."""


def is_lost(error: BaseException) -> bool:
    """Whether the process can no longer use its device: after any CUDA error other than out of
    memory, all later calls fail too.
    """
    text = text_of(error)
    return (
        issubclass(type(error), RuntimeError)
        and text.startswith("CUDA error")
        and "out of memory" not in text
    )


class Transfer:
    """For a device that shares host memory, or whose copies are synchronous (CPU, MPS)."""

    def __init__(self, device: str) -> None:
        self._device = device

    def put(self, arrays: Sequence[NDArray[Any]]) -> Tensor:
        """Copy arrays of one shape and type to the device, as one tensor."""
        import numpy as np
        import torch

        return torch.from_numpy(np.stack(arrays)).to(self._device)

    def get(
        self, results: Tensor, make: Callable[[NDArray[Any]], Sequence[Any]]
    ) -> Sequence[Any] | Later:
        """The outputs that `make` builds from the results: now, or once they have arrived."""
        return make(results.cpu().numpy())


@dataclass(slots=True)
class _Buffer:
    """Pinned memory for one batch, and the event behind its last copy."""

    tensor: Tensor
    copied: torch.cuda.Event

    def part(self, count: int) -> Tensor:
        return self.tensor[:count]


class CudaTransfer(Transfer):
    """For a CUDA device. Call it on the thread that owns the device."""

    def __init__(self, device: str) -> None:
        import torch

        super().__init__(device)
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
        self._spare: deque[_Buffer] = deque(maxlen=_MAX_SPARE)
        self._sending: deque[_Buffer] = deque()
        self._began: torch.cuda.Event | None = None

    def put(self, arrays: Sequence[NDArray[Any]]) -> Tensor:
        """These as one tensor; later work on the current stream waits for its copy."""
        import numpy as np
        import torch

        compute = torch.cuda.current_stream(self._device)
        buffer = self._buffer(arrays[0].shape, torch.from_numpy(arrays[0]).dtype, len(arrays))
        part = buffer.part(len(arrays))
        np.stack(arrays, out=part.numpy())
        with torch.cuda.stream(self._copies):
            there = part.to(self._device, non_blocking=True)
            buffer.copied.record(self._copies)
        self._sending.append(buffer)
        compute.wait_event(buffer.copied)
        there.record_stream(compute)  # its memory is the copy stream's, and used on this one
        if self._began is None:
            self._began = _event()
            self._began.record(compute)
        return there

    def get(
        self, results: Tensor, make: Callable[[NDArray[Any]], Sequence[Any]]
    ) -> Sequence[Any] | Later:
        """The outputs once the device is done; no thread blocks on the copy until then."""
        import torch

        compute = torch.cuda.current_stream(self._device)
        buffer = self._buffer(results.shape[1:], results.dtype, len(results))
        part = buffer.part(len(results))
        part.copy_(results, non_blocking=True)
        buffer.copied.record(compute)
        began, self._began = self._began, None
        ended = buffer.copied

        def outputs() -> Sequence[Any]:
            ended.synchronize()
            rows = part.numpy().copy()
            self._spare.append(buffer)
            return make(rows)

        def device_seconds() -> float:
            return float(began.elapsed_time(ended)) / 1000 if began is not None else 0.0

        return Later(lambda: _is_over(ended), outputs, device_seconds)

    def _buffer(self, shape: Sequence[int], dtype: torch.dtype, count: int) -> _Buffer:
        """The smallest free buffer that holds `count` items of this shape, or a new one.

        It gets a new event, because the old one may still be queried for its time.
        """
        while self._sending and _is_over(self._sending[0].copied):
            self._spare.append(self._sending.popleft())
        fitting = [
            one
            for one in self._spare
            if one.tensor.dtype == dtype
            and tuple(one.tensor.shape[1:]) == tuple(shape)
            and len(one.tensor) >= count
        ]
        if fitting:
            best = min(fitting, key=lambda one: len(one.tensor))
            # By identity: `remove` would compare tensors.
            spare = [one for one in self._spare if one is not best]
            self._spare.clear()
            self._spare.extend(spare)
            return _Buffer(best.tensor, _event())
        capacity = 1 << max(0, count - 1).bit_length()
        return _Buffer(_pinned((capacity, *shape), dtype), _event())


def open_transfer(device: str) -> Transfer:
    """The transfer of this device: "cpu", "mps" or "cuda:0"."""
    return CudaTransfer(device) if device.startswith("cuda") else Transfer(device)


def _event() -> torch.cuda.Event:
    """An event whose waiter sleeps: a core that spins is not available for decoding."""
    import torch

    return torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]


def _is_over(event: torch.cuda.Event) -> bool:
    return bool(event.query())  # type: ignore[no-untyped-call]  # torch's


def _pinned(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    import torch

    return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)
