"""Finds things in pictures: DETR, Conditional DETR, YOLOS, RT-DETR and D-FINE, by transformers.

Each picture is put on a canvas of one size, so a batch is one array and a picture gets the same
boxes alone and in a batch. How it is put there is the family's: some were trained on pictures
stretched to a square, others keep the shape and are told, by a mask, which pixels are padding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.models.base import Json
from worker.models.boxes import Found, Limits, Place, pick
from worker.models.images import (
    MAX_PIXELS,
    RGB,
    example_jpeg,
    normalise,
    open_image,
    prepared_rgb,
    upright_size,
)
from worker.models.params import read_integer, read_number, refuse_unknown
from worker.models.prepared import PREPARED
from worker.models.requirements import missing_package
from worker.models.weights import RANDOM, find_weights, quiet_loading
from worker.transfer import Later, Transfer, open_transfer

__all__ = ("ObjectDetect",)

PARAMS = ("threshold", "max_boxes", "iou")
MAX_BOXES, MAX_SIDE = 300, 2048
_RANDOM_SEED = 7
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, slots=True)
class Family:
    """How one kind of network is shown pictures and read."""

    network: str
    """The class in transformers."""
    fit: Literal["stretch", "masked", "letterbox"]
    """stretch: to the canvas. The others keep the shape and pad at the right and the bottom;
    masked: boxes are parts of the picture, letterbox: of the canvas."""
    sigmoid: bool
    """Whether each class has a probability of its own; else they share one with "nothing", the
    last class."""
    canvas: tuple[int, int] = (800, 1088)
    """Height and width where the weights' folder names none."""
    plain: bool = False
    """Whether pixels are 0 to 1, without ImageNet's mean and deviation."""


FAMILIES: Mapping[str, Family] = {
    "detr": Family("DetrForObjectDetection", "masked", sigmoid=False),
    "conditional_detr": Family("ConditionalDetrForObjectDetection", "masked", sigmoid=True),
    "yolos": Family("YolosForObjectDetection", "letterbox", sigmoid=False, canvas=(512, 864)),
    "rt_detr": Family("RTDetrForObjectDetection", "stretch", True, (640, 640), plain=True),
    "d_fine": Family("DFineForObjectDetection", "stretch", True, (640, 640), plain=True),
}
"""By `model_type` of config.json."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture on the canvas, 3 x height x width, and what its client wants."""

    planes: NDArray[np.float32]
    place: Place
    limits: Limits


@dataclass(frozen=True, slots=True)
class Seen:
    """What the network says of one picture: Q x C scores and Q x 4 boxes."""

    scores: NDArray[np.float32]
    centres: NDArray[np.float32]
    scene: Scene


class ObjectDetect:
    """Returns boxes with labels of one picture a job."""

    def __init__(self) -> None:
        self._network: Any = None
        self._family = FAMILIES["yolos"]
        self._canvas = self._family.canvas
        self._norm = _IMAGENET
        self._labels: Mapping[int, str] = {}
        self._weights, self._device = RANDOM, "cpu"
        self._max_pixels = MAX_PIXELS
        self._usual = Limits()
        self._transfer = Transfer("cpu")

    def load(self, spec: ModelSpec, device: str) -> None:
        """Build the network that config.json describes, from safetensors only.

        options: canvas ([height, width]), threshold, iou, max_pixels.
        """
        try:
            import torch
            import transformers
        except ImportError as exc:
            raise missing_package(spec.name, exc) from exc
        quiet_loading()
        folder = None if spec.weights == RANDOM else find_weights(spec.weights)
        config = _read(folder / "config.json", spec.name) if folder else {"model_type": "yolos"}
        self._family = _family_of(config, folder, spec.name)
        build = getattr(transformers, self._family.network)
        network = _random(build) if folder is None else _loaded(build, folder, spec.name)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        if spec.precision not in dtype or (spec.backend or "torch") != "torch":
            raise ConfigurationError(
                f"models.{spec.name}: this handler runs on torch in fp32, bf16 or fp16; for "
                "a graph use handler: onnx"
            )
        self._network = network.eval().to(device=device, dtype=dtype[spec.precision])
        self._labels = network.config.id2label
        self._weights, self._device = spec.weights, device
        self._frame(spec, folder, network.config)
        self._transfer = open_transfer(device)
        PREPARED.join(self, RGB)

    def _frame(self, spec: ModelSpec, folder: Path | None, config: Any) -> None:
        """How pictures are put on the canvas, by the options, the folder, or the family."""
        told: Mapping[str, Any] = {}
        if folder is not None and (folder / "preprocessor_config.json").is_file():
            told = _read(folder / "preprocessor_config.json", spec.name)
        plain = not told.get("do_normalize", not self._family.plain)
        mean, std = (told.get("image_mean"), told.get("image_std"))
        told_norm = (tuple(mean), tuple(std)) if mean and std else _IMAGENET
        self._norm = ((0.0,) * 3, (1.0,) * 3) if plain else told_norm
        self._canvas = _canvas_of(spec, told, config, self._family)
        self._max_pixels = int(spec.options.get("max_pixels", MAX_PIXELS))
        self._usual = Limits(
            threshold=read_number(spec.options, "threshold", 0.5, 0.0, 1.0),
            iou=read_number(spec.options, "iou", 1.0, 0.0, 1.0),
        )

    def decode(self, value: Any, params: Mapping[str, Any]) -> Scene:
        """The upright picture on the canvas, normalised; padding is the mean."""
        refuse_unknown(params, PARAMS)
        limits = Limits(
            read_number(params, "threshold", self._usual.threshold, 0.0, 1.0),
            read_integer(params, "max_boxes", self._usual.max_boxes, 1, MAX_BOXES),
            read_number(params, "iou", self._usual.iou, 0.0, 1.0),
        )
        image = open_image(value, max_pixels=self._max_pixels)
        width, height = upright_size(image)
        tall, wide = self._canvas
        scale = min(wide / width, tall / height)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        if self._family.fit == "stretch":
            size = (wide, tall)
        rgb = prepared_rgb(value, image, target=size)
        pixels = np.asarray(rgb.resize(size, resample=2))  # bilinear, as the networks were trained
        planes = np.zeros((3, tall, wide), np.float32)
        planes[:, : size[1], : size[0]] = normalise(pixels, *self._norm)
        return Scene(planes, Place(width, height, *size), limits)

    def cost(self, item: Scene) -> float:
        """The pixels of the canvas; all pictures have the same."""
        return float(item.planes[0].size)

    def infer(self, items: Sequence[Scene]) -> Sequence[Seen] | Later:
        """One pass over all pictures."""
        import torch

        with torch.inference_mode():
            pictures = self._transfer.put([item.planes for item in items])
            feeds = {"pixel_values": pictures.to(self._network.dtype)}
            if self._family.fit == "masked":
                feeds["pixel_mask"] = self._transfer.put([_mask(item) for item in items])
            found = self._network(**feeds)
            logits = found.logits.float()
            scores = logits.sigmoid() if self._family.sigmoid else logits.softmax(2)[:, :, :-1]
            rows = torch.cat([scores, found.pred_boxes.float()], dim=2)
            return self._transfer.get(
                rows,
                lambda rows: [
                    Seen(row[:, :-4], row[:, -4:], item)
                    for row, item in zip(rows, items, strict=True)
                ],
            )

    def encode(self, output: Seen) -> Json:
        """The boxes in pixels of the upright picture, the likeliest first."""
        place = output.scene.place
        found = pick(output.scores, output.centres, self._size(place), output.scene.limits)
        return {
            "boxes": [*map(self._box, *_columns(found, place))],
            "width": place.width,
            "height": place.height,
            "weights": self._weights,
        }

    def _size(self, place: Place) -> tuple[float, float]:
        """What the network's boxes are parts of, in pixels of the picture."""
        if self._family.fit != "letterbox":
            return place.width, place.height
        tall, wide = self._canvas
        return (
            wide * place.width / place.shown_width,
            tall * place.height / place.shown_height,
        )

    def _box(self, box: list[float], label: int, score: float) -> Json:
        return {
            "box": [round(edge, 2) for edge in box],
            "label": self._labels.get(label, str(label)),
            "score": round(score, 6),
        }

    def example(self) -> bytes:
        """A small picture, to warm up with."""
        return example_jpeg()


