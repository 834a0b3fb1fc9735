"""From a job's input to the arrays of an ONNX file: pictures, texts, or named arrays.

Each kind tells what it feeds, so that a file which takes something else is refused at load.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigurationError, InvalidInput
from worker.models.embedding_session import padded, runs_of
from worker.models.graph.options import ImageOptions, TextOptions
from worker.models.images import (
    RGB,
    centre_crop,
    example_jpeg,
    normalise,
    open_image,
    prepared_rgb,
)
from worker.models.prepared import PREPARED
from worker.models.sessions import Port
from worker.models.token_window import Tokens, TokenWindow

__all__ = ("Arrays", "Item", "Pictures", "Prepared", "Texts")

SENTENCE = "A sentence of about twenty words, as long as most that come, to warm a model up with."


@dataclass(frozen=True, slots=True)
class Item:
    """A job's input, ready to be fed."""

    arrays: Mapping[str, NDArray[Any]]
    """By the input's name, without the batch's axis; of a text there are none."""
    ids: Sequence[int] = ()
    truncated: bool = False
    top_k: int = 0


class Prepared(Protocol):
    """One kind of input."""

    names: tuple[str, ...]
    """The inputs that it feeds."""

    def item(self, value: Any) -> Item:
        """Raises InvalidInput."""

    def cost(self, item: Item) -> float:
        """Pixels, tokens, or numbers."""

    def groups(self, items: Sequence[Item]) -> Iterator[list[int]]:
        """Which of them may run together, so that none changes another's result."""

    def feeds(self, items: Sequence[Item]) -> dict[str, NDArray[Any]]:
        """One group's arrays."""

    def example(self) -> Any:
        """An input to warm up with."""


class _Stacked:
    """Items of equal shapes run together, one upon the other."""

    def cost(self, item: Item) -> float:
        """The numbers of its arrays."""
        return float(sum(array.size for array in item.arrays.values()) or 1)

    def groups(self, items: Sequence[Item]) -> Iterator[list[int]]:
        """Those of equal shapes."""
        by_shape: dict[tuple[Any, ...], list[int]] = {}
        for index, item in enumerate(items):
            shape = tuple(array.shape for array in item.arrays.values())
            by_shape.setdefault(shape, []).append(index)
        yield from by_shape.values()

    def feeds(self, items: Sequence[Item]) -> dict[str, NDArray[Any]]:
        """All of a name in one array."""
        return {name: np.stack([item.arrays[name] for item in items]) for name in items[0].arrays}


class Pictures(_Stacked):
    """Pictures of one size."""

    def __init__(self, options: ImageOptions, dtype: str) -> None:
        self.names: tuple[str, ...] = (options.name,)
        self._options = options
        self._dtype = dtype
        PREPARED.join(self, RGB)

    def item(self, value: Any) -> Item:
        """The picture upright, scaled, and normalised."""
        options = self._options
        image = open_image(value, max_pixels=options.max_pixels)
        shorter, size = options.shorter_side, options.size
        if shorter is not None and isinstance(size, int):
            rgb = prepared_rgb(value, image, target=(shorter, shorter))
            pixels = centre_crop(rgb, shorter_side=shorter, crop=size)
        else:
            height, width = (size, size) if isinstance(size, int) else size
            rgb = prepared_rgb(value, image, target=(width, height))
            pixels = np.asarray(rgb.resize((width, height), _bilinear()))
        if options.channels == "bgr":
            pixels = pixels[:, :, ::-1]
        planes: NDArray[Any] = normalise(pixels, options.mean, options.std)
        if options.layout == "hwc":
            planes = np.ascontiguousarray(planes.transpose(1, 2, 0))
        return Item({options.name: planes.astype(self._dtype, copy=False)})

    def example(self) -> Any:
        """A small picture."""
        return example_jpeg()


