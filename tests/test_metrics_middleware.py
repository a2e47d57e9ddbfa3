from __future__ import annotations

import copy
import dataclasses
import gc
import json
import logging
import math
import pickle
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace, coroutine
from typing import Any, get_args
from urllib.request import urlopen

import anyio
import mcp.types as types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.openmetrics import exposition, parser
from prometheus_client.parser import text_string_to_metric_families

from mcp_intercept import (
    CallbackClientSession,
    InterceptError,
    MCPResponseContext,
    MiddlewareContext,
    NextFunctionT,
    Outcome,
    connect,
)
from mcp_intercept.errors import MissingExtraError
from mcp_intercept.methods import METHODS
from mcp_intercept.middleware import MetricsMiddleware
from mcp_intercept.middleware.metrics import MessageStats, MetricsSnapshot
from tests.ears import REQUESTS, Ears, around, rpc_error, settled, speaking
from tests.server import make_server
from tests.wire import Frame, WireServer, never, wire

pytestmark = pytest.mark.anyio

SECRET = "hunter2"
PERCENTS = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}


class Clock:
    """Says what the test sets; raises while it is broken."""

    def __init__(self) -> None:
        self.now = 0.0
        self.error: Exception | None = None

    def __call__(self) -> float:
        if self.error is not None:
            raise self.error
        return self.now


def message(method: str = "tools/call", name: str | None = "tool", **fields: Any) -> MiddlewareContext[Any]:
    """A context of the test's own."""
    fields = {"id": "1", "params": SimpleNamespace(name=name), "connection_id": "own", "timestamp": 7.5, **fields}
    return MiddlewareContext(method=method, **fields)


def finish(call: Any) -> Any:
    """Run a coroutine that suspends nothing."""
    with pytest.raises(StopIteration) as ended:
        call.send(None)
    return ended.value.value


def spend(
    metrics: MetricsMiddleware,
    seconds: float = 0.0,
    context: MiddlewareContext[Any] | None = None,
    *,
    result: Any = None,
    error: BaseException | None = None,
    clock: Clock | None = None,
) -> None:
    """Pass a message through the middleware that takes so many seconds of its clock."""

    async def answer(context: MiddlewareContext[Any], /) -> Any:
        if clock is not None:
            clock.now += seconds
        if error is not None:
            raise error
        return result

    call = metrics(message() if context is None else context, answer)
    if error is None:
        assert finish(call) is result
    else:
        with pytest.raises(type(error)) as raised:
            call.send(None)
        assert raised.value is error


@coroutine
def suspended() -> Generator[None, None, None]:
    yield


def begin(metrics: MetricsMiddleware, context: MiddlewareContext[Any] | None = None) -> Any:
    """Begin a message; `finish` ends it."""

    async def answer(context: MiddlewareContext[Any], /) -> None:
        await suspended()

    call = metrics(message() if context is None else context, answer)
    call.send(None)
    return call


@asynccontextmanager
async def wired(*middlewares: Any) -> AsyncGenerator[tuple[CallbackClientSession, WireServer], None]:
    async with wire() as (streams, server), connect(streams, *middlewares, connection_id="wire") as session:
        yield session, server


def ended(stats: MessageStats) -> dict[str, int]:
    """The outcomes that there were."""
    return {outcome: count for outcome, count in stats.outcomes.items() if count}


