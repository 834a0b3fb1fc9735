"""The catalog: which models this fleet serves, from `deploy/models.yaml`.

Front and workers read the same file, so the front can refuse jobs that no worker could run,
without importing a model.
"""

from common.catalog.catalog import Catalog
from common.catalog.mirror import Mirrored, mirrored
from common.catalog.reading import load_catalog
from common.catalog.spec import (
    BUILTIN_HANDLERS,
    DEFAULT_CACHE_SECONDS,
    DETERMINISTIC_HANDLERS,
    NAME_PATTERN,
    Backend,
    InputKind,
    ModelSpec,
    Precision,
    Task,
)
from common.catalog.target import Target

__all__ = (
    "BUILTIN_HANDLERS",
    "DEFAULT_CACHE_SECONDS",
    "DETERMINISTIC_HANDLERS",
    "NAME_PATTERN",
    "Backend",
    "Catalog",
    "InputKind",
    "Mirrored",
    "ModelSpec",
    "Precision",
    "Target",
    "Task",
    "load_catalog",
    "mirrored",
)
