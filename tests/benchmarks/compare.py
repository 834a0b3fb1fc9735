"""`python -m tests.benchmarks.compare BASE`: what the same jobs cost two checkouts, in CPU.

CPU a job and not jobs a second, as it depends far less on what else the
machine does. Each run is two pairs: the base against itself, in two arms,
which says how far ratios stray with nothing changed, and the base against the
head. The arms of a pair take short turns and swap places after each. Load
generator and client are this tree's for all arms.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks import measure
from tests.benchmarks.arms import ROLES, Arm, Costs, open_arm
from tests.benchmarks.checkouts import open_checkout
from tests.benchmarks.pairs import Finding, judge
from tests.benchmarks.report import Table, machine

_JOBS = {"drain": 4_000, "submit": 2_000, "bulk": 8_000, "latency": 160}
"""In a slice."""
_QUICK_JOBS = {"drain": 400, "submit": 100, "bulk": 400, "latency": 10}
_RUNS = 11
_SLICES = 4
"""Turns of either arm in a pair. With single turns of 1 to 3 s the spread of 11 pairs was 6 to 17 %
on two busy cores (load 4 to 7); with four, of a fifth of the jobs each, that of 9 pairs 3 to 11 %
(load 3 to 5, minutes later): what disturbs comes and goes within seconds."""
_COLUMNS = ["", "role", "base us/job", "head us/job", "head / base", "A/A spread", "verdict"]

CostPairs = list[tuple[Costs, Costs]]


@dataclass(frozen=True, slots=True)
class Arms:
    """The base twice, so that it can be measured against itself, and the head."""

    base: Arm
    itself: Arm
    head: Arm


@dataclass(frozen=True, slots=True)
class Taken:
    """Every pair of one benchmark."""

    against_itself: CostPairs
    pairs: CostPairs


def main(argv: list[str] | None = None) -> int:
    """Compare; returns 1 where the head costs more than the bound allows."""
    args = _parse(argv)
    if not measure.SUPPORTED:
        print("comparisons read CPU from /proc; run them on Linux", file=sys.stderr)
        return 2
    began = time.monotonic()
    jobs, runs = (_QUICK_JOBS, 1) if args.quick else (_JOBS, args.runs)
    try:
        with _open_arms(args.base, args.head) as (arms, about):
            for name in args.only:
                for arm in (arms.base, arms.itself, arms.head):
                    arm.run(name, jobs[name])  # warms it up, untimed
            taken = {name: _take(name, jobs[name], runs, arms) for name in args.only}
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    findings = [one for name in args.only for one in _judge(name, taken[name])]
    print(_table(findings, about, runs, time.monotonic() - began).markdown())
    if args.json:
        _write(args.json, about, findings, taken)
    return int(any(one.over for one in findings))


@contextmanager
def _open_arms(base: str, head: str) -> Iterator[tuple[Arms, dict[str, str | int | float]]]:
    """Start all three arms; with them goes where and what is compared."""
    with ExitStack() as stack:
        made = stack.enter_context(tempfile.TemporaryDirectory(prefix="lanefleet-compare-"))
        folder = Path(made)
        old = stack.enter_context(open_checkout(base, folder / "base"))
        new = stack.enter_context(open_checkout(head, folder / "head"))
        arms = Arms(
            stack.enter_context(open_arm(old, folder / "arm-base")),
            stack.enter_context(open_arm(old, folder / "arm-itself")),
            stack.enter_context(open_arm(new, folder / "arm-head")),
        )
        about = machine(arms.base.redis_version)
        about["command"] = f"python -m tests.benchmarks.compare {base} --head {head}"
        yield arms, about | {"base": old.title, "head": new.title}


def _take(benchmark: str, jobs: int, runs: int, arms: Arms) -> Taken:
    """Pairs of either kind in turns, as what else runs changes from minute to minute."""
    taken = Taken([], [])
    for number in range(runs):
        began = time.monotonic()
        gc.collect()
        turned = bool(number % 2)
        taken.against_itself.append(_pair(benchmark, jobs, arms.base, arms.itself, turned=turned))
        taken.pairs.append(_pair(benchmark, jobs, arms.base, arms.head, turned=turned))
        took = time.monotonic() - began
        print(f"  {benchmark}, run {number + 1}: {took:.1f} s", file=sys.stderr, flush=True)
    return taken


def _pair(benchmark: str, jobs: int, left: Arm, right: Arm, *, turned: bool) -> tuple[Costs, Costs]:
    """Both arms' costs, each the mean of slices in turns: left, right, right, left and so on."""
    slices: dict[Arm, list[Costs]] = {left: [], right: []}
    for number in range(_SLICES):
        order = (left, right) if bool(number % 2) == turned else (right, left)
        for arm in order:
            slices[arm].append(arm.run(benchmark, jobs))
    return _mean(slices[left]), _mean(slices[right])


def _mean(slices: Sequence[Costs]) -> Costs:
    return {role: statistics.fmean(one[role] for one in slices) for role in slices[0]}


def _judge(benchmark: str, taken: Taken) -> list[Finding]:
    def of(role: str, pairs: CostPairs) -> list[tuple[float, float]]:
        return [(left[role], right[role]) for left, right in pairs]

    return [
        judge(benchmark, role, of(role, taken.against_itself), of(role, taken.pairs))
        for role in ROLES[benchmark]
    ]


def _table(
    findings: Sequence[Finding], about: Mapping[str, str | int | float], runs: int, seconds: float
) -> Table:
    title = f"{about['base']} and {about['head']}, {runs} pairs"
    table = Table("compare", title, _COLUMNS)
    for one in findings:
        table.rows.append(
            [
                one.benchmark,
                one.role,
                one.base_us,
                one.head_us,
                f"{one.ratio:.3f}",
                f"{one.spread:.1%}",
                one.verdict,
            ]
        )
    table.notes.append(
        f"{about['cores']} cores, load {about['load_before']} before, Python {about['python']}, "
        f"Redis {about['server']}, {about['date']}, {seconds:.0f} s."
    )
    return table


def _write(
    path: Path,
    about: Mapping[str, str | int | float],
    findings: Sequence[Finding],
    taken: Mapping[str, Taken],
) -> None:
    rows = [{**asdict(one), "bound": one.bound, "verdict": one.verdict} for one in findings]
    pairs = {name: asdict(one) for name, one in taken.items()}
    path.write_text(json.dumps({"machine": about, "findings": rows, "pairs": pairs}, indent=1))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.compare", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("base", help="a folder that holds a tree of this project, or a revision")
    parser.add_argument("--head", default=".", help="the same; the folder this runs in")
    parser.add_argument("--only", type=_names, default=tuple(ROLES), help="names, comma-separated")
    parser.add_argument("--runs", type=_count, default=_RUNS, help=f"pairs of each kind ({_RUNS})")
    parser.add_argument("--quick", action="store_true", help="few jobs, one pair: does it run?")
    parser.add_argument("--json", type=Path, help="keep every pair in this file")
    return parser.parse_args(argv)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names or set(names) - set(ROLES):
        raise argparse.ArgumentTypeError(f"choose from {', '.join(ROLES)}")
    return names


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("at least one")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