async def end_as(outcome: Outcome, metrics: MetricsMiddleware, *, text: str = SECRET) -> None:
    """Have a tool call end with an outcome, with `text` in all that is sent and answered."""

    async def hurry(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        if outcome == "timeout" and context.method == "tools/call":
            context.options.timeout = 0.01
        return await call_next(context)

    async def answer(frame: Frame) -> Frame | None:
        if outcome == "error":
            await server.refuse(frame["id"], -32000, text)
        if outcome in ("ok", "tool_error"):
            return {"content": [{"type": "text", "text": text}], "isError": outcome == "tool_error"}
        return None

    async with wired(metrics, hurry) as (session, server), anyio.create_task_group() as tasks:
        server.answers["tools/call"] = answer

        async def call() -> None:
            if outcome in ("error", "timeout"):
                with pytest.raises(Exception, match=r"hunter2|[Tt]imed out"):
                    await session.call_tool("tool", {"argument": text})
            else:
                await session.call_tool("tool", {"argument": text})

        tasks.start_soon(call)
        if outcome == "cancelled":
            await server.wait_for("tools/call")
            tasks.cancel_scope.cancel()


# ---------------------------------------------------------------------------------------------------------------------
# What is counted.


async def test_calls_are_counted_by_method_tool_prompt_and_connection() -> None:
    metrics = MetricsMiddleware()
    for connection_id in ("one", "two"):
        async with connect(make_server(), metrics, connection_id=connection_id) as session:
            for number in range(3):
                await session.call_tool("add", {"a": number, "b": 2})
            await session.call_tool("echo", {"text": "hello"})
            await session.get_prompt("greet", {"name": "you"})
    snapshot = metrics.snapshot()
    assert {tool: stats.count for tool, stats in snapshot.by_tool.items()} == {"add": 6, "echo": 2}
    assert {prompt: stats.count for prompt, stats in snapshot.by_prompt.items()} == {"greet": 2}
    assert {name: stats.count for name, stats in snapshot.by_method.items()} == {
        "initialize": 2,
        "notifications/initialized": 2,
        "tools/call": 8,
        "tools/list": 2,  # by the SDK itself
        "prompts/get": 2,
    }
    assert {name: stats.count for name, stats in snapshot.by_connection.items()} == {"one": 7, "two": 7}
    assert (snapshot.totals.count, snapshot.calls.count) == (16, 14)
    assert {(each.connection_id, each.stats.count) for each in snapshot.series if each.name == "add"} == {
        ("one", 3),
        ("two", 3),
    }
    assert snapshot.calls.duration
    assert 0 < snapshot.calls.duration.min <= snapshot.calls.duration.p50 <= snapshot.calls.duration.max < 5
    assert (snapshot.overflow, snapshot.lost) == (0, 0)


@pytest.mark.parametrize("outcome", get_args(Outcome))
async def test_a_call_is_counted_by_its_outcome(outcome: Outcome) -> None:
    metrics = MetricsMiddleware()
    await end_as(outcome, metrics)
    snapshot = metrics.snapshot()
    stats = snapshot.by_tool["tool"]
    assert set(stats.outcomes) == set(get_args(Outcome))
    assert ended(stats) == {outcome: 1}
    failed = outcome in ("tool_error", "error", "timeout")
    assert (stats.count, stats.failed, stats.error_rate) == (1, failed, float(failed))
    error_type = {"ok": None, "error": "-32000"}.get(outcome, outcome)
    assert dict(stats.errors) == ({error_type: 1} if error_type else {})
    assert (snapshot.in_flight, stats.in_flight, snapshot.totals.in_flight) == (0, 0, 0)
    assert snapshot.peak_in_flight == 1
    if failed:
        [record] = snapshot.recent_errors
        assert (record.outcome, record.error_type) == (outcome, error_type)
        assert (record.method, record.name, record.connection_id) == ("tools/call", "tool", "wire")
        assert (record.direction, record.kind) == ("outgoing", "request")
        assert snapshot.started_at - 1 < record.timestamp <= snapshot.started_at + snapshot.elapsed + 1
        assert stats.duration
        assert record.duration == stats.duration.total > 0
        assert record.message_id
    else:
        assert snapshot.recent_errors == ()


async def test_a_tool_that_fails_is_a_tool_error() -> None:
    metrics = MetricsMiddleware()
    async with connect(make_server(), metrics) as session:
        await session.call_tool("fail")
        await session.call_tool("no such tool")
    assert ended(metrics.snapshot().by_tool["fail"]) == {"tool_error": 1}
    assert metrics.snapshot().calls.failed == 2


async def test_what_another_middleware_raises_is_counted_by_its_class() -> None:
    class RefusedError(Exception):
        pass

    async def refuse(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        if context.method == "tools/call":
            raise RefusedError(SECRET)
        return await call_next(context)

    metrics = MetricsMiddleware()
    async with connect(make_server(), metrics, refuse) as session:
        with pytest.raises(RefusedError):
            await session.call_tool("add")
    stats = metrics.snapshot().by_tool["add"]
    assert (ended(stats), dict(stats.errors)) == ({"error": 1}, {"RefusedError": 1})


async def test_a_retry_is_one_call_from_outside_and_each_attempt_from_inside() -> None:
    async def again(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        await call_next(context)
        return await call_next(context)

    outside, inside = MetricsMiddleware(), MetricsMiddleware()
    async with connect(make_server(), outside, again, inside) as session:
        await session.list_prompts()
    counts = [metrics.snapshot().by_method["prompts/list"].count for metrics in (outside, inside)]
    assert counts == [1, 2]


async def test_a_call_that_is_answered_by_a_middleware_counts() -> None:
    async def short_cut(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        if context.method == "tools/call":
            return {"content": [], "isError": context.params.name == "bad"}
        return await call_next(context)

    metrics = MetricsMiddleware()
    async with wired(metrics, short_cut) as (session, server):
        await session.call_tool("good")
        await session.call_tool("bad")
        assert server.sent("tools/call") == []
    by_tool = metrics.snapshot().by_tool
    assert (ended(by_tool["good"]), ended(by_tool["bad"])) == ({"ok": 1}, {"tool_error": 1})


async def test_what_the_server_sends_is_counted_but_is_no_call() -> None:
    metrics = MetricsMiddleware(slow_after=0, fast_within=5)
    async with speaking(around(metrics), **Ears().options) as (_, server):
        await server.ask("elicitation/create", REQUESTS["elicitation/create"])
        await server.notify("notifications/message", {"level": "info", "data": "said"})
        await server.ask("tools/call", {"name": "tool"}, "r")  # which servers must not
        await settled()
    snapshot = metrics.snapshot()
    incoming = {(each.kind, each.method): ended(each.stats) for each in snapshot.series if each.direction == "incoming"}
    assert incoming == {
        ("request", "elicitation/create"): {"ok": 1},
        ("notification", "notifications/message"): {"ok": 1},
        ("request", "tools/call"): {"error": 1},
    }
    assert ended(snapshot.by_method["elicitation/create"]) == {"ok": 1}
    assert (snapshot.calls.count, snapshot.calls.failed, dict(snapshot.by_tool)) == (1, 0, {})
    assert [(each.method, each.direction) for each in snapshot.recent_errors] == [("tools/call", "incoming")]
    assert [each.method for each in snapshot.slow_calls] == ["initialize"]
    assert [each.method for each in snapshot.fast_calls] == ["initialize"]
    assert (snapshot.totals.slow, snapshot.totals.fast, snapshot.last_hour.count) == (1, 1, 1)


async def test_calls_are_in_flight_until_they_end_and_those_cancelled_do_not_stay() -> None:
    metrics = MetricsMiddleware()
    async with wired(metrics) as (session, server):
        server.answers["tools/call"] = never
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(session.call_tool, "tool")
            await server.wait_for("tools/call", 3)
            during = metrics.snapshot()
            assert (during.in_flight, during.calls.in_flight, during.by_tool["tool"].in_flight) == (3, 3, 3)
            assert (during.by_tool["tool"].count, during.by_tool["tool"].duration) == (0, None)
            assert (during.by_tool["tool"].error_rate, during.by_tool["tool"].rate) == (0.0, 0.0)
            tasks.cancel_scope.cancel()
        after = metrics.snapshot()
    assert (after.in_flight, after.totals.in_flight, after.peak_in_flight) == (0, 0, 3)
    assert ended(after.by_tool["tool"]) == {"cancelled": 3}
    assert (after.by_tool["tool"].failed, after.recent_errors) == (0, ())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_sessions_in_several_threads_lose_no_count(backend: str) -> None:
    metrics = MetricsMiddleware(fast_within=60, max_records=10)
    failures: list[BaseException] = []

    async def session(number: int) -> None:
        async with connect(make_server(), metrics, connection_id=f"thread {number}") as session:
            for each in range(40):
                await session.call_tool("fail" if each % 4 == 0 else "add", {"a": 1, "b": 2})

    def run(number: int) -> None:
        try:
            anyio.run(session, number, backend=backend)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert metrics.snapshot().totals.count <= 4 * 43
        threads[0].join(0.01)
    assert failures == []
    snapshot = metrics.snapshot()
    assert {tool: ended(stats) for tool, stats in snapshot.by_tool.items()} == {
        "fail": {"tool_error": 40},
        "add": {"ok": 120},
    }
    assert (snapshot.in_flight, snapshot.totals.in_flight, snapshot.lost) == (0, 0, 0)
    assert len(snapshot.by_connection) == 4
    assert snapshot.calls.count == snapshot.calls.fast == snapshot.last_hour.count == sum(snapshot.by_hour.values())


def test_threads_that_update_one_series_at_once_lose_no_count() -> None:
    metrics = MetricsMiddleware(slow_after=0)

    async def answer(context: MiddlewareContext[Any], /) -> None:
        raise ValueError

    def hammer() -> None:
        for _ in range(2000):
            with suppress(ValueError):
                metrics(message(), answer).send(None)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=hammer) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            during = metrics.snapshot()
            assert during.totals == during.calls == during.by_tool.get("tool", during.calls)
            assert during.calls.count == during.last_hour.count == during.calls.errors.get("ValueError", 0)
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    snapshot = metrics.snapshot()
    assert (snapshot.calls.count, snapshot.in_flight, snapshot.lost) == (8000, 0, 0)
    assert snapshot.calls.errors == {"ValueError": 8000}
    assert snapshot.last_hour.count == snapshot.last_hour.failed == snapshot.calls.slow == 8000


def test_a_call_that_ends_while_a_snapshot_is_taken_does_not_block_it() -> None:
    # As when the garbage collector closes a call that was abandoned: it runs wherever it likes.
    abandoned: list[Any] = []

    def clock() -> float:
        while abandoned:
            abandoned.pop().close()
        return 0.0

    metrics = MetricsMiddleware(clock=clock)
    call = begin(metrics)
    abandoned.append(call)
    snapshots: list[MetricsSnapshot] = []
    thread = threading.Thread(target=lambda: snapshots.append(metrics.snapshot()), daemon=True)
    thread.start()
    thread.join(5)
    [snapshot] = snapshots
    assert ended(snapshot.calls) == {"cancelled": 1}
    assert snapshot.in_flight == 0


def test_a_call_that_is_abandoned_does_not_stay_in_flight() -> None:
    metrics = MetricsMiddleware()
    begin(metrics)
    gc.collect()
    assert (metrics.snapshot().in_flight, ended(metrics.snapshot().calls)) == (0, {"cancelled": 1})


@pytest.mark.parametrize("error", [None, ValueError("no luck"), KeyboardInterrupt(), GeneratorExit()])
def test_it_suspends_nothing_and_changes_nothing(error: BaseException | None) -> None:
    metrics = MetricsMiddleware()
    spend(metrics, result=object(), error=error)
    assert error is None or error.__context__ is None
    assert metrics.snapshot().calls.count == 1


def results() -> list[Any]:
    extra = {"isError": True, "tools": [], "content": []}
    return [
        None,
        {"isError": True},
        types.CallToolResult.model_validate({"content": [], "isError": True}),
        types.CallToolResult.model_validate({"content": [], "isError": False}),
        types.ListToolsResult.model_validate(extra),  # on line 1 it keeps what it does not know
        types.ListToolsResult.model_validate({"tools": []}),
        SimpleNamespace(is_error=True),
        SimpleNamespace(is_error=False, isError=True),
        SimpleNamespace(isError=True),
    ]


@pytest.mark.parametrize("error", [None, ValueError(), TimeoutError(), KeyboardInterrupt(), rpc_error(-32601, "no")])
@pytest.mark.parametrize("result", results())
def test_outcomes_are_those_of_the_response(result: Any, error: BaseException | None) -> None:
    metrics = MetricsMiddleware()
    spend(metrics, result=result, error=error)
    response = MCPResponseContext.create("1", None if error else result, error)
    assert ended(metrics.snapshot().calls) == {response.outcome: 1}


# ---------------------------------------------------------------------------------------------------------------------
# Durations.


def nearest_rank(durations: list[float], percent: int) -> float:
    """The exact percentile."""
    return sorted(durations)[math.ceil(Fraction(percent, 100) * len(durations)) - 1]


def stats_of(durations: list[float], **options: Any) -> MessageStats:
    clock = Clock()
    metrics = MetricsMiddleware(clock=clock, **options)
    for duration in durations:
        clock.now = 0.0
        spend(metrics, duration, clock=clock)
    return metrics.snapshot().calls


DURATIONS = st.one_of(
    st.just(0.0),
    st.sampled_from([1e-9, 0.001, 0.1, 0.3, 1.02, 1.0, 1.0404, 60.0, 1e7]),
    st.floats(1e-9, 1e7),
    st.floats(9.7e6, 1e7),
    st.floats(1e-9, 1.1e-9),
    st.floats(0.001, 1.0),
)


@settings(max_examples=300)
@given(st.lists(DURATIONS, min_size=1, max_size=120))
def test_percentiles_are_within_one_percent_of_the_exact_ones(durations: list[float]) -> None:
    stats = stats_of(durations)
    assert stats.duration
    for field, percent in PERCENTS.items():
        assert getattr(stats.duration, field) == pytest.approx(nearest_rank(durations, percent), rel=0.01, abs=0)
    assert (stats.duration.min, stats.duration.max) == (min(durations), max(durations))
    assert stats.duration.total == pytest.approx(math.fsum(durations))
    assert stats.duration.mean == pytest.approx(math.fsum(durations) / len(durations))
    assert stats.count == len(durations)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), DURATIONS), min_size=1, max_size=60))
