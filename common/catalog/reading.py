"""Reads the catalog file; each refusal names the file, the model and the key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from common.catalog.aliases import check_shadows, meant, parse_aliases
from common.catalog.catalog import Catalog
from common.catalog.spec import ModelSpec, Task
from common.errors import ConfigurationError
from common.strict_yaml import read_yaml

_TOP_LEVEL = ("models", "aliases")


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
                f"{path}: there is no key {key!r} at the top{meant(key, _TOP_LEVEL)}; a catalog "
                "has `models:` and, if wanted, `aliases:`"
            )
    models = document.get("models") if isinstance(document, dict) else None
    if not isinstance(models, dict) or not models:
        raise ConfigurationError(f"{path}: expected a top-level `models:` with a name each")
    specs = {str(name): _parse_spec(path, str(name), body) for name, body in models.items()}
    _check_defaults(path, specs)
    check_shadows(path, specs)
    return Catalog(specs, parse_aliases(path, document.get("aliases") or {}, specs))


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
            said = f"there is no such key{meant(field, ModelSpec.model_fields)}; see docs/models.md"
        where = f"models.{name}.{field}" if field not in ("", "name") else f"models.{name}"
        raise ConfigurationError(f"{path}: {where}: {said}") from exc
