"""`python -m tests.benchmarks`: run the benchmarks, print their tables, keep them as JSON."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

from redis import Redis

from tests.benchmarks import measure
from tests.benchmarks.arena import open_arena
from tests.benchmarks.report import Table, machine, write

NAMES = (
    "drain",
    "enqueue",
    "submit",
    "bulk",
    "mapping",
    "latency",
    "cache",
    "burst",
    "memory",
    "flatness",
    "scaling",
    "tenants",
    "efficiency",
    "gpu",
    "cold",
    "webhooks",
    "streams",
    "generation",
    "readers",
)
_DEFAULT = tuple(name for name in NAMES if name not in ("efficiency", "generation"))
"""What fits into ten minutes; the others take as long by themselves."""
_RUNS = 5


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for; returns the exit status."""
    args = _parse(argv)
    if not measure.SUPPORTED:
        print("the benchmarks read CPU and memory from /proc; run them on Linux", file=sys.stderr)
        return 2
    began = time.monotonic()
    tables: list[Table] = []
    runs = 1 if args.quick else args.runs or _RUNS
    with (
        tempfile.TemporaryDirectory(prefix="lanefleet-bench-") as folder,
        open_arena(
            Path(folder),
            args.out.resolve(),
            runs=runs,
            quick=args.quick,
            full=args.full,
            install_peers=not args.no_install,
            hurry=args.runs is None,
        ) as arena,
    ):
        with Redis.from_url(arena.url) as redis:
            version = str(redis.info("server")["redis_version"])
        about = machine(version)
        print(", ".join(f"{name} {value}" for name, value in about.items()) + "\n", flush=True)
        for name in args.only:
            print(f"{name} ...", file=sys.stderr, flush=True)
            table = import_module(f"tests.benchmarks.{name}").run(arena)
            table.notes += arena.notes
            arena.notes.clear()
            print(table.markdown(), flush=True)
            tables.append(table)
            write(args.out, about, tables)
            arena.close()
    seconds = time.monotonic() - began
    rounds = f"medians of up to {runs}"
    print(f"{len(tables)} benchmarks, {rounds}, in {seconds:.0f} s; kept in {args.out}/")
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--runs", type=int, help=f"rounds ({_RUNS}, fewer on a slow machine)")
    parser.add_argument("--quick", action="store_true", help="few jobs, one round: do they run?")
    parser.add_argument("--full", action="store_true", help="a million queued jobs where it says")
    parser.add_argument("--only", type=_names, default=_DEFAULT, help="names, comma-separated")
    parser.add_argument("--out", type=Path, default=Path("bench-output"), help="results' folder")
    parser.add_argument("--no-install", action="store_true", help="do not let npm install BullMQ")
    return parser.parse_args(argv)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = set(names) - set(NAMES)
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"choose from {', '.join(NAMES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
