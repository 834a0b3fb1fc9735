"""Weights at an https URL: which file is meant, and where a machine keeps it.

The digest says what the file is, so no server and no cache on the way has to be trusted, and
the file that is kept needs no name of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ("FOLDER", "Mirrored", "mirrored")

FOLDER = "weights"
"""Where they are kept, in the state folder."""
_HTTP, _HTTPS = "http://", "https://"
_DIGEST = re.compile(r"sha256=([0-9a-fA-F]{64})")
_ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,16}")


@dataclass(frozen=True, slots=True)
class Mirrored:
    """A file at a URL with its SHA-256; an archive becomes a folder."""

    url: str
    """Without the fragment that has the digest."""
    sha256: str
    """64 hexadecimal digits, lower case."""
    suffix: str
    """Of its name, `.safetensors` say; `.tar.gz`, `.tgz`, `.tar` and `.zip` are archives."""

    @property
    def is_archive(self) -> bool:
        """Whether it becomes a folder."""
        return self.suffix in _ARCHIVES

    def place(self, folder: Path) -> Path:
        """Its final path: a folder for an archive, else a file that keeps its suffix."""
        return folder / (self.sha256 if self.is_archive else self.sha256 + self.suffix)


def mirrored(weights: str) -> Mirrored | None:
    """The file that `weights` names; None where it is no URL. Raises ValueError with a sentence."""
    if weights.lower().startswith(_HTTP):
        raise ValueError("weights are not fetched over http; name an https:// URL")
    if not weights.lower().startswith(_HTTPS):
        return None
    url, _, fragment = weights.partition("#")
    digest = _DIGEST.fullmatch(fragment)
    if digest is None:
        raise ValueError(
            "an https URL ends with #sha256= and the file's 64 hexadecimal digits, as sha256sum "
            "prints them"
        )
    parts = urlsplit(url)
    if parts.query or "@" in parts.netloc:
        raise ValueError(
            "the URL has a query or a login, which everybody who lists models would see; let the "
            "mirror tell workers by their address"
        )
    return Mirrored(url, digest[1].lower(), _suffix_of(parts.path))


def _suffix_of(path: str) -> str:
    name = path.rpartition("/")[2]
    archive = next((one for one in _ARCHIVES if name.lower().endswith(one)), None)
    suffix = archive or Path(name).suffix
    return suffix if archive or _SUFFIX.fullmatch(suffix) else ""
