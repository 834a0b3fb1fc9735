"""Inputs: the store of large ones, and the fetching of those given by URL."""

from __future__ import annotations

from pydantic import Field

from common.settings.base import Networks, Ports, Section


class BlobSettings(Section):
    """The store of inputs that are too large for a message."""

    inline_input_bytes: int = Field(
        65_536, ge=0, description="Inputs above this size go by reference, not in the message."
    )
    blob_url: str | None = Field(
        None,
        description="Where large inputs lie: file:///a/shared/folder or s3://bucket/prefix, which "
        "no other fleet uses; unset keeps them in Redis.",
    )
    redis_input_bytes: int = Field(
        1024 * 1024,
        ge=0,
        description="Inputs above this size go to LANEFLEET_BLOB_URL, where that is set.",
    )
    blob_sweep_seconds: float = Field(
        300.0, gt=0, description="How often inputs that no job needs are looked for."
    )
    blob_orphan_seconds: float = Field(
        900.0,
        ge=1,
        description="Age from which an input that no job needs is removed; longer than a submit "
        "may take.",
    )


class FetchSettings(Section):
    """Inputs that a worker fetches."""

    fetch_allow: Networks = Field(
        (),
        description="Networks beyond the public internet, as 10.1.0.0/16,fd00:1::/64, that "
        "input_url may lead to, at any port.",
    )
    fetch_ports: Ports = Field(
        (80, 443), description="Ports that input_url may lead to on the public internet."
    )
    fetch_max_bytes: int = Field(
        32 * 1024 * 1024, ge=1024, description="Largest input fetched from a URL, decompressed."
    )
    fetch_seconds: float = Field(
        15.0, gt=0, le=600, description="Longest an input may take to fetch, all tries together."
    )
    fetch_tries: int = Field(
        3, ge=1, le=10, description="Times a server that fails or is not reached is asked."
    )
    fetch_concurrency: int = Field(
        64, ge=1, le=1024, description="Inputs that one worker process fetches at a time."
    )
