"""The figures as Prometheus wants them; imports what the extra `prometheus` brings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from mcp_intercept._metrics.tally import BOUNDS, OTHER, Key, Tally


class PrometheusCollector:
    """Makes metrics for Prometheus, each time it asks."""

    def __init__(self, lifetime: Callable[[], tuple[list[tuple[Key, int, Tally]], int]], connection_ids: bool) -> None:
        self._lifetime = lifetime
        self._connection_ids = connection_ids

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        labels = [name for name in Key._fields if name != "connection_id" or self._connection_ids]
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
        if not self._connection_ids:
            overflow = sum(tally.count() for key, _, tally in series if OTHER in key)
            series = _without_connections(series)
        for key, pending, tally in series:
            values = [value or "" for value in key[: len(labels)]]
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
            overflow += tally.count() if self._connection_ids and OTHER in key else 0
        yield from (operations, durations, errors, slow, in_flight)
        yield CounterMetricFamily(
            "mcp_client_overflowed_operations", "MCP messages counted as _OTHER for lack of room.", value=overflow
        )
        yield CounterMetricFamily("mcp_client_lost_operations", "MCP messages not counted at all.", value=lost)


def _without_connections(series: list[tuple[Key, int, Tally]]) -> list[tuple[Key, int, Tally]]:
    merged: dict[Key, tuple[int, Tally]] = {}
    for key, pending, tally in series:
        common = key._replace(connection_id="")
        before, total = merged.get(common, (0, Tally()))
        total.add(tally)
        merged[common] = before + pending, total
    return [(key, pending, tally) for key, (pending, tally) in merged.items()]
