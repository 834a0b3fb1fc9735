"""Follows the aliases that operators move while the fleet runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from redis import Redis

from common.redis.keys import ALIASES
from worker.maintenance.caretaker import Caretaker
from worker.residency.model_host import ModelHost

_LOOK_SECONDS = 1.0


class AliasWatch(Caretaker):
    """Tells the model host where each alias points; once a second, and when it may have moved."""

    def __init__(self, client: Redis, models: ModelHost, aliases: Mapping[str, str]) -> None:
        """aliases are the catalog's, which hold where nobody moved them."""
        super().__init__("alias-watch", due=models.aliases_stale)
        self._client = client
        self._models = models
        self._aliases = aliases

    def interval(self) -> float:
        """A second."""
        return _LOOK_SECONDS

    def run_once(self) -> None:
        """Look once; may raise RedisError."""
        if not self._aliases:
            return
        moved = cast("dict[bytes, bytes]", self._client.hgetall(ALIASES))
        targets = {
            alias.decode(errors="replace"): target.decode(errors="replace")
            for alias, target in moved.items()
        }
        self._models.move_aliases({**self._aliases, **targets})
