"""How many requests a second the generator itself can send here.

Measured against an echo: a process that parses the same requests and answers each at once with a
constant. A front that comes near this figure is limited by the generator, or by the cores that it
takes, and not by the fleet.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from api.cli.bench.generator import Address, Load
from api.cli.bench.inputs import Given, Target, requests
from common.errors import FleetError
from common.processes import die_with_parent

_WARM_SECONDS = 0.2


class EchoFailed(FleetError):
    """The process to measure the generator against did not start."""

    code = "echo_failed"


async def limit(target: Target, given: Given, clients: int, seconds: float) -> float:
    """Requests a second that this generator sends to an echo; raises EchoFailed."""
    with _echo() as port:
        aimed = replace(target, host=f"127.0.0.1:{port}", root="")
        load = Load(
            Address("127.0.0.1", port), aimed, requests(aimed, given, repeat=False), clients, 10.0
        )
        load.start()
        await asyncio.sleep(_WARM_SECONDS)
        load.count()
        began = time.monotonic()
        await asyncio.sleep(seconds)
        passed = time.monotonic() - began
        return len((await load.stop()).at) / passed


@contextmanager
def _echo() -> Iterator[int]:
    command = [sys.executable, "-I", str(Path(__file__).with_name("echo_server.py"))]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, preexec_fn=partial(die_with_parent, os.getpid())
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline().strip()
            if not line.isdigit():
                raise EchoFailed("the echo that bounds the generator did not start")
            yield int(line)
        finally:
            process.terminate()
