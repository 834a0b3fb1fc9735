"""Accepts jobs: every route that accepts work calls `Submission`.

For one job it decides, in this order: which job its Idempotency-Key is claimed for, whether
the cache has its result, whether the job is accepted, and how long to wait for it. For many
it does the same without keys and waiting. So the rules for accepting jobs are in one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis.exceptions import RedisError

from api.background.server_clock import ServerClock
from api.cache.directives import ANYTHING, NOTHING, CacheDirectives, directives_of
from api.cache.result_cache import Hit, ResultCache
from api.cache.served_models import ServedModels
from api.http.bodies import LARGE_BYTES, Body, aside
from api.http.idempotency_key import key_of
from api.http.preferences import Preferences
from api.http.request_context import current_traceparent, note_lane, waiting_by_choice
from api.jobs.generation import check_generation
from api.jobs.idempotency import Claims
from api.jobs.job_counts import JobCounts
from api.jobs.message_size import MAX_FIELD_BYTES
from api.jobs.publisher import Publisher
from api.jobs.request import MISSING, JobRequest
from api.jobs.request_body import SentJob
from api.jobs.store import JobStore
from api.jobs.submission_limits import SubmissionLimits, after
from api.jobs.waiter import ResultWaiter
from api.overload.admission import Admission
from api.tenants.auth import Principal
from api.tenants.rate_headers import rate_headers, seconds_until_next
from api.webhooks.targets import WebhookTargets
from common.catalog import Catalog
from common.errors import InvalidInput, LaneFull, QuotaExceeded, RateLimited, Refused
from common.generation.inputs import TASK
from common.inputs.checks import FILE_KINDS, check_file, check_input, check_input_url
from common.jobs.job import Job, new_job_id
from common.jobs.record import JobRecord, JobState


@dataclass(frozen=True, slots=True)
class Taken:
    """The outcome of one submit: a cache hit, a job queued now, or a job's current record."""

    job_id: str
    preferences: Preferences
    hit: Hit | None = None
    record: JobRecord | None = None
    """None for a hit, and where the job is unknown or expired."""
    queued_now: bool = False
    """Whether the record is of a job that was queued now without waiting for it."""
    replayed: bool = False
    """Whether its Idempotency-Key was claimed for this job by an earlier request."""

    @property
    def settled(self) -> bool:
        """Whether the answer is a settled job's: it was waited for, or came from the cache."""
        if self.record is None:
            return self.hit is not None
        waited = self.preferences.wait_seconds is not None or self.record.cached
        return self.record.state.terminal and waited


