"""The catalog: which models this fleet serves, from `deploy/models.yaml`.

Both sides read the same file, so the front can refuse what no worker
would understand, without importing a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from common.errors import ConfigurationError, UnknownModel

InputKind = Literal["text", "image", "json"]

NAME_PATTERN = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}$")
BUILTIN_HANDLERS: Mapping[str, str] = {
    "echo": "worker.models.echo:Echo",
    "minilm": "worker.models.minilm:MiniLM",
    "text-detect": "worker.models.text_detect:TextDetect",
    "resnet50": "worker.models.resnet50:ResNet50",
}


class ModelSpec(BaseModel):
    """One model as the catalog states it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="The model's name; also its lane and Celery queue.")
    handler: str = Field(description="A built-in handler's name, or `module:Class`.")
    input: InputKind = Field("json", description="What the input is: text, image or json.")
    description: str = Field("", description="One sentence for people.")
    version: str = Field("1", description="Goes into cache keys; a new one misses.")
    weights: str = Field(
        "none", description="`random`, a path, a hub id, or `package:NAME[/SUBDIR]`."
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="Arithmetic used.")
    max_batch: int = Field(32, ge=1, le=4096, description="Most jobs in one batch.")
    max_wait_ms: float = Field(
        10.0, ge=0, le=60_000, description="Longest a job waits for company while busy."
    )
    max_cost: float | None = Field(
        None, gt=0, description="Most padded cost (tokens, pixels) in one batch."
    )
    weight: float = Field(1.0, gt=0, description="Share of the device against other lanes.")
    result_ttl_seconds: int | None = Field(
        None, ge=1, description="How long results are kept; unset is the fleet's."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="What the handler itself takes."
    )

    @field_validator("name")
    @classmethod
    def _name_is_a_queue_name(cls, name: str) -> str:
        if not NAME_PATTERN.match(name):
            raise ValueError(
                "a model's name is 1-64 of a-z 0-9 . _ - and starts with a letter or digit"
            )
        return name

    @field_validator("handler")
    @classmethod
    def _handler_can_be_found(cls, handler: str) -> str:
        if handler not in BUILTIN_HANDLERS and not re.match(r"^[\w.]+:\w+$", handler):
            raise ValueError(
                f"handler {handler!r} is neither built in ({', '.join(BUILTIN_HANDLERS)}) "
                "nor of the form module:Class"
            )
        return handler

    @property
    def handler_path(self) -> str:
        """The handler as `module:Class`."""
        return BUILTIN_HANDLERS.get(self.handler, self.handler)


class Catalog(Mapping[str, ModelSpec]):
    """The models by name; asking for another raises UnknownModel with the names there are."""

    def __init__(self, specs: Mapping[str, ModelSpec]) -> None:
        self._specs = dict(specs)

    def __getitem__(self, name: str) -> ModelSpec:
        try:
            return self._specs[name]
        except KeyError:
            known = ", ".join(sorted(self._specs))
            raise UnknownModel(
                f"there is no model {str(name)[:80]!r}; this fleet serves: {known}"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def subset(self, names: tuple[str, ...]) -> Catalog:
        """Only these models; an empty tuple is all of them."""
        return Catalog({name: self[name] for name in names}) if names else self


def load_catalog(path: Path) -> Catalog:
    """Read the catalog file.

    Raises ConfigurationError with the file, the model and the field.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigurationError(
            f"cannot read the catalog {path}: {exc.strerror}; set LANEFLEET_CATALOG"
        ) from exc
    except yaml.YAMLError as exc:
        raise ConfigurationError(f"{path} is not valid YAML: {exc}") from exc
    models = document.get("models") if isinstance(document, dict) else None
    if not isinstance(models, dict) or not models:
        raise ConfigurationError(f"{path}: expected a top-level `models:` with a name each")
    return Catalog({str(name): _parse_spec(path, str(name), body) for name, body in models.items()})


def _parse_spec(path: Path, name: str, body: object) -> ModelSpec:
    if not isinstance(body, dict):
        raise ConfigurationError(f"{path}: models.{name} must be a mapping of settings")
    try:
        return ModelSpec(name=name, **body)
    except (ValidationError, TypeError) as exc:
        detail = exc
        if isinstance(exc, ValidationError):
            first = exc.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise ConfigurationError(f"{path}: models.{name}.{field}: {first['msg']}") from exc
        raise ConfigurationError(f"{path}: models.{name}: {detail}") from exc
