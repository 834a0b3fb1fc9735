"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT_URL = "http://127.0.0.1:8000"

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
UrlOption = Annotated[
    str, typer.Option("--url", envvar="LANEFLEET_URL", help="Where the API listens.")
]
