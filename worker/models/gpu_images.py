"""Decodes JPEGs on the GPU, a batch at a time, for models that enable it.

Optional: `pip install 'lanefleet[image-gpu]'` brings nvImageCodec, which decodes
with the GPU's JPEG engines or nvJPEG. Where it is missing, and for every picture
that it refuses, Pillow does the work, and its error is the client's.

nvImageCodec rather than torchvision: it goes with any build of torch, tells which
picture of a batch it refused, and torchvision's decoders are deprecated.

No GPU was at hand when this was written: cropping and normalising are tested on
the CPU against Pillow's, the decoder itself has not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import structlog

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ("BatchDecoder", "crop_on_device", "normalise_on_device", "open_batch_decoder")

log = structlog.get_logger(__name__)


class BatchDecoder(Protocol):
    """Decodes several pictures at once to where the model runs."""

    def __call__(self, contents: Sequence[bytes]) -> list[Tensor | None]:
        """Upright uint8 RGB, height x width x 3, each; None where it was refused."""


class _NvImageCodec:
    """nvImageCodec behind BatchDecoder. Call it on the thread that owns the device."""

    def __init__(self, device: str) -> None:
        from nvidia import nvimgcodec

        self._codec: Any = nvimgcodec
        self._device = device
        # In this process the one visible GPU is number 0. Upright RGB is the default.
        self._decoder = nvimgcodec.Decoder(device_id=0)

    def __call__(self, contents: Sequence[bytes]) -> list[Tensor | None]:
        import torch

        stream = torch.cuda.current_stream(self._device).cuda_stream
        streams = [self._codec.CodeStream(content) for content in contents]
        images = self._decoder.decode(streams, cuda_stream=stream)
        return [
            None if image is None else torch.as_tensor(image, device=self._device)
            for image in images
        ]


def open_batch_decoder(device: str) -> BatchDecoder | None:
    """One for this device; None, and a line in the log, where there is none."""
    if not device.startswith("cuda"):
        log.warning("gpu_decoder_unavailable", device=device, remedy="it needs an NVIDIA GPU")
        return None
    try:
        return _NvImageCodec(device)
    except Exception as exc:  # noqa: BLE001 - whatever it lacks, Pillow does the work
        log.warning(
            "gpu_decoder_unavailable",
            error=f"{type(exc).__name__}: {exc}",
            remedy="pip install 'lanefleet[image-gpu]'; until then Pillow decodes",
        )
        return None


def crop_on_device(picture: Tensor, *, shorter_side: int, crop: int) -> Tensor:
    """What `images.centre_crop` does: float32 RGB 0-255, crop x crop x 3.

    To whole pixels of the source, and antialiased as Pillow does it.
    """
    import torch

    height, width = picture.shape[:2]
    side = max(1, round(min(width, height) * crop / shorter_side))
    top, left = (height - side) // 2, (width - side) // 2
    square = picture[top : top + side, left : left + side].permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(
        square, size=(crop, crop), mode="bicubic", antialias=True, align_corners=False
    )
    return resized[0].clamp_(0, 255).permute(1, 2, 0)


def normalise_on_device(pictures: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """What `images.normalise` does, for a batch: N x H x W x 3 in, N x 3 x H x W out.

    Channels stay last in memory, the fastest layout for convolutions on a GPU.
    """
    import torch

    gain = torch.tensor([1 / (255 * one) for one in std], device=pictures.device)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=pictures.device)
    return pictures.float().mul_(gain).sub_(shift).permute(0, 3, 1, 2)
