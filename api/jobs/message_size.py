"""Refuses jobs whose message would be too large.

Redis serves nobody else while a script copies messages, so one tenant's large ones would delay all
others. A large input goes beside the message; all else of a job is bounded here.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from common.errors import MessageTooLarge
from common.jobs.job import Job
from common.jobs.message import build_message

MAX_FIELD_BYTES = 1024 * 1024
"""Largest field of a form."""
_MOST_GROWTH = 7
"""How many times as large as what was sent a message can be: control characters."""


@dataclass(frozen=True, slots=True)
class SizeLimits:
    """The settings for the size of a message."""

    params_bytes: int
    message_bytes: int

    def check(self, job: Job, sent_bytes: int) -> Job:
        """The job, which was sent in so many bytes; raises MessageTooLarge.

        Few are sent in so many that anything has to be measured.
        """
        if sent_bytes > self.params_bytes and job.params:
            size = len(orjson.dumps(job.params))
            if size > self.params_bytes:
                raise MessageTooLarge(
                    f"`params`: {size} bytes as JSON, and LANEFLEET_MAX_PARAMS_BYTES is "
                    f"{self.params_bytes}; send what is large as `input`"
                )
        if sent_bytes * _MOST_GROWTH > self.message_bytes:
            size = len(build_message(job))
            if size > self.message_bytes:
                raise MessageTooLarge(
                    f"the job makes a message of {size} bytes, and LANEFLEET_MAX_MESSAGE_BYTES is "
                    f"{self.message_bytes}; send less at once"
                )
        return job
