"""Bad input: the front refuses what it can see, decoding fails one job and no other."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import httpx
import pytest

from common.jobs.job import Job
from common.redis.embedded_server import RedisServer
from common.redis.keys import BLOB_SWEEP, COLD_STARTS, FILE_SWEEP, FORMAT, PROBE, RECONCILER
from tests.support.stack import DATA, ApiProcess, Stack, wait_until

PHOTO = DATA / "astronaut.jpg"


@pytest.fixture(scope="module")
def front(
    embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiProcess]:
    made = Stack(embedded_redis.url, tmp_path_factory.mktemp("front"))
    yield made.api("echo,minilm,text-detect")
    made.close()


@pytest.fixture
def api(stack: Stack, front: ApiProcess) -> ApiProcess:
    """The same for all tests, over a database that is empty for each."""
    return front


WITHOUT_WORK = {BLOB_SWEEP, COLD_STARTS, FILE_SWEEP, FORMAT, PROBE, RECONCILER}


def queued_keys(stack: Stack) -> list[bytes]:
    """All keys but those that a front writes without any work, at times of its own."""
    return [
        key
        for key in stack.redis.scan_iter("*")
        if not key.startswith(b"_kombu") and key.decode() not in WITHOUT_WORK
    ]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b'{"model": "nope", "input": 1}', 404, "this fleet serves: echo"),
        (b'{"input": 1}', 422, "model"),
        (b'{"model": "echo", "input": 1, "priority": 12}', 422, "less than or equal to 9"),
        (b'{"model": "echo", "input": 1, "colour": "red"}', 422, "colour"),
        (b'{"model": "echo", "input": NaN}', 400, "NaN"),
        (b'{"model": "echo", ', 400, "not valid JSON"),
        (b"[1, 2]", 422, "send an object"),
        (b'{"model": "minilm", "input": 7}', 422, "must be a string"),
        (b'{"model": "minilm", "input": null}', 422, "must be a string"),
        (b'{"model": "text-detect", "input": {"image": "%%%"}}', 422, "base64"),
        (b'{"model": "text-detect", "input": "aGVsbG8="}', 415, "PNG, JPEG"),
        (b'{"model": "echo", "input": 1, "deadline": -1}', 422, "deadline"),
    ],
)
def test_the_front_refuses_and_says_what_to_do(
    stack: Stack, api: ApiProcess, body: bytes, status: int, says: str
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{api.url}/v1/jobs", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert says in problem["detail"]
    assert problem["type"].startswith("https://")
    assert queued_keys(stack) == []


def test_ten_megabytes_of_zeros_are_no_image(stack: Stack, api: ApiProcess) -> None:
    files = {"file": ("zeros.png", b"\0" * 10_000_000)}
    answer = httpx.post(f"{api.url}/v1/jobs", data={"model": "text-detect"}, files=files)
    assert answer.status_code == 415
    assert "send PNG, JPEG" in answer.json()["detail"]
    assert queued_keys(stack) == []


def test_a_body_over_the_limit_is_refused_even_when_chunked(stack: Stack) -> None:
    api = stack.api("echo", LANEFLEET_MAX_BODY_BYTES="100000")
    headers = {"Content-Type": "application/json"}
    for content in (b"x" * 200_000, (b"x" * 1000 for _ in range(200))):
        answer = httpx.post(f"{api.url}/v1/jobs", content=content, headers=headers)
        assert answer.status_code == 413
    assert queued_keys(stack) == []


def test_other_content_types_and_paths_are_problems_too(api: ApiProcess) -> None:
    answer = httpx.post(f"{api.url}/v1/jobs", content=b"x", headers={"Content-Type": "text/xml"})
    assert (answer.status_code, answer.headers["content-type"]) == (415, "application/problem+json")
    assert httpx.get(f"{api.url}/v1/jobs/unknown").status_code == 404
    assert httpx.get(f"{api.url}/nowhere").headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("charset", "name", "value"),
    [
        ("undefined", "params", b"{}"),
        ("unicode_escape", "params", b"\\ud800"),
        ("unicode_escape", "model", b"\\ud800"),
        ("unicode_escape", "\\ud800", b"{}"),
        ("utf-7", "params", b"+2AA-"),
    ],
)
def test_a_charset_that_gives_no_text_is_refused(
    stack: Stack, api: ApiProcess, charset: str, name: str, value: bytes
) -> None:
    parts = {"model": b"minilm", name: value, 'file"; filename="a.txt': b"text"}
    body = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (key.encode(), text)
        for key, text in parts.items()
    )
    headers = {"Content-Type": f"multipart/form-data; boundary=b; charset={charset}"}
    for path in ("/v1/jobs", "/v1/embed"):
        answer = httpx.post(f"{api.url}{path}", content=body + b"--b--\r\n", headers=headers)
        assert (answer.status_code, answer.json()["title"]) == (400, "Invalid multipart"), path
    assert queued_keys(stack) == []


@pytest.mark.parametrize("offset", ["-1", "1000001", "9" * 20])
def test_an_offset_beyond_all_reason_is_refused(api: ApiProcess, offset: str) -> None:
    answer = httpx.get(f"{api.url}/v1/dead/echo", params={"offset": offset})
    assert answer.status_code == 422
    assert httpx.get(f"{api.url}/v1/dead/echo?offset=1000000").json() == []


def test_a_truncated_image_fails_alone(stack: Stack) -> None:
    whole = PHOTO.read_bytes()
    images = [whole] * 7
    images[3] = whole[: len(whole) // 2]
    ids = stack.publish(
        [
            Job("text-detect", {"image": base64.b64encode(image).decode()}, params={})
            for image in images
        ]
    )
    worker = stack.worker("text-detect")
    wait_until(
        lambda: (
            sum(stack.states(ids).values())
            == sum(n for s, n in stack.states(ids).items() if s in ("succeeded", "failed"))
        ),
        60,
        "all settled",
    )
    assert stack.states(ids) == {"succeeded": 6, "failed": 1}
    broken = stack.record(ids[3])
    assert broken is not None
    assert broken.state == "failed"
    assert broken.reason == "invalid_input"
    assert "truncated" in (broken.error or "")
    assert worker.alive


def test_a_model_that_raises_is_tried_again_alone_and_its_mates_succeed(stack: Stack) -> None:
    jobs = [Job("echo", n) for n in range(8)]
    jobs[5] = Job("echo", 5, {"fail": "broken on purpose"})
    ids = stack.publish(jobs)
    worker = stack.worker("echo", LANEFLEET_MAX_ATTEMPTS="2")
    wait_until(lambda: stack.states(ids).get("succeeded") == 7, 20, "the innocent")
    wait_until(lambda: stack.states(ids).get("failed") == 1, 20, "the guilty")
    guilty = stack.record(ids[5])
    assert guilty is not None
    assert guilty.reason == "attempts_exhausted"
    assert "broken on purpose" in (guilty.error or "")
    assert guilty.attempts == 2
    assert stack.stats()["dead"] == 1
    assert worker.alive
