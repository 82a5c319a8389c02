"""What FastAPI traces of each request: a span, by the tracer of this process."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from fastapi.telemetry import TelemetryConfig

from contracts import tracing
from service.access import PROBES


def config() -> TelemetryConfig:
    """FastAPI's, off unless the environment names a collector; no metrics and logs in any case.

    Raises:
        ValueError: as `tracing.configure` says.
    """
    provider = tracing.configure("memit-service")
    return {
        "tracer_provider": provider,
        "tracing": provider is not None,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "auto_configure": False,
        "exclude": _is_probe,
    }


def _is_probe(scope: MutableMapping[str, Any]) -> bool:
    return scope.get("path") in PROBES
