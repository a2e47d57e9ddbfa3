"""`MetricsMiddleware`: figures of all messages, kept in this process, for those who do not run OpenTelemetry."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from math import ceil, inf, log
from threading import RLock
from typing import TYPE_CHECKING, Any

from mcp_intercept._chain import NextFunctionT
from mcp_intercept._context import CLOSED, MiddlewareContext, Outcome, is_closed, outcome_of, printable
from mcp_intercept._faults import Faults
from mcp_intercept._metrics.tally import (
    BOUNDS,
    FAILURES,
    LONGEST,
    OTHER,
    PER_LOG,
    SHORTEST,
    History,
    Key,
    Series,
    Tally,
    merged,
    outer_bucket,
)
from mcp_intercept._metrics.values import (
    DurationStats,
    Frozen,
    MessageRecord,
    MessageStats,
    MetricsSnapshot,
    SeriesStats,
    WindowStats,
)
from mcp_intercept._middleware import Middleware
from mcp_intercept.errors import InterceptError, MissingExtraError
from mcp_intercept.methods import METHODS

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

__all__ = [
    "DurationStats",
    "MessageRecord",
    "MessageStats",
    "MetricsMiddleware",
    "MetricsSnapshot",
    "SeriesStats",
    "WindowStats",
]

_METHODS_WITH_NAME = frozenset({"tools/call", "prompts/get"})

_MAX_ERROR_TYPES = 16
# What else calls itself a code of JSON-RPC could have thousands of digits.
_CODES = range(-(2**31), 2**31)


class MetricsMiddleware(Middleware):
    """Count and time each message, requests and notifications of both directions, in bounded memory.

    `snapshot()` has the figures: counts by outcome, percentiles, rates, errors by type, slow messages, what is in
    flight; in total, by method, tool, prompt and connection. `prometheus_collector()` shows them to Prometheus. One
    instance may serve any number of sessions, in several threads and event loops. Where it stands in the chain decides
    what it sees: outside a retry it counts the call, inside it each attempt.

    Only names are kept of what is said: methods, tools, prompts and connections, all printable and capped. Messages
    are told apart by direction, kind, method, name and connection, in up to `max_series` such series, first come,
    first served. What finds no room is counted as `"_OTHER"`, still under its method if that is one of MCP's (this
    adds at most one series for each kind of message), so a server that makes up names costs no memory.

    Should the clock fail, say, no message is affected: that is logged once to `mcp_intercept`, and counted as
    `MetricsSnapshot.lost`.

    Args:
        max_series: How many series to keep apart.
        max_connections: How many connection ids to keep apart, so that many short connections (some agent frameworks
            open one for each call) do not crowd out the tools; those that come later are `"_OTHER"`.
        max_records: How many of the last failed messages, slow and fast requests to remember, of each.
        slow_after: Seconds; a request of the client that takes longer is slow. `None`: none is.
        fast_within: Seconds; a request of the client that takes no longer is fast. `None`: none is.
        clock: Monotonic seconds, for tests. Called from every thread that has sessions.

    Raises:
        InterceptError: An argument is not what it should be.
    """

    def __init__(
        self,
        *,
        max_series: int = 1000,
        max_connections: int = 100,
        max_records: int = 50,
        slow_after: float | None = 1.0,
        fast_within: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._max_series = _checked_number("max_series", max_series, least=1)
        self._max_connections = _checked_number("max_connections", max_connections, least=1)
        records = _checked_number("max_records", max_records, least=0)
        self._slow_after = _checked_seconds("slow_after", slow_after)
        self._fast_within = _checked_seconds("fast_within", fast_within)
        # As bounds that need no test for None.
        self._slow_bound = inf if self._slow_after is None else self._slow_after
        self._fast_bound = -1.0 if self._fast_within is None else self._fast_within
        self._clock = clock
        self._started = self._latest = _checked_clock(clock)
        self._started_at = time.time()
        # Reentrant: when the garbage collector closes a call that somebody abandoned, that ends here, in whatever
        # thread, and at whatever line.
        self._lock = RLock()
        self._series: dict[tuple[Any, ...], Series] = {}
        self._connections: set[str] = set()
        self._in_flight = self._peak = 0
        self._lost = self._lost_before = 0
        self._history = History(self._started_at)
        self._recent_errors: deque[MessageRecord] = deque(maxlen=records)
        self._slow: deque[MessageRecord] = deque(maxlen=records)
        self._fast: deque[MessageRecord] = deque(maxlen=records)
        self._faults = Faults(self)

    async def on_message(self, context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        """Every message, whatever its kind and direction."""
        begun = self._begin(context)
        if begun is None:
            return await call_next(context)
        try:
            result = await call_next(context)
        except BaseException as error:
            self._end(*begun, context, None, error)
            raise
        self._end(*begun, context, result, None)
        return result

    def snapshot(self) -> MetricsSnapshot:
        """All figures at this moment, as a value that never changes.

        Takes some milliseconds with a thousand series; the messages of other threads wait for a small part of it.
        """
        with self._lock:
            elapsed = max(0.0, self._now() - self._started)
            started_at = self._started_at
            history = self._history.copy()
            counted = [(each, each.in_flight, each.tally.copy()) for each in list(self._series.values())]
            in_flight, peak, lost = self._in_flight, self._peak, self._lost - self._lost_before
            recent_errors, slow, fast = (tuple(each.copy()) for each in (self._recent_errors, self._slow, self._fast))
        # A series stays when all is reset, but shows only if there is something to show.
        counted = [(each, pending, tally) for each, pending, tally in counted if pending or tally.count()]
        calls = [one for one in counted if one[0].is_call]

        def stats(group: Iterable[tuple[Series, int, Tally]]) -> MessageStats:
            return merged([(pending, tally) for _, pending, tally in group], elapsed)

        def by(
            field: str, group: Iterable[tuple[Series, int, Tally]], method: str | None = None
        ) -> Mapping[str, MessageStats]:
            groups: dict[str, list[tuple[Series, int, Tally]]] = {}
            for one in group:
                value = getattr(one[0].key, field)
                if value is not None and method in (None, one[0].key.method):
                    groups.setdefault(value, []).append(one)
            return Frozen({value: stats(members) for value, members in groups.items()})

        return MetricsSnapshot(
            started_at=started_at,
            elapsed=elapsed,
            totals=stats(counted),
            calls=stats(calls),
            by_method=by("method", counted),
            by_tool=by("name", calls, "tools/call"),
            by_prompt=by("name", calls, "prompts/get"),
            by_connection=by("connection_id", calls),
            series=tuple(SeriesStats(**one[0].key._asdict(), stats=stats([one])) for one in counted),
            in_flight=in_flight,
            peak_in_flight=peak,
            last_minute=history.window(elapsed, 60),
            last_5_minutes=history.window(elapsed, 300),
            last_hour=history.window(elapsed, 3600),
            by_hour=Frozen(history.by_hour()),
            recent_errors=recent_errors,
            slow_calls=slow,
            fast_calls=fast,
            slow_after=self._slow_after,
            fast_within=self._fast_within,
            overflow=sum(tally.count() for each, _, tally in counted if each.overflows),
            lost=lost,
        )

    def reset(self) -> None:
        """Begin to count anew.

        What is in flight stays so, and counts when it ends. What Prometheus is shown goes on growing, and for its sake
        the series there are keep their places.
        """
        with self._lock:
            self._started = self._now()
            self._started_at = time.time()
            self._history = History(self._started_at)
            for series in list(self._series.values()):
                series.reset()
            self._peak = self._in_flight
            self._lost_before = self._lost
            for records in (self._recent_errors, self._slow, self._fast):
                records.clear()

    def prometheus_collector(self, *, connection_ids: bool = False) -> Collector:
        """What shows all figures to Prometheus, from the start of this middleware on; it needs the extra `prometheus`.

        Register it once: `prometheus_client.REGISTRY.register(metrics.prometheus_collector())`. There are

        - `mcp_client_operations_total`, by `outcome`
        - `mcp_client_operation_duration_seconds`, a histogram
        - `mcp_client_operation_errors_total`, by `error_type`, see `MessageStats.errors`
        - `mcp_client_slow_operations_total`, of the requests that the client sent
        - `mcp_client_operations_in_flight`, a gauge

        all labelled with `direction`, `kind`, `method`, `name` (empty if there is none), and

        - `mcp_client_overflowed_operations_total`, those counted as `"_OTHER"`
        - `mcp_client_lost_operations_total`, those not counted at all

        One for each registry: a second one has the same names.

        Args:
            connection_ids: Whether `connection_id` is a label as well. Where each call has a session of its own, as in
                some frameworks, no series would ever grow.

        Raises:
            MissingExtraError: `prometheus_client` is not installed.
        """
        try:
            from mcp_intercept._metrics.prometheus import PrometheusCollector
        except ImportError as error:
            raise MissingExtraError("MetricsMiddleware.prometheus_collector", "prometheus") from error
        return PrometheusCollector(self._lifetime, connection_ids)

    def _begin(self, context: MiddlewareContext[Any]) -> tuple[Series, float] | None:
        """Count a message as in flight.

        Returns:
            Its series, and the clock; `None` if that failed and it is not counted.
        """
        try:
            method = context.method
            name = getattr(context.params, "name", None) if method in _METHODS_WITH_NAME else None
            # Tuples are equal to named ones, and faster to make.
            series = self._series.get((context.direction, context.kind, method, name, context.connection_id))
            started = self._clock()
            with self._lock:
                if series is None:
                    series = self._new_series(context)
                series.in_flight += 1
                if series.is_call:
                    self._in_flight += 1
                    if self._in_flight > self._peak:
                        self._peak = self._in_flight
        except Exception as failure:
            self._lose(failure)
            return None
        return series, started

    def _new_series(self, context: MiddlewareContext[Any]) -> Series:
        """The series of a message that is the first in its own, or has none of its own."""
        key = _key_of(context)
        if key.connection_id not in self._connections:
            if len(self._connections) < self._max_connections:
                self._connections.add(key.connection_id)
            else:
                key = key._replace(connection_id=OTHER)
        series = self._series.get(key)
        if series is None:
            if len(self._series) >= self._max_series:
                key = key._replace(
                    method=key.method if key.method in METHODS else OTHER,
                    name=None if key.name is None else OTHER,
                    connection_id=OTHER,
                )
            series = self._series.setdefault(key, Series(key))
        return series

    def _end(
        self,
        series: Series,
        started: float,
        context: MiddlewareContext[Any],
        result: Any,
        error: BaseException | None,
    ) -> None:
        """Count a message as ended."""
        # All that can fail comes first, so that no counter is ahead of the others.
        try:
            now = self._clock()
            duration = now - started
            if not duration > 0.0:
                duration = 0.0
            bucket = ceil(log(duration) * PER_LOG) if SHORTEST < duration < LONGEST else outer_bucket(duration)
            int(now)  # refuses what is not finite, or no number
            is_slow = duration > self._slow_bound and series.is_call
            is_fast = duration <= self._fast_bound and series.is_call
            outcome = outcome_of(result, error)
            failed = outcome in FAILURES
            error_type = None if outcome == "ok" else self._error_type(series, outcome, error)
            record = _record(context, outcome, error_type, duration) if failed or is_slow or is_fast else None
        except Exception as failure:
            with self._lock:
                series.in_flight -= 1
                self._in_flight -= series.is_call
            self._lose(failure)
            return
        with self._lock:
            series.in_flight -= 1
            if series.is_call:
                self._in_flight -= 1
                self._history.add(int(now - self._started), failed)
            self._latest = now
            tally = series.tally
            tally.outcomes[outcome] += 1
            tally.total += duration
            if duration < tally.min:
                tally.min = duration
            if duration > tally.max:
                tally.max = duration
            tally.buckets[bucket] = tally.buckets.get(bucket, 0) + 1
            tally.histogram[bisect_left(BOUNDS, duration)] += 1
            if error_type is not None:
                tally.errors[error_type] = tally.errors.get(error_type, 0) + 1
            if record is not None:
                if failed:
                    self._recent_errors.append(record)
                if is_slow:
                    tally.slow += 1
                    self._slow.append(record)
                if is_fast:
                    tally.fast += 1
                    self._fast.append(record)

    def _error_type(self, series: Series, outcome: Outcome, error: BaseException | None) -> str:
        """The key under which to count how a message ended, if there is room for it."""
        if outcome != "error":
            return outcome
        code = getattr(getattr(error, "error", None), "code", None)
        if is_closed(error):
            error_type = CLOSED
        elif isinstance(code, int):
            error_type = str(code) if code in _CODES else OTHER
        else:
            error_type = printable(type(error).__name__)
        with self._lock:
            if error_type not in series.error_types:
                if len(series.error_types) >= _MAX_ERROR_TYPES:
                    return OTHER
                series.error_types.add(error_type)
        return error_type

    def _lifetime(self) -> tuple[list[tuple[Key, int, Tally]], int]:
        """Each series with what is in flight and all that was ever counted; and the number of lost messages."""
        with self._lock:
            return [(each.key, each.in_flight, each.lifetime()) for each in list(self._series.values())], self._lost

    def _now(self) -> float:
        """The clock, or what it last said."""
        try:
            now = self._clock()
            int(now)  # refuses what is not finite, or no number
            return float(now)
        except Exception as failure:
            self._faults.report("read its clock", failure, text=False)
            return self._latest

    def _lose(self, failure: Exception) -> None:
        with self._lock:
            self._lost += 1
        self._faults.report("measure a message", failure, text=False)


def _key_of(context: MiddlewareContext[Any]) -> Key:
    """What tells the messages of a series apart, fit to be kept and shown."""
    name = getattr(context.params, "name", None) if context.method in _METHODS_WITH_NAME else None
    return Key(
        context.direction,
        context.kind,
        printable(context.method),
        printable(name) if name else None,
        printable(context.connection_id),
    )


def _record(
    context: MiddlewareContext[Any], outcome: Outcome, error_type: str | None, duration: float
) -> MessageRecord:
    return MessageRecord(
        timestamp=context.timestamp,
        message_id=printable(context.id),
        **_key_of(context)._asdict(),
        outcome=outcome,
        error_type=error_type,
        duration=duration,
    )


def _checked_number(option: str, number: object, *, least: int) -> int:
    if isinstance(number, int) and not isinstance(number, bool) and number >= least:
        return number
    raise InterceptError(f"{option} must be a whole number, at least {least}, not {number!r}")


def _checked_seconds(option: str, seconds: object) -> float | None:
    if seconds is None:
        return None
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < inf:
        return float(seconds)
    raise InterceptError(f"{option} must be a number of seconds, at least 0, not {seconds!r}; for none at all, None")


def _checked_clock(clock: Callable[[], float]) -> float:
    """What the clock says first."""
    try:
        now = clock()
        int(now)  # refuses what is not finite, or no number
        return float(now)
    except Exception as error:
        raise InterceptError(f"clock must return seconds, like time.perf_counter; {clock!r} does not") from error
