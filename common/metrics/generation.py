"""The metrics of lanes whose work is steps: at most 29 series a lane beside those of every lane."""

from __future__ import annotations

from common.metrics.declaration import Kind, Metric

_WHEN = "its model is a generator"


def _worker(name: str, kind: Kind, text: str, *labels: str, unit: str = "") -> Metric:
    return Metric(f"lanefleet_worker_{name}", kind, text, labels, unit, ("worker",), _WHEN)


TOKENS = _worker(
    "tokens_total",
    "counter",
    "Tokens of prompts that were given rows, and tokens generated: `prompt`, `completion`.",
    "lane",
    "kind",
    unit="tokens",
)
FIRST_TOKEN = _worker(
    "first_token_seconds",
    "histogram",
    "Time from a job's reservation to its first token.",
    "lane",
    unit="seconds",
)
TOKEN_INTERVAL = _worker(
    "token_interval_seconds",
    "histogram",
    "Time between two tokens of a row.",
    "lane",
    unit="seconds",
)
ROWS_ACTIVE = _worker("rows_active", "gauge", "Rows that generate.", "lane", unit="rows")
ROWS = _worker("rows", "gauge", "Rows that there are.", "lane", unit="rows")
ROW_TOKENS = _worker(
    "row_tokens",
    "gauge",
    "Tokens that the jobs on rows may come to hold in the KV cache.",
    "lane",
    unit="tokens",
)
FREED_STEPS = _worker(
    "canceled_row_steps",
    "histogram",
    "Steps that ended between a job's cancellation and the release of its rows.",
    "lane",
    unit="steps",
)
REPLAYS = _worker(
    "replayed_jobs_total",
    "counter",
    "Jobs that were run alone because a step with them raised.",
    "lane",
    unit="jobs",
)
STREAM_WAITS = _worker(
    "stream_waits_total",
    "counter",
    "Times that a lane waited because too many steps were still to be written.",
    "lane",
    unit="times",
)
