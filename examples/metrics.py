"""Figures without OpenTelemetry: a table from a snapshot, and the same for Prometheus to scrape.

Run it: `python examples/metrics.py`. The second part needs `pip install "mcp-intercept-sdk[prometheus]"`.
"""

from __future__ import annotations

import sys

import anyio

from mcp_intercept import connect
from mcp_intercept.errors import MissingExtraError
from mcp_intercept.middleware import MetricsMiddleware
from mcp_intercept.middleware.metrics import MetricsSnapshot

SERVER = [sys.executable, "-m", "mcp_intercept", "demo-server"]


def show(snapshot: MetricsSnapshot) -> None:
    print(f"{'tool':12}{'calls':>6}{'p50':>9}{'p99':>9}  outcomes")
    for tool, stats in snapshot.by_tool.items():
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in stats.outcomes.items() if count)
        if stats.duration is not None:
            p50, p99 = stats.duration.p50 * 1000, stats.duration.p99 * 1000
            print(f"{tool:12}{stats.count:6}{p50:6.0f} ms{p99:6.0f} ms  {outcomes}")
    calls = snapshot.calls
    print(f"{calls.count} calls, {calls.error_rate:.0%} failed: {dict(calls.errors)}")
    print(f"{snapshot.last_minute.rate:.1f} per second, at most {snapshot.peak_in_flight} at once")
    for record in snapshot.slow_calls:
        print(f"slow: {record.method} {record.name or ''} {record.duration:.1f} s")


def show_for_prometheus(metrics: MetricsMiddleware) -> None:
    try:
        collector = metrics.prometheus_collector()
    except MissingExtraError as error:
        print(error)
        return
    from prometheus_client import CollectorRegistry, generate_latest

    # A program of yours would register with prometheus_client.REGISTRY, and call start_http_server(9000).
    registry = CollectorRegistry()
    registry.register(collector)
    for line in generate_latest(registry).decode().splitlines():
        if line.startswith("mcp_client_operations_total") and "tools/call" in line and not line.endswith(" 0.0"):
            print(line)


async def main() -> None:
    metrics = MetricsMiddleware(slow_after=0.4)
    async with connect(SERVER, metrics, connection_id="travel-desk") as session, anyio.create_task_group() as tasks:
        for city in ("Oslo", "Bergen", "Narvik"):
            tasks.start_soon(session.call_tool, "forecast", {"city": city})
        tasks.start_soon(session.call_tool, "find_rooms", {"city": "Oslo"})
        tasks.start_soon(session.call_tool, "book_room", {"hotel": "Hotel Fjord"})
    show(metrics.snapshot())
    show_for_prometheus(metrics)


if __name__ == "__main__":
    anyio.run(main)
