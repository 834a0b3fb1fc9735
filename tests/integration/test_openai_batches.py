"""Files and batches by the stock `openai` client, over real processes."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from typer.testing import CliRunner

from api.cli import app as command_line
from api.client import ApiError, AsyncClient
from common.redis.embedded_server import RedisServer
from tests.support.stack import ApiProcess, Stack, wait_until

CATALOG = """
models:
  echo: {handler: echo}
  slow: {handler: echo, max_batch: 4}
  lengths: {handler: "tests.support.handlers:Lengths", input: text, task: embed}
"""
SERVED = "echo,slow,lengths"
WINDOW: Any = "24h"
JOBS: Any = "/v1/jobs"
EMBEDDINGS: Any = "/v1/embeddings"


@pytest.fixture(scope="module")
def stack(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("batches")
    (folder / "models.yaml").write_text(CATALOG)
    environment = {
        "LANEFLEET_CATALOG": str(folder / "models.yaml"),
        "LANEFLEET_FILES_URL": (folder / "files").as_uri(),
        "LANEFLEET_BATCH_MAX_LINE_BYTES": "2000",
        "LANEFLEET_BATCH_MAX_LINES": "500",
        "LANEFLEET_FILE_MAX_BYTES": "1000000",
    }
    made = Stack(embedded_redis.url, folder, environment)
    made.redis.flushall()
    made.courier(SERVED)
    made.worker(SERVED)
    yield made
    made.close()


@pytest.fixture(scope="module")
def api(stack: Stack) -> ApiProcess:
    return stack.api(SERVED)


@pytest.fixture(scope="module")
def client(api: ApiProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def request(number: int, body: dict[str, Any], url: str = JOBS) -> dict[str, Any]:
    return {"custom_id": f"r{number}", "method": "POST", "url": url, "body": body}


def upload(client: openai.OpenAI, lines: list[Any], name: str = "in.jsonl") -> str:
    text = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines)
    return client.files.create(file=(name, text.encode()), purpose="batch").id


def run(client: openai.OpenAI, file_id: str, endpoint: Any = JOBS, **more: Any) -> Any:
    made = client.batches.create(
        input_file_id=file_id, endpoint=endpoint, completion_window=WINDOW, **more
    )
    assert made.status == "validating"
    return await_end(client, made.id)


def await_end(client: openai.OpenAI, batch_id: str) -> Any:
    ends = ("completed", "failed", "expired", "cancelled")

    def ended() -> Any:
        batch = client.batches.retrieve(batch_id)
        return batch if batch.status in ends else None

    return wait_until(ended, 60, "the batch's end")


def lines_of(client: openai.OpenAI, file_id: str | None) -> list[Any]:
    assert file_id is not None
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def test_a_batch_of_jobs_has_every_line_once_and_in_order(client: openai.OpenAI) -> None:
    lines = [request(n, {"model": "echo", "input": "x" * n}) for n in range(300)]
    batch = run(client, upload(client, lines), metadata={"run": "1"})
    assert batch.status == "completed"
    assert (batch.request_counts.total, batch.request_counts.completed) == (300, 300)
    assert batch.metadata == {"run": "1"}
    assert batch.error_file_id is None
    found = lines_of(client, batch.output_file_id)
    assert [one["custom_id"] for one in found] == [f"r{n}" for n in range(300)]
    assert [one["response"]["body"]["result"]["length"] for one in found] == list(range(300))
    assert {one["response"]["status_code"] for one in found} == {200}
    assert all(one["error"] is None for one in found)


def test_embeddings_are_in_the_shape_of_their_route(client: openai.OpenAI) -> None:
    lines = [
        request(0, {"model": "lengths", "input": "four"}, EMBEDDINGS),
        request(1, {"model": "lengths", "input": ["a", "bc"]}, EMBEDDINGS),
    ]
    batch = run(client, upload(client, lines), EMBEDDINGS)
    one, two = (line["response"]["body"] for line in lines_of(client, batch.output_file_id))
    assert one["data"] == [{"object": "embedding", "index": 0, "embedding": [4.0, 1.0]}]
    assert [item["embedding"][0] for item in two["data"]] == [1.0, 2.0]
    assert two["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


def test_a_wrong_request_fails_alone_under_its_custom_id(client: openai.OpenAI) -> None:
    lines = [
        request(0, {"model": "echo", "input": 1}),
        request(1, {"model": "nobody", "input": 1}),
        request(2, {"model": "echo", "input": 1, "params": {"fail": "on purpose"}}),
        request(3, {"model": "echo", "input": 1, "priority": 0}),
        request(4, {"model": "echo", "input": 2}),
    ]
    batch = run(client, upload(client, lines))
    assert batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 3)
    assert [one["custom_id"] for one in lines_of(client, batch.output_file_id)] == ["r0", "r4"]
    errors = lines_of(client, batch.error_file_id)
    assert [one["custom_id"] for one in errors] == ["r1", "r2", "r3"]
    assert [one["response"]["status_code"] for one in errors] == [400, 500, 400]
    said = [one["response"]["body"]["error"] for one in errors]
    assert said[0]["code"] == "model_not_found"
    assert "lowest band" in said[2]["message"]


@pytest.mark.parametrize(
    ("lines", "code", "line"),
    [
        (["no json"], "invalid_json_line", 1),
        ([request(0, {}), request(0, {})], "duplicate_custom_id", 2),
        ([request(0, {}), {"method": "POST"}], "missing_custom_id", 2),
        ([request(0, {}), "", request(1, {}, EMBEDDINGS)], "mismatched_endpoint", 3),
        ([request(0, {"input": "x" * 3000})], "line_too_long", 1),
        ([request(n, {}) for n in range(501)], "too_many_requests", 501),
        (["", ""], "empty_file", 1),
    ],
)
def test_a_file_that_is_no_batch_fails_with_its_lines(
    client: openai.OpenAI, lines: list[Any], code: str, line: int
) -> None:
    batch = run(client, upload(client, lines))
    assert batch.status == "failed"
    assert batch.errors.data[0].code == code
    assert batch.errors.data[0].line == line
    assert batch.output_file_id is None


@pytest.mark.slow
def test_canceling_keeps_exactly_what_was_done(client: openai.OpenAI) -> None:
    slow = {"sleep_ms": 50}
    lines = [request(n, {"model": "slow", "input": n, "params": slow}) for n in range(500)]
    made = client.batches.create(
        input_file_id=upload(client, lines), endpoint=JOBS, completion_window=WINDOW
    )
    wait_until(
        lambda: client.batches.retrieve(made.id).request_counts.completed > 0, 30, "some results"
    )
    assert client.batches.cancel(made.id).status == "cancelling"
    batch = await_end(client, made.id)
    assert batch.status == "cancelled"
    found = lines_of(client, batch.output_file_id)
    assert 0 < len(found) == batch.request_counts.completed < 500
    numbers = [int(one["custom_id"][1:]) for one in found]
    assert numbers == sorted(set(numbers))
    assert client.batches.cancel(made.id).status == "cancelled"


@pytest.mark.slow
def test_an_expired_batch_has_what_was_done_and_an_error_for_the_rest(
    client: openai.OpenAI,
) -> None:
    slow = {"sleep_ms": 50}
    lines = [request(n, {"model": "slow", "input": n, "params": slow}) for n in range(400)]
    asked: Any = {"input_file_id": upload(client, lines), "endpoint": JOBS}
    made = client.batches.create(**asked, completion_window="2s")  # type: ignore[arg-type]
    batch = await_end(client, made.id)
    assert batch.status == "expired"
    done = lines_of(client, batch.output_file_id) if batch.output_file_id else []
    rest = lines_of(client, batch.error_file_id)
    assert {one["error"]["code"] for one in rest} == {"batch_expired"}
    ids = [one["custom_id"] for one in done + rest]
    assert sorted(ids) == sorted(f"r{n}" for n in range(400))


def test_files_are_listed_read_and_deleted(client: openai.OpenAI, api: ApiProcess) -> None:
    file_id = upload(client, [request(0, {})], name="Bücher\n.html")
    found = client.files.retrieve(file_id)
    assert (found.purpose, found.object) == ("batch", "file")
    assert found.expires_at is not None
    listed = client.files.list(limit=1)
    assert [one.id for one in listed.data] == [file_id]
    assert len(list(client.files.list(limit=2))) > 2
    answer = httpx.get(f"{api.url}/v1/files/{file_id}/content")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith("attachment;")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert len(answer.content) == found.bytes
    path, asked = f"{api.url}/v1/files/{file_id}/content", {"If-Range": answer.headers["etag"]}
    rest = httpx.get(path, headers={"Range": "bytes=7-", **asked})
    assert (rest.status_code, rest.content) == (206, answer.content[7:])
    assert rest.headers["content-range"] == f"bytes 7-{found.bytes - 1}/{found.bytes}"
    assert httpx.get(path, headers={"Range": "bytes=-3"}).content == answer.content[-3:]
    beyond = httpx.get(path, headers={"Range": f"bytes={found.bytes}-"})
    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == f"bytes */{found.bytes}"
    assert httpx.head(path).headers["content-length"] == str(found.bytes)
    assert client.files.delete(file_id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file_id)


def test_what_is_no_upload_is_refused_with_a_sentence(api: ApiProcess) -> None:
    def post(**sent: Any) -> Any:
        answer = httpx.post(f"{api.url}/v1/files", **sent)
        assert answer.is_client_error, answer.text
        return answer.status_code, answer.json()["error"]["message"]

    file = ("a.jsonl", b"{}\n")
    assert post(json={})[0] == 415
    assert "`purpose`" in post(files={"file": file})[1]
    assert "`purpose`" in post(files={"file": file}, data={"purpose": "vision"})[1]
    assert "`file`" in post(files={"purpose": (None, "batch")})[1]
    assert "empty" in post(files={"file": ("a", b"")}, data={"purpose": "batch"})[1]
    short = {"purpose": "batch", "expires_after[seconds]": "5"}
    assert "expires_after" in post(files={"file": file}, data=short)[1]
    large = ("a.jsonl", b"x" * 1_000_001)
    assert post(files={"file": large}, data={"purpose": "batch"})[0] == 413
    head = {"content-type": "multipart/form-data; boundary=b"}
    assert "ended" in post(content=b"--b\r\n", headers=head)[1]


def test_what_is_no_batch_is_refused_with_a_sentence(client: openai.OpenAI) -> None:
    def refusal(**fields: Any) -> str:
        asked: Any = {"endpoint": JOBS, "completion_window": WINDOW, **fields}
        with pytest.raises(openai.BadRequestError) as caught:
            client.batches.create(**asked)
        return str(caught.value)

    file_id = upload(client, [request(0, {})])
    assert "upload it" in refusal(input_file_id="file-none")
    assert "endpoint" in refusal(input_file_id=file_id, endpoint="/v1/responses")
    assert "completion_window" in refusal(input_file_id=file_id, completion_window="soon")
    assert "completion_window" in refusal(input_file_id=file_id, completion_window="99d")
    many = {f"k{n}": "v" for n in range(17)}
    assert "at most 16 pairs" in refusal(input_file_id=file_id, metadata=many)
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_none")


def test_a_file_in_use_is_not_deleted(client: openai.OpenAI) -> None:
    slow = {"sleep_ms": 50}
    lines = [request(n, {"model": "slow", "input": n, "params": slow}) for n in range(300)]
    file_id = upload(client, lines)
    made = client.batches.create(input_file_id=file_id, endpoint=JOBS, completion_window=WINDOW)
    with pytest.raises(openai.ConflictError, match=made.id):
        client.files.delete(file_id)
    client.batches.cancel(made.id)
    await_end(client, made.id)
    assert client.files.delete(file_id).deleted


def test_no_job_of_the_system_lane_is_taken_over_http(api: ApiProcess) -> None:
    answer = httpx.post(f"{api.url}/v1/jobs", json={"model": "~batch", "input": "batch_x"})
    assert answer.status_code == 404


@pytest.mark.slow
def test_results_that_are_in_a_file_are_not_kept_in_redis(
    client: openai.OpenAI, stack: Stack
) -> None:
    before = sum(1 for _ in stack.redis.scan_iter("celery-task-meta-*", count=1000))
    lines = [request(n, {"model": "echo", "input": n}) for n in range(200)]
    run(client, upload(client, lines))
    after = sum(1 for _ in stack.redis.scan_iter("celery-task-meta-*", count=1000))
    assert after - before <= 1  # the batch's own job


def test_the_parts_lie_in_their_folder(stack: Stack) -> None:
    folder = Path(stack.environment["LANEFLEET_FILES_URL"].removeprefix("file://"))
    names = [one.name for one in folder.iterdir()]
    assert names
    assert all(name.startswith("file-") for name in names)


def test_files_and_batches_by_command_and_client(
    api: ApiProcess, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANEFLEET_URL", api.url)
    source, results = stack.folder / "mine.jsonl", stack.folder / "results.jsonl"
    source.write_text(json.dumps(request(1, {"model": "echo", "input": "abc"})) + "\n")

    def lanefleet(*words: str, status: int = 0) -> Any:
        done = CliRunner().invoke(command_line, [*words, "--json"], catch_exceptions=False)
        assert done.exit_code == status, done.output
        return json.loads(done.stdout)

    made = lanefleet("batches", "create", str(source), "--meta", "run=7")
    assert made["metadata"] == {"run": "7"}
    ended = lanefleet("batches", "wait", made["id"], "--output", str(results))
    assert ended["status"] == lanefleet("batches", "get", made["id"])["status"] == "completed"
    assert json.loads(results.read_text())["response"]["body"]["result"]["length"] == 3
    assert made["id"] in [one["id"] for one in lanefleet("batches", "list")]
    kept = lanefleet("files", "create", str(source), "--expires-seconds", "3600")
    assert kept["expires_at"] - kept["created_at"] == 3600
    assert lanefleet("files", "get", kept["id"]) == kept
    assert kept["id"] in [one["id"] for one in lanefleet("files", "list")]
    assert lanefleet("files", "delete", kept["id"], "--yes")["deleted"]
    with pytest.raises(ApiError, match="there is no file") as caught:
        api.client.get_file(kept["id"])
    assert caught.value.status == 404


def test_the_asyncio_client_uploads_and_downloads_alike(api: ApiProcess) -> None:
    content = json.dumps(request(1, {"model": "echo", "input": 1})).encode()

    async def use() -> bytes:
        async with AsyncClient(api.url) as client:
            file = await client.create_file(io.BytesIO(content))
            batch = await client.create_batch(file["id"])
            ended = await client.wait_batch(batch["id"], 60)
            assert ended["status"] == "completed"
            return b"".join([one async for one in client.get_file_content(file["id"])])

    assert asyncio.run(use()) == content