def _columns(found: Found, place: Place) -> tuple[list[Any], list[int], list[float]]:
    most = np.array([place.width, place.height] * 2, np.float32)
    return found.boxes.clip(0, most).tolist(), found.labels.tolist(), found.scores.tolist()


def _mask(item: Scene) -> NDArray[np.int64]:
    mask = np.zeros(item.planes.shape[1:], np.int64)
    mask[: item.place.shown_height, : item.place.shown_width] = 1
    return mask


def _canvas_of(
    spec: ModelSpec, told: Mapping[str, Any], config: Any, family: Family
) -> tuple[int, int]:
    named = spec.options.get("canvas")
    size = told.get("size")
    if named is None and isinstance(size, dict) and {"height", "width"} <= size.keys():
        named = [size["height"], size["width"]]
    if named is None and isinstance(side := getattr(config, "image_size", None), list | tuple):
        named = list(side)
    canvas = family.canvas if named is None else named
    good = isinstance(canvas, list | tuple) and len(canvas) == 2
    if not good or not all(isinstance(one, int) and 0 < one <= MAX_SIDE for one in canvas):
        raise ConfigurationError(
            f"models.{spec.name}.options.canvas must be [height, width], each at most {MAX_SIDE}, "
            f"not {canvas!r}"
        )
    return canvas[0], canvas[1]


def _family_of(config: Mapping[str, Any], folder: Path | None, model: str) -> Family:
    kind = str(config.get("model_type"))
    if (family := FAMILIES.get(kind)) is not None:
        return family
    raise ConfigurationError(
        f"models.{model}.weights: {folder} holds a {kind} model; this handler runs "
        f"{', '.join(FAMILIES)}"
    )


def _read(path: Path, model: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"models.{model}.weights: {path} cannot be read: {exc}") from exc
    if not isinstance(found, dict):
        raise ConfigurationError(f"models.{model}.weights: {path} is no JSON object")
    return found


def _loaded(build: Any, folder: Path, model: str) -> Any:
    try:
        return build.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except ImportError as exc:
        raise ConfigurationError(
            f"models.{model}.weights: {folder}/config.json wants a backbone of a package that is "
            f"not here ({str(exc).strip()[:150]}); export the model with use_timm_backbone: false"
        ) from exc
    except Exception as exc:
        raise ConfigurationError(
            f"models.{model}.weights: {folder} must hold config.json and model.safetensors of a "
            f"{build.__name__}: {type(exc).__name__}: {str(exc).strip()[:200]}"
        ) from exc


def _random(build: Any) -> Any:
    """The size of YOLOS-tiny, made up: shows the plumbing, never the picture."""
    import torch
    from transformers import YolosConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_RANDOM_SEED)
        config = YolosConfig(
            hidden_size=192,
            num_hidden_layers=12,
            num_attention_heads=3,
            intermediate_size=768,
            image_size=[512, 864],
        )
        return build(config)
