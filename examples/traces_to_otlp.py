"""Spans and durations of one run to any OTLP endpoint: a collector, Jaeger, Phoenix, or what your vendor gives you.

    pip install "mcp-intercept-sdk[otel]"
    OTEL_SERVICE_NAME=agent OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 python examples/traces_to_otlp.py

The exporters read the standard environment variables: `OTEL_EXPORTER_OTLP_HEADERS` is where a key goes. For endpoints
that take no metrics, as Phoenix, set `OTEL_METRICS_EXPORTER=none`. With `opentelemetry-instrument python agent.py` an
agent needs none of this code: see `mcp_intercept.instrumentation`.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Any
from urllib.parse import urlsplit

import anyio
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from mcp_intercept import connect
from mcp_intercept.middleware import TracingMiddleware

SERVER = [sys.executable, "-m", "mcp_intercept", "demo-server"]
ENDPOINT = (
    os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    or "http://localhost:4318"
)


def check_endpoint() -> None:
    """An exporter whose endpoint is not there tries again, and again; better to know before."""
    url = urlsplit(ENDPOINT)
    try:
        socket.create_connection((url.hostname, url.port or (443 if url.scheme == "https" else 80)), timeout=5).close()
    except OSError as error:
        sys.exit(f"nothing listens at {ENDPOINT} ({error}); set OTEL_EXPORTER_OTLP_ENDPOINT")


async def run(provider: TracerProvider, meters: MeterProvider) -> str:
    tracing = TracingMiddleware(tracer_provider=provider, meter_provider=meters)
    with provider.get_tracer("agent").start_as_current_span("agent run") as span:
        async with connect(SERVER, tracing) as session:
            result: Any = await session.call_tool("forecast", {"city": "Oslo"})
            print(result.content[0].text)
    return f"{span.get_span_context().trace_id:032x}"


def main() -> None:
    check_endpoint()
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    with_metrics = os.environ.get("OTEL_METRICS_EXPORTER") != "none"
    meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())] if with_metrics else [])
    try:
        print(f"trace {anyio.run(run, provider, meters)} is at {ENDPOINT}")
    finally:
        # What is not sent yet, is sent.
        provider.shutdown()
        meters.shutdown()


if __name__ == "__main__":
    main()