def test_the_percentiles_of_a_sum_are_those_of_all_its_messages(messages: list[tuple[str, str, float]]) -> None:
    clock = Clock()
    metrics = MetricsMiddleware(clock=clock)
    for tool, connection_id, duration in messages:
        clock.now = 0.0
        spend(metrics, duration, message(name=tool, connection_id=connection_id), clock=clock)
    snapshot = metrics.snapshot()
    for index, groups in enumerate((snapshot.by_tool, snapshot.by_connection)):
        assert set(groups) == {each[index] for each in messages}
        for value, stats in groups.items():
            durations = [each[2] for each in messages if each[index] == value]
            assert stats.count == len(durations)
            assert stats.duration
            for field, percent in PERCENTS.items():
                assert getattr(stats.duration, field) == pytest.approx(nearest_rank(durations, percent), rel=0.01)
    assert snapshot.totals == snapshot.calls == snapshot.by_method["tools/call"]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, min_value=0), min_size=1))
def test_percentiles_of_times_that_no_clock_can_tell_stay_between_the_shortest_and_the_longest(
    durations: list[float],
) -> None:
    stats = stats_of(durations)
    assert stats.duration
    percentiles = [getattr(stats.duration, field) for field in PERCENTS]
    ordered = [min(durations), *percentiles, max(durations)]
    assert all(lower <= upper for lower, upper in pairwise(ordered))


@pytest.mark.parametrize("duration", [0.0, 1e-300, 3e-9, 0.25, 1e9])
def test_percentiles_of_one_call_are_exact(duration: float) -> None:
    stats = stats_of([duration] * 3)
    assert stats.duration
    assert {getattr(stats.duration, field) for field in PERCENTS} == {duration}


