"""Secrets from files: LANEFLEET_REDIS_URL_FILE names a file with the value of LANEFLEET_REDIS_URL.

Container platforms mount secrets as files; in the environment they would be shown to whoever may
inspect a container. The plain name wins, since a supervisor hands its children what it has read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from common.errors import ConfigurationError

__all__ = ("SUFFIX", "SecretFiles", "secret_fields")

SUFFIX = "_FILE"


def secret_fields(section: type[BaseSettings]) -> Iterator[str]:
    """The fields whose values may be in a file: those that are never shown."""
    for name, field in section.model_fields.items():
        if _is_secret(field.annotation):
            yield name


def _is_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(map(_is_secret, get_args(annotation)))


class SecretFiles(PydanticBaseSettingsSource):
    """Reads the files that the environment names for a section's secrets."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """The value of one field, or None; raises ConfigurationError for a file without one."""
        prefix = self.config.get("env_prefix") or ""
        variable = f"{prefix}{field_name.upper()}{SUFFIX}"
        path = os.environ.get(variable)
        return (_read(variable, Path(path)) if path else None), field_name, False

    def __call__(self) -> dict[str, Any]:
        """The secrets that are in files."""
        fields = self.settings_cls.model_fields
        given = self.current_state
        found = {
            name: self.get_field_value(fields[name], name)[0]
            for name in secret_fields(self.settings_cls)
            if given.get(name) is None
        }
        return {name: value for name, value in found.items() if value is not None}


def _read(variable: str, path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
        raise ConfigurationError(
            f"{variable}: {path} cannot be read ({reason}); mount the secret there or unset it"
        ) from exc
    if not text:
        raise ConfigurationError(f"{variable}: {path} is empty; write the value into it")
    return text
