"""One frozen settings tree, read from the environment once, in `__main__`.

Every field has a unit in its name, bounds and a sentence. Nothing else in
the project reads the environment for its own settings. Settings that contradict each other are
refused by the section that contains both.
"""

from __future__ import annotations

import os

from pydantic import AliasChoices, ValidationError

from common.errors import ConfigurationError
from common.settings.base import (
    ENV_PREFIX,
    CommaSeparated,
    Networks,
    Ports,
    Section,
)
from common.settings.batches import BatchSettings
from common.settings.environment import refuse_unknown_names
from common.settings.generation import GenerationSettings
from common.settings.http import DEFAULT_LIST_MAX, FrontSettings, HttpSettings
from common.settings.infrastructure import (
    CacheSettings,
    CatalogSettings,
    LogSettings,
    RedisSettings,
    TraceSettings,
)
from common.settings.inputs import BlobSettings, FetchSettings
from common.settings.jobs import JobSettings
from common.settings.metrics import MetricsSettings
from common.settings.overload import OverloadSettings
from common.settings.secret_files import SUFFIX, secret_fields
from common.settings.tenants import DEFAULT_WINDOW, TenantSettings
from common.settings.tools import ToolSettings
from common.settings.webhooks import WebhookSettings
from common.settings.weights import MirrorSettings
from common.settings.worker import DeviceSettings, WorkerSettings

__all__ = (
    "DEFAULT_LIST_MAX",
    "DEFAULT_WINDOW",
    "ENV_PREFIX",
    "BatchSettings",
    "BlobSettings",
    "CacheSettings",
    "CatalogSettings",
    "CommaSeparated",
    "DeviceSettings",
    "FetchSettings",
    "FrontSettings",
    "GenerationSettings",
    "HttpSettings",
    "JobSettings",
    "LogSettings",
    "MetricsSettings",
    "MirrorSettings",
    "Networks",
    "OverloadSettings",
    "Ports",
    "RedisSettings",
    "Section",
    "Settings",
    "TenantSettings",
    "ToolSettings",
    "TraceSettings",
    "WebhookSettings",
    "WorkerSettings",
    "load_settings",
)


# pydantic orders the fields of the last base first, and so does `lanefleet doctor`.
class Settings(
    TraceSettings,
    LogSettings,
    MetricsSettings,
    GenerationSettings,
    ToolSettings,
    WorkerSettings,
    WebhookSettings,
    MirrorSettings,
    FetchSettings,
    DeviceSettings,
    JobSettings,
    OverloadSettings,
    TenantSettings,
    HttpSettings,
    BatchSettings,
    BlobSettings,
    FrontSettings,
    CatalogSettings,
    CacheSettings,
    RedisSettings,
):
    """Everything an operator may set; the environment name is LANEFLEET_ + the field's."""


def load_settings(**overrides: object) -> Settings:
    """Read the environment; raise ConfigurationError with one line that names the field."""
    refuse_unknown_names(os.environ, _names())
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        where = f"{ENV_PREFIX}{field.upper().removeprefix(ENV_PREFIX)}" if field else "settings"
        said = first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"{where}: {said}") from exc


def _names() -> frozenset[str]:
    """Every environment name that is read."""
    names = set()
    for field, about in Settings.model_fields.items():
        names.add(f"{ENV_PREFIX}{field.upper()}")
        if isinstance(about.validation_alias, AliasChoices):
            names.update(map(str, about.validation_alias.choices))
    names.update(f"{ENV_PREFIX}{field.upper()}{SUFFIX}" for field in secret_fields(Settings))
    return frozenset(names)
