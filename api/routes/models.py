"""Lists the fleet's models and where they are loaded; loads, unloads and moves them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import orjson
from fastapi import APIRouter
from starlette.convertors import Convertor, register_url_convertor

from api.dependencies import ServicesDep
from api.http.problems import Problem, responses
from api.http.strict_route import StrictRoute
from api.routes.operations_views import (
    AliasTarget,
    ModelList,
    ModelView,
    OpenAIModel,
    Purged,
    Told,
)
from api.services import Services
from api.tenants.dependencies import AdminDep, ReadDep
from common.catalog import ModelSpec, Target
from common.catalog.aliases import unfit
from common.worker_report import WorkerReport


class _Action(Convertor[str]):
    """An action in the path, so that other words are other paths: a POST to `alias` is a 405."""

    regex = "load|unload|warm"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("model_action", _Action())

router = APIRouter(prefix="/v1", tags=["models"], route_class=StrictRoute)


@router.get("/models")
async def list_models(services: ServicesDep, _principal: ReadDep) -> ModelList:
    """Every name a job may give, and which workers have its model in memory."""
    workers, moved = await services.store.workers(), await services.store.aliases()
    names = services.catalog
    return ModelList(
        models=[_view(services, name, moved, workers) for name in names],
        data=[OpenAIModel(id=name) for name in names],
    )


@router.get("/models/{name}", responses=responses(s404="No such model."))
async def get_model(name: str, services: ServicesDep, _principal: ReadDep) -> ModelView:
    """One model."""
    moved = await services.store.aliases()
    return _view(services, name, moved, await services.store.workers())


@router.post(
    "/models/{name}/{action:model_action}",
    status_code=202,
    responses=responses(s404="No such model."),
)
async def ask_of_model(
    name: str,
    action: Literal["load", "unload", "warm"],
    services: ServicesDep,
    _principal: AdminDep,
) -> Told:
    """Ask every worker to load a model now, to let it go, or to run its warm-up.

    A model that was let go is loaded again by the next job for it.
    """
    spec = _spec(services, name, await services.store.aliases())
    told = await services.store.tell_workers(f"{action} {spec.name}")
    return Told(model=spec.name, workers=told)


@router.delete(
    "/models/{name}/cache",
    responses=responses(s404="No such model.", s503="The queue cannot be reached."),
)
async def purge_cache(name: str, services: ServicesDep, _principal: AdminDep) -> Purged:
    """Drop every result that is kept of a model, or of all models that share an alias; other API
    processes follow within a second.
    """
    moved = await services.store.aliases()
    spec, target = _spec(services, name, moved), _target(services, name, moved)
    results = 0
    for model in target.shares if target is not None else (spec.name,):
        await services.served_models.begin_epoch(model)
        results += await services.cache.purge(model)
    return Purged(model=spec.name, results=results)


@router.put(
    "/models/{name}/alias",
    responses=responses(s404="No such alias or model.", s409="Not an alias, or of another input."),
)
async def move_alias(
    name: str, target: AliasTarget, services: ServicesDep, _principal: AdminDep
) -> Told:
    """Point an alias at another model, or give that a share of its jobs, without a job failing.

    Each worker loads the new model beside the old one and hands over when it is warm.
    """
    old = services.catalog[name]
    new = services.catalog.models.get(target.model) or services.catalog[target.model]
    if name not in services.catalog.aliases:
        detail = f"{name!r} is a model; only an alias of the catalog can be moved"
        raise Problem(409, "not_an_alias", detail)
    if new.input != old.input:
        detail = f"{new.name!r} takes {new.input}, {name!r} takes {old.input}"
        raise Problem(409, "other_input", detail)
    if new.task != old.task:
        detail = f"{new.name!r} is for {new.task or 'no task'}, {name!r} is for {old.task}"
        raise Problem(409, "other_task", detail)
    now = _target(services, name, await services.store.aliases())
    assert now is not None
    try:
        moved = now.moved(new.name, target.share, target.sticky)
    except ValueError as exc:
        raise Problem(409, "no_other_model", str(exc)) from exc
    if reason := unfit(moved, services.catalog.models):
        raise Problem(409, "cannot_share", reason)
    told = await services.store.move_alias(name, moved)
    # Failures of the old model do not concern the new one.
    await services.admission.close_breaker(name)
    return Told(model=new.name, workers=told)


@router.get("/workers")
async def list_workers(services: ServicesDep, _principal: AdminDep) -> list[dict[str, Any]]:
    """What each live worker says of itself: device, models, batches by size, time by stage.

    Seconds and counts are since the worker's start; `lanefleet stages` explains them.
    """
    return [orjson.loads(one) for one in await services.store.worker_documents()]


def _target(services: Services, name: str, moved: Mapping[str, Target]) -> Target | None:
    """What an alias points at now; None for a model. A move to what is not in this catalog, as by
    an API with another one, counts for nothing.
    """
    first = services.catalog.aliases.get(name)
    if first is None:
        return None
    target = moved.get(name, first)
    return target if target.shares.keys() <= services.catalog.models.keys() else first


def _spec(services: Services, name: str, moved: Mapping[str, Target]) -> ModelSpec:
    target = _target(services, name, moved)
    return services.catalog[name] if target is None else services.catalog.models[target.model]


def _view(
    services: Services, name: str, moved: Mapping[str, Target], workers: list[WorkerReport]
) -> ModelView:
    return ModelView.of(name, _spec(services, name, moved), workers, _target(services, name, moved))
