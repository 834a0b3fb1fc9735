"""Learns embeddings: a student's vectors, or its hidden states too, from a teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.tools.training.encoder import Encoder
from worker.tools.training.loop import Judgement, slices

__all__ = ("TextLearner", "padded", "spaced_layers", "vectors_of")

Sentence = Sequence[int]
_JUDGED_BATCH = 64


class TextLearner:
    """A student encoder and the vectors that it should give."""

    def __init__(
        self,
        student: Encoder,
        learnt: Sequence[Sentence],
        targets: Tensor,
        judged: Sequence[Sentence],
        expected: Tensor,
    ) -> None:
        """targets, expected: the teacher's vectors of the sentences, one a row."""
        self.network: nn.Module = student
        self.costs = [len(one) for one in learnt]
        self._student, self._learnt, self._targets = student, learnt, targets
        self._judged, self._expected = judged, expected

    def loss(self, places: Sequence[int]) -> Tensor:
        """One less the mean cosine."""
        inputs = padded([self._learnt[place] for place in places])
        return _apart(self._student(*inputs), self._targets[list(places)])

    def judge(self) -> Judgement:
        """Mean and least cosine."""
        found = (vectors_of(self._student, self._judged) * self._expected).sum(1)
        return Judgement(float(found.mean()), float(found.min()))


class FeatureLearner(TextLearner):
    """Matches hidden states as well, layer by layer."""

    def __init__(
        self,
        student: Encoder,
        teacher: Encoder,
        learnt: Sequence[Sentence],
        targets: Tensor,
        judged: Sequence[Sentence],
        expected: Tensor,
    ) -> None:
        super().__init__(student, learnt, targets, judged, expected)
        self._teacher = teacher
        count, own = len(teacher.layers), len(student.layers)
        self._matching = [0, *((one + 1) * count // own for one in range(own))]

    def loss(self, places: Sequence[int]) -> Tensor:
        """That of the vectors, and the squared distance of states over the teacher's own size."""
        inputs = padded([self._learnt[place] for place in places])
        with torch.no_grad():
            wanted = self._teacher.states(*inputs)
        found = self._student.states(*inputs)
        real = inputs[1].bool()
        loss = _apart(self._student.pooled(found[-1], inputs[1]), self._targets[list(places)])
        for own, place in zip(found[1:], self._matching[1:], strict=True):
            size = wanted[place][real].square().mean()
            loss = loss + F.mse_loss(own[real], wanted[place][real]) / size / (len(found) - 1)
        return loss


def _apart(found: Tensor, expected: Tensor) -> Tensor:
    return 1 - (found * expected).sum(1).mean()


def padded(sentences: Sequence[Sentence]) -> tuple[Tensor, Tensor]:
    """Token ids and their mask: sentences x longest, int64."""
    longest = max(len(one) for one in sentences)
    ids = torch.zeros(len(sentences), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, one in enumerate(sentences):
        ids[row, : len(one)] = torch.tensor(one)
        mask[row, : len(one)] = 1
    return ids, mask


@torch.no_grad()
def vectors_of(encoder: Encoder, sentences: Sequence[Sentence]) -> Tensor:
    """Their vectors, a row each, in the order given."""
    order = sorted(range(len(sentences)), key=lambda place: len(sentences[place]))
    parts = [
        encoder(*padded([sentences[place] for place in some]))
        for some in slices(order, _JUDGED_BATCH)
    ]
    found = torch.cat(parts)
    back = torch.empty_like(found)
    back[torch.tensor(order)] = found
    return back


def spaced_layers(count: int, kept: int) -> list[list[int]]:
    """Ways to keep some of the layers that are worth a look: all, where they are few."""
    ways = [list(one) for one in combinations(range(count), kept)] if count <= 6 else []
    spread = [round(one * (count - 1) / max(1, kept - 1)) for one in range(kept)]
    return ways or [spread, [one * count // kept for one in range(kept)]]
