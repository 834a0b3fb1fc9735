"""A circuit breaker per lane: refuses the jobs of a model that fails.

    closed -- failures --> open -- time --> half-open -- a success --> closed
                             ^------------- a failure ----'

Pure on purpose: the workers' counters and the server's clock are passed in,
so that every rule can be tested. The record is kept in Redis and changed by the replica that
first finds a reason (api/overload/shared_breakers.py); all replicas read the same record.

A job counts once, with its first failure in the model itself: errors in the input, and further
attempts at a job that failed, do not predict the outcome of the next job.

Each tenant whose jobs fail has a breaker of its own, by the same rules, and counts for at most half
of what opens the lane's: the failures of one tenant refuse nobody else.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from common.settings import OverloadSettings

_MOST_OF_ONE = 0.5
"""Share of the failures that open a lane's breaker for which one tenant counts at most."""


class State(StrEnum):
    """Whether new jobs are taken: all, none, or a few to see how they fare."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class Policy:
    """When to open and for how long, from the settings."""

    failures: int
    """Consecutive failures that open it; 0 disables the breaker."""
    share: float
    least_jobs: int
    window_ms: int
    open_ms: int
    open_max_ms: int
    probes: int

    @classmethod
    def of(cls, settings: OverloadSettings) -> Policy:
        """The policy of a process with these settings."""
        return cls(
            failures=settings.breaker_failures,
            share=settings.breaker_failure_share,
            least_jobs=settings.breaker_least_jobs,
            window_ms=int(settings.breaker_window_seconds * 1000),
            open_ms=int(settings.breaker_open_seconds * 1000),
            open_max_ms=int(settings.breaker_open_max_seconds * 1000),
            probes=settings.breaker_probes,
        )

    def open_for_ms(self, openings: int) -> int:
        """Duration of the n-th consecutive opening: doubling, bounded."""
        return int(min(self.open_ms * 2.0 ** min(openings - 1, 30), self.open_max_ms))


@dataclass(frozen=True, slots=True)
class Reading:
    """The lane's total counters, at a time of the server's clock."""

    now_ms: int
    succeeded: int
    failed: int
    """Jobs whose first failure was caused by the model."""
    unloadable: bool = False
    """Whether there are live workers and none could load the model."""
    by_tenant: Mapping[str, int] = field(default_factory=dict)
    """New failures by tenant since the last reading, of the lane's; others are nobody's."""
    barred: Collection[str] = ()
    """Tenants that are refused on their own."""
    proven: bool | None = None
    """Whether a probe succeeded; None where any success is one."""


@dataclass(frozen=True, slots=True)
class Record:
    """The state that the replicas share."""

    state: State = State.CLOSED
    since_ms: int = 0
    until_ms: int = 0
    """When an open breaker lets probes through, or a half-open one the next round of them."""
    openings: int = 0
    """Consecutive openings, without a lasting recovery between them."""
    succeeded: int = 0
    failed: int = 0
    """The counters when it became half-open."""
    unloadable: bool = False
    """Whether it opened because no worker could load the model."""

    def text(self) -> str:
        """The form stored in Redis."""
        return (
            f"{self.state} {self.since_ms} {self.until_ms} {self.openings} "
            f"{self.succeeded} {self.failed} {int(self.unloadable)}"
        )

    @classmethod
    def parse(cls, text: str) -> Record:
        """Parse the form stored in Redis; a closed breaker where it is empty or invalid."""
        try:
            state, *numbers = text.split(" ")
            since, until, openings, succeeded, failed, unloadable = map(int, numbers)
            return cls(State(state), since, until, openings, succeeded, failed, bool(unloadable))
        except ValueError:
            return cls()


class Breaker:
    """Decides for one lane; its recent readings are this replica's own."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._seen = Record()
        self._last: Reading | None = None
        self._lately: deque[tuple[int, int, Counter[str]]] = deque()
        """Time, successes and failures by tenant of the readings within the window."""
        self._in_row: Counter[str] = Counter()
        self._early = 0
        """Failures that were seen by tenant, and not yet in the total: they are read one after the
        other."""
        self._excused = 0
        """Failures of barred tenants since the record changed."""
        self._failed_now = False
        """Whether the last reading had a new failure."""

    def observe(self, record: Record, reading: Reading) -> Record | None:
        """The record's next value; None where it need not change."""
        if record != self._seen:
            self._seen, self._excused = record, 0
            self._in_row.clear()
            self._lately.clear()
        self._look_back(reading)
        if not self._policy.failures:
            return None if record.state is State.CLOSED else Record(since_ms=reading.now_ms)
        match record.state:
            case State.CLOSED:
                return self._when_closed(record, reading)
            case State.OPEN:
                return self._when_open(record, reading)
            case State.HALF_OPEN:
                return self._when_half_open(record, reading)

    def _look_back(self, reading: Reading) -> None:
        last, self._last = self._last, reading
        self._failed_now = False
        if last is None:
            return
        succeeded = max(0, reading.succeeded - last.succeeded)
        failed = self._failures(max(0, reading.failed - last.failed), reading.by_tenant)
        self._failed_now = bool(failed)
        self._excused += sum(failed[tenant] for tenant in reading.barred)
        if succeeded:
            self._in_row.clear()
        else:
            self._in_row += failed
        if succeeded or failed:
            self._lately.append((reading.now_ms, succeeded, failed))
        while self._lately and self._lately[0][0] <= reading.now_ms - self._policy.window_ms:
            self._lately.popleft()

    def _failures(self, total: int, by_tenant: Mapping[str, int]) -> Counter[str]:
        """By tenant; those of nobody under an empty name."""
        ahead = self._early + sum(by_tenant.values()) - total
        self._early = max(0, ahead)
        return +Counter({**by_tenant, "": max(0, -ahead)})

    def _too_many(self) -> bool:
        succeeded, failed = 0, Counter[str]()
        for _, good, bad in self._lately:
            succeeded += good
            failed += bad
        policy, total = self._policy, succeeded + failed.total()
        often = _enough(failed, policy.share * total)
        return _enough(self._in_row, policy.failures) or (
            often and bool(failed) and total >= policy.least_jobs
        )

    def _when_closed(self, record: Record, reading: Reading) -> Record | None:
        # Successes that leave the window make no failure of it new.
        if not (reading.unloadable or (self._failed_now and self._too_many())):
            return None
        lasted_ms = reading.now_ms - record.since_ms
        openings = record.openings if lasted_ms < self._policy.open_max_ms else 0
        return self._open(openings + 1, reading)

    def _when_open(self, record: Record, reading: Reading) -> Record | None:
        loaded_at_last = record.unloadable and not reading.unloadable
        if reading.now_ms < record.until_ms and not loaded_at_last:
            return None
        return self._half_open(record, reading)

    def _when_half_open(self, record: Record, reading: Reading) -> Record | None:
        if reading.failed - self._excused > record.failed:
            return self._open(record.openings + 1, reading)
        proven = reading.proven
        if proven is None:
            proven = reading.succeeded > record.succeeded
        if proven and not reading.unloadable:
            return Record(since_ms=reading.now_ms, openings=record.openings)
        if reading.now_ms < record.until_ms:
            return None
        if reading.unloadable:
            return self._open(record.openings + 1, reading)
        return self._half_open(record, reading)

    def _open(self, openings: int, reading: Reading) -> Record:
        until = reading.now_ms + self._policy.open_for_ms(openings)
        return Record(State.OPEN, reading.now_ms, until, openings, unloadable=reading.unloadable)

    def _half_open(self, record: Record, reading: Reading) -> Record:
        return replace(
            record,
            state=State.HALF_OPEN,
            since_ms=reading.now_ms,
            until_ms=reading.now_ms + self._policy.open_ms,
            succeeded=reading.succeeded,
            failed=reading.failed,
        )


def _enough(failures: Counter[str], needed: float) -> bool:
    """Whether they are as many as are needed, where one tenant counts for half at most."""
    most = needed * _MOST_OF_ONE
    return sum(min(n, most) if tenant else n for tenant, n in failures.items()) >= needed
