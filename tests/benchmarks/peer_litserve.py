"""MiniLM on LitServe, FastAPI in front and one worker process: `... peer_litserve PORT`."""

from __future__ import annotations

import sys
from typing import Any

import litserve

from tests.benchmarks.model_peers import WAIT_MS
from tests.benchmarks.offline import BATCH, PlainMiniLM


class Embed(litserve.LitAPI):
    """Texts need no stacking, so batch and unbatch only pass lists on."""

    def setup(self, device: str) -> None:
        """Load in the worker process."""
        self.model = PlainMiniLM()

    def decode_request(self, request: dict[str, str]) -> str:
        """The text."""
        return request["input"]

    def batch(self, inputs: list[str]) -> list[str]:
        """As it is."""
        return list(inputs)

    def predict(self, inputs: list[str]) -> list[list[float]]:
        """One batch."""
        return self.model.embed(inputs)

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        """As it is."""
        return output

    def encode_response(self, output: list[float]) -> dict[str, Any]:
        """One vector."""
        return {"embedding": output}


def main(port: str) -> None:
    """Serve until killed."""
    api = Embed(max_batch_size=BATCH, batch_timeout=WAIT_MS / 1000)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=120)
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1])
