"""The one way in: check against the catalog, then publish record and message at once.

Every route that takes work calls this, so a rule about jobs has one place.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from api.cache.directives import ANYTHING, NOTHING, CacheWish
from api.cache.result_cache import Hit, ResultCache
from api.cache.served_models import Fingerprints
from api.http.request_context import current_traceparent
from api.jobs.publisher import Publisher
from api.jobs.views import MISSING, JobRequest
from api.overload.admission import Admission
from api.tenants.auth import Principal
from api.tenants.rate_headers import rate_headers, seconds_until_next
from common.catalog import Catalog
from common.errors import InvalidInput, LaneFull, QuotaExceeded, RateLimited, Refused
from common.inputs.checks import check_image, check_input, check_input_url
from common.jobs.job import Job
from common.jobs.record import JobRecord, JobState
from common.settings import Settings


class Submitter:
    """Validates and publishes jobs."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        publisher: Publisher,
        fingerprints: Fingerprints,
        cache: ResultCache,
        admission: Admission,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._publisher = publisher
        self._fingerprints = fingerprints
        self._cache = cache
        self._admission = admission

    def prepare(
        self,
        request: JobRequest,
        principal: Principal,
        sent_bytes: int = 0,
        wish: CacheWish = ANYTHING,
    ) -> Job:
        """Check one job from so many bytes of JSON.

        Raises UnknownModel, InvalidInput, UnsupportedMedia or InputUrlRefused.
        """
        spec = self._catalog[request.model]
        if request.input is MISSING or request.input_url is not None:
            job = self._job(request, principal, NOTHING, None, None)
            return replace(job, input_url=_input_url(request))
        inline = self._settings.inline_input_bytes
        value, blob = check_input(spec.input, request.input, inline, sent_bytes)
        return self._job(request, principal, wish, value, blob)

    def prepare_file(
        self,
        request: JobRequest,
        payload: bytes,
        principal: Principal,
        wish: CacheWish = ANYTHING,
    ) -> Job:
        """Check one job whose input is a file's bytes; raises as `prepare` does."""
        if request.input_url is not None:
            raise InvalidInput("send either a file or `input_url`, not both")
        spec = self._catalog[request.model]
        inline = self._settings.inline_input_bytes
        if spec.input == "image":
            value, blob = check_image(payload, inline)
        else:
            value, blob = check_input(spec.input, _text_of(payload), inline)
        return self._job(request, principal, wish, value, blob)

    async def find(self, job: Job) -> Hit | None:
        """The kept result for a prepared job, which then need not be published. Never raises."""
        return None if job.cache is None else await self._cache.find(job)

    async def publish(self, job: Job) -> JobRecord:
        """Find the result, or enqueue: the record is settled for the former."""
        hit = await self.find(job)
        return hit.record() if hit is not None else await self.enqueue(job)

    async def enqueue(self, job: Job) -> JobRecord:
        """Publish a prepared job; raises Refused, and then nothing was queued."""
        await self._admission.admit(job)
        try:
            await self._publisher.publish(job)
        except LaneFull as exc:
            raise self._admission.full(job) from exc
        except RateLimited as exc:
            quota = self._publisher.quotas.get(job.tenant)
            exc.retry_after_seconds = seconds_until_next(quota)
            exc.headers = rate_headers(quota)
            self._admission.noted(job, exc)
            raise
        except QuotaExceeded as exc:
            self._admission.noted(job, exc)
            raise
        now_ms = int(time.time() * 1000)
        return JobRecord(id=job.id, state=JobState.QUEUED, lane=job.model, created_ms=now_ms)

    def rate_headers(self, principal: Principal) -> dict[str, str]:
        """What its last answer says of the principal's rate; nothing where it has no limit."""
        quotas = self._publisher.quotas
        return rate_headers(quotas.get(principal.tenant)) if quotas else {}

    async def publish_all(self, jobs: Sequence[Job]) -> list[int | Refused | Hit]:
        """Publish prepared jobs in one round trip, two where some may be found in the cache.

        Per job the backlog ahead of it, Refused, or the hit.
        """
        if all(job.cache is None for job in jobs):
            return [*await self._enqueue_all(jobs)]
        hits = await self._cache.find_all(jobs)
        missed = [job for job, hit in zip(jobs, hits, strict=True) if hit is None]
        outcomes = iter(await self._enqueue_all(missed))
        return [next(outcomes) if hit is None else hit for hit in hits]

    async def _enqueue_all(self, jobs: Sequence[Job]) -> list[int | Refused]:
        refused = await self._admission.admit_all(jobs)
        taken = [job for index, job in enumerate(jobs) if index not in refused]
        published = iter(await self._publisher.publish_all(taken) if taken else ())
        outcomes: list[int | Refused] = []
        for index, job in enumerate(jobs):
            outcome = refused[index] if index in refused else next(published)
            if isinstance(outcome, LaneFull):
                outcome = self._admission.full(job)
            elif isinstance(outcome, Refused) and index not in refused:
                self._admission.noted(job, outcome)
            outcomes.append(outcome)
        return outcomes

    def _job(
        self,
        request: JobRequest,
        principal: Principal,
        wish: CacheWish,
        value: Any,
        blob: bytes | None,
    ) -> Job:
        now_ms = int(time.time() * 1000)
        deadline = request.deadline or self._settings.default_deadline_seconds
        return Job(
            model=request.model,
            input=value,
            params=request.params,
            priority=request.priority,
            start_by_ms=_after(now_ms, request.start_within),
            deadline_ms=_after(now_ms, deadline),
            blob=blob,
            tenant=principal.tenant,
            traceparent=current_traceparent(),
            cache=self._fingerprints.ticket(
                request.model,
                wish,
                tenant=principal.tenant,
                params=request.params,
                value=value,
                blob=blob,
            )
            if request.cache
            else None,
            limits=principal.limits,
        )


def _input_url(request: JobRequest) -> str:
    if request.input_url is None:
        raise InvalidInput("send `input`, or `input_url` to have it fetched")
    if request.input is not MISSING:
        raise InvalidInput("send either `input` or `input_url`, not both")
    return check_input_url(request.input_url)


def _after(now_ms: int, seconds: float | None) -> int | None:
    return None if seconds is None else now_ms + int(seconds * 1000)


def _text_of(payload: bytes) -> str:
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"the file is not UTF-8 text: {exc}") from exc
