"""Sentences to learn from: those that the installed packages' own documentation has.

    python -m tests.benchmarks.texts FILE.txt [--most 20000]

Docstrings and the long descriptions of packages, a sentence a line, each once; so that a student
can be distilled with nothing fetched.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import re
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_PLAIN = re.compile(r"^[A-Z][\w ,;:'\"()\-/%.]+[.!?]$")


def sentences(most: int) -> list[str]:
    """In the order of their digests, so that any part of them is a fair one."""
    found: dict[str, None] = {}
    for distribution in distributions():
        for text in _texts(distribution):
            for one in _sentences_of(text):
                found[one] = None
    ordered = sorted(found, key=lambda one: hashlib.sha256(one.encode()).digest())
    return ordered[:most]


def _texts(distribution: object) -> Iterator[str]:
    yield str(distribution.metadata.get_payload() or "")  # type: ignore[attr-defined]
    for file in distribution.files or ():  # type: ignore[attr-defined]
        if file.suffix != ".py":
            continue
        try:
            tree = ast.parse(Path(str(file.locate())).read_text(encoding="utf-8"))
        except (OSError, ValueError, SyntaxError, RecursionError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield ast.get_docstring(node) or ""


def _sentences_of(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        for one in _SENTENCE.split(" ".join(paragraph.split())):
            words = one.split()
            if 6 <= len(words) <= 40 and _PLAIN.match(one):
                yield one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--most", type=int, default=20_000)
    given = parser.parse_args()
    found = sentences(given.most)
    given.file.write_text("".join(f"{one}\n" for one in found), encoding="utf-8")
    print(f"{len(found)} sentences in {given.file}")


if __name__ == "__main__":
    main()
