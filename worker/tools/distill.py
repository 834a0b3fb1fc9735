"""Teaches a small student to answer as a model of the catalog does, from inputs alone.

What is learnt and what judges are apart. The student is a folder as any other; it is made only
where the held-out agreement reaches the tolerance, and what a killed run had learnt is kept beside
it for the next.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import fields
from typing import Any

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from common.settings import Settings
from worker.models.agreement import agreement_of, refuse_nan_in
from worker.models.base import Model
from worker.models.new_folder import new_folder, writing
from worker.models.samples import decoded, split
from worker.tools.report import Progress, Refused, Report
from worker.tools.target import claimed, free_target
from worker.tools.training.checkpoint import Checkpoint
from worker.tools.training.curve import draw_curve
from worker.tools.training.lesson import Ask, Lesson
from worker.tools.training.loop import Outcome, Plan, train
from worker.tools.training.models import (
    answers,
    bytes_in,
    digest_of,
    opened,
    read_inputs,
    spec_of,
    speed,
)

__all__ = ("run",)

Parts = tuple[list[Any], list[Any]]
"""What is learnt from, and what judges."""

_MINUTES = 30.0
_MOST_TEXTS, _MOST_OTHERS = 20_000, 1_000
_FACTS = "origin.json"
_LOSSES = ("outputs", "features")


def run(arguments: dict[str, Any], settings: Settings, progress: Progress) -> Report:
    """arguments: model, and the fields of `Ask` and `Plan`. Raises ConfigurationError."""
    given = {name: one for name, one in arguments.items() if one is not None}
    spec = spec_of(settings, given.pop("model"))
    given["target"] = free_target(given["target"])
    ask = Ask(**{one.name: given.pop(one.name) for one in fields(Ask) if one.name in given})
    plan = Plan(**{"minutes": _MINUTES, **given})
    if ask.loss not in _LOSSES:
        raise ConfigurationError(f"there is no loss {ask.loss!r}; choose {', '.join(_LOSSES)}")
    with claimed(ask.target):
        return _distill(spec, ask, plan, progress)


def _distill(spec: ModelSpec, ask: Ask, plan: Plan, progress: Progress) -> Report:
    progress("reading", 0, 0)
    most = ask.most or (_MOST_TEXTS if spec.input == "text" else _MOST_OTHERS)
    inputs = read_inputs(ask.data, spec, most)
    learnt, judged = split(inputs, ask.held_out)
    teacher = opened(spec)
    items = (decoded(teacher, learnt, ask.data), decoded(teacher, judged, ask.data))
    progress("asking the teacher", 0, 0)
    lesson = _lesson(spec, teacher, (learnt, judged), items, ask)
    refuse_nan_in(answers(teacher, items[1]), spec.name)
    asked = (ask.loss, ask.layers, ask.hidden, ask.held_out, plan.batch, plan.seed)
    checkpoint = Checkpoint(ask.target, digest_of([*lesson.weights, asked, *inputs]))
    outcome = train(lesson.learner, plan, checkpoint, progress)
    report = Report("distill", spec.name, tolerance=ask.tolerance)
    report.notes = [*lesson.notes, *_course(outcome)]
    _make(report, ask, (teacher, judged, items[1]), lesson, outcome, progress)
    if report.made:
        checkpoint.remove()
    return report


def _lesson(spec: ModelSpec, teacher: Model, values: Parts, items: Parts, ask: Ask) -> Lesson:
    if spec.handler == "minilm":
        from worker.tools.training.text_lesson import text_lesson

        return text_lesson(spec, items, ask)
    from worker.tools.training.picture_lesson import picture_lesson

    return picture_lesson(spec, teacher, values, items, ask)


def _course(outcome: Outcome) -> list[str]:
    began = outcome.history[0]
    resumed = f", gone on with at step {outcome.resumed_at}" if outcome.resumed_at else ""
    return [
        f"{outcome.steps} steps in {outcome.minutes:.1f} CPU minutes{resumed}: {outcome.why}",
        f"held-out mean {began.mean:.4f} -> {outcome.best.mean:.4f}, "
        f"least {began.least:.4f} -> {outcome.best.least:.4f}",
    ]


def _make(
    report: Report,
    ask: Ask,
    judges: tuple[Model, list[Any], list[Any]],
    lesson: Lesson,
    outcome: Outcome,
    progress: Progress,
) -> None:
    """Write the student, load it as a worker would, and judge that; it stays only if it is good."""
    teacher, values, items = judges
    report.bytes_before = sum(one.stat().st_size for one in lesson.weights) or None
    with suppress(_TooFar), writing(ask.target), new_folder(ask.target) as made:
        if made is None:
            raise ConfigurationError(f"{ask.target} was made by another process meanwhile")
        lesson.save(made)
        drawn = draw_curve(outcome.history, made)
        student = opened(lesson.student, made)
        own = decoded(student, values, ask.data)
        _judge(report, answers(teacher, items), answers(student, own), lesson)
        report.ratio = speed(teacher, student, (items, own), progress, ask.seconds)
        report.bytes_after = bytes_in(made)
        if report.agreement is None or report.agreement < ask.tolerance:
            raise _TooFar
        facts = {"tool": "distill", "teacher": report.model, "agreement": report.agreement}
        facts |= {"measure": report.measure, "notes": report.notes}
        (made / _FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        report.made = str(ask.target)
    if report.made is None:
        why = (
            f"{report.measure} {report.agreement:.4f} is below {ask.tolerance}; what it learnt is "
            "kept: the same command with more --minutes goes on, and more data or --layers help too"
        )
        report.refused.append(Refused("the student", why))
        return
    report.notes.append(f"its course is in {', '.join(drawn)}")
    report.notes.append(f"to serve it: handler {lesson.student.handler}, weights {ask.target}")


class _TooFar(Exception):
    """The student is not good enough to be kept."""


def _judge(report: Report, expected: list[Any], found: list[Any], lesson: Lesson) -> None:
    """A student is gated by the mean: it is a model of its own, no other precision of one."""
    if lesson.reduce is not None:
        expected = [{**one, "embedding": lesson.reduce(one["embedding"])} for one in expected]
    agreement = agreement_of(expected, found)
    report.measure = agreement.measure.replace("min ", "mean ")
    report.agreement, report.samples = agreement.mean, agreement.samples
    if report.measure != agreement.measure:
        report.notes.append(f"{agreement.measure} {agreement.value:.4f}, of the worst sample")
