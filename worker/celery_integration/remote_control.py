"""Celery's remote control over the lanes: what looks, what revokes, what is refused.

A command that could have no effect here answers with an error that names what has, as
"set successfully" would be believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any

import structlog
from celery.worker.control import Panel

from worker.celery_integration.inspection import CeleryState
from worker.celery_integration.revoked_stamps import RevokedStamps
from worker.engine import Engine

log = structlog.get_logger(__name__)

_LOOKS_AT_STATE = (
    "active",
    "dump_active",
    "reserved",
    "dump_reserved",
    "stats",
    "heartbeat",
)
_LANES = "a Lanefleet worker serves the lanes of its catalog; choose them with LANEFLEET_MODELS"
_DEVICE = "a Lanefleet worker runs one batch at a time on its device; start more workers instead"
REFUSED: Mapping[str, str] = {
    "add_consumer": f"{_LANES}. Celery's own consumer would take their jobs and not run them",
    "cancel_consumer": _LANES,
    "time_limit": "lanes have no time limits of their own; send `time_limit` and "
    "`soft_time_limit` with each job, as apply_async takes them",
    "rate_limit": "lanes are not limited, tenants are; use `lanefleet keys limit`",
    "pool_grow": _DEVICE,
    "pool_shrink": _DEVICE,
    "pool_restart": _DEVICE,
    "autoscale": _DEVICE,
}


class RemoteControl:
    """Takes over the commands of Celery's panel that concern lanes. Runs on the loop's thread."""

    def __init__(self, engine: Engine, state: CeleryState, stamps: RevokedStamps) -> None:
        self._engine = engine
        self._state = state
        self._stamps = stamps

    def install(self) -> None:
        """Replace the commands, once a process."""
        commands = Panel.data
        for name in _LOOKS_AT_STATE:
            commands[name] = self._refreshed(commands[name])
        for name, reason in REFUSED.items():
            commands[name] = _refusal(name, reason)
        commands["revoke"] = self._revoking(commands["revoke"])
        commands["terminate"] = self._terminate
        commands["revoke_by_stamped_headers"] = self._revoke_by_stamps
        commands["active_queues"] = self._active_queues
        commands["scheduled"] = commands["dump_schedule"] = self._scheduled
        commands["query_task"] = self._query_task

    def _refreshed(self, command: Callable[..., Any]) -> Callable[..., Any]:
        """The command, behind a look at what the lanes hold now."""

        @wraps(command)
        def look(*args: Any, **kwargs: Any) -> Any:
            self._state.refresh()
            return command(*args, **kwargs)

        return look

    def _revoking(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Celery's revoke, which cancels too."""

        @wraps(original)
        def revoke(panel_state: Any, task_id: str | Iterable[str], **kwargs: Any) -> Any:
            kwargs.pop("terminate", None)  # a batch cannot be torn apart; a cancel suffices
            ids = [task_id] if isinstance(task_id, str) else list(task_id or ())
            for job_id in ids:
                self._engine.cancel(job_id)
            return original(panel_state, ids, **kwargs)

        return revoke

    @staticmethod
    def _terminate(panel_state: Any, signal: Any, task_id: Any, **kwargs: Any) -> Any:
        del signal  # nothing is killed: what runs is kept from publishing
        return Panel.data["revoke"](panel_state, task_id, **kwargs)

    def _revoke_by_stamps(
        self, _panel_state: Any, headers: Mapping[str, Any] | list[str], **_kwargs: Any
    ) -> dict[str, str]:
        """Cancel what is in hand and has such a stamp; what comes later is not run."""
        if not isinstance(headers, Mapping):
            pairs = [text.partition("=") for text in headers]
            headers = {name: [v for n, _, v in pairs if n == name] for name, _, _ in pairs}
        self._stamps.add(headers)
        found = self._state.stamped(self._stamps)
        for job_id in found:
            self._engine.cancel(job_id)
        return {"ok": f"stamps {dict(headers)} are revoked; {len(found)} jobs were in hand"}

    def _active_queues(self, _panel_state: Any, **_kwargs: Any) -> list[dict[str, Any]]:
        return self._state.queues()

    def _scheduled(self, _panel_state: Any, **_kwargs: Any) -> list[dict[str, Any]]:
        return self._state.scheduled()

    def _query_task(self, _panel_state: Any, ids: Any, **_kwargs: Any) -> dict[str, Any]:
        self._state.refresh()
        return self._state.query([ids] if isinstance(ids, str) else list(ids or ()))


def _refusal(name: str, reason: str) -> Callable[..., dict[str, str]]:
    def refuse(_panel_state: Any, **_kwargs: Any) -> dict[str, str]:
        log.warning("control_refused", command=name, reason=reason)  # it may wait for no answer
        return {"error": reason}

    return refuse
