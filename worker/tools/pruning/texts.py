"""Prunes encoders of BERT's shape: heads of attention, and the inner width of each layer.

What a part gives to the output decides, as seen on the owner's texts, and by its weights where
there are none. The mean of what is taken away stays, as a part of the bias.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.catalog import ModelSpec
from worker.models.tensors import load_tensors
from worker.models.weights import find_weights
from worker.tools.training.encoder import Encoder
from worker.tools.training.models import kept_tensors
from worker.tools.training.text_lesson import copy_tokenizer
from worker.tools.training.texts import TextLearner, padded, vectors_of

__all__ = ("TextSubject",)

_ROUND_TO = 8
"""Inner widths are multiples of this, as kernels like them."""
_SEEN_ON = 128
"""Texts that importance is taken from."""


class TextSubject:
    """An encoder, with the sentences to learn from and those to judge by."""

    handler = "minilm"

    def __init__(self, spec: ModelSpec, learnt: Sequence[Any], judged: Sequence[Any]) -> None:
        """learnt, judged: as `decode` returns them; may be empty."""
        self._folder = find_weights(spec.weights)
        config = (self._folder / "config.json").read_text(encoding="utf-8")
        self._config: dict[str, Any] = json.loads(config)
        self._encoder = Encoder(self._config, load_tensors(self._folder / "model.safetensors"))
        self._learnt, self._judged = ([one.ids for one in part] for part in (learnt, judged))
        parts = (self._learnt, self._judged)
        self._targets = [vectors_of(self._encoder, part) if part else None for part in parts]

    @property
    def network(self) -> nn.Module:
        """The encoder."""
        return self._encoder

    @torch.no_grad()
    def narrow(self, share: float) -> None:
        """So many of the heads and of the inner width of each layer."""
        seen = _Seen(self._encoder)
        if self._learnt:
            self._encoder(*padded(self._learnt[:_SEEN_ON]))
        seen.close()
        tensors = self._encoder.state_dict()
        for number, layer in enumerate(self._encoder.layers):
            prefix = f"encoder.layer.{number}."
            own: Any = layer
            inner = [f"{prefix}intermediate.dense"]
            _cut(tensors, inner, f"{prefix}output.dense", 1, share, seen.of(own.output.dense))
            heads = [f"{prefix}attention.self.{name}" for name in ("query", "key", "value")]
            after = f"{prefix}attention.output.dense"
            figures = seen.of(own.attention.output.dense)
            _cut(tensors, heads, after, own.head_size, share, figures)
        self.restore(tensors)

    def learner(self) -> TextLearner:
        """Only the layers learn; the vocabulary is the same."""
        targets, expected = self._targets
        assert targets is not None
        assert expected is not None
        self._encoder.embeddings.requires_grad_(requires_grad=False)
        return TextLearner(self._encoder, self._learnt, targets, self._judged, expected)

    def save(self, folder: Path) -> None:
        """A folder of `minilm`; its layers' shapes are those of their tensors."""
        copy_tokenizer(self._folder, folder)
        text = json.dumps({**self._config, "pruned": True}, indent=2)
        (folder / "config.json").write_text(f"{text}\n", encoding="utf-8")
        kept_tensors(folder / "model.safetensors", self._encoder.state_dict())

    def state(self) -> dict[str, Tensor]:
        """The encoder's."""
        return {name: one.clone() for name, one in self._encoder.state_dict().items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """An encoder of their shapes."""
        self._encoder = Encoder(self._config, tensors)


class _Seen:
    """Mean and mean square of what comes in at each linear layer; nothing where nothing ran."""

    def __init__(self, network: nn.Module) -> None:
        self._figures: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        linear = [one for one in network.modules() if isinstance(one, nn.Linear)]
        self._hooks = [one.register_forward_pre_hook(self._note) for one in linear]

    def _note(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].flatten(0, -2)
        self._figures[module] = rows.mean(0), rows.square().mean(0)

    def of(self, module: nn.Module) -> tuple[Tensor, Tensor] | None:
        return self._figures.get(module)

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


def _cut(
    tensors: dict[str, Tensor],
    before: Sequence[str],
    after: str,
    size: int,
    share: float,
    figures: tuple[Tensor, Tensor] | None,
) -> None:
    """Take groups of `size` channels away between the layers `before` and the one `after`."""
    weight = tensors[f"{after}.weight"]
    groups = weight.shape[1] // size
    mean, square = figures if figures is not None else (None, None)
    if square is None:
        source = tensors[f"{before[-1]}.weight"]
        square = source.square().mean(1)
    worth = (square * weight.square().sum(0)).view(groups, size).sum(1)
    step = _ROUND_TO if size == 1 else 1
    count = max(step, round(groups * (1 - share) / step) * step)
    kept = worth.topk(min(count, groups)).indices.sort().values
    gone = torch.ones(groups, dtype=torch.bool)
    gone[kept] = False
    rows = (kept[:, None] * size + torch.arange(size)).flatten()
    if mean is not None:
        lost = gone.repeat_interleave(size)
        tensors[f"{after}.bias"] = tensors[f"{after}.bias"] + weight[:, lost] @ mean[lost]
    tensors[f"{after}.weight"] = weight[:, rows]
    for name in before:
        for kind in ("weight", "bias"):
            tensors[f"{name}.{kind}"] = tensors[f"{name}.{kind}"][rows]
