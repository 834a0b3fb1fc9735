"""Models in Triton: batches, servers that fail, and what is refused at load."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from common.catalog import ModelSpec
from common.errors import ConfigurationError, InvalidInput, ServerFailed
from tests.models.test_models import need

need("tritonclient", "grpc", "numpy")

import grpc  # noqa: E402

from tests.support.kserve import KServe  # noqa: E402
from worker.models.triton.handler import Triton  # noqa: E402
from worker.models.triton.ports import Port, as_array  # noqa: E402


@pytest.fixture
def servers() -> Iterator[list[KServe]]:
    made = [KServe(), KServe()]
    yield made
    for server in made:
        server.stop()


def handler(*urls: str, input: Any = "json", **options: Any) -> Triton:
    made = Triton()
    options = {"url": [*urls], "model": "double", **options}
    made.load(ModelSpec(name="t", handler="triton", input=input, options=options), "cpu")
    return made


def run(model: Triton, *values: Any) -> list[Any]:
    items = [model.decode(value, {}) for value in values]
    return [model.encode(output) for output in model.infer(items).wait()]


def test_items_of_one_shape_share_a_request(servers: list[KServe]) -> None:
    model = handler(servers[0].url)
    values = [[1.0], [1.0, 2.0], [3.0], [4.0, 5.0], [6.0]]
    assert run(model, *values) == [{"Y": [2 * one for one in value]} for value in values]
    assert sorted(servers[0].batches) == [2, 3]
    assert run(model, {"X": [7.0]}) == [{"Y": [14.0]}]
    assert run(model, *[[1.0]] * 20) == [{"Y": [2.0]}] * 20
    assert max(servers[0].batches) == 8


def test_a_model_without_batches_gets_a_request_an_item() -> None:
    server = KServe(max_batch=0)
    assert run(handler(server.url), [1.0], [2.0, 3.0]) == [{"Y": [2.0]}, {"Y": [4.0, 6.0]}]
    assert sorted(server.batches) == [1, 2]
    server.stop()


def test_the_least_loaded_server_is_asked(servers: list[KServe]) -> None:
    model = handler(*(one.url for one in servers), channels=2)
    for server in servers:
        server.delay = 0.05
    run(model, *[[float(n)] * (n + 1) for n in range(10)])
    assert [len(server.batches) for server in servers] == [5, 5]


def test_a_failing_servers_batches_go_to_the_other_and_it_comes_back(
    servers: list[KServe], monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.models.triton import servers as module

    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    model = handler(*(one.url for one in servers))
    bad, good = servers
    bad.fails_with = grpc.StatusCode.UNAVAILABLE
    for number in range(12):
        now += 0.01
        assert run(model, [float(number)]) == [{"Y": [2.0 * number]}]
    assert not bad.batches
    assert len(good.batches) == 12
    circuit = model._servers.all[0].circuit  # type: ignore[union-attr]
    assert circuit.room(now) == 0
    bad.fails_with = None
    now += 60
    for _ in range(6):
        now += 0.01
        run(model, [1.0])
    assert bad.batches
    assert circuit.room(now) > 1


def test_where_no_server_answers_the_job_is_tried_again(servers: list[KServe]) -> None:
    model = handler(*(one.url for one in servers))
    for server in servers:
        server.fails_with = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(ServerFailed, match="as asked"):
        run(model, [1.0])


def test_what_the_model_refuses_is_the_inputs_fault(servers: list[KServe]) -> None:
    model = handler(servers[0].url)
    with pytest.raises(InvalidInput, match="negative numbers are not taken"):
        run(model, [-1.0])
    assert run(model, [1.0]) == [{"Y": [2.0]}]


def test_rows_that_are_missing_are_noticed(servers: list[KServe]) -> None:
    model = handler(servers[0].url)
    servers[0].short = True
    with pytest.raises(ServerFailed, match="no row"):
        run(model, [1.0], [2.0])


def test_half_an_answer_goes_to_the_other_server(servers: list[KServe]) -> None:
    model = handler(*(one.url for one in servers))
    servers[0].broken = True
    for _ in range(4):
        assert run(model, [1.0], [2.0]) == [{"Y": [2.0]}, {"Y": [4.0]}]
    servers[1].broken = True
    with pytest.raises(ServerFailed, match=r"Triton failed|no Triton server answers"):
        run(model, [1.0])


def test_a_slow_server_is_given_up(servers: list[KServe]) -> None:
    model = handler(*(one.url for one in servers), timeout_seconds=0.3)
    servers[0].delay = servers[1].delay = 5
    with pytest.raises(ServerFailed, match=r"(?i)deadline"):
        run(model, [1.0])
    servers[0].delay = servers[1].delay = 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"url": "http://somewhere:8001"}, "without a scheme"),
        ({"url": []}, "must be host:port"),
        ({"channels": 0}, "channels must be 1 to"),
        ({"model": "triple"}, r"no Triton server serves 'triple' .*no model triple"),
        ({"inputs": {"Z": None}}, r"wants Z , and the server's model has X \(FP32 \[-1\]\)"),
        ({"inputs": {"X": {"datatype": "INT8"}}}, r"INT8.*has X \(FP32"),
        ({"outputs": ["Q"]}, "wants Q"),
    ],
)
def test_what_does_not_fit_is_refused_at_load(
    servers: list[KServe], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        handler(servers[0].url, **options)


def test_a_file_needs_one_input_of_bytes(servers: list[KServe]) -> None:
    with pytest.raises(ConfigurationError, match="set input: json"):
        handler(servers[0].url, input="image")


def test_a_server_that_is_away_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1:9: .*start it"):
        handler("127.0.0.1:9")


@pytest.mark.parametrize("value", [["a"], [[1.0]], {"X": 1, "Y": 2}, None, "text", [None]])
def test_inputs_of_another_shape_are_refused(servers: list[KServe], value: Any) -> None:
    with pytest.raises(InvalidInput):
        handler(servers[0].url).decode(value, {})


def test_texts_and_files_become_bytes() -> None:
    text = Port("T", "BYTES", (1,))
    assert as_array(text, "é").tolist() == ["é".encode()]
    assert as_array(text, b"\x00\xff").tolist() == [b"\x00\xff"]
    assert as_array(Port("F", "UINT8", (-1,)), b"\x01\x02").tolist() == [1, 2]
    with pytest.raises(InvalidInput, match="texts are wanted"):
        as_array(text, 7)
