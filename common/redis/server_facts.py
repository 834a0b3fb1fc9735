"""What a Redis says of itself that its operator should know: it may lose jobs, or be attacked.

Pure: it judges what INFO answered. Versions are compared by what the server's makers released; a
distributor may have mended an older one without another number, which no version tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SAFE_POLICY = "noeviction"

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """A hole that was found in the server, and by flavour the first releases without it."""

    name: str
    what: str
    fixed: Mapping[str, tuple[Version, ...]]
    """One release of each line that got one; older lines never did, newer ones were born well."""


VULNERABILITIES = (
    # https://nvd.nist.gov/vuln/detail/CVE-2025-49844 and the release notes of both projects
    Vulnerability(
        "CVE-2025-49844",
        "whoever may run scripts can run code in the server",
        {
            "Redis": ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
            "Valkey": ((7, 2, 11), (8, 0, 6), (8, 1, 4)),
        },
    ),
)


def flavour_of(info: Mapping[str, Any]) -> tuple[str, str]:
    """Which server this is and its version, from INFO server; the latter empty if it is not said.

    Valkey also says which Redis it is like.
    """
    if valkey := info.get("valkey_version"):
        return "Valkey", str(valkey)
    return "Redis", str(info.get("redis_version", ""))


def policy_warning(info: Mapping[str, Any]) -> str | None:
    """What INFO memory says of a queue that may be thrown away; None where it may not."""
    policy = str(info.get("maxmemory_policy", SAFE_POLICY))
    if policy == SAFE_POLICY:
        return None
    lost = "results before their time" if policy.startswith("volatile-") else "queued jobs"
    return f"maxmemory-policy is {policy}: a full Redis throws {lost} away; set it to {SAFE_POLICY}"


def vulnerability_warnings(info: Mapping[str, Any]) -> list[str]:
    """Known holes of this version, from INFO server."""
    flavour, text = flavour_of(info)
    version = _version(text)
    if not version:
        return []
    return [
        f"{flavour} {text} has {one.name} ({one.what}) unless its distributor mended it: "
        f"use {' or '.join(map(_text, _newer(version, one.fixed[flavour])))} or later"
        for one in VULNERABILITIES
        if _has(version, one.fixed.get(flavour, ()))
    ]


def _has(version: Version, fixed: tuple[Version, ...]) -> bool:
    line = next((one for one in fixed if one[:2] == version[:2]), None)
    if line is not None:
        return version < line
    return bool(fixed) and version < max(fixed)


def _newer(version: Version, fixed: tuple[Version, ...]) -> list[Version]:
    """The fix of its own line, or else the first and the last after it."""
    later = [one for one in fixed if one > version]
    own = [one for one in later if one[:2] == version[:2]]
    return own or sorted({later[0], later[-1]})


def _version(text: str) -> Version:
    words = text.split("-", 1)[0].split(".")
    return tuple(map(int, words)) if all(word.isdigit() for word in words) else ()


def _text(version: Version) -> str:
    return ".".join(map(str, version))
