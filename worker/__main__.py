"""`python -m worker`: serve the catalog's lanes, one process per device.

This process only supervises the others: it restarts one that crashes, forwards signals, and ends
with an error when one cannot be kept running. With one device and LANEFLEET_SUPERVISED=false it is
the worker itself, and is supervised by its own parent.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from common.errors import ConfigurationError
from common.log import configure_logging
from common.settings import Settings, load_settings
from worker.devices.discovery import look_around
from worker.devices.placement import DEVICES_HELP, enter, plan
from worker.guard.arrival import stop_collecting
from worker.guard.marks import Marks
from worker.guard.supervision import Supervision


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, then run until SIGTERM; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m worker",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--devices", help=f"{DEVICES_HELP} Default: LANEFLEET_DEVICES, which is auto unless set."
    )
    parser.add_argument(
        "--role",
        choices=("worker", "courier"),
        default="worker",
        help="courier delivers webhooks and runs batches, and serves no model. Default: worker.",
    )
    parser.add_argument("--name", help="Celery node name; default: <device>-<pid>@<host>")
    parser.add_argument("--placed-on", metavar="DEVICE", help=argparse.SUPPRESS)
    parser.add_argument("--supervision", action="append", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    try:
        settings = load_settings(**({} if args.devices is None else {"devices": args.devices}))
        configure_logging(settings, args.role)
        if args.role == "courier":
            from worker.courier.process import run_courier

            return run_courier(settings)
        if args.placed_on:  # by the supervisor, which has set the environment
            return _serve(settings, args.placed_on, args.name, _read(args.supervision))
        return _place_and_serve(settings, args.name)
    except ConfigurationError as exc:
        print(f"lanefleet worker: {exc}", file=sys.stderr)  # noqa: T201 - the one line a person needs
        return 2


def _place_and_serve(settings: Settings, name: str | None) -> int:
    placements = plan(settings, look_around())
    if len(placements) == 1 and not settings.supervised:
        enter(placements[0])
        return _serve(settings, placements[0].device, name)
    from worker.process.supervisor import run_fleet

    return run_fleet(settings, placements, name)


def _read(words: Sequence[str] | None) -> Supervision:
    """What the supervisor says: the file of the marks, models out of service, whether to hold, and
    when the start began.
    """
    if not words:
        return Supervision()
    descriptor, out_of_service, hold, began = words
    marks = Marks(int(descriptor))
    return Supervision(marks, json.loads(out_of_service), hold == str(True), float(began))


def _serve(
    settings: Settings, device: str, name: str | None, supervision: Supervision | None = None
) -> int:
    stop_collecting()
    # A process that only supervises others does not import Celery and the engine.
    from worker.process.launcher import run_worker

    return run_worker(settings, device, name, supervision)


if __name__ == "__main__":
    sys.exit(main())
