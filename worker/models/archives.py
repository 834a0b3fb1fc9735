"""Unpacks an archive of weights: plain files and folders inside of one folder, nothing else.

Names that lead out, links, devices and encrypted entries end it; so does more than the settings
allow, counted as it is written, whatever the archive says of itself.
"""

from __future__ import annotations

import gzip
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from common.errors import ConfigurationError
from common.settings import MirrorSettings

__all__ = ("unpack",)

_CHUNK_BYTES = 1 << 20
_PLAIN = re.compile(r"[^\\:\x00-\x1f]+")
_ENCRYPTED = 1
_UNREADABLE = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile),
    *(zlib.error, EOFError, ValueError),
)


def unpack(archive: Path, suffix: str, target: Path, settings: MirrorSettings) -> None:
    """Into `target`, an empty folder; a single folder at the top is left out of the paths.

    Raises ConfigurationError with a sentence, after which `target` holds a part.
    """
    entries = _zip_entries if suffix == ".zip" else _tar_entries
    room, count = settings.weights_max_unpacked_bytes, 0
    try:
        for name, stream in entries(archive):
            count += 1
            if count > settings.weights_max_files:
                raise _refused(
                    f"it has more than {settings.weights_max_files} files; "
                    "LANEFLEET_WEIGHTS_MAX_FILES sets the limit"
                )
            room -= _write(target / _inside(name), stream, room)
            if room < 0:
                raise _refused(
                    f"it holds more than {settings.weights_max_unpacked_bytes} bytes; "
                    "LANEFLEET_WEIGHTS_MAX_UNPACKED_BYTES sets the limit"
                )
    except _UNREADABLE as exc:
        raise _refused(f"it cannot be read ({exc})") from exc
    except (NotImplementedError, RuntimeError) as exc:
        raise _refused(f"it is packed in a way that is not read here ({exc})") from exc
    if not count:
        raise _refused("it holds no files")
    _lift_single_folder(target)


def _tar_entries(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with archive.open("rb") as start:
        mode = "r:gz" if start.read(2) == b"\x1f\x8b" else "r:"
    with tarfile.open(archive, mode) as packed:  # type: ignore[call-overload]  # a mode as text
        for entry in packed:
            if entry.isdir():
                _inside(entry.name)
                continue
            if not entry.isreg() or (stream := packed.extractfile(entry)) is None:
                raise _refused(f"{entry.name!r} is no plain file")
            yield entry.name, stream


def _zip_entries(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as packed:
        for entry in packed.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if entry.is_dir():
                _inside(entry.filename)
                continue
            if kind not in (0, stat.S_IFREG):
                raise _refused(f"{entry.filename!r} is no plain file")
            if entry.flag_bits & _ENCRYPTED:
                raise _refused(f"{entry.filename!r} is encrypted")
            with packed.open(entry) as stream:
                yield entry.filename, stream


def _inside(name: str) -> PurePosixPath:
    """The path below the target; raises ConfigurationError for one that leads elsewhere."""
    path = PurePosixPath(name)
    if not _PLAIN.fullmatch(name) or path.is_absolute() or ".." in path.parts:
        raise _refused(f"{name[:200]!r} is no path inside of it")
    return path


def _write(path: Path, stream: IO[bytes], room: int) -> int:
    """Write one file; returns its bytes, at most a chunk more than there is room for."""
    written = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # "x": a second entry of that name, or a file where a folder is, is refused.
        with path.open("xb") as file:
            while written <= room and (chunk := stream.read(_CHUNK_BYTES)):
                written += file.write(chunk)
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as exc:
        raise _refused(f"{path.name!r} is in it twice") from exc
    return written


def _lift_single_folder(target: Path) -> None:
    inside = list(target.iterdir())
    if len(inside) != 1 or not inside[0].is_dir():
        return
    top = inside[0].rename(target / ".top")
    for one in top.iterdir():
        one.rename(target / one.name)
    top.rmdir()


def _refused(why: str) -> ConfigurationError:
    return ConfigurationError(
        f"weights: the archive was not unpacked: {why}; pack plain files as .tar, .tar.gz or .zip"
    )
