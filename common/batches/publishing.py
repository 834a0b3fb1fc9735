"""The job that runs a batch, and where files lie."""

from __future__ import annotations

from common.inputs.blobs import Blobs, open_blobs
from common.jobs.job import Job
from common.jobs.system_lanes import BATCHES, system_tenant
from common.settings import Settings


def batch_job(batch_id: str, tenant: str, job_id: str) -> Job:
    """The job of the lane `~batch` for this batch."""
    return Job(model=BATCHES, input=batch_id, id=job_id, tenant=system_tenant(tenant), priority=0)


def open_files(settings: Settings) -> Blobs | None:
    """Where files lie, or None where nothing says so. Raises ConfigurationError.

    Under LANEFLEET_BLOB_URL they have a folder of their own, which the sweeper of inputs leaves
    alone: it takes no name with a slash.
    """
    url = settings.files_url
    if url is None and settings.blob_url is not None:
        url = f"{settings.blob_url.rstrip('/')}/files"
    return open_blobs(url)
