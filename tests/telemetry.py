"""An OpenTelemetry SDK for tests: what it exports stays in memory, and it may be the global one for a while."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider as AnyMeterProvider
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import NoOpTracerProvider, Span, Tracer
from opentelemetry.trace import TracerProvider as AnyTracerProvider

OURS = "mcp_intercept"
"""The scope of what `TracingMiddleware` makes; others in the process make spans, too."""


@dataclass(frozen=True)
class Point:
    """What a histogram has got for one set of attributes, since it was last asked."""

    name: str
    unit: str
    attributes: Mapping[str, Any]
    count: int
    sum: float
    bounds: tuple[float, ...]


class Telemetry:
    """Providers to trace and measure with, and what they have exported.

    Args:
        sampler: Of the tracer provider; by default every span is sampled whose parent is.
    """

    def __init__(self, sampler: Sampler | None = None) -> None:
        self._exporter = InMemorySpanExporter()
        self._taken = 0
        self.tracer_provider = TracerProvider(sampler)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader(preferred_temporality={Histogram: AggregationTemporality.DELTA})
        self.meter_provider = MeterProvider([self._reader])

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """All spans that have ended, whoever made them, in the order in which they did."""
        return self._exporter.get_finished_spans()

    def take_spans(self) -> list[ReadableSpan]:
        """Those that have ended since this was last asked."""
        spans = self.spans[self._taken :]
        self._taken += len(spans)
        return list(spans)

    def take_points(self) -> list[Point]:
        """What the histograms have got since this was last asked, a point for each set of attributes."""
        data = self._reader.get_metrics_data()
        return [
            Point(metric.name, metric.unit or "", dict(point.attributes or {}), point.count, point.sum, _bounds(point))
            for resource in ([] if data is None else data.resource_metrics)
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
            if isinstance(point, HistogramDataPoint)
        ]

    @contextmanager
    def as_global(self) -> Generator[Telemetry, None, None]:
        """Be the global providers: of everybody in the process who asks for none in particular."""
        _install()
        _current.append(self)
        try:
            yield self
        finally:
            _current.remove(self)

    def shut_down(self) -> None:
        """Release what the providers hold."""
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


def _bounds(point: HistogramDataPoint) -> tuple[float, ...]:
    return tuple(point.explicit_bounds)


# The global providers can be set once in a process, and whoever has asked for a tracer keeps it. So what is set leads
# to the `Telemetry` of the day; without one, it does nothing, as if there were no provider.
_current: list[Telemetry] = []


class _Tracers(AnyTracerProvider):
    def get_tracer(self, *args: Any, **kwargs: Any) -> Tracer:
        return _Tracer(args, kwargs)


class _Tracer(Tracer):
    def __init__(self, args: Any, kwargs: Any) -> None:
        self._asked_for = (args, kwargs)

    @property
    def _real(self) -> Tracer:
        args, kwargs = self._asked_for
        provider = _current[-1].tracer_provider if _current else NoOpTracerProvider()
        return provider.get_tracer(*args, **kwargs)

    def start_span(self, *args: Any, **kwargs: Any) -> Span:
        return self._real.start_span(*args, **kwargs)

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        return self._real.start_as_current_span(*args, **kwargs)


class _Meters(AnyMeterProvider):
    def get_meter(self, *args: Any, **kwargs: Any) -> metrics.Meter:
        provider = _current[-1].meter_provider if _current else NoOpMeterProvider()
        return provider.get_meter(*args, **kwargs)


_installed: list[Any] = []


def _install() -> None:
    if not _installed:
        _installed.extend([_Tracers(), _Meters()])
        trace.set_tracer_provider(_installed[0])
        metrics.set_meter_provider(_installed[1])
