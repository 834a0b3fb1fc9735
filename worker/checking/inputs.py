"""The inputs that a model is checked on: its own, the catalog's samples, and made-up ones."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.catalog import ModelSpec
from common.errors import InvalidInput
from worker.checking.fault import Fault
from worker.checking.verbs import Verbs
from worker.models.generator import is_generator
from worker.models.samples import read_samples
from worker.models.weights import located

__all__ = ("Inputs", "gather", "samples_at")

_MOST_SAMPLES = 16
_TEXTS = ("One", "Two short words here, and a few more.", "A longer text. " * 12, "Long " * 80)
_JSON: tuple[Any, ...] = ("a text", [1, 2], {"text": "a text"})
"""Where there is nothing else."""
_SIZES = ((64, 48), (48, 200), (300, 225))


@dataclass(slots=True)
class Inputs:
    """Items, as `decode` returned them, of several sizes where the input has any."""

    items: list[Any] = field(default_factory=list)
    examples: int = 0
    samples: int = 0
    made_up: int = 0

    def typical(self) -> list[Any]:
        """Those that stand for what comes: the samples, else the example, else all."""
        if self.samples:
            return self.items[self.examples : self.examples + self.samples]
        return self.items[: self.examples] or self.items

    def text(self) -> str:
        """What they are, for a report."""
        kinds = {"example": self.examples, "samples": self.samples, "made up": self.made_up}
        return ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)


def samples_at(spec: ModelSpec) -> Path | None:
    """Where the catalog's samples are; a relative path begins as that of weights does."""
    if spec.samples is None:
        return None
    return located(spec.samples) or Path(spec.samples)


def gather(verbs: Verbs) -> Inputs:
    """Raises Fault where the model's own example, or none at all, can be decoded."""
    spec, found = verbs.spec, Inputs()
    example = example_of(verbs)
    if example is not None:
        try:
            found.items.append(verbs.decode(example))
        except InvalidInput as exc:
            what = f"decode refuses the model's own example: {exc}"
            raise Fault(what, "example", verbs.place("example")) from exc
        found.examples = 1
    if path := samples_at(spec):
        items = [verbs.decode(one) for one in read_samples(path, spec.input, _MOST_SAMPLES)]
        found.items += items
        found.samples = len(items)
    if not is_generator(verbs.handler):
        values = _made_up(spec.input) if found.items or spec.input != "json" else _JSON
        for value in values:
            with suppress(InvalidInput):  # it need not take what nobody sends it
                found.items.append(verbs.decode(value))
                found.made_up += 1
    if not found.items:
        raise Fault(
            "there is no input to check it on: give it `example()`, or its catalog entry "
            "`warm_up:` or `samples:`",
            "example",
        )
    return found


def example_of(verbs: Verbs) -> Any:
    """The catalog's `warm_up`, else the handler's `example()`; None where there is neither."""
    if verbs.spec.warm_up is not None:
        return verbs.spec.warm_up
    make = getattr(verbs.handler, "example", None)
    return verbs.run("example", make) if callable(make) else None


def _made_up(kind: str) -> Iterator[Any]:
    if kind == "text":
        yield from _TEXTS
    elif kind == "image":
        with suppress(ImportError):
            from PIL import Image

            ramp = Image.linear_gradient("L")
            for size in _SIZES:
                ramps = (
                    ramp.resize(size),
                    ramp.rotate(90).resize(size),
                    ramp.rotate(45).resize(size),
                )
                buffer = io.BytesIO()
                Image.merge("RGB", ramps).save(buffer, "PNG")
                yield buffer.getvalue()
