"""A model that is loaded, as jobs are given to it."""

from __future__ import annotations

from typing import NamedTuple

from common.catalog import ModelSpec
from worker.models.base import Model


class Served(NamedTuple):
    """A model that is loaded."""

    spec: ModelSpec
    handler: Model
    weights: str = ""
    """The digest of its weights; empty until that is known."""
