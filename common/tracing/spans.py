"""Spans of OpenTelemetry, sent by OTLP over HTTP as its own OTEL_* variables say.

Off unless LANEFLEET_TRACES, and then nothing here is called: the parts that make spans are not
built. A span's context is the W3C traceparent that requests and messages carry, never a context
variable, as a job is sent by one process and run by another. Nothing is created for what is not
sampled.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from common.errors import ConfigurationError, name_of, text_of
from common.settings import TraceSettings
from common.trace import is_sampled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, SpanContext, Tracer

Kind = Literal["SERVER", "PRODUCER", "CONSUMER"]
Attributes = Mapping[str, Any]
MESSAGING: Attributes = {"messaging.system": "celery"}
"""Of every span about messages: the client is Celery's protocol, whatever carries it."""
MAX_LINKS = 128
_FLUSH_SECONDS = 2.0
"""How long the end of a process waits for its last spans; OpenTelemetry's own 30 s would outlast
the time that a container has to end."""


class Tracing:
    """Starts spans. Use `open_tracing`."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def start(
        self,
        name: str,
        kind: Kind,
        traceparent: str,
        attributes: Attributes,
        *,
        links: Sequence[tuple[str, Attributes]] = (),
        start_ns: int | None = None,
    ) -> Span | None:
        """A span below this traceparent, or a trace's first where it is empty; None where the
        sampler does not want it. links: traceparents, and what is said of each.
        """
        from opentelemetry.trace import SpanKind

        span = self._tracer.start_span(
            name,
            _context_of(traceparent),
            SpanKind[kind],
            dict(attributes),
            [_link(one, about) for one, about in links[:MAX_LINKS]],
            start_ns,
        )
        return span if span.is_recording() else None

    @contextmanager
    def sending(self, lane: str, parent: str, attributes: Attributes) -> Iterator[str]:
        """A `send` span while jobs are sent to this lane; the traceparent that their messages
        carry. Where the parent is not sampled there is none, and the parent goes on as it is.
        """
        told = {
            **MESSAGING,
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": lane,
            **attributes,
        }
        span = self.start(f"send {lane}", "PRODUCER", parent, told) if is_sampled(parent) else None
        if span is None:
            yield parent
            return
        try:
            yield traceparent_of(span)
        except BaseException as exc:
            set_failed(span, exc)
            raise
        finally:
            span.end()


def traceparent_of(span: Span) -> str:
    """The header that carries the span's context."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def set_failed(span: Span, error: BaseException) -> None:
    """Mark the span as failed by this error; its text is not said, as it may quote an input."""
    code = getattr(error, "code", None)
    set_error(span, code if isinstance(code, str) else name_of(error))


def set_error(span: Span, kind: str) -> None:
    """Mark the span as failed, with a machine-readable reason."""
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


@cache
def open_tracing(settings: TraceSettings, service: str) -> Tracing | None:
    """This process' tracing, which ends with it; None where it is off.

    Raises ConfigurationError where OpenTelemetry is not installed.
    """
    if not settings.traces:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as exc:
        raise ConfigurationError(
            f"LANEFLEET_TRACES: {text_of(exc)}; install it with: pip install '.[otel]'"
        ) from exc
    own = Resource.create({"service.namespace": "lanefleet", "service.name": service})
    resource = own.merge(OTELResourceDetector().detect())  # OTEL_SERVICE_NAME and the like win
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    atexit.register(_at_most, provider.shutdown)
    return Tracing(provider.get_tracer("lanefleet"))


def _at_most(send_the_rest: Callable[[], None]) -> None:
    """Give up after a while: a collector that is away must keep no process from ending."""
    thread = threading.Thread(target=send_the_rest, name="last-spans", daemon=True)
    thread.start()
    thread.join(_FLUSH_SECONDS)


def _context_of(traceparent: str) -> Context:
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    empty = Context()
    if not traceparent:
        return empty
    return set_span_in_context(NonRecordingSpan(_span_context(traceparent)), empty)


def _link(traceparent: str, attributes: Attributes) -> Link:
    from opentelemetry.trace import Link

    return Link(_span_context(traceparent), dict(attributes))


def _span_context(traceparent: str) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags

    _, trace, span, flags = traceparent.split("-")[:4]
    return SpanContext(int(trace, 16), int(span, 16), True, TraceFlags(int(flags, 16) & 1))
