"""Generation: the turns of its steps, and what is kept of what it says."""

from __future__ import annotations

from pydantic import Field

from common.settings.base import Section


class GenerationSettings(Section):
    """Lanes whose work is steps."""

    generation_turn_ms: float = Field(
        50.0,
        ge=0,
        le=10_000,
        description="Longest the steps of such a lane follow each other without a look at what "
        "else there is to do; while another lane waits, one step is a turn.",
    )
    generation_look_ahead: int = Field(
        4,
        ge=0,
        le=1_000,
        description="Jobs held ready, decoded, beside those that have a row on the device, while "
        "the lane is deep.",
    )
    step_timeout_seconds: float = Field(
        120.0,
        ge=0,
        description="Longest one step, an admission or a drop may take before its worker process "
        "is replaced; 0 is no limit.",
    )
    stream_seconds: int = Field(
        3_600,
        ge=10,
        le=7 * 86_400,
        description="How long what a job with `stream` has said can be read, from its last token; "
        "after its end at most as long as its result.",
    )
    stream_buffer: int = Field(
        256,
        ge=1,
        le=100_000,
        description="Steps whose tokens may wait to be written before their lanes wait: while "
        "Redis is slow or away.",
    )
    stream_pace_ms: float = Field(
        20.0,
        ge=0,
        le=1_000,
        description="Least time from one write of what streams have said to the next: faster steps "
        "are written together. The first tokens of a text and its end do not wait.",
    )