def test_a_clock_that_runs_backwards_takes_no_time() -> None:
    clock = Clock()
    metrics = MetricsMiddleware(clock=clock)
    spend(metrics, -5.0, clock=clock)
    snapshot = metrics.snapshot()
    assert snapshot.calls.duration
    assert (snapshot.calls.duration.min, snapshot.calls.duration.total, snapshot.elapsed) == (0.0, 0.0, 0.0)
    assert snapshot.last_minute.count == 1


def test_slow_and_fast_calls_are_counted_and_the_last_are_kept() -> None:
    clock = Clock()
    metrics = MetricsMiddleware(slow_after=1.0, fast_within=0.05, max_records=2, clock=clock)
    for seconds, tool in [(0.01, "z"), (0.05, "a"), (0.06, "b"), (1.0, "c"), (1.1, "d"), (2, "e"), (3, "f"), (0, "g")]:
        clock.now = 0.0
        spend(metrics, seconds, message(name=tool), clock=clock)
    snapshot = metrics.snapshot()
    assert [(each.name, each.duration, each.outcome) for each in snapshot.slow_calls] == [
        ("e", 2.0, "ok"),
        ("f", 3.0, "ok"),
    ]
    assert [(each.name, each.duration, each.error_type) for each in snapshot.fast_calls] == [
        ("a", 0.05, None),
        ("g", 0.0, None),
    ]
    assert (snapshot.calls.slow, snapshot.calls.fast) == (3, 3)
    assert [tool for tool, stats in snapshot.by_tool.items() if stats.slow] == ["d", "e", "f"]
    assert (snapshot.slow_after, snapshot.fast_within) == (1.0, 0.05)


def test_nothing_is_slow_or_fast_unless_it_is_said_what_is() -> None:
    stats = stats_of([0.0, 1e9], slow_after=None)
    assert (stats.slow, stats.fast) == (0, 0)
    assert stats_of([0.5, 1.5]).slow == 1


# ---------------------------------------------------------------------------------------------------------------------
# Errors and rates.


def test_errors_are_counted_by_type_the_most_frequent_first() -> None:
    metrics = MetricsMiddleware()
    for error in [ValueError(), rpc_error(-32601, "no"), rpc_error(-32601, "no"), OSError(), TimeoutError()]:
        spend(metrics, error=error)
    spend(metrics)
    stats = metrics.snapshot().calls
    assert list(stats.errors.items()) == [("-32601", 2), ("OSError", 1), ("ValueError", 1), ("timeout", 1)]
    assert (stats.failed, stats.error_rate) == (5, 5 / 6)


def test_a_server_that_makes_up_codes_is_held_to_sixteen() -> None:
    metrics = MetricsMiddleware()
    for code in [2**31 - 1, -(2**31), *range(100), 5]:
        spend(metrics, error=rpc_error(code, "no"))
    spend(metrics, error=rpc_error(0, "no"), context=message(connection_id="another"))
    counts = metrics.snapshot().by_connection["own"].errors
    assert counts == {"2147483647": 1, "-2147483648": 1, **{str(code): 1 for code in range(14)}, "5": 2, "_OTHER": 86}
    assert metrics.snapshot().by_connection["another"].errors == {"0": 1}


@pytest.mark.parametrize("code", [2**31, -(2**31) - 1, 10**4299])
def test_a_code_that_is_too_big_for_json_rpc_has_no_name(code: int) -> None:
    metrics = MetricsMiddleware()
    spend(metrics, error=rpc_error(code, "no"))
    assert metrics.snapshot().calls.errors == {"_OTHER": 1}


def test_the_last_errors_are_kept() -> None:
    metrics = MetricsMiddleware(max_records=2)
    for name in "abc":
        spend(metrics, context=message(name=name, id=f"id {name}"), error=ValueError(SECRET))
    spend(metrics)
    records = metrics.snapshot().recent_errors
    assert [dataclasses.asdict(record) for record in records] == [
        {
            "timestamp": 7.5,
            "message_id": f"id {name}",
            "direction": "outgoing",
            "kind": "request",
            "method": "tools/call",
            "name": name,
            "connection_id": "own",
            "outcome": "error",
            "error_type": "ValueError",
            "duration": record.duration,
        }
        for name, record in zip("bc", records, strict=True)
    ]


def test_rates_are_per_second_of_the_time_that_passed() -> None:
    clock = Clock()
    clock.now = 1000.0
    metrics = MetricsMiddleware(clock=clock)
    assert metrics.snapshot().last_minute.rate == 0.0
    for _ in range(20):
        spend(metrics, 0.5, clock=clock)
    snapshot = metrics.snapshot()
    assert (snapshot.elapsed, snapshot.calls.rate) == (10.0, 2.0)
    assert (snapshot.last_minute.seconds, snapshot.last_minute.count, snapshot.last_minute.rate) == (10.0, 20, 2.0)
    assert snapshot.last_minute == snapshot.last_5_minutes == snapshot.last_hour


def test_the_windows_forget_what_was_before_them() -> None:
    clock = Clock()
    metrics = MetricsMiddleware(clock=clock)
    for end in (0.5, 40.75, 41.0, 3340.75, 3341.0, 3580.75, 3581.0, 3640.75):
        clock.now = end
        spend(metrics, error=ValueError() if end > 3600 else None)
    snapshot = metrics.snapshot()
    windows = (snapshot.last_minute, snapshot.last_5_minutes, snapshot.last_hour)
    assert [window.count for window in windows] == [2, 4, 6]
    assert [window.seconds for window in windows] == [59.75, 299.75, 3599.75]
    assert [window.failed for window in windows] == [1, 1, 1]
    assert [window.error_rate for window in windows] == [1 / 2, 1 / 4, 1 / 6]
    assert [window.rate for window in windows] == [2 / 59.75, 4 / 299.75, 6 / 3599.75]
    clock.now = 1e5
    assert metrics.snapshot().last_hour.count == 0


@settings(max_examples=50)
@given(st.lists(st.integers(0, 3000).map(lambda quarters: quarters / 4), max_size=40))
def test_the_windows_count_what_ended_in_their_seconds(pauses: list[float]) -> None:
    clock = Clock()
    metrics = MetricsMiddleware(clock=clock)
    ends: list[float] = []
    for pause in pauses:
        clock.now += pause
        ends.append(clock.now)
        spend(metrics)
    snapshot = metrics.snapshot()
    for window in (snapshot.last_minute, snapshot.last_5_minutes, snapshot.last_hour):
        assert window.count == sum(end >= clock.now - window.seconds for end in ends)


