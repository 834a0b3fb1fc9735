"""A `map` with a manifest goes on where an earlier one stopped."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import api.client.manifest as manifest_module
from api.client import Client, Input, JobFailed, Manifest, ManifestError, RetryPolicy


class Fleet:
    """Runs everything at once; remembers what ran and what was asked for."""

    def __init__(self, most_ids: int = 2048, fail: str = "") -> None:
        self.ran: list[dict[str, Any]] = []
        self.asked: list[int] = []
        self._most_ids = most_ids
        self._fail = fail
        self.forgotten: set[str] = set()

    def client(self) -> Client:
        """A client of this fleet."""
        http = httpx.Client(transport=httpx.MockTransport(self._answer), base_url="http://fleet")
        return Client(http=http, retries=RetryPolicy(2, first_pause_seconds=0.001))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/bulk"):
            return httpx.Response(200, content=b"".join(self._taken(request.content)))
        ids = json.loads(request.content)["ids"]
        self.asked.append(len(ids))
        if len(ids) > self._most_ids:
            problem = {"type": "https://lanefleet.dev/problems/too-many-ids", "status": 422}
            return httpx.Response(422, json=problem)
        return httpx.Response(200, content=b"".join(map(self._outcome, ids)))

    def _taken(self, body: bytes) -> Iterator[bytes]:
        for number, line in enumerate(body.splitlines(), 1):
            self.ran.append(json.loads(line))
            yield json.dumps({"line": number, "id": f"j{len(self.ran) - 1}"}).encode() + b"\n"

    def _outcome(self, job_id: str) -> bytes:
        if job_id in self.forgotten:
            return json.dumps({"id": job_id, "error": {"status": 404}}).encode() + b"\n"
        value = self.ran[int(job_id[1:])]["input"]
        job = {"id": job_id, "model": "echo", "state": "succeeded", "result": value}
        if value == self._fail:
            job |= {"state": "failed", "error": {"reason": "r", "message": "m"}}
        return json.dumps(job).encode() + b"\n"


@pytest.mark.parametrize("ordered", [True, False])
def test_each_input_is_yielded_once_over_two_runs(tmp_path: Path, ordered: bool) -> None:
    fleet, inputs = Fleet(), [f"i{n}" for n in range(100)]
    options: dict[str, Any] = {"ordered": ordered, "chunk": 10, "window": 40}
    options["manifest"] = tmp_path / "run.db"
    first = []
    for job in fleet.client().map("echo", inputs, **options):
        if len(first) == 37:
            break  # while this one is in hand: it is not done
        first.append(job["result"])
    rest = [job["result"] for job in fleet.client().map("echo", inputs, **options)]
    assert sorted(first + rest) == sorted(inputs)
    assert len(fleet.ran) == 100, "what was submitted is asked for, and not run again"
    if ordered:
        assert first + rest == inputs
    assert list(fleet.client().map("echo", inputs, **options)) == []


def test_what_the_fleet_no_longer_knows_runs_again(tmp_path: Path) -> None:
    fleet, path = Fleet(), tmp_path / "run.db"
    for _ in fleet.client().map("echo", ["a", "b"], manifest=path):
        break
    fleet.forgotten = {"j0"}
    jobs = list(fleet.client().map("echo", ["a", "b"], manifest=path))
    assert [job["result"] for job in jobs] == ["a", "b"]
    assert len(fleet.ran) == 3


def test_other_inputs_are_told(tmp_path: Path) -> None:
    fleet, path = Fleet(), tmp_path / "run.db"
    list(fleet.client().map("echo", ["a", "b"], manifest=path))
    with pytest.raises(ManifestError, match="input 1 is another than in the run"):
        list(fleet.client().map("echo", ["a", "c"], manifest=path))
    with Manifest(path) as held:
        assert held.counts() == {"succeeded": 2}
        with pytest.raises(ManifestError, match="in use by another run"):
            Manifest(path)
    (tmp_path / "text").write_text("no database at all" * 100)
    with pytest.raises(ManifestError, match="is no manifest"):
        Manifest(tmp_path / "text")


def test_what_was_submitted_is_kept_whatever_ends_the_run(tmp_path: Path) -> None:
    fleet, path = Fleet(), tmp_path / "run.db"

    def inputs() -> Iterator[int]:
        yield from range(1500)
        raise OSError("the source is gone")

    with Manifest(path) as manifest:
        jobs = fleet.client().map("echo", inputs(), chunk=100, window=5000, manifest=manifest)
        with pytest.raises(OSError, match="is gone"):
            list(jobs)
    assert len(fleet.ran) >= 1400
    ran = len(fleet.ran)
    jobs = list(fleet.client().map("echo", range(1500), chunk=100, manifest=path))
    assert [job["result"] for job in jobs] == list(range(1500))
    assert len(fleet.ran) <= ran + 200, "what was on its way then may run again, and no more"
    with Manifest(path) as manifest:
        assert manifest.counts() == {"succeeded": 1500}


def test_pages_of_a_manifest_keep_states_and_ids(tmp_path: Path) -> None:
    numbers = [0, 511, 512, 5000]
    with Manifest(tmp_path / "m") as first:
        first.submitted((n, bytes([n % 7] * 8), f"job-{n}") for n in numbers)
        first.done(512, bytes([512 % 7] * 8), "failed")
        first.commit()
        first.done(0, bytes(8), "succeeded")  # not committed: forgotten
    with Manifest(tmp_path / "m") as second:
        assert second.counts() == {"open": 3, "failed": 1}
        for n in numbers:
            job_id = None if n == 512 else f"job-{n}"
            assert second.check(n, bytes([n % 7] * 8)) == (job_id, n == 512)
        assert second.check(1, b"anything") == (None, False)
        assert second.check(10_000, b"anything") == (None, False)
        second.submitted([(512, bytes([512 % 7] * 8), "again")])
        second.commit()
        assert second.counts() == {"open": 3, "failed": 1}, "what is done stays done"


def test_a_commit_that_is_interrupted_forgets_what_was_done_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(manifest_module._Page):
        def put(self, at: int, digest: bytes, state: int, job: str) -> None:
            super().put(at, digest, state, job)
            if state > 1:
                raise KeyboardInterrupt

    with Manifest(tmp_path / "m") as manifest:
        manifest.submitted([(0, bytes(8), "a"), (1, bytes(8), "b")])
        manifest.commit()
        manifest.submitted([(2, bytes(8), "c")])
        manifest.done(0, bytes(8), "succeeded")
        with monkeypatch.context() as patched:
            manifest._pages.clear()
            patched.setattr(manifest_module, "_Page", Interrupted)
            with pytest.raises(KeyboardInterrupt):
                manifest.commit()
    with Manifest(tmp_path / "m") as manifest:
        assert manifest.counts() == {"open": 3}
        assert manifest.check(2, bytes(8)) == ("c", False)


def test_what_is_no_manifest_is_left_alone(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE rows (mine TEXT)")
    other.close()
    before = (tmp_path / "other.db").read_bytes()
    with pytest.raises(ManifestError, match="is no manifest"):
        Manifest(tmp_path / "other.db")
    assert (tmp_path / "other.db").read_bytes() == before
    with pytest.raises(ManifestError, match="cannot be written"):
        Manifest(tmp_path)
    with pytest.raises(ManifestError, match="cannot be written"):
        Manifest(tmp_path / "gone" / "m")


def test_a_chunk_does_not_end_by_the_most_ids_of_a_request() -> None:
    fleet = Fleet(most_ids=100)
    jobs = list(fleet.client().map("echo", range(1500), chunk=700, window=700))
    assert [job["result"] for job in jobs] == list(range(1500))
    assert fleet.asked[:4] == [700, 350, 175, 87], "and then no more at once"
    assert max(fleet.asked[4:]) == 87


def test_failures_are_left_out_or_raised(tmp_path: Path) -> None:
    fleet, path = Fleet(fail="b"), tmp_path / "run.db"
    assert len(list(fleet.client().map("echo", ["a", "b", "c"], on_error="skip"))) == 2
    with pytest.raises(JobFailed):
        list(fleet.client().map("echo", ["a", "b", "c"], manifest=path))
    left = list(fleet.client().map("echo", ["a", "b", "c"], manifest=path, on_error="return"))
    assert [job["index"] for job in left] == [1, 2]
    with pytest.raises(ValueError, match="on_error"):
        fleet.client().map("echo", [], on_error="what")  # type: ignore[arg-type]


def test_an_input_may_have_fields_of_its_own() -> None:
    fleet = Fleet()
    list(fleet.client().map("echo", [Input("a", {"params": {"k": 1}}), "b"], priority=6))
    assert [one.get("params") for one in fleet.ran] == [{"k": 1}, None]
    assert {one["priority"] for one in fleet.ran} == {6}
