"""The base of every section: the source of values, and types that several sections use.

A section is a class of its own, so that a component declares the one it needs and a test
creates no more than that; the process reads them all at once, as `Settings`.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, SecretStr
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from common.net.addresses import Network, parse_networks
from common.net.redis_address import RedisAddress
from common.settings.secret_files import SecretFiles

ENV_PREFIX = "LANEFLEET_"
_ROOT_PATH = re.compile(r"(/(?!\.\.?(/|$))[A-Za-z0-9._~-]+)*")


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(part for part in map(str.strip, value.split(",")) if part)


def _redis_url(value: object) -> object:
    """In the one form that is kept, so that everybody who connects reads it alike."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    return RedisAddress.parse(text).url if isinstance(text, str) else text


def _root_path(value: object) -> object:
    """Without a slash at its end; it is put in front of paths as it is."""
    text = value.rstrip("/") if isinstance(value, str) else value
    if isinstance(text, str) and not _ROOT_PATH.fullmatch(text):
        raise ValueError("a path such as /lanefleet: a slash, then letters, digits and -._~")
    if isinstance(text, str) and text.split("/")[1:2] == ["v1"]:
        raise ValueError("not /v1, with which the API's own paths begin; such as /lanefleet")
    return text


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Ports = Annotated[tuple[int, ...], NoDecode, BeforeValidator(_split)]
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(parse_networks)]
RootPath = Annotated[str, BeforeValidator(_root_path)]
RedisUrl = Annotated[SecretStr, BeforeValidator(_redis_url)]


class Section(BaseSettings):
    """Some of what an operator may set; the environment name is LANEFLEET_ + the field's."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        populate_by_name=True,
        allow_inf_nan=False,  # 0 is no limit where there may be none; clocks and JSON take no inf
        hide_input_in_errors=True,  # it may be a URL with its password
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # none is read
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the files that it names for secrets."""
        return init_settings, env_settings, SecretFiles(settings_cls)
