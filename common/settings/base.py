"""The base of every section: the source of values, and types that several sections use.

A section is a class of its own, so that a component declares the one it needs and a test
creates no more than that; the process reads them all at once, as `Settings`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from common.net.addresses import Network, parse_networks

ENV_PREFIX = "LANEFLEET_"


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(part for part in map(str.strip, value.split(",")) if part)


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Ports = Annotated[tuple[int, ...], NoDecode, BeforeValidator(_split)]
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(parse_networks)]


class Section(BaseSettings):
    """Some of what an operator may set; the environment name is LANEFLEET_ + the field's."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        populate_by_name=True,
    )