class Submission:
    """Validates jobs, looks them up in the cache, and publishes them."""

    def __init__(
        self,
        limits: SubmissionLimits,
        catalog: Catalog,
        publisher: Publisher,
        served_models: ServedModels,
        cache: ResultCache,
        admission: Admission,
        claims: Claims,
        store: JobStore,
        waiter: ResultWaiter,
        clock: ServerClock,
        webhooks: WebhookTargets,
    ) -> None:
        self._limits = limits
        self._catalog = catalog
        self._publisher = publisher
        self._served_models = served_models
        self._cache = cache
        self._admission = admission
        self._claims = claims
        self._store = store
        self._waiter = waiter
        self._clock = clock
        self._webhooks = webhooks
        self.counts = JobCounts()

    # One job.

    async def take(self, sent: SentJob, body: Body, principal: Principal) -> Taken:
        """Accept one job with the options of its request.

        Raises InvalidInput, UnknownModel, UnsupportedMedia, InputUrlRefused, a RequestError, or
        Refused, and then nothing was queued; or RedisError, and then it may have been queued.
        """
        asked = body.asked
        if asked.idempotency_key is not None:
            return await self._take_once(sent, body, principal, key_of(asked.idempotency_key))
        if sent.payload is None and sent.sent_bytes <= LARGE_BYTES and not sent.request.webhook:
            job = self._job_of(sent, principal, asked.cache_control)  # _checked without a coroutine
        else:
            job = await self._checked(sent, principal, asked.cache_control)
        return await self._publish(job, asked.prefer)

    async def _take_once(self, sent: SentJob, body: Body, principal: Principal, key: str) -> Taken:
        """Accept a job under its Idempotency-Key, or find the one that was accepted before."""
        prefer = body.asked.prefer
        # Checked first: a refused job claims no key.
        job = await self._checked(sent, principal, body.asked.cache_control)
        if self._admission.is_closed:  # a claim would be refused too, or time out
            if hit := await self.find(job):
                return self._found(hit, prefer)
            self._admission.require_queue(job)
        lane_ttl = self._catalog[job.model].result_ttl_seconds
        try:
            claim = await self._claims.claim(
                principal.tenant, key, await body.digest(), job.id, lane_ttl
            )
        except RedisError:
            # Nothing can be claimed or enqueued now, but a cached result needs neither.
            if hit := await self.find(job):
                return self._found(hit, prefer)
            raise
        record = await self._store.get(claim.job_id) if claim.replayed else None
        if record is None:  # new; or being published; or its front crashed before publishing
            taken = await self._publish(replace(job, id=claim.job_id), prefer)
        else:
            taken = await self._follow(record, prefer)
        return replace(taken, replayed=claim.replayed)

    async def _publish(self, job: Job, prefer: str | None) -> Taken:
        if job.cache is not None and (hit := await self._cache.find(job)):
            return self._found(hit, prefer)
        preferences = self._preferences(prefer)
        if preferences.wait_seconds is None:
            return Taken(job.id, preferences, record=await self._enqueue(job), queued_now=True)
        with waiting_by_choice(job.tenant):
            waited = await self._waiter.wait(
                job.id, preferences.wait_seconds, begin=self._enqueue(job)
            )
        return Taken(job.id, preferences, record=waited)

    async def _follow(self, record: JobRecord, prefer: str | None) -> Taken:
        """Answer a repeated submit in the form of the first, with the job's current record."""
        self.counts.replayed[record.lane] += 1
        preferences = self._preferences(prefer)
        if preferences.wait_seconds and not record.state.terminal:
            with waiting_by_choice(record.tenant):
                waited = await self._waiter.wait(record.id, preferences.wait_seconds)
            record = waited or record
        return Taken(record.id, preferences, record=record)

    def _found(self, hit: Hit, prefer: str | None) -> Taken:
        self.counts.hits[hit.lane] += 1
        return Taken(hit.job_id, self._preferences(prefer), hit=hit)

    def _preferences(self, prefer: str | None) -> Preferences:
        return Preferences.of(prefer, self._limits.max_wait_seconds)

    async def _checked(self, sent: SentJob, principal: Principal, cache: str | None) -> Job:
        if sent.request.webhook is not None:
            await self._webhooks.learn(sent.request.webhook, principal.tenant)
        size = max(sent.sent_bytes, len(sent.payload or b""))
        if size <= LARGE_BYTES:
            return self._job_of(sent, principal, cache)
        return await aside(size, lambda: self._job_of(sent, principal, cache))

    def _job_of(self, sent: SentJob, principal: Principal, cache_control: str | None) -> Job:
        directives = directives_of(cache_control)
        if sent.payload is None:
            return self.prepare(sent.request, principal, sent.sent_bytes, directives)
        return self.prepare_file(sent.request, sent.payload, principal, directives)

    async def find(self, job: Job) -> Hit | None:
        """The cached result for a prepared job, which then need not be published. Never raises."""
        return None if job.cache is None else await self._cache.find(job)

    async def _enqueue(self, job: Job) -> JobRecord:
        if self._admission.may_refuse:
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
        self.counts.queued[job.model] += 1
        now_ms = self._clock.now_ms()
        return JobRecord(id=job.id, state=JobState.QUEUED, lane=job.model, created_ms=now_ms)

    # Validation against the catalog, without I/O.

    def prepare(
        self,
        request: JobRequest,
        principal: Principal,
        sent_bytes: int = 0,
        directives: CacheDirectives = ANYTHING,
        own_bytes: int | None = None,
    ) -> Job:
        """Check one job from this many bytes of JSON, of which about own_bytes are its own.

        Raises UnknownModel, InvalidInput, UnsupportedMedia, InputUrlRefused or MessageTooLarge.
        """
        spec = self._catalog[request.model]
        if spec.task == TASK:
            check_generation(spec, request)
        note_lane(request.model)
        own = sent_bytes if own_bytes is None else own_bytes
        if request.input is MISSING or request.input_url is not None:
            job = self._job(request, principal, NOTHING, None, None, own)
            return self._limits.size.check(replace(job, input_url=_input_url(request)), sent_bytes)
        inline = self._limits.inline_input_bytes
        value, blob = check_input(spec.input, request.input, inline, sent_bytes)
        job = self._job(request, principal, directives, value, blob, own)
        return self._limits.size.check(job, sent_bytes)

    def prepare_file(
        self,
        request: JobRequest,
        payload: bytes,
        principal: Principal,
        directives: CacheDirectives = ANYTHING,
    ) -> Job:
        """Check one job whose input is a file's bytes; raises as `prepare` does."""
        if request.input_url is not None:
            raise InvalidInput("send either a file or `input_url`, not both")
        spec = self._catalog[request.model]
        if spec.task == TASK:
            check_generation(spec, request, is_file=True)
        note_lane(request.model)
        inline = self._limits.inline_input_bytes
        if spec.input in FILE_KINDS:
            value, blob = check_file(spec.input, payload, inline)
        else:
            # As JSON, a byte of text may become six.
            value, blob = check_input(spec.input, _text_of(payload), inline, len(payload) * 6)
        job = self._job(request, principal, directives, value, blob, len(payload))
        return self._limits.size.check(
            job, len(payload) + (MAX_FIELD_BYTES if request.params else 0)
        )

    # Many jobs.

    async def publish_all(self, jobs: Sequence[Job]) -> list[int | Refused | Hit]:
        """Publish prepared jobs in one round trip, two where some may be found in the cache.

        Returns per job the backlog ahead of it, Refused, or the hit.
        """
        if all(job.cache is None for job in jobs):
            return [*await self._enqueue_all(jobs)]
        hits = await self._cache.find_all(jobs)
        self.counts.hits.update(hit.lane for hit in hits if hit is not None)
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
            elif index not in refused:
                self.counts.queued[job.model] += 1
            outcomes.append(outcome)
        return outcomes

    def rate_headers(self, principal: Principal) -> dict[str, str]:
        """The RateLimit fields of the tenant's last submit; empty where its rate has no limit."""
        quotas = self._publisher.quotas
        return rate_headers(quotas.get(principal.tenant)) if quotas else {}

    def _job(
        self,
        request: JobRequest,
        principal: Principal,
        directives: CacheDirectives,
        value: Any,
        blob: bytes | None,
        own_bytes: int,
    ) -> Job:
        now_ms = self._clock.now_ms()
        deadline = request.deadline or self._limits.default_deadline_seconds
        job_id = new_job_id()
        return Job(
            id=job_id,
            model=request.model,
            input=value,
            params=request.params,
            priority=request.priority,
            start_by_ms=after(now_ms, request.start_within),
            deadline_ms=after(now_ms, deadline),
            blob=blob,
            tenant=principal.tenant,
            traceparent=current_traceparent(),
            cache=self._served_models.ticket(
                request.model,
                directives,
                job_id=job_id,
                tenant=principal.tenant,
                params=request.params,
                value=value,
                blob=blob,
            )
            if request.cache
            else None,
            limits=principal.limits,
            labels=request.labels,
            webhook=self._webhooks.target(request.webhook, principal.tenant),
            sent_bytes=own_bytes,
        )


def _input_url(request: JobRequest) -> str:
    if request.input_url is None:
        raise InvalidInput("send `input`, or `input_url` to have it fetched")
    if request.input is not MISSING:
        raise InvalidInput("send either `input` or `input_url`, not both")
    return check_input_url(request.input_url)


def _text_of(payload: bytes) -> str:
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"the file is not UTF-8 text: {exc}") from exc
