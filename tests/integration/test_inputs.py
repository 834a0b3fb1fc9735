"""Inputs by URL, by reference and as raw bodies: one fleet, real sockets, hostile clients."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from PIL import Image

from common.jobs.job import Job
from common.redis.embedded_server import RedisServer
from common.redis.keys import blob_key, job_key
from tests.support.stack import DATA, ApiProcess, Process, Stack, wait_until

INSIDE, OUTSIDE = "127.0.0.1", "127.0.0.2"
"""What nobody may reach, and what stands for the internet: the one address that is allowed."""
PHOTO = (DATA / "astronaut.jpg").read_bytes()
FETCH_SECONDS = 3.0


@dataclass
class Listener:
    """Answers HTTP at one address and counts its connections."""

    address: str
    port: int = 0
    connections: int = 0
    bodies: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        self._socket = socket.create_server((self.address, self.port), family=family)
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            path = connection.recv(65536).split(b" ")[1].decode()
            if path == "/hang":
                time.sleep(2 * FETCH_SECONDS)
                return
            head, body = self.bodies.get(path, ("200 OK", json.dumps(self.address).encode()))
            head = f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode() + body)

    def close(self) -> None:
        """Accept no more."""
        self._socket.close()


@dataclass
class Fleet:
    """An API and a worker whose inputs come from everywhere."""

    stack: Stack
    api: ApiProcess
    worker: Process
    inside: Listener
    inside_six: Listener
    outside: Listener
    blobs: Path
    connections: Path

    def settled(self, ids: list[str], seconds: float = 25) -> list[tuple[str, str | None]]:
        """State and reason of each, once all have ended."""

        def ended() -> list[tuple[str, str | None]] | None:
            records = [self.stack.record(one) for one in ids]
            if not all(one and one.state.terminal for one in records):
                return None
            return [(one.state.value, one.reason) for one in records if one]

        return wait_until(ended, seconds, "all settled")

    def submit(self, **job: object) -> str:
        """Submit as JSON; the id."""
        answer = httpx.post(f"{self.api.url}/v1/jobs", json=job)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])


def names() -> dict[str, list[list[str]]]:
    """What the worker's resolver answers."""
    return {
        "good.test": [[OUTSIDE]],
        "rebound.test": [[OUTSIDE], [INSIDE]],
        "rebound-back.test": [[INSIDE], [OUTSIDE]],
        "mixed.test": [[OUTSIDE, INSIDE]],
        "mixed-late.test": [[INSIDE, OUTSIDE]],
        "mixed-six.test": [[OUTSIDE, "::1"]],
        "inside.test": [[INSIDE]],
        "inside-six.test": [["::1"]],
        "mapped.test": [["::ffff:127.0.0.1"]],
        "nat64.test": [["64:ff9b::7f00:1"]],
        "metadata.test": [["169.254.169.254"]],
        "zone.test": [["fe80::1%lo"]],
        "any.test": [["0.0.0.0"]],
        "public.test": [["8.8.8.8"]],
    }


