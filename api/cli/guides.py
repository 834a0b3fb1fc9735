"""Where the guides tell what to do, by symptom; a test holds that every entry is there."""

from __future__ import annotations

_PAGE = "docs/troubleshooting.md"

SYMPTOMS = {
    "high latency": f"{_PAGE}#high-latency",
    "low throughput": f"{_PAGE}#low-throughput",
    "CUDA out of memory": f"{_PAGE}#cuda-out-of-memory",
    "host memory grows": f"{_PAGE}#host-memory-grows",
    "GPU under 80% busy": f"{_PAGE}#gpu-under-80-percent-busy",
    "slow requests": f"{_PAGE}#slow-requests",
    "429, 503 or refused connections": f"{_PAGE}#429-503-and-refused-connections",
    "no gain after tuning": f"{_PAGE}#no-gain-after-tuning",
}
"""Symptom to entry."""
TUNING = "docs/tuning.md"
