"""The metrics of lanes whose work is steps, read from what their rows and stages have counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from common.metrics import generation as declared
from common.metrics.declaration import MetricFamily
from common.metrics.histogram import Histogram
from worker.lanes.lane import Lane
from worker.lanes.rows import Rows
from worker.models.remote import RemoteGenerator


def generation_families(lanes: Iterable[Lane]) -> Iterator[MetricFamily]:
    """Every family, those without samples as well."""
    found = [lane for lane in lanes if lane.generates or lane.stats.generation.completion_tokens]
    yield from _counters(found)
    yield from _histograms(found)
    yield from _rows(found)


def _counters(lanes: list[Lane]) -> Iterator[MetricFamily]:
    tokens, replays = declared.TOKENS.family(), declared.REPLAYS.family()
    for lane in lanes:
        stats = lane.stats.generation
        tokens.add(stats.prompt_tokens, lane.name, "prompt")
        tokens.add(stats.completion_tokens, lane.name, "completion")
        replays.add(stats.replays, lane.name)
    yield from (tokens, replays)


def _histograms(lanes: list[Lane]) -> Iterator[MetricFamily]:
    first, between = declared.FIRST_TOKEN.family(), declared.TOKEN_INTERVAL.family()
    freed = declared.FREED_STEPS.family()
    for lane in lanes:
        stats = lane.stats.generation
        _add(first, stats.first_token, lane)
        _add(between, stats.between, lane)
        _add(freed, stats.freed, lane)
    yield from (first, between, freed)


def _add(family: MetricFamily, histogram: Histogram, lane: Lane) -> None:
    family.add_histogram(histogram.edges, histogram.counts.copy(), histogram.total, lane.name)


def _rows(lanes: list[Lane]) -> Iterator[MetricFamily]:
    """Lanes of one model share its rows: the first of them shows these. A server has slots in
    their place, and none while it is not healthy.
    """
    active, slots = declared.ROWS_ACTIVE.family(), declared.ROWS.family()
    tokens, waits = declared.ROW_TOKENS.family(), declared.STREAM_WAITS.family()
    shown: set[Rows | RemoteGenerator] = set()
    for lane in lanes:
        admission, server = lane.admission, lane.remote
        if server is not None and server not in shown:
            shown.add(server)
            active.add(server.taken, lane.name)
            slots.add(server.slots, lane.name)
        if admission is None or admission.rows in shown:
            continue
        rows = admission.rows
        shown.add(rows)
        active.add(rows.active, lane.name)
        slots.add(rows.slots, lane.name)
        tokens.add(rows.tokens, lane.name)
        waits.add(rows.waits, lane.name)
    yield from (active, slots, tokens, waits)
