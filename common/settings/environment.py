"""Refuses environment names that begin like a setting and are none: a slip would be ignored."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches

from common.errors import ConfigurationError
from common.settings.base import ENV_PREFIX

__all__ = ("OTHER_NAMES", "refuse_unknown_names")

OTHER_NAMES = frozenset(f"{ENV_PREFIX}{name}" for name in ("URL", "API_KEY", "TORCH_INDEX"))
"""Read by the clients and by deploy/bootstrap.py."""

_SERVICE = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?$")
_SERVICE_VALUE = re.compile(r"(tcp|udp|sctp)://")
"""Kubernetes sets such names in every pod for each service, one called lanefleet-api included."""


def refuse_unknown_names(environment: Mapping[str, str], known: Collection[str]) -> None:
    """Raise ConfigurationError for the first LANEFLEET_ name that is not known."""
    for name in sorted(environment):
        if not name.startswith(ENV_PREFIX) or name in known or name in OTHER_NAMES:
            continue
        if _is_of_kubernetes(name, environment[name]):
            continue
        close = get_close_matches(name[len(ENV_PREFIX) :], _own(known), 1)
        meant = f"did you mean {ENV_PREFIX}{close[0]}?" if close else "correct or unset it"
        raise ConfigurationError(f"{name} is not a setting of this version; {meant}")


def _own(known: Collection[str]) -> list[str]:
    return [name[len(ENV_PREFIX) :] for name in known if name.startswith(ENV_PREFIX)]


def _is_of_kubernetes(name: str, value: str) -> bool:
    found = _SERVICE.search(name)
    if found is None:
        return False
    return (
        not found[0].endswith("_PORT")
        or "_SERVICE_" in found[0]
        or bool(_SERVICE_VALUE.match(value))
    )
