"""`lanefleet models`: what is loaded where; load, unload, warm up, move an alias."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from api.cli.lanes import reset
from api.cli.options import JsonFlag, UrlOption, named
from api.client import Client

models = typer.Typer(help="See what is loaded where, and change it.", no_args_is_help=True)
out = Console()

Name = Annotated[str, typer.Argument(help="A model's name, or an alias.", callback=named)]


@models.command("list")
def list_models(url: UrlOption = None, as_json: JsonFlag = False) -> None:
    """List the models and aliases, and the workers that have them in memory."""
    with Client(url, retries=0) as client:
        found = client.list_models()
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    table = Table("name", "model", "version", "input", "loaded by", "errors")
    for one in found:
        errors = "; ".join(f"{worker}: {why}" for worker, why in one["errors"].items())
        model = _target(one)
        loaded = ", ".join(one["loaded_by"])
        table.add_row(one["name"], model, one["version"], one["input"], loaded, errors)
    out.print(table)


@models.command("get")
def get_model(name: Name, url: UrlOption = None) -> None:
    """Show one model, or what an alias points at, as JSON."""
    with Client(url) as client:
        sys.stdout.write(json.dumps(client.get_model(name), indent=2) + "\n")


@models.command()
def load(name: Name, url: UrlOption = None) -> None:
    """Load a model in every worker now, instead of with its first job."""
    _ask(name, "load", url)


@models.command()
def unload(name: Name, url: UrlOption = None) -> None:
    """Free its memory in every worker, once what it holds is done."""
    _ask(name, "unload", url)


@models.command()
def warm(name: Name, url: UrlOption = None) -> None:
    """Run its warm-up in every worker; loads it first where it is not in memory."""
    _ask(name, "warm", url)


models.command(hidden=True)(reset)  # an older name of `lanes reset`


@models.command()
def move(
    alias: Annotated[str, typer.Argument(help="An alias of the catalog.", callback=named)],
    model: Annotated[str, typer.Argument(help="The model it should point at.", callback=named)],
    share: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Only this share of its jobs; 0 takes the model out."),
    ] = None,
    sticky: Annotated[
        bool | None,
        typer.Option(
            "--sticky/--not-sticky", help="Keep each tenant's jobs with one of the models."
        ),
    ] = None,
    url: UrlOption = None,
) -> None:
    """Point an alias at another model, or give that a share of its jobs, without a job failing."""
    with Client(url) as client:
        heard = client.move_alias(alias, model, share, sticky)
    what = f"{alias} moves to {model}" if share is None else f"{model} gets {share:.4g} of {alias}"
    out.print(f"{what}; workers that heard it: {heard}")


def _target(one: dict[str, Any]) -> str:
    """What a listed name stands for: a model, or several with their shares."""
    shares = one.get("shares") or {}
    if shares:
        said = ", ".join(f"{model} {100 * share:.4g} %" for model, share in shares.items())
        return f"{said}, by tenant" if one.get("sticky") else said
    shadow = one.get("shadow")
    model = str(one.get("alias_of") or one["name"])
    return f"{model} (shadow {shadow})" if shadow else model


def _ask(name: str, action: Literal["load", "unload", "warm"], url: str | None) -> None:
    with Client(url) as client:
        out.print(f"{action} {name}; workers that heard it: {client.ask_of_model(name, action)}")
