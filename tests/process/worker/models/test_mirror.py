"""Weights by URL, from a real TLS server on loopback."""

from __future__ import annotations

import hashlib
import io
import os
import ssl
import stat
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from common.catalog import ModelSpec, mirrored
from common.errors import ConfigurationError
from common.settings import MirrorSettings
from tests.support.mirror import ADDRESS, MirrorServer, certificate
from worker.models import mirror as module
from worker.models import weights as weights_module
from worker.models.mirror import Mirror
from worker.residency.weights_digests import WeightsDigests

CONTENT = os.urandom(300_000)


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server(pem: Path) -> Iterator[MirrorServer]:
    made = MirrorServer(pem)
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "weights"


@pytest.fixture
def mirror(pem: Path, folder: Path) -> Callable[..., Mirror]:
    context = ssl.create_default_context(cafile=pem)

    def make(**settings: object) -> Mirror:
        values = {"weights_allow": [ip_network(ADDRESS)], "weights_tries": 3, **settings}
        return Mirror(folder, MirrorSettings(**values), ssl_context=context)  # type: ignore[arg-type]

    return make


def get(mirror: Mirror, weights: str) -> Path:
    wanted = mirrored(weights)
    assert wanted is not None
    return mirror.fetch(wanted)


def refusal(mirror: Mirror, weights: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        get(mirror, weights)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def left(folder: Path) -> list[str]:
    """What a load could take for weights."""
    return sorted(one.name for one in folder.iterdir() if not one.name.startswith("."))


def test_a_file_is_fetched_once_and_found_from_then_on(
    server: MirrorServer, mirror: Callable[..., Mirror], folder: Path
) -> None:
    weights = server.put("/a/model.safetensors", CONTENT)
    wanted = mirrored(weights)
    assert wanted is not None
    assert mirror().located(wanted) is None
    path = get(mirror(), weights)
    assert path.read_bytes() == CONTENT
    assert path == folder / f"{hashlib.sha256(CONTENT).hexdigest()}.safetensors"
    assert get(mirror(), weights) == mirror().located(wanted) == path
    assert server.asked == [("/a/model.safetensors", None)]


def test_threads_that_want_the_same_fetch_it_once(
    server: MirrorServer, mirror: Callable[..., Mirror]
) -> None:
    weights, found = server.put("/one.onnx", CONTENT), []
    threads = [
        threading.Thread(target=lambda: found.append(get(mirror(), weights))) for _ in range(4)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert len(server.asked) == 1


def test_what_broke_off_goes_on_where_it_ended(
    server: MirrorServer, mirror: Callable[..., Mirror]
) -> None:
    weights = server.put("/big.onnx", CONTENT)
    server.break_after = [100_000, 50_000]
    assert get(mirror(), weights).read_bytes() == CONTENT
    asked = [int(one.removeprefix("bytes=").rstrip("-")) for _, one in server.asked if one]
    assert asked == [100_000, 150_000]


def test_the_next_load_goes_on_where_the_last_ended(
    server: MirrorServer, mirror: Callable[..., Mirror], folder: Path
) -> None:
    weights = server.put("/big.onnx", CONTENT)
    server.break_after = [200_000]
    assert "could not be reached, or broke off" in refusal(mirror(weights_tries=1), weights)
    assert left(folder) == []
    assert get(mirror(), weights).read_bytes() == CONTENT
    assert server.asked[-1] == ("/big.onnx", "bytes=200000-")


def test_a_part_of_another_file_is_thrown_away(
    server: MirrorServer, mirror: Callable[..., Mirror], folder: Path
) -> None:
    weights = server.put("/big.onnx", CONTENT)
    part = folder / f".{hashlib.sha256(CONTENT).hexdigest()}.part"
    for stale, ranges in ((b"x" * 1000, True), (b"x" * 1000, False), (b"x" * 400_000, True)):
        folder.mkdir(parents=True, exist_ok=True)
        part.write_bytes(stale)
        server.knows_ranges = ranges
        path = get(mirror(), weights)
        assert path.read_bytes() == CONTENT
        path.unlink()
    part.write_bytes(CONTENT)
    before = len(server.asked)
    assert get(mirror(), weights).read_bytes() == CONTENT
    assert len(server.asked) == before, "it was whole, and only lacked its name"


def test_a_wrong_digest_names_both_and_leaves_nothing(
    server: MirrorServer, mirror: Callable[..., Mirror], folder: Path
) -> None:
    server.put("/a.safetensors", CONTENT)
    wrong = "0" * 64
    said = refusal(mirror(), f"{server.url('/a.safetensors')}#sha256={wrong}")
    assert hashlib.sha256(CONTENT).hexdigest() in said
    assert wrong in said
    assert left(folder) == []
    assert not list(folder.glob("*.part"))


def test_another_file_is_not_fetched_again_every_five_minutes(
    server: MirrorServer, mirror: Callable[..., Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("/a.onnx", CONTENT)
    weights, one = f"{server.url('/a.onnx')}#sha256={'0' * 64}", mirror()
    first = refusal(one, weights)
    assert "it is fetched again in an hour" in first
    asked = len(server.asked)
    assert refusal(one, weights) == first
    assert len(server.asked) == asked
    monkeypatch.setattr(module, "_WRONG_SECONDS", 0.0)
    server.headers = {"Content-Type": "text/html; charset=utf-8"}
    assert "its server sent a web page (text/html); correct" in refusal(one, weights)
    assert len(server.asked) == asked + 1


@pytest.mark.parametrize(
    ("statuses", "settings", "says"),
    [
        ([302], {}, "answered 302; redirects are not followed"),
        ([404], {}, "answered 404 instead of 200"),
        ([503, 503, 503], {}, "answered 503; look at the mirror"),
        ([], {"weights_allow": ()}, "LANEFLEET_WEIGHTS_ALLOW"),
        ([], {"weights_max_bytes": 200_000}, "larger than 200000 bytes"),
        ([], {"weights_fetch_seconds": 1e-6}, "LANEFLEET_WEIGHTS_FETCH_SECONDS"),
    ],
)
def test_what_cannot_be_fetched_is_refused_in_a_sentence(
    server: MirrorServer,
    mirror: Callable[..., Mirror],
    folder: Path,
    statuses: list[int],
    settings: dict[str, object],
    says: str,
) -> None:
    weights = server.put("/a.onnx", CONTENT)
    server.statuses = statuses
    assert says in refusal(mirror(**settings), weights)
    assert left(folder) == []


def test_a_server_that_recovers_is_asked_again(
    server: MirrorServer, mirror: Callable[..., Mirror]
) -> None:
    weights = server.put("/a.onnx", CONTENT)
    server.statuses = [503, 429]
    assert get(mirror(), weights).read_bytes() == CONTENT


def test_a_certificate_that_nobody_vouches_for_is_not_talked_to(
    server: MirrorServer, folder: Path
) -> None:
    settings = MirrorSettings(weights_allow=[ip_network(ADDRESS)], weights_tries=1)  # type: ignore[arg-type]
    weights = server.put("/a.onnx", CONTENT)
    assert "could not be reached" in refusal(Mirror(folder, settings), weights)
    assert server.asked == []


def test_more_than_the_disk_has_room_for_is_told_before_it_comes(
    server: MirrorServer, mirror: Callable[..., Mirror], folder: Path
) -> None:
    weights = server.put("/a.onnx", CONTENT)
    server.headers = {"Content-Length": str(10**18)}
    said = refusal(mirror(weights_max_bytes=10**19), weights)
    assert "the disk is full (" in said
    assert "LANEFLEET_STATE_DIR" in said
    assert left(folder) == []


def test_a_disk_that_fills_up_meanwhile_is_told(
    server: MirrorServer, mirror: Callable[..., Mirror], folder: Path
) -> None:
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file systems may be mounted here")
    try:
        weights = server.put("/a.onnx", CONTENT)
        server.hides_length = True
        assert "the disk is full" in refusal(mirror(), weights)
        assert left(folder) == []
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def named(value: object) -> str:
    """An archive has the time in it, and processes that collect in turns must agree on names."""
    return value if isinstance(value, str) else "archive"


def tar_of(entries: dict[str, bytes], mode: str = "w", **kinds: bytes) -> bytes:
    """kinds: by name, a type of entry that is no file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as packed:  # type: ignore[call-overload]
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
        for name, kind in kinds.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            packed.addfile(info)
    return stream.getvalue()


def zip_of(entries: dict[str, bytes], mode: int = 0) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            packed.writestr(info, content)
    return stream.getvalue()


MODEL = {"m/config.json": b"{}", "m/model.safetensors": b"numbers", "m/sub/a.txt": b"a"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("/m.tar", tar_of(MODEL)),
        ("/m.tar.gz", tar_of(MODEL, "w:gz")),
        ("/m.tgz", tar_of({one.removeprefix("m/"): MODEL[one] for one in MODEL}, "w:gz")),
        ("/m.zip", zip_of(MODEL)),
    ],
    ids=named,
)
def test_an_archive_becomes_a_folder(
    server: MirrorServer,
    mirror: Callable[..., Mirror],
    folder: Path,
    name: str,
    content: bytes,
) -> None:
    path = get(mirror(), server.put(name, content))
    assert {
        str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()
    } == {one.removeprefix("m/"): MODEL[one] for one in MODEL}
    assert left(folder) == [hashlib.sha256(content).hexdigest()]
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("/a.tar", tar_of({"../out": b"x"}), "'../out' is no path inside of it"),
        ("/a.tar", tar_of({"/etc/out": b"x"}), "is no path inside of it"),
        ("/a.tar", tar_of({}, link=tarfile.SYMTYPE), "'link' is no plain file"),
        ("/a.tar", tar_of({}, link=tarfile.LNKTYPE), "'link' is no plain file"),
        ("/a.tar", tar_of({}, device=tarfile.CHRTYPE), "'device' is no plain file"),
        ("/a.tar", tar_of({"a": b"1", "a/b": b"2"}), "is in it twice"),
        ("/a.tar", tar_of({}), "it holds no files"),
        ("/a.tar", b"x" * 5000, "it cannot be read"),
        ("/a.tar.gz", tar_of(MODEL, "w:gz")[:60], "it cannot be read"),
        ("/a.tar.gz", b"\x1f\x8b nonsense", "it cannot be read"),
        ("/a.zip", zip_of({"../out": b"x"}), "is no path inside of it"),
        ("/a.zip", zip_of({"C:\\out": b"x"}), "is no path inside of it"),
        ("/a.zip", zip_of({"link": b"/etc/passwd"}, stat.S_IFLNK), "'link' is no plain file"),
        ("/a.zip", zip_of({"zeros": bytes(5_000_000)}), "holds more than 1000000 bytes"),
        ("/a.zip", zip_of({f"{n}": b"" for n in range(30)}), "more than 20 files"),
        ("/a.zip", b"PK nonsense", "it cannot be read"),
    ],
    ids=named,
)
def test_an_archive_that_leads_out_or_is_too_large_leaves_nothing(
    server: MirrorServer,
    mirror: Callable[..., Mirror],
    folder: Path,
    name: str,
    content: bytes,
    says: str,
) -> None:
    limits = {"weights_max_unpacked_bytes": 1_000_000, "weights_max_files": 20}
    assert says in refusal(mirror(**limits), server.put(name, content))
    assert left(folder) == []
    assert sorted(one.name for one in folder.parent.iterdir()) == ["weights"]


def test_the_weights_digest_is_of_what_was_fetched(
    server: MirrorServer,
    mirror: Callable[..., Mirror],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weights_module, "_found", {})
    monkeypatch.setattr(weights_module, "_mirror", None)
    weights = server.put("/of-a-name.onnx", CONTENT)
    spec = ModelSpec(name="m", handler="echo", weights=weights)
    weights_module.set_base(tmp_path, mirror=mirror())
    assert weights_module.located(weights) is None
    assert not [one for one in WeightsDigests.files(spec) if one.is_relative_to(tmp_path)]
    path = weights_module.find_weights(weights)
    assert weights_module.located(weights) == path
    assert path in WeightsDigests.files(spec)
    digest = WeightsDigests(tmp_path / "digests.json").make(spec, {})
    assert digest is not None
    assert "of-a-name" not in str(path), "the name of a file at a mirror tells nothing"
