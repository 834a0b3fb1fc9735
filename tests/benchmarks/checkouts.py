"""What a comparison compares: a folder that holds a tree of this project, or a git revision.

Neither is written to: a revision gets a worktree of its own, removed at the
end, and Python's caches of either go where the caller says.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.stack import ROOT


@dataclass(frozen=True, slots=True)
class Checkout:
    """A tree whose worker and API can be started."""

    name: str
    """As it was given."""
    root: Path
    bytecode: Path
    """Where Python keeps what it compiles of it."""

    @property
    def title(self) -> str:
        """Its name and its commit, marked where files differ from it."""
        described = _git(self.root, "describe", "--always", "--dirty", "--abbrev=10")
        return f"{self.name} ({described.stdout.strip() or 'outside git'})"

    @property
    def environment(self) -> dict[str, str]:
        """Makes the interpreter import this tree and no other."""
        return {
            "PYTHONPATH": str(self.root),
            "PYTHONPYCACHEPREFIX": str(self.bytecode),
            "LANEFLEET_CATALOG": str(self.root / "deploy" / "models.yaml"),
        }

    def check(self) -> None:
        """Raises ValueError where the interpreter would import another tree's packages.

        An installed one would win silently, and the comparison be of a tree with itself.
        """
        code = "import api, common, worker; print(api.__file__, common.__file__, worker.__file__)"
        asked = subprocess.run(
            [sys.executable, "-c", code],
            cwd=self.root,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        files = asked.stdout.split()
        if not files or not all(Path(one).is_relative_to(self.root) for one in files):
            raise ValueError(f"{self.name}: would run {asked.stdout or asked.stderr}")


@contextmanager
def open_checkout(name: str, folder: Path) -> Iterator[Checkout]:
    """The tree at a path, else at a revision of this repository. Raises ValueError for neither."""
    path = Path(name)
    if (path / "worker" / "__main__.py").exists():
        yield _checked(Checkout(name, path.resolve(), folder / "bytecode"))
        return
    tree = (folder / "tree").resolve()
    added = _git(ROOT, "worktree", "add", "--detach", str(tree), name)
    if added.returncode:
        raise ValueError(f"{name}: neither a tree of this project nor a revision: {added.stderr}")
    try:
        yield _checked(Checkout(name, tree, folder / "bytecode"))
    finally:
        _git(ROOT, "worktree", "remove", "--force", str(tree))


def _checked(checkout: Checkout) -> Checkout:
    checkout.check()
    return checkout


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
    )
