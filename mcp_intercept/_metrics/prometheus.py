"""The figures as Prometheus wants them; imports what the extra `prometheus` brings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from mcp_intercept._metrics.tally import BOUNDS, OTHER, Key, Tally


class PrometheusCollector:
    """Makes metrics for Prometheus, each time it asks."""

    def __init__(self, lifetime: Callable[[], tuple[list[tuple[Key, int, Tally]], int]]) -> None:
        self._lifetime = lifetime

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        labels = Key._fields
        operations = CounterMetricFamily(
            "mcp_client_operations", "MCP messages that ended, by outcome.", labels=[*labels, "outcome"]
        )
        durations = HistogramMetricFamily(
            "mcp_client_operation_duration_seconds", "How long MCP messages took, in seconds.", labels=labels
        )
        errors = CounterMetricFamily(
            "mcp_client_operation_errors", "MCP messages that did not end ok.", labels=[*labels, "error_type"]
        )
        slow = CounterMetricFamily("mcp_client_slow_operations", "MCP requests that were slow.", labels=labels)
        in_flight = GaugeMetricFamily("mcp_client_operations_in_flight", "MCP messages on their way.", labels=labels)
        overflow = 0
        series, lost = self._lifetime()
        for key, pending, tally in series:
            values = [value or "" for value in key]
            for outcome, count in tally.outcomes.items():
                operations.add_metric([*values, outcome], count)
            for error_type, count in tally.errors.items():
                errors.add_metric([*values, error_type], count)
            up_to = 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip((*map(str, BOUNDS), "+Inf"), tally.histogram, strict=True):
                up_to += count
                buckets.append((bound, up_to))
            durations.add_metric(values, buckets, tally.total)
            if key.direction == "outgoing" and key.kind == "request":
                slow.add_metric(values, tally.slow)
            in_flight.add_metric(values, pending)
            overflow += tally.count() if OTHER in key else 0
        yield from (operations, durations, errors, slow, in_flight)
        yield CounterMetricFamily(
            "mcp_client_overflowed_operations", "MCP messages counted as OTHER for lack of room.", value=overflow
        )
        yield CounterMetricFamily("mcp_client_lost_operations", "MCP messages not counted at all.", value=lost)
