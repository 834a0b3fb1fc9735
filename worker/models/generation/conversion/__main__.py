"""`python -m worker.models.generation.conversion SOURCE TARGET`: a folder that the decoder loads.

A program of its own, because a file from elsewhere is read: it may take this much time and memory
and no more, and it knows no address and no key. It says what it does in JSON, a line each:
`{"total"}` and `{"done"}` in bytes, and in the end `{"folder"}` or `{"error"}`.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from common.errors import FleetError
from common.programs import end_by_exception
from worker.models.generation.conversion import from_gguf, from_pickle, gguf_tokenizer
from worker.models.generation.conversion.errors import NotConverted
from worker.models.generation.conversion.gguf import read_gguf
from worker.models.generation.conversion.writer import (
    Precision,
    Source,
    write_json,
    write_tensors,
)
from worker.models.new_folder import new_folder, writing

_TELL_SECONDS = 0.1
_GRACE_SECONDS = 10
_STOPPED = 130
_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, 2 with an error, 130 where it was stopped."""
    args = _parse(argv)
    _limit(args.memory_mb, args.seconds)
    try:
        made = _convert(args.source, args.target, args.precision, args.tokenizer)
    except KeyboardInterrupt:
        return _STOPPED
    except (NotConverted, FleetError, OSError) as exc:
        _say({"error": str(exc)})
        return 2
    except (MemoryError, RuntimeError, KeyError, ValueError) as exc:
        _say({"error": f"{args.source} cannot be converted: {type(exc).__name__}: {exc}"[:500]})
        return 2
    _say({"folder": str(args.target), "made": made})
    return 0


def _convert(source: Path, target: Path, precision: Precision, tokenizer: Path | None) -> bool:
    """False where another process made it meanwhile."""
    if not source.exists():
        raise NotConverted(f"there is no {source}")
    with writing(target), new_folder(target) as folder:
        if folder is None:
            return False
        if source.suffix == ".pth":  # a network's tensors alone, whose handler knows the rest
            _write(folder, list(from_pickle.sources_of(source)), precision)
            return True
        is_gguf = source.suffix == ".gguf"
        tensors = _from_gguf(source, folder, tokenizer) if is_gguf else _from_pickle(source, folder)
        if tokenizer is not None:
            shutil.copyfile(tokenizer, folder / "tokenizer.json")
        if not (folder / "tokenizer.json").is_file():
            raise NotConverted(
                f"{source} comes without a tokenizer.json; give one with --tokenizer"
            )
        _write(folder, tensors, precision)
    return True


def _from_gguf(source: Path, folder: Path, tokenizer: Path | None) -> list[Source]:
    gguf = read_gguf(source)
    config = from_gguf.config_of(gguf)
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer_config.json", gguf_tokenizer.tokenizer_config_of(gguf.facts))
    if tokenizer is None:
        write_json(folder / "tokenizer.json", gguf_tokenizer.tokenizer_of(gguf.facts))
    return list(from_gguf.sources_of(gguf, config))


def _from_pickle(source: Path, folder: Path) -> list[Source]:
    home = source if source.is_dir() else source.parent
    write_json(folder / "config.json", from_pickle.config_of(home))
    for path in from_pickle.copied_files(home):
        shutil.copyfile(path, folder / path.name)
    return list(from_pickle.sources_of(source))


def _write(folder: Path, sources: list[Source], precision: Precision) -> None:
    done, told = 0, 0.0
    total = sum(_numbers(source) for source in sources) * _BYTES[precision]
    _say({"total": total, "done": 0})

    def count(written: int) -> None:
        nonlocal done, told
        done += written
        if time.monotonic() - told >= _TELL_SECONDS or done == total:
            told = time.monotonic()
            _say({"total": total, "done": done})

    write_tensors(folder / "model.safetensors", sources, precision, count)


def _numbers(source: Source) -> int:
    count = 1
    for size in source.shape:
        count *= size
    return count


def _limit(memory_mb: int, seconds: int) -> None:
    """0 is no limit. Where no Python code runs that could be interrupted, the process is ended."""
    if memory_mb:
        size = memory_mb * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    if not seconds:
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        raise NotConverted(f"it took longer than {seconds} s; give it more with --seconds")

    signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    faulthandler.dump_traceback_later(seconds + _GRACE_SECONDS, exit=True)


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.models.generation.conversion")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json to use")
    parser.add_argument("--memory-mb", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    end_by_exception()
    sys.exit(main())
