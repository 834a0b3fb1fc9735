"""The end of the demo: a sentence that a model writes, token by token, where it can run here."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import httpx
from rich.console import Console

from api.client import Client, ClientError
from common.catalog import load_catalog

MODEL = "smollm2"
PROMPT = "The best thing about a long queue is"
_PACKAGE = "package:"


def can_write(catalog: Path) -> bool:
    """Whether the catalog has the model, and its weights are installed (extra `llm`)."""
    spec = load_catalog(catalog).models.get(MODEL)
    if spec is None or not spec.weights.startswith(_PACKAGE):
        return False
    package = spec.weights.removeprefix(_PACKAGE).partition("/")[0]
    return find_spec(package) is not None


def write_sentence(console: Console, client: Client) -> str:
    """Print a sentence as it is made; returns it. A model that cannot is told of, and no error."""
    console.print(f"\n[bold]{MODEL}[/] goes on, token by token (the first time it is converted):")
    console.print(PROMPT, style="dim", end="", markup=False, highlight=False)
    said = ""
    try:
        stream = client.generate_stream(
            PROMPT, MODEL, max_length=40, temperature=0, stop=["\n"], cache=False
        )
        for token in stream:
            said += token.text
            console.print(token.text, end="", markup=False, highlight=False, soft_wrap=True)
    except (ClientError, httpx.HTTPError) as exc:
        console.print(f"\nno text this time: {exc}", markup=False, highlight=False)
    console.print()
    return said
