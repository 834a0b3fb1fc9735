"""API keys without a server: their form, what opens, and what a tenant is told of its rate."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from api.cli.keys import seconds_of
from api.http.problems import from_fleet_error
from api.http.request_errors import Forbidden
from api.tenants import api_keys as keyring
from api.tenants import auth
from api.tenants.api_keys import (
    KeyRecord,
    Keyring,
    limits_from,
    limits_of,
    opens,
    read_record,
    split_key,
)
from api.tenants.auth import LOCAL, Principal
from api.tenants.exposure import check_exposure
from api.tenants.rate_headers import rate_headers, seconds_until_next
from common.errors import ConfigurationError
from common.jobs.quota import Limits, Quota
from common.log import mask_keys
from common.settings import Settings

SECRET = "5" * 64
KEY = f"lfk_0123456789ab_{SECRET}"


class Shelf:
    """The few commands of Redis' hashes that a keyring needs."""

    def __init__(self) -> None:
        self.hashes: dict[str, dict[str, Any]] = {}

    def hset(self, key: str, field: str, value: Any) -> None:
        self.hashes.setdefault(key, {})[field] = value

    def hget(self, key: str, field: str) -> Any:
        return self.hashes.get(key, {}).get(field)

    def hgetall(self, key: str) -> dict[bytes, Any]:
        return {field.encode(): value for field, value in self.hashes.get(key, {}).items()}

    def hlen(self, key: str) -> int:
        return len(self.hashes.get(key, {}))

    def hdel(self, key: str, field: str) -> None:
        self.hashes.get(key, {}).pop(field, None)


@pytest.fixture
def ring() -> Keyring:
    return Keyring(Shelf())  # type: ignore[arg-type]


def record(**fields: Any) -> KeyRecord:
    about: dict[str, Any] = {
        "id": "0123456789ab",
        "name": "somebody",
        "tenant": "acme",
        "scopes": ("read", "submit"),
        "secret_sha256": sha256(SECRET.encode()).hexdigest(),
        "created_at": 1.0,
    }
    return KeyRecord(**about | fields)


def test_a_key_is_one_word_of_256_random_bits_that_can_be_searched_for(ring: Keyring) -> None:
    texts = {ring.create("somebody", "acme", frozenset({"read"}))[1] for _ in range(20)}
    assert len(texts) == 20
    for text in texts:
        assert re.fullmatch(r"lfk_[0-9a-f]{12}_[0-9a-f]{64}", text)
        assert split_key(text.encode()) is not None


def test_what_is_kept_of_a_key_does_not_contain_it(ring: Keyring) -> None:
    made, text = ring.create("somebody", "acme", frozenset({"read"}))
    secret = text.rpartition("_")[2]
    assert secret.encode() not in made.dump()
    assert read_record(made.dump()) == made
    assert opens(made, secret.encode())
    assert not opens(made, b"0" * 64)


@pytest.mark.parametrize("known", [record(), None])
def test_secrets_are_compared_in_constant_time_and_for_unknown_keys_too(
    known: KeyRecord | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[str, str]] = []

    def spy(left: str, right: str) -> bool:
        compared.append((left, right))
        return left == right

    monkeypatch.setattr(keyring, "compare_digest", spy)
    assert opens(known, SECRET.encode()) == (known is not None)
    assert len(compared) == 1
    assert all(len(one) == 64 for pair in compared for one in pair), "digests, of equal length"


@pytest.mark.parametrize(
    "text",
    [b"", b"lfk_", KEY.upper().encode(), KEY[:-1].encode(), KEY.encode() + b"\n", b"\xff" * 80],
)
def test_what_does_not_look_like_a_key_is_none(text: bytes) -> None:
    assert split_key(text) is None


def test_a_key_is_dead_when_revoked_or_expired() -> None:
    assert record().dead(100) is None
    assert record(expires_at=100).dead(99) is None
    assert record(expires_at=100).dead(100) == "expired"
    assert record(revoked_at=50, expires_at=100).dead(60) == "revoked"


def test_rotation_leaves_two_keys_valid_until_the_grace_is_over(ring: Keyring) -> None:
    first, _ = ring.create("somebody", "acme", frozenset({"submit", "read"}))
    second, _ = ring.rotate(first.id, 3600)
    old, new = (one for one, _ in ring.all())
    assert (old.id, new.id) == (first.id, second.id)
    assert (new.name, new.tenant, new.scopes) == (old.name, old.tenant, old.scopes)
    assert old.dead(old.created_at + 3000) is None
    assert old.dead(old.created_at + 3700) == "expired"
    assert new.expires_at is None


def test_a_dead_key_cannot_be_rotated_and_a_valid_one_not_be_forgotten(ring: Keyring) -> None:
    made, _ = ring.create("somebody", "acme", frozenset({"read"}))
    with pytest.raises(ConfigurationError, match="revoke it first"):
        ring.forget(made.id)
    ring.revoke(made.id)
    with pytest.raises(ConfigurationError, match="is revoked"):
        ring.rotate(made.id, 1)
    ring.forget(made.id)
    with pytest.raises(ConfigurationError, match="there is no key"):
        ring.revoke(made.id)


