"""Handlers: the classes that turn a job's input into its result, one a file.

This package imports no model library itself, so that a worker which serves
only `echo` stays small; each handler brings its own when it loads.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import cast

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.models.base import ARGUMENTS, VERBS, Model
from worker.models.generator import GENERATOR_VERBS, is_generator
from worker.models.place import place_of_error, place_of_verb
from worker.models.remote import REMOTE_VERBS, is_remote
from worker.models.requirements import missing_package
from worker.models.sharding import refuse_sharding
from worker.models.weights import catalog_folder

__all__ = ("load_handler",)


def load_handler(spec: ModelSpec) -> Model:
    """Construct the handler that the catalog names; its `load` is not called yet.

    Raises ConfigurationError that names what is missing: the module, a package that it needs, the
    class, or the verbs that the class lacks.
    """
    refuse_sharding(spec)
    handler = _find_class(spec)
    verbs: tuple[str, ...] = VERBS
    if is_generator(handler) or is_remote(handler):
        verbs = GENERATOR_VERBS if is_generator(handler) else REMOTE_VERBS
    lacking = [verb for verb in verbs if not callable(getattr(handler, verb, None))]
    if lacking:
        raise ConfigurationError(
            f"models.{spec.name}: {spec.handler_path} has no {', '.join(lacking)}; "
            f"a handler has {', '.join(verbs)}"
        )
    try:
        made = handler()
    except Exception as exc:
        raise ConfigurationError(
            f"models.{spec.name}: {spec.handler_path}() raised {exc!r}; "
            f"a handler is constructed without arguments and does its work in load{_at(exc)}"
        ) from exc
    _check_signatures(made, verbs, spec)
    return cast(Model, made)


def _check_signatures(handler: object, verbs: Sequence[str], spec: ModelSpec) -> None:
    """A verb that cannot be called as it will be is told now, not by each job."""
    for verb in verbs:
        arguments = ARGUMENTS.get(verb)
        if arguments is None:
            continue
        try:
            signature = inspect.signature(getattr(handler, verb))
        except (TypeError, ValueError):
            continue  # written in C, say: the first call will tell
        try:
            signature.bind(*arguments)
        except TypeError as exc:
            raise ConfigurationError(
                f"models.{spec.name}: {spec.handler_path}.{verb}{signature} cannot be called as "
                f"{verb}({', '.join(arguments)}): {exc} ({place_of_verb(handler, verb)}; "
                "docs/models.md#writing-your-own-model)"
            ) from exc


def _said(error: Exception) -> str:
    """As `repr`, without the whole path that a SyntaxError has in it."""
    return f"SyntaxError: {error.msg}" if isinstance(error, SyntaxError) else repr(error)


def _at(error: BaseException) -> str:
    place = place_of_error(error)
    return f" ({place})" if place else ""


def _find_class(spec: ModelSpec) -> type:
    module_name, _, class_name = spec.handler_path.partition(":")
    _look_beside_the_catalog()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        # `a.b` is missing when `a` is, so either name may be the one reported.
        if exc.name is not None and f"{module_name}.".startswith(f"{exc.name}."):
            raise ConfigurationError(
                f"models.{spec.name}: there is no module {exc.name!r} for {spec.handler_path}; "
                f"it must lie beside the catalog{_close_module(module_name)}, or be importable "
                "where the worker runs (PYTHONPATH or pip install)"
            ) from exc
        raise missing_package(spec.name, exc) from exc
    except Exception as exc:
        # A user's own module may raise anything; which one it was is what helps.
        raise ConfigurationError(
            f"models.{spec.name}: importing {module_name} raised {_said(exc)}{_at(exc)}"
        ) from exc
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise ConfigurationError(
            f"models.{spec.name}: {module_name} has no class {class_name}"
            f"{_close_class(module, class_name)}"
        )
    return found


def _look_beside_the_catalog() -> None:
    """Its folder comes last, so that nothing in it hides a package."""
    folder = str(catalog_folder().absolute())
    if folder not in sys.path:
        sys.path.append(folder)


def _close_module(name: str) -> str:
    known = [path.stem for path in catalog_folder().glob("*.py")]
    return _meant(name, known)


def _close_class(module: object, name: str) -> str:
    known = [one for one, found in vars(module).items() if isinstance(found, type)]
    return _meant(name, known)


def _meant(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
