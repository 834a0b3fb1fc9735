"""Deliveries by one courier's runner, over a real Redis, to receivers that behave and others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest

from common.jobs.enqueue import next_of
from common.jobs.result_document import Stamp
from common.jobs.system_lanes import WEBHOOKS
from common.redis.connect import connect_async
from common.redis.embedded_server import RedisServer
from common.redis.keys import EVENTS, LaneKeys
from common.settings import Settings
from common.webhooks.deliveries import DEAD, DELIVERED, PENDING, Deliveries, Delivery, delivery_id
from common.webhooks.endpoints import Endpoint, Endpoints
from common.webhooks.signing import new_secret
from common.webhooks.vault import Vault
from tests.support.receiver import Received, Receiver, listening
from worker.courier import event_reader
from worker.courier.event_reader import EventReader
from worker.courier.jobs import CourierJob, Done, Later
from worker.courier.lane_service import LaneService
from worker.courier.leases import CourierLeases
from worker.courier.webhook_runner import WebhookRunner
from worker.courier.webhook_sender import WebhookSender

SETTINGS = Settings(
    webhook_allow="127.0.0.0/8",  # type: ignore[arg-type]
    webhook_schedule_seconds="0,60,60",  # type: ignore[arg-type]
    webhook_timeout_seconds=5,
    webhook_concurrency=16,
    webhook_host_concurrency=16,
)


@dataclass
class Office:
    """A courier's parts for the lane of webhooks."""

    client: Any
    deliveries: Deliveries
    endpoints: Endpoints
    runner: WebhookRunner

    async def endpoint(self, url: str, tenant: str = "acme") -> Endpoint:
        sealed = self.endpoints.seal(tenant, "ep_1", new_secret("v1"))
        made = Endpoint("ep_1", url, secrets=((sealed, None),))
        await self.endpoints.put(tenant, made, 50)
        return made

    async def delivery(self, number: int = 0, tenant: str = "acme", **fields: Any) -> Delivery:
        name = delivery_id(f"{number}-0", "job", tenant)
        now_ms = int(time.time() * 1000)
        one = Delivery(name, tenant, "ep_1", "", "job.succeeded", "job", b"{}", now_ms)
        one = replace(one, **fields)
        await self.deliveries.add([one])
        return one

    async def run(self, one: Delivery) -> Any:
        """One attempt, noted."""
        job = CourierJob(WEBHOOKS, one.id, b"tag", "~acme", None, 0)
        await self.client.hset(LaneKeys.of(WEBHOOKS).unacked, "tag", "")
        await self.runner.prepare([job])
        outcome = await self.runner.run(job)
        await self.runner.note([(job, outcome)])
        return outcome

    async def read(self, one: Delivery) -> Delivery:
        (found,) = await self.deliveries.read([one.id])
        assert found is not None
        return found


@pytest.fixture
def use(
    embedded_redis: RedisServer,
) -> Callable[[Callable[[Office], Coroutine[Any, Any, None]]], None]:
    """Runs a test over an empty server."""

    async def whole(test: Callable[[Office], Coroutine[Any, Any, None]]) -> None:
        async with connect_async(embedded_redis.url, SETTINGS) as client:
            await client.flushall()
            deliveries, endpoints = Deliveries(client, SETTINGS), Endpoints(client, Vault(None))
            reader = EventReader(client, "me", SETTINGS, deliveries, endpoints, lambda: None)
            sender = WebhookSender(SETTINGS)
            await sender.start()
            try:
                runner = WebhookRunner(SETTINGS, deliveries, endpoints, sender, reader)
                await test(Office(client, deliveries, endpoints, runner))
            finally:
                await sender.stop()

    return lambda test: asyncio.run(whole(test))


