"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="LANEFLEET_URL",
        help="Where the API is; else where LANEFLEET_HOST and LANEFLEET_PORT say.",
    ),
]
