"""The embedded engine through the whole fleet, and its worker killed amid texts.

In exact mode a text that several workers wrote is the one that a single run writes: greedy and
drawn, in company and alone.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml

from tests.models.test_generation import alone, ask, decoder
from tests.models.test_models import need
from tests.support.generation import Reader, generate, text_of_job
from tests.support.lanes import await_settled
from tests.support.stack import Stack, wait_until
from tests.support.tiny_decoder import LLAMA, write_decoder

need("torch", "tokenizers", "safetensors", "jinja2")

TOKENS = 180
WAYS = ({"temperature": 0}, {"temperature": 1.1, "top_p": 0.95, "seed": 7})


def serve(stack: Stack, folder: Path) -> None:
    options = {"slots": 4, "max_context": 256, "prefill_chunk": 16, "exact": True}
    entry = {"handler": "decoder", "task": "generate", "weights": str(folder), "options": options}
    path = stack.folder / "models.yaml"
    path.write_text(yaml.safe_dump({"models": {"writer": entry}}))
    stack.environment |= {
        "LANEFLEET_CATALOG": str(path),
        "LANEFLEET_LEASE_SECONDS": "1.5",
        "LANEFLEET_MAX_ATTEMPTS": "100",
        "OMP_NUM_THREADS": "1",
    }


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kills", [2, 50])
def test_texts_of_killed_workers_are_those_of_a_single_run(
    stack: Stack, tmp_path: Path, kills: int
) -> None:
    import torch

    torch.set_num_threads(1)  # as the workers have
    chance = random.Random(kills)
    folder = write_decoder(tmp_path / "tiny", {**LLAMA, "hidden_size": 64, "num_hidden_layers": 8})
    serve(stack, folder)
    worker = stack.worker("writer")
    prompts: list[tuple[str, int, Reader]] = []
    going: list[Reader] = []
    for kill in range(kills):
        for reader in [one for one in going if one.finish()]:
            going.remove(reader.stop())  # each holds a connection
        for number in range(len(going), 4):
            way = chance.randrange(len(WAYS))
            text = f"{kill} " + "once upon a time " * (number + 1)
            (job,) = generate(stack, "writer", text, max_tokens=TOKENS, stream=True, **WAYS[way])
            going.append(Reader(stack.redis, job).start())
            prompts.append((text, way, going[-1]))
        before, wanted = said_by(going), 1 + chance.randrange(2 * TOKENS)
        wait_until(
            lambda: said_by(going) >= before + wanted or all(one.finish() for one in going),  # noqa: B023
            120,
            "some tokens",
        )
        worker.kill()
        worker = stack.worker("writer")
    await_settled(stack, [reader.job_id for _, _, reader in prompts], 600)
    model = decoder(folder, max_context=256, exact=True)
    vocabulary = model._loaded.prompts.vocabulary  # type: ignore[union-attr]
    torn = 0
    for text, way, reader in prompts:
        run = alone(model, ask(model, text, max_tokens=TOKENS, **WAYS[way]))
        said = [token for delta in reader.stop().deltas() for token in delta.tokens]
        assert said == run.tokens[0]
        assert reader.text() == text_of_job(stack, reader.job_id)
        whole = vocabulary.text_of(run.tokens[0])
        assert whole.startswith(reader.text()), "less what half a character left at the end"
        record = stack.record(reader.job_id)
        torn += bool(record and record.attempts > 1)
    print(f"{len(prompts)} texts, {kills} kills, {torn} went on elsewhere: 0 differ")


def said_by(readers: list[Reader]) -> int:
    """How many tokens they have read together."""
    return sum(len(delta.tokens) for reader in readers for delta in reader.deltas())
