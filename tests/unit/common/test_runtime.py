"""What a process says it runs on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from common import runtime
from common.runtime import image_library, resident_set_mb, shared_optimizations, versions


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    image_library.cache_clear()
    yield
    image_library.cache_clear()


@pytest.mark.parametrize(
    ("code", "named"),
    [
        (b"\xc4\xe2\x7d" * 500, "pillow-simd 9 avx2"),
        (b"\x66\x0f\x38" * 500, "pillow-simd 9 sse4"),
        (None, "pillow-simd 9 unknown"),
    ],
)
def test_the_instruction_set_is_read_from_the_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: bytes | None, named: str
) -> None:
    if code is not None:
        (tmp_path / "_imaging.so").write_bytes(code)
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(runtime, "find_spec", lambda _name: found)
    monkeypatch.setattr(runtime, "version_of", {"pillow-simd": "9"}.get)
    assert image_library() == named


def test_plain_pillow_and_none_are_named_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "version_of", {"pillow": "12"}.get)
    assert image_library() == "pillow 12"
    image_library.cache_clear()
    monkeypatch.setattr(runtime, "version_of", lambda _name: None)
    assert image_library() is None


def test_packages_that_are_not_installed_are_left_out() -> None:
    found = versions("redis", "no-such-package")
    assert found.keys() == {"python", "redis"}
    assert shared_optimizations()["hiredis"]


def test_memory_is_that_of_the_process_asked_for() -> None:
    assert resident_set_mb() > 10
    if Path("/proc/self/statm").exists():
        assert resident_set_mb(os.getpid()) == pytest.approx(resident_set_mb(), rel=0.2)
    assert resident_set_mb(2**22 + 1) == 0.0
