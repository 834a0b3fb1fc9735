"""Who is told of a job, and who is refused one when the outbox is full."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from api.webhooks.targets import WebhookTargets, check_url
from common.errors import WebhookRefused, WebhooksFull
from common.net.addresses import AddressRules, parse_networks
from common.settings import Settings

URL = "https://example.com/hook"


class Redis:
    """Answers what a look asks."""

    def __init__(self, events: int, waiting: dict[bytes, bytes]) -> None:
        self.events, self.waiting = events, waiting

    async def hgetall(self, key: str) -> dict[bytes, bytes]:
        return {} if key == "lf:webhook-tenants" else self.waiting

    async def xlen(self, _key: str) -> int:
        return self.events


def looked(events: int, waiting: dict[bytes, bytes]) -> WebhookTargets:
    client = cast("Any", Redis(events, waiting))
    targets = WebhookTargets(client, Settings(webhook_max_waiting=100))
    asyncio.run(targets._look())
    return targets


def test_a_tenant_whose_receiver_is_away_refuses_no_other() -> None:
    targets = looked(0, {b"~acme": b"95", b"~other": b"5"})
    with pytest.raises(WebhooksFull):
        targets.target(URL, "acme")
    assert targets.target(URL, "other") == URL
    assert targets.target(URL, "third") == URL
    assert targets.target(None, "acme") == ""


def test_nobody_is_refused_while_there_is_room() -> None:
    targets = looked(4, {b"~acme": b"95"})
    assert targets.target(URL, "acme") == URL


def test_all_are_refused_where_no_courier_reads_events() -> None:
    targets = looked(100, {})
    for tenant in ("acme", "other"):
        with pytest.raises(WebhooksFull):
            targets.target(URL, tenant)


def test_a_tenant_alone_has_all_of_the_room() -> None:
    assert looked(0, {b"~": b"99"}).target(URL, "") == URL
    with pytest.raises(WebhooksFull):
        looked(0, {b"~": b"100"}).target(URL, "")


def test_a_port_that_is_never_called_is_refused_where_it_is_named() -> None:
    with pytest.raises(WebhookRefused, match="port"):
        check_url("https://example.com:8443/", AddressRules(), "url")
    check_url("https://example.com:443/", AddressRules(), "url")
    opened = AddressRules(allowed=cast("Any", parse_networks("10.0.0.0/8")))
    check_url("http://inside.example:8080/", opened, "url")