@pytest.fixture(scope="module")
def fleet(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("inputs")
    stack = Stack(embedded_redis.url, folder)
    stack.redis.flushall()
    outside = Listener(OUTSIDE)
    inside, inside_six = Listener(INSIDE, outside.port), Listener("::1", outside.port)
    options = {"names": names(), "connections": str(folder / "connections")}
    handler = {"handler": "tests.support.handlers:Looker"}
    catalog = {
        "looker": {**handler, "options": options},
        "pictures": {**handler, "input": "image"},
        "nobody": handler,
        "freely": {**handler, "options": {"names": names()}},
    }
    (folder / "models.yaml").write_text(json.dumps({"models": catalog}))
    stack.environment = {
        "LANEFLEET_CATALOG": str(folder / "models.yaml"),
        "LANEFLEET_FETCH_ALLOW": OUTSIDE,
        "LANEFLEET_FETCH_SECONDS": str(FETCH_SECONDS),
        "LANEFLEET_FETCH_TRIES": "1",
        "LANEFLEET_MAX_ATTEMPTS": "1",
        "LANEFLEET_BLOB_URL": f"file://{folder}/blobs",
        "LANEFLEET_INLINE_INPUT_BYTES": "1000",
        "LANEFLEET_REDIS_INPUT_BYTES": "2000",
        "LANEFLEET_BLOB_SWEEP_SECONDS": "0.4",
        "LANEFLEET_BLOB_ORPHAN_SECONDS": "1",
    }
    worker = stack.worker("looker,pictures")
    api = stack.api("looker,pictures,nobody,freely")
    yield Fleet(
        stack, api, worker, inside, inside_six, outside, folder / "blobs", folder / "connections"
    )
    stack.close()
    for listener in (inside, inside_six, outside):
        listener.close()


def hostile(port: int) -> list[str]:
    """URLs that must not lead inside."""
    hosts = [
        *("127.0.0.1", "127.1", "127.0.1", "127.127.127.127", "127.0.0.01", "0.0.0.0", "0"),
        *("2130706433", "0x7f000001", "017700000001", "0177.0.0.1", "0x7f.0.0.1", "0x7f.1"),
        *("localhost", "localhost.", "LOCALHOST", "127.0.0.1.", "１２７.0.0.1", "127。0。0。1"),
        *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]"),
        *("[::ffff:0:127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::7f00:1]"),
        *("[2002:7f00:1::1]", "[2001:0:808:808::80ff:fffe]", "[2a00:1450::5efe:7f00:1]"),
        *("[fe80::1%25lo]", "user@127.0.0.1", ":@127.0.0.1", "good.test@127.0.0.1"),
        *("good.test:80@127.0.0.1", "127.0.0.1%00.good.test", "127.0.0.1%2f.good.test"),
        *("inside.test", "inside-six.test", "mixed.test", "mixed-late.test", "mixed-six.test"),
        *("mapped.test", "nat64.test", "zone.test", "any.test", "rebound-back.test"),
    ]
    urls = [f"http://{host}:{port}/" for host in hosts]
    urls += [f"https://{host}:{port}/" for host in ("127.0.0.1", "mixed.test")]
    urls += [f"http://{OUTSIDE}:{port}{path}" for path in REDIRECTS]
    return [
        *urls,
        f"http://{OUTSIDE}:{port}\\@127.0.0.1:{port}/",
        f"http://127.0.0.1:{port}#@{OUTSIDE}:{port}/",
        f"http://127.0.0.1:{port}?@{OUTSIDE}:{port}/",
        f"//127.0.0.1:{port}/",
        f"gopher://127.0.0.1:{port}/_GET",
        f"ftp://127.0.0.1:{port}/",
        f"http://\r\nHost: 127.0.0.1:{port}/",
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data/",
        "http://metadata.test/",
        "http://[fd00:ec2::254]/latest/",
        "http://100.100.100.200/",
        "http://168.63.129.16/",
        "http://public.test:22/",
        "http://10.0.0.1/",
        "http://192.168.0.1/",
        "http://224.0.0.1/",
    ]


REDIRECTS = {
    "/to-inside": "http://127.0.0.1:{port}/",
    "/to-localhost": "//localhost:{port}/",
    "/to-metadata": "http://169.254.169.254/",
    "/to-a-name": "http://inside.test:{port}/",
}


