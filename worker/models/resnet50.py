"""Image classification with ResNet-50, or any ResNet that transformers describes.

With `weights: random` the network is built from its configuration alone, so
that the fleet can be tried without a download; every result then says so.

Each batch norm is folded into its convolution, and pictures are kept with
their channels last, as the kernels want them: from JPEG to labels that took
0.77-0.93 of the CPU time on one Xeon core.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.models.picture_classifier import Built, PictureClassifier
from worker.models.pruned import PRUNED, fit
from worker.models.requirements import missing_package
from worker.models.tensors import load_tensors
from worker.models.weights import RANDOM, find_weights, quiet_loading

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ("ResNet50",)

RANDOM_SEED, CLASSES = 50, 1000


class ResNet50(PictureClassifier):
    """Classifies one picture a job; `params.top_k` says how many labels to return."""

    def _build(self, spec: ModelSpec) -> Built:
        """From safetensors only, unless its weights are random."""
        try:
            import transformers  # noqa: F401  before what needs it
        except ImportError as exc:
            raise missing_package(spec.name, exc) from exc
        quiet_loading()
        if spec.weights == RANDOM:
            network = random_network()
        else:
            network = saved_network(find_weights(spec.weights), spec.name)
        config = network.config
        folded = _logits_of(_fold_norms(network.eval()))
        return Built(folded, config.id2label, config.to_json_string())


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


def saved_network(folder: Path, model: str) -> Any:
    """As its config.json describes it, from safetensors only; pruned ones too.

    Raises ConfigurationError.
    """
    from safetensors import SafetensorError
    from transformers import ResNetConfig, ResNetForImageClassification

    try:
        config = ResNetConfig.from_pretrained(folder, local_files_only=True)
        if getattr(config, PRUNED, False):
            network = ResNetForImageClassification(config)
            fit(network, load_tensors(folder / "model.safetensors"), folder / "model.safetensors")
            return network
        return ResNetForImageClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, SafetensorError) as exc:
        raise ConfigurationError(
            f"models.{model}.weights: {folder} must hold config.json and "
            f"model.safetensors of a ResNet: {exc}"
        ) from exc


def random_network() -> Any:
    """A ResNet-50 that has learnt nothing, the same each time."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    # Forked, so that the seed here is not the seed of everything after.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        return ResNetForImageClassification(ResNetConfig.from_dict({"num_labels": CLASSES}))
