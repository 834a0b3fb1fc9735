"""Reads what stands between models in the catalog: aliases, their shares, and shadows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from common.catalog.spec import NAME_PATTERN, ModelSpec, naming
from common.catalog.target import Target, fault_of
from common.errors import ConfigurationError

_LONG_FORM = ("shares", "sticky")


def meant(name: object, known: Iterable[str]) -> str:
    """A hint at the name that was probably meant; empty where none is near."""
    close = get_close_matches(str(name), list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def parse_aliases(path: Path, aliases: object, specs: Mapping[str, ModelSpec]) -> dict[str, Target]:
    """The aliases of a catalog; raises ConfigurationError with the alias that cannot be meant."""
    if not isinstance(aliases, dict):
        raise ConfigurationError(f"{path}: `aliases:` must map a name to a model's name")
    found: dict[str, Target] = {}
    for alias, body in aliases.items():
        where = f"{path}: aliases.{alias}"
        if not NAME_PATTERN.match(str(alias)):
            raise ConfigurationError(f"{where}: {naming(str(alias))}")
        if str(alias) in specs:
            raise ConfigurationError(
                f"{where}: choose a name that no model has, such as one without its @version"
            )
        target = _parse_target(where, body)
        for model in target.shares:
            if model in aliases and model not in specs:
                raise ConfigurationError(
                    f"{where}: {model!r} is an alias itself; name models, each with its @version"
                )
            if model not in specs:
                raise ConfigurationError(
                    f"{where}: there is no model {model!r}; choose from {', '.join(sorted(specs))}"
                )
        if reason := unfit(target, specs):
            raise ConfigurationError(f"{where}: {reason}")
        found[str(alias)] = target
    return found


def _parse_target(where: str, body: object) -> Target:
    if isinstance(body, list) or body is None:
        raise ConfigurationError(f"{where}: write a model's name, or models with their shares")
    if not isinstance(body, dict):
        return Target.whole(str(body))
    found: Any = body
    sticky: Any = False
    if isinstance(body.get("shares"), dict):
        for key in body:
            if key not in _LONG_FORM:
                raise ConfigurationError(
                    f"{where}: there is no key {key!r}{meant(key, _LONG_FORM)}; an alias has "
                    "`shares:` and, if wanted, `sticky: true`"
                )
        found, sticky = body["shares"], body.get("sticky", False)
    if not isinstance(sticky, bool):
        raise ConfigurationError(
            f"{where}.sticky: write true, to keep each tenant with one model, or false"
        )
    for name, share in found.items():
        if isinstance(share, bool) or not isinstance(share, int | float):
            raise ConfigurationError(
                f"{where}: the share of {name} is {share!r}; give a number above 0, and at most 1"
            )
    shares = {str(name): float(share) for name, share in found.items()}
    if fault := fault_of(shares):
        raise ConfigurationError(f"{where}: {fault}")
    return Target(shares, sticky)


def unfit(target: Target, specs: Mapping[str, ModelSpec]) -> str:
    """Why these models cannot share an alias, one sentence; empty where they can."""
    if not target.is_split:
        return ""
    first, *others = (specs[name] for name in target.shares)
    for spec in (first, *others):
        if spec.generates:
            return f"{spec.name} generates, and generation cannot be shared out; name one model"
    for other in others:
        if reason := unlike(first, other):
            return reason
    versions: dict[str, str] = {}
    for spec in (first, *others):
        if spec.version in versions:
            return (
                f"{versions[spec.version]} and {spec.name} both say version {spec.version!r}; give "
                "each its own `version`, by which results and metrics tell them apart"
            )
        versions[spec.version] = spec.name
    return ""


def unlike(one: ModelSpec, other: ModelSpec) -> str:
    """Why the other cannot answer this one's jobs, one sentence; empty where it can."""
    if other.input != one.input:
        return f"{other.name} takes {other.input}, {one.name} takes {one.input}"
    if other.task != one.task:
        return f"{other.name} is for {other.task or 'no task'}, {one.name} is for {one.task}"
    return ""


def check_shadows(path: Path, specs: Mapping[str, ModelSpec]) -> None:
    """Raise ConfigurationError where a model's shadow cannot be meant."""
    for name, spec in specs.items():
        if spec.shadow is None:
            continue
        where, other = f"{path}: models.{name}.shadow", specs.get(spec.shadow)
        if other is None or other is spec:
            known = ", ".join(sorted(specs.keys() - {name})) or "none"
            raise ConfigurationError(
                f"{where}: there is no other model {spec.shadow!r}; choose from {known}"
            )
        if spec.generates or other.generates:
            raise ConfigurationError(f"{where}: generation cannot be compared; remove this")
        if reason := unlike(spec, other):
            raise ConfigurationError(f"{where}: {reason}")
