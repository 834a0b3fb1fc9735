"""Which token each row says next; every row by options of its own.

A choice's token number t is drawn with a number that depends on the seed, the choice and t alone.
So a run that is replayed, taken over by another worker, or has other company draws the same.

Sorting a vocabulary takes ten times as long as finding its likeliest 1,024 (16 rows of 49,152:
100 and 12 ms), which nearly always hold all that `top_p` keeps. Where they do not, that row is
sorted.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.generation.options import GenerateOptions
from worker.models.generation.grammar import Constraint
from worker.models.generator import TokenChance

__all__ = ("Drawn", "Sampling", "sample", "uniform")

_LIKELIEST = 1024
NOT_NUMBERS = (
    "the network's output is not finite for this job, so that no token can be chosen; other "
    "precision (`precision: fp32`) may help"
)


class Drawn(NamedTuple):
    """A row's next token, or why it has none."""

    token: int
    logprob: float | None = None
    top: tuple[TokenChance, ...] = ()
    error: str | None = None


@dataclass(eq=False, slots=True)
class Sampling:
    """One row's options, and what they have to remember."""

    options: GenerateOptions
    seed: int
    choice: int
    vocabulary: int
    ends: Sequence[int]
    """Tokens that end a text."""
    constraint: Constraint | None = None
    said: int = 0
    """How many tokens the choice has: the number of the next one."""
    _counts: Tensor | None = None
    _seen: Tensor | None = None
    _bias: Tensor | None = None

    def begin(self, prompt: Sequence[int], said: Sequence[int], device: str) -> None:
        """What was said before counts as said."""
        options = self.options
        if options.presence_penalty or options.frequency_penalty:
            self._counts = torch.zeros(self.vocabulary, device=device)
        if options.repetition_penalty != 1:
            self._seen = torch.zeros(self.vocabulary, dtype=torch.bool, device=device)
            self._seen[torch.tensor(prompt, device=device)] = True
        if options.logit_bias:
            self._bias = torch.zeros(self.vocabulary, device=device)
            for name, bias in options.logit_bias.items():
                self._bias[int(name)] = bias
        for token in said:
            self.take(token)

    def take(self, token: int) -> None:
        """The choice has said this token."""
        self.said += 1
        if self._counts is not None:
            self._counts[token] += 1
        if self._seen is not None:
            self._seen[token] = True
        if self.constraint is not None:
            self.constraint.take(token)

    @property
    def plain(self) -> bool:
        """Whether the logits are used as they come."""
        return (
            self._counts is None
            and self._seen is None
            and self._bias is None
            and self.constraint is None
            and self.said >= self.options.min_tokens
        )

    def adjust(self, logits: Tensor) -> None:
        """Change one row's logits, in place, to what the options make of them."""
        options = self.options
        if self._seen is not None:
            penalty = options.repetition_penalty
            less = torch.where(logits < 0, logits * penalty, logits / penalty)
            logits.copy_(torch.where(self._seen, less, logits))
        if self._counts is not None:
            logits -= self._counts * options.frequency_penalty
            logits -= (self._counts > 0) * options.presence_penalty
        if self._bias is not None:
            logits += self._bias
        if self.said < options.min_tokens:
            logits[list(self.ends)] = float("-inf")
        if self.constraint is not None:
            self.constraint.mask(logits)

    def uniform(self) -> float:
        """The number that the next token is drawn with."""
        return uniform(self.seed, self.choice, self.said)


def uniform(seed: int, choice: int, number: int) -> float:
    """Evenly between 0 and 1, of these three alone."""
    counter = struct.pack("<QQQ", seed, choice, number)
    digest = hashlib.blake2b(counter, digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def sample(logits: Tensor, rows: Sequence[Sampling], *, exact: bool) -> list[Drawn]:
    """One token of each row. logits: rows x vocabulary, float32, which it changes.

    exact: row by row, as sums over several rows are grouped in other ways.
    """
    if exact and len(rows) > 1:
        return [
            drawn
            for number, row in enumerate(rows)
            for drawn in sample(logits[number : number + 1], [row], exact=True)
        ]
    named = [number for number, row in enumerate(rows) if row.options.logprobs is not None]
    logprobs = logits[named].log_softmax(-1) if named else logits
    errors: dict[int, str] = {}
    for number, row in enumerate(rows):
        if not row.plain:
            try:
                row.adjust(logits[number])
            except ValueError as exc:
                errors[number] = str(exc)
    best, tokens = logits.max(-1)
    for number in torch.isfinite(best).logical_not().nonzero().flatten().tolist():
        errors.setdefault(number, NOT_NUMBERS)
    chosen: list[int] = tokens.tolist()
    _draw(logits, best, rows, chosen, errors)
    found = [Drawn(token, error=errors.get(number)) for number, token in enumerate(chosen)]
    for place, number in enumerate(named):
        if number not in errors:
            asked = rows[number].options.logprobs
            found[number] = _with_chances(chosen[number], logprobs[place], asked or 0)
    return found


def _with_chances(token: int, logprobs: Tensor, asked: int) -> Drawn:
    values, tokens = logprobs.topk(min(asked, len(logprobs)))
    top = tuple(map(TokenChance, tokens.tolist(), values.tolist()))
    return Drawn(token, float(logprobs[token]), top)


@dataclass(slots=True)
class _Groups:
    """Rows by how much of the vocabulary they draw from."""

    few: list[int] = field(default_factory=list)
    most: list[int] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)


