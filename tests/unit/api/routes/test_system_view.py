"""How the processes' reports become one view."""

from __future__ import annotations

from api.jobs.outbox import OutboxCounts
from api.routes.system_view import ApiFacts, ProcessView, RedisView, merged, system_view
from common.worker_report import ModelReport, RuntimeReport, WorkerReport


def report(name: str, torch: str, threads: int, gpu: float = 0.0) -> WorkerReport:
    return WorkerReport(
        name,
        device="cuda:0" if gpu else "cpu",
        rss_mb=100.04,
        models={"minilm": ModelReport(90.0)},
        runtime=RuntimeReport(
            gpu=gpu > 0,
            gpu_allocated_gb=gpu,
            gpu_reserved_gb=2 * gpu,
            optimizations={"orjson": "3", "threads": {"torch": threads}},
            versions={"torch": torch},
        ),
    )


API = ApiFacts(
    processes=[ProcessView(name="api-1", role="api", memory_mb=50.0)],
    optimizations={"orjson": "3", "uvloop": None},
    versions={"fastapi": "1"},
)
REDIS = RedisView(reachable=True)


def test_memory_is_summed_and_versions_are_named_once_where_they_are_one() -> None:
    reports = [report("a", "2.13", 2, gpu=1.5), report("b", "2.13", 4, gpu=0.25)]
    view = system_view("ok", API, reports, REDIS, OutboxCounts(1, 2))
    assert view.performance.memory_mb == 250.0
    assert view.memory_usage.model_dump() == {"gpu_allocated_gb": 1.75, "gpu_reserved_gb": 3.5}
    assert (view.gpu_available, view.model_loaded) == (True, True)
    assert view.versions == {"fastapi": "1", "torch": "2.13"}
    assert view.performance.optimizations == {
        "orjson": "3",
        "uvloop": None,
        "threads": {"torch": [2, 4]},
    }
    assert view.outbox is not None
    assert (view.outbox.waiting, view.outbox.failed) == (1, 2)


def test_versions_that_differ_are_both_named() -> None:
    view = system_view("ok", API, [report("a", "2.12", 2), report("b", "2.13", 2)], REDIS, None)
    assert view.versions["torch"] == ["2.12", "2.13"]
    assert not view.gpu_available


def test_without_workers_there_is_the_api_alone() -> None:
    view = system_view("ok", API, [], REDIS, None)
    assert (view.model_loaded, view.performance.memory_mb) == (False, 50.0)


def test_a_worker_of_an_older_version_says_less() -> None:
    older = WorkerReport.of({"worker": "a", "rss_mb": 10, "models": {}})
    view = system_view("ok", API, [older], REDIS, None)
    assert view.performance.memory_mb == 60.0
    assert view.processes[-1].cold_start_seconds is None


def test_what_a_server_does_not_say_is_left_out() -> None:
    assert RedisView.of({}, ("Redis", ""), []).model_dump(exclude_none=True) == {
        "reachable": True,
        "warnings": [],
    }
    said = {"used_memory": "1048576", "maxmemory": 0, "maxmemory_policy": "noeviction"}
    view = RedisView.of(said, ("Valkey", "9.0"), ["look"])
    assert (view.used_memory_mb, view.maxmemory_mb, view.version) == (1.0, 0.0, "9.0")


def test_mappings_are_merged_into_each_other() -> None:
    assert merged([{"a": {"x": 1}}, {"a": {"y": 2}}, {"b": 1}, {"b": None}]) == {
        "a": {"x": 1, "y": 2},
        "b": [1, None],
    }
