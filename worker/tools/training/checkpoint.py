"""Keeps a training that may be killed: one safetensors file, replaced whole.

It never has a name that a handler loads, and what it says of itself (step, minutes, history) is
JSON in its header, so that reading one runs no code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import ConfigurationError
from worker.models.new_folder import writing

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ("Checkpoint",)

_NAME = "checkpoint.safetensors"


class Checkpoint:
    """The state of one training, in a folder beside what it is to become."""

    def __init__(self, target: Path, key: str) -> None:
        """key: what the training depends on; one of another key is not gone on with."""
        self.folder = target.parent / f".{target.name}.training"
        self._key = key

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and facts; None where there is none. Raises ConfigurationError on another's."""
        from safetensors import SafetensorError, safe_open

        path = self.folder / _NAME
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                said = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts: dict[str, Any] = json.loads(said["facts"])
        except (SafetensorError, KeyError, ValueError) as exc:
            raise ConfigurationError(f"{path} is damaged ({exc}); delete {self.folder}") from exc
        if said.get("key") != self._key:
            raise ConfigurationError(
                f"{self.folder} holds a training of other options, data or weights; delete it, "
                "or name another target"
            )
        return tensors, facts

    def write(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Replace what was kept; on the disk when this returns. Raises ConfigurationError."""
        from safetensors.torch import save

        whole = {name: one.detach().contiguous() for name, one in tensors.items()}
        content = save(whole, {"key": self._key, "facts": json.dumps(dict(facts))})
        partial = self.folder / f"{_NAME}.partial"
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with partial.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(self.folder / _NAME)
            except BaseException:
                partial.unlink(missing_ok=True)
                self._leave_no_empty_folder()
                raise

    def remove(self) -> None:
        """Forget it: what it was for is made."""
        for name in (_NAME, f"{_NAME}.partial"):
            (self.folder / name).unlink(missing_ok=True)
        self._leave_no_empty_folder()

    def _leave_no_empty_folder(self) -> None:
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