def _draw(
    logits: Tensor,
    best: Tensor,
    rows: Sequence[Sampling],
    chosen: list[int],
    errors: dict[int, str],
) -> None:
    """Replace the likeliest tokens of rows that draw."""
    groups = _Groups()
    for number, row in enumerate(rows):
        options = row.options
        if options.temperature == 0 or number in errors:
            continue
        if 0 < options.top_k <= _LIKELIEST:
            groups.few.append(number)
        elif options.top_k or options.top_p < 1 or options.min_p:
            groups.most.append(number)
        else:
            groups.whole.append(number)
    for members, width in (
        (groups.few, max((rows[number].options.top_k for number in groups.few), default=0)),
        (groups.most, _LIKELIEST),
    ):
        if members:
            scaled = _scaled(logits, best, rows, members)
            _draw_sorted(scaled, min(width, scaled.shape[1]), rows, members, chosen)
    for number in groups.whole:
        weights = _scaled(logits, best, rows, [number])[0].double().exp().cpu().numpy()
        chosen[number] = _pick(weights, rows[number].uniform())


def _scaled(logits: Tensor, best: Tensor, rows: Sequence[Sampling], members: list[int]) -> Tensor:
    """Less than 0 by as much as their temperature leaves; the likeliest is 0."""
    temperatures = torch.tensor(
        [rows[number].options.temperature for number in members], device=logits.device
    )
    part = logits if len(members) == len(rows) else logits[members]
    less = part - best[members].unsqueeze(1)
    return less / temperatures.clamp_min(1e-6)[:, None]


def _draw_sorted(
    scaled: Tensor, width: int, rows: Sequence[Sampling], members: list[int], chosen: list[int]
) -> None:
    likeliest, tokens = scaled.topk(width, dim=-1)
    totals = scaled.logsumexp(-1).double().exp().tolist()
    weights = likeliest.double().exp().cpu().numpy()
    names = tokens.cpu().numpy()
    for place, number in enumerate(members):
        options, mine, ids = rows[number].options, weights[place], names[place]
        if _needs_more(mine, totals[place], options, scaled.shape[1]):
            every, order = scaled[place].sort(descending=True)
            mine, ids = every.double().exp().cpu().numpy(), order.cpu().numpy()
        kept = _kept(mine, totals[place], options)
        chosen[number] = int(ids[_pick(mine[:kept], rows[number].uniform())])


def _needs_more(
    weights: NDArray[np.float64], total: float, options: GenerateOptions, vocabulary: int
) -> bool:
    """Whether tokens behind the likeliest may be kept too."""
    if len(weights) == vocabulary or 0 < options.top_k <= len(weights):
        return False
    if weights[-1] < options.min_p:
        return False
    return bool(options.top_k) or bool(weights.sum() < options.top_p * total)


def _kept(weights: NDArray[np.float64], total: float, options: GenerateOptions) -> int:
    """How many of the likeliest tokens stay: `top_k`, of these `top_p`, of these `min_p`."""
    if options.top_k:
        weights = weights[: options.top_k]
        total = weights.sum()
    if options.top_p < 1:
        below = np.cumsum(weights)
        weights = weights[: int(np.searchsorted(below, options.top_p * total)) + 1]
    if options.min_p:
        weights = weights[weights >= options.min_p * weights[0]]
    return max(1, len(weights))


def _pick(weights: NDArray[np.float64], uniform_number: float) -> int:
    """The place where the running sum exceeds this part of the whole."""
    below = np.cumsum(weights)
    return min(int(np.searchsorted(below, uniform_number * below[-1], "right")), len(weights) - 1)
