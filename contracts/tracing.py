"""Traces by OpenTelemetry, where its own variables name a collector; else nothing, at no cost.

Attributes are ids, counts and seconds, never a text of a client.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from contracts.redaction import Redaction

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"

_provider: Any = None
"""The SDK's `TracerProvider`, where traces are on."""


class Span:
    """A span that was begun; one that is not recorded does nothing."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def set(self, **attributes: str | int | float | bool) -> None:
        """Attributes under `memit.`, a double underscore for a dot of another namespace."""
        if self._span is not None:
            self._span.set_attributes(_named(attributes))

    def fail(self, kind: str) -> None:
        """It failed; `kind` is the name of an error, not its message."""
        if self._span is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_attribute("error.type", kind)
            self._span.set_status(StatusCode.ERROR)

    def end(self) -> None:
        if self._span is not None:
            self._span.end()


NO_SPAN = Span()


def configure(service: str) -> Any:
    """Begin to trace if the environment names a collector.

    Args:
        service: `service.name`, unless `OTEL_SERVICE_NAME` has another.

    Returns:
        The `TracerProvider`; None where traces are off.

    Raises:
        ValueError: the extra `telemetry` is not installed, or another protocol is asked for.
    """
    global _provider
    where = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if where is None or off or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    protocol = next((os.environ[name] for name in PROTOCOLS if os.environ.get(name)), PROTOCOL)
    if protocol != PROTOCOL:
        raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}; traces go by {PROTOCOL} only")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ValueError(
            f'{where} is set, and that needs pip install "memit-service[telemetry]" ({error})'
        ) from None
    resources = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in resources
    provider = TracerProvider(resource=Resource.create({} if named else {"service.name": service}))
    provider.add_span_processor(_redacting())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _provider = provider
    return provider


def on() -> bool:
    """Whether spans are recorded."""
    return _provider is not None


def shut_down() -> None:
    """Send what was not sent yet."""
    if _provider is not None:
        _provider.shutdown()


def begin(name: str, parent: str | None = None, **attributes: str | int | float | bool) -> Span:
    """Begin a span that the caller ends, in any thread.

    Args:
        parent: a `traceparent`; by default the span that is current here, if one is.
    """
    if _provider is None:
        return NO_SPAN
    return Span(_begun(name, parent, attributes))


@contextmanager
def span(
    name: str, parent: str | None = None, **attributes: str | int | float | bool
) -> Iterator[Span]:
    """A span that is current in its context; an error ends it as failed."""
    if _provider is None:
        yield NO_SPAN
        return
    from opentelemetry.trace import use_span

    begun = Span(_begun(name, parent, attributes))
    with use_span(
        begun._span, end_on_exit=True, record_exception=False, set_status_on_exception=False
    ):
        try:
            yield begun
        except BaseException as error:
            begun.fail(type(error).__name__)
            raise


def traceparent() -> str | None:
    """W3C's header for the span that is current here; None without one."""
    if _provider is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def _begun(name: str, parent: str | None, attributes: Mapping[str, Any]) -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = None
    if parent is not None:
        context = TraceContextTextMapPropagator().extract({"traceparent": parent})
    tracer = _provider.get_tracer("memit")
    return tracer.start_span(name, context=context, attributes=_named(attributes))


def _named(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name.replace("__", ".") if "__" in name else f"memit.{name}": value
        for name, value in attributes.items()
    }


def _redacting() -> Any:
    """A processor that keeps queries, which hold texts, and secrets in paths out of HTTP spans."""
    from opentelemetry.sdk.trace import SpanProcessor

    redact = Redaction()

    class Redacting(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:  # noqa: ARG002
            attributes = dict(span.attributes or {})
            if "url.query" in attributes:
                span.set_attribute("url.query", "REDACTED")
            if "url.path" in attributes:
                span.set_attribute("url.path", redact(str(attributes["url.path"])))

    return Redacting()
