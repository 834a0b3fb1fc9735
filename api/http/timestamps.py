"""Timestamps in the API's JSON format."""

from __future__ import annotations

from datetime import UTC, datetime


def moment(unix_ms: int | None) -> datetime | None:
    return None if unix_ms is None else datetime.fromtimestamp(unix_ms / 1000, UTC)
