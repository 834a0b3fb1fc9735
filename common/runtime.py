"""What a process runs on: versions of libraries, what makes them fast, its memory.

Nothing here imports a library that the process does not use; whether an image library was built
with SIMD instructions is read from its file.
"""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from redis.utils import HIREDIS_AVAILABLE

_MB = 2**20
_VEX_256 = b"\xc4\xe2\x7d"
"""How instructions of AVX2 on 32 bytes begin."""
_MANY = 100
"""A file of text or tables may have these bytes now and then."""


@cache
def version_of(package: str) -> str | None:
    """The installed version of a package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions(*packages: str) -> dict[str, str]:
    """Python and those of the packages that are installed."""
    found = {name: text for name in packages if (text := version_of(name))}
    return {"python": platform.python_version(), **found}


def shared_optimizations() -> dict[str, str | None]:
    """What both sides use, by version; None where it is not in use."""
    return {
        "orjson": version_of("orjson"),
        "hiredis": version_of("hiredis") if HIREDIS_AVAILABLE else None,
    }


@cache
def image_library() -> str | None:
    """`pillow-simd 12.1.1.post0 avx2`, or Pillow and its version; None where there is neither."""
    for name in ("pillow-simd", "pillow"):
        if found := version_of(name):
            return f"{name} {found}" + (f" {_instructions()}" if name == "pillow-simd" else "")
    return None


def _instructions() -> str:
    """The instruction set that its code was compiled for."""
    spec = find_spec("PIL")  # imports nothing: it is no dotted name
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for path in Path(folder).glob("_imaging.*"):
            return "avx2" if path.read_bytes().count(_VEX_256) >= _MANY else "sse4"
    return "unknown"


def resident_set_mb(pid: int | str = "self") -> float:
    """The resident memory of a process in MB; this one's highest so far where Linux is not at hand.

    0 for another process that cannot be read.
    """
    import resource

    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize() / _MB
    except OSError:
        if pid != "self":
            return 0.0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / _MB if sys.platform == "darwin" else peak / 1024


def siblings() -> list[int]:
    """The ids of this process' parent and of all its children, this process among them; only
    itself where the kernel does not say.
    """
    parent = os.getppid()
    try:
        path = Path(f"/proc/{parent}/task/{parent}/children")
        return [parent, *map(int, path.read_text(encoding="ascii").split())]
    except (OSError, ValueError):
        return [os.getpid()]
