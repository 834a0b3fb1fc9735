"""What people write for a Redis, and what each library is then told; or the sentence they get."""

from __future__ import annotations

import pytest

from common.broker import create_app
from common.errors import ConfigurationError
from common.net.redis_address import RedisAddress
from common.redis.connect import connect, connect_async
from common.settings import load_settings

WORKS = [
    # written, redis-py's, Celery's
    ("redis://", "redis://localhost:6379/0", "redis://localhost:6379/0"),
    ("redis://h", "redis://h:6379/0", "redis://h:6379/0"),
    ("redis:///3", "redis://localhost:6379/3", "redis://localhost:6379/3"),
    ("redis://u:p%2Fw@h:1/2", "redis://u:p%2Fw@h:1/2", "redis://u:p%2Fw@h:1/2"),
    ("redis://h?db=3", "redis://h:6379/3", "redis://h:6379/3"),
    ("redis://[::1]:7/1", "redis://[::1]:7/1", "redis://[::1]:7/1"),
    ("h:6380", "redis://h:6380/0", "redis://h:6380/0"),
    (":p%40w@h:6380/4", "redis://:p%40w@h:6380/4", "redis://:p%40w@h:6380/4"),
    ("valkey://h:1/2", "redis://h:1/2", "redis://h:1/2"),
    (
        "valkeys://h/2",
        "rediss://h:6379/2?ssl_cert_reqs=required",
        "rediss://h:6379/2?ssl_cert_reqs=required",
    ),
    (
        "rediss://h/2?ssl_cert_reqs=none",
        "rediss://h:6379/2?ssl_cert_reqs=none",
        "rediss://h:6379/2?ssl_cert_reqs=none",
    ),
    ("unix:///run/r.sock", "unix:///run/r.sock?db=0", "redis+socket:///run/r.sock?virtual_host=0"),
    (
        "unix://u:p@/run/r.sock?db=5",
        "unix://u:p@/run/r.sock?db=5",
        "redis+socket://u:p@/run/r.sock?virtual_host=5",
    ),
    (
        "redis+socket:///run/r.sock?virtual_host=2",
        "unix:///run/r.sock?db=2",
        "redis+socket:///run/r.sock?virtual_host=2",
    ),
    (
        "redis:///run/r.sock",
        "unix:///run/r.sock?db=0",
        "redis+socket:///run/r.sock?virtual_host=0",
    ),
    (
        "redis://:p@/run/r.sock",
        "unix://:p@/run/r.sock?db=0",
        "redis+socket://:p@/run/r.sock?virtual_host=0",
    ),
    ("/run/r.sock", "unix:///run/r.sock?db=0", "redis+socket:///run/r.sock?virtual_host=0"),
    (
        "sentinel://:p@a;sentinel://b:7/3",
        "sentinel://:p@a:26379/3;sentinel://:p@b:7/3",
        "sentinel://:p@a:26379/3;sentinel://:p@b:7/3",
    ),
    ("sentinel://a;b/3", *["sentinel://a:26379/3;sentinel://b:26379/3"] * 2),
]
REFUSED = [
    ("http://h:6379", "http:// is no kind of Redis"),
    ("amqp://h", "amqp:// is no kind of Redis"),
    ("just-a-name", "this is no Redis URL; write redis://host:6379/0"),
    ("redis://h:secret/0", "the port must be a number"),
    ("redis://h:99999/0", "the port must be a number"),
    ("redis://:secret/more@h:6379/0", "must be percent-encoded"),
    ("redis://:secret#more@h:6379/0", "must be percent-encoded"),
    ("redis://u:1/secret@h:6379/0", "must be percent-encoded"),
    ("redis://[::1/0", "no IPv6 address"),
    ("redis://h/secret", "the database must be a number"),
    ("redis://h/-1", "the database must be a number"),
    ("redis://h/1?db=2", "two databases"),
    ("redis://h?protocol=3", "no option 'protocol'"),
    ("redis://h?ssl_ca_certs=/ca.pem", "is for rediss:// only"),
    ("rediss://h?ssl_cert_reqs=maybe", "required, optional or none"),
    ("unix://run/r.sock", "a socket's path begins with /"),
    ("unix://", "a socket has a path"),
    ("redis://h secret", "has no spaces"),
]


@pytest.mark.parametrize(("written", "for_redis", "for_celery"), WORKS)
def test_each_library_is_told_in_its_own_words(
    written: str, for_redis: str, for_celery: str
) -> None:
    address = RedisAddress.parse(written)
    assert (address.url, address.celery_url) == (for_redis, for_celery)
    assert RedisAddress.parse(address.url) == address, "what was made of it reads the same"


@pytest.mark.parametrize("written", [one[0] for one in WORKS if "sentinel" not in one[0]])
def test_every_client_means_the_same_server(written: str) -> None:
    settings = load_settings(redis_url=written)
    assert settings.redis_url is not None
    url, address = settings.redis_url.get_secret_value(), RedisAddress.parse(written)
    for found in (
        connect(url, settings).connection_pool.connection_kwargs,
        connect_async(url, settings).connection_pool.connection_kwargs,
        create_app(url, settings).backend.connparams,
    ):
        assert int(found.get("db") or 0) == address.database
        login = (found.get("username") or None, found.get("password") or None)
        assert login == (address.username, address.password)
        if address.kind == "unix":
            assert found["path"] == address.path
            assert "socket_keepalive" not in found, "which a socket does not take"
        else:
            assert (found["host"], int(found["port"])) == address.nodes[0]


@pytest.mark.parametrize(("written", "says"), REFUSED)
@pytest.mark.parametrize("name", ["redis_url", "cache_redis_url"])
def test_what_cannot_be_meant_is_refused_with_one_sentence(
    name: str, written: str, says: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(**{name: written})
    said = str(caught.value)
    assert said.startswith(f"LANEFLEET_{name.upper()}: ")
    assert says in said
    assert "\n" not in said
    assert "secret" not in said


def test_its_text_for_people_has_no_password() -> None:
    address = RedisAddress.parse("redis://u:secret@h/1")
    assert str(address) == "redis://h:6379/1"
    assert "secret" not in repr(address)