def test_calls_are_counted_by_the_hour_of_the_last_week() -> None:
    clock = Clock()
    metrics = MetricsMiddleware(clock=clock)
    expected: Counter[int] = Counter()
    started_at = metrics.snapshot().started_at
    for number in range(1000):
        clock.now = number * 1000.0
        spend(metrics)
        expected[int(started_at + clock.now) // 3600 * 3600] += 1
    by_hour = metrics.snapshot().by_hour
    assert len(by_hour) == 168
    assert list(by_hour.items()) == sorted(expected.items())[-168:]


# ---------------------------------------------------------------------------------------------------------------------
# Bounds.


def test_names_from_outside_cost_no_memory() -> None:
    metrics = MetricsMiddleware(max_series=100, max_connections=10)

    def flood(start: int, count: int) -> None:
        for number in range(start, start + count):
            spend(metrics, context=message(name=f"tool {number}"))
            spend(metrics, context=message(connection_id=f"mcp-{number}"))
            spend(metrics, context=message(f"acme/{number}", direction="incoming"))
            spend(metrics, error=rpc_error(number, "no"))
            spend(metrics, error=type(f"Error{number}", (Exception,), {})())

    flood(0, 1000)
    gc.collect()
    tracemalloc.start()
    try:
        flood(1000, 3000)
        gc.collect()
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 200_000
    snapshot = metrics.snapshot()
    assert snapshot.totals.count == 20_000
    assert len(snapshot.series) <= 110
    assert snapshot.overflow > 10_000
    assert len(snapshot.by_connection) == 11
    assert snapshot.by_method["tools/call"].count == 16_000
    assert snapshot.by_method["_OTHER"].count > 3000
    assert sum(stats.count for stats in snapshot.by_method.values()) == 20_000
    assert sum(stats.count for stats in snapshot.by_connection.values()) == 16_000


def test_months_of_traffic_cost_no_memory() -> None:
    clock = Clock()
    metrics = MetricsMiddleware(clock=clock)
    for _ in range(5000):
        spend(metrics, 1.0, clock=clock)
    tracemalloc.start()
    try:
        for _ in range(5000):
            spend(metrics, 1.0, clock=clock)
        for _ in range(5000):
            spend(metrics, 600.0, clock=clock)
        gc.collect()
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 500_000


def test_what_finds_no_room_is_counted_under_its_method() -> None:
    metrics = MetricsMiddleware(max_series=2)
    for context in [
        message(name="first"),
        message("tools/list", params=None),
        message(name="second"),
        message(name="third", connection_id="another"),
        message("resources/read", params=SimpleNamespace(uri="memo://1")),
        message("acme/do", params=None),
        message(name="first"),
    ]:
        spend(metrics, context=context)
    snapshot = metrics.snapshot()
    assert {(each.method, each.name, each.connection_id): each.stats.count for each in snapshot.series} == {
        ("tools/call", "first", "own"): 2,
        ("tools/list", None, "own"): 1,
        ("tools/call", "_OTHER", "_OTHER"): 2,
        ("resources/read", None, "_OTHER"): 1,
        ("_OTHER", None, "_OTHER"): 1,
    }
    assert snapshot.overflow == 4
    assert {method: stats.count for method, stats in snapshot.by_method.items()} == {
        "tools/call": 4,
        "tools/list": 1,
        "resources/read": 1,
        "_OTHER": 1,
    }


def test_many_connections_do_not_crowd_out_the_tools() -> None:
    metrics = MetricsMiddleware(max_series=20, max_connections=2)
    for number in range(100):
        spend(metrics, context=message(name=f"tool {number % 5}", connection_id=f"mcp-{number}"))
    snapshot = metrics.snapshot()
    assert {tool: stats.count for tool, stats in snapshot.by_tool.items()} == {f"tool {n}": 20 for n in range(5)}
    assert {name: stats.count for name, stats in snapshot.by_connection.items()} == {
        "mcp-0": 1,
        "mcp-1": 1,
        "_OTHER": 98,
    }
    assert snapshot.overflow == 98


def test_no_method_of_mcp_is_without_a_series() -> None:
    metrics = MetricsMiddleware(max_series=1)
    for row in METHODS.values():
        spend(metrics, context=message(row.name, kind=row.kind))
    assert {method: stats.count for method, stats in metrics.snapshot().by_method.items()} == dict.fromkeys(METHODS, 1)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("x" * 10**6, "x" * 200),
        ("a\r\n\x1b[31m\u2028b", r"a\r\n\x1b[31m\u2028b"),
        ("\ud800", r"\ud800"),
        ("für", "für"),
        ("", None),
        (None, None),
    ],
)
def test_names_are_kept_short_and_printable(name: str, kept: str | None) -> None:
    metrics = MetricsMiddleware()
    for _ in range(2):
        spend(metrics, context=message(name=name), error=ValueError())
    snapshot = metrics.snapshot()
    [series] = snapshot.series
    assert (series.name, series.stats.count) == (kept, 2)
    assert set(snapshot.by_tool) == ({kept} if kept else set())
    assert [each.name for each in snapshot.recent_errors] == [kept, kept]


def test_ids_and_methods_are_kept_short_and_printable() -> None:
    metrics = MetricsMiddleware()
    long = "\u2028" * 10**6
    for _ in range(2):
        spend(metrics, context=message(long, connection_id=long, id=long), error=ValueError())
    snapshot = metrics.snapshot()
    kept = r"\u2028" * 200
    assert set(snapshot.by_method) == set(snapshot.by_connection) == {kept}
    assert {(each.message_id, each.method) for each in snapshot.recent_errors} == {(kept, kept)}


def test_a_tool_call_that_a_server_sends_is_none_of_a_tool() -> None:
    metrics = MetricsMiddleware()
    spend(metrics, context=message(direction="incoming"))
    assert (dict(metrics.snapshot().by_tool), metrics.snapshot().totals.count) == ({}, 1)


TEXT = st.text(st.characters(exclude_categories=()))


@settings(max_examples=50)
@given(st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=20))
def test_whatever_the_names_prometheus_can_read_them(names: list[tuple[str, str, str]]) -> None:
    metrics = MetricsMiddleware(max_series=10, max_connections=5)
    for name, connection_id, method in names:
        spend(metrics, context=message(name=name, connection_id=connection_id))
        spend(metrics, context=message(method), error=type("Failed", (Exception,), {})())
    registry = CollectorRegistry()
    registry.register(metrics.prometheus_collector(connection_ids=True))
    # The stricter of the two formats; its functions have no types.
    writer: Any = exposition
    reader: Any = parser
    text = writer.generate_latest(registry).decode()
    families = reader.text_string_to_metric_families(text)
    [family] = [each for each in families if each.name == "mcp_client_operations"]
    assert sum(sample.value for sample in family.samples) == 2 * len(names)
    assert json.loads(json.dumps(metrics.snapshot().as_dict()))["totals"]["count"] == 2 * len(names)


