"""The tools for models: how much they read, try and write."""

from __future__ import annotations

from pydantic import Field

from common.settings.base import Section


class ToolSettings(Section):
    """What `lanefleet quantize`, `compile` and `export` take of a machine."""

    calibration_samples: int = Field(
        64, ge=1, le=100_000, description="Inputs by which static ranges of int8 are measured."
    )
    calibration_seconds: float = Field(
        600.0,
        gt=0,
        description="Longest they are measured; the inputs that were read until then count.",
    )
    quantize_samples: int = Field(
        800,
        ge=32,
        le=1_000_000,
        description="Most inputs read to tune by, and to judge by, unless --most says.",
    )
    quantize_tuning_samples: int = Field(
        200, ge=16, le=1_000_000, description="Inputs on which a try of the search is scored."
    )
    quantize_batch: int = Field(
        16, ge=1, le=4096, description="Inputs that are run at once while tries are judged."
    )
    quantize_seconds: float = Field(
        7200.0, gt=0, description="Longest the search for layers to keep in fp32 may take."
    )
    quantize_disk_mb: float = Field(
        20_000.0, gt=0, description="Most that its tries may take of the disk beside the target."
    )
    compile_samples: int = Field(
        64, ge=1, le=100_000, description="Inputs by which a compiled network is judged."
    )
    export_samples: int = Field(
        32, ge=1, le=100_000, description="Inputs by which an exported graph is compared."
    )
