"""Thirty things that a model may raise, and a model that makes a mistake where it is told to."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from common.catalog import ModelSpec
from common.errors import FleetError, InferenceFailed


class Mute(Exception):
    """Does not say what it is."""

    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


class MuteForGood(Exception):
    """Ends the program when asked what it is."""

    def __str__(self) -> str:
        raise SystemExit(4)

    __repr__ = __str__


class NoText(Exception):
    """What it says is no text."""

    def __str__(self) -> str:
        return 7  # type: ignore[return-value]


class OddText(str):
    """A text that cannot be encoded by its own method."""

    __slots__ = ()

    def encode(self, *_: Any, **__: Any) -> bytes:
        raise RuntimeError("not encoded")


class SaysOddText(Exception):
    """Says such a text."""

    def __str__(self) -> str:
        return OddText("odd")


class Nameless(type):
    """A class whose name cannot be read."""

    @property
    def __name__(cls) -> str:
        raise RuntimeError("no name")


class NoName(Exception, metaclass=Nameless):
    """An error without a name."""


class Liar(Exception):
    """Says that it is of another class."""

    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise RuntimeError("no class")


class NoTruth(Exception):
    """Neither true nor false."""

    def __bool__(self) -> bool:
        raise RuntimeError("who knows")


class OddCode(FleetError):
    """One of ours with a code that is no text."""

    code = None  # type: ignore[assignment]


class OddVerdict(InferenceFailed):
    """One of ours that cannot say whether it may be retried."""

    @property
    def retryable(self) -> bool:  # type: ignore[override]
        raise RuntimeError("who knows")


class Unpicklable(Exception):
    """Cannot be sent to another process."""

    def __init__(self) -> None:
        super().__init__(threading.Lock())

    def __reduce__(self) -> Any:
        raise TypeError("cannot be pickled")


class Bare(BaseException):
    """Not an Exception."""


def _recurse() -> None:
    _recurse()


def _raise_in_a_circle() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def _raise(make: Callable[[], BaseException]) -> Callable[[], None]:
    def act() -> None:
        raise make()

    return act


RAISES: dict[str, Callable[[], None]] = {
    "ValueError": _raise(lambda: ValueError("wrong")),
    "KeyError": _raise(lambda: KeyError("key")),
    "AssertionError": _raise(AssertionError),
    "NotImplementedError": _raise(NotImplementedError),
    "OSError": _raise(lambda: OSError(28, "No space left on device")),
    "TimeoutError": _raise(TimeoutError),
    "MemoryError": _raise(MemoryError),
    "RecursionError": _recurse,
    "StopIteration": _raise(lambda: StopIteration("value")),
    "StopAsyncIteration": _raise(StopAsyncIteration),
    "GeneratorExit": _raise(GeneratorExit),
    "KeyboardInterrupt": _raise(KeyboardInterrupt),
    "SystemExit": lambda: sys.exit(1),
    "SystemExit 0": lambda: sys.exit(0),
    "CancelledError": _raise(asyncio.CancelledError),
    "Bare": _raise(Bare),
    "ExceptionGroup": _raise(lambda: ExceptionGroup("two", [ValueError(1), TypeError(2)])),
    "BaseExceptionGroup": _raise(lambda: BaseExceptionGroup("exits", [SystemExit(1)])),
    "UnicodeEncodeError": lambda: print("\ud800".encode()),
    "ValueError surrogates": _raise(lambda: ValueError("\ud800 \x00 \u2028")),
    "ValueError huge": _raise(lambda: ValueError("x" * 3_000_000)),
    "ValueError circle": _raise_in_a_circle,
    "ConnectionError": _raise(lambda: RedisConnectionError("the model's own Redis")),
    "Mute": _raise(Mute),
    "MuteForGood": _raise(MuteForGood),
    "NoText": _raise(NoText),
    "SaysOddText": _raise(SaysOddText),
    "NoName": _raise(NoName),
    "Liar": _raise(Liar),
    "NoTruth": _raise(NoTruth),
    "OddCode": _raise(lambda: OddCode("ours, oddly")),
    "OddVerdict": _raise(lambda: OddVerdict("ours, oddly")),
    "Unpicklable": _raise(Unpicklable),
}


class Waits(threading.Event):
    """What a verb that hangs waits for; set at a test's end, so that its thread ends."""


HANG = Waits()


def act(mistake: str) -> None:
    """Make this mistake."""
    if mistake == "hang":
        HANG.wait(60)
    else:
        RAISES[mistake]()


