"""The recipes of docs/pipelines.md as printed, without the packages that they are for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.redis.embedded_server import RedisServer
from tests.support.stack import ROOT, Stack, wait_until

ROWS = [{"text": "x" * n, "n": n} for n in range(40)]
LENGTHS = list(range(40))


@pytest.fixture(scope="module")
def fleet(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    made = Stack(embedded_redis.url, tmp_path_factory.mktemp("pipelines"))
    made.redis.flushall()
    made.worker("echo")
    yield made, made.api("echo").url
    made.close()


def recipe(name: str) -> Any:
    text = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        if re.search(rf"^(def|class) {name}\b", block, re.MULTILINE):
            names: dict[str, Any] = {}
            exec(block, names)
            return names[name]
    pytest.fail(f"docs/pipelines.md has no recipe {name}")


def test_an_airflow_task_goes_on_after_its_failure(
    fleet: tuple[Stack, str], tmp_path: Path
) -> None:
    embed, manifest = recipe("embed_rows"), tmp_path / "run.db"
    first = []
    for found in embed(iter(ROWS), fleet[1], manifest):
        if len(first) == 7:
            break
        first.append(found)
    rest = list(embed(iter(ROWS), fleet[1], manifest))
    assert [index for index, _, _ in first + rest] == LENGTHS
    assert [result["length"] for _, _, result in first + rest] == LENGTHS


def test_a_partition_of_spark_has_a_row_for_each(fleet: tuple[Stack, str]) -> None:
    found = list(recipe("run_partition")(iter(ROWS), fleet[1]))
    assert [(row["n"], row["result"]["length"]) for row in found] == [(n, n) for n in LENGTHS]


def test_a_batch_of_ray_data_gets_a_column(fleet: tuple[Stack, str]) -> None:
    batch = {"text": [row["text"] for row in ROWS]}
    found = recipe("RunBatch")(fleet[1])(batch)
    assert [result["length"] for result in found["result"]] == LENGTHS


def test_a_frame_of_pandas_gets_a_column(fleet: tuple[Stack, str]) -> None:
    frame = {"text": [row["text"] for row in ROWS]}
    found = recipe("add_results")(frame, fleet[1])
    assert [result["length"] for result in found["result"]] == LENGTHS


def test_a_group_of_celery_needs_nothing_of_ours(fleet: tuple[Stack, str]) -> None:
    found = recipe("run_group")(ROWS, fleet[0].redis_url)
    assert [result["length"] for result in found] == LENGTHS


def test_a_producer_beside_the_workers_publishes_many(fleet: tuple[Stack, str]) -> None:
    ids, refused = recipe("publish_rows")(ROWS, fleet[0].redis_url)
    assert (len(ids), refused) == (40, [])
    wait_until(lambda: fleet[0].states(ids).get("succeeded") == 40, what="all to be done")
