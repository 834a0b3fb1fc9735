"""Which jobs run: those of the batch on the device, those on rows, and those in servers."""

from __future__ import annotations

from worker.jobs.execution import Execution
from worker.lanes.state import WorkerState


def jobs(*names: str) -> list[Execution]:
    return [Execution(name.encode(), 1, 0, name, 0.0) for name in names]


def test_what_runs_in_one_place_is_not_forgotten_for_another() -> None:
    state = WorkerState({})
    state.set_in_servers(jobs("server"))
    state.set_on_rows(jobs("row", "other row"))
    assert state.running == {b"server", b"row", b"other row"}
    state.set_running(jobs("batch"))
    assert state.running == {b"server", b"row", b"other row", b"batch"}
    state.set_running(())
    state.set_on_rows(jobs("row"))
    assert state.running == {b"server", b"row"}
    state.set_in_servers(())
    state.set_on_rows(())
    assert not state.running
