"""What operators ask of a fleet: models, lanes, workers, dead letters. For both clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple, cast

from . import calls
from .batches import AsyncBatchOperations, BatchOperations
from .generation import AsyncGenerationOperations, GenerationOperations
from .webhooks import AsyncWebhookOperations, WebhookOperations

__all__ = ("AsyncOperations", "Operations", "Selected")

Action = Literal["load", "unload", "warm"]


class Selected(NamedTuple):
    """How many jobs a filter found, and how many of them were canceled or retried."""

    matched: int
    jobs: int


def _silent(_done: Selected) -> None:
    """Report to nobody."""


class Operations(GenerationOperations, WebhookOperations, BatchOperations):
    """Of `Client`."""

    def list_models(self) -> list[dict[str, Any]]:
        """The models of this fleet."""
        listed: list[dict[str, Any]] = self._call(calls.models())["models"]
        return listed

    def get_model(self, name: str) -> dict[str, Any]:
        """One model, or what an alias points at."""
        return cast("dict[str, Any]", self._call(calls.get_model(name)))

    def ask_of_model(self, name: str, action: Action) -> int:
        """Load, unload or warm up a model in every worker; returns how many heard it."""
        return int(self._call(calls.ask_of_model(name, action))["workers"])

    def move_alias(
        self, alias: str, model: str, share: float | None = None, sticky: bool | None = None
    ) -> int:
        """Point an alias at another model, or give that a share of its jobs, 0 to 1; sticky keeps
        each tenant with one model. Returns how many workers heard it.
        """
        return int(self._call(calls.move_alias(alias, model, share, sticky))["workers"])

    def purge_cache(self, name: str) -> int:
        """Drop every result that is kept of a model; returns how many."""
        return int(self._call(calls.purge_cache(name))["results"])

    def list_lanes(self, *lanes: str) -> dict[str, dict[str, Any]]:
        """The state of these lanes, or of every one: its demand, what waits, its age and pace."""
        return cast("dict[str, dict[str, Any]]", self._call(calls.lanes(lanes))["lanes"])

    def reset_breaker(self, lane: str) -> dict[str, Any]:
        """Take a failing model's jobs again at once; returns its circuit breaker."""
        return cast("dict[str, Any]", self._call(calls.reset_breaker(lane)))

    def drop_lane(self, lane: str) -> int:
        """Cancel every job of a lane that nobody serves; returns how many messages it had."""
        return int(self._call(calls.drop_lane(lane))["jobs"])

    def list_workers(self) -> list[dict[str, Any]]:
        """What each live worker says of itself."""
        return cast("list[dict[str, Any]]", self._call(calls.workers()))

    def list_dead(self, lane: str, *, offset: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """The lane's dead letters, newest first."""
        return cast("list[dict[str, Any]]", self._call(calls.dead(lane, offset, limit)))

    def show_dead(self, lane: str, job_id: str) -> dict[str, Any]:
        """One dead letter with its message."""
        return cast("dict[str, Any]", self._call(calls.dead_letter(lane, job_id)))

    def retry_dead(self, lane: str, ids: list[str] | None = None) -> int:
        """Put dead jobs back into their lane; returns how many."""
        return int(self._call(calls.retry_dead(lane, ids))["jobs"])

    def purge_dead(self, lane: str, ids: list[str] | None = None) -> int:
        """Drop dead letters for good; returns how many."""
        return int(self._call(calls.purge_dead(lane, ids))["jobs"])

    def get_system(self) -> dict[str, Any]:
        """The fleet in one view: status, memory, versions, what makes it fast, Redis."""
        return cast("dict[str, Any]", self._call(calls.system()))

    def list_outbox(self, *, limit: int = 100) -> dict[str, Any]:
        """What settled jobs lead to: how much waits, and the entries that were given up."""
        return cast("dict[str, Any]", self._call(calls.outbox(limit)))

    def retry_outbox(self, ids: list[str] | None = None) -> int:
        """Have entries tried again that were given up; returns how many."""
        return int(self._call(calls.settle_outbox("retry", ids))["entries"])

    def drop_outbox(self, ids: list[str] | None = None) -> int:
        """Drop entries that were given up; returns how many."""
        return int(self._call(calls.settle_outbox("drop", ids))["entries"])

    def cancel_jobs(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        model: str | None = None,
        state: Literal["queued", "running"] | None = None,
        created_after: str | datetime | None = None,
        created_before: str | datetime | None = None,
        dry_run: bool = False,
        on_progress: Callable[[Selected], None] = _silent,
    ) -> Selected:
        """Cancel your jobs that wait or run and fit all that is given; `matched` is how many did.

        With `dry_run` they are only counted. `on_progress` is called as it goes.
        """
        filters = {
            **{"labels": labels, "model": model, "state": state},
            **{"created_after": created_after, "created_before": created_before},
        }
        return self._act_on_jobs("cancel", filters, dry_run, on_progress)

    def retry_jobs(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        model: str | None = None,
        created_after: str | datetime | None = None,
        created_before: str | datetime | None = None,
        dry_run: bool = False,
        on_progress: Callable[[Selected], None] = _silent,
    ) -> Selected:
        """Return your failed jobs that fit all that is given to their lanes; dead ones can.

        With `dry_run` they are only counted. `on_progress` is called as it goes.
        """
        filters = {
            **{"labels": labels, "model": model},
            **{"created_after": created_after, "created_before": created_before},
        }
        return self._act_on_jobs("retry", filters, dry_run, on_progress)

    def _act_on_jobs(
        self,
        action: str,
        filters: Mapping[str, Any],
        dry_run: bool,
        on_progress: Callable[[Selected], None],
    ) -> Selected:
        total, cursor = Selected(0, 0), None
        while True:
            found = self._call(calls.act_on_jobs(action, filters, dry_run, cursor))
            total = Selected(total.matched + found["matched"], total.jobs + found["jobs"])
            on_progress(total)
            cursor = found.get("next_cursor")
            if cursor is None:
                return total

    # Older names.
    models, lanes, workers = list_models, list_lanes, list_workers
    dead, dead_letter = list_dead, show_dead


class AsyncOperations(AsyncGenerationOperations, AsyncWebhookOperations, AsyncBatchOperations):
    """Of `AsyncClient`."""

    async def list_models(self) -> list[dict[str, Any]]:
        """The models of this fleet."""
        listed: list[dict[str, Any]] = (await self._call(calls.models()))["models"]
        return listed

    async def get_model(self, name: str) -> dict[str, Any]:
        """One model, or what an alias points at."""
        return cast("dict[str, Any]", await self._call(calls.get_model(name)))

    async def ask_of_model(self, name: str, action: Action) -> int:
        """Load, unload or warm up a model in every worker; returns how many heard it."""
        return int((await self._call(calls.ask_of_model(name, action)))["workers"])

    async def move_alias(
        self, alias: str, model: str, share: float | None = None, sticky: bool | None = None
    ) -> int:
        """Point an alias at another model, or give that a share of its jobs, 0 to 1; sticky keeps
        each tenant with one model. Returns how many workers heard it.
        """
        return int((await self._call(calls.move_alias(alias, model, share, sticky)))["workers"])

    async def purge_cache(self, name: str) -> int:
        """Drop every result that is kept of a model; returns how many."""
        return int((await self._call(calls.purge_cache(name)))["results"])

    async def list_lanes(self, *lanes: str) -> dict[str, dict[str, Any]]:
        """The state of these lanes, or of every one: its demand, what waits, its age and pace."""
        return cast("dict[str, dict[str, Any]]", (await self._call(calls.lanes(lanes)))["lanes"])

    async def reset_breaker(self, lane: str) -> dict[str, Any]:
        """Take a failing model's jobs again at once; returns its circuit breaker."""
        return cast("dict[str, Any]", await self._call(calls.reset_breaker(lane)))

    async def drop_lane(self, lane: str) -> int:
        """Cancel every job of a lane that nobody serves; returns how many messages it had."""
        return int((await self._call(calls.drop_lane(lane)))["jobs"])

    async def list_workers(self) -> list[dict[str, Any]]:
        """What each live worker says of itself."""
        return cast("list[dict[str, Any]]", await self._call(calls.workers()))

    async def list_dead(
        self, lane: str, *, offset: int = 0, limit: int = 100
    ) -> list[dict[str, Any]]:
        """The lane's dead letters, newest first."""
        return cast("list[dict[str, Any]]", await self._call(calls.dead(lane, offset, limit)))

    async def show_dead(self, lane: str, job_id: str) -> dict[str, Any]:
        """One dead letter with its message."""
        return cast("dict[str, Any]", await self._call(calls.dead_letter(lane, job_id)))

    async def retry_dead(self, lane: str, ids: list[str] | None = None) -> int:
        """Put dead jobs back into their lane; returns how many."""
        return int((await self._call(calls.retry_dead(lane, ids)))["jobs"])

    async def purge_dead(self, lane: str, ids: list[str] | None = None) -> int:
        """Drop dead letters for good; returns how many."""
        return int((await self._call(calls.purge_dead(lane, ids)))["jobs"])

    async def get_system(self) -> dict[str, Any]:
        """The fleet in one view: status, memory, versions, what makes it fast, Redis."""
        return cast("dict[str, Any]", await self._call(calls.system()))

    async def list_outbox(self, *, limit: int = 100) -> dict[str, Any]:
        """What settled jobs lead to: how much waits, and the entries that were given up."""
        return cast("dict[str, Any]", await self._call(calls.outbox(limit)))

    async def retry_outbox(self, ids: list[str] | None = None) -> int:
        """Have entries tried again that were given up; returns how many."""
        return int((await self._call(calls.settle_outbox("retry", ids)))["entries"])

    async def drop_outbox(self, ids: list[str] | None = None) -> int:
        """Drop entries that were given up; returns how many."""
        return int((await self._call(calls.settle_outbox("drop", ids)))["entries"])

    async def cancel_jobs(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        model: str | None = None,
        state: Literal["queued", "running"] | None = None,
        created_after: str | datetime | None = None,
        created_before: str | datetime | None = None,
        dry_run: bool = False,
        on_progress: Callable[[Selected], None] = _silent,
    ) -> Selected:
        """Cancel your jobs that wait or run and fit all that is given; `matched` is how many did.

        With `dry_run` they are only counted. `on_progress` is called as it goes.
        """
        filters = {
            **{"labels": labels, "model": model, "state": state},
            **{"created_after": created_after, "created_before": created_before},
        }
        return await self._act_on_jobs("cancel", filters, dry_run, on_progress)

    async def retry_jobs(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        model: str | None = None,
        created_after: str | datetime | None = None,
        created_before: str | datetime | None = None,
        dry_run: bool = False,
        on_progress: Callable[[Selected], None] = _silent,
    ) -> Selected:
        """Return your failed jobs that fit all that is given to their lanes; dead ones can.

        With `dry_run` they are only counted. `on_progress` is called as it goes.
        """
        filters = {
            **{"labels": labels, "model": model},
            **{"created_after": created_after, "created_before": created_before},
        }
        return await self._act_on_jobs("retry", filters, dry_run, on_progress)

    async def _act_on_jobs(
        self,
        action: str,
        filters: Mapping[str, Any],
        dry_run: bool,
        on_progress: Callable[[Selected], None],
    ) -> Selected:
        total, cursor = Selected(0, 0), None
        while True:
            found = await self._call(calls.act_on_jobs(action, filters, dry_run, cursor))
            total = Selected(total.matched + found["matched"], total.jobs + found["jobs"])
            on_progress(total)
            cursor = found.get("next_cursor")
            if cursor is None:
                return total

    # Older names.
    models, lanes, workers = list_models, list_lanes, list_workers
    dead, dead_letter = list_dead, show_dead
