"""Reads the aliases that operators move while the fleet runs, and has models loaded that lanes need
beside their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from redis import Redis

from common.catalog import Target
from common.redis.keys import ALIASES
from worker.maintenance.caretaker import Caretaker
from worker.residency.model_host import ModelHost

_LOOK_SECONDS = 1.0


class AliasWatch(Caretaker):
    """Passes the target of each alias to the model host, once a second and when one may have
    moved, or a model was loaded.
    """

    def __init__(self, client: Redis, models: ModelHost, aliases: Mapping[str, Target]) -> None:
        """aliases are the catalog's; they apply where no operator has moved them."""
        super().__init__("alias-watch", due=models.aliases_stale)
        self._client = client
        self._models = models
        self._aliases = aliases

    def interval(self) -> float:
        """One second."""
        return _LOOK_SECONDS

    def run_once(self) -> None:
        """Read the aliases once; may raise RedisError."""
        moved: dict[bytes, bytes] = {}
        if self._aliases:
            moved = cast("dict[bytes, bytes]", self._client.hgetall(ALIASES))
        targets = {
            alias.decode(errors="replace"): target
            for alias, text in moved.items()
            if (target := Target.load(text.decode(errors="replace"))) is not None
        }
        self._models.move_aliases({**self._aliases, **targets})