# ---------------------------------------------------------------------------------------------------------------------
# The snapshot.


def test_a_snapshot_never_changes() -> None:
    clock = Clock()
    metrics = MetricsMiddleware(clock=clock, fast_within=1)
    spend(metrics, 0.5, clock=clock, error=ValueError())
    snapshot = metrics.snapshot()
    before = copy.deepcopy(snapshot)
    text = json.dumps(snapshot.as_dict())
    pending = begin(metrics)
    spend(metrics, 5.0, clock=clock, error=OSError())
    spend(metrics, context=message(name="another", connection_id="another"))
    assert metrics.snapshot() != snapshot
    metrics.reset()
    finish(pending)
    assert snapshot == before
    assert (json.dumps(snapshot.as_dict()), repr(snapshot)) == (text, repr(before))


def test_a_snapshot_cannot_be_changed() -> None:
    metrics = MetricsMiddleware()
    spend(metrics, error=ValueError())
    snapshot: Any = metrics.snapshot()
    for value in (snapshot, snapshot.calls, snapshot.calls.duration, snapshot.series[0], snapshot.recent_errors[0]):
        for field in dataclasses.fields(value):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(value, field.name, None)
            assert not isinstance(getattr(value, field.name), dict | list | set)
    for mapping in (snapshot.by_tool, snapshot.calls.errors, snapshot.calls.outcomes, snapshot.by_hour):
        with pytest.raises(TypeError):
            mapping["tool"] = 1


def test_a_snapshot_can_be_pickled_and_made_into_json() -> None:
    metrics = MetricsMiddleware()
    spend(metrics, 0.5, error=ValueError())
    snapshot = metrics.snapshot()
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot
    plain = json.loads(json.dumps(snapshot.as_dict()))
    assert set(plain) == {field.name for field in dataclasses.fields(snapshot)}
    assert plain["by_tool"]["tool"]["outcomes"] == {
        "ok": 0,
        "tool_error": 0,
        "error": 1,
        "timeout": 0,
        "cancelled": 0,
    }
    assert plain["series"][0]["stats"] == plain["totals"]
    assert plain["recent_errors"][0]["error_type"] == "ValueError"


def test_a_snapshot_before_any_message_is_empty() -> None:
    snapshot = MetricsMiddleware().snapshot()
    assert (snapshot.totals.count, snapshot.totals.duration, snapshot.totals.error_rate) == (0, None, 0.0)
    assert (snapshot.series, dict(snapshot.by_method), dict(snapshot.by_hour)) == ((), {}, {})
    assert snapshot.elapsed > 0


def test_a_reset_begins_anew_and_keeps_what_is_in_flight() -> None:
    clock = Clock()
    metrics = MetricsMiddleware(clock=clock, slow_after=0, fast_within=9, max_series=2)
    first, second = begin(metrics), begin(metrics)
    for _ in range(2):
        spend(metrics, 2.0, context=message(name="another"), clock=clock, error=ValueError())
    spend(metrics, context=message(name="third"))
    spend(metrics, context=message(id=7), error=ValueError())
    finish(first)
    assert metrics.snapshot().lost == 1
    started_at = metrics.snapshot().started_at
    metrics.reset()
    snapshot = metrics.snapshot()
    assert (snapshot.elapsed, snapshot.in_flight, snapshot.peak_in_flight, snapshot.totals.count) == (0.0, 1, 1, 0)
    assert [each.name for each in snapshot.series] == ["tool"]
    assert (snapshot.recent_errors, snapshot.slow_calls, snapshot.fast_calls) == ((), (), ())
    assert (snapshot.last_hour.count, dict(snapshot.by_hour), snapshot.overflow, snapshot.lost) == (0, {}, 0, 0)
    assert snapshot.started_at >= started_at
    clock.now += 4.0
    finish(second)
    snapshot = metrics.snapshot()
    assert (snapshot.elapsed, snapshot.in_flight, snapshot.calls.count, snapshot.calls.rate) == (4.0, 0, 1, 0.25)
    assert snapshot.calls.duration
    assert snapshot.calls.duration.max == 8.0


@pytest.mark.parametrize("outcome", get_args(Outcome))
async def test_no_figure_holds_what_a_call_says_or_is_answered(
    outcome: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "mcp_intercept")
    metrics = MetricsMiddleware(slow_after=0, fast_within=60)
    await end_as(outcome, metrics)
    async with connect(make_server(), metrics) as session:
        await session.read_resource(f"memo://{SECRET}")
        with pytest.raises(Exception, match=SECRET):
            await session.read_resource(f"none://{SECRET}")
        await session.get_prompt("greet", {"name": SECRET})
    snapshot = metrics.snapshot()
    assert snapshot.slow_calls
    assert snapshot.fast_calls
    assert snapshot.recent_errors
    registry = CollectorRegistry()
    registry.register(metrics.prometheus_collector(connection_ids=True))
    shown = [repr(snapshot), json.dumps(snapshot.as_dict()), generate_latest(registry).decode(), repr(metrics)]
    assert [text for text in shown if SECRET in text] == []
    assert SECRET.encode() not in pickle.dumps(snapshot)
    assert SECRET not in repr([record for record in caplog.records if record.name == "mcp_intercept"])