class Arrays(_Stacked):
    """Named arrays, as JSON has them."""

    def __init__(self, ports: Sequence[Port], max_elements: int) -> None:
        self.names: tuple[str, ...] = tuple(port.name for port in ports)
        self._ports = ports
        self._max_elements = max_elements

    def item(self, value: Any) -> Item:
        """The arrays in the types of the file. Raises InvalidInput with the name of the array."""
        if not isinstance(value, Mapping) or set(value) != set(self.names):
            raise InvalidInput(
                f"expected an object of the arrays {', '.join(map(str, self._ports))}, each "
                "without the first axis, which is the batch's"
            )
        return Item({port.name: self._array(port, value[port.name]) for port in self._ports})

    def _array(self, port: Port, value: Any) -> NDArray[Any]:
        try:
            found = np.asarray(value)
        except ValueError as exc:
            raise InvalidInput(f"{port.name} is no array: its lists are of unlike lengths") from exc
        if found.size > self._max_elements:
            raise InvalidInput(f"{port.name} has more than {self._max_elements:,} numbers")
        wanted = port.shape[1:]
        if found.ndim != len(wanted) or any(
            side not in (None, came) for side, came in zip(wanted, found.shape, strict=True)
        ):
            raise InvalidInput(f"{port} takes {_sides(wanted)} a job, not {_sides(found.shape)}")
        if found.dtype.kind not in "biuf":
            raise InvalidInput(f"{port.name} must have numbers only")
        with np.errstate(all="ignore"):
            made = found.astype(port.dtype)
        exact = made.dtype.kind == "f" or np.array_equal(made, found)
        if not exact or not np.isfinite(made).all():
            raise InvalidInput(f"{port.name} has a number that is none of {port.dtype}")
        return made

    def example(self) -> Any:
        """Zeros."""
        return {
            port.name: np.zeros([side or 1 for side in port.shape[1:]]).tolist()
            for port in self._ports
        }


class Texts:
    """Texts as tokens; with a mask those of like lengths run together, else of equal ones."""

    def __init__(self, model: str, options: TextOptions, folder: Path, dtype: str) -> None:
        from tokenizers import Tokenizer

        path = folder / options.tokenizer
        if not path.is_file():
            raise ConfigurationError(
                f"models.{model}.options.text.tokenizer: there is no {path}; put the model's "
                "tokenizer.json beside the graph"
            )
        try:
            tokenizer = Tokenizer.from_file(str(path))
            self._window = TokenWindow(tokenizer, options.max_tokens, options.max_characters)
        except Exception as exc:
            raise ConfigurationError(
                f"models.{model}.options.text.tokenizer: {path} must be a tokenizer.json that puts "
                f"one token before a text and one behind it, as BERT's: {exc}"
            ) from exc
        self._options = options
        self._dtype = dtype
        self.names: tuple[str, ...] = tuple(
            filter(None, (options.ids, options.mask, options.types))
        )

    def item(self, value: Any) -> Item:
        """Its tokens."""
        if not isinstance(value, str):
            raise InvalidInput("expected one text (a string) per job")
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            raise InvalidInput(f"the text is not valid Unicode: {exc.reason}") from exc
        found: Tokens = self._window.tokens(value)
        return Item({}, found.ids, found.truncated)

    def cost(self, item: Item) -> float:
        """Its tokens."""
        return float(len(item.ids))

    def groups(self, items: Sequence[Item]) -> Iterator[list[int]]:
        """Of like lengths; of equal ones without a mask."""
        order = sorted(range(len(items)), key=lambda index: len(items[index].ids))
        if self._options.mask is None:
            yield from (list(one) for _, one in groupby(order, lambda at: len(items[at].ids)))
        else:
            for first, end in runs_of([len(items[index].ids) for index in order]):
                yield order[first:end]

    def feeds(self, items: Sequence[Item]) -> dict[str, NDArray[Any]]:
        """Padded with zeros, which the mask tells."""
        made = padded([item.ids for item in items])
        ids = made["input_ids"].astype(self._dtype, copy=False)
        feeds = {self._options.ids: ids}
        if self._options.mask is not None:
            feeds[self._options.mask] = made["attention_mask"].astype(self._dtype, copy=False)
        if self._options.types is not None:
            feeds[self._options.types] = np.zeros_like(ids)
        return feeds

    def example(self) -> Any:
        """A sentence."""
        return SENTENCE


def _bilinear() -> Any:
    from PIL.Image import Resampling

    return Resampling.BILINEAR


def _sides(shape: Sequence[int | None]) -> str:
    return " x ".join("any" if side is None else str(side) for side in shape) or "one number"
