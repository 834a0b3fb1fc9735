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
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.models.base import Json
from worker.models.classifier_session import ClassifierSession, open_classifier, read_labels
from worker.models.compiled import COMPILED, Compilable, Run
from worker.models.exportable import Export
from worker.models.gpu_images import (
    BatchDecoder,
    crop_on_device,
    normalise_on_device,
    open_batch_decoder,
)
from worker.models.images import (
    MAX_PIXELS,
    centre_crop,
    example_jpeg,
    load_rgb,
    normalise,
    open_image,
)
from worker.models.params import read_integer, refuse_unknown
from worker.models.ready_graph import ready_graph, runs_graphs
from worker.models.requirements import missing_package
from worker.models.weights import RANDOM, find_weights, quiet_loading
from worker.transfer import Later, Transfer, open_transfer

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

__all__ = ("ResNet50",)

SHORTER_SIDE, CROP = 256, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, in RGB order."""
RANDOM_SEED, CLASSES = 50, 1000
TOP_K, MAX_TOP_K = 5, 100


@dataclass(frozen=True, slots=True)
class Photo:
    """A 224 x 224 picture and how many labels its client wants."""

    planes: NDArray[np.float32] | NDArray[np.uint8] | None
    """Normalised, channels first; on a GPU bytes with channels last, a quarter of the copy."""
    top_k: int
    content: bytes = b""
    """The JPEG itself, where the GPU decodes."""


@dataclass(frozen=True, slots=True)
class Scores:
    """One probability per class, and how many labels the client wants."""

    probabilities: NDArray[np.float32]
    top_k: int


class ResNet50:
    """Classifies one picture a job; `params.top_k` says how many labels to return."""

    def __init__(self) -> None:
        self._network: Any = None
        self._dtype: Any = None
        self._session: ClassifierSession | None = None
        self.backend = "torch"
        self._device = "cpu"
        """Where pictures are normalised; a session takes them as the CPU does."""
        self._weights = RANDOM
        self._labels: Mapping[int, str] = {}
        self._max_pixels = MAX_PIXELS
        self._transfer = Transfer("cpu")
        self._decode_batch: BatchDecoder | None = None

    def load(self, spec: ModelSpec, device: str) -> None:
        """Build the network, from safetensors only unless its weights are random.

        backend: onnx and openvino take model.onnx, exported first where it is not there.
        """
        self._weights = spec.weights
        self._max_pixels = int(spec.options.get("max_pixels", MAX_PIXELS))
        if runs_graphs(spec):
            self._open_graph(spec, device)
        else:
            self._load_network(spec, device)

    def _open_graph(self, spec: ModelSpec, device: str) -> None:
        if spec.options.get("gpu_decode"):
            raise ConfigurationError(
                f"models.{spec.name}.options.gpu_decode: it needs backend: torch"
            )
        graph = ready_graph(spec)
        self._labels = read_labels(spec.name, graph.parent)
        self._session = open_classifier(spec, graph, device)
        self.backend = self._session.backend

    def _load_network(self, spec: ModelSpec, device: str) -> None:
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
        kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        self._dtype = kinds[spec.precision]
        network = _fold_norms(network.eval()).to(device=device, dtype=self._dtype)
        self._labels = network.config.id2label
        self._network = _logits_of(network.to(memory_format=torch.channels_last))
        self._device = device
        self._transfer = open_transfer(device)
        if spec.options.get("gpu_decode"):
            self._decode_batch = open_batch_decoder(device)

    def decode(self, value: Any, params: Mapping[str, Any]) -> Photo:
        """The middle of the picture, scaled and normalised as in ImageNet's evaluation."""
        refuse_unknown(params, ("top_k",))
        top_k = read_integer(params, "top_k", TOP_K, 1, MAX_TOP_K)
        image = open_image(value, max_pixels=self._max_pixels)
        if self._decode_batch is not None and image.format == "JPEG":
            return Photo(None, top_k, value)
        pixels = self._crop(image)
        return Photo(pixels if self._on_gpu else normalise(pixels, MEAN, STD), top_k)

    @property
    def _on_gpu(self) -> bool:
        return self._device.startswith("cuda")

    @staticmethod
    def _crop(image: Image) -> NDArray[np.uint8]:
        rgb = load_rgb(image, target=(SHORTER_SIDE, SHORTER_SIDE))
        return centre_crop(rgb, shorter_side=SHORTER_SIDE, crop=CROP)

    def cost(self, item: Photo) -> float:  # noqa: ARG002  the protocol's signature
        """Its pixels; all pictures have the same number by now."""
        return float(CROP * CROP)

    def infer(self, items: Sequence[Photo]) -> Sequence[Scores] | Later:
        """Classify a batch of pictures; on a GPU the next one is sent meanwhile."""
        if self._session is not None:
            rows = self._session.probabilities(np.stack([_pixels(item) for item in items]))
            return [Scores(row, item.top_k) for row, item in zip(rows, items, strict=True)]
        import torch

        with torch.inference_mode():
            logits = self._network(self._pixel_values(items))
            probabilities = logits.float().softmax(dim=1)
            return self._transfer.get(
                probabilities,
                lambda rows: [
                    Scores(row, item.top_k) for row, item in zip(rows, items, strict=True)
                ],
            )

    def _pixel_values(self, items: Sequence[Photo]) -> Tensor:
        """The batch as the network takes it: normalised, its channels last in memory."""
        import torch

        if not self._on_gpu:
            batch = self._transfer.put([_pixels(item) for item in items])
            batch = batch.to(self._dtype)
            return batch.contiguous(memory_format=torch.channels_last)
        batch = self._pictures(items)
        return normalise_on_device(batch, MEAN, STD).to(self._dtype)

    def _pictures(self, items: Sequence[Photo]) -> Tensor:
        """All of them on the device, those decoded there too: N x 224 x 224 x 3, 0-255."""
        import torch

        if self._decode_batch is None:
            return self._transfer.put([_pixels(item) for item in items])
        coded = [index for index, item in enumerate(items) if item.planes is None]
        decoded = self._decode_batch([items[index].content for index in coded])
        crops = {
            index: crop_on_device(picture, shorter_side=SHORTER_SIDE, crop=CROP)
            for index, picture in zip(coded, decoded, strict=True)
            if picture is not None
        }
        batch = torch.empty((len(items), CROP, CROP, 3), device=self._device)
        for index, crop in crops.items():
            batch[index] = crop
        others = [index for index in range(len(items)) if index not in crops]
        if others:
            sent = self._transfer.put([self._on_our_side(items[index]) for index in others])
            batch[torch.tensor(others, device=self._device)] = sent.float()
        return batch

    def _on_our_side(self, item: Photo) -> NDArray[Any]:
        """Its pixels, decoded here where the device refused it; raises InvalidInput."""
        if item.planes is not None:
            return item.planes
        return self._crop(open_image(item.content, max_pixels=self._max_pixels))

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

    def compilable(self) -> Compilable:
        """Pictures, N x 3 x 224 x 224, to logits."""
        import torch

        pictures = torch.zeros((2, 3, CROP, CROP), dtype=self._dtype, device=self._device)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        return Compilable(self._network, (pictures,), ({0: torch.export.Dim("batch")},))

    def use_compiled(self, run: Run) -> None:
        """Run this on them."""
        self._network, self.backend = run, COMPILED

    def example(self) -> bytes:
        """A small picture, to warm up with."""
        return example_jpeg()

    def export(self) -> Export:
        """Its network, from pixel_values to logits."""
        from worker.models.exported_network import classifier

        return classifier(
            self._network,
            (3, CROP, CROP),
            lambda items: np.stack([_pixels(item) for item in items]),
            {"config.json": self._network.network.config.to_json_string()},
        )


def _pixels(photo: Photo) -> NDArray[Any]:
    assert photo.planes is not None
    return photo.planes


def _logits_of(network: Any) -> Any:
    """A module from pictures to logits, without the dictionary that transformers makes of them."""
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pictures: Tensor) -> Tensor:
            logits: Tensor = self.network(pixel_values=pictures).logits
            return logits

    return Logits().eval()


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