# What the four metrics classes of mcp-use 1.7 report (`get_metrics`, `get_performance_metrics`, `get_error_analytics`,
# `get_combined_analytics`), and where it is found here. Two things are not kept on purpose: each single duration, which
# takes memory without end, and the text of errors, which may hold secrets.
MCP_USE: dict[str, Callable[[MetricsSnapshot], Any]] = {
    "total_contexts": lambda s: s.calls.count + s.in_flight,
    "total_errors": lambda s: s.calls.failed,
    "method_counts": lambda s: {method: stats.count for method, stats in s.by_method.items()},
    "active_contexts": lambda s: s.in_flight,
    "start_time": lambda s: s.started_at,
    "uptime_seconds": lambda s: s.elapsed,
    "contexts_per_second": lambda s: s.calls.rate,
    "error_rate": lambda s: s.calls.error_rate,
    "method_avg_duration": lambda s: s.by_method["tools/call"].duration.mean,  # type: ignore[union-attr]
    "method_min_duration": lambda s: s.by_method["tools/call"].duration.min,  # type: ignore[union-attr]
    "method_max_duration": lambda s: s.by_method["tools/call"].duration.max,  # type: ignore[union-attr]
    "method_performance": lambda s: s.by_method["tools/call"].duration.p99,  # type: ignore[union-attr]
    "connector_performance": lambda s: s.by_connection["own"].duration.p50,  # type: ignore[union-attr]
    "slow_contexts": lambda s: [(each.method, each.connection_id, each.duration) for each in s.slow_calls],
    "fast_contexts": lambda s: [(each.method, each.connection_id, each.timestamp) for each in s.fast_calls],
    "hourly_distribution": lambda s: list(s.by_hour.values()),
    "thresholds": lambda s: (s.slow_after, s.fast_within),
    "error_types": lambda s: dict(s.calls.errors),
    "errors_by_method": lambda s: dict(s.by_method["tools/call"].errors),
    "errors_by_connector": lambda s: dict(s.by_connection["own"].errors),
    "recent_errors": lambda s: [(each.message_id, each.error_type) for each in s.recent_errors],
    "error_rate_last_hour": lambda s: s.last_hour.failed,
    "error_rate_last_5min": lambda s: s.last_5_minutes.failed,
    "most_common_errors": lambda s: list(s.calls.errors.items())[:5],
    "generated_at": lambda s: s.started_at + s.elapsed,
}


def test_every_figure_of_mcp_use_is_there() -> None:
    clock = Clock()
    metrics = MetricsMiddleware(slow_after=1.0, fast_within=0.05, clock=clock)
    spend(metrics, 0.03125, clock=clock)
    spend(metrics, 3.96875, clock=clock, error=ValueError(SECRET))
    call = begin(metrics)
    snapshot = metrics.snapshot()
    call.close()
    figures = {name: figure(snapshot) for name, figure in MCP_USE.items()}
    assert sum(figures.pop("hourly_distribution")) == 2
    assert figures.pop("connector_performance") == pytest.approx(0.03125, rel=0.01)
    assert figures.pop("start_time") == snapshot.started_at
    assert figures.pop("generated_at") == snapshot.started_at + 4.0
    assert figures == {
        "total_contexts": 3,
        "total_errors": 1,
        "method_counts": {"tools/call": 2},
        "active_contexts": 1,
        "uptime_seconds": 4.0,
        "contexts_per_second": 0.5,
        "error_rate": 0.5,
        "method_avg_duration": 2.0,
        "method_min_duration": 0.03125,
        "method_max_duration": 3.96875,
        "method_performance": pytest.approx(3.96875, rel=0.01),
        "slow_contexts": [("tools/call", "own", 3.96875)],
        "fast_contexts": [("tools/call", "own", 7.5)],
        "thresholds": (1.0, 0.05),
        "error_types": {"ValueError": 1},
        "errors_by_method": {"ValueError": 1},
        "errors_by_connector": {"ValueError": 1},
        "recent_errors": [("1", "ValueError")],
        "error_rate_last_hour": 1,
        "error_rate_last_5min": 1,
        "most_common_errors": [("ValueError", 1)],
    }


# ---------------------------------------------------------------------------------------------------------------------
# Its own faults.


