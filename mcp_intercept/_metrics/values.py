"""The figures as values that never change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar, cast

from mcp_intercept._context import Direction, Kind, Outcome

KeyT = TypeVar("KeyT")
ValueT_co = TypeVar("ValueT_co", covariant=True)


class Frozen(Mapping[KeyT, ValueT_co]):
    """A mapping that cannot change, and unlike a mapping proxy can be pickled and deep copied."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[KeyT, ValueT_co]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: KeyT) -> ValueT_co:
        return self._items[key]

    def __iter__(self) -> Iterator[KeyT]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return repr(self._items)


@dataclass(frozen=True, slots=True, kw_only=True)
class DurationStats:
    """How long messages took, however they ended; all in monotonic seconds.

    Percentiles are by nearest rank, and less than 1 % from the exact value.
    """

    total: float
    """The sum, exact."""

    mean: float
    """The average, exact."""

    min: float
    """The shortest, exact."""

    max: float
    """The longest, exact."""

    p50: float
    """The median: half of the messages took no longer."""

    p90: float
    """90 % of the messages took no longer."""

    p95: float
    """95 % of the messages took no longer."""

    p99: float
    """99 % of the messages took no longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageStats:
    """The figures of some messages."""

    count: int
    """How many have ended, however they did."""

    in_flight: int
    """How many are on their way now: begun, and not ended."""

    outcomes: Mapping[Outcome, int]
    """How many ended how, with a number for each outcome; see `MCPResponseContext.outcome`."""

    failed: int
    """How many failed: `tool_error`, `error` and `timeout`. Cancelled ones did not: the caller gave up."""

    error_rate: float
    """`failed` of `count`, from 0 to 1; 0 if none has ended."""

    errors: Mapping[str, int]
    """How those that did not end `ok` ended, the most frequent first.

    The keys are the code of a JSON-RPC error (`"-32601"`), `"tool_error"`, `"timeout"`, `"cancelled"`, or the name of
    the exception's class. Of codes and classes, the first 16 of each series; those that come later are `"_OTHER"`.
    """

    rate: float
    """How many ended per second, on average since `MetricsSnapshot.started_at`."""

    slow: int
    """How many requests of the client took longer than `slow_after`. (Others wait for people, or for nothing.)"""

    fast: int
    """How many requests of the client took no longer than `fast_within`."""

    duration: DurationStats | None
    """How long they took; `None` if none has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesStats:
    """The finest figures there are: the messages that have all of these in common."""

    direction: Direction
    """Who sent them, seen from the client."""

    kind: Kind
    """Whether they are requests or notifications."""

    method: str
    """The wire name."""

    name: str | None
    """The name of the tool (`tools/call`) or prompt (`prompts/get`); `None` for other methods."""

    connection_id: str
    """As in `MiddlewareContext`."""

    stats: MessageStats
    """The figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowStats:
    """The requests sent by the client that ended within a window of time before the snapshot."""

    seconds: float
    """How long the window is: as its name says, less up to a second, or since `started_at`, if that is shorter."""

    count: int
    """How many ended in it."""

    failed: int
    """How many of them failed, as in `MessageStats`."""

    rate: float
    """How many ended per second."""

    error_rate: float
    """`failed` of `count`, from 0 to 1; 0 if none has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRecord:
    """One message that ended. It holds nothing that was said: no arguments, results, URIs or error texts."""

    timestamp: float
    """Unix seconds when it began."""

    message_id: str
    """`MiddlewareContext.id`."""

    direction: Direction
    """Who sent it, seen from the client."""

    kind: Kind
    """Whether it is a request or a notification."""

    method: str
    """The wire name."""

    name: str | None
    """The name of the tool or prompt, if it carries one."""

    connection_id: str
    """As in `MiddlewareContext`."""

    outcome: Outcome
    """How it ended."""

    error_type: str | None
    """The key under which `MessageStats.errors` counts it; `None` if it ended `ok`."""

    duration: float
    """Monotonic seconds it took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSnapshot:
    """All figures at one moment. It never changes, can be pickled, and `as_dict` makes JSON of it.

    Names and ids are printable and at most 200 characters of what they were.
    """

    started_at: float
    """Unix seconds when counting began: when the middleware was made, or last reset."""

    elapsed: float
    """Monotonic seconds from then to this snapshot."""

    totals: MessageStats
    """Every message: requests and notifications of both directions."""

    calls: MessageStats
    """The requests that the client sent. This is the one to watch for latency and errors."""

    by_method: Mapping[str, MessageStats]
    """Every message, by wire name."""

    by_tool: Mapping[str, MessageStats]
    """The tool calls, by name of the tool, over all connections. For one tool of one server see `series`."""

    by_prompt: Mapping[str, MessageStats]
    """The requests for prompts, by name of the prompt, over all connections."""

    by_connection: Mapping[str, MessageStats]
    """The requests that the client sent, by connection id."""

    series: tuple[SeriesStats, ...]
    """Every message, as fine as it is counted. All the others are sums of these."""

    in_flight: int
    """How many requests of the client wait for their response now."""

    peak_in_flight: int
    """The most that ever waited at once since `started_at`."""

    last_minute: WindowStats
    """The requests of the client that ended in the last 60 seconds."""

    last_5_minutes: WindowStats
    """The same for the last 300 seconds."""

    last_hour: WindowStats
    """The same for the last 3,600 seconds."""

    by_hour: Mapping[int, int]
    """How many requests of the client ended in each hour, by the Unix seconds of its beginning; the last 168 hours in
    which any did."""

    recent_errors: tuple[MessageRecord, ...]
    """The last messages that failed, newest last."""

    slow_calls: tuple[MessageRecord, ...]
    """The last requests of the client that took longer than `slow_after`, newest last."""

    fast_calls: tuple[MessageRecord, ...]
    """The last requests of the client that took no longer than `fast_within`, newest last."""

    slow_after: float | None
    """The option of that name, in seconds."""

    fast_within: float | None
    """The option of that name, in seconds."""

    overflow: int
    """How many messages found no room for a series of their own, and are counted as `"_OTHER"` in name, method or
    connection id; they are not missing in any sum."""

    lost: int
    """How many messages are not counted at all, since this middleware or its clock failed."""

    def as_dict(self) -> dict[str, Any]:
        """The same as dicts and lists of plain values, ready for `json.dumps`."""
        data: dict[str, Any] = _plain(self)
        return data


def _plain(value: Any) -> Any:
    if isinstance(value, Frozen):
        return {key: _plain(each) for key, each in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, tuple):
        values = cast("tuple[Any, ...]", value)  # type: ignore[redundant-cast]  # for pyright it is not
        return [_plain(each) for each in values]
    return {field.name: _plain(getattr(value, field.name)) for field in fields(value)} if is_dataclass(value) else value
