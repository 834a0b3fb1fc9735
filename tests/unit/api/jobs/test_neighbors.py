"""Who else uses this database is told from what workers say."""

from __future__ import annotations

from api.jobs.neighbors import disputed_lanes, foreign_lanes
from common.worker_report import LaneReport, WorkerReport


def report(worker: str, **weights: str) -> WorkerReport:
    """A worker that serves these lanes with these weights."""
    lanes = {
        name: LaneReport(loaded=True, error=None, model=name, fingerprint=digest)
        for name, digest in weights.items()
    }
    return WorkerReport(worker, lanes=lanes)


def test_lanes_that_the_catalog_has_not_are_foreign() -> None:
    reports = [report("a", echo="1", theirs="2"), report("b", more="1")]
    assert foreign_lanes(reports, {"echo", "idle"}) == ["more", "theirs"]


def test_lanes_with_different_weights_are_disputed() -> None:
    reports = [report("a", echo="1", bert="1"), report("b", echo="2", bert="1"), report("c", x="")]
    assert disputed_lanes(reports) == ["echo"]
