"""One run of an agent as a tree of spans, and how long its calls took, on the console.

Run it: `python examples/traces_to_console.py`. It needs `opentelemetry-sdk`. The server is in the same process, so that
what an SDK traces there shows up, too: line 2 has a SERVER span for each call.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import anyio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import set_tracer_provider

from mcp_intercept import connect
from mcp_intercept._demo.server import make_server
from mcp_intercept.middleware import TracingMiddleware


def print_tree(spans: Iterable[ReadableSpan], parent: int | None = None, depth: int = 0) -> None:
    for span in sorted(spans, key=lambda span: span.start_time or 0):
        if (span.parent.span_id if span.parent else None) == parent:
            milliseconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
            error = (span.attributes or {}).get("error.type", "")
            print(f"{'  ' * depth + span.name:<32} {span.kind.name:<8} {milliseconds:6.1f} ms  {error}")
            print_tree(spans, span.context.span_id, depth + 1)


def print_durations(data: Any) -> None:
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        for point in metric.data.data_points:
            of = " ".join(point.attributes.get(name, "") for name in ("mcp.method.name", "gen_ai.tool.name"))
            print(f"{metric.name:<30} {of:<32} {point.count} x, {point.sum:.3f} s")


async def main() -> None:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    set_tracer_provider(provider)  # for the server, which cannot be given one
    tracing = TracingMiddleware(meter_provider=MeterProvider([reader]))

    with provider.get_tracer("agent").start_as_current_span("agent run"):
        async with connect(make_server(), tracing) as session:
            await session.call_tool("forecast", {"city": "Oslo"})
            await session.call_tool("book_room", {"hotel": "Hotel Fjord"})
    print_tree(exporter.get_finished_spans())
    print()
    print_durations(reader.get_metrics_data())


if __name__ == "__main__":
    anyio.run(main)