def test_hostile_urls_make_no_connection_inside(fleet: Fleet) -> None:
    port = fleet.outside.port
    for path, target in REDIRECTS.items():
        location = f"302 Found\r\nLocation: {target.format(port=port)}"
        fleet.outside.bodies[path] = (location, b"")
    urls = hostile(port)
    assert len(urls) > 60
    ids, refused_early = [], 0
    for url in urls:
        body = {"model": "looker", "input_url": url}
        answer = httpx.post(f"{fleet.api.url}/v1/jobs", json=body)
        if answer.status_code == 422:  # then as a Celery client would send it, past the front
            assert answer.json()["type"].endswith("input-url-refused"), url
            refused_early += 1
            ids += fleet.stack.publish([Job("looker", None, input_url=url)])
        else:
            assert answer.status_code == 202
            ids.append(answer.json()["id"])
    outcomes = dict(zip(urls, fleet.settled(ids), strict=True))
    print(f"{len(urls)} hostile URLs, {refused_early} refused at the front")
    for url, (state, reason) in outcomes.items():
        redirect = any(url.endswith(path) for path in REDIRECTS)
        assert state == "failed", url
        assert reason == ("input_url_failed" if redirect else "input_url_refused"), url
    errors = [record.error for one in ids if (record := fleet.stack.record(one))]
    assert not [error for error in errors if error and re.search(r"127\.|169\.|::1", error)]
    print(f"inside: {fleet.inside.connections + fleet.inside_six.connections} connections")
    assert fleet.inside.connections == fleet.inside_six.connections == 0
    opened = set(fleet.connections.read_text().splitlines())
    redis_port = fleet.stack.redis_url.rpartition(":")[2].partition("/")[0]
    assert all(
        line.startswith((f"('{OUTSIDE}', {port}", f"('127.0.0.1', {redis_port})"))
        or line.endswith(".sock'")
        for line in opened
    ), opened


def test_a_name_that_is_rebound_is_fetched_where_it_was_judged(fleet: Fleet) -> None:
    url = f"http://rebound.test:{fleet.outside.port}/"
    first = fleet.submit(model="looker", input_url=url)
    assert fleet.settled([first]) == [("succeeded", None)]
    record = fleet.stack.record(first)
    assert record is not None
    assert record.result == OUTSIDE
    again = fleet.submit(model="looker", input_url=url)
    assert fleet.settled([again]) == [("failed", "input_url_refused")]
    assert fleet.inside.connections == 0


def test_what_the_operator_allows_is_fetched(fleet: Fleet) -> None:
    """So that the test above could fail: the same addresses, reached."""
    allow = "127.0.0.0/8,::1/128"
    worker = fleet.stack.worker("freely", LANEFLEET_FETCH_ALLOW=allow)
    before = fleet.inside.connections, fleet.inside_six.connections
    hosts = ["127.0.0.1", "localhost", "[::1]", "inside.test", "inside-six.test", "mixed.test"]
    ids = [
        fleet.submit(model="freely", input_url=f"http://{host}:{fleet.outside.port}/")
        for host in hosts
    ]
    assert set(fleet.settled(ids)) == {("succeeded", None)}
    reached = fleet.inside.connections - before[0], fleet.inside_six.connections - before[1]
    assert sum(reached) == len(hosts) - 1, "mixed.test is fetched from its first address"
    assert reached[1] >= 2
    assert worker.stop() == 0


def test_servers_that_hang_hold_up_no_other_job(fleet: Fleet) -> None:
    port = fleet.outside.port
    slow, quick = f"http://{OUTSIDE}:{port}/hang", f"http://good.test:{port}/"
    hanging = fleet.stack.publish([Job("looker", None, input_url=slow) for _ in range(40)])
    others = fleet.stack.publish(
        [*(Job("looker", n) for n in range(40)), Job("looker", None, input_url=quick)]
    )
    assert set(fleet.settled(others)) == {("succeeded", None)}
    assert fleet.stack.states(hanging) == {"running": 40}, "nobody waited for those that hang"
    assert set(fleet.settled(hanging)) == {("failed", "input_url_failed")}


def test_pictures_come_by_url_by_form_and_raw_whatever_they_are_called(fleet: Fleet) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (40, 30)).save(picture, "PNG")
    png = picture.getvalue()
    fleet.outside.bodies["/a.jpg"] = ("200 OK\r\nContent-Type: image/jpeg", png)
    url = f"{fleet.api.url}/v1/jobs"
    wait = {"Prefer": "wait=10"}
    raw = {**wait, "Content-Type": "application/octet-stream"}
    query = {"model": "pictures", "params": '{"a": 1}', "priority": 3, "deadline": 60}
    link = {"model": "pictures", "input_url": f"http://good.test:{fleet.outside.port}/a.jpg"}
    lie = {"file": ("a.jpg", png, "image/jpeg")}
    for answer in (
        httpx.post(url, json=link, headers=wait),
        httpx.post(url, data={"model": "pictures"}, files={"file": ("a", png)}, headers=wait),
        httpx.post(url, data={"model": "pictures"}, files=lie, headers=wait),
        httpx.post(url, params=query, content=png, headers=raw),
        httpx.post(url, params=query, content=png, headers={**wait, "Content-Type": "image/jpeg"}),
    ):
        assert answer.status_code == 200, answer.text
        assert answer.json()["result"] == [30, 40, 3]
    nothing = httpx.post(url, params=query, content=b"no picture", headers=raw)
    assert (nothing.status_code, nothing.json()["title"]) == (415, "Unsupported media")
    nameless = httpx.post(url, content=png, headers=raw)
    assert nameless.status_code == 422
    assert "`model`" in nameless.json()["detail"]
    other = {**query, "params": "[1]"}
    assert httpx.post(url, params=other, content=png, headers=raw).status_code == 422


