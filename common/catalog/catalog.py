"""The models by the names that jobs may use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from common.catalog.spec import ModelSpec, Task
from common.catalog.target import Target
from common.errors import UnknownModel


class Catalog(Mapping[str, ModelSpec]):
    """The models by the names that jobs may use: a model's own name, or an alias of one.

    Each name is a lane. Looking up another name raises UnknownModel with the served names.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSpec],
        aliases: Mapping[str, Target] | None = None,
        served: tuple[str, ...] = (),
    ) -> None:
        self.models = dict(models)
        """Every model that can be loaded, with or without a lane here."""
        self.aliases = dict(aliases or {})
        """What each alias points at first; operators move them while the fleet runs."""
        self._served = served or (*self.models, *self.aliases)
        mains = {name: target.model for name, target in self.aliases.items()}
        self._specs = {name: self.models[mains.get(name, name)] for name in self._served}

    def __getitem__(self, name: str) -> ModelSpec:
        spec = self._specs.get(name) if isinstance(name, str) else None  # a client's may be a list
        if spec is None:
            known = ", ".join(sorted(self._served))
            raise UnknownModel(f"there is no model {str(name)[:80]!r}; this fleet serves: {known}")
        return spec

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._specs

    def __iter__(self) -> Iterator[str]:
        return iter(self._served)

    def __len__(self) -> int:
        return len(self._served)

    def for_task(self, task: Task) -> tuple[str, ...]:
        """The served names whose model has this task."""
        return tuple(name for name in self._served if self[name].task == task)

    def default_for(self, task: Task) -> str | None:
        """The default name for the task: the only one, the model marked as default, or its alias.

        None where there is no such name, or more than one.
        """
        names = self.for_task(task)
        for narrower in (lambda name: self[name].default, lambda name: name in self.aliases):
            names = tuple(filter(narrower, names)) or names
        return names[0] if len(names) == 1 else None

    def subset(self, names: tuple[str, ...]) -> Catalog:
        """A catalog that serves only these names; an empty tuple is all of them."""
        for name in names:
            self[name]
        return Catalog(self.models, self.aliases, names) if names else self
