"""Files and batches: where files lie, what a tenant may keep, and how batches are fed."""

from __future__ import annotations

from pydantic import Field

from common.settings.base import Section

DAY_SECONDS = 86_400


class BatchSettings(Section):
    """Files that clients upload, and the batches that run over them."""

    files_url: str | None = Field(
        None,
        description="Where uploaded files and the results of batches lie: file:///a/shared/folder "
        "or s3://bucket/prefix; unset is the folder files under LANEFLEET_BLOB_URL, and without "
        "that no files are taken.",
    )
    file_max_bytes: int = Field(
        200 * 1024 * 1024, ge=1024, description="Largest file that may be uploaded."
    )
    tenant_files: int = Field(1_000, ge=1, description="Files that one tenant may keep.")
    tenant_file_bytes: int = Field(
        10 * 1024**3, ge=1024, description="Bytes of files that one tenant may keep."
    )
    file_ttl_seconds: int = Field(
        30 * DAY_SECONDS,
        ge=60,
        description="How long a file is kept where its upload does not say; results of batches "
        "and the batches themselves as well.",
    )
    batch_max_lines: int = Field(50_000, ge=1, description="Lines a batch's file may have.")
    batch_max_line_bytes: int = Field(
        4 * 1024 * 1024, ge=1024, description="Longest line of a batch's file."
    )
    batch_max_seconds: int = Field(
        7 * DAY_SECONDS,
        ge=1,
        le=7 * DAY_SECONDS,
        description="Longest completion_window that a batch may ask for.",
    )
    tenant_batches: int = Field(
        50, ge=1, description="Batches of one tenant that may be unfinished at a time."
    )
    batch_window_jobs: int = Field(
        1_000,
        ge=1,
        description="Jobs of one batch that wait, run, or have results that are not yet in its "
        "output file.",
    )
    batch_window_bytes: int = Field(
        8 * 1024 * 1024, ge=1024, description="Bytes of input of one batch that wait or run."
    )
    batch_concurrency: int = Field(
        16, ge=1, description="Batches that one courier feeds at a time; others wait their turn."
    )
    batch_turn_seconds: float = Field(
        30.0,
        gt=0,
        description="How long a courier feeds a batch before others that wait get their turn.",
    )
