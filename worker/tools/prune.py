"""Makes a network smaller by taking parts of it away, and says whether that made it faster.

In steps, with `data`: after each one the network learns again to answer as the whole one did, and
is judged on inputs held out; the last step above the tolerance is what is kept. A run that was
killed goes on behind its last step.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from common.settings import Settings
from worker.models.agreement import agreement_of
from worker.models.base import Model
from worker.models.new_folder import new_folder, writing
from worker.models.samples import decoded, read_samples
from worker.models.weights import RANDOM, find_weights
from worker.tools.pruning.opening import Inputs, inputs_of, open_subject
from worker.tools.pruning.subject import InPair, Subject, parameters_of
from worker.tools.report import Progress, Refused, Report
from worker.tools.target import claimed, free_target
from worker.tools.training.checkpoint import Checkpoint
from worker.tools.training.loop import Plan, train
from worker.tools.training.models import (
    answers,
    bytes_in,
    digest_of,
    opened,
    spec_of,
    speed,
    weight_files,
)

__all__ = ("run",)

_TOLERANCE = 0.9
_NO_GAIN = 1.05
"""A ratio below this is noise: no speed-up."""
_METHODS = ("structured", "magnitude")
_MINUTES = 2.0


@dataclass(frozen=True, slots=True)
class Ask:
    """What was asked for."""

    target: Path
    method: str = "structured"
    share: float = 0.3
    data: str | None = None
    steps: int = 3
    tolerance: float | None = None
    keep_anyway: bool = False
    most: int = 1_000
    held_out: float = 0.2
    seconds: float = 8.0


def run(arguments: dict[str, Any], settings: Settings, progress: Progress) -> Report:
    """arguments: model, the fields of `Ask`, and of each step minutes, batch, learning_rate and
    learn_steps, the most steps of its learning.

    Raises ConfigurationError.
    """
    given = {name: one for name, one in arguments.items() if one is not None}
    spec = spec_of(settings, given.pop("model"))
    given["target"] = free_target(given["target"])
    ask = Ask(**{one.name: given.pop(one.name) for one in fields(Ask) if one.name in given})
    learning = {"minutes": _MINUTES, "learning_rate": 1e-4, "steps": given.pop("learn_steps", None)}
    plan = Plan(**{**learning, **given})
    if ask.method not in _METHODS:
        raise ConfigurationError(f"there is no method {ask.method!r}; choose {_METHODS}")
    if not 0 < ask.share < 1:
        raise ConfigurationError("share: a number between 0 and 1, as 0.3 for 30 %")
    with claimed(ask.target):
        return _prune(spec, ask, plan, progress)


def _prune(spec: ModelSpec, ask: Ask, plan: Plan, progress: Progress) -> Report:
    progress("loading", 0, 0)
    whole = opened(spec)
    inputs = _inputs(spec, whole, ask)
    subject = _subject(spec, whole, inputs, ask.method)
    report = Report("prune", spec.name)
    report.tolerance = ask.tolerance
    if report.tolerance is None and ask.data:
        report.tolerance = _TOLERANCE
    before = parameters_of(subject.network)
    checkpoint = Checkpoint(ask.target, _key(spec, ask, inputs))
    if ask.data:
        _gradually(subject, ask, plan, checkpoint, report, progress)
    else:
        progress("pruning", 0, 1)
        subject.narrow(ask.share)
        report.notes.append("not taught again after it; --gradual DATA does that, and costs less")
    after = parameters_of(subject.network)
    report.notes.append(f"{before / 1e6:.2f} -> {after / 1e6:.2f} million parameters")
    if report.refused:
        return report
    _make(report, ask, spec, whole, subject, inputs, progress)
    if report.made:
        checkpoint.remove()
    return report


def _inputs(spec: ModelSpec, whole: Model, ask: Ask) -> Inputs:
    if ask.data:
        return inputs_of(ask.data, spec, whole, ask.most, ask.held_out)
    judged: list[Any] = []
    if source := _source_of(spec, ask):
        judged = read_samples(source, spec.input, ask.most)
    elif callable(example := getattr(whole, "example", None)):
        judged = [example()]
    return Inputs(([], judged), ([], decoded(whole, judged, source)))


def _source_of(spec: ModelSpec, ask: Ask) -> Path | None:
    """Where its inputs are; None where that is its example."""
    if ask.data:
        return Path(ask.data)
    return find_weights(spec.samples) if spec.samples else None


def _subject(spec: ModelSpec, whole: Model, inputs: Inputs, method: str) -> Subject:
    subject = open_subject(spec, whole, inputs, "pruned")
    if method == "structured":
        return subject
    from worker.tools.pruning.sparse import SparseSubject

    return SparseSubject(subject)


def _key(spec: ModelSpec, ask: Ask, inputs: Inputs) -> str:
    nowhere = spec.weights in (RANDOM, "none")
    files = [] if nowhere else weight_files(find_weights(spec.weights))
    asked = (spec.handler, spec.weights, ask.method, ask.share, ask.steps)
    return digest_of([*files, asked, *inputs.values[0], *inputs.values[1]])


def _gradually(
    subject: Subject,
    ask: Ask,
    plan: Plan,
    checkpoint: Checkpoint,
    report: Report,
    progress: Progress,
) -> None:
    """Step by step, each followed by learning; the last good one is what the subject is then."""
    first = 1
    if kept := checkpoint.read():
        tensors, facts = kept
        subject.restore(tensors)
        report.rows, first = facts["rows"], facts["step"] + 1
        report.notes.append(f"gone on with behind step {facts['step']}")
    assert report.tolerance is not None
    for step in range(first, ask.steps + 1):
        good = subject.state()
        done, now = ((ask.share * one / ask.steps) for one in (step - 1, step))
        subject.narrow(1 - (1 - now) / (1 - done))
        outcome = train(subject.learner(), plan, None, _labelled(progress, step, ask.steps))
        row = {"step": step, "share": f"{now:.0%}", "parameters": parameters_of(subject.network)}
        row |= {"held out": round(outcome.best.mean, 4), "least": round(outcome.best.least, 4)}
        report.rows.append(row)
        if outcome.best.mean < report.tolerance:
            subject.restore(good)
            why = f"held-out agreement {outcome.best.mean:.4f} is below {report.tolerance}"
            if step == 1:
                help_ = "more --minutes or --steps, a smaller --share, or a lower --tolerance"
                report.refused.append(Refused(f"{now:.0%}", f"{why}; {help_} may do"))
            else:
                report.notes.append(f"stopped before step {step}: {why}")
            return
        checkpoint.write(subject.state(), {"step": step, "rows": report.rows})


def _labelled(progress: Progress, step: int, steps: int) -> Progress:
    return lambda doing, done, total: progress(f"{step}/{steps}: {doing}", done, total)


class _NotWorthIt(Exception):
    """It is not kept."""


def _make(
    report: Report,
    ask: Ask,
    spec: ModelSpec,
    whole: Model,
    subject: Subject,
    inputs: Inputs,
    progress: Progress,
) -> None:
    """Write it, load it as a worker would, compare that with the whole one."""
    values, items = inputs.values[1], inputs.items[1]
    with suppress(_NotWorthIt), writing(ask.target), new_folder(ask.target) as made:
        if made is None:
            raise ConfigurationError(f"{ask.target} was made by another process meanwhile")
        subject.save(made)
        pruned, own = whole, items
        if isinstance(subject, InPair):
            whole, pruned = subject.pair()
        else:
            pruned = opened(spec.model_copy(update={"precision": "fp32"}), made)
            own = decoded(pruned, values, _source_of(spec, ask))
        report.bytes_after = bytes_in(made)
        if items:
            agreement = agreement_of(answers(whole, items), answers(pruned, own))
            report.measure = agreement.measure.replace("min ", "mean ")
            report.agreement, report.samples = agreement.mean, agreement.samples
            report.notes.append(f"worst of them: {agreement.measure} {agreement.value:.4f}")
            report.ratio = speed(whole, pruned, (items, own), progress, ask.seconds)
        report.refused += _faults(report, ask)
        if report.refused and not ask.keep_anyway:
            raise _NotWorthIt
        facts = {"tool": "prune", "of": spec.name, "method": ask.method, "share": ask.share}
        facts |= {"agreement": report.agreement, "ratio": report.ratio}
        (made / "origin.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        report.made = str(ask.target)


def _faults(report: Report, ask: Ask) -> list[Refused]:
    found = []
    what = f"{ask.method}, {ask.share:.0%}"
    if report.ratio is not None and report.ratio < _NO_GAIN:
        why = f"no speed-up: {report.ratio:.2f}x measured here; --keep-anyway makes it all the same"
        found.append(Refused(what, why))
    far = report.tolerance and report.agreement is not None and report.agreement < report.tolerance
    if far:
        why = f"{report.measure} {report.agreement:.4f} is below {report.tolerance}"
        found.append(Refused(what, why))
    return found
