"""The catalog: which models this fleet serves, from `deploy/models.yaml`.

Front and workers read the same file, so the front can refuse jobs that no worker could run,
without importing a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from common.errors import ConfigurationError, UnknownModel
from common.strict_yaml import read_yaml

InputKind = Literal["text", "image", "json"]
Task = Literal["embed", "classify", "detect", "generate"]

NAME_PATTERN = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}(@[a-z0-9][a-z0-9._-]{0,31})?$")
DEFAULT_CACHE_SECONDS = 3600
DETERMINISTIC_HANDLERS = frozenset({"minilm", "text-detect", "resnet50"})
"""Built-in handlers whose results are cached unless the catalog says otherwise. Whether other
handlers are deterministic is declared by their authors in the catalog."""

BUILTIN_HANDLERS: Mapping[str, str] = {
    "echo": "worker.models.echo:Echo",
    "minilm": "worker.models.minilm:MiniLM",
    "text-detect": "worker.models.text_detect:TextDetect",
    "resnet50": "worker.models.resnet50:ResNet50",
    "decoder": "worker.models.generation.decoder:Decoder",
    "openai-server": "worker.models.generation.server:Server",
}


_TOP_LEVEL = ("models", "aliases")


def _naming(name: str) -> str:
    """What a name must be, with the nearest one that is."""
    nearest = re.sub(r"[^a-z0-9._@-]+", "-", name.rpartition("/")[2].lower()).strip("-._")
    hint = f", such as {nearest!r}" if NAME_PATTERN.match(nearest) else ""
    return (
        f"a name is 1-64 of a-z 0-9 . _ - and starts with a letter or digit{hint}; "
        "`@version` may follow"
    )


def _meant(name: object, known: Iterable[str]) -> str:
    close = get_close_matches(str(name), list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


class ModelSpec(BaseModel):
    """One model of the catalog."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="The model's name; also its lane and Celery queue.")
    handler: str = Field(description="A built-in handler's name, or `module:Class`.")
    input: InputKind = Field("json", description="What the input is: text, image or json.")
    description: str = Field("", description="One sentence for people.")
    task: Task | None = Field(
        None,
        description="The task-shaped routes that serve it: embed, classify, detect or generate.",
    )
    default: bool = Field(
        False, description="Whether its task's route uses it when a request names no model."
    )
    dimensions: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field(
        (),
        description="Lengths of vector that a client may ask of it, the whole one among them; "
        "shorter ones are cut and brought back to unit length (Matryoshka models only).",
    )
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
    target_latency_ms: float | None = Field(
        None, gt=0, description="Cut batches so that their oldest job is done within this."
    )
    run_identical_once: bool = Field(
        True, description="Whether identical inputs in one batch are run once."
    )
    weight: float = Field(1.0, gt=0, description="Share of the device against other lanes.")
    load: Literal["eager", "lazy"] = Field(
        "eager", description="When a worker loads it: at its start, or with the first job."
    )
    pin: bool = Field(False, description="Never unloaded to make room for another model.")
    memory_mb: float | None = Field(
        None, gt=0, description="What it takes once loaded; unset is measured at the first load."
    )
    warm_up: Any = Field(
        None, description="An input to run before it counts as ready; unset is the handler's own."
    )
    load_timeout_seconds: float | None = Field(
        None, ge=0, description="Longest it may take to load, and then to warm up; 0 is no limit."
    )
    decode_timeout_seconds: float | None = Field(
        None, ge=0, description="Longest one input may take in `decode` and `cost`; 0 is no limit."
    )
    infer_timeout_seconds: float | None = Field(
        None, ge=0, description="Longest one batch may run; 0 is no limit."
    )
    encode_timeout_seconds: float | None = Field(
        None, ge=0, description="Longest one output may take in `encode`; 0 is no limit."
    )
    step_timeout_seconds: float | None = Field(
        None,
        ge=0,
        description="Longest one step, an admission or a drop may take, of a generator; 0 is no "
        "limit.",
    )
    unload_timeout_seconds: float | None = Field(
        None, ge=0, description="Longest it may take to unload; 0 is no limit."
    )
    cold_start_seconds: float | None = Field(
        None,
        ge=0,
        le=86_400,
        description="From demand to a worker that serves it, all together; unset is measured "
        "(LANEFLEET_COLD_START_SECONDS).",
    )
    result_ttl_seconds: int | None = Field(
        None, ge=1, description="How long results are kept; unset is the fleet's."
    )
    cache_seconds: int | None = Field(
        None,
        ge=0,
        le=30 * 86_400,
        description="How long a result is given again for the same input; 0 is never. Unset is an "
        "hour for the built-in models and for repeatable generation, and 0 for `echo` and handlers "
        "of your own.",
    )
    cache_shared: bool = Field(
        False, description="Whether tenants share kept results and runs in flight."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="What the handler itself takes."
    )

    @field_validator("name")
    @classmethod
    def _name_is_a_queue_name(cls, name: str) -> str:
        if not NAME_PATTERN.match(name):
            raise ValueError(_naming(name))
        return name

    @field_validator("version", mode="before")
    @classmethod
    def _version_is_text(cls, version: object) -> object:
        """YAML reads 2 as a number, which is clear, and 1.10 as 1.1, which is not."""
        if isinstance(version, int) and not isinstance(version, bool):
            return str(version)
        if not isinstance(version, str):
            raise ValueError(f"put it in quotes: YAML reads {version!r} there, which is no text")
        return version

    @field_validator("handler")
    @classmethod
    def _handler_can_be_found(cls, handler: str) -> str:
        if handler not in BUILTIN_HANDLERS and not re.match(r"^[\w.]+:\w+$", handler):
            raise ValueError(
                f"handler {handler!r} is neither built in ({', '.join(BUILTIN_HANDLERS)}) "
                "nor of the form module:Class"
            )
        return handler

    @model_validator(mode="after")
    def _name_and_version_agree(self) -> ModelSpec:
        _, _, version = self.name.partition("@")
        if version and "version" in self.model_fields_set and self.version != version:
            raise ValueError(f"the name says version {version!r}, `version` says {self.version!r}")
        if version:
            object.__setattr__(self, "version", version)
        return self

    @property
    def keeps_results_seconds(self) -> int:
        """How long results are cached; 0 where they are not."""
        if self.cache_seconds is not None:
            return self.cache_seconds
        # Of generation only what is repeatable has a cache key at all.
        deterministic = self.handler in DETERMINISTIC_HANDLERS or self.task == "generate"
        return DEFAULT_CACHE_SECONDS if deterministic and self.run_identical_once else 0

    @property
    def handler_path(self) -> str:
        """The handler as `module:Class`."""
        return BUILTIN_HANDLERS.get(self.handler, self.handler)


