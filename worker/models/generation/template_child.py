"""Fills chat templates: a program of its own, as a template is code that came with the weights.

Run by path, with the standard library and Jinja2 alone: `python -I template_child.py`. It reads a
JSON object a line and writes one. Jinja's sandbox keeps a template from Python's insides; that it
ends and takes little memory is seen to by limits of this process: the kernel's alarm ends it.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import time
from typing import Any

GRACE_SECONDS = 1.0
"""After its time limit the parent kills it; after this too, it ends although there is none."""


def main() -> None:
    """Answer until standard input ends. The first line has the template and the limits."""
    begin = json.loads(sys.stdin.readline())
    limit = int(begin["memory_mb"]) * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        template = compile_template(begin["template"])
        answer({"ready": True})
    except Exception as exc:  # noqa: BLE001  whatever is wrong with it
        answer({"error": said_by(exc)})
        return
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, float(begin["seconds"]) + GRACE_SECONDS)
        try:
            filled = {"text": template.render(**json.loads(line))}
        except MemoryError:
            filled = {"error": "it takes more memory than it may"}
        except Exception as exc:  # noqa: BLE001  a template raises what it likes
            filled = {"error": said_by(exc)}
        signal.setitimer(signal.ITIMER_REAL, 0)
        answer(filled)


def compile_template(source: str) -> Any:
    """A template with what those of chat models use."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    # Jinja's own escapes what HTML would take for markup.
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = time.strftime
    return environment.from_string(source)


def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
    """As templates expect it."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def refuse(message: str) -> None:
    """What templates call where the messages do not suit them."""
    raise ValueError(message)


def said_by(error: Exception) -> str:
    """One short line."""
    return f"{error}".replace("\n", " ")[:300] or type(error).__name__


def answer(value: dict[str, Any]) -> None:
    """One line."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
