"""`lanefleet export`: a model's network as an ONNX file, for other backends and programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from api.cli.options import JsonFlag
from api.cli.tools import run_tool
from common.catalog import ModelSpec
from common.errors import ConfigurationError

_NAME = "exported"


def export(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] TARGET",
            help="A model of the catalog, unless --handler names one; the folder to make.",
        ),
    ],
    handler: Annotated[
        str | None, typer.Option(help="A handler instead of a model: built in, or module:Class.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="With --handler: its weights, as in the catalog.")
    ] = "none",
    as_json: JsonFlag = False,
) -> None:
    """Write a model as ONNX, checked against torch, for `backend: onnx` and `openvino`."""
    if len(places) != (1 if handler else 2):
        raise ConfigurationError(
            "name a model and the folder to make: lanefleet export MODEL TARGET, or lanefleet "
            "export --handler HANDLER --weights WEIGHTS TARGET"
        )
    target = Path(places[-1]).absolute()
    what: dict[str, Any] = {"model": places[0]}
    if handler:
        what = {"spec": {"name": _NAME, "handler": handler, "weights": weights}}
        try:
            ModelSpec.model_validate(what["spec"])
        except ValidationError as exc:
            said = exc.errors()[0]["msg"].removeprefix("Value error, ")
            raise ConfigurationError(f"--handler: {said}") from exc
    run_tool("export", {**what, "target": str(target)}, as_json=as_json)
