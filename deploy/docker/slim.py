"""Make the worker's image small: called by Dockerfile.worker, in two steps.

    python deploy/docker/slim.py remove .venv     take out what no worker reads
    python deploy/docker/slim.py compile          run each model once, so that bytecode of all
                                                  that is imported is in the image

Torch's wheel brings its own tests, C++ headers and test programs (about 195 MB). Of the bytecode
that pip writes a worker loads less than a fifth; as its root is read-only, what is not in the
image would be compiled at every start.
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

UNREAD = ("torch/test", "torch/include", "torch/share", "pip")
"""Below site-packages. Headers serve only those who compile C++ against torch."""
KEPT_PROGRAMS = ("torch_shm_manager",)
"""Of torch/bin; the others are its tests and a protobuf compiler."""
TEST_FOLDERS = frozenset({"test", "tests"})
COMPILED_ON_DEMAND = ("torch", "torchgen", "transformers", "sympy", "networkx", "onnxruntime")
"""Packages of which a worker imports a small part."""


def unread(packages: Path) -> Iterator[Path]:
    """Yield what can go from a site-packages folder; a folder's own parts may follow it."""
    yield from (packages / name for name in UNREAD)
    for program in packages.glob("torch/bin/*"):
        if program.name not in KEPT_PROGRAMS:
            yield program
    for name in TEST_FOLDERS:
        yield from packages.rglob(name)
    for package in COMPILED_ON_DEMAND:
        yield from (packages / package).rglob("__pycache__")


def remove(venv: Path) -> None:
    """Remove from a virtual environment what no worker reads."""
    for packages in venv.glob("lib/python*/site-packages"):
        for path in list(unread(packages)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def compile_used() -> None:
    """Load and run each model of the catalog on the CPU, which leaves the bytecode behind."""
    from common.catalog import load_catalog
    from common.settings import load_settings
    from worker.process import launcher, supervisor  # noqa: F401  # for their imports
    from worker.residency.loading import loader_for, warm_up

    settings = load_settings()
    for spec in load_catalog(settings.catalog).values():
        handler = loader_for("cpu", settings)(spec)
        example = getattr(handler, "example", None)
        if example is not None:
            warm_up(handler, example(), 1)


if __name__ == "__main__":
    if sys.argv[1] == "remove":
        remove(Path(sys.argv[2]))
    else:
        compile_used()
