"""Large inputs outside of Redis: the same promises from a folder and from object stores."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from api.cli.fleet import free_port
from api.jobs.large_inputs import LargeInputs
from common.errors import ConfigurationError, InputStoreUnavailable
from common.inputs.blobs import STORED, Blobs, FolderBlobs, ObjectBlobs, open_blobs
from common.jobs.job import Job
from tests.support.stack import wait_until

Open = Callable[[Path], Blobs]


def _in_memory(_folder: Path) -> Blobs:
    store = pytest.importorskip("obstore.store")
    return ObjectBlobs(store.MemoryStore())


def _in_objects(folder: Path) -> Blobs:
    store = pytest.importorskip("obstore.store")
    return ObjectBlobs(store.LocalStore(folder))


@pytest.fixture(params=[FolderBlobs, _in_objects, _in_memory], ids=["folder", "objects", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    opened: Blobs = request.param(tmp_path)
    return opened


async def _old(blobs: Blobs, seconds: float) -> list[str]:
    return sorted([one async for page in blobs.older_than(seconds) for one in page])


def test_what_was_put_is_there_until_it_is_deleted(blobs: Blobs) -> None:
    async def run() -> None:
        await blobs.put("0-a", b"\0first")
        await blobs.put("0-b", b"second" * 100_000)
        assert await blobs.get("0-a") == b"\0first"
        assert len(await blobs.get("0-b") or b"") == 600_000
        assert await blobs.get("0-c") is None
        await blobs.delete(["0-a", "0-never", "0-a"])
        assert await blobs.get("0-a") is None
        assert await _old(blobs, -60) == ["0-b"]
        await blobs.delete([])

    asyncio.run(run())


def test_age_is_told(blobs: Blobs) -> None:
    async def run() -> None:
        await blobs.put("0-a", b"x")
        assert await _old(blobs, 3600) == []
        assert await _old(blobs, -3600) == ["0-a"]

    asyncio.run(run())


@pytest.mark.parametrize("job_id", ["../etc/passwd", "a/b", ".", "..", "", "a.part", "x" * 200])
def test_an_id_of_another_form_names_nothing(blobs: Blobs, job_id: str) -> None:
    async def run() -> None:
        assert await blobs.get(job_id) is None
        await blobs.delete([job_id])
        with pytest.raises(ValueError, match="cannot name"):
            await blobs.put(job_id, b"x")

    asyncio.run(run())


def test_a_writer_that_died_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    (folder / "0-a.part").write_bytes(b"half of it")
    long_ago = time.time() - 100
    os.utime(folder / "0-a.part", (long_ago, long_ago))
    assert asyncio.run(blobs.get("0-a")) is None
    assert asyncio.run(_old(blobs, 50)) == []
    assert list(folder.iterdir()) == []
    assert folder.stat().st_mode & 0o077 == 0


def test_a_folder_that_is_gone_is_a_failure_to_try_again(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "folder")
    (tmp_path / "folder").rmdir()
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(InputStoreUnavailable, match="try again"):
        asyncio.run(blobs.put("0-a", b"x"))


@pytest.mark.parametrize(
    "url", ["ftp://x/y", "file://", "file://host/x", "/folder", "s3://", "gs://b"]
)
def test_another_url_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ConfigurationError, match="LANEFLEET_BLOB_URL"):
        open_blobs(url)


def test_the_url_chooses_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert open_blobs(None) is None
    assert isinstance(open_blobs(f"file://{tmp_path}/x"), FolderBlobs)
    assert isinstance(open_blobs("s3://bucket/prefix"), ObjectBlobs)


class Failing:
    """A store that takes nothing."""

    async def put(self, job_id: str, content: bytes) -> None:
        raise InputStoreUnavailable("not now")


def test_only_large_inputs_are_put_aside_and_each_once(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)

    async def run() -> None:
        large_inputs = LargeInputs(blobs, larger_than=10)
        small, large = Job("echo", 1, blob=b"x" * 10), Job("echo", 1, blob=b"x" * 11)
        plain = Job("echo", 1)
        taken = await large_inputs.put_all_aside([small, plain, large])
        assert [job.blob for job in taken] == [b"x" * 10, None, STORED]
        assert await blobs.get(large.id) == b"x" * 11
        assert list(await large_inputs.put_all_aside(taken)) == list(taken)
        await large_inputs.drop(taken)
        assert await blobs.get(large.id) is None

    asyncio.run(run())


def test_a_store_that_fails_takes_no_job() -> None:
    async def run() -> None:
        failing = LargeInputs(Failing(), larger_than=10)  # type: ignore[arg-type]
        with pytest.raises(InputStoreUnavailable):
            await failing.put_all_aside([Job("echo", 1, blob=b"x" * 11)])
        nowhere = LargeInputs(None, larger_than=0)
        assert not nowhere.concern(Job("echo", 1, blob=b"x"))

    asyncio.run(run())


def test_a_server_that_speaks_s3_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """With moto's server, where it is installed; it is too large to ask for."""
    pytest.importorskip("obstore")
    moto = shutil.which("moto_server")
    if moto is None:
        pytest.skip("no moto_server on this machine: pip install 'moto[server]'")
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    server = subprocess.Popen([moto, "-p", url.rpartition(":")[2]], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _made_bucket(url), 20, "a bucket")
        blobs = open_blobs("s3://inputs/fleet/one")
        assert blobs is not None
        test_what_was_put_is_there_until_it_is_deleted(blobs)
    finally:
        server.kill()
        server.wait()


def _made_bucket(url: str) -> bool:
    try:
        return httpx.put(f"{url}/inputs").is_success
    except httpx.HTTPError:
        return False
