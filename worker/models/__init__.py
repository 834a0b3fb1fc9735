"""Handlers: the classes that turn a job's input into its result, one a file.

This package imports no model library itself, so that a worker which serves
only `echo` stays small; each handler brings its own when it loads.
"""

from __future__ import annotations

import importlib
from typing import cast

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.models.base import VERBS, Model
from worker.models.generator import GENERATOR_VERBS, is_generator
from worker.models.remote import REMOTE_VERBS, is_remote
from worker.models.requirements import missing_package

__all__ = ("load_handler",)


def load_handler(spec: ModelSpec) -> Model:
    """Construct the handler that the catalog names; its `load` is not called yet.

    Raises ConfigurationError that names what is missing: the module, a package that it needs, the
    class, or the verbs that the class lacks.
    """
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
        return cast(Model, handler())
    except Exception as exc:
        raise ConfigurationError(
            f"models.{spec.name}: {spec.handler_path}() raised {exc!r}; "
            "a handler is constructed without arguments and does its work in load"
        ) from exc


def _find_class(spec: ModelSpec) -> type:
    module_name, _, class_name = spec.handler_path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        # `a.b` is missing when `a` is, so either name may be the one reported.
        if exc.name is not None and f"{module_name}.".startswith(f"{exc.name}."):
            raise ConfigurationError(
                f"models.{spec.name}: there is no module {exc.name!r} for {spec.handler_path}; "
                "it must be importable where the worker runs (PYTHONPATH or pip install)"
            ) from exc
        raise missing_package(spec.name, exc) from exc
    except Exception as exc:
        # A user's own module may raise anything; which one it was is what helps.
        raise ConfigurationError(
            f"models.{spec.name}: importing {module_name} raised {exc!r}"
        ) from exc
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise ConfigurationError(f"models.{spec.name}: {module_name} has no class {class_name}")
    return found
