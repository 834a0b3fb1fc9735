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


def all_named(values: list[str] | None) -> list[str] | None:
    """As `named`, for an argument that is given any number of times."""
    for value in values or ():
        named(value)
    return values


def named(value: str | None) -> str | None:
    """A name or an id as typed, for a `callback`; a shell's unset variable leaves an empty one."""
    if value is None:
        return None
    if not value.strip():
        raise typer.BadParameter("it is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("it is not UTF-8") from None
    return value
