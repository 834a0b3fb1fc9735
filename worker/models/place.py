"""Where in its author's code a model went wrong: `praise.py:20`, without the folders."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

__all__ = ("place_in_dump", "place_in_stack", "place_of_error", "place_of_verb", "returns_of")

_OURS = Path(__file__).resolve().parents[2]
_OUR_PACKAGES = tuple(f"{_OURS / name}/" for name in ("worker", "common", "api"))
_DUMPED = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)(?:,)? in ')


def place_of_error(error: BaseException, module: str = "") -> str:
    """The last line of the handler's module that the error passed; else of any code not ours.

    module: the path of the handler's file. Empty where there is none, as for a SyntaxError of
    another file.
    """
    if issubclass(type(error), SyntaxError) and error.filename:  # type: ignore[attr-defined]
        return f"{Path(error.filename).name}:{error.lineno}"  # type: ignore[attr-defined]
    frames, at = [], error.__traceback__
    while at is not None:
        frames.append((at.tb_frame.f_code.co_filename, at.tb_lineno))
        at = at.tb_next
    return _best(frames, module)


def place_in_stack(frame: FrameType | None, module: str) -> str:
    """The innermost line of the handler's module in a running thread."""
    frames: list[tuple[str, int]] = []
    while frame is not None:
        frames.insert(0, (frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return _best(frames, module)


def place_in_dump(text: str, name: str) -> str:
    """The same in what `faulthandler` writes, whose innermost frame comes first.

    name: of the handler's file, without its folder.
    """
    text = text[max(text.find("Current thread"), 0) :]
    found = [(one["file"], int(one["line"])) for one in _DUMPED.finditer(text)]
    module = next((file for file, _ in found if name and Path(file).name == name), "")
    return _best(found[::-1], module)


def place_of_verb(handler: object, verb: str) -> str:
    """Where the verb is defined; empty where it has no source."""
    code = _code_of(handler, verb) if handler is not None else None
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}" if code is not None else ""


@contextmanager
def returns_of(handler: object, verb: str) -> Iterator[Callable[[], str]]:
    """Tells from which line the verb returned, of the calls made inside."""
    code, line = _code_of(handler, verb), 0

    def look(frame: FrameType, event: str, _arg: Any) -> None:
        nonlocal line
        if event == "return" and frame.f_code is code:
            line = frame.f_lineno

    before = sys.getprofile()
    if code is not None:
        sys.setprofile(look)
    try:
        yield lambda: f"{Path(code.co_filename).name}:{line or code.co_firstlineno}" if code else ""
    finally:
        sys.setprofile(before)


def _code_of(handler: object, verb: str) -> CodeType | None:
    found = inspect.unwrap(getattr(handler, verb, None))  # type: ignore[arg-type]  # or None
    code = getattr(getattr(found, "__func__", found), "__code__", None)
    return code if isinstance(code, CodeType) else None


def _best(frames: list[tuple[str, int]], module: str) -> str:
    """Frames are outermost first."""
    own = [one for one in frames if one[0] == module]
    if not own:
        own = [one for one in frames if not _is_ours(one[0])]
    return f"{Path(own[-1][0]).name}:{own[-1][1]}" if own else ""


def _is_ours(path: str) -> bool:
    return path.startswith(("<", *_OUR_PACKAGES))
