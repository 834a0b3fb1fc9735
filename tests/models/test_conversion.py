"""Conversion: the same network comes out, whole or not at all, and bad files are refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from api.cli.main import app
from common.catalog import ModelSpec
from common.errors import ConfigurationError
from tests.models.test_generation import alone, ask, decoder
from tests.models.test_models import need
from tests.support.gguf_file import F32, Q8_0, llama_gguf, write_gguf
from tests.support.stack import ROOT
from tests.support.tiny_decoder import GPT2, LLAMA, write_decoder
from worker.models import weights
from worker.models.converted import ready_folder
from worker.models.generation.conversion.__main__ import main
from worker.models.generation.conversion.dequantise import FORMATS

need("torch", "safetensors", "tokenizers")

# What gguf 0.19 (llama.cpp's own package) makes of the same blocks.
DIGESTS = {
    "F32": "1030e66fcb9647d5",
    "F16": "79117b0d288b7692",
    "Q4_0": "ac71577acd7eeec4",
    "Q4_1": "9a015562bd3b5085",
    "Q5_0": "3f8a53f12e678592",
    "Q5_1": "6ff009d8e059669f",
    "Q8_0": "a969fe4e104104da",
    "Q4_K": "3201204e42ca5762",
    "Q5_K": "786ff45af0a61c39",
    "Q6_K": "6d71400086496da2",
    "BF16": "cd9c17b92424348a",
}
KILLED = """
import os, pathlib, signal, sys
from worker.models.generation.conversion import __main__, writer
calls, at = 0, int(sys.argv[1])
def dying(plain):
    def call(*args):
        global calls
        calls += 1
        if calls == at or at == -1 and plain is rename:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*args)
    return call
rename = pathlib.Path.rename
writer._packed = dying(writer._packed)
pathlib.Path.rename = dying(rename)
__main__.main(sys.argv[2:])
"""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("llama") / "tiny", LLAMA, 3)


@pytest.fixture(scope="module")
def gguf(llama: Path) -> Path:
    return llama_gguf(llama.parent / "tiny.gguf", llama, LLAMA)


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    lines = capsys.readouterr().out.splitlines()
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def test_a_gguf_becomes_a_folder_with_the_same_texts(
    llama: Path, gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "made"
    assert main([str(gguf), str(target)]) == 0
    assert said(capsys) == {"folder": str(target), "made": True}
    from safetensors.numpy import load_file

    before, after = load_file(llama / "model.safetensors"), load_file(target / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    original, made = decoder(llama), decoder(target)
    text = "the naïve café at 東京"
    prompt = ask(made, text)
    assert prompt.tokens == ask(original, text).tokens
    assert alone(made, prompt).tokens == alone(original, ask(original, text)).tokens
    filled = made.decode({"messages": [{"role": "user", "content": "<|end|>hm"}]}, {})
    assert filled.tokens == (256, ord("h"), ord("m")), "special tokens and the template came along"
    made.unload()


@pytest.mark.parametrize(("precision", "most"), [("fp32", 0.02), ("bf16", 0.03), ("fp16", 0.02)])
def test_blocks_are_read_and_kept_in_the_precision_asked_for(
    llama: Path, tmp_path: Path, precision: str, most: float
) -> None:
    from safetensors.torch import load_file

    packed = llama_gguf(tmp_path / "packed.gguf", llama, LLAMA, Q8_0)
    assert main([str(packed), str(tmp_path / "made"), "--precision", precision]) == 0
    before = load_file(llama / "model.safetensors")
    for name, tensor in load_file(tmp_path / "made" / "model.safetensors").items():
        assert str(tensor.dtype) in ("torch.float32", "torch.bfloat16", "torch.float16")
        assert tensor.element_size() == (4 if precision == "fp32" else 2)
        assert (tensor.float() - before[name]).abs().max() < most


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_blocks_are_read_as_llama_cpp_reads_them(kind: int) -> None:
    form = FORMATS[kind]
    blocks = np.random.default_rng(kind).integers(0, 256, (64, form.block_bytes), dtype=np.uint8)
    blocks[:, 1::2] &= 0xBF  # no scale is infinite, whichever bytes it lies in
    with np.errstate(invalid="ignore"):
        found = np.nan_to_num(form.read(blocks), nan=0.5)
    assert found.shape == (64, form.block_numbers)
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == DIGESTS[form.name]


@pytest.mark.parametrize("old_format", [False, True])
def test_an_old_bin_file_becomes_a_folder_with_the_same_texts(
    tmp_path: Path, old_format: bool
) -> None:
    import torch
    from safetensors.torch import load_file

    source = write_decoder(tmp_path / "source", GPT2, 4)
    tensors = load_file(source / "model.safetensors")
    tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
    before = decoder(source)
    (source / "model.safetensors").unlink()
    torch.save(tensors, source / "pytorch_model.bin", _use_new_zipfile_serialization=not old_format)
    spec = ModelSpec(name="old", handler="decoder", weights=str(source))
    with pytest.raises(ConfigurationError, match="lanefleet convert"):
        ready_folder(source, spec)
    assert main([str(source), str(tmp_path / "made")]) == 0
    after = decoder(tmp_path / "made")
    assert alone(after, ask(after, "to be")).tokens == alone(before, ask(before, "to be")).tokens


class Evil:
    """Runs a command where a pickle of it is read."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)

    def __init__(self, mark: Path) -> None:
        self.mark = mark


