"""Weights that workers fetch from a mirror."""

from __future__ import annotations

from pydantic import Field

from common.settings.base import Networks, Ports, Section


class MirrorSettings(Section):
    """What `weights:` with an https URL may fetch, and from where."""

    weights_allow: Networks = Field(
        (),
        description="Networks beyond the public internet, as 10.1.0.0/16,fd00:1::/64, that weights "
        "may be fetched from, at any port.",
    )
    weights_ports: Ports = Field(
        (443,), description="Ports on the public internet that weights may be fetched from."
    )
    weights_max_bytes: int = Field(
        64 * 1024**3, ge=1024, description="Largest file of weights that is fetched."
    )
    weights_max_unpacked_bytes: int = Field(
        128 * 1024**3, ge=1024, description="Most that an archive of weights may hold, unpacked."
    )
    weights_max_files: int = Field(
        10_000, ge=1, description="Most files that an archive of weights may hold."
    )
    weights_fetch_seconds: float = Field(
        800.0,
        gt=0,
        description="Longest one load may fetch, less than LANEFLEET_LOAD_TIMEOUT_SECONDS; the "
        "next load goes on where it ended.",
    )
    weights_stall_seconds: float = Field(
        30.0, gt=0, description="Longest a mirror may send nothing before it is asked again."
    )
    weights_tries: int = Field(
        5, ge=1, le=100, description="Times a mirror that fails or is not reached is asked."
    )
