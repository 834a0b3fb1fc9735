"""Run a Redis server for as long as our standard input stays open.

Standard library only, and run by path, so that it costs a few megabytes:
`python -I server_watcher.py SERVER ARG...`. Whoever starts it keeps the other
end of the pipe; when that process dies, by whatever signal, the pipe closes.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from types import FrameType

_PR_SET_PDEATHSIG = 1
_STOP_SECONDS = 20.0


def watch(argv: list[str]) -> int:
    """Run argv until our standard input closes or it ends; return its exit status."""
    server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)

    def forward(signum: int, _frame: FrameType | None) -> None:
        server.send_signal(signum)

    signal.signal(signal.SIGTERM, forward)
    while server.poll() is None:
        readable, _, _ = select.select([0], [], [], 0.5)
        if readable and not os.read(0, 4096):
            break
    if server.poll() is None:
        server.terminate()
    try:
        return server.wait(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        return server.wait()


def die_with_parent() -> None:
    """In a new child: ask Linux for SIGTERM when the thread that started us ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(watch(sys.argv[1:]))
