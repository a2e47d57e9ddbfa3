"""Counters in bounded memory, and percentiles of what they counted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from math import ceil, inf, log
from typing import NamedTuple, TypeVar, get_args

from mcp_intercept._context import Direction, Kind, Outcome
from mcp_intercept._metrics.values import DurationStats, Frozen, MessageStats, WindowStats

KeyT = TypeVar("KeyT")

_OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
FAILURES: tuple[Outcome, ...] = ("tool_error", "error", "timeout")

OTHER = "_OTHER"

_HOUR = 3600
_MAX_HOURS = 7 * 24

# Durations are counted in buckets each 2 % wider than the one below. The middle of a bucket is less than 1 % from
# everything in it.
_GROWTH = 1.02
PER_LOG = 1 / log(_GROWTH)
# Clocks count nanoseconds, and no process lasts longer than months: this is what bounds the number of buckets.
SHORTEST, LONGEST = 1e-10, 1e7
_LOWEST, _HIGHEST = ceil(log(SHORTEST) * PER_LOG) - 1, ceil(log(LONGEST) * PER_LOG) + 1
_PERCENTS = (50, 90, 95, 99)

BOUNDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Key(NamedTuple):
    """What the messages of a series have in common."""

    direction: Direction
    kind: Kind
    method: str
    name: str | None
    connection_id: str


class Tally:
    """Messages, counted. All counters but those of a series can be thrown away."""

    __slots__ = ("buckets", "errors", "fast", "histogram", "max", "min", "outcomes", "slow", "total")

    def __init__(self) -> None:
        self.outcomes: dict[Outcome, int] = dict.fromkeys(_OUTCOMES, 0)
        self.errors: dict[str, int] = {}
        self.total = 0.0
        self.min = inf
        self.max = 0.0
        self.slow = 0
        self.fast = 0
        self.buckets: dict[int, int] = {}
        self.histogram = [0] * (len(BOUNDS) + 1)

    def count(self) -> int:
        return sum(self.outcomes.values())

    def copy(self) -> Tally:
        # Copied as a whole: to iterate could run the garbage collector, and that the end of another message.
        copy = Tally.__new__(Tally)
        copy.outcomes = self.outcomes.copy()
        copy.errors = self.errors.copy()
        copy.buckets = self.buckets.copy()
        copy.histogram = self.histogram.copy()
        copy.total, copy.min, copy.max, copy.slow, copy.fast = self.total, self.min, self.max, self.slow, self.fast
        return copy

    def add(self, other: Tally) -> None:
        _add(self.outcomes, other.outcomes)
        _add(self.errors, other.errors)
        _add(self.buckets, other.buckets)
        self.histogram = [mine + theirs for mine, theirs in zip(self.histogram, other.histogram, strict=True)]
        self.total += other.total
        self.min = min(self.min, other.min)
        self.max = max(self.max, other.max)
        self.slow += other.slow
        self.fast += other.fast


class Series:
    """The counters of one series."""

    __slots__ = ("error_types", "in_flight", "is_call", "key", "overflows", "past", "tally")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.is_call = key.direction == "outgoing" and key.kind == "request"
        self.overflows = OTHER in key
        self.in_flight = 0
        self.tally = Tally()
        # What was counted before the last reset; for Prometheus, whose counters only grow.
        self.past: Tally | None = None
        self.error_types: set[str] = set()

    def reset(self) -> None:
        past, self.tally = self.tally, Tally()
        if self.past is not None:
            past.add(self.past)
        self.past = past

    def lifetime(self) -> Tally:
        tally = self.tally.copy()
        if self.past is not None:
            tally.add(self.past)
        return tally


class History:
    """How many calls ended when: by the second for the last hour, and by the hour before that."""

    __slots__ = ("_hours", "_seconds", "_started_at")

    def __init__(self, started_at: float) -> None:
        self._started_at = started_at
        # Each is [second since the start, ended, failed], oldest first; there is always one.
        self._seconds = deque([[0, 0, 0]])
        self._hours: dict[int, int] = {}

    def add(self, second: int, failed: bool) -> None:
        latest = self._seconds[-1]
        # One of another thread may have been faster.
        if second > latest[0]:
            latest = [second, 0, 0]
            self._seconds.append(latest)
            self._forget(second - _HOUR)
        latest[1] += 1
        latest[2] += failed

    def _forget(self, until: int) -> None:
        while self._seconds[0][0] <= until:
            second, count, _ = self._seconds.popleft()
            self._count_hour(self._hours, second, count)

    def _count_hour(self, hours: dict[int, int], second: int, count: int) -> None:
        if count:
            hour = int(self._started_at + second) // _HOUR * _HOUR
            hours[hour] = hours.get(hour, 0) + count
            if len(hours) > _MAX_HOURS:
                del hours[next(iter(hours))]

    def copy(self) -> History:
        copy = History(self._started_at)
        copy._hours = self._hours.copy()
        copy._seconds = deque(entry.copy() for entry in self._seconds.copy())
        return copy

    def by_hour(self) -> dict[int, int]:
        hours = self._hours.copy()
        for second, count, _ in self._seconds:
            self._count_hour(hours, second, count)
        return hours

    def window(self, elapsed: float, length: int) -> WindowStats:
        first = max(0, int(elapsed) - length + 1)
        within = [entry for entry in self._seconds if entry[0] >= first]
        count, failed = sum(entry[1] for entry in within), sum(entry[2] for entry in within)
        seconds = elapsed - first
        return WindowStats(
            seconds=seconds,
            count=count,
            failed=failed,
            rate=ratio(count, seconds),
            error_rate=ratio(failed, count),
        )


def outer_bucket(duration: float) -> int:
    return _LOWEST if duration <= SHORTEST else _HIGHEST


def merged(group: Iterable[tuple[int, Tally]], elapsed: float) -> MessageStats:
    in_flight, tally = 0, Tally()
    for pending, one in group:
        in_flight += pending
        tally.add(one)
    count = tally.count()
    failed = sum(tally.outcomes[outcome] for outcome in FAILURES)
    return MessageStats(
        count=count,
        in_flight=in_flight,
        outcomes=Frozen(tally.outcomes),
        failed=failed,
        error_rate=ratio(failed, count),
        errors=Frozen(dict(sorted(tally.errors.items(), key=lambda item: (-item[1], item[0])))),
        rate=ratio(count, elapsed),
        slow=tally.slow,
        fast=tally.fast,
        duration=_durations(tally, count) if count else None,
    )


def _durations(tally: Tally, count: int) -> DurationStats:
    # By nearest rank, in whole numbers: 0.07 * 100 is more than 7.
    ranks = [-(-percent * count // 100) for percent in _PERCENTS]
    percentiles: list[float] = []
    up_to = 0
    for bucket in sorted(tally.buckets):
        up_to += tally.buckets[bucket]
        while len(percentiles) < len(ranks) and ranks[len(percentiles)] <= up_to:
            percentiles.append(min(max(_middle(bucket), tally.min), tally.max))
    p50, p90, p95, p99 = percentiles
    return DurationStats(
        total=tally.total,
        mean=tally.total / count,
        min=tally.min,
        max=tally.max,
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
    )


def _middle(bucket: int) -> float:
    """The value that is relatively nearest to all in the bucket."""
    if bucket in (_LOWEST, _HIGHEST):
        return 0.0 if bucket == _LOWEST else inf  # until held to the minimum and the maximum
    upper: float = _GROWTH**bucket
    return 2 * upper / (_GROWTH + 1)


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _add(counts: dict[KeyT, int], more: Mapping[KeyT, int]) -> None:
    for key, count in more.items():
        counts[key] = counts.get(key, 0) + count
