"""The keys and values of every row, and the pass that reads and extends them.

Rows begin at column 0, with no padding on the left. Those that are extended by a token each are
the first ones, so that attention reads one rectangle; a prompt's chunk is read in any other row.

Keys are read up to a multiple of 16, with which attention has the same bits however many follow.
In exact mode products that are not packed (`products.py`) are taken of a multiple of 4 tokens: so a
row's numbers do not depend on its company.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from worker.models.generation.network import Network
from worker.models.generation.products import PLAIN_MULTIPLE

__all__ = ("Cache", "Chunk")

_KEYS_MULTIPLE = 16


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of a prompt that are read into a row, from this column on."""

    place: int
    first: int
    tokens: Sequence[int]

    @property
    def end(self) -> int:
        """The column behind it."""
        return self.first + len(self.tokens)


@dataclass(frozen=True, slots=True)
class _Running:
    """The first rows, each with its new token's column."""

    rows: Tensor
    columns: Tensor
    bias: Tensor

    @property
    def count(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class _Reading:
    """A chunk with the bias of its attention."""

    chunk: Chunk
    bias: Tensor


class Cache:
    """Rows x columns of a network's keys and values."""

    def __init__(
        self, network: Network, rows: int, columns: int, device: str, *, exact: bool
    ) -> None:
        shape = network.shape
        columns = _rounded(columns, _KEYS_MULTIPLE)
        self._network = network
        self._multiple = PLAIN_MULTIPLE if exact and not network.packed else 1
        self._device = device
        # On a CPU a page of it takes memory once it is written.
        size = (shape.layers, rows, shape.kv_heads, columns, shape.head_width)
        self._keys = torch.zeros(size, dtype=network.dtype, device=device)
        self._values = torch.zeros(size, dtype=network.dtype, device=device)
        self._columns = torch.arange(columns, device=device)

    def advance(self, running: Sequence[tuple[int, int]], chunks: Sequence[Chunk]) -> Tensor:
        """One pass. running: the token and column of rows 0, 1, 2 and so on.

        Returns float32 logits: of each running row, then of each chunk's last token.
        """
        tokens = [token for token, _ in running]
        columns = [column for _, column in running]
        wanted = list(range(len(running)))
        for chunk in chunks:
            tokens += chunk.tokens
            columns += range(chunk.first, chunk.end)
            wanted.append(len(tokens) - 1)
        padding = -len(tokens) % self._multiple
        states = self._network.states(
            self._tensor(tokens + [0] * padding),
            self._tensor(columns + [0] * padding),
            self._attention(self._running(columns[: len(running)]), chunks, padding),
        )
        asked = len(wanted)
        wanted += [0] * (-asked % self._multiple)
        return self._network.logits(states[self._tensor(wanted)])[:asked]

    def copy(self, source: int, target: int, columns: int) -> None:
        """Have one row begin as another does."""
        for cached in (self._keys, self._values):
            cached[:, target, :, :columns] = cached[:, source, :, :columns]

    def swap(self, one: int, other: int, columns: int) -> None:
        """Exchange the beginnings of two rows."""
        for cached in (self._keys, self._values):
            kept = cached[:, one, :, :columns].clone()
            cached[:, one, :, :columns] = cached[:, other, :, :columns]
            cached[:, other, :, :columns] = kept

    def clear(self, place: int) -> None:
        """Forget a row whose numbers are none: masked keys are read too, and NaN times 0 is NaN."""
        for cached in (self._keys, self._values):
            cached[:, place] = 0

    def _tensor(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self._device)

    def _running(self, columns: list[int]) -> _Running | None:
        if not columns:
            return None
        at = self._tensor(columns)
        bias = self._bias(at, max(columns) + 1)[:, None, None]
        return _Running(torch.arange(len(columns), device=self._device), at, bias)

    def _bias(self, columns: Tensor, end: int) -> Tensor:
        """What keeps each token from looking ahead: 0, or minus infinity; tokens x keys."""
        keys = self._columns[: _rounded(end, _KEYS_MULTIPLE)]
        seen = keys <= columns[:, None]
        if (window := self._network.shape.window) is not None:
            seen &= keys > columns[:, None] - window
        bias = torch.zeros(seen.shape, dtype=self._network.dtype, device=self._device)
        return bias.masked_fill_(~seen, float("-inf"))

    def _attention(
        self, running: _Running | None, chunks: Sequence[Chunk], padding: int
    ) -> _Attention:
        heads_a_key = self._network.shape.heads // self._network.shape.kv_heads
        reading = [
            _Reading(
                chunk,
                self._bias(self._columns[chunk.first : chunk.end], chunk.end).repeat(
                    heads_a_key, 1
                ),
            )
            for chunk in chunks
        ]
        return _Attention(self._keys, self._values, running, reading, padding)


class _Attention:
    """Attention of one pass: writes the new keys and values, and reads all up to there."""

    def __init__(
        self,
        keys: Tensor,
        values: Tensor,
        running: _Running | None,
        reading: Sequence[_Reading],
        padding: int,
    ) -> None:
        self._keys, self._values = keys, values
        self._running, self._reading, self._padding = running, reading, padding

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `network.Attend`."""
        cached = self._keys[layer], self._values[layer]
        parts, at = [], 0
        if self._running is not None:
            at = self._running.count
            parts.append(self._extend(cached, queries[:at], keys[:at], values[:at]))
        for one in self._reading:
            end = at + len(one.chunk.tokens)
            parts.append(self._read(one, cached, queries[at:end], keys[at:end], values[at:end]))
            at = end
        if self._padding:
            parts.append(parts[0].new_zeros(self._padding, parts[0].shape[1]))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _extend(
        self, cached: tuple[Tensor, Tensor], queries: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        running = self._running
        assert running is not None
        cached[0][running.rows, :, running.columns] = keys
        cached[1][running.rows, :, running.columns] = values
        count, heads, width = queries.shape
        kv_heads, end = keys.shape[1], running.bias.shape[-1]
        # Heads that share keys are queries of one attention, which reads those keys once.
        attended = F.scaled_dot_product_attention(
            queries.reshape(count, kv_heads, heads // kv_heads, width),
            cached[0][:count, :, :end],
            cached[1][:count, :, :end],
            attn_mask=running.bias,
        )
        return attended.reshape(count, heads * width)

    @staticmethod
    def _read(
        one: _Reading,
        cached: tuple[Tensor, Tensor],
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        chunk, end = one.chunk, one.bias.shape[-1]
        cached[0][chunk.place, :, chunk.first : chunk.end] = keys.transpose(0, 1)
        cached[1][chunk.place, :, chunk.first : chunk.end] = values.transpose(0, 1)
        count, heads, width = queries.shape
        kv_heads = keys.shape[1]
        shared = heads // kv_heads
        grouped = queries.reshape(count, kv_heads, shared, width).permute(1, 2, 0, 3)
        attended = F.scaled_dot_product_attention(
            grouped.reshape(1, kv_heads, shared * count, width),
            cached[0][None, chunk.place, :, :end],
            cached[1][None, chunk.place, :, :end],
            attn_mask=one.bias,
        )
        apart = attended.view(kv_heads, shared, count, width).permute(2, 0, 1, 3)
        return apart.reshape(count, heads * width)


def _rounded(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