def test_a_bin_file_that_would_run_code_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    source = write_decoder(tmp_path / "source", GPT2)
    torch.save({"wte.weight": Evil(tmp_path / "ran")}, source / "pytorch_model.bin")
    assert main([str(source), str(tmp_path / "made")]) == 2
    assert "would have to run code" in said(capsys)["error"]
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "made").exists()


def test_damaged_and_foreign_files_are_refused_with_a_sentence(
    gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = gguf.read_bytes()
    numbers = np.ones((2, 32))
    bad = tmp_path / "bad.gguf"
    for content, says in (
        (b"", "is empty"),
        (b"PK\3\4" + whole, "is no gguf"),
        (b"GGUF" + b"\1\0\0\0" + whole[8:], "version 1"),
        (whole[:2000], "ends within its header"),
        (whole[:-5000], "ends within its tensors"),
        (whole[:16] + b"\xff" * 8 + whole[24:], "damaged|ends within|unknown type"),
    ):
        bad.write_bytes(content)
        assert main([str(bad), str(tmp_path / "made")]) == 2
        assert re.search(says, said(capsys)["error"])
    for facts, tensors, says in (
        ({"general.architecture": "falcon"}, {}, "openai-server"),
        ({"general.architecture": "llama"}, {"token_embd.weight": (F32, numbers)}, "lacks"),
        ({"general.architecture": "llama"}, {"odd": (19, numbers)}, "ggml's type 19"),
    ):
        write_gguf(bad, facts, tensors)
        assert main([str(bad), str(tmp_path / "made")]) == 2
        assert says in said(capsys)["error"]
    assert not (tmp_path / "made").exists()
    assert main([str(tmp_path / "none.gguf"), str(tmp_path / "made")]) == 2


@pytest.mark.parametrize("moment", [1, -1], ids=["first tensor", "before the name"])
def test_a_conversion_that_is_killed_leaves_nothing_that_loads(
    gguf: Path, tmp_path: Path, moment: int
) -> None:
    target = tmp_path / "made"
    command = [sys.executable, "-c", KILLED, str(moment), str(gguf), str(target)]
    died = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not target.exists()
    assert all(path.name.startswith(".") for path in tmp_path.iterdir())
    assert main([str(gguf), str(target)]) == 0
    assert decoder(target).slots == 4
    assert not (tmp_path / ".made.partial").exists()


def test_the_first_load_converts_and_the_next_one_finds_it(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_converted", tmp_path / "converted")
    spec = ModelSpec(name="tiny", handler="decoder", weights=str(gguf))
    folder = ready_folder(gguf, spec)
    assert folder.parent == tmp_path / "converted"
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert ready_folder(gguf, spec) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    os.utime(gguf, ns=(1, 1))
    assert ready_folder(gguf, spec) != folder, "another file, for all we know"
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(ConfigurationError, match="ends within its header"):
        ready_folder(broken, spec)
    monkeypatch.setattr(weights, "_converted", None)
    with pytest.raises(ConfigurationError, match="lanefleet convert"):
        ready_folder(broken, spec)


def test_the_command_converts_in_a_process_with_limits(gguf: Path, tmp_path: Path) -> None:
    runner, target = CliRunner(), tmp_path / "made"
    ran = runner.invoke(app, ["convert", str(gguf), str(target), "--precision", "fp16", "--json"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout) == {"tool": "convert", "folder": str(target), "made": True}
    again = runner.invoke(app, ["convert", str(gguf), str(target)])
    assert isinstance(again.exception, ConfigurationError)
    assert "there already" in str(again.exception)


def test_a_conversion_that_takes_too_long_says_so() -> None:
    code = """
import time
from worker.models.generation.conversion import __main__ as program
program._convert = lambda *_: time.sleep(600)
raise SystemExit(program.main(["a", "b", "--seconds", "1"]))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert ran.returncode == 2, ran.stderr
    assert "longer than 1 s; give it more with --seconds" in json.loads(ran.stdout)["error"]
