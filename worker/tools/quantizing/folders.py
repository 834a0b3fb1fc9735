"""The folders of a quantization: one for its tries, and what a try needs beside its graph."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.models.facts import FACTS, Facts, read_facts, write_facts

__all__ = ("filled", "scratch_of")


def filled(folder: Path, source: Path) -> None:
    """A folder that loads as int8, but for its graph."""
    folder.mkdir(exist_ok=True)
    for path in source.iterdir():
        if path.suffix in (".json", ".txt") and path.name != FACTS:
            shutil.copyfile(path, folder / path.name)
    facts = read_facts(source) or Facts("", "onnx", "fp32", "")
    write_facts(
        folder, Facts(facts.handler, "onnx", "int8", facts.weights, facts.inputs, facts.outputs)
    )


@contextmanager
def scratch_of(target: Path) -> Iterator[Path]:
    """Beside the target, under a name that nothing loads; what a killed run left is removed."""
    folder = target.parent / f".{target.name}.quantizing"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
