"""What is made of a server's INFO."""

from __future__ import annotations

from typing import Any

import pytest

from common.redis.server_facts import policy_warning, vulnerability_warnings


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("noeviction", None),
        (None, None),
        ("allkeys-lru", "maxmemory-policy is allkeys-lru: a full Redis throws queued jobs away"),
        ("volatile-lru", "throws results before their time away"),
    ],
)
def test_a_policy_that_evicts_is_warned_of(policy: str | None, says: str | None) -> None:
    found = policy_warning({} if policy is None else {"maxmemory_policy": policy})
    assert (found is None) if says is None else (says in str(found))


def redis(version: str) -> dict[str, Any]:
    return {"redis_version": version}


def valkey(version: str) -> dict[str, Any]:
    return {"redis_version": "7.2.4", "valkey_version": version}


@pytest.mark.parametrize(
    ("info", "use"),
    [
        (redis("6.2.19"), "6.2.20"),
        (redis("6.2.20"), None),
        (redis("7.0.15"), "7.2.11 or 8.2.2"),
        (redis("7.2.10"), "7.2.11"),
        (redis("7.2.11"), None),
        (redis("7.4.5"), "7.4.6"),
        (redis("8.0.4"), None),
        (redis("8.2.1"), "8.2.2"),
        (redis("8.2.2"), None),
        (redis("8.4.0"), None),
        (valkey("7.2.10"), "7.2.11"),
        (valkey("8.0.6"), None),
        (valkey("8.1.3"), "8.1.4"),
        (valkey("9.1.2"), None),
        (redis("of our own make"), None),
        ({}, None),
    ],
)
def test_a_version_with_a_known_hole_is_named(info: dict[str, Any], use: str | None) -> None:
    found = vulnerability_warnings(info)
    if use is None:
        assert found == []
    else:
        assert len(found) == 1
        assert "CVE-2025-49844" in found[0]
        assert found[0].endswith(f"use {use} or later")