def test_410_of_a_url_that_was_changed_meanwhile_disables_nothing(use: Any) -> None:
    async def test(office: Office) -> None:
        with listening(Receiver()) as receiver:
            one = await office.endpoint(receiver.url)
            loop = asyncio.get_running_loop()

            def answer(_one: Received) -> Any:
                moved = office.endpoints.change(
                    "acme", one.id, lambda kept: replace(kept, url=receiver.url + "/new")
                )
                asyncio.run_coroutine_threadsafe(moved, loop).result(10)
                return 410, {}

            receiver.answer = answer
            made = await office.delivery()
            assert await office.run(made) == Done(DEAD)
            kept = await office.endpoints.get("acme", one.id)
            assert kept is not None
            assert kept.disabled == ""
            receiver.answer = lambda _one: (410, {})
            await asyncio.sleep(0)
            office.runner._targets.clear()
            await office.run(await office.delivery(2))
            kept = await office.endpoints.get("acme", one.id)
            assert kept is not None
            assert "410" in kept.disabled

    use(test)


def test_what_was_delivered_when_its_courier_died_is_not_sent_again(use: Any) -> None:
    async def test(office: Office) -> None:
        with listening(Receiver()) as receiver:
            await office.endpoint(receiver.url)
            one = await office.delivery()
            await office.deliveries.note([replace(one, state=DELIVERED, tries=1)])
            assert await office.run(one) == Done(DELIVERED)
            assert receiver.received == []

    use(test)


