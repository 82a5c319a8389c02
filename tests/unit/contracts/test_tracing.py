"""Traces are off, and cost nothing, until the environment names a collector."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT = "import sys; sys.modules['opentelemetry.sdk.trace'] = None; "
OFF = """
import sys
from contracts import tracing
from contracts.origin import Origin
from contracts.settings import Settings
from service.app import create_app
create_app(Settings())
with tracing.span('x', edit='edit-1') as span:
    span.set(version='v1')
    tracing.begin('y').end()
assert not tracing.on() and Origin.here() == Origin()
tracing.shut_down()
# Of the SDK redis itself imports the metrics where it is installed.
found = [name for name in sys.modules if name.startswith(
    ('opentelemetry.sdk.trace', 'opentelemetry.exporter', 'google.protobuf')
)]
assert not found, found
"""


def run(code: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "MEMIT_HOME": str(home), "REDIS_URL": "redis://127.0.0.1:1", **variables}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_off_nothing_is_imported(tmp_path: Path, variables: dict[str, str]) -> None:
    done = run(OFF, tmp_path, **variables)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("code", "variables", "reason"),
    [
        (WITHOUT, {}, 'needs pip install "memit-service[telemetry]"'),
        ("", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL is grpc"),
    ],
)
def test_what_is_missing_is_said_at_the_start(
    tmp_path: Path, code: str, variables: dict[str, str], reason: str
) -> None:
    start = f"{code}import runpy; runpy.run_module('service', run_name='__main__')"
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    done = run(start, tmp_path, **endpoint, **variables)
    assert done.returncode == 2
    assert "cannot start: OTEL_EXPORTER_OTLP" in done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
