"""Spans where they are wanted, and nothing where they are not."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from common.errors import ConfigurationError, LaneFull
from common.settings import TraceSettings
from common.trace import is_sampled, read_traceparent
from common.tracing.spans import MAX_LINKS, Tracing, open_tracing, traceparent_of

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
QUIET = PARENT[:-2] + "00"


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exported: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    return Tracing(provider.get_tracer("test"))


def test_off_is_the_default_and_builds_nothing() -> None:
    assert open_tracing(TraceSettings(), "lanefleet-api") is None


def test_a_missing_package_is_named_with_the_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigurationError, match=r"pip install '\.\[otel\]'"):
        open_tracing(TraceSettings(traces=True), "lanefleet-worker")


def test_a_message_carries_the_context_of_its_send_span(
    tracing: Tracing, exported: InMemorySpanExporter
) -> None:
    with tracing.sending("echo", PARENT, {"messaging.message.id": "1"}) as context:
        assert read_traceparent(context) == context
    (span,) = exported.get_finished_spans()
    assert context == traceparent_of(span)  # type: ignore[arg-type]  # read-only, the same names
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "b" * 16
    assert (span.name, span.attributes["messaging.message.id"]) == ("send echo", "1")  # type: ignore[index]


@pytest.mark.parametrize("parent", [QUIET, ""])
def test_what_is_not_sampled_makes_nothing_and_goes_on_as_it_is(
    tracing: Tracing, exported: InMemorySpanExporter, parent: str
) -> None:
    with tracing.sending("echo", parent, {}) as context:
        assert context == parent
    assert not exported.get_finished_spans()
    assert tracing.start("POST", "SERVER", QUIET, {}) is None


def test_a_refused_job_marks_its_span_by_code_and_not_by_text(
    tracing: Tracing, exported: InMemorySpanExporter
) -> None:
    with pytest.raises(LaneFull), tracing.sending("echo", PARENT, {}):
        raise LaneFull("secret words")
    (span,) = exported.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["error.type"] == LaneFull.code
    assert not span.status.is_ok
    assert "secret" not in span.to_json()


def test_links_are_bounded(tracing: Tracing, exported: InMemorySpanExporter) -> None:
    links: list[tuple[str, dict[str, Any]]] = [(PARENT, {"n": n}) for n in range(200)]
    span = tracing.start("process echo", "CONSUMER", PARENT, {}, links=links)
    assert span is not None
    span.end()
    assert len(exported.get_finished_spans()[0].links) == MAX_LINKS


@pytest.mark.parametrize(
    ("header", "sampled"), [(PARENT, True), (QUIET, False), ("", False), (PARENT[:-2] + "03", True)]
)
def test_the_last_bit_of_the_flags_says_whether_a_trace_is_recorded(
    header: str, sampled: bool
) -> None:
    assert is_sampled(header) is sampled