def test_a_fault_of_ours_is_an_attempt_and_ends(use: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("broken")

    async def test(office: Office) -> None:
        monkeypatch.setattr(office.runner._sender, "send", broken)
        await office.endpoint("http://127.0.0.1:9/")
        one = await office.delivery()
        outcomes = [await office.run(one) for _ in range(3)]
        assert [isinstance(each, Later) for each in outcomes] == [True, True, False]
        found = await office.read(one)
        assert found.state == DEAD
        assert [each.error for each in found.log] == [
            "not sent: a fault of this fleet's, which its log has"
        ] * 3

    use(test)


def test_a_clock_that_was_ahead_delays_no_first_attempt(use: Any) -> None:
    async def test(office: Office) -> None:
        with listening(Receiver()) as receiver:
            await office.endpoint(receiver.url)
            ahead = int(time.time() * 1000) + 86_400_000
            one = await office.delivery(created_ms=ahead)
            assert await office.run(one) == Done(DELIVERED)

    use(test)


def test_a_year_of_retry_after_is_cut(use: Any) -> None:
    async def test(office: Office) -> None:
        with listening(Receiver()) as receiver:
            receiver.answer = lambda _one: (503, {"Retry-After": str(366 * 86_400)})
            await office.endpoint(receiver.url)
            one = await office.delivery()
            outcome = await office.run(one)
            assert outcome == Later(int(SETTINGS.webhook_retry_after_seconds * 1000))
            assert (await office.read(one)).state == PENDING

    use(test)


def test_a_tenant_whose_receivers_hang_delays_no_other(use: Any, embedded_redis: Any) -> None:
    async def test(office: Office) -> None:
        with listening(Receiver()) as receiver:
            hanging = [f"http://127.0.1.{n}:{receiver.port}/" for n in range(1, 30)]
            sockets = [
                await asyncio.start_server(_hang, url.split("/")[2].split(":")[0], receiver.port)
                for url in hanging
            ]
            made = [
                Delivery(
                    delivery_id(f"{n}-0", "job", "x"),
                    "acme",
                    "",
                    hanging[n % 29],
                    "job.dead",
                    "j",
                    b"{}",
                    1,
                )
                for n in range(1_000)
            ]
            await office.deliveries.add(made)
            await office.endpoint(receiver.url, "other")
            leases = CourierLeases(office.client, WEBHOOKS, "me", SETTINGS)
            service, stopping = LaneService(leases, office.runner, 1.0, 0.2), asyncio.Event()
            office.runner.leave_seconds = 0.0
            await office.runner._sender.stop()  # the service starts it
            serving = asyncio.create_task(service.run(stopping))
            async with asyncio.timeout(30):
                while service.in_hand < SETTINGS.webhook_concurrency:
                    await asyncio.sleep(0.01)
                began = time.monotonic()
                await office.delivery(1, "other")
                while not receiver.received:
                    await asyncio.sleep(0.01)
            took = time.monotonic() - began
            print(f"delivered after {took:.2f} s beside 1,000 that hang")
            assert all(server.is_serving() for server in sockets)
            stopping.set()
            await serving
            for server in sockets:
                server.close()
            assert took < SETTINGS.webhook_timeout_seconds, "it waited for a timeout of the others"

    use(test)


async def _hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while await reader.read(65_536):
            pass
    writer.close()


def test_an_event_that_cannot_be_read_holds_up_no_other(use: Any) -> None:
    async def test(office: Office) -> None:
        await office.endpoint("http://127.0.0.1:9/")
        reader = office.runner._reader
        await office.client.xadd(EVENTS, {"id": "a", "next": "nothing", "meta": "\xff"})
        far = {"type": "job.dead", "tenant": "acme", "id": "b", "target": "*", "body": "{}"}
        await office.client.xadd(EVENTS, far)
        await reader._make_group()
        await reader._run_once()
        (name,) = await office.deliveries.newest("acme", 0, 10)
        (found,) = await office.deliveries.read([name])
        assert found is not None
        assert found.subject == "b"
        assert await office.client.xlen(EVENTS) == 0

    use(test)


def test_many_receivers_of_many_events_are_written_a_bounded_part_at_a_time(
    use: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_reader, "_ADDED_BYTES", 3_000)

    async def test(office: Office) -> None:
        for number in range(5):
            one = Endpoint(f"ep_{number}", "http://127.0.0.1:9/", secrets=(("plain:x", None),))
            await office.endpoints.put("acme", one, 50)
        body = "x" * 500
        for number in range(4):
            entry = {"type": "job.dead", "tenant": "acme", "id": str(number), "target": "*"}
            await office.client.xadd(EVENTS, {**entry, "body": body})
        reader, sizes = office.runner._reader, []
        add = office.deliveries.add

        async def noted(made: Any) -> None:
            sizes.append(len(made))
            await add(made)

        monkeypatch.setattr(office.deliveries, "add", noted)
        await reader._make_group()
        await reader._run_once()
        assert sizes == [10, 10]
        assert len(await office.deliveries.newest("acme", 0, 100)) == 20

    use(test)


def test_where_many_wait_large_results_are_linked_to(use: Any) -> None:
    async def test(office: Office) -> None:
        await office.endpoint("http://127.0.0.1:9/")
        meta = Stamp("echo", "1", "w", 1, 1.0, 1).success(
            b'"' + b"x" * 5_000 + b'"', "a", 1, 1, 1, "acme"
        )
        entry = {"id": "a", "next": next_of("*"), "meta": meta}
        reader = office.runner._reader
        await reader._make_group()
        for waiting in (0, SETTINGS.webhook_results_waiting):
            await office.client.xadd(EVENTS, entry)
            reader._measure_at = float("inf")
            reader._in_lane = {"~acme": waiting}
            await reader._run_once()
        second, first = await office.deliveries.read(await office.deliveries.newest("acme", 0, 9))
        assert first is not None
        assert second is not None
        sizes = sorted([len(first.body), len(second.body)])
        assert sizes[0] < 1_000
        assert sizes[1] > 5_000

    use(test)


def test_a_courier_that_stood_still_writes_nothing_over_what_another_has_written(use: Any) -> None:
    async def test(office: Office) -> None:
        with listening(Receiver()) as receiver:
            await office.endpoint(receiver.url)
            one = await office.delivery()
            receiver.answer = lambda _one: (500, {})
            slow = CourierJob(WEBHOOKS, one.id, b"lapsed", "~acme", None, 0)
            await office.runner.prepare([slow])
            outcome = await office.runner.run(slow)
            receiver.answer = lambda _one: (204, {})
            assert await office.run(one) == Done(DELIVERED)
            await office.runner.note([(slow, outcome)])
            found = await office.read(one)
            assert found.state == DELIVERED
            assert [each.status for each in found.log] == [204]

    use(test)
