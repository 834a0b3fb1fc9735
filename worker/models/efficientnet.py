"""EfficientNet-Lite0: the network whose weights come in a package of 19 MB.

The Lite family has no squeeze-and-excite and clips at 6, so int8 suits it. Its padding is
TensorFlow's: where a stride leaves an odd pixel over, that pixel is padded at the end. Names are
those of the weights' file.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ("EfficientNetLite0",)

_EPSILON = 1e-3
_COUNTER = ".num_batches_tracked"
"""Training's; converted weights have it no more."""
_STAGES = (
    # blocks, kernel, stride, expansion, channels in and out
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)


class _Conv(nn.Conv2d):
    """A convolution with as many outputs as its inputs divided by the stride, rounded up."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if kernel > 1:
            height, width = (
                max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:]
            )
            x = pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


class _Block(nn.Module):
    def __init__(self, kernel: int, stride: int, expansion: int, before: int, after: int) -> None:
        super().__init__()
        inner = before * expansion
        self.skips = stride == 1 and before == after
        if expansion > 1:
            self._expand_conv: nn.Module = _Conv(before, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, _EPSILON)
        else:
            self._expand_conv = nn.Identity()
        self._depthwise_conv = _Conv(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = nn.BatchNorm2d(inner, _EPSILON)
        self._project_conv = _Conv(inner, after, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(after, _EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if not isinstance(self._expand_conv, nn.Identity):
            y = nn.functional.relu6(self._bn0(self._expand_conv(y)))
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        out: Tensor = self._bn2(self._project_conv(y))
        return x + out if self.skips else out


class EfficientNetLite0(nn.Module):
    """From normalised pictures, N x 3 x 224 x 224, to logits, N x 1000."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.classes = classes
        self._conv_stem = _Conv(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, _EPSILON)
        self._blocks = nn.ModuleList(
            _Block(kernel, stride if first else 1, expansion, before if first else after, after)
            for blocks, kernel, stride, expansion, before, after in _STAGES
            for first in [True] + [False] * (blocks - 1)
        )
        self._conv_head = _Conv(320, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, _EPSILON)
        self._fc = nn.Linear(1280, classes)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """The logits."""
        x = nn.functional.relu6(self._bn0(self._conv_stem(pixel_values)))
        for block in self._blocks:
            x = block(x)
        x = nn.functional.relu6(self._bn1(self._conv_head(x)))
        logits: Tensor = self._fc(x.mean((2, 3)))
        return logits

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> EfficientNetLite0:
        """With these weights, each norm folded into the convolution before it.

        Raises KeyError or RuntimeError for tensors of another network.
        """
        network = cls(classes=len(tensors["_fc.bias"]))
        missing, strange = network.load_state_dict(dict(tensors), strict=False)
        missing = [name for name in missing if not name.endswith(_COUNTER)]
        if missing or strange:
            raise KeyError(f"lacks {missing[:3]}, has {list(strange)[:3]}")
        network.eval()
        for module in network.modules():
            for conv, norm in _PAIRS:
                if isinstance(getattr(module, norm, None), nn.BatchNorm2d) and isinstance(
                    getattr(module, conv, None), nn.Conv2d
                ):
                    setattr(module, conv, _fused(getattr(module, conv), getattr(module, norm)))
                    setattr(module, norm, nn.Identity())
        return network


_PAIRS = (
    ("_conv_stem", "_bn0"),
    ("_conv_head", "_bn1"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
)


def _fused(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    with torch.no_grad():
        return fuse_conv_bn_eval(conv, norm)
