"""MiniLM on mosec, a front in Rust and one worker process: `... peer_mosec PORT`."""

from __future__ import annotations

import sys
from typing import Any

from mosec import Server, Worker

from tests.benchmarks.model_peers import WAIT_MS
from tests.benchmarks.offline import BATCH, PlainMiniLM


class Embed(Worker):
    """Loads in its own process."""

    def __init__(self) -> None:
        self.model = PlainMiniLM()

    def forward(self, requests: list[dict[str, str]]) -> list[dict[str, Any]]:
        """One batch."""
        vectors = self.model.embed([request["input"] for request in requests])
        return [{"embedding": vector} for vector in vectors]


def main(port: str) -> None:
    """Serve until killed."""
    sys.argv = [sys.argv[0], "--port", port, "--timeout", "120000", "--log-level", "warning"]
    server = Server()
    server.append_worker(Embed, num=1, max_batch_size=BATCH, max_wait_time=WAIT_MS)
    server.run()


if __name__ == "__main__":
    main(sys.argv[1])
