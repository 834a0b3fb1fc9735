"""What the catalog says of a server: `options` of a model whose handler is `openai-server`.

Only operators write it. Jobs choose neither the server nor its model, its adapter or its address.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from common.catalog import ModelSpec
from common.errors import ConfigurationError

EngineName = Literal["vllm", "sglang", "llama.cpp", "tgi", "openai"]


class ServerOptions(BaseModel):
    """Options of one server, started by `command` or running at `url`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: EngineName = Field(
        "openai", description="What it is; says which options of a request it knows."
    )
    command: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="Program and arguments, run without a shell."
    )
    environment: dict[str, str] = Field(
        default_factory=dict, description="Added to the few variables that the program gets."
    )
    url: str = Field("", description="Where it runs already, such as http://10.0.0.7:8000.")
    api_key_file: Path | None = Field(None, description="The key of the server at `url`.")
    model: str = Field("", description="Its name for the model; unset is the first that it lists.")
    slots: int = Field(16, ge=1, le=4096, description="Jobs that it gets at once.")
    context_tokens: int | None = Field(
        None, ge=1, description="Longest prompt and answer; unset is what the server says."
    )
    start_seconds: float = Field(
        840.0, gt=0, description="Longest until a program that was started answers."
    )
    hang_seconds: float = Field(
        120.0, gt=0, description="How long one that was healthy may not be before it is replaced."
    )
    stop_seconds: float = Field(
        20.0, ge=0, le=600, description="From asking the program to end until it is killed."
    )
    health_seconds: float = Field(5.0, gt=0, le=300, description="How often its health is asked.")
    patience_seconds: float = Field(
        30.0, ge=0, description="How long jobs wait here for a server that is not healthy."
    )
    answer_seconds: float = Field(900.0, gt=0, description="Longest one request may take.")
    silence_seconds: float = Field(120.0, gt=0, description="Longest it may send nothing.")
    max_answer_bytes: int = Field(64 * 2**20, ge=1024, description="Most bytes of one response.")
    max_line_bytes: int = Field(2**20, ge=1024, description="Most bytes of one of its events.")

    @field_validator("environment", mode="before")
    @classmethod
    def _values_are_text(cls, found: object) -> object:
        """YAML reads `1` and `true` as no text, which is clear enough for a variable."""
        if not isinstance(found, dict):
            return found
        return {
            str(name): str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in found.items()
        }

    @field_validator("url")
    @classmethod
    def _url_is_http(cls, url: str) -> str:
        if not url:
            return url
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be http://host:port or https://host")
        if parts.username is not None or parts.password is not None:
            raise ValueError("must hold no password; name a file in `api_key_file`")
        if parts.query or parts.fragment:
            raise ValueError("must end with its path")
        return url.rstrip("/").removesuffix("/v1")

    @model_validator(mode="after")
    def _either_started_or_running(self) -> ServerOptions:
        if bool(self.command) == bool(self.url):
            raise ValueError("set either `command`, to start a server, or `url`, of one that runs")
        if self.url and self.environment:
            raise ValueError("`environment` is for a server that `command` starts")
        if self.command and self.api_key_file:
            raise ValueError(
                "`api_key_file` is for a server at `url`; the one that `command` "
                "starts gets a key of its own"
            )
        return self


def read_server_options(spec: ModelSpec) -> ServerOptions:
    """The options of this model; raises ConfigurationError with the field."""
    try:
        return ServerOptions.model_validate(spec.options)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(("options", *map(str, first["loc"])))
        said = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            known = ", ".join(ServerOptions.model_fields)
            said = f"there is no such option; choose from {known}"
        raise ConfigurationError(f"models.{spec.name}.{where}: {said}") from exc


def read_key(options: ServerOptions) -> str:
    """The key of a server at `url`; empty where it has none."""
    if options.api_key_file is None:
        return ""
    try:
        return options.api_key_file.read_text().strip()
    except OSError as exc:
        raise ConfigurationError(
            f"cannot read options.api_key_file {options.api_key_file}: {exc.strerror}"
        ) from exc
