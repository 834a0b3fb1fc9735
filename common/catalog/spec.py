"""One model of the catalog: its keys, their bounds and what they mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from common.catalog.mirror import mirrored

InputKind = Literal["text", "image", "audio", "json"]
Backend = Literal["torch", "onnx", "openvino"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
Task = Literal["embed", "classify", "detect", "generate"]

NAME_PATTERN = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}(@[a-z0-9][a-z0-9._-]{0,31})?$")
DEFAULT_CACHE_SECONDS = 3600
DETERMINISTIC_HANDLERS = frozenset(
    {"minilm", "text-detect", "resnet50", "classify", "vad", "object-detect"}
)
"""Built-in handlers whose results are cached unless the catalog says otherwise. Whether other
handlers are deterministic is declared by their authors in the catalog."""

GENERATING_HANDLERS = frozenset({"decoder", "openai-server"})

BUILTIN_HANDLERS: Mapping[str, str] = {
    "echo": "worker.models.echo:Echo",
    "minilm": "worker.models.minilm:MiniLM",
    "text-detect": "worker.models.text_detect:TextDetect",
    "classify": "worker.models.classify:Classify",
    "vad": "worker.models.vad:Vad",
    "triton": "worker.models.triton.handler:Triton",
    "object-detect": "worker.models.object_detect:ObjectDetect",
    "resnet50": "worker.models.resnet50:ResNet50",
    "onnx": "worker.models.graph.handler:OnnxGraph",
    "decoder": "worker.models.generation.decoder:Decoder",
    "openai-server": "worker.models.generation.server:Server",
}


def naming(name: str) -> str:
    """What a name must be, with the nearest one that is."""
    nearest = re.sub(r"[^a-z0-9._@-]+", "-", name.rpartition("/")[2].lower()).strip("-._")
    hint = f", such as {nearest!r}" if NAME_PATTERN.match(nearest) else ""
    return (
        f"a name is 1-64 of a-z 0-9 . _ - and starts with a letter or digit{hint}; "
        "`@version` may follow"
    )


class ModelSpec(BaseModel):
    """One model of the catalog."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="The model's name; also its lane and Celery queue.")
    handler: str = Field(description="A built-in handler's name, or `module:Class`.")
    input: InputKind = Field("json", description="What the input is: text, image, audio or json.")
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
        "none",
        description="`random`, a path, a hub id, `package:NAME[/SUBDIR]`, or an https URL with "
        "`#sha256=` and the file's digest.",
    )
    precision: Precision = Field(
        "fp32", description="Arithmetic used; int8 needs weights that were quantized."
    )
    backend: Backend | None = Field(
        None, description="What runs the network: torch, onnx or openvino; unset is the handler's."
    )
    compiled: bool = Field(
        False, description="Whether to run what `lanefleet compile` made, where that fits."
    )
    providers: tuple[str, ...] = Field(
        (),
        description="ONNX Runtime's providers in order of preference: cpu, cuda, tensorrt or a "
        "provider's own name; unset follows the device.",
    )
    tolerance: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Least agreement with fp32 that a model may load with: cosine similarity, or "
        "share of equal first labels.",
    )
    samples: str | None = Field(
        None, description="A folder or file of inputs, on which that agreement is measured."
    )
    reference: str | None = Field(
        None,
        description="The model of this catalog that it must agree with; unset is its own weights "
        "on torch in fp32.",
    )
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
    shadow: str | None = Field(
        None,
        description="Another model that answers this one's jobs too, unseen: how far its results "
        "agree is measured (docs/models.md).",
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
            raise ValueError(naming(name))
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

    @field_validator("weights")
    @classmethod
    def _url_has_a_digest(cls, weights: str) -> str:
        mirrored(weights)
        return weights

    @model_validator(mode="after")
    def _name_and_version_agree(self) -> ModelSpec:
        _, _, version = self.name.partition("@")
        if version and "version" in self.model_fields_set and self.version != version:
            raise ValueError(f"the name says version {version!r}, `version` says {self.version!r}")
        if version:
            object.__setattr__(self, "version", version)
        return self

    @property
    def generates(self) -> bool:
        """Whether its work is generation, as far as the catalog tells."""
        return self.task == "generate" or self.handler in GENERATING_HANDLERS

    @property
    def keeps_results_seconds(self) -> int:
        """How long results are cached; 0 where they are not."""
        if self.cache_seconds is not None:
            return self.cache_seconds
        # Of generation only what is repeatable has a cache key at all.
        deterministic = self.handler in DETERMINISTIC_HANDLERS or self.task == "generate"
        return DEFAULT_CACHE_SECONDS if deterministic and self.run_identical_once else 0

    @property
    def arithmetic(self) -> str:
        """What computes, as part of cache keys: the precision, and the backend where one is named.

        Of one model two backends differ in the last digits, and at int8 before them.
        """
        if self.backend is None and not self.providers:
            return self.precision
        return " ".join((self.precision, self.backend or "", *self.providers))

    @property
    def handler_path(self) -> str:
        """The handler as `module:Class`."""
        return BUILTIN_HANDLERS.get(self.handler, self.handler)
