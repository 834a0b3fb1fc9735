"""Text embeddings by a session, in runs of sentences of like lengths.

A graph pads each run to its longest sentence, and padding costs what tokens cost; a run of its own
costs a call. So a batch is sorted, and cut where more would be padded than a call is worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.catalog import ModelSpec
from worker.models.sessions import Session, check_ports, session_for

__all__ = ("EmbeddingSession", "open_embedding", "padded", "runs_of")

INPUTS, OUTPUTS = ("input_ids", "attention_mask"), ("vectors",)
_PADDED_SHARE = 0.1
"""Most padding of a run, beside its tokens."""
_CALL_TOKENS = 32
"""Tokens that a call is worth besides."""


class EmbeddingSession:
    """A graph from input_ids and attention_mask to vectors."""

    def __init__(self, session: Session, *, one_run: bool) -> None:
        """one_run: the whole batch at once, padded; for a GPU, which waits for launches."""
        self._session = session
        self.backend = session.backend
        self._one_run = one_run

    def vectors(self, sentences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """A vector of unit length for each sentence, in their order: sentences x width."""
        order = sorted(range(len(sentences)), key=lambda index: len(sentences[index]))
        lengths = [len(sentences[index]) for index in order]
        spans = [(0, len(lengths))] if self._one_run else list(runs_of(lengths))
        found = [
            self._session.run(padded([sentences[index] for index in order[first:end]]))[0]
            for first, end in spans
        ]
        sorted_ = np.concatenate(found).astype(np.float32, copy=False)
        back = np.empty_like(sorted_)
        back[order] = sorted_
        return back


def open_embedding(spec: ModelSpec, graph: Path, device: str, longest: int) -> EmbeddingSession:
    """Open the graph of a text embedder. Raises ConfigurationError where it is another kind."""
    session = session_for(spec, graph, device, longest=longest)
    check_ports(spec.name, graph, session, INPUTS, OUTPUTS)
    return EmbeddingSession(session, one_run=device != "cpu")


def runs_of(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Of ascending lengths: where each run begins and ends, the shortest sentences first."""
    spans, end = [], len(lengths)
    while end:
        longest, first, tokens = lengths[end - 1], end, 0
        while first:
            more = tokens + lengths[first - 1]
            spare = (end - first + 1) * longest - more
            if spare > _PADDED_SHARE * more + _CALL_TOKENS:
                break
            first, tokens = first - 1, more
        spans.append((first, end))
        end = first
    yield from reversed(spans)


def padded(sentences: Sequence[Sequence[int]]) -> dict[str, NDArray[np.int64]]:
    """input_ids and attention_mask, B x L, of sentences of any lengths."""
    longest = max(map(len, sentences))
    ids = np.zeros((len(sentences), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, sentence in enumerate(sentences):
        ids[row, : len(sentence)] = sentence
        mask[row, : len(sentence)] = 1
    return {"input_ids": ids, "attention_mask": mask}
