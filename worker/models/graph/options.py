"""What the catalog's `options:` say of an ONNX file: its inputs, its outputs, both treatments."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.models.images import MAX_PIXELS
from worker.models.token_window import MAX_CHARACTERS

__all__ = ("GraphOptions", "ImageOptions", "ResultOptions", "TextOptions", "read_options")

Triple = tuple[float, float, float]
Side = Annotated[int, Field(ge=1, le=8192)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageOptions(_Strict):
    """How a picture becomes an array."""

    name: str = "pixel_values"
    """Of the input that takes it."""
    size: Side | tuple[Side, Side] = 224
    """A side, or height and width."""
    shorter_side: Side | None = None
    """Scale to this, then cut the middle out; without it the picture is stretched to `size`."""
    mean: Triple = (0.485, 0.456, 0.406)
    std: Triple = (0.229, 0.224, 0.225)
    """Of values between 0 and 1, in the order of `channels`."""
    channels: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["chw", "hwc"] = "chw"
    max_pixels: int = Field(MAX_PIXELS, ge=1)

    @model_validator(mode="after")
    def _crop_is_a_square(self) -> ImageOptions:
        if self.shorter_side is not None and not (
            isinstance(self.size, int) and self.size <= self.shorter_side
        ):
            raise ValueError("with `shorter_side`, `size` is one side, and not more than that")
        if min(self.std) <= 0:
            raise ValueError("`std` must be above 0")
        return self


class TextOptions(_Strict):
    """How a text becomes tokens."""

    ids: str = "input_ids"
    mask: str | None = "attention_mask"
    """null: the file takes none; then only texts of one length run together."""
    types: str | None = None
    """The input of segment numbers, all 0, where the file has one: `token_type_ids`."""
    tokenizer: str = "tokenizer.json"
    """In the weights' folder."""
    max_tokens: int = Field(256, ge=3, le=1_000_000)
    max_characters: int = Field(MAX_CHARACTERS, ge=1)


class ResultOptions(_Strict):
    """What is made of the outputs."""

    kind: Literal["labels", "embedding", "raw"] = "raw"
    output: str | None = None
    """The one that `labels` and `embedding` read; unset is the only one of `outputs`."""
    labels: tuple[str, ...] | str | None = None
    """A list, or a file in the weights' folder: a label a line, a JSON list, or config.json."""
    softmax: bool = True
    """false: the scores are probabilities already."""
    top_k: int = Field(5, ge=1, le=1000)
    pool: Literal["mean", "first", "none"] = "none"
    """Of vectors a token, to one: their mean over the text, or the first."""
    normalize: bool = True
    """To unit length."""


class GraphOptions(_Strict):
    """All of them."""

    outputs: tuple[str, ...] = Field((), description="Those that are used; unset is all.")
    inputs: tuple[str, ...] = Field((), description="json: the arrays a job sends; unset is all.")
    image: ImageOptions = ImageOptions()
    text: TextOptions = TextOptions()
    result: ResultOptions = ResultOptions()
    max_elements: int = Field(10_000_000, ge=1, description="json: most numbers of one array.")
    threads: int | None = Field(None, ge=0)


def read_options(spec: ModelSpec) -> GraphOptions:
    """Raises ConfigurationError with the key."""
    try:
        found = GraphOptions.model_validate(spec.options)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(("options", *map(str, first["loc"])))
        said = first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"models.{spec.name}.{where}: {said}; see docs/models.md") from exc
    for key in ("image", "text", "inputs"):
        kind = "json" if key == "inputs" else key
        if key in spec.options and spec.input != kind:
            raise ConfigurationError(
                f"models.{spec.name}.options.{key}: it is for `input: {kind}`, and this model's "
                f"input is {spec.input}"
            )
    return found


def only(model: str, options: GraphOptions, outputs: tuple[str, ...]) -> str:
    """The output that the result is made of."""
    chosen: Any = options.result.output or (outputs[0] if len(outputs) == 1 else None)
    if chosen not in outputs:
        raise ConfigurationError(
            f"models.{model}.options.result.output: name one of {', '.join(outputs)}"
        )
    return str(chosen)
