"""No two inputs are alike, and what the model does with them is the same."""

from __future__ import annotations

import io
from itertools import islice
from pathlib import Path

import orjson
import pytest

from api.cli.bench.inputs import Given, Target, requests, with_comment
from common.errors import ConfigurationError
from tests.support.stack import DATA


def target(kind: str, **more: object) -> Target:
    return Target("h:1", "", "m", kind, {"Authorization": "Bearer k"}, 30, **more)  # type: ignore[arg-type]


def bodies(kind: str, given: Given, number: int = 300, **how: object) -> list[bytes]:
    made = requests(
        target(kind), given, repeat=bool(how.get("repeat")), nonce=str(how.get("nonce"))
    )
    return [one.partition(b"\r\n\r\n")[2] for one in islice(made, number)]


@pytest.mark.parametrize("given", [Given(), Given(texts=["a cat", "a dog"])])
@pytest.mark.parametrize("kind", ["text", "json"])
def test_every_input_is_another_in_a_run_and_in_the_next(kind: str, given: Given) -> None:
    first, second = bodies(kind, given, nonce="a"), bodies(kind, given, nonce="b")
    assert len({*first, *second}) == 600


def test_texts_of_our_own_have_the_same_lengths_in_every_run() -> None:
    def lengths(nonce: str) -> list[int]:
        made = bodies("text", Given(), nonce=nonce)
        return [len(orjson.loads(one)["input"].split()) for one in made]

    assert lengths("a") == lengths("b")
    assert min(lengths("a")) >= 3
    assert max(lengths("a")) <= 60


def test_repeated_inputs_are_as_they_were_given() -> None:
    given = Given(texts=["a cat", "a dog"])
    found = [orjson.loads(one)["input"] for one in bodies("text", given, 4, repeat=True)]
    assert found == ["a cat", "a dog", "a cat", "a dog"]


def test_json_that_cannot_be_made_distinct_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match="--repeat-inputs"):
        bodies("json", Given(texts=["[1, 2]"]))
    assert bodies("json", Given(texts=["[1, 2]"]), 2, repeat=True)
    (one,) = bodies("json", Given(texts=['{"a": 1}']), 1, nonce="n")
    assert orjson.loads(one)["input"] == {"a": 1, "bench": "n 0"}


@pytest.mark.parametrize("name", ["rocket.jpg", "text.png", "tiff", "gif", "webp", "bmp"])
def test_a_comment_changes_the_bytes_and_no_pixel(name: str) -> None:
    from PIL import Image

    if "." in name:
        content = (DATA / name).read_bytes()
    else:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (9, 99, 199)).save(buffer, name)
        content = buffer.getvalue()
    marked = with_comment(content, b"run 17")
    assert marked != content
    before, after = Image.open(io.BytesIO(content)), Image.open(io.BytesIO(marked))
    assert after.format == before.format
    assert after.convert("RGB").tobytes() == before.convert("RGB").tobytes()


def test_images_are_sent_as_they_are_with_their_model_in_the_query() -> None:
    picture = DATA / "rocket.jpg"
    made = requests(target("image", params={"a": 1}), Given(images=[picture]), repeat=True)
    head, _, body = next(made).partition(b"\r\n\r\n")
    assert body == picture.read_bytes()
    assert head.startswith(b"POST /v1/jobs?model=m&params=%7B%22a%22%3A1%7D HTTP/1.1\r\n")
    assert b"Content-Type: image/jpeg" in head
    assert b"Authorization: Bearer k" in head


def test_a_folder_gives_its_images_and_the_lines_of_its_texts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.JPG").write_bytes(b"x")
    (tmp_path / "c.md").write_text("no")
    assert Given.read([], [], tmp_path, "text").texts == ["one", "two"]
    assert Given.read([], [], tmp_path, "image").images == [tmp_path / "b.JPG"]


def test_inputs_of_the_wrong_kind_say_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--image"):
        Given.read(["a"], [], None, "image")
    with pytest.raises(ConfigurationError, match="--text"):
        Given.read([], [], tmp_path, "text")
    with pytest.raises(ConfigurationError, match="--folder"):
        Given.read([], [], tmp_path / "gone", "text")
    with pytest.raises(ConfigurationError, match="--image"):
        bodies("image", Given(images=[tmp_path / "gone.jpg"]))