def tiled_tiff(side: int) -> bytes:
    """A TIFF of 8 x 8 pixels whose one tile claims to be `side` wide and high."""
    tile = zlib.compress(bytes(64))
    tags = [
        *((256, 8), (257, 8), (258, 8), (259, 8), (262, 1), (277, 1)),
        *((322, side), (323, side), (324, 8), (325, len(tile))),
    ]
    directory = struct.pack("<H", len(tags))
    directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(tile)) + tile + directory + bytes(4)


def bombs() -> dict[str, tuple[bytes, str | None]]:
    """Pictures that want too much, and the reason that each must be given; None succeeds."""
    small, gif = io.BytesIO(), io.BytesIO()
    Image.new("L", (8, 8)).save(small, "PNG")
    png = bytearray(small.getvalue())
    png[16:24] = struct.pack(">II", 30_000, 30_000)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    frames = [Image.new("P", (64, 64), color=n) for n in (1, 2)]
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:], duration=40)
    one_frame = gif.getvalue()[:-1]
    second = one_frame.rindex(b"\x21\xf9")
    many, more = (one_frame + one_frame[second:] * count + b";" for count in (900, 9_998))
    return {
        "pixel bomb": (bytes(png), "input_too_large"),
        "large tiles": (tiled_tiff(60_000), "input_too_large"),
        "900 frames": (many, None),
        "10,000 frames": (more, "input_too_large"),
        "truncated": (PHOTO[: len(PHOTO) // 2], "invalid_input"),
        "a head alone": (PHOTO[:4], "unsupported_media"),
        "zeros after the head": (PHOTO[:20] + bytes(10_000), "unsupported_media"),
    }


def resident_mb(process: Process) -> float:
    """What it has in memory; 0 where the system does not say."""
    status = Path(f"/proc/{process.pid}/status")
    found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else 0.0


def test_pictures_that_want_too_much_fail_with_their_reason_and_cost_nothing(fleet: Fleet) -> None:
    made = bombs()
    url = f"{fleet.api.url}/v1/jobs"

    def send_all() -> dict[str, str | None]:
        ids, reasons = {}, {}
        for name, (picture, _) in made.items():
            answer = httpx.post(url, data={"model": "pictures"}, files={"file": ("a", picture)})
            if answer.status_code == 202:
                ids[name] = answer.json()["id"]
            else:
                assert answer.status_code == 422, (name, answer.text)
                reasons[name] = answer.json()["title"].lower().replace(" ", "_")
        outcomes = fleet.settled(list(ids.values()))
        return reasons | {name: reason for name, (_, reason) in zip(ids, outcomes, strict=True)}

    assert send_all() == {name: reason for name, (_, reason) in made.items()}
    before = resident_mb(fleet.worker)
    for _ in range(5):
        send_all()
    grown = resident_mb(fleet.worker) - before
    print(f"{5 * len(made)} bombs, worker grew by {grown:.1f} MB")
    assert grown < 32
    assert fleet.worker.alive


def stored(fleet: Fleet) -> set[str]:
    """Ids of the inputs that lie in the folder, beside the files of batches."""
    return {path.name for path in fleet.blobs.iterdir()} - {"files"}


def await_sweep(fleet: Fleet) -> None:
    """Until what is an orphan from now on would have been found and dropped."""
    orphan = fleet.blobs / "0-sooner"
    orphan.write_bytes(b"x")
    wait_until(lambda: not orphan.exists(), 20, "a sweep")


LARGE = ["x" * 5000]
"""Larger than what goes into Redis here."""


def test_a_large_input_lies_in_the_folder_until_its_job_has_ended(fleet: Fleet) -> None:
    waiting = fleet.submit(model="nobody", input=LARGE)
    assert waiting in stored(fleet)
    assert fleet.stack.redis.strlen(blob_key(waiting)) < 100
    done = fleet.submit(model="looker", input=LARGE)
    assert fleet.settled([done]) == [("succeeded", None)]
    record = fleet.stack.record(done)
    assert record is not None
    assert record.result == LARGE
    wait_until(lambda: done not in stored(fleet), 20, "freed with its job")
    bulk = "\n".join(json.dumps({"model": "looker", "input": LARGE}) for _ in range(20))
    lines = httpx.post(f"{fleet.api.url}/v1/jobs/bulk", content=bulk).text.splitlines()
    ids = [json.loads(line)["id"] for line in lines]
    assert set(fleet.settled(ids)) == {("succeeded", None)}
    wait_until(lambda: not stored(fleet) & set(ids), 20, "freed with their jobs")
    await_sweep(fleet)
    assert waiting in stored(fleet), "its job still waits"
    fleet.api.client.cancel(waiting)
    wait_until(lambda: waiting not in stored(fleet), 20, "swept after the cancel")


def test_a_dead_job_keeps_its_input_until_it_is_purged(fleet: Fleet) -> None:
    dead = fleet.submit(model="looker", input=LARGE, params={"fail": "on purpose"})
    assert fleet.settled([dead]) == [("failed", "attempts_exhausted")]
    await_sweep(fleet)
    assert dead in stored(fleet)
    answer = httpx.post(f"{fleet.api.url}/v1/dead/looker/purge", json={"ids": [dead]})
    assert answer.is_success, answer.text
    wait_until(lambda: dead not in stored(fleet), 20, "swept after the purge")


def test_a_job_waits_while_its_input_cannot_be_read(fleet: Fleet) -> None:
    """Nobody is charged with it: not the model, nor a job that has one delivery left."""
    ids = [fleet.submit(model="nobody", input=LARGE) for _ in range(2)]
    suspect = ids[1]
    deliveries = 2 * 10 - 1
    words = fleet.stack.redis.get(job_key(suspect)).split(b" ")  # type: ignore[union-attr]
    tried = b"%b 0 1 %d - 0 - " % (b" ".join(words[:3]), deliveries)
    fleet.stack.redis.set(job_key(suspect), tried)
    aside = fleet.stack.folder / "aside"
    fleet.blobs.rename(aside)
    for one in ids:
        (fleet.blobs / one).mkdir(parents=True)
    worker = fleet.stack.worker("nobody", LANEFLEET_MAX_ATTEMPTS="2")
    wait_until(lambda: fleet.stack.stats("nobody").get("retried", 0) >= 4, 20, "put back twice")
    records = [fleet.stack.record(one) for one in ids]
    assert [(one.state, one.attempts) for one in records if one] == [("queued", 0), ("queued", 1)]
    words = fleet.stack.redis.get(job_key(suspect)).split(b" ")  # type: ignore[union-attr]
    assert int(words[5]) == deliveries
    assert "model_failed" not in fleet.stack.stats("nobody")
    shutil.rmtree(fleet.blobs)
    aside.rename(fleet.blobs)
    assert fleet.settled(ids) == [("succeeded", None)] * 2
    assert worker.stop() == 0


def test_an_input_whose_submit_died_is_swept_and_one_that_expired_too(fleet: Fleet) -> None:
    (fleet.blobs / "0-orphan").write_bytes(b"x")
    (fleet.blobs / "0-half.part").write_bytes(b"x")
    late = fleet.submit(model="nobody", input=LARGE, start_within=0.001)
    worker = fleet.stack.worker("nobody")
    assert fleet.settled([late]) == [("expired", "deadline")]
    wait_until(lambda: stored(fleet) == set(), 20, "swept")
    assert worker.stop() == 0
    assert fleet.worker.stop() == 0
