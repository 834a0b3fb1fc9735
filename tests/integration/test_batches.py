"""Batches form by themselves, and change no result."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tests.support.stack import Stack, wait_until

WORDS = [
    "the",
    "a",
    "red",
    "green",
    "old",
    "new",
    "cat",
    "dog",
    "house",
    "river",
    "runs",
    "sleeps",
    "under",
]


def sentences(count: int) -> list[str]:
    rng = np.random.default_rng(7)
    return [" ".join(rng.choice(WORDS, size=rng.integers(3, 30))) for _ in range(count)]


def test_sentences_sent_one_by_one_form_batches_and_equal_single_results(stack: Stack) -> None:
    worker = stack.worker("minilm")
    api = stack.api("minilm")
    texts = sentences(200)

    def embed(text: str) -> list[float]:
        return api.client.submit("minilm", text, wait=60, cache=False)["result"]["embedding"]  # type: ignore[no-any-return]

    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(embed, texts))

    def counted() -> dict[int, int] | None:
        """The worker's own counters, once they have caught up with the last batch."""
        batches = stack.await_worker(worker).lanes["minilm"].batches
        sizes = {int(size): n for size, n in batches.items()}
        return sizes if sum(size * n for size, n in sizes.items()) >= 200 else None

    sizes = wait_until(counted, 20, "the worker's report")
    assert sum(size * n for size, n in sizes.items()) == 200, "one execution each"
    assert max(sizes) > 1, sizes
    alone = [embed(text) for text in texts[::10]]
    assert np.abs(np.array(together[::10]) - np.array(alone)).max() < 1e-5
