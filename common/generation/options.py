"""The options of one generation, as jobs carry them in `params`.

Strict: an option that is unknown, or of another type, is refused by name. Both sides read them
here: the front before it accepts a job, and the worker, as Celery clients send theirs directly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import InvalidInput

Stop = Annotated[str, Field(min_length=1, max_length=256)]


class GenerateOptions(BaseModel):
    """Options of one request. Every request keeps its own, whatever runs beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    max_tokens: int = Field(100, ge=1, le=1_000_000, description="Most new tokens.")
    min_tokens: int = Field(0, ge=0, description="Fewest new tokens; no end before.")
    temperature: float = Field(0.7, ge=0, le=100, description="0 takes the likeliest token.")
    top_p: float = Field(0.9, gt=0, le=1, description="Only tokens of this probability together.")
    top_k: int = Field(0, ge=0, description="Only so many tokens; 0 is all.")
    min_p: float = Field(0.0, ge=0, le=1, description="Only tokens of this part of the likeliest.")
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    seed: int | None = Field(None, ge=0, lt=2**63, description="Unset is made of the job's id.")
    stop: tuple[Stop, ...] = Field((), max_length=16, strict=False)
    include_stop: bool = Field(False, description="Whether the stop string is part of the text.")
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] = Field(
        default_factory=dict, max_length=1024, description="Token id to what is added."
    )
    n: int = Field(1, ge=1, le=16, description="Answers to the same prompt.")
    logprobs: int | None = Field(None, ge=0, le=20, description="Likeliest tokens to name.")
    echo: bool = Field(False, description="Whether the text begins with the prompt.")
    json_schema: dict[str, Any] | None = Field(None, description="What the text must be, as JSON.")
    truncate: bool = Field(False, description="Cut the prompt from the left if it is too long.")
    stream: bool = Field(False, description="Whether tokens can be read as they come.")
    on_disconnect: Literal["continue", "cancel"] | None = Field(
        None, description="What becomes of the job when its reader leaves."
    )
    on_deadline: Literal["fail", "partial"] = Field(
        "fail", description="What a deadline that passes leaves: an error, or the text so far."
    )

    @property
    def repeatable(self) -> bool:
        """Whether the same request has the same text: then it may be cached and joined."""
        return self.temperature == 0 or self.seed is not None


def read_options(params: Mapping[str, Any]) -> GenerateOptions:
    """The options of a job; raises InvalidInput with the option's name and what it may be."""
    try:
        return GenerateOptions.model_validate(dict(params))
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "params"
        if first["type"] == "extra_forbidden":
            known = ", ".join(GenerateOptions.model_fields)
            raise InvalidInput(
                f"params.{where}: there is no such option; choose from {known}"
            ) from exc
        raise InvalidInput(f"params.{where}: {first['msg']}") from exc
