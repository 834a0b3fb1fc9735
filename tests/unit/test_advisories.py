"""Neither what pyproject.toml allows nor what is installed has a hole known to `advisories.json`.

Offline: the file is a list that people extend, one package with its first safe version. What comes
with our dependencies, and is not one itself, is only looked at where it is installed.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LISTED: dict[str, str] = json.loads(
    (ROOT / "tests" / "data" / "advisories.json").read_text(encoding="utf-8")
)
SAFE = {name: Version(first) for name, first in LISTED.items()}


def requirements() -> list[Requirement]:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = document["project"]
    extras = chain.from_iterable(project["optional-dependencies"].values())
    return [Requirement(text) for text in chain(project["dependencies"], extras)]


def too_low(wanted: Iterable[Requirement]) -> list[str]:
    """The requirements that allow a version with a known hole."""
    found = []
    for one in wanted:
        safe = SAFE.get(canonicalize_name(one.name))
        floors = [
            Version(limit.version)
            for limit in one.specifier
            if limit.operator in (">=", "==", "~=", ">")
        ]
        if safe is not None and max(floors, default=Version("0")) < safe:
            found.append(f"{one} must be {one.name}>={safe}")
    return found


def test_no_floor_allows_a_version_with_a_known_hole() -> None:
    assert too_low(requirements()) == []


def test_a_floor_that_is_too_low_or_lacking_is_told() -> None:
    texts = ["python-multipart>=0.0.30", "Starlette", "starlette<2", "PyYAML>=5.4", "unknown"]
    assert [line.split(" must")[0] for line in too_low(map(Requirement, texts))] == texts[:3]


@pytest.mark.parametrize("name", SAFE)
def test_nothing_is_installed_that_has_a_known_hole(name: str) -> None:
    try:
        installed = Version(version(name))
    except PackageNotFoundError:
        return  # another part of the project needs it
    assert installed >= SAFE[name]


def test_the_list_names_packages_as_they_are_compared() -> None:
    assert all(name == canonicalize_name(name) for name in LISTED)
    assert {"starlette", "python-multipart"} <= SAFE.keys() & {one.name for one in requirements()}
