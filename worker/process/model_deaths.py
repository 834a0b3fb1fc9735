"""Which models end their process, by the marks it left, and when one is taken out of service.

Pure: `now` is passed in, so that every rule can be tested.

A death is shared out among the calls that ran. One that ended itself for a call says which.
While it loads, a model's share counts until it has loaded; while it runs jobs, for an hour, and it
takes more of them, as a single job may take its worker down once for each of its attempts. Such a
model is tried again after a while: jobs, or somebody who kills processes, may have been the cause.
"""

from __future__ import annotations

from worker.guard.marks import Evidence, Ran

_WINDOW_SECONDS = 3600.0
_PAUSE_SECONDS = 600.0
_LOADING = frozenset({"load", "warm-up", "unload"})


class ModelDeaths:
    """What one device's processes died of, and the models that are out of service."""

    def __init__(self, max_deaths: int, max_attempts: int) -> None:
        """max_deaths is for a load; 0 takes no model out of service, however often it is met."""
        self._max_deaths = max_deaths
        self._max_attempts = max_attempts
        self._loading: dict[str, float] = {}
        self._running: dict[str, list[tuple[float, float]]] = {}
        """By model: when, and its share."""
        self._out: dict[str, tuple[str, float | None]] = {}
        """Models not to load: why, and until when."""
        self.hold = False
        """Whether the next process should load its models before it reserves jobs."""

    @property
    def is_bounded(self) -> bool:
        """Whether a model can end no more than so many processes."""
        return self._max_deaths > 0

    def judge(self, evidence: Evidence, now: float) -> list[Ran]:
        """Take in the end of a process; returns the calls that share it."""
        self.learn(evidence)
        blamed = [evidence.culprit] if evidence.culprit else evidence.running
        # Only a load beside other calls leaves doubt that the next start can remove.
        self.hold = len(blamed) > 1 and any(one.verb in _LOADING for one in blamed)
        calls = {one.model: one for one in blamed}
        for one in calls.values():
            self._count(one, 1 / len(calls), now)
            self._weigh(one.model, now)
        return blamed

    def learn(self, evidence: Evidence) -> None:
        """Take in which models were loaded, and which an operator asked for."""
        for model in evidence.loaded:
            self._loading.pop(model, None)
        for model in evidence.reset:
            self._loading.pop(model, None)
            self._running.pop(model, None)
            self._out.pop(model, None)

    def _count(self, one: Ran, share: float, now: float) -> None:
        if one.verb in _LOADING:
            self._loading[one.model] = self._loading.get(one.model, 0.0) + share
        else:
            # No job is the cause of a shadow's, so as few of them are enough as of a load's.
            weight = self._max_attempts if one.verb == "shadow" else 1
            self._running.setdefault(one.model, []).append((now, share * weight))

    def _weigh(self, model: str, now: float) -> None:
        if not self._max_deaths:
            return
        since = now - _WINDOW_SECONDS
        recent = [death for death in self._running.get(model, ()) if death[0] > since]
        self._running[model] = recent
        loading, running = self._loading.get(model, 0.0), sum(share for _, share in recent)
        again = f"the log says how; `lanefleet models load {model}` tries it at once"
        if loading >= self._max_deaths:
            reason = f"it ended or held its process too often while it was loaded; {again}"
            self._out[model] = (reason, None)
        elif running >= self._max_deaths * self._max_attempts:
            reason = f"it ended or held its process too often while it ran jobs; {again}"
            self._out[model] = (reason, now + _PAUSE_SECONDS)

    def out_of_service(self, now: float) -> dict[str, tuple[str, float | None]]:
        """Models not to load: why, and for how many seconds, None for until somebody asks."""
        return {
            model: (reason, None if until is None else until - now)
            for model, (reason, until) in self._out.items()
            if until is None or until > now
        }
