"""What a job leads to in Celery's canvas: read from its message, kept until it is settled.

A message's `embed` holds callbacks, errbacks, the rest of a chain and a chord's body, as
signatures. Most messages hold none, and then a job carries nothing of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from common.jobs.enqueue import next_of

_LEADS = ("callbacks", "errbacks", "chain", "chord")
_ORIGIN = ("root_id", "parent_id", "group", "group_index")

NextSteps = dict[str, Any]
"""The fields of `embed` that are not empty, and the headers that successors inherit; who is told
of its end (`webhook`), where somebody is."""


def read_next_steps(embed: Any, headers: Mapping[str, Any]) -> NextSteps | None:
    """What the message leads to; None for nothing."""
    told = headers.get("webhook")
    # The first field, by which the scripts tell it from the others.
    steps: NextSteps = {"webhook": told} if isinstance(told, str) and told else {}
    if not isinstance(embed, dict) or not any(map(embed.get, _LEADS)):
        return steps or None
    steps |= {name: embed[name] for name in _LEADS if embed.get(name)}
    return steps | {name: headers[name] for name in _ORIGIN if headers.get(name) is not None}


def kept_form(steps: NextSteps) -> bytes:
    """The steps as Redis keeps them."""
    webhook = steps.get("webhook")
    return next_of(webhook) if webhook and len(steps) == 1 else orjson.dumps(steps)


def lineage_of(headers: Mapping[str, Any], children: list[Any]) -> bytes:
    """The fields of a result that say whence the job came and what it started, as JSON without
    braces; empty where there is nothing to say.
    """
    group, parent = headers.get("group"), headers.get("parent_id")
    if not (children or group or parent):
        return b""
    fields: dict[str, Any] = {"children": children}
    if group:
        fields["group_id"] = group
    if parent:
        fields["parent_id"] = parent
    return orjson.dumps(fields)[1:-1]
