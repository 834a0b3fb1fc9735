"""Several processes as one: sums that never go back, whoever ends."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.observability import snapshot
from api.observability.channel import ASKED, COUNTED, HEAD, frame
from api.server.totals import Totals
from common.metrics import api, lanes, process
from common.metrics.declaration import MetricFamily


def counted(requests: float, rss: float = 10.0, demand: float = 3.0) -> snapshot.Snapshot:
    """What a process might have counted."""

    def families() -> Iterator[MetricFamily]:
        refused = api.REFUSED.family()
        refused.add(requests, "echo", "lane_full")
        durations = api.REQUEST_SECONDS.family()
        durations.add_histogram((1.0,), [requests, 0], 0.5 * requests, "GET", "/v1/jobs", "200")
        yield from (refused, durations)
        yield process.RESIDENT.of(rss)
        yield lanes.LANE_DEMAND.of(demand, "echo")

    return snapshot.snapshot_of(families())


def read(total: snapshot.Snapshot, name: str) -> float:
    return sum(value for (_, sample, _), value in total.items() if sample == name)


def test_counters_and_what_a_process_has_are_added_and_what_all_read_alike_is_not() -> None:
    total: snapshot.Snapshot = {}
    snapshot.add(total, counted(2))
    snapshot.add(total, counted(3, demand=4.0))
    assert read(total, "lanefleet_api_refused_total") == 5
    assert read(total, "lanefleet_api_request_duration_seconds_count") == 5
    assert read(total, "process_resident_memory_bytes") == 20
    assert read(total, "lanefleet_lane_demand") == 4


def test_counters_stay_of_a_process_that_has_ended_and_gauges_do_not() -> None:
    total: snapshot.Snapshot = {}
    snapshot.retire(total, counted(2))
    assert read(total, "lanefleet_api_refused_total") == 2
    assert read(total, "lanefleet_api_request_duration_seconds_sum") == 1.0
    assert read(total, "process_resident_memory_bytes") == 0


def test_a_snapshot_survives_the_way_and_undeclared_metrics_do_not() -> None:
    sent = counted(7)
    assert snapshot.load(snapshot.dump(sent)) == sent
    (family,) = (one for one in snapshot.families_of(sent) if one.name == "lanefleet_api_refused")
    assert family.samples[0].labels == {"lane": "echo", "reason": "lane_full"}
    assert snapshot.load(snapshot.dump({**sent, ("of_tomorrow", "of_tomorrow", ()): 1.0})) == sent


class Child:
    """A process as its parent sees it, which reads whatever there is to read at once."""

    def __init__(self, totals: Totals) -> None:
        self.totals = totals
        self.parent, self.socket = totals.adopt()
        self.requests: float = 0

    def send(self, text: bytes) -> None:
        self.socket.sendall(text)
        assert self.totals.read(self.parent)

    def tell(self, kind: bytes = COUNTED) -> None:
        self.send(frame(kind, snapshot.dump(counted(self.requests))))

    def ask(self) -> float:
        """What the scrape that reaches it gets."""
        self.tell(ASKED)
        with self.socket.makefile("rb") as answers:
            size, _ = HEAD.unpack(answers.read(HEAD.size))
            return read(snapshot.load(answers.read(size)), "lanefleet_api_refused_total")

    def end(self) -> None:
        self.socket.close()
        assert not self.totals.read(self.parent)


@settings(deadline=None)
@given(st.data())
def test_whichever_process_answers_and_ends_no_counter_goes_back(data: st.DataObject) -> None:
    totals = Totals()
    children = [Child(totals) for _ in range(3)]
    try:
        seen = _play(data, totals, children)
    finally:
        for child in children:
            child.end()
    assert read(totals.sum(), "lanefleet_api_refused_total") >= seen


def _play(data: st.DataObject, totals: Totals, children: list[Child]) -> float:
    """Let them count, tell, be asked and be killed; the last sum that was seen."""
    seen = 0.0
    for _ in range(data.draw(st.integers(1, 12))):
        child = data.draw(st.sampled_from(children))
        match data.draw(st.sampled_from(["count", "tell", "ask", "kill"])):
            case "count":
                child.requests += data.draw(st.integers(1, 5))
            case "tell":
                child.tell()
            case "ask":
                found = child.ask()
                assert found >= seen
                seen = found
            case "kill":
                child.end()
                children.remove(child)
                children.append(Child(totals))
    return seen


def test_no_counter_goes_back_by_the_rounding_of_another_order() -> None:
    totals = Totals()
    children = [Child(totals) for _ in range(3)]
    for child, seconds in zip(children, (0.1, 0.2, 0.3), strict=True):
        child.requests = seconds
        child.tell()
    seen = read(totals.sum(), "lanefleet_api_refused_total")
    for child in (children[2], children[1], children[0]):
        child.end()
        found = read(totals.sum(), "lanefleet_api_refused_total")
        assert found >= seen, "Prometheus takes any decrease for a restart from 0"
        seen = found
    assert seen == pytest.approx(0.6)


def test_counters_of_redis_begin_anew_with_it() -> None:
    series = (lanes.LANE_JOBS.name, lanes.LANE_JOBS.name, (("lane", "a"), ("outcome", "failed")))
    highest: snapshot.Snapshot = {}
    for count in (100.0, 3.0):
        total = {series: count}
        snapshot.hold(total, highest)
        assert total[series] == count


@pytest.mark.parametrize("garbage", [b"\0", b"\0\0\0\5c{", b"\0\0\0\2c"])
def test_a_process_that_dies_within_a_frame_keeps_what_it_told_before(garbage: bytes) -> None:
    totals = Totals()
    child, other = Child(totals), Child(totals)
    child.requests = 4
    assert child.ask() == 4
    child.send(garbage)
    child.end()
    other.requests = 1
    assert other.ask() == 5
    other.end()


def test_a_process_that_hangs_keeps_its_counters_and_loses_its_gauges() -> None:
    totals = Totals()
    child = Child(totals)
    child.requests = 4
    assert child.ask() == 4
    for seconds, demand in ((1.0, 3.0), (60.0, 0.0)):
        total = totals.sum(time.monotonic() + seconds)
        assert read(total, "lanefleet_lane_demand") == demand
        assert read(total, "lanefleet_api_refused_total") == 4
    child.end()


def test_a_process_that_sends_no_metrics_is_closed_and_keeps_what_it_told_before() -> None:
    totals = Totals()
    child = Child(totals)
    child.requests = 4
    child.tell()
    child.socket.sendall(frame(COUNTED, b"no"))
    assert not totals.read(child.parent)
    assert read(totals.sum(), "lanefleet_api_refused_total") == 4
    child.socket.close()


def test_frames_are_read_in_whatever_pieces_they_come() -> None:
    totals = Totals()
    child = Child(totals)
    child.requests = 4
    text = frame(COUNTED, snapshot.dump(counted(4)))
    for at in range(0, len(text), 7):
        child.send(text[at : at + 7])
    assert read(totals.sum(), "lanefleet_api_refused_total") == 4
    child.end()
