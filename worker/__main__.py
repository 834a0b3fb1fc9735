"""`python -m worker`: serve the catalog's lanes, one process per device."""

from __future__ import annotations

import argparse
import sys

from common.errors import ConfigurationError
from common.log import configure_logging
from common.settings import load_settings


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, then run until SIGTERM; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument("--device", help="cpu, mps or cuda:N; default: one process per device")
    parser.add_argument("--name", help="Celery node name; default: <device>-<pid>@<host>")
    args = parser.parse_args(argv)
    try:
        settings = load_settings()
        configure_logging(settings, "worker")
        from worker.launcher import count_gpus, plan_devices, run_fleet, run_worker

        devices = [args.device] if args.device else plan_devices(settings, count_gpus())
        if len(devices) == 1:
            return run_worker(settings, devices[0], args.name)
        return run_fleet(devices)
    except ConfigurationError as exc:
        print(f"lanefleet worker: {exc}", file=sys.stderr)  # noqa: T201 - the one line a person needs
        return 2


if __name__ == "__main__":
    sys.exit(main())
