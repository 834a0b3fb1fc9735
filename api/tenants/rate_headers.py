"""Builds the RateLimit fields of a tenant's rate, and the time to retry.

The fields are those of the IETF's draft-ietf-httpapi-ratelimit-headers (10, 11): one policy
named `jobs`, a quota `q` per window `w` in seconds, of which `r` are left and which is full
again in `t` seconds. A token bucket of `burst` jobs that fills at `jobs_per_second` is the
quota `burst` in the time that it takes to fill.
"""

from __future__ import annotations

import math

from common.jobs.quota import Quota

POLICY = "jobs"


def rate_headers(quota: Quota | None) -> dict[str, str]:
    """The fields of a response; none where the tenant's rate is unlimited."""
    if quota is None or quota.remaining < 0:
        return {}
    limits = quota.limits
    window = math.ceil(limits.burst / limits.jobs_per_second)
    reset = math.ceil(quota.reset_ms / 1000)
    return {
        "RateLimit-Policy": f'"{POLICY}";q={limits.burst};w={window}',
        "RateLimit": f'"{POLICY}";r={quota.remaining};t={reset}',
    }


def seconds_until_next(quota: Quota | None) -> int:
    """Seconds until the bucket has a token for a job, rounded up, at least one."""
    if quota is None or quota.remaining != 0:
        return 1
    limits = quota.limits
    gap_ms = 1000 / limits.jobs_per_second
    return max(1, math.ceil((quota.reset_ms - (limits.burst - 1) * gap_ms) / 1000))
