"""The texts of `lanefleet new`: a handler for each kind of input, its catalog entry, its test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import yaml

__all__ = ("KINDS", "Names", "entry_of", "handler_of", "text_of_test")


class Names(NamedTuple):
    """What a new model is called."""

    model: str
    module: str
    kind: str
    """The class."""


class _Kind(NamedTuple):
    imports: str
    about: str
    decode: str
    infer: str
    encode: str
    example: str
    inputs: str
    """For the test: a list of inputs of unlike sizes."""
    test_imports: str = ""
    test_packages: str = ""


_HANDLER = '''\
"""{about} Put your own model in its place.

What each verb must do is in docs/models.md.
"""

{imports}from common.errors import InvalidInput


class {kind}:
    def load(self, spec, device):  # read weights here, and import torch and the like
        self.scale = float(spec.options.get("scale", 1))

    def decode(self, value, params):  # one job's input to an item
{decode}

    def cost(self, item):  # how much of a batch it takes: tokens, pixels, or 1
        return len(item)

    def infer(self, items):  # a whole batch at once: one output for each item, in order
        return [{infer} for item in items]

    def encode(self, output):  # one output to JSON
        return {encode}

    def example(self):  # an input to warm up with
{example}
'''
_ENTRY = """\
{model}:
  handler: {module}:{kind}   # {module}.py lies beside this file
  input: {input}
  description: {about}
  max_batch: 32
  max_wait_ms: 5
"""
_TEST = '''\
"""{model} by its five verbs, alone and in batches: python -m pytest {module_test}"""

{imports}from pathlib import Path
{packages}
from {module} import {kind}

from common.catalog import load_catalog

{inputs}


def results(model, inputs):
    items = [model.decode(value, {{}}) for value in inputs]
    assert all(model.cost(item) >= 0 for item in items)
    return [model.encode(output) for output in model.infer(items)]


def test_an_input_has_the_same_result_alone_and_in_a_batch():
    model = {kind}()
    model.load(load_catalog(Path(__file__).with_name("{catalog}"))["{model}"], "cpu")
    inputs = [model.example(), *INPUTS]
    assert results(model, inputs) == [results(model, [value])[0] for value in inputs]
'''
_PICTURES = """\

def picture(width, height):
    file = BytesIO()
    Image.linear_gradient("L").resize((width, height)).save(file, "PNG")
    return file.getvalue()


INPUTS = [picture(8, 8), picture(40, 10)]"""
_SOUNDS = """\

def sound(frames):
    file = BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, 2, 16000, 0, "NONE", ""))
        wav.writeframes(bytes([16, 0]) * frames)
    return file.getvalue()


INPUTS = [sound(160), sound(1000)]"""

KINDS: Mapping[str, _Kind] = {
    "text": _Kind(
        imports="",
        about="Counts the words of a text.",
        decode="""\
        words = value.split()
        if not words:
            raise InvalidInput("the text has no words; send at least one")
        return words""",
        infer="self.scale * len(item)",
        encode='{"words": output}',
        example='        return "A few words."',
        inputs='INPUTS = ["One", "Two words", "And some more words than that"]',
    ),
    "json": _Kind(
        imports="",
        about="Adds up a list of numbers.",
        decode="""\
        if not isinstance(value, list) or not all(isinstance(one, int | float) for one in value):
            raise InvalidInput("expected a list of numbers, such as [1, 2.5]")
        return value""",
        infer="self.scale * sum(item)",
        encode='{"sum": output}',
        example="        return [1, 2.5]",
        inputs="INPUTS = [[], [3], [1, 2, 3, 4]]",
    ),
    "image": _Kind(
        imports="from io import BytesIO\n\nfrom PIL import Image\n\n",
        about="Tells how bright a picture is.",
        decode="""\
        try:
            return Image.open(BytesIO(value)).convert("L").tobytes()
        except OSError as exc:
            raise InvalidInput(f"the picture cannot be read: {exc}") from exc""",
        infer="self.scale * sum(item) / len(item)",
        encode='{"brightness": round(output / 255, 4)}',
        example="""\
        Image.new("L", (16, 9), 128).save(file := BytesIO(), "PNG")
        return file.getvalue()""",
        inputs=_PICTURES,
        test_imports="from io import BytesIO\n",
        test_packages="\nfrom PIL import Image\n",
    ),
    "audio": _Kind(
        imports="import wave\nfrom io import BytesIO\n\n",
        about="Tells how long a sound is.",
        decode="""\
        try:
            with wave.open(BytesIO(value)) as wav:
                return wav.readframes(wav.getnframes())
        except (wave.Error, EOFError) as exc:
            raise InvalidInput(f"the sound is no WAV: {exc}") from exc""",
        infer="self.scale * len(item) / 32000",
        encode='{"seconds": round(output, 3)}',
        example="""\
        with wave.open(file := BytesIO(), "wb") as wav:
            wav.setparams((1, 2, 16000, 0, "NONE", ""))
            wav.writeframes(bytes(3200))
        return file.getvalue()""",
        inputs=_SOUNDS,
        test_imports="import wave\nfrom io import BytesIO\n",
    ),
}


def handler_of(names: Names, kind: str) -> str:
    """The module."""
    one = KINDS[kind]
    return _HANDLER.format(
        about=one.about,
        imports=one.imports,
        kind=names.kind,
        decode=one.decode,
        infer=one.infer,
        encode=one.encode,
        example=one.example,
    )


def entry_of(names: Names, kind: str) -> str:
    """The catalog entry, its name at the beginning of a line."""
    about = KINDS[kind].about
    # `no` and `null` are words of YAML, which a name in quotes is not.
    plain = yaml.safe_load(names.model) == names.model
    return _ENTRY.format(
        model=names.model if plain else f'"{names.model}"',
        module=names.module,
        kind=names.kind,
        input=kind,
        about=about,
    )


def text_of_test(names: Names, kind: str, catalog: str) -> str:
    """The test; catalog is the name of the file beside it."""
    return _TEST.format(
        model=names.model,
        module=names.module,
        module_test=f"test_{names.module}.py",
        kind=names.kind,
        imports=KINDS[kind].test_imports,
        packages=KINDS[kind].test_packages,
        inputs=KINDS[kind].inputs,
        catalog=catalog,
    )
