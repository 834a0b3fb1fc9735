"""The catalog's `options:` of a decoder."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.catalog import ModelSpec
from common.errors import ConfigurationError

__all__ = ("DecoderOptions", "read_decoder_options")


class DecoderOptions(BaseModel):
    """What the operator of a model decides."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    slots: int = Field(16, ge=1, le=1024, description="Texts that are written at once.")
    max_context: int = Field(
        2048, ge=16, description="Most tokens of a prompt and its answer; at most the model's."
    )
    kv_tokens: int | None = Field(
        None,
        ge=16,
        description="Most tokens that all texts together may come to hold; unset is "
        "slots x max_context.",
    )
    prefill_chunk: int = Field(
        64, ge=4, le=8192, description="Tokens of prompts read in one step, beside the answers."
    )
    reuse_prefixes: bool = Field(
        True, description="Whether a beginning that another prompt had is copied."
    )
    packed: bool = Field(
        True, description="Whether weights are packed for the processor (fp32 on a CPU)."
    )
    exact: bool = Field(
        False, description="Whether a text has the same bits alone and in company; slower."
    )
    template_seconds: float = Field(
        2.0, gt=0, le=60, strict=False, description="Longest that a chat template may take."
    )
    template_memory_mb: int = Field(
        256, ge=64, le=8192, description="Most memory of the process that fills it."
    )


def read_decoder_options(spec: ModelSpec) -> DecoderOptions:
    """Raises ConfigurationError that names the option."""
    try:
        return DecoderOptions.model_validate(spec.options)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        known = ", ".join(DecoderOptions.model_fields)
        said = (
            f"there is no such option; choose from {known}"
            if first["type"] == "extra_forbidden"
            else first["msg"]
        )
        raise ConfigurationError(f"models.{spec.name}.options.{where}: {said}") from exc
