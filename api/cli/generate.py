"""`lanefleet generate`: text that goes on from a prompt, as it is made."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated, Any

import orjson
import typer

from api.cli.options import JsonFlag, UrlOption, named
from api.client import Client

_INTERRUPTED = 130


def generate(
    text: Annotated[str, typer.Argument(help="The prompt, or - for stdin.")],
    model: Annotated[
        str | None,
        typer.Option(help="A model's name, where the catalog has several.", callback=named),
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream/--no-stream", help="Print the text as it is made.")
    ] = True,
    max_length: Annotated[int | None, typer.Option(min=1, help="Most new tokens.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 takes the likeliest token.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Only tokens of this probability together.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="Only so many tokens.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed, the same text.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="What ends the text; repeatable.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Any other option as NAME=JSON, such as min_p=0.1; repeatable."),
    ] = None,
    url: UrlOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Generate text from a prompt; Ctrl-C ends it."""
    known: dict[str, Any] = {
        **{"max_length": max_length, "temperature": temperature, "top_p": top_p, "top_k": top_k},
        **{"seed": seed, "stop": stop or None},
    }
    options = {name: value for name, value in known.items() if value is not None}
    options |= dict(map(_option, option or ()))
    prompt = sys.stdin.read() if text == "-" else text
    with Client(url) as client:
        try:
            if stream:
                _print_stream(client, prompt, model, options, as_json)
            else:
                answer = client.generate(prompt, model, **options)
                _print(json.dumps(answer) if as_json else answer["generated_text"], "\n")
        except KeyboardInterrupt:
            raise typer.Exit(_INTERRUPTED) from None


def _print_stream(
    client: Client, prompt: str, model: str | None, options: dict[str, Any], as_json: bool
) -> None:
    for token in client.generate_stream(prompt, model, **options):
        if as_json:
            _print(json.dumps(asdict(token)), "\n")
        elif token.choice == 0:
            _print(token.text)
    if not as_json:
        _print("\n")


def _print(text: str, end: str = "") -> None:
    sys.stdout.write(text + end)
    sys.stdout.flush()


def _option(given: str) -> tuple[str, Any]:
    name, equals, value = given.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"--option {given!r}: write NAME=JSON, such as min_p=0.1")
    try:
        return name, orjson.loads(value)
    except orjson.JSONDecodeError:
        return name, value
