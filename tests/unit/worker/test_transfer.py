"""Copies beside the computing: the plain way, and the order of events on CUDA by a stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from worker import transfer  # noqa: E402
from worker.transfer import CudaTransfer, Later, open_transfer  # noqa: E402


def rows_of(array: Any) -> list[list[float]]:
    return [[float(value) for value in row] for row in array]


def test_on_a_cpu_both_ways_are_done_at_once() -> None:
    plain = open_transfer("cpu")
    there = plain.put([np.float32([1, 2]), np.float32([3, 4])])
    assert plain.get(there * 2, rows_of) == [[2, 4], [6, 8]]


class Cuda:
    """Stands in for torch.cuda: events are over when the test says so, and a log is kept."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.on = "compute"
        self.finished = False
        self.pinned = 0

    def Stream(self, _device: str) -> Any:
        return FakeStream(self, "copies")

    def Event(self, **_: Any) -> Any:
        return FakeEvent(self)

    def current_stream(self, _device: str) -> Any:
        return FakeStream(self, self.on)

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.on = self.on, stream.name
        yield
        self.on = before

    def allocate(self, shape: Any, dtype: Any) -> Any:
        self.pinned += 1
        return torch.empty(tuple(shape), dtype=dtype)


class FakeStream:
    def __init__(self, cuda: Cuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_event(self, event: Any) -> None:
        assert event.recorded_on is not None, "waiting for an event that nobody recorded"
        self.cuda.log.append(f"{self.name} waits for {event.recorded_on}")


class FakeEvent:
    def __init__(self, cuda: Cuda) -> None:
        self.cuda, self.recorded_on, self.waited = cuda, None, False

    def record(self, stream: Any) -> None:
        self.recorded_on = stream.name
        self.cuda.log.append(f"event on {stream.name}")

    def query(self) -> bool:
        return self.cuda.finished or self.waited

    def synchronize(self) -> None:
        self.waited = True
        self.cuda.log.append(f"wait for {self.recorded_on}")

    def elapsed_time(self, _end: Any) -> float:
        return 12.0


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    fake = Cuda()
    for name in ("Stream", "Event", "current_stream", "stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    monkeypatch.setattr(transfer, "_pinned", fake.allocate)
    send = torch.Tensor.to

    def to(tensor: Any, *where: Any, non_blocking: bool = False) -> Any:
        fake.log.append(f"send on {fake.on}, {'beside' if non_blocking else 'waiting'}")
        return send(tensor, "cpu").clone()

    def record_stream(_tensor: Any, stream: Any) -> None:
        fake.log.append(f"kept for {stream.name}")

    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "record_stream", record_stream)
    return fake


def batch(*values: float) -> list[Any]:
    return [np.float32([value, value]) for value in values]


def test_a_batch_is_sent_on_a_stream_of_its_own_that_the_computing_waits_for(cuda: Cuda) -> None:
    there = CudaTransfer("cuda:0").put(batch(1, 2, 3))
    assert there.tolist() == [[1, 1], [2, 2], [3, 3]]
    assert cuda.log == [
        "send on copies, beside",
        "event on copies",
        "compute waits for copies",
        "kept for compute",
        "event on compute",  # from here on the batch has the device
    ]


def test_results_are_read_only_once_the_device_is_done(cuda: Cuda) -> None:
    cuda_transfer = CudaTransfer("cuda:0")
    later = cuda_transfer.get(cuda_transfer.put(batch(1, 2)) * 10, rows_of)
    assert isinstance(later, Later)
    assert "wait for compute" not in cuda.log
    assert not later.done()
    assert later.wait() == [[10, 10], [20, 20]]
    assert cuda.log[-1] == "wait for compute"
    assert later.device_seconds() == 0.012


def test_pinned_memory_is_used_again_but_never_while_a_copy_reads_it(cuda: Cuda) -> None:
    cuda_transfer = CudaTransfer("cuda:0")
    cuda_transfer.put(batch(1, 2))
    cuda_transfer.put(batch(3, 4))
    assert cuda.pinned == 2, "the first copy may still be going on"
    cuda.finished = True
    for size in (2, 1, 2):
        cuda_transfer.put(batch(*range(size)))
    assert cuda.pinned == 2


def test_results_in_flight_do_not_share_memory(cuda: Cuda) -> None:
    cuda_transfer = CudaTransfer("cuda:0")
    first = cuda_transfer.get(torch.ones(2, 2), rows_of)
    second = cuda_transfer.get(torch.zeros(2, 2), rows_of)
    assert isinstance(first, Later)
    assert isinstance(second, Later)
    assert first.wait() == [[1, 1], [1, 1]]
    third = cuda_transfer.get(torch.full((2, 2), 3.0), rows_of)
    assert second.wait() == [[0, 0], [0, 0]]
    assert isinstance(third, Later)
    assert third.wait() == [[3, 3], [3, 3]]
    assert cuda.pinned == 2


def test_a_larger_batch_gets_larger_memory_and_spare_memory_is_bounded(cuda: Cuda) -> None:
    cuda.finished = True
    cuda_transfer = CudaTransfer("cuda:0")
    for size in range(1, 40):
        cuda_transfer.put(batch(*range(size)))
    assert cuda.pinned == 7, "1, 2, 4, ... 64"
    for width in range(1, 40):
        cuda_transfer.put([np.zeros(width, np.uint8)])
    assert len(cuda_transfer._spare) <= 8