class Mistaken:
    """Makes mistakes: options `{verb: mistake}` in load, example and unload; in the others, a job's
    params do. An output is what `params.output` names, of OUTPUTS.
    """

    def load(self, spec: ModelSpec, device: str) -> None:
        self._mistakes: Mapping[str, str] = spec.options
        self._act("load")

    def example(self) -> Any:
        self._act("example")
        return "example"

    def decode(self, value: Any, params: Mapping[str, Any]) -> Mapping[str, Any]:
        item = {**self._mistakes, **params, "value": value}
        if "decode" in params:
            act(params["decode"])
        return item

    def cost(self, item: Mapping[str, Any]) -> Any:
        if "cost" in item:
            act(item["cost"])
        return COSTS[item["costs"]] if "costs" in item else 1.0

    def infer(self, items: Sequence[Mapping[str, Any]]) -> Any:
        for item in items:
            if "infer" in item:
                act(item["infer"])
        named = [item["returns"] for item in items if "returns" in item]
        return RETURNS[named[0]](items) if named else list(items)

    def encode(self, output: Mapping[str, Any]) -> Any:
        if "encode" in output:
            act(output["encode"])
        return OUTPUTS[output["output"]]() if "output" in output else output["value"]

    def unload(self) -> None:
        self._act("unload")

    def _act(self, verb: str) -> None:
        if verb in self._mistakes:
            act(self._mistakes[verb])


class _Table:
    """As a DataFrame: gives the names of its columns."""

    shape = (1, 1)

    def keys(self) -> list[str]:
        return ["column"]

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Any:
        return iter(["column"])


class _Lying(list[Any]):
    """Has another length than it says."""

    def __iter__(self) -> Any:
        return iter(())


def _one_too_few(items: Sequence[Any]) -> list[Any]:
    return list(items)[1:]


RETURNS: dict[str, Callable[[Sequence[Any]], Any]] = {
    "None": lambda items: None,
    "a dict": lambda items: dict(enumerate(items)),
    "a str": lambda items: "x" * len(items),
    "bytes": lambda items: b"x" * len(items),
    "a bytearray": lambda items: bytearray(len(items)),
    "a set": lambda items: set(range(len(items))),
    "a generator": lambda items: (item for item in items),
    "a map": lambda items: map(str, items),
    "values": lambda items: dict(enumerate(items)).values(),
    "a number": lambda items: 1,
    "a table": lambda items: _Table(),
    "an array of nothing": lambda items: __import__("numpy").array(1.0),
    "one too few": _one_too_few,
    "one too many": lambda items: [*items, None],
    "a lying list": lambda items: _Lying(items),
}
COSTS: dict[str, Any] = {
    "nan": float("nan"),
    "infinity": float("inf"),
    "negative": -1,
    "text": "many",
    "None": None,
    "complex": 1j,
    "a list": [1],
}


def _array(*values: float, kind: str = "float32") -> Any:
    import numpy as np

    return np.array(values, kind)


def _circle() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def _deep() -> list[Any]:
    found: list[Any] = []
    for _ in range(10_000):
        found = [found]
    return found


def _tensor() -> Any:
    class Tensor:
        """As torch's: no JSON."""

    return Tensor()


NAN, INF = float("nan"), float("inf")
OUTPUTS: dict[str, Callable[[], Any]] = {
    "nan": lambda: NAN,
    "infinity": lambda: -INF,
    "nan nested": lambda: {"a": [1, {"b": (NAN, None)}]},
    "array": lambda: _array(1, NAN),
    "array nested": lambda: {"embedding": _array(INF, 0), "also": None},
    "float16": lambda: {"e": _array(NAN, kind="float16")},
    "float64": lambda: [_array(NAN, kind="float64")],
    "scalar": lambda: _array(NAN)[0],
    "scalar nested": lambda: [[_array(1, INF, kind="float64")[1]]],
    "scalar float16": lambda: {"s": _array(NAN, kind="float16")[0]},
    "a tensor": _tensor,
    "an object": lambda: object(),
    "a set": lambda: {1, 2},
    "bytes": lambda: b"x",
    "a circle": _circle,
    "too deep": _deep,
    "a huge number": lambda: 2**70,
    "a complex number": lambda: 1j,
    "keys that are numbers": lambda: {1: 2},
    "surrogates": lambda: "\ud800",
    "a generator": lambda: (n for n in range(3)),
    "a class": lambda: Mistaken,
}
