"""A catalog is read as it was meant, or refused with a sentence that names the line or the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.catalog import Target, load_catalog, mirrored
from common.errors import ConfigurationError

ECHO = "models:\n  m: {handler: echo}\n"
TWO = (
    "models:\n  a@1: {handler: echo}\n  a@2: {handler: echo}\n  b: {handler: echo}\n"
    "  t: {handler: echo, input: text}\n  g: {handler: decoder}\n"
)

ECHO_WITH = "models:\n  m: {handler: echo, weights: "


def read(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "models.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models:\n  m: {handler: echo}\n  m: {handler: minilm}\n", "line 3: the key 'm' is given"),
        ("models:\n  m:\n    handler: echo\n    handler: minilm\n", "line 4: the key 'handler'"),
        (
            "models: {m: {handler: echo, options: {a: 1, a: 2}}}",
            "line 1: the key 'a' is given",
        ),
        (ECHO + ECHO, "line 3: the key 'models' is given twice"),
        (ECHO + "version: 2\n", "no key 'version' at the top; a catalog has `models:`"),
        (ECHO + "alias: {x: m}\n", "no key 'alias' at the top (did you mean 'aliases'?)"),
        ("model:\n  m: {handler: echo}\n", "no key 'model' at the top (did you mean 'models'?)"),
        ("models:\n  m: {handler: echo, versoin: 2}\n", "(did you mean 'version'?)"),
        ("models:\n  m: {handler: echo, name: n}\n", "models.m.name: the key is its name"),
        ("models:\n  m: {handler: echo, version: 1.10}\n", "in quotes: YAML reads 1.1"),
        ("models:\n  m: {handler: echo, version: yes}\n", "in quotes: YAML reads True"),
        (
            "models:\n  org/Big-Model: {handler: echo}\n",
            "such as 'big-model'; `@version`",
        ),
        (ECHO + "aliases: {BERT: m}\n", "aliases.BERT: a name is 1-64 of a-z 0-9"),
        (ECHO + "aliases: {BERT: m}\n", "such as 'bert'"),
        (ECHO + "aliases: {org/x: m}\n", "such as 'x'"),
        (ECHO + "aliases: {m: m}\n", "choose a name that no model has"),
        (
            ECHO + "aliases: {x: [m]}\n",
            "aliases.x: write a model's name, or models with their shares",
        ),
        (ECHO + "aliases: [x]\n", "`aliases:` must map a name"),
        (TWO + "aliases: {x: {a@1: 0.9}}\n", "aliases.x: the shares are 0.9 in all; make them 1"),
        (TWO + "aliases: {x: {a@1: 1.2, a@2: -0.2}}\n", "the share of a@1 is 1.2; give a number"),
        (TWO + "aliases: {x: {a@1: 1, a@2: 0}}\n", "the share of a@2 is 0; give a number above 0"),
        (TWO + "aliases: {x: {a@1: half, a@2: 0.5}}\n", "the share of a@1 is 'half'; give a"),
        (TWO + "aliases: {x: {a@1: 0.5, a@3: 0.5}}\n", "there is no model 'a@3'; choose from"),
        (ECHO + "aliases: {x: y, y: x}\n", "aliases.x: 'y' is an alias itself; name models"),
        (TWO + "aliases: {x: {a@1: 0.5, x: 0.5}}\n", "aliases.x: 'x' is an alias itself"),
        (TWO + "aliases: {x: {a@1: 0.5, t: 0.5}}\n", "t takes text, a@1 takes json"),
        (TWO + "aliases: {x: {a@1: 0.5, b: 0.5}}\n", "a@1 and b both say version '1'; give each"),
        (TWO + "aliases: {x: {a@1: 0.5, g: 0.5}}\n", "generation cannot be shared out"),
        (TWO + "aliases: {x: {}}\n", "name at least one model with its share"),
        (
            TWO + "aliases: {x: {shares: {a@1: 1}, stiky: true}}\n",
            "there is no key 'stiky' (did you mean 'sticky'?)",
        ),
        (
            TWO + "aliases: {x: {shares: {a@1: 1}, sticky: tenant}}\n",
            "aliases.x.sticky: write true",
        ),
        ("models:\n  m: {handler: echo, shadow: m}\n", "models.m.shadow: there is no other model"),
        (TWO + "  s: {handler: echo, shadow: t}\n", "models.s.shadow: t takes text, s takes json"),
        (TWO + "  s: {handler: echo, shadow: g}\n", "models.s.shadow: generation cannot be"),
        (ECHO.encode() + b"# caf\xe9\n", "line 3: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        (ECHO_WITH + "http://m.test/a.onnx}\n", "weights are not fetched over http; name an https"),
        (ECHO_WITH + "https://m.test/a.onnx}\n", "ends with #sha256= and the file's 64"),
        (ECHO_WITH + "'https://m.test/a.onnx#sha256=12ab'}\n", "ends with #sha256= and the"),
        (ECHO_WITH + f"'https://m.test/a?key=s#sha256={64 * '0'}'}}\n", "has a query or a login"),
        ("models: [\n", "line 2: expected the node content"),
        ("models: {m: {handler: !!python/name:os.system }}", "could not determine a constructor"),
        ("models:\n  m: 7\n", "models.m must be a mapping"),
        ("- models\n", "expected a top-level `models:`"),
        ("", "expected a top-level `models:`"),
    ],
)
def test_a_slip_is_one_sentence(tmp_path: Path, text: str | bytes, says: str) -> None:
    path = read(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        load_catalog(path)
    assert says in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert "Value error" not in str(caught.value)


def test_what_is_meant_is_read(tmp_path: Path) -> None:
    path = read(
        tmp_path,
        "\ufeffmodels:\n  a: &usual {handler: echo, max_batch: 4}\n"
        "  b: {<<: *usual, max_batch: 8}\n  c@2: {<<: *usual, version: 2}\naliases: {c: c@2}\n",
    )
    catalog = load_catalog(path)
    assert (catalog["a"].max_batch, catalog["b"].max_batch) == (4, 8)
    assert (catalog["c"].name, catalog["c"].version) == ("c@2", "2")


@pytest.mark.parametrize(
    ("name", "kept_as"),
    [
        ("m/model.safetensors", "{}.safetensors"),
        ("m.tar.gz", "{}"),
        ("M.ZIP", "{}"),
        ("blob", "{}"),
        ("a.b/blob", "{}"),
        ("a.%2e%2e%2f", "{}"),
        ("..", "{}"),
    ],
)
def test_weights_of_a_url_are_kept_by_their_digest(tmp_path: Path, name: str, kept_as: str) -> None:
    wanted = mirrored(f"https://mirror.test/{name}#sha256={64 * 'A'}")
    assert wanted is not None
    assert wanted.url == f"https://mirror.test/{name}"
    assert wanted.place(tmp_path) == tmp_path / kept_as.format(64 * "a")
    assert mirrored("package:a/b") is mirrored("org/model") is mirrored("random") is None


def test_shares_are_read_in_both_forms(tmp_path: Path) -> None:
    text = TWO + "aliases: {x: {a@1: 0.95, a@2: 0.05}, y: {shares: {a@1: 0.333333, a@2: 0.666667}, "
    catalog = load_catalog(read(tmp_path, text + "sticky: true}}\n"))
    assert catalog.aliases["x"] == Target({"a@1": 0.95, "a@2": 0.05})
    assert catalog.aliases["y"] == Target({"a@1": 0.333333, "a@2": 0.666667}, sticky=True)
    assert (catalog["x"].name, catalog["y"].name) == ("a@1", "a@2"), "the larger share leads"
