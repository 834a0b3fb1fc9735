"""What jobs say while they run, to readers at two API processes; the worker is played by hand."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from api.client import ApiError, AsyncClient, JobFailed, Token
from api.client.sse import EventReader
from common.redis.embedded_server import RedisServer
from common.redis.keys import WEIGHTS_DIGESTS, said_key
from tests.support.stack import ApiProcess, Stack, wait_until
from tests.support.teller import Teller

LANE = "words"
CATALOG = f"""
models:
  echo: {{handler: echo}}
  {LANE}: {{handler: "tests.support.null_generator:NullGenerator", task: generate}}
"""
PARTS = ["one ", "漢字 ", "", "🙂 ", "four"]
WHOLE = "".join(PARTS)


@pytest.fixture(scope="module")
def stack(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("streams")
    (folder / "models.yaml").write_text(CATALOG)
    environment = {
        "LANEFLEET_CATALOG": str(folder / "models.yaml"),
        "LANEFLEET_STREAM_READER_ENTRIES": "4",
        "LANEFLEET_MAX_WAIT_SECONDS": "20",
    }
    made = Stack(embedded_redis.url, folder, environment)
    made.redis.flushall()
    made.redis.hset(WEIGHTS_DIGESTS, LANE, f"{LANE} w1")
    yield made
    made.close()
    made.redis.flushall()


@pytest.fixture(scope="module")
def apis(stack: Stack) -> list[ApiProcess]:
    return [stack.api(f"echo,{LANE}"), stack.api(f"echo,{LANE}")]


@pytest.fixture(scope="module")
def api(apis: list[ApiProcess]) -> ApiProcess:
    return apis[0]


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


@pytest.fixture
def redis(stack: Stack) -> Any:
    return stack.redis


def submit(api: ApiProcess, text: str = "a prompt", **params: Any) -> str:
    return api.client.submit(LANE, text, params={"stream": True, **params})["id"]


def tell(redis: Any, parts: list[str] = PARTS) -> Teller:
    """Say these in an entry each, and end."""
    teller = Teller(redis, LANE)
    for part in parts:
        teller.say(part, finish="length" if part is parts[-1] else None)
    teller.finish()
    return teller


def events(api: ApiProcess, job_id: str, last_id: str | None = None) -> list[Any]:
    """All that a reader gets from here on."""
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    reader, found = EventReader(), []
    url = f"{api.url}/v1/jobs/{job_id}/events"
    with httpx.stream("GET", url, headers=headers, timeout=30) as response:
        for part in response.iter_bytes():
            found += reader.feed(part)
    return found


def text_of(found: list[Any], choice: int = 0) -> str:
    return "".join(one.text for one in found if isinstance(one, Token) and one.choice == choice)


def test_a_reader_gets_tokens_as_they_are_said_between_the_states(
    api: ApiProcess, redis: Any, pool: ThreadPoolExecutor
) -> None:
    job_id = submit(api)
    heard = api.client.tokens(job_id)
    first: Future[Token] = pool.submit(next, heard)
    teller = Teller(redis, LANE)
    teller.say("one ")
    assert first.result(20) == Token(first.result().id, "one ", 0, [4])
    teller.say("two", finish="length")
    assert (last := next(heard)).finish_reason == "length"
    teller.finish()
    assert list(heard) == []
    kinds = [getattr(one, "state", "token") for one in events(api, job_id)]
    assert kinds == ["queued", "running", "token", "token", "succeeded"]
    assert last.text == "two"


def test_a_reader_goes_on_at_any_event_on_any_replica(apis: list[ApiProcess], redis: Any) -> None:
    job_id = submit(apis[0], n=2)
    teller = Teller(redis, LANE)
    for part in PARTS:
        teller.say_all([{"i": choice, "t": [1], "x": f"{part}{choice}"} for choice in (0, 1)])
    teller.finish()
    whole = events(apis[0], job_id)
    assert text_of(whole, 1) == "".join(f"{part}1" for part in PARTS)
    for at, event in enumerate(whole[:-1]):
        rest = events(apis[at % 2], job_id, event.id)
        for choice in (0, 1):
            assert text_of(whole[: at + 1] + rest, choice) == text_of(whole, choice), event.id
        assert [one.id for one in rest] == [one.id for one in whole[at + 1 :]]
    url = f"{apis[1].url}/v1/jobs/{job_id}/events"
    assert httpx.get(url, headers={"Last-Event-ID": whole[-1].id}).status_code == 204


def test_a_slow_reader_is_read_to_again_from_the_stream(api: ApiProcess, redis: Any) -> None:
    job_id = submit(api)
    teller = Teller(redis, LANE)
    parts = [f"{n} " for n in range(700)]
    url = f"{api.url}/v1/jobs/{job_id}/events"
    reader, found = EventReader(), []
    with httpx.stream("GET", url, timeout=30) as response:
        chunks = response.iter_bytes()
        found += reader.feed(next(chunks))
        for part in parts:
            teller.say(part)
        teller.finish()
        for chunk in chunks:
            found += reader.feed(chunk)
    assert text_of(found) == "".join(parts)


def test_what_was_published_and_not_heard_is_read(api: ApiProcess, redis: Any) -> None:
    """An entry that is only in the stream, and garbage on its channel."""
    job_id = submit(api)
    heard = api.client.tokens(job_id)
    teller = Teller(redis, LANE)
    teller.say("a")
    assert next(heard).text == "a"
    for garbage in (b"nonsense", b"2 [", b"", b'x {"c": []}', b"\xff 9"):
        redis.publish(said_key(job_id), garbage)
    redis.xadd(said_key(job_id), {"d": b'{"c":[{"i":0,"t":[1],"x":"b"}]}'}, id="2-0")
    teller.number += 1
    teller.text[0] += "b"
    teller.say("c", finish="stop")
    assert [next(heard).text, next(heard).text] == ["b", "c"]
    teller.finish("stop")
    assert list(heard) == []


def test_without_a_stream_the_text_comes_with_the_end(api: ApiProcess, redis: Any) -> None:
    job_id = api.client.submit(LANE, "a prompt")["id"]
    teller = Teller(redis, LANE)
    teller.text[0] = WHOLE
    teller.finish()
    assert [one.text for one in api.client.tokens(job_id)] == [WHOLE]


def test_text_that_is_gone_from_the_stream_is_taken_from_the_result(
    api: ApiProcess, redis: Any
) -> None:
    job_id = submit(api)
    tell(redis)
    whole = events(api, job_id)
    redis.delete(said_key(job_id))
    assert text_of(events(api, job_id)) == WHOLE
    for at, event in enumerate(whole[:-1]):
        assert text_of(whole[: at + 1]) + text_of(events(api, job_id, event.id)) == WHOLE


def test_a_follower_reads_its_leaders_stream_and_then_its_own(api: ApiProcess, redis: Any) -> None:
    leader = submit(api, "the same", temperature=0)
    follower = submit(api, "the same", temperature=0.0, on_deadline="fail")
    words = redis.get(f"lf:job:{follower}").decode().split(" ")
    assert (words[0], words[6]) == ("w", leader)
    heard = api.client.tokens(follower)
    teller = Teller(redis, LANE)
    assert teller.job_id == leader
    teller.say("one ")
    assert next(heard).text == "one "
    assert api.client.get(follower)["state"] == "queued"
    teller.say("two", finish="length")
    assert next(heard).text == "two"
    api.client.cancel(leader)
    again = Teller(redis, LANE)  # the follower runs itself
    assert again.job_id == follower
    for part in ("on", "e two thr", "ee"):
        again.say(part)
    assert [next(heard).text, next(heard).text] == [" thr", "ee"]
    again.finish()
    assert list(heard) == []


def test_generation_without_a_seed_is_neither_joined_nor_kept(api: ApiProcess, redis: Any) -> None:
    ids = [submit(api, "another") for _ in range(2)]
    ids.append(submit(api, "another", temperature=0, on_deadline="partial"))
    assert all(redis.get(f"lf:job:{one}").startswith(b"q ") for one in ids)
    for one in ids:
        api.client.cancel(one)


def test_a_generation_is_answered_as_a_whole(
    api: ApiProcess, redis: Any, pool: ThreadPoolExecutor
) -> None:
    options = {"max_length": 3, "temperature": 0.5, "stop": "x", "priority": 3}
    asked = pool.submit(api.client.generate, "a prompt", LANE, timeout=20, **options)
    teller = tell(redis)
    answer = asked.result(20)
    assert answer["generated_text"] == WHOLE
    assert answer["request_id"] == teller.job_id
    assert (answer["inference_time"], answer["model_version"]) == (0.005, "1")
    assert answer["finish_reason"] == "length"


def test_a_generation_that_takes_longer_is_a_job(api: ApiProcess, redis: Any) -> None:
    response = httpx.post(
        f"{api.url}/v1/generate", json={"text": "a"}, headers={"Prefer": "wait=0.1"}
    )
    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    tell(redis)
    assert api.client.result(job["id"], wait=20)["text"] == WHOLE


def test_a_stream_is_what_the_client_reads(
    api: ApiProcess, redis: Any, pool: ThreadPoolExecutor
) -> None:
    asked = pool.submit(lambda: list(api.client.generate_stream("a", LANE, seed=3)))
    tell(redis)
    assert "".join(one.text for one in asked.result(20)) == WHOLE

    async def read() -> list[Token]:
        async with AsyncClient(api.url) as client:
            return [one async for one in client.generate_stream("b", LANE)]

    other = pool.submit(asyncio.run, read())
    tell(redis)
    assert "".join(one.text for one in other.result(20)) == WHOLE


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_over_the_context_is_refused_by_how_much(
    api: ApiProcess, redis: Any, pool: ThreadPoolExecutor, stream: bool
) -> None:
    def ask() -> Any:
        if stream:
            return list(api.client.generate_stream("long", LANE))
        return api.client.generate("long", LANE)

    asked = pool.submit(ask)
    Teller(redis, LANE).fail("prompt_too_long", "the prompt has 9 tokens, 4 more than 5")
    with pytest.raises(ApiError) as caught:
        asked.result(20)
    assert (caught.value.status, caught.value.problem["title"]) == (422, "Prompt too long")
    assert "4 more than 5" in str(caught.value)


@pytest.mark.parametrize("policy", ["cancel", "continue"])
@pytest.mark.parametrize("way", ["generate", "chat", "events"])
def test_what_a_reader_that_leaves_ends(api: ApiProcess, redis: Any, policy: str, way: str) -> None:
    if way == "events":
        job_id = submit(api)
        url = f"{api.url}/v1/jobs/{job_id}/events?on_disconnect={policy}"
        request = httpx.Request("GET", url)
    else:
        said = {} if policy == "cancel" else {"on_disconnect": "continue"}
        body = {"text": "a"} if way == "generate" else {"messages": [{"role": "user"}]}
        path = "generate" if way == "generate" else "chat/completions"
        document = {"model": LANE, "stream": True, **body, **said}
        request = httpx.Request("POST", f"{api.url}/v1/{path}", json=document)
    with httpx.Client(timeout=20) as client, ThreadPoolExecutor(1) as pool:
        asking = pool.submit(client.send, request, stream=True)
        teller = Teller(redis, LANE)
        teller.say("one ")
        response = asking.result(20)
        assert response.status_code == 200
        for part in response.iter_bytes():
            if b"one " in part:
                break
        response.close()
    if policy == "cancel":
        canceled = wait_until(lambda: api.client.get(teller.job_id)["state"] == "canceled")
        assert canceled
        return
    teller.say("two")
    teller.finish()
    assert api.client.result(teller.job_id, wait=10)["text"] == "one two"


def test_who_asks_for_the_head_alone_ends_nothing(api: ApiProcess, redis: Any) -> None:
    job_id = submit(api)
    url = f"{api.url}/v1/jobs/{job_id}/events?on_disconnect=cancel"
    assert httpx.head(url).status_code == 200
    tell(redis)
    assert api.client.get(job_id)["state"] == "succeeded"


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_before_anything_is_said_ends_the_job(api: ApiProcess, stream: bool) -> None:
    address = urlsplit(api.url)
    body = json.dumps({"text": "a", "stream": stream})
    head = f"POST /v1/generate HTTP/1.1\r\nHost: {address.netloc}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall((head + body).encode())
        (job,) = wait_until(lambda: api.client.list_jobs(state="queued")["jobs"], 20, "the job")
    assert wait_until(lambda: api.client.get(job["id"])["state"] == "canceled")


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        ({"top_q": 1}, "`top_q`"),
        ({"max_length": 0}, "`max_length`"),
        ({"max_tokens": 0}, "`max_tokens`"),
        ({"max_length": 1, "max_tokens": 1}, "`max_length`"),
        ({"temperature": "1"}, "`temperature`"),
        ({"top_p": 0}, "`top_p`"),
        ({"n": 99}, "`n`"),
        ({"logit_bias": {"1": 999}}, "`logit_bias.1`"),
        ({"logit_bias": {"0" * 5000: 1}}, "`logit_bias`: '000"),
        ({"logit_bias": {" 1": 1}}, "`logit_bias`: ' 1' is no token id"),
        ({"logit_bias": {"0" * 5000: 999}}, "`logit_bias.000"),
        ({"repetition_penalty": 1e-300}, "`repetition_penalty`"),
        ({"stop": 7}, "`stop`"),
        ({"text": 7}, "text"),
        ({"model": "echo"}, "generate"),
        ({"priority": 11}, "`priority`"),
    ],
)
def test_an_option_that_is_wrong_is_named(api: ApiProcess, sent: Any, named: str) -> None:
    response = httpx.post(f"{api.url}/v1/generate", json={"text": "a", **sent})
    assert response.status_code == 422
    assert named in response.json()["detail"]


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"top_q": 1}, "params.top_q"),
        ({"seed": -1}, "params.seed"),
        ({"stream": "yes"}, "params.stream"),
        ({"on_disconnect": "cancel"}, "params.on_disconnect"),
    ],
)
def test_params_of_a_job_are_checked_before_it_is_queued(
    api: ApiProcess, params: Any, named: str
) -> None:
    with pytest.raises(ApiError) as caught:
        api.client.submit(LANE, "a", params=params)
    assert caught.value.status == 422
    assert named in str(caught.value)
    with pytest.raises(ApiError, match="input"):
        api.client.submit(LANE, {"messages": "hello"})


def test_several_generations_keep_their_places(
    api: ApiProcess, redis: Any, pool: ThreadPoolExecutor
) -> None:
    requests = [{"text": "a", "temperature": 0.1}, {"text": "b", "top_q": 1}, {"text": "c"}]
    asked = pool.submit(api.client.batch_generate, requests, batch_id="mine")
    tell(redis)
    Teller(redis, LANE).fail("inference_failed", "it broke")
    answer = asked.result(20)
    assert (answer["batch_id"], answer["processed_count"]) == ("mine", 1)
    one, two, three = answer["results"]
    assert one["generated_text"] == WHOLE
    assert "top_q" in two["error"]["message"]
    assert three["error"]["reason"] == "inference_failed"
    alone = api.client.batch_generate([{"text": 7}])
    assert alone["processed_count"] == 0
    assert alone["results"][0]["error"]["message"] == "`text`: send a text"


def test_a_job_that_is_canceled_ends_its_readers(
    api: ApiProcess, redis: Any, pool: ThreadPoolExecutor
) -> None:
    job_id = submit(api)
    heard = api.client.tokens(job_id)
    Teller(redis, LANE).say("one")
    assert next(heard).text == "one"
    api.client.cancel(job_id)
    with pytest.raises(JobFailed, match="canceled"):
        next(heard)


def test_a_lost_subscription_loses_no_text(stack: Stack, api: ApiProcess, redis: Any) -> None:
    job_id = submit(api)
    heard = api.client.tokens(job_id)
    teller = Teller(redis, LANE)
    teller.say("one ")
    assert next(heard).text == "one "
    for part in ("two ", "three ", "four "):
        redis.client_kill_filter(_type="pubsub")
        teller.say(part)
        assert next(heard).text == part
    teller.finish()
    assert list(heard) == []


@pytest.mark.parametrize("stream", [False, True])
def test_an_option_that_the_engine_lacks_is_named(
    api: ApiProcess, redis: Any, pool: ThreadPoolExecutor, stream: bool
) -> None:
    schema = {"type": "json_schema", "json_schema": {"schema": {}}}
    messages = [{"role": "user", "content": "hi"}]
    body = {"model": LANE, "messages": messages, "response_format": schema, "stream": stream}
    url = f"{api.url}/v1/chat/completions"
    asked = pool.submit(httpx.post, url, json=body, timeout=30)
    Teller(redis, LANE).fail("invalid_input", "params.json_schema: there is no grammar here")
    answer = asked.result(20)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "json_schema")
    assert error["message"] == "`json_schema`: there is no grammar here"


def test_the_openai_client_reads_a_stream_as_it_is_said(api: ApiProcess, redis: Any) -> None:
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as client:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(
                lambda: client.chat.completions.create(
                    model=LANE,
                    messages=[{"role": "user", "content": "hi"}],
                    stream=True,
                    stream_options={"include_usage": True},
                )
            )
            teller = Teller(redis, LANE)
            teller.say("one ")
            chunks = asked.result(20)
            first = [next(chunks), next(chunks)]
            assert first[0].choices[0].delta.role == "assistant"
            assert first[1].choices[0].delta.content == "one "
            teller.say("two", finish="stop")
            teller.finish("stop")
            rest = list(chunks)
        assert [one.choices[0].delta.content for one in rest[:-1]] == ["two"]
        assert rest[-2].choices[0].finish_reason == "stop"
        assert rest[-1].usage is not None
        assert rest[-1].usage.total_tokens == 2


def test_an_api_that_is_killed_is_resumed_at_another(apis: list[ApiProcess], redis: Any) -> None:
    """The last test here, as the process stays away."""
    other, doomed = apis
    reader, found = EventReader(), []
    body = {"text": "a", "model": LANE, "stream": True}
    with ThreadPoolExecutor(1) as pool, httpx.Client(timeout=20) as client:
        request = client.build_request("POST", f"{doomed.url}/v1/generate", json=body)
        asking = pool.submit(client.send, request, stream=True)
        teller = Teller(redis, LANE)
        teller.say(PARTS[0])
        response = asking.result(20)
        parts = response.iter_bytes()
        while not text_of(found):
            found += reader.feed(next(parts))
        doomed.process.kill()
        with pytest.raises(httpx.TransportError):
            next(parts)
    for part in PARTS[1:]:
        teller.say(part)
    teller.finish()
    rest = events(other, teller.job_id, found[-1].id)
    assert text_of(found + rest) == WHOLE