@pytest.mark.parametrize(
    ("name", "tenant", "scopes", "message"),
    [
        (" ", "acme", {"read"}, "name"),
        ("me", "a b", {"read"}, "tenant"),
        ("me", "a:b", {"read"}, "tenant"),
        ("me", "", {"read"}, "tenant"),
        ("me", 'a"b', {"read"}, "tenant"),
        ("me", "x" * 65, {"read"}, "tenant"),
        ("me", "acme", set(), "scopes"),
        ("me", "acme", {"root"}, "scopes"),
    ],
)
def test_a_bad_key_is_refused_with_what_to_change(
    ring: Keyring, name: str, tenant: str, scopes: set[str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ring.create(name, tenant, frozenset(scopes))


def test_a_tenants_own_limits_go_before_those_of_the_settings(ring: Keyring) -> None:
    settings = Settings(tenant_jobs_per_second=5, tenant_burst_jobs=10, tenant_max_in_flight=3)
    assert limits_from(None, limits_of(settings)) == Limits(5, 10, 3)
    ring.set_limits("acme", {"burst": 99})
    assert ring.limits("acme", settings) == Limits(5, 99, 3)
    assert ring.limits("other", settings) == Limits(5, 10, 3)
    ring.set_limits("acme", {})
    assert ring.limits("acme", settings) == Limits(5, 10, 3)


def test_admin_includes_every_scope_and_every_tenant() -> None:
    admin = Principal("ops", frozenset({"admin"}))
    reader = Principal("acme", frozenset({"read"}))
    assert admin.allows("submit")
    assert admin.owns("acme")
    assert admin.owns("")
    assert not reader.allows("submit")
    assert reader.owns("acme")
    assert not reader.owns("")
    assert not reader.owns("Acme")
    assert LOCAL.allows("admin")
    assert LOCAL.owns("acme")


def test_a_403_names_the_scope() -> None:
    with pytest.raises(Forbidden) as raised:
        auth.require(Principal("acme", frozenset({"read"})), "submit")
    problem = from_fleet_error(raised.value)
    assert problem.status == 403
    assert "`submit`" in problem.detail
    assert 'scope="submit"' in (problem.headers or {})["WWW-Authenticate"]
    assert problem.document()["scope"] == "submit"


def test_the_ratelimit_fields_are_the_drafts() -> None:
    quota = Quota(Limits(jobs_per_second=50, burst=500), remaining=498, reset_ms=40)
    assert rate_headers(quota) == {
        "RateLimit-Policy": '"jobs";q=500;w=10',
        "RateLimit": '"jobs";r=498;t=1',
    }
    assert rate_headers(None) == {}
    assert rate_headers(Quota(Limits(), -1, 0)) == {}


def test_retry_after_is_when_the_next_job_fits() -> None:
    slow = Limits(jobs_per_second=0.1, burst=2)
    assert seconds_until_next(Quota(slow, 0, 20_000)) == 10
    assert seconds_until_next(Quota(slow, 0, 12_500)) == 3
    assert seconds_until_next(None) == 1


def test_a_key_in_a_log_line_is_masked() -> None:
    line = f"GET /v1/jobs?key={KEY} failed"
    assert SECRET not in mask_keys(None, "", line)
    assert "lfk_0123456789ab_****" in mask_keys(None, "", line)
    assert mask_keys(None, "", "nothing to hide") == "nothing to hide"


@pytest.mark.parametrize(("text", "seconds"), [("45s", 45), ("12h", 43_200), ("90d", 7_776_000)])
def test_spans_of_time_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "d", "-1d", "1w"])
def test_what_is_no_span_of_time_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ConfigurationError, match="90d"):
        seconds_of(text)


class Counting:
    """Stands for Redis where only the number of keys is asked for."""

    def __init__(self, keys: int) -> None:
        self.keys = keys

    def hlen(self, _key: str) -> int:
        return self.keys


@pytest.mark.parametrize(
    ("host", "required", "keys", "starts"),
    [
        ("127.0.0.1", None, 0, True),
        ("::1", None, 0, True),
        ("localhost", None, 0, True),
        ("127.0.0.2", None, 0, True),
        ("0.0.0.0", None, 0, False),
        ("::", None, 0, False),
        ("192.168.1.5", None, 0, False),
        ("example.com", None, 0, False),
        ("0.0.0.0", None, 1, True),
        ("0.0.0.0", True, 0, True),
        ("0.0.0.0", False, 0, True),
    ],
)
def test_without_a_key_nobody_else_is_let_in(
    host: str, required: bool | None, keys: int, starts: bool
) -> None:
    settings = Settings(host=host, api_keys_required=required)
    check: Callable[[], None] = lambda: check_exposure(Counting(keys), settings)  # type: ignore[arg-type]  # noqa: E731
    if starts:
        check()
        return
    with pytest.raises(ConfigurationError, match="lanefleet keys create"):
        check()
