"""The options of one generation, as jobs carry them in `params`.

Strict: an option that is unknown, or of another type, is refused by name. Both sides read them
here: the front before it accepts a job, and the worker, as Celery clients send theirs directly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from common.errors import InvalidInput

Stop = Annotated[str, Field(min_length=1, max_length=256)]
_TOKEN_DIGITS = 10
_NAME_CHARACTERS = 80


def _names_tokens(biases: dict[str, float]) -> dict[str, float]:
    """The biases as they are; `int` takes more than token ids have: signs, spaces, other digits."""
    for name in biases:
        if not (name.isascii() and name.isdecimal() and len(name) <= _TOKEN_DIGITS):
            raise PydanticCustomError(
                "token_id", "{name} is no token id", {"name": ascii(name[:40])}
            )
    return biases


class GenerateOptions(BaseModel):
    """Options of one request. Every request keeps its own, whatever runs beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    max_tokens: int = Field(100, ge=1, le=1_000_000, description="Most new tokens.")
    min_tokens: int = Field(0, ge=0, description="Fewest new tokens; no end before.")
    temperature: float = Field(0.7, ge=0, le=100, description="0 takes the likeliest token.")
    top_p: float = Field(0.9, gt=0, le=1, description="Only tokens of this probability together.")
    top_k: int = Field(0, ge=0, description="Only so many tokens; 0 is all.")
    min_p: float = Field(0.0, ge=0, le=1, description="Only tokens of this part of the likeliest.")
    repetition_penalty: float = Field(1.0, ge=0.01, le=10)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    seed: int | None = Field(None, ge=0, lt=2**63, description="Unset is made of the job's id.")
    stop: tuple[Stop, ...] = Field((), max_length=16, strict=False)
    include_stop: bool = Field(False, description="Whether the stop string is part of the text.")
    logit_bias: Annotated[
        dict[str, Annotated[float, Field(ge=-100, le=100)]], AfterValidator(_names_tokens)
    ] = Field(default_factory=dict, max_length=1024, description="Token id to what is added.")
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


class InvalidOption(InvalidInput):
    """An option that there is not, or one with another value than it may have."""

    def __init__(self, option: str, problem: str, where: str = "params.") -> None:
        super().__init__(f"{where}{option}: {problem}")
        self.option, self.problem = option, problem

    def under(self, where: str) -> InvalidOption:
        """The same of options that are sent elsewhere than in `params`."""
        return InvalidOption(self.option, self.problem, where)

    def __reduce__(self) -> tuple[Any, ...]:
        return InvalidOption, (self.option, self.problem)


_INTEGERS = frozenset(
    name
    for name, field in GenerateOptions.model_fields.items()
    if field.annotation in (int, int | None)
)
"""JSON has one type of number: 1.0 is an integer there."""


def read_options(params: Mapping[str, Any]) -> GenerateOptions:
    """The options of a job; raises InvalidOption with the option's name and what it may be."""
    try:
        return GenerateOptions.model_validate(
            {
                name: int(value)
                if isinstance(value, float) and value.is_integer() and name in _INTEGERS
                else value
                for name, value in params.items()
            }
        )
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        option = ".".join(map(str, first["loc"]))[:_NAME_CHARACTERS]
        if first["type"] == "extra_forbidden":
            known = ", ".join(GenerateOptions.model_fields)
            problem = f"there is no such option; choose from {known}"
            raise InvalidOption(option, problem) from exc
        raise InvalidOption(option, first["msg"]) from exc


_NOT_IN_THE_TEXT = frozenset({"stream", "on_disconnect", "on_deadline"})


def cached_by(options: GenerateOptions) -> Mapping[str, Any] | None:
    """What of the options a result depends on, for its cache key; None where it must have none: the
    next run has another text, or one that a deadline cut.
    """
    if not options.repeatable or options.on_deadline == "partial":
        return None
    return options.model_dump(exclude=set(_NOT_IN_THE_TEXT), exclude_defaults=True)
