"""What a lane's generations have done, for the metrics and the report."""

from __future__ import annotations

from common.metrics.histogram import Histogram

FIRST_TOKEN_EDGES = (0.05, 0.2, 1.0, 5.0)
BETWEEN_EDGES = (0.01, 0.03, 0.1, 0.3)
FREED_EDGES = (0.0, 1.0, 2.0, 4.0)


class GenerationStats:
    """Counts since the process began. Written by the device thread; read one step late."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        """Of prompts that were given rows."""
        self.completion_tokens = 0
        self.first_token = Histogram(FIRST_TOKEN_EDGES)
        """Seconds from a job's reservation here to its first token."""
        self.between = Histogram(BETWEEN_EDGES)
        """Seconds between two tokens of one row."""
        self.freed = Histogram(FREED_EDGES)
        """Steps that ended between a job's cancellation and the drop of its rows."""
        self.replays = 0
        """Steps that raised, after which each row was run alone."""
