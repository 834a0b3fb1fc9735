"""Image classification with ResNet-50, or any ResNet that transformers describes.

With `weights: random` the network is built from its configuration alone, so
that the fleet can be tried without a download; every result then says so.

Each batch norm is folded into its convolution, and pictures are kept with
their channels last, as the kernels want them: from JPEG to labels that took
0.77-0.93 of the CPU time on one Xeon core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.models.base import Json
from worker.models.images import (
    MAX_PIXELS,
    centre_crop,
    example_jpeg,
    load_rgb,
    normalise,
    open_image,
)
from worker.models.params import read_integer, refuse_unknown
from worker.models.requirements import missing_package
from worker.models.weights import RANDOM, find_weights, quiet_loading

__all__ = ("ResNet50",)

SHORTER_SIDE, CROP = 256, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, in RGB order."""
RANDOM_SEED, CLASSES = 50, 1000
TOP_K, MAX_TOP_K = 5, 100


@dataclass(frozen=True, slots=True)
class Photo:
    """A normalised 3 x 224 x 224 picture and how many labels its client wants."""

    planes: NDArray[np.float32]
    top_k: int


@dataclass(frozen=True, slots=True)
class Scores:
    """One probability per class, and how many labels the client wants."""

    probabilities: NDArray[np.float32]
    top_k: int


class ResNet50:
    """Classifies one picture a job; `params.top_k` says how many labels to return."""

    def __init__(self) -> None:
        self._network: Any = None
        self._device = "cpu"
        self._weights = RANDOM
        self._labels: Mapping[int, str] = {}
        self._max_pixels = MAX_PIXELS

    def load(self, spec: ModelSpec, device: str) -> None:
        """Build the network, from safetensors only unless its weights are random."""
        try:
            import torch
            from transformers import ResNetForImageClassification
        except ImportError as exc:
            raise missing_package(spec.name, exc) from exc
        quiet_loading()
        if spec.weights == RANDOM:
            network = _random_network()
        else:
            folder = find_weights(spec.weights)
            try:
                network = ResNetForImageClassification.from_pretrained(
                    folder, local_files_only=True, use_safetensors=True
                )
            except (OSError, ValueError) as exc:
                raise ConfigurationError(
                    f"models.{spec.name}.weights: {folder} must hold config.json and "
                    f"model.safetensors of a ResNet: {exc}"
                ) from exc
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        network = _fold_norms(network.eval()).to(device=device, dtype=dtype[spec.precision])
        self._network = network.to(memory_format=torch.channels_last)
        self._device = device
        self._weights = spec.weights
        self._labels = network.config.id2label
        self._max_pixels = int(spec.options.get("max_pixels", MAX_PIXELS))

    def decode(self, value: Any, params: Mapping[str, Any]) -> Photo:
        """The middle of the picture, scaled and normalised as in ImageNet's evaluation."""
        refuse_unknown(params, ("top_k",))
        top_k = read_integer(params, "top_k", TOP_K, 1, MAX_TOP_K)
        image = open_image(value, max_pixels=self._max_pixels)
        rgb = load_rgb(image, target=(SHORTER_SIDE, SHORTER_SIDE))
        pixels = centre_crop(rgb, shorter_side=SHORTER_SIDE, crop=CROP)
        return Photo(normalise(pixels, MEAN, STD), top_k)

    def cost(self, item: Photo) -> float:  # noqa: ARG002  the protocol's signature
        """Its pixels; all pictures have the same number by now."""
        return float(CROP * CROP)

    def infer(self, items: Sequence[Photo]) -> Sequence[Scores]:
        """Classify a batch of pictures."""
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(np.stack([item.planes for item in items]))
            batch = batch.to(device=self._device, dtype=self._network.dtype)
            logits = self._network(
                pixel_values=batch.contiguous(memory_format=torch.channels_last)
            ).logits
            probabilities = logits.float().softmax(dim=1).cpu().numpy()
        return [Scores(row, item.top_k) for row, item in zip(probabilities, items, strict=True)]

    def encode(self, output: Scores) -> Json:
        """The best labels first, and which weights said so."""
        best = np.argsort(-output.probabilities, kind="stable")[: output.top_k]
        labels = [
            {
                "label": self._labels[int(index)],
                "score": round(float(output.probabilities[index]), 6),
            }
            for index in best
        ]
        return {"labels": labels, "weights": self._weights}

    def example(self) -> bytes:
        """A small picture, to warm up with."""
        return example_jpeg()


def _fold_norms(network: Any) -> Any:
    """Let each convolution do what the batch norm after it does; in fp32, before any cast."""
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for module in network.modules():
        convolution = getattr(module, "convolution", None)
        norm = getattr(module, "normalization", None)
        if isinstance(convolution, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
            module.convolution = fuse_conv_bn_eval(convolution, norm)
            module.normalization = torch.nn.Identity()
    return network


def _random_network() -> Any:
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    # Forked, so that the seed here is not the seed of everything after.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        return ResNetForImageClassification(ResNetConfig.from_dict({"num_labels": CLASSES}))