class Catalog(Mapping[str, ModelSpec]):
    """The models by the names that jobs may use: a model's own name, or an alias of one.

    Each name is a lane. Looking up another name raises UnknownModel with the served names.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSpec],
        aliases: Mapping[str, str] | None = None,
        served: tuple[str, ...] = (),
    ) -> None:
        self.models = dict(models)
        """Every model that can be loaded, with or without a lane here."""
        self.aliases = dict(aliases or {})
        """The initial target of each alias; operators move them while the fleet runs."""
        self._served = served or (*self.models, *self.aliases)
        self._specs = {name: self.models[self.aliases.get(name, name)] for name in self._served}

    def __getitem__(self, name: str) -> ModelSpec:
        spec = self._specs.get(name) if isinstance(name, str) else None  # a client's may be a list
        if spec is None:
            known = ", ".join(sorted(self._served))
            raise UnknownModel(f"there is no model {str(name)[:80]!r}; this fleet serves: {known}")
        return spec

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._specs

    def __iter__(self) -> Iterator[str]:
        return iter(self._served)

    def __len__(self) -> int:
        return len(self._served)

    def for_task(self, task: Task) -> tuple[str, ...]:
        """The served names whose model has this task."""
        return tuple(name for name in self._served if self[name].task == task)

    def default_for(self, task: Task) -> str | None:
        """The default name for the task: the only one, the model marked as default, or its alias.

        None where there is no such name, or more than one.
        """
        names = self.for_task(task)
        for narrower in (lambda name: self[name].default, lambda name: name in self.aliases):
            names = tuple(filter(narrower, names)) or names
        return names[0] if len(names) == 1 else None

    def subset(self, names: tuple[str, ...]) -> Catalog:
        """A catalog that serves only these names; an empty tuple is all of them."""
        for name in names:
            self[name]
        return Catalog(self.models, self.aliases, names) if names else self


def load_catalog(path: Path) -> Catalog:
    """Read the catalog file.

    Raises ConfigurationError with the file, the model and the field.
    """
    try:
        document = read_yaml(path)
    except OSError as exc:
        raise ConfigurationError(
            f"cannot read the catalog {path}: {exc.strerror}; set LANEFLEET_CATALOG"
        ) from exc
    for key in document if isinstance(document, dict) else ():
        if key not in _TOP_LEVEL:
            raise ConfigurationError(
                f"{path}: there is no key {key!r} at the top{_meant(key, _TOP_LEVEL)}; a catalog "
                "has `models:` and, if wanted, `aliases:`"
            )
    models = document.get("models") if isinstance(document, dict) else None
    if not isinstance(models, dict) or not models:
        raise ConfigurationError(f"{path}: expected a top-level `models:` with a name each")
    specs = {str(name): _parse_spec(path, str(name), body) for name, body in models.items()}
    _check_defaults(path, specs)
    return Catalog(specs, _parse_aliases(path, document.get("aliases") or {}, specs))


def _check_defaults(path: Path, specs: Mapping[str, ModelSpec]) -> None:
    chosen: dict[Task | None, str] = {}
    for name, spec in specs.items():
        if not spec.default:
            continue
        if spec.task is None:
            raise ConfigurationError(f"{path}: models.{name}.default: say which `task` it is for")
        if spec.task in chosen:
            raise ConfigurationError(
                f"{path}: models.{name}.default: {chosen[spec.task]!r} is the default of "
                f"{spec.task!r} already; mark one of them"
            )
        chosen[spec.task] = name


def _parse_aliases(path: Path, aliases: object, specs: Mapping[str, ModelSpec]) -> dict[str, str]:
    if not isinstance(aliases, dict):
        raise ConfigurationError(f"{path}: `aliases:` must map a name to a model's name")
    for alias, target in aliases.items():
        if not NAME_PATTERN.match(str(alias)):
            raise ConfigurationError(f"{path}: aliases.{alias}: {_naming(str(alias))}")
        if str(alias) in specs:
            raise ConfigurationError(
                f"{path}: aliases.{alias}: choose a name that no model has, such as one without "
                "its @version"
            )
        if str(target) not in specs:
            raise ConfigurationError(
                f"{path}: aliases.{alias}: there is no model {target!r}; "
                f"choose from {', '.join(sorted(specs))}"
            )
    return {str(alias): str(target) for alias, target in aliases.items()}


def _parse_spec(path: Path, name: str, body: object) -> ModelSpec:
    if not isinstance(body, dict):
        raise ConfigurationError(f"{path}: models.{name} must be a mapping of settings")
    if "name" in body:
        raise ConfigurationError(f"{path}: models.{name}.name: the key is its name; remove this")
    fields = {**{str(key): value for key, value in body.items()}, "name": name}
    try:
        return ModelSpec.model_validate(fields)
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            said = (
                f"there is no such key{_meant(field, ModelSpec.model_fields)}; see docs/models.md"
            )
        where = f"models.{name}.{field}" if field not in ("", "name") else f"models.{name}"
        raise ConfigurationError(f"{path}: {where}: {said}") from exc
