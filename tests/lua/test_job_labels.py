"""job_labels.lua: the labels of jobs, from the index."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from common.jobs.enqueue import publish_many
from common.jobs.job import Job
from common.redis.scripts import Scripts
from tests.lua.cases import LANE, fill, plain

ENTRIES = {
    "2-0": {LANE: "10 a b"},
    "4-0": {f"{LANE} run=1": "20 c", LANE: "20 dd"},
    "5-0": {f"{LANE} by=me,run=2": "20 d"},
    "6-0": {f"{LANE} run=3": "30 e"},
}


def labels_of(client: Redis, *jobs: tuple[str, str, int]) -> list[str]:
    found: list[str] = plain(
        Scripts(client).run("job_labels", (), [x for job in jobs for x in job])
    )
    return found


@pytest.fixture
def index(redis_client: Redis) -> Redis:
    fill(redis_client, {"lf:jobs:acme:count": "6", "lf:jobs:acme:labels": "1"})
    for number, fields in ENTRIES.items():
        redis_client.xadd("lf:jobs:acme", fields, id=number)  # type: ignore[arg-type]
    return redis_client


@pytest.mark.parametrize(
    ("job", "labels"),
    [
        (("acme", "a", 10), ""),
        (("acme", "c", 20), "run=1"),
        (("acme", "dd", 20), ""),
        (("acme", "d", 20), "by=me,run=2"),
        (("acme", "e", 30), "run=3"),
        (("acme", "gone", 20), ""),
        (("acme", "late", 40), ""),
        (("acme", "early", 5), ""),
        (("other", "c", 20), "-"),
    ],
)
def test_a_job_is_found_in_the_entries_of_its_millisecond(
    index: Redis, job: tuple[str, str, int], labels: str
) -> None:
    assert labels_of(index, job) == [labels]


def test_many_are_asked_for_at_once_and_nothing_is_written(index: Redis) -> None:
    before = index.dbsize()
    assert labels_of(index, ("acme", "c", 20), ("", "x", 1), ("acme", "e", 30)) == [
        "run=1",
        "-",
        "run=3",
    ]
    assert index.dbsize() == before


def test_a_job_that_was_retried_has_its_own(index: Redis) -> None:
    index.set("lf:labels:a", "run=7")
    assert labels_of(index, ("acme", "a", 99)) == ["run=7"]


def test_enqueue_says_that_a_tenant_has_labels(redis_client: Redis) -> None:
    def labeled() -> Any:
        return redis_client.exists("lf:jobs:t:labels")

    fill(redis_client, {})
    publish_many(redis_client, [Job(LANE, 1, tenant="t")])
    assert not labeled()
    job = Job(LANE, 2, tenant="t", labels={"run": "9"})
    publish_many(redis_client, [job])
    assert labeled()
    created = int(redis_client.get(f"lf:job:{job.id}").split(b" ")[2].split(b":")[0])  # type: ignore[union-attr]
    assert labels_of(redis_client, ("t", job.id, created)) == ["run=9"]