@pytest.mark.parametrize("broken", ["before", "during", "nan"])
async def test_a_clock_that_fails_breaks_no_call_and_is_reported_once(
    broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    clock.now = 5.0
    metrics = MetricsMiddleware(clock=clock)

    def stop() -> None:
        if broken == "nan":
            clock.now = math.nan
        else:
            clock.error = RuntimeError(SECRET)

    async def answer(frame: Frame) -> Frame | None:
        stop()
        if frame["params"]["name"] == "bad":
            await server.refuse(frame["id"], -32000, "no luck")
            return None
        return {"content": [{"type": "text", "text": "done"}]}

    async with wired(metrics) as (session, server):
        server.answers["tools/call"] = answer
        if broken == "before":
            stop()
        result: Any = await session.call_tool("good")
        assert result.content[0].text == "done"
        with pytest.raises(Exception, match="no luck"):
            await session.call_tool("bad")
        assert (await session.list_prompts()).prompts == []
    broken_at = metrics.snapshot()
    assert broken_at.lost >= 3
    assert broken_at.in_flight == broken_at.totals.in_flight == 0
    assert (broken_at.elapsed, broken_at.calls.outcomes["ok"], broken_at.calls.failed) == (0.0, 1, 0)
    clock.now, clock.error = 6.0, None
    spend(metrics)
    assert (metrics.snapshot().calls.count, metrics.snapshot().lost) == (2, broken_at.lost)
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [text.partition(" at ")[0].rpartition(":")[0] for text in messages] == [
        "MetricsMiddleware failed to measure a message",
        "MetricsMiddleware failed to read its clock",
    ]
    assert SECRET not in caplog.text
    assert "metrics" in messages[0]


def test_a_clock_that_fails_later_is_taken_to_have_stopped() -> None:
    clock = Clock()
    metrics = MetricsMiddleware(clock=clock)
    spend(metrics, 3.0, clock=clock)
    clock.error = RuntimeError("no time")
    assert metrics.snapshot().elapsed == 3.0
    metrics.reset()
    clock.now, clock.error = 4.0, None
    assert metrics.snapshot().elapsed == 1.0


def test_names_that_are_no_text_break_no_call(caplog: pytest.LogCaptureFixture) -> None:
    metrics = MetricsMiddleware()
    name: Any = []
    spend(metrics, context=message(name=name))
    spend(metrics, context=message(name=name), error=ValueError())
    snapshot = metrics.snapshot()
    assert (snapshot.lost, snapshot.in_flight, snapshot.totals.count) == (2, 0, 0)
    assert len(caplog.records) == 1


def test_a_handler_that_fails_for_the_report_breaks_no_call() -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("disk full")

    clock = Clock()
    metrics = MetricsMiddleware(clock=clock)
    clock.error = RuntimeError("no time")
    handler = Broken()
    package_logger = logging.getLogger("mcp_intercept")
    package_logger.addHandler(handler)
    try:
        spend(metrics, result={"key": "value"})
    finally:
        package_logger.removeHandler(handler)
    assert metrics.snapshot().lost == 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_series": 0}, "max_series must be a whole number, at least 1, not 0"),
        ({"max_series": True}, "max_series must be .*, not True"),
        ({"max_connections": "9"}, "max_connections must be a whole number, at least 1, not '9'"),
        ({"max_records": -1}, "max_records must be a whole number, at least 0, not -1"),
        ({"slow_after": -0.1}, "slow_after must be a number of seconds, at least 0, not -0.1; for none at all, None"),
        ({"slow_after": math.nan}, "slow_after must be .*, not nan"),
        ({"fast_within": math.inf}, "fast_within must be .*, not inf"),
        ({"fast_within": True}, "fast_within must be .*, not True"),
        ({"fast_within": "1"}, "fast_within must be .*, not '1'"),
        ({"clock": 7}, "clock must return seconds, like time.perf_counter; 7 does not"),
        ({"clock": lambda: None}, "clock must return seconds, like time.perf_counter; .*lambda.* does not"),
        ({"clock": lambda: math.nan}, "clock must return seconds"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused(options: Any, complaint: str) -> None:
    with pytest.raises(InterceptError, match=complaint):
        MetricsMiddleware(**options)


# ---------------------------------------------------------------------------------------------------------------------
# Prometheus.


@contextmanager
def exposed(metrics: MetricsMiddleware) -> Generator[Callable[[], dict[Any, float]], None, None]:
    """A real exporter on loopback; the value scrapes it: `{(name, *sorted labels): value}`."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(metrics.prometheus_collector(connection_ids=True))
    server, thread = start_http_server(0, "127.0.0.1", registry)

    def scrape() -> dict[Any, float]:
        with urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=5) as response:
            text = response.read().decode()
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    try:
        yield scrape
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def sample(name: str, labels: dict[str, str] | None = None, **more: str) -> Any:
    return (name, *sorted({**(labels or {}), **more}.items()))


TOOL = {"direction": "outgoing", "kind": "request", "method": "tools/call", "name": "add", "connection_id": "calc"}


async def test_prometheus_scrapes_what_was_counted() -> None:
    metrics = MetricsMiddleware(slow_after=0)
    with exposed(metrics) as scrape:
        async with connect(make_server(), metrics, connection_id="calc") as session:
            await session.call_tool("add", {"a": 1, "b": 2})
            await session.call_tool("add", {})
            await session.call_tool("echo", {"text": "hello"})
            scraped = await anyio.to_thread.run_sync(scrape)
    assert scraped[sample("mcp_client_operations_total", TOOL, outcome="ok")] == 1
    assert scraped[sample("mcp_client_operations_total", TOOL, outcome="tool_error")] == 1
    assert scraped[sample("mcp_client_operations_total", TOOL, outcome="cancelled")] == 0
    assert scraped[sample("mcp_client_operation_errors_total", TOOL, error_type="tool_error")] == 1
    assert scraped[sample("mcp_client_slow_operations_total", TOOL)] == 2
    assert scraped[sample("mcp_client_operations_in_flight", TOOL)] == 0
    assert scraped[sample("mcp_client_overflowed_operations_total")] == 0
    assert scraped[sample("mcp_client_lost_operations_total")] == 0
    duration = metrics.snapshot().by_tool["add"].duration
    assert duration
    assert scraped[sample("mcp_client_operation_duration_seconds_sum", TOOL)] == pytest.approx(duration.total)
    assert scraped[sample("mcp_client_operation_duration_seconds_count", TOOL)] == 2
    notification = {**TOOL, "kind": "notification", "method": "notifications/initialized", "name": ""}
    assert scraped[sample("mcp_client_operations_total", notification, outcome="ok")] == 1
    assert sample("mcp_client_slow_operations_total", notification) not in scraped


def test_the_buckets_of_prometheus_are_exact() -> None:
    bounds = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300]
    clock = Clock()
    metrics = MetricsMiddleware(clock=clock)
    durations = [
        0.0,
        *bounds,
        *(math.nextafter(bound, math.inf) for bound in bounds),
        *(math.nextafter(bound, 0) for bound in bounds),
    ]
    for duration in durations:
        clock.now = 0.0
        spend(metrics, duration, message(name="add", connection_id="calc"), clock=clock)
    with exposed(metrics) as scrape:
        scraped = scrape()
    name = "mcp_client_operation_duration_seconds_bucket"
    buckets = {dict(key[1:])["le"]: value for key, value in scraped.items() if key[0] == name}
    assert {float(le): count for le, count in buckets.items()} == {
        **{bound: sum(duration <= bound for duration in durations) for bound in bounds},
        math.inf: len(durations),
    }


def test_what_prometheus_counts_never_goes_back() -> None:
    metrics = MetricsMiddleware(max_series=3, max_connections=1)
    clock = Clock()
    earlier: dict[Any, float] = {}
    pending = begin(metrics, message(name="add", connection_id="calc"))
    with exposed(metrics) as scrape:
        for number in range(40):
            context = message(name=f"tool {number}", connection_id=f"mcp-{number // 4}")
            spend(metrics, number, context, error=rpc_error(number, "no"), clock=clock)
            spend(metrics, context=message(name="add", connection_id="calc"), error=rpc_error(number, "no"))
            spend(metrics, context=message(id=7), error=ValueError())
            if number % 4 == 3:
                metrics.reset()
                later = scrape()
                assert earlier.keys() <= later.keys()
                assert [key for key in earlier if later[key] < earlier[key]] == []
                earlier = later
    assert earlier[sample("mcp_client_operation_duration_seconds_count", TOOL)] == 40
    assert earlier[sample("mcp_client_operations_in_flight", TOOL)] == 1
    assert earlier[sample("mcp_client_overflowed_operations_total")] == 40
    assert earlier[sample("mcp_client_lost_operations_total")] == 40
    assert metrics.snapshot().totals.count == 0
    pending.close()


async def test_sessions_of_a_single_call_add_up_for_prometheus() -> None:
    registry = CollectorRegistry()
    metrics = MetricsMiddleware()
    registry.register(metrics.prometheus_collector())
    labels = {"direction": "outgoing", "kind": "request", "method": "tools/call", "name": "add", "outcome": "ok"}
    for count in range(1, 4):
        async with connect(make_server(), metrics) as session:
            await session.call_tool("add", {"a": 1, "b": 2})
        assert registry.get_sample_value("mcp_client_operations_total", labels) == count
    assert b"connection_id" not in generate_latest(registry)


def test_without_prometheus_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    monkeypatch.delitem(sys.modules, "mcp_intercept._metrics.prometheus", raising=False)
    with pytest.raises(MissingExtraError, match=r'pip install "mcp-intercept-sdk\[prometheus\]"') as raised:
        MetricsMiddleware().prometheus_collector()
    assert raised.value.extra == "prometheus"
