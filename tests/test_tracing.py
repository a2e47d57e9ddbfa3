"""Tracing tells what happened, and changes nothing: not the call, not what others trace, not what stays secret."""

from __future__ import annotations

import gc
import json
import logging
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from copy import deepcopy
from dataclasses import replace
from functools import partial
from importlib import import_module
from textwrap import dedent
from typing import Any, ClassVar

import anyio
import mcp.types
import pytest
from mcp import ClientSession
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags
from pydantic import BaseModel

from mcp_intercept import (
    CallbackClientSession,
    MiddlewareContext,
    MiddlewareManager,
    connect,
    intercept,
    intercept_all,
)
from mcp_intercept._otel.echoes import without_echoes
from mcp_intercept._otel.facts import rewritten
from mcp_intercept._sdk.transports import http_endpoint
from mcp_intercept.errors import InterceptError
from mcp_intercept.middleware import MetricsMiddleware, TracingMiddleware
from tests.ears import Ears, Error, rpc_error, settled
from tests.server import ROOT, STDIO, http_server, make_server
from tests.telemetry import OURS, Point, Telemetry
from tests.test_cancellation import Steps, pending, settle
from tests.test_fidelity import CALLS, ERAS, ONLY, converse, heard, outcome, parts, seconds, told
from tests.test_fidelity import all_heard as all_heard_by
from tests.wire import LINE_1, RESULTS, Frame, WireServer, never, wire

pytestmark = pytest.mark.anyio

only_line_2 = pytest.mark.skipif(LINE_1, reason="line 1 traces nothing by itself")

T: Any = mcp.types
"""The models of the installed line; untyped, as the two lines differ."""

SECRET = "hunter2"
METHOD = "mcp.method.name"
OPERATIONS = "mcp.client.operation.duration"
SESSIONS = "mcp.client.session.duration"


# ---------------------------------------------------------------------------------------------------------------------
# Tracing something, and what came of it.


def tracing_to(telemetry: Telemetry, **options: Any) -> TracingMiddleware:
    providers: dict[str, Any] = {
        "tracer_provider": telemetry.tracer_provider,
        "meter_provider": telemetry.meter_provider,
    }
    return TracingMiddleware(**{**providers, **options})


@asynccontextmanager
async def wired(*middlewares: Any, **options: Any) -> AsyncGenerator[tuple[CallbackClientSession, WireServer], None]:
    """A session with a server at the level of the wire."""
    async with wire() as (streams, server):
        with anyio.fail_after(60):
            async with connect(streams, *middlewares, **options) as session:
                yield session, server


def message(name: str = "tool", arguments: Any = None, meta: Any = None) -> Any:
    """A call of a tool, without the SDK asking for the tool's schema."""
    params = {"name": name, "arguments": arguments} if meta is None else {"name": name, "_meta": meta}
    asked = T.CallToolRequest.model_validate({"method": "tools/call", "params": params})
    return T.ClientRequest(asked) if LINE_1 else asked


def say(session: Any, name: str = "tool", arguments: Any = None, **options: Any) -> Any:
    return session.send_request(message(name, arguments), T.CallToolResult, **options)


async def report(session: Any, *progress: Any) -> None:
    """Send a notification."""
    await session.send_progress_notification(*progress)


def of(telemetry: Telemetry, method: str = "tools/call") -> list[ReadableSpan]:
    """Our spans of a method, in the order in which they ended."""
    return [span for span in ours(telemetry) if facts(span)[METHOD] == method]


def ours(telemetry: Telemetry) -> list[ReadableSpan]:
    return [span for span in telemetry.spans if span.instrumentation_scope and span.instrumentation_scope.name == OURS]


def facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def context_of(span: Any) -> SpanContext:
    found: SpanContext = span.get_span_context()
    return found


def is_child_of(span: ReadableSpan, parent: Any) -> bool:
    context = context_of(parent)
    return span.parent is not None and (span.parent.trace_id, span.parent.span_id) == (
        context.trace_id,
        context.span_id,
    )


def traceparent(span: Any) -> str:
    context = context_of(span)
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def parent_in(frame: Frame) -> Any:
    """What a frame says of the trace it belongs to."""
    return frame.get("params", {}).get("_meta", {}).get("traceparent")


def untraced(frames: list[Frame]) -> list[Frame]:
    """Frames without trace contexts, and without what holds nothing then. Line 2.0 of the SDK sends empty `_meta`."""
    found = deepcopy(frames)
    for frame in found:
        params = frame.get("params")
        if isinstance(params, dict):
            meta = params.get("_meta", {})
            meta.pop("traceparent", None)
            if not meta:
                params.pop("_meta", None)
            if not params:
                del frame["params"]
    return found


def points_of(telemetry: Telemetry, name: str = OPERATIONS) -> list[Point]:
    return [point for point in telemetry.take_points() if point.name == name]


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the package logged."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("mcp_intercept")]


def only_calls(respond: Any) -> Any:
    """`respond` to calls of tools; everything else passes."""

    async def middleware(context: Any, call_next: Any) -> Any:
        return await (respond(context, call_next) if context.method == "tools/call" else call_next(context))

    return middleware


async def twice(context: Any, call_next: Any) -> Any:
    await call_next(context)
    return await call_next(context)


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


# ---------------------------------------------------------------------------------------------------------------------
# What is said and what comes back is as without it.


async def say_in(era: str, name: str, *middlewares: Any) -> tuple[Any, list[Frame]]:
    async with wire() as (streams, server):
        await converse(server, modern=era == "2026-07-28")
        session = intercept(ClientSession(*streams), *middlewares) if middlewares else ClientSession(*streams)
        with anyio.fail_after(30):
            async with session:
                if name not in ("initialize", "discover"):
                    await (session.initialize() if era == "2025-11-25" else session.discover())
                result = await outcome(CALLS[name], session)
                await all_heard_by(session, server)
        return result, heard(server)


SAID = [pytest.param(era, name, id=f"{name} ({era})") for name in CALLS for era in ERAS if era in ONLY.get(name, ERAS)]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("era", "name"), SAID)
async def test_whatever_is_said_only_the_trace_context_is_added(
    era: str, name: str, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    bare = await say_in(era, name)
    # Without an SDK there is nothing to add.
    assert await say_in(era, name, TracingMiddleware()) == bare
    result, frames = await say_in(era, name, tracing_to(telemetry))
    assert result == bare[0]
    assert untraced(frames) == untraced(bare[1])
    injected = {parent_in(frame) for frame in frames if "id" in frame or not LINE_1} - {None}
    assert injected <= {traceparent(span) for span in ours(telemetry)}
    assert len(ours(telemetry)) == len([frame for frame in frames if "method" in frame])
    assert complaints(caplog) == []


async def test_an_error_of_the_server_arrives_as_the_very_same_exception(telemetry: Telemetry) -> None:
    raised: list[BaseException] = []

    async def note(context: Any, call_next: Any) -> Any:
        try:
            return await call_next(context)
        except BaseException as error:
            raised.append(error)
            raise

    async with wired(tracing_to(telemetry), note) as (session, server):

        async def refuse(frame: Frame) -> None:
            await server.refuse(frame["id"], -32042, "not today")

        server.answers["tools/call"] = refuse
        with pytest.raises(Error, match="not today") as caught:
            await say(session)
    assert caught.value is raised[0]
    assert type(caught.value) is Error
    error: Any = caught.value
    assert (error.error.code, error.__cause__, error.__notes__ if hasattr(error, "__notes__") else None) == (
        -32042,
        None,
        None,
    )
    [span] = of(telemetry)
    assert (facts(span)["error.type"], facts(span)["rpc.response.status_code"]) == ("-32042", "-32042")
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "not today")
    assert span.events == ()


async def test_any_exception_passes_as_the_object_that_it_is(telemetry: Telemetry) -> None:
    class Odd(BaseException):
        pass

    for error in (ValueError(SECRET), RecursionError(), MemoryError(), KeyboardInterrupt(), Odd(), TimeoutError()):

        async def fail(context: Any, call_next: Any, error: BaseException = error) -> Any:
            raise error

        async with wired(tracing_to(telemetry), only_calls(fail)) as (session, _):
            with pytest.raises(type(error)) as caught:
                await say(session)
        assert caught.value is error
        assert (error.__cause__, error.__context__) == (None, None)
    assert [facts(span)["error.type"] for span in of(telemetry)] == [
        "ValueError",
        "RecursionError",
        "MemoryError",
        "cancelled",
        "cancelled",
        "timeout",
    ]
    assert SECRET not in repr([span.to_json() for span in telemetry.spans])


async def test_a_result_is_the_very_same_object(telemetry: Telemetry) -> None:
    result = T.CallToolResult(content=[])
    before = result.model_dump()

    async def answer(context: Any, call_next: Any) -> Any:
        return result

    async with wired(tracing_to(telemetry, capture_content=True), only_calls(answer)) as (session, _):
        assert await say(session) is result
    assert result.model_dump() == before


@pytest.mark.parametrize("with_sdk", [False, True], ids=["API only", "with an SDK"])
async def test_meta_of_the_caller_is_kept_and_not_changed(with_sdk: bool, telemetry: Telemetry) -> None:
    meta = {"acme/user": {"deep": [1]}, "progressToken": "mine", "baggage-like": "a=b"}
    asked = message(meta=deepcopy(meta))
    before = asked.model_dump(by_alias=True)
    tracing = tracing_to(telemetry) if with_sdk else TracingMiddleware()
    async with wired(tracing) as (session, server):
        await session.send_request(asked, T.CallToolResult)
        await session.send_request(asked, T.CallToolResult)
        frames = server.sent("tools/call")
    assert asked.model_dump(by_alias=True) == before
    expected = [traceparent(span) for span in of(telemetry)] if with_sdk else [None, None]
    for frame, parent in zip(frames, expected, strict=True):
        assert parent_in(frame) == parent
        assert {name: value for name, value in frame["params"]["_meta"].items() if name != "traceparent"} == meta


async def test_params_that_a_caller_keeps_are_not_changed(telemetry: Telemetry) -> None:
    params = T.PaginatedRequestParams(cursor="c")
    wanted = params.model_dump(by_alias=True), set(params.model_fields_set)
    async with wired(tracing_to(telemetry)) as (session, server):
        await session.list_prompts(params=params)
        assert parent_in(server.sent("prompts/list")[0]) is not None
    assert (params.model_dump(by_alias=True), set(params.model_fields_set)) == wanted


class MetaOfItsOwn(BaseModel):
    """What a vendor calls meta is not `_meta`."""

    meta: Any = None


class VendorRequest(BaseModel):
    name_param: ClassVar[str | None] = None
    method: str = "acme/do"
    params: Any = None


class AnyResult(BaseModel):
    pass


VENDORS: dict[str, tuple[Any, Any]] = {
    "a dict": ({"a": 1}, {"a": 1}),
    "a dict with _meta": ({"_meta": {"a": 1}}, {"_meta": {"a": 1}}),
    "no params": (None, None),
    "an empty dict": ({}, {}),
    "a model without meta": (T.Implementation(name="n", version="v"), {"name": "n", "version": "v"}),
    "a model with a meta of its own": (MetaOfItsOwn(meta={"a": 1}), {"meta": {"a": 1}}),
    "a model with a meta of its own that is a text": (MetaOfItsOwn(meta="text"), {"meta": "text"}),
    "a model with a meta of its own that is none": (MetaOfItsOwn(), {}),
}


@pytest.mark.parametrize("vendor", VENDORS)
async def test_what_a_vendor_asks_arrives_as_it_was_said(
    vendor: str, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    params, expected = VENDORS[vendor]
    asked = VendorRequest(params=deepcopy(params))
    async with wired(tracing_to(telemetry)) as (session, server):
        await session.send_request(asked, AnyResult)  # type: ignore[arg-type,unused-ignore]
        [frame] = server.sent("acme/do")
    assert asked.params == params
    assert untraced([frame])[0].get("params", {}) == (expected or {})
    [span] = of(telemetry, "acme/do")
    # On line 2, the SDK makes `_meta` of anything. On line 1, a model without it has no place for it.
    if not LINE_1 or isinstance(params, dict):
        assert parent_in(frame) == traceparent(span)
    assert complaints(caplog) == []


async def test_a_traced_call_leaves_no_trace_in_what_others_see(telemetry: Telemetry) -> None:
    seen: list[Any] = []

    async def look(context: Any, call_next: Any) -> Any:
        result = await call_next(context)
        if context.method == "tools/call":
            seen.append(deepcopy(context.params))
        return result

    async with wired(look, tracing_to(telemetry), look) as (session, server):
        with session.middleware_manager.capture() as exchanges:
            await say(session, arguments={"a": 1})
        assert parent_in(server.sent("tools/call")[0]) is not None
        seen.extend(exchange.context.params for exchange in exchanges)
    assert len(seen) == 3
    assert [params.meta for params in seen] == [None, None, None]


async def test_a_wrapper_further_in_sees_no_trace_context_either(telemetry: Telemetry) -> None:
    seen: list[Any] = []

    async def look(context: Any, call_next: Any) -> Any:
        seen.append((context.method, deepcopy(context.params)))
        return await call_next(context)

    async with wire() as (streams, server):
        session = intercept(intercept(ClientSession(*streams), look), tracing_to(telemetry))
        async with session:
            await session.initialize()
            await say(session)
        assert parent_in(server.sent("tools/call")[0]) is not None
    assert "traceparent" not in repr(seen)


async def test_other_middlewares_run_in_the_span_of_the_call(telemetry: Telemetry) -> None:
    current: list[Any] = []

    async def look(context: Any, call_next: Any) -> Any:
        current.append(trace.get_current_span())
        try:
            return await call_next(context)
        finally:
            current.append(trace.get_current_span())

    outer = trace.get_current_span()
    async with wired(only_calls(look), tracing_to(telemetry), only_calls(look)) as (session, _):
        await say(session)
    [span] = of(telemetry)
    assert [context_of(each).span_id for each in current] == [
        context_of(each).span_id for each in (outer, span, span, outer)
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Cancellation.


async def give_up_at(at: int, telemetry: Telemetry) -> tuple[str, int]:
    """Cancel a call at its `at`-th suspension; all that may be left of it is checked."""
    telemetry.take_spans()
    async with wired(tracing_to(telemetry)) as (session, server):
        await session.send_ping()
        before = anyio.get_running_tasks()
        parent = telemetry.tracer_provider.get_tracer("tests").start_span("parent")
        token = otel_context.attach(trace.set_span_in_context(parent))
        ambient = otel_context.get_current()
        scope = anyio.CancelScope()
        steps = Steps(say(session), at, scope.cancel)
        ending = "cancelled"
        with scope:
            if at == 0:
                scope.cancel()
            await steps.taken_by(session)
            ending = "answered"
        assert (ending == "cancelled") == scope.cancelled_caught == scope.cancel_called
        assert otel_context.get_current() is ambient
        otel_context.detach(token)
        parent.end()
        await session.send_ping()
        await settled()
        assert pending(session) == []
        await settle(before)
        [span] = of(telemetry)[-1:]
        mine = [each for each in of(telemetry) if each.start_time and each.start_time >= (parent.start_time or 0)]  # type: ignore[attr-defined]
        assert mine == [span]
        assert is_child_of(span, parent)
        assert span.end_time is not None
        if ending == "cancelled":
            assert facts(span)["error.type"] == "cancelled"
            assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
            assert span.events == ()
        told_off = server.sent("notifications/cancelled")
        notes = [each for each in of(telemetry, "notifications/cancelled") if each.parent]
        mine_told = [each for each in notes if is_child_of(each, span)]
        assert len(mine_told) == len(told_off) <= 1
        for frame, note in zip(told_off, mine_told, strict=True):
            # Line 2 tells the server also of a request that it was just about to hand over.
            assert {frame["params"]["requestId"]} >= {sent["id"] for sent in server.sent("tools/call")}
            assert parent_in(frame) == traceparent(note)
            assert note.name == "notifications/cancelled"
            assert note.kind is SpanKind.CLIENT
        assert [point.count for point in points_of(telemetry) if point.attributes[METHOD] == "tools/call"] == [1]
        return ending, len(told_off)


async def test_a_call_given_up_at_any_suspension_ends_its_span_once_and_leaves_nothing(telemetry: Telemetry) -> None:
    found: list[tuple[str, int]] = []
    while not found or found[-1][0] == "cancelled":
        found.append(await give_up_at(len(found), telemetry))
    assert len(found) > 3
    assert found[0] == ("cancelled", 0)
    assert ("cancelled", 1) in found
    assert found[-1] == ("answered", 0)


async def test_a_timeout_is_told_and_traced(telemetry: Telemetry) -> None:
    async with wired(tracing_to(telemetry)) as (session, server):
        server.answers["tools/call"] = never
        with pytest.raises(Error):
            await say(session, request_read_timeout_seconds=seconds(0.01))
        await server.wait_for("notifications/cancelled")
        [frame] = server.sent("notifications/cancelled")
    [span], [note] = of(telemetry), of(telemetry, "notifications/cancelled")
    assert facts(span)["error.type"] == "timeout"
    assert "rpc.response.status_code" not in facts(span)
    assert is_child_of(note, span)
    assert parent_in(frame) == traceparent(note)
    methods = {point.attributes[METHOD]: point.attributes.get("error.type") for point in points_of(telemetry)}
    assert methods["tools/call"] == "timeout"
    assert methods["notifications/cancelled"] is None


async def test_a_timeout_of_the_callers_own_is_a_cancellation(telemetry: Telemetry) -> None:
    async with wired(tracing_to(telemetry)) as (session, server):
        server.answers["tools/call"] = never
        with anyio.move_on_after(0.01):
            await say(session)
    assert [facts(span)["error.type"] for span in of(telemetry)] == ["cancelled"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("where", ["in another context", "in the same context"])
async def test_a_dropped_call_says_nothing_and_ends_its_span(
    where: str, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    ambient = otel_context.get_current()
    async with wired(tracing_to(telemetry)) as (session, server):
        server.answers["tools/call"] = never
        call = say(session)
        start = partial(call.send, None)
        if where == "in the same context":
            start()
        else:
            copy_context().run(start)
        with suppress(ValueError):  # of the SDK's own, on line 2.3
            call.close()
        assert otel_context.get_current() is ambient
        del call
        gc.collect()
        await session.send_ping()
    assert [facts(span)["error.type"] for span in of(telemetry)] in (["cancelled"], ["ValueError"])
    assert caplog.records == []


# ---------------------------------------------------------------------------------------------------------------------
# Concurrency.


async def test_calls_at_once_keep_to_their_own_traces(telemetry: Telemetry) -> None:
    count = 200
    parents: dict[int, Any] = {}
    tracer = telemetry.tracer_provider.get_tracer("tests")
    all_here = anyio.Event()

    async with wired(tracing_to(telemetry)) as (session, server):

        async def answer(frame: Frame) -> Frame:
            if len(server.sent("tools/call")) == count:
                all_here.set()
            await all_here.wait()
            return {"content": [{"type": "text", "text": str(frame["params"]["arguments"]["number"])}]}

        server.answers["tools/call"] = answer

        async def call(number: int) -> None:
            with tracer.start_as_current_span(f"parent {number}") as parents[number]:
                result = await say(session, arguments={"number": number})
                assert result.content[0].text == str(number)
                assert trace.get_current_span() is parents[number]

        async with anyio.create_task_group() as tasks:
            for number in range(count):
                tasks.start_soon(call, number)
        frames = {frame["params"]["arguments"]["number"]: frame for frame in server.sent("tools/call")}
    spans = {traceparent(span): span for span in of(telemetry)}
    assert len(spans) == count
    for number, frame in frames.items():
        span = spans[parent_in(frame)]
        assert is_child_of(span, parents[number])
        assert facts(span)["jsonrpc.request.id"] == str(frame["id"])
    [point] = [point for point in points_of(telemetry) if point.attributes[METHOD] == "tools/call"]
    assert point.count == count


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_middleware_serves_many_sessions_in_threads_and_event_loops(telemetry: Telemetry) -> None:
    tracing = tracing_to(telemetry)

    async def talk(number: int) -> set[Any]:
        async with wired(tracing) as (one, server), wired(tracing) as (other, _):
            for _ in range(5):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(say, one, f"tool-{number}")
                    tasks.start_soon(say, other, f"tool-{number}")
            return {parent_in(frame) for frame in server.sent("tools/call")}

    def run(number: int) -> set[Any]:
        return anyio.run(talk, number, backend="trio" if number % 2 else "asyncio")

    with ThreadPoolExecutor(6) as pool:
        parents = list(pool.map(run, range(6)))
    spans = of(telemetry)
    assert len(spans) == len({traceparent(span) for span in spans}) == 60
    assert {len(each) for each in parents} == {5}
    names = {traceparent(span): facts(span)["gen_ai.tool.name"] for span in spans}
    assert [{names[parent] for parent in each} for each in parents] == [{f"tool-{number}"} for number in range(6)]
    assert sum(point.count for point in points_of(telemetry, SESSIONS)) == 12


# ---------------------------------------------------------------------------------------------------------------------
# Faults of OpenTelemetry.


class BrokenError(Exception):
    pass


def broken(*args: Any, **options: Any) -> Any:
    raise BrokenError(f"{args} {options}")


class BrokenSampler(Sampler):
    should_sample = broken

    def get_description(self) -> str:
        return "broken"


class BrokenStart(SpanProcessor):
    on_start = broken


class BrokenEnd(SpanProcessor):
    def on_end(self, span: ReadableSpan) -> None:
        raise BrokenError(span.to_json())


class BrokenExporter(SpanExporter):
    def export(self, spans: Any) -> Any:
        raise BrokenError([span.to_json() for span in spans])


class BrokenIds(RandomIdGenerator):
    def generate_span_id(self) -> int:
        raise BrokenError


class BrokenPropagator(TextMapPropagator):
    extract = broken
    inject = broken
    fields: ClassVar[Any] = frozenset()


class Wrapping:
    """A provider whose tracers make spans that raise."""

    def __init__(self, provider: Any, *names: str) -> None:
        self._provider = provider
        self._names = names

    def get_tracer(self, *args: Any, **options: Any) -> Any:
        tracer = self._provider.get_tracer(*args, **options)
        start = tracer.start_span

        def start_span(*args: Any, **options: Any) -> Any:
            span = start(*args, **options)
            for name in self._names:
                setattr(span, name, broken)
            return span

        tracer.start_span = start_span
        return tracer


class BrokenMeters(MeterProvider):
    def get_meter(self, *args: Any, **options: Any) -> Any:
        meter = super().get_meter(*args, **options)
        create: Any = meter.create_histogram

        def create_histogram(*args: Any, **options: Any) -> Any:
            histogram = create(*args, **options)
            histogram.record = broken
            return histogram

        meter.create_histogram = create_histogram  # type: ignore[method-assign]
        return meter


def processed(processor: SpanProcessor) -> Any:
    provider = TracerProvider()
    provider.add_span_processor(processor)
    return provider


FAULTS: dict[str, Callable[[Telemetry], dict[str, Any]]] = {
    "sampler": lambda telemetry: {"tracer_provider": TracerProvider(BrokenSampler())},
    "processor, at the start": lambda telemetry: {"tracer_provider": processed(BrokenStart())},
    "processor, at the end": lambda telemetry: {"tracer_provider": processed(BrokenEnd())},
    "exporter": lambda telemetry: {"tracer_provider": processed(SimpleSpanProcessor(BrokenExporter()))},
    "id generator": lambda telemetry: {"tracer_provider": TracerProvider(id_generator=BrokenIds())},
    "propagator": lambda telemetry: {"propagator": BrokenPropagator()},
    "histogram": lambda telemetry: {"meter_provider": BrokenMeters()},
    "set_attribute": lambda telemetry: {
        "tracer_provider": Wrapping(telemetry.tracer_provider, "set_attribute", "set_attributes")
    },
    "set_status": lambda telemetry: {"tracer_provider": Wrapping(telemetry.tracer_provider, "set_status")},
    "add_event": lambda telemetry: {"tracer_provider": Wrapping(telemetry.tracer_provider, "add_event")},
    "is_recording": lambda telemetry: {"tracer_provider": Wrapping(telemetry.tracer_provider, "is_recording")},
    "end": lambda telemetry: {"tracer_provider": Wrapping(telemetry.tracer_provider, "end")},
    "get_span_context": lambda telemetry: {"tracer_provider": Wrapping(telemetry.tracer_provider, "get_span_context")},
    "everything of a span": lambda telemetry: {
        "tracer_provider": Wrapping(
            telemetry.tracer_provider,
            *("set_attribute", "set_attributes", "set_status", "add_event", "is_recording", "end", "update_name"),
        )
    },
}


async def misadventures(*middlewares: Any) -> list[Any]:
    """How calls end that end in every way, with secrets in all of them; and what the server is told."""
    ears = Ears()
    names = ("sampling_callback", "elicitation_callback", "list_roots_callback")
    callbacks = {name: ears.options[name] for name in names}
    async with wire() as (streams, server):
        inner = ClientSession(*streams, **callbacks)
        # On line 1, a bare session does not tell the server of what it gives up.
        session = intercept(inner, *middlewares)

        async def answer(frame: Frame) -> Frame | None:
            name = frame["params"]["name"]
            if name == "refused":
                await server.refuse(frame["id"], -32042, f"no {SECRET}")
            if name in ("refused", "silent"):
                return None
            return {"content": [{"type": "text", "text": SECRET}], "isError": name == "failing"}

        server.answers["tools/call"] = answer
        endings: list[Any] = []
        with anyio.fail_after(60):
            async with session:
                await session.initialize()
                for name in ("good", "failing", "refused") * 2:
                    ending = await outcome(partial(say, name=name, arguments={"p": SECRET}), session)
                    endings.append(ending)
                for number in range(2):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(say, session, "silent", {"p": SECRET})
                        await server.wait_for("tools/call", 7 + number)
                        tasks.cancel_scope.cancel()
                timeout = {"request_read_timeout_seconds": seconds(0.01)}
                endings.append(await outcome(partial(say, name="silent", arguments={"p": SECRET}, **timeout), session))
                for number in range(2):
                    parent = {"traceparent": f"00-{1:032x}-{1:016x}-01"}
                    endings.append(await server.ask("roots/list", {"_meta": parent}, f"q{number}"))
                await server.wait_for("notifications/cancelled", 3)
                await all_heard_by(session, server)
                assert pending(session) == []
                endings.append(untraced(heard(server)))
    return endings


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_of_opentelemetry_leaves_calls_alone_and_is_logged_once(
    fault: str, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    bare = await misadventures()
    assert complaints(caplog) == []
    ambient = otel_context.get_current()
    with telemetry.tracer_provider.get_tracer("tests").start_as_current_span("ambient"):
        assert await misadventures(tracing_to(telemetry, **FAULTS[fault](telemetry))) == bare
    assert otel_context.get_current() is ambient
    said = complaints(caplog)
    aims = [match[1] for line in said if (match := re.search(r"failed to (.+?): ", line))]
    assert len(aims) == len(said) == len(set(aims))
    assert all("further failures are not logged" in line for line in said)
    assert (len(said) > 0) == (fault not in ("exporter", "add_event"))  # a processor of the SDK's logs the former
    assert SECRET not in repr(said)


@pytest.mark.parametrize("fault", ["sampler", "processor, at the start", "processor, at the end", "id generator"])
async def test_calls_without_spans_are_measured_all_the_same(fault: str, telemetry: Telemetry) -> None:
    await misadventures(tracing_to(telemetry, **FAULTS[fault](telemetry)))
    counts: dict[str, int] = {}
    for point in points_of(telemetry):
        counts[point.attributes[METHOD]] = counts.get(point.attributes[METHOD], 0) + point.count
    assert (counts["tools/call"], counts["notifications/cancelled"]) == (9, 3)


async def test_a_fault_in_what_is_recorded_does_not_keep_a_span_from_ending(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    await misadventures(tracing_to(telemetry, meter_provider=BrokenMeters()))
    assert len(of(telemetry)) == 9
    assert len(of(telemetry, "notifications/cancelled")) == 3
    assert all(span.end_time for span in telemetry.spans)
    assert len(complaints(caplog)) >= 1


async def test_a_fault_in_what_describes_a_call_neither_loses_its_span_nor_its_duration(telemetry: Telemetry) -> None:
    names = ("set_attribute", "set_attributes", "set_status", "add_event", "update_name")
    await misadventures(tracing_to(telemetry, tracer_provider=Wrapping(telemetry.tracer_provider, *names)))
    assert len(of(telemetry)) == 9
    assert sum(point.count for point in points_of(telemetry) if point.attributes[METHOD] == "tools/call") == 9


async def test_a_broken_span_of_somebody_elses_is_let_be(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    provider: Any = Wrapping(telemetry.tracer_provider, "set_attributes", "set_attribute", "set_status")
    span = provider.get_tracer("agent").start_span(
        "execute_tool tool", attributes={"gen_ai.operation.name": "execute_tool"}
    )
    async with wired(tracing_to(telemetry)) as (session, _):
        with trace.use_span(span):
            assert (await say(session)).content[0].text == "done"
            assert (await say(session)).content[0].text == "done"
    assert len(complaints(caplog)) >= 1
    assert sum(point.count for point in points_of(telemetry) if point.attributes[METHOD] == "tools/call") == 2


async def test_a_huge_error_code_does_not_keep_a_span_from_ending(telemetry: Telemetry) -> None:
    async def refuse(context: Any, call_next: Any) -> Any:
        raise rpc_error(10**5000, "no")

    async with wired(tracing_to(telemetry), only_calls(refuse)) as (session, _):
        with pytest.raises(Error):
            await say(session)
    assert len(of(telemetry)) == 1


# ---------------------------------------------------------------------------------------------------------------------
# One span a message.


def methods_of(spans: Any) -> dict[str, int]:
    names = [facts(span)[METHOD] for span in spans]
    return {name: names.count(name) for name in names}


def kinds_of(telemetry: Telemetry) -> dict[tuple[str, str], int]:
    """How many spans there are of each method and kind, whoever made them; those that servers make not counted."""
    names = [(facts(span).get(METHOD, span.name), span.kind.name) for span in telemetry.spans]
    return {name: names.count(name) for name in names}


@asynccontextmanager
async def one_wrapper(make: Any, middlewares: list[Any]) -> AsyncGenerator[Any, None]:
    async with intercept(make(), *middlewares) as session:
        yield session


@asynccontextmanager
async def wrapped_twice(make: Any, middlewares: list[Any]) -> AsyncGenerator[Any, None]:
    async with intercept(intercept(make(), *middlewares), *middlewares) as session:
        yield session


@asynccontextmanager
async def entered_inside(make: Any, middlewares: list[Any]) -> AsyncGenerator[Any, None]:
    async with make() as inner:
        yield intercept(intercept(inner, *middlewares), *middlewares)


@asynccontextmanager
async def everywhere(make: Any, middlewares: list[Any]) -> AsyncGenerator[Any, None]:
    with intercept_all(*middlewares):
        async with intercept(make(), *middlewares) as session:
            yield session


@asynccontextmanager
async def everywhere_twice(make: Any, middlewares: list[Any]) -> AsyncGenerator[Any, None]:
    with intercept_all(*middlewares), intercept_all(*middlewares):
        async with make() as session:
            yield session


NESTED: dict[str, Any] = {
    "one": one_wrapper,
    "two": wrapped_twice,
    "two, entered inside": entered_inside,
    "intercept_all around one": everywhere,
    "intercept_all twice": everywhere_twice,
}


async def roundly(session: Any, server: WireServer, is_modern: bool) -> None:
    """One of everything."""
    await (session.discover() if is_modern else session.initialize())
    await say(session)
    await session.list_prompts()
    await report(session, "t", 1)
    if not is_modern:
        await server.ask("roots/list", None)
        await server.ask("ping", None, "p")
        server.answers["tools/call"] = never
        with pytest.raises(Error):
            await say(session, request_read_timeout_seconds=seconds(0.01))
        await server.wait_for("notifications/cancelled")


@pytest.mark.parametrize("instances", [1, 2], ids=["the same middleware", "one for each"])
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("nested", NESTED)
async def test_of_each_message_there_is_one_span_however_wrappers_are_nested(
    nested: str, era: str, instances: int, telemetry: Telemetry
) -> None:
    with telemetry.as_global():
        tracing = [TracingMiddleware() for _ in range(instances)]
        chosen = iter([*tracing, tracing[-1]] * 2)
        async with wire() as (streams, server):
            await converse(server, modern=era == "2026-07-28")
            callbacks = {"list_roots_callback": Ears().options["list_roots_callback"]}

            class Next(list[Any]):
                """A middleware each time it is unpacked."""

                def __iter__(self) -> Any:
                    return iter([next(chosen)])

            with anyio.fail_after(30):
                async with NESTED[nested](lambda: ClientSession(*streams, **callbacks), Next()) as session:
                    await roundly(session, server, era == "2026-07-28")
                    await settled()
            frames = server.frames
    expected: dict[tuple[str, str], int] = {}
    for frame in frames:
        if "method" in frame:
            name = (frame["method"], "CLIENT")
            expected[name] = expected.get(name, 0) + 1
    if era != "2026-07-28":
        expected.update({("roots/list", "SERVER"): 1, ("ping", "SERVER"): 1})
    assert kinds_of(telemetry) == expected
    parents = [parent_in(frame) for frame in frames if "method" in frame]
    assert set(parents) == {traceparent(span) for span in telemetry.spans if span.kind is SpanKind.CLIENT}
    assert sum(point.count for point in telemetry.take_points() if point.name == SESSIONS) == 1


async def test_a_middleware_between_two_wrappers_may_change_params(telemetry: Telemetry) -> None:
    async def change(context: Any, call_next: Any) -> Any:
        return await call_next(replace(context, params=context.params.model_copy(update={"arguments": {"b": 2}})))

    tracing = tracing_to(telemetry)
    async with wire() as (streams, server):
        async with intercept(intercept(ClientSession(*streams), only_calls(change), tracing), tracing) as session:
            await session.initialize()
            await say(session, arguments={"a": 1})
        [frame] = server.sent("tools/call")
    assert frame["params"]["arguments"] == {"b": 2}
    assert len(of(telemetry)) == 1
    assert parent_in(frame) == traceparent(of(telemetry)[0])


async def test_connections_of_ours_inside_intercept_all_have_one_span_a_message(telemetry: Telemetry) -> None:
    tracing = tracing_to(telemetry)
    with intercept_all(tracing):
        async with wired(tracing) as (session, server):
            await say(session)
            await server.ask("ping")
    assert methods_of(ours(telemetry)) == {
        "initialize": 1,
        "notifications/initialized": 1,
        "tools/call": 1,
        "ping": 1,
    }


@only_line_2
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_client_that_is_intercepted_twice_and_everywhere_has_one_span_a_message(
    mode: str, telemetry: Telemetry
) -> None:
    client_type: Any = import_module("mcp").Client
    with telemetry.as_global():
        tracing = TracingMiddleware()
        with intercept_all(tracing):
            with anyio.fail_after(30):
                async with intercept(intercept(client_type(make_server(), mode=mode), tracing), tracing) as client:
                    await client.call_tool("add", {"a": 1, "b": 2})
    mine = [span for span in telemetry.spans if span.kind is SpanKind.CLIENT]
    counts = methods_of(mine)
    assert counts["tools/call"] == 1
    assert set(counts.values()) == {1}
    assert {span.instrumentation_scope.name for span in mine if span.instrumentation_scope} == {OURS}


async def test_a_ping_of_another_session_has_a_span_of_its_own(telemetry: Telemetry) -> None:
    """Even where both messages say nothing, and are sent one within the other."""

    class Nothing(TextMapPropagator):
        fields: ClassVar[Any] = frozenset()

        def extract(self, carrier: Any, context: Any = None, getter: Any = None) -> Context:
            return context or Context()

        def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
            """Nothing goes out."""

    tracing = tracing_to(telemetry, propagator=Nothing())
    async with wired(tracing) as (other, _), wire() as (streams, _):

        async def ping_another(context: Any, call_next: Any) -> Any:
            if context.method == "ping":
                await other.send_ping()
            return await call_next(context)

        async with intercept(intercept(ClientSession(*streams), ping_another), tracing) as session:
            await session.initialize()
            await session.send_ping()
    assert len(of(telemetry, "ping")) == 2


def scopes_of(telemetry: Telemetry, method: str) -> list[str]:
    """Who made the CLIENT spans of a method."""
    return sorted(
        span.instrumentation_scope.name if span.instrumentation_scope else ""
        for span in telemetry.spans
        if facts(span).get(METHOD) == method and span.kind is SpanKind.CLIENT
    )


@only_line_2
@pytest.mark.parametrize("wrappers", [1, 2])
async def test_a_bare_session_called_on_the_way_keeps_its_span(wrappers: int, telemetry: Telemetry) -> None:
    with telemetry.as_global():
        async with wire() as (bare_streams, bare_server), wire() as (streams, server):
            async with ClientSession(*bare_streams) as bare:
                await bare.initialize()

                async def ask_another(context: Any, call_next: Any) -> Any:
                    await say(bare)
                    return await call_next(context)

                session: Any = intercept(ClientSession(*streams), only_calls(ask_another))
                tracing = TracingMiddleware()
                session = (
                    intercept(session, tracing)
                    if wrappers == 2
                    else intercept(ClientSession(*streams), tracing, only_calls(ask_another))
                )
                async with session:
                    await session.initialize()
                    await say(session)
        [inner], [outer] = bare_server.sent("tools/call"), server.sent("tools/call")
    assert scopes_of(telemetry, "tools/call") == ["mcp-python-sdk", OURS]
    [theirs] = [span for span in telemetry.spans if span.name == "MCP send tools/call tool"]
    [mine] = of(telemetry)
    assert is_child_of(theirs, mine)
    assert parent_in(inner) == traceparent(theirs)
    assert parent_in(outer) == traceparent(mine)


@only_line_2
async def test_a_bare_session_called_later_by_what_a_call_has_started_keeps_its_span(telemetry: Telemetry) -> None:
    """It runs in a copy of the context in which the call was sent."""
    has_ended = anyio.Event()
    with telemetry.as_global():
        async with wired() as (bare, bare_server), wire() as (streams, _), anyio.create_task_group() as tasks:

            async def go_on() -> None:
                await has_ended.wait()
                await say(bare.client_session)

            async def start(context: Any, call_next: Any) -> Any:
                tasks.start_soon(go_on)
                return await call_next(context)

            inner = intercept(ClientSession(*streams), only_calls(start))
            async with intercept(inner, TracingMiddleware()) as session:
                await session.initialize()
                await say(session)
                has_ended.set()
                await bare_server.wait_for("tools/call")
    assert scopes_of(telemetry, "tools/call") == ["mcp-python-sdk", OURS]


def proxy_of(backend: Any) -> Any:
    """A server in this process that hands calls on to another one."""
    server_type: Any = import_module("mcp.server.lowlevel").Server

    async def call_tool(context: Any, params: Any) -> Any:
        return await say(backend, params.name)

    async def list_tools(context: Any, params: Any) -> Any:
        return T.ListToolsResult(tools=[])

    return server_type("proxy", on_call_tool=call_tool, on_list_tools=list_tools)


@only_line_2
async def test_a_server_in_this_process_that_calls_another_keeps_the_sdks_spans(telemetry: Telemetry) -> None:
    """Over streams in memory, its code runs in a copy of the caller's context."""
    with telemetry.as_global():
        async with wire() as (streams, server), ClientSession(*streams) as backend:
            await backend.initialize()
            async with connect(proxy_of(backend), TracingMiddleware()) as session:
                with anyio.fail_after(30):
                    await say(session)
            [frame] = server.sent("tools/call")
    assert scopes_of(telemetry, "tools/call") == ["mcp-python-sdk", OURS]
    [theirs] = [span for span in telemetry.spans if span.name == "MCP send tools/call tool"]
    assert parent_in(frame) == traceparent(theirs)


@only_line_2
async def test_what_a_server_in_this_process_asks_is_injected_by_the_sdk(telemetry: Telemetry) -> None:
    parents: list[Any] = []

    async def look(context: Any, call_next: Any) -> Any:
        if context.direction == "incoming":
            parents.append((context.params.meta or {}).get("traceparent"))
        return await call_next(context)

    with telemetry.as_global():
        ears = Ears()
        async with connect(
            make_server(), look, TracingMiddleware(), elicitation_callback=ears.options["elicitation_callback"]
        ) as session:
            await say(session, "ask", {})
    [asked] = [span for span in telemetry.spans if span.name.startswith("MCP send elicitation/create")]
    [served] = [span for span in of(telemetry, "elicitation/create") if span.kind is SpanKind.SERVER]
    assert parents == [traceparent(asked)]
    assert is_child_of(served, asked)


@only_line_2
async def test_afterwards_bare_sessions_have_the_sdks_spans(telemetry: Telemetry) -> None:
    with telemetry.as_global():
        async with wired(TracingMiddleware()) as (session, _):
            await say(session)
            async with wire() as (streams, server), ClientSession(*streams) as bare:
                await bare.initialize()
                await say(bare)
                server.answers["tools/call"] = never
                with pytest.raises(Error):
                    await say(bare, request_read_timeout_seconds=seconds(0.01))
                await server.wait_for("notifications/cancelled")
                frames = server.sent("tools/call")
                [told_off] = server.sent("notifications/cancelled")
    assert scopes_of(telemetry, "tools/call") == ["mcp-python-sdk"] * 2 + [OURS]
    theirs = [span for span in telemetry.spans if span.name == "MCP send tools/call tool"]
    assert [parent_in(frame) for frame in frames] == [traceparent(span) for span in theirs]
    assert of(telemetry, "notifications/cancelled") == []
    assert parent_in(told_off) is None


@only_line_2
@pytest.mark.parametrize("options", [{}, {"exclude": ["tools/*"]}], ids=["traced", "excluded"])
async def test_a_traced_call_has_no_span_of_the_sdks(options: Any, telemetry: Telemetry) -> None:
    with telemetry.as_global():
        async with wired(TracingMiddleware(**options)) as (session, _):
            await say(session)
            await session.send_ping()
    assert scopes_of(telemetry, "tools/call") == ([OURS] if not options else [])
    assert scopes_of(telemetry, "ping") == [OURS]


# ---------------------------------------------------------------------------------------------------------------------
# What only an interceptor knows.


async def test_a_retry_inside_is_an_event_and_a_retry_outside_a_span_for_each_attempt(telemetry: Telemetry) -> None:
    async with wired(tracing_to(telemetry), only_calls(twice)) as (session, server):
        await say(session)
        frames = server.sent("tools/call")
    [span] = of(telemetry)
    assert [(event.name, dict(event.attributes or {})) for event in span.events] == [
        ("mcp_intercept.retry", {"mcp_intercept.attempt": 2})
    ]
    assert facts(span)["mcp_intercept.attempts"] == 2
    assert [parent_in(frame) for frame in frames] == [traceparent(span)] * 2
    assert facts(span)["jsonrpc.request.id"] == str(frames[-1]["id"])

    again = Telemetry()
    async with wired(only_calls(twice), tracing_to(again)) as (session, server):
        await say(session)
        frames = server.sent("tools/call")
    first, second = of(again)
    assert [facts(span).get("mcp_intercept.attempt") for span in (first, second)] == [None, 2]
    assert first.events == second.events == ()
    assert [parent_in(frame) for frame in frames] == [traceparent(first), traceparent(second)]
    assert [facts(span)["jsonrpc.request.id"] for span in (first, second)] == [str(frame["id"]) for frame in frames]


async def test_a_retry_that_succeeds_in_the_end_is_a_success(telemetry: Telemetry) -> None:
    async def stubborn(context: Any, call_next: Any) -> Any:
        try:
            return await call_next(context)
        except Error:
            return await call_next(replace(context))

    async with wired(tracing_to(telemetry), only_calls(stubborn)) as (session, server):

        async def answer(frame: Frame) -> Frame | None:
            if len(server.sent("tools/call")) == 1:
                await server.refuse(frame["id"], -32042, "not today")
                return None
            return dict(RESULTS["tools/call"])

        server.answers["tools/call"] = answer
        await say(session)
    [span] = of(telemetry)
    assert facts(span)["mcp_intercept.attempts"] == 2
    assert span.status.status_code is StatusCode.UNSET
    assert "error.type" not in facts(span)
    assert "mcp_intercept.rewritten" not in facts(span)


async def test_inside_and_outside_of_a_retry_at_once(telemetry: Telemetry) -> None:
    tracing = tracing_to(telemetry)
    async with wired(tracing, only_calls(twice), tracing) as (session, server):
        await say(session)
        frames = server.sent("tools/call")
    first, second, outer = of(telemetry)
    assert is_child_of(first, outer)
    assert is_child_of(second, outer)
    assert [parent_in(frame) for frame in frames] == [traceparent(first), traceparent(second)]
    assert facts(outer)["mcp_intercept.attempts"] == 2


async def test_a_short_cut_is_marked_and_what_is_sent_is_not(telemetry: Telemetry) -> None:
    async def answer(context: Any, call_next: Any) -> Any:
        return {"content": []}

    async with wired(tracing_to(telemetry), only_calls(answer)) as (session, server):
        await say(session)
        await session.send_ping()
        assert server.sent("tools/call") == []
    assert facts(of(telemetry)[0])["mcp_intercept.short_cut"] is True
    assert "jsonrpc.request.id" not in facts(of(telemetry)[0])
    assert "mcp_intercept.short_cut" not in facts(of(telemetry, "ping")[0])


async def assign(context: Any, call_next: Any) -> Any:
    context.params = context.params.model_copy(update={"arguments": {"a": 2}})
    return await call_next(context)


async def mutate(context: Any, call_next: Any) -> Any:
    context.params.arguments["a"] = 2
    return await call_next(context)


async def pass_a_copy(context: Any, call_next: Any) -> Any:
    return await call_next(replace(context, params=context.params.model_copy(update={"arguments": {"a": 2}})))


async def add_meta(context: Any, call_next: Any) -> Any:
    meta = T.RequestParams.Meta(a=1) if LINE_1 else {"a": 1}
    return await call_next(replace(context, params=context.params.model_copy(update={"meta": meta})))


async def assign_the_same(context: Any, call_next: Any) -> Any:
    context.params = context.params.model_copy(deep=True)
    return await call_next(context)


async def assign_on_the_way_back(context: Any, call_next: Any) -> Any:
    result = await call_next(context)
    context.params = context.params.model_copy(update={"arguments": {"a": 2}})
    return result


@pytest.mark.parametrize("change", [assign, mutate, pass_a_copy])
async def test_params_that_a_middleware_changed_are_named(change: Any, telemetry: Telemetry) -> None:
    async with wired(tracing_to(telemetry), only_calls(change)) as (session, server):
        await say(session, arguments={"a": 1})
        assert server.sent("tools/call")[0]["params"]["arguments"] == {"a": 2}
    assert facts(of(telemetry)[0])["mcp_intercept.rewritten"] == ("arguments",)


@pytest.mark.parametrize("change", [add_meta, assign_the_same, None])
async def test_params_that_nobody_changed_are_not_named(change: Any, telemetry: Telemetry) -> None:
    async with wired(tracing_to(telemetry), *([only_calls(change)] if change else [])) as (session, _):
        await say(session, arguments={"a": {"b": [1]}})
    assert "mcp_intercept.rewritten" not in facts(of(telemetry)[0])


async def test_params_changed_outside_are_not_named(telemetry: Telemetry) -> None:
    async with wired(only_calls(assign), tracing_to(telemetry)) as (session, _):
        await say(session, arguments={"a": 1})
    assert "mcp_intercept.rewritten" not in facts(of(telemetry)[0])


async def test_a_call_that_is_led_to_another_tool_bears_its_name(telemetry: Telemetry) -> None:
    async def rename(context: Any, call_next: Any) -> Any:
        return await call_next(replace(context, params=context.params.model_copy(update={"name": "other"})))

    async with wired(tracing_to(telemetry), only_calls(rename)) as (session, _):
        await session.list_tools()
        await say(session, "tool", {"a": 1})
    [span] = of(telemetry)
    assert (span.name, facts(span)["gen_ai.tool.name"]) == ("tools/call other", "other")
    assert facts(span)["mcp_intercept.rewritten"] == ("name",)
    # No server has listed that one.
    names = [point.attributes.get("gen_ai.tool.name") for point in points_of(telemetry)]
    assert [name for name in names if name] == ["_OTHER"]


@only_line_2
async def test_rounds_of_a_call_are_counted_and_linked(telemetry: Telemetry) -> None:
    from tests.test_incoming_modern import asking, client_of, own_state

    ears = Ears()
    names = ("sampling_callback", "elicitation_callback", "list_roots_callback")
    callbacks = {name: ears.options[name] for name in names}
    tracing = tracing_to(telemetry)
    async with client_of(asking(2, own_state), tracing, **callbacks) as client:
        await client.call_tool("tool", {})
    first, second, third = of(telemetry)
    assert [facts(span).get("mcp_intercept.round") for span in (first, second, third)] == [None, 2, 3]
    assert [
        [(event.name, dict(event.attributes or {})) for event in span.events] for span in (first, second, third)
    ] == [
        [("mcp_intercept.input_required", {"mcp_intercept.questions": 3})],
        [("mcp_intercept.input_required", {"mcp_intercept.questions": 3})],
        [],
    ]
    assert first.links == ()
    assert [[link.context.span_id for link in span.links] for span in (second, third)] == [
        [context_of(first).span_id]
    ] * 2
    asked = [span for span in ours(telemetry) if span.kind is SpanKind.SERVER]
    assert methods_of(asked) == {"elicitation/create": 2, "sampling/createMessage": 2, "roots/list": 2}
    led_to = {link.context.span_id for span in asked for link in span.links}
    assert led_to == {context_of(first).span_id, context_of(second).span_id}


# ---------------------------------------------------------------------------------------------------------------------
# A span of somebody else's around it.


def tool_span(telemetry: Telemetry, **attributes: Any) -> Any:
    """The span of an agent framework."""
    named = {name.replace("__", "."): value for name, value in attributes.items()}
    return telemetry.tracer_provider.get_tracer("agent").start_as_current_span(
        "execute_tool tool", attributes={"gen_ai.operation.name": "execute_tool", **named}
    )


@pytest.mark.parametrize("named", [{}, {"gen_ai__tool__name": "tool"}], ids=["unnamed", "named"])
async def test_the_span_of_an_agent_framework_is_enriched_once(named: Any, telemetry: Telemetry) -> None:
    async with wired(tracing_to(telemetry)) as (session, server):
        with tool_span(telemetry, acme__note="kept", **named) as enclosing:
            await say(session)
            assert enclosing.is_recording()
            enriched = dict(enclosing.attributes)
            await say(session)
        first, second = server.sent("tools/call")
    assert parent_in(first) == traceparent(enclosing)
    [own] = of(telemetry)
    assert parent_in(second) == traceparent(own)
    assert is_child_of(own, enclosing)
    assert enclosing.name == "execute_tool tool"
    assert enriched["acme.note"] == "kept"
    assert {name: enriched[name] for name in (METHOD, "gen_ai.tool.name", "jsonrpc.request.id")} == {
        METHOD: "tools/call",
        "gen_ai.tool.name": "tool",
        "jsonrpc.request.id": str(first["id"]),
    }
    assert dict(enclosing.attributes) == enriched
    assert sum(point.count for point in points_of(telemetry) if point.attributes[METHOD] == "tools/call") == 2


async def test_the_span_of_another_client_library_is_enriched_once(telemetry: Telemetry) -> None:
    tracer = telemetry.tracer_provider.get_tracer("fastmcp")
    attributes = {METHOD: "tools/call", "gen_ai.tool.name": "tool", "acme.note": "kept"}
    async with wired(tracing_to(telemetry)) as (session, server):
        with tracer.start_as_current_span("theirs", kind=SpanKind.CLIENT, attributes=attributes) as enclosing:
            await say(session)
            await say(session)
            await say(session, "other")
        frames = server.sent("tools/call")
    second, third = [span for span in of(telemetry) if span.name != "theirs"]
    assert [parent_in(frame) for frame in frames] == [traceparent(span) for span in (enclosing, second, third)]
    found = {**(getattr(enclosing, "attributes", None) or {})}
    assert (found["jsonrpc.request.id"], found["acme.note"]) == (str(frames[0]["id"]), "kept")


async def test_a_span_that_only_its_name_tells_is_enriched(telemetry: Telemetry) -> None:
    tracer = telemetry.tracer_provider.get_tracer("agent")
    async with wired(tracing_to(telemetry)) as (session, _):
        with tracer.start_as_current_span("execute_tool tool") as enclosing:
            await say(session)
        with tracer.start_as_current_span("execute_tool other"):
            await say(session)
    assert "jsonrpc.request.id" in {**(getattr(enclosing, "attributes", None) or {})}
    assert [span.name for span in of(telemetry)] == ["tools/call tool"]


async def test_an_enriched_span_shows_how_the_call_failed(telemetry: Telemetry) -> None:
    async def fail(frame: Frame) -> Frame:
        return {"content": [], "isError": True}

    async with wired(tracing_to(telemetry)) as (session, server):
        server.answers["tools/call"] = fail
        with tool_span(telemetry) as enclosing:
            await say(session)
    assert enclosing.attributes["error.type"] == "tool_error"
    assert enclosing.status.status_code is StatusCode.ERROR
    assert of(telemetry) == []


@pytest.mark.parametrize("attributes", [{"gen_ai__tool__name": "other"}, {"gen_ai__operation__name": "chat"}], ids=str)
async def test_the_span_of_another_tool_is_let_be(attributes: Any, telemetry: Telemetry) -> None:
    async with wired(tracing_to(telemetry)) as (session, _):
        with tool_span(telemetry, **attributes) as enclosing:
            before = dict(enclosing.attributes)
            await say(session)
            await session.send_ping()
        assert dict(enclosing.attributes) == before
    assert is_child_of(of(telemetry)[0], enclosing)


async def test_only_tool_calls_are_added_to_the_span_of_a_tool(telemetry: Telemetry) -> None:
    async with wired(tracing_to(telemetry)) as (session, _):
        with tool_span(telemetry) as enclosing:
            await session.send_ping()
            await session.get_prompt("greet")
    assert METHOD not in enclosing.attributes
    assert len(of(telemetry, "ping")) == len(of(telemetry, "prompts/get")) == 1


async def test_no_span_is_enriched_if_that_is_not_wanted(telemetry: Telemetry) -> None:
    async with wired(tracing_to(telemetry, enrich_enclosing=False)) as (session, _):
        with tool_span(telemetry) as enclosing:
            await say(session)
    assert METHOD not in enclosing.attributes
    assert is_child_of(of(telemetry)[0], enclosing)


async def test_a_span_that_has_ended_or_does_not_record_is_let_be(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    async with wired(tracing_to(telemetry)) as (session, _):
        enclosing: Any = telemetry.tracer_provider.get_tracer("agent").start_span(
            "execute_tool tool", attributes={"gen_ai.operation.name": "execute_tool"}
        )
        enclosing.end()
        with trace.use_span(enclosing):
            await say(session)
        remote = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1))
        with trace.use_span(NonRecordingSpan(remote)):
            await say(session)
    assert METHOD not in enclosing.attributes
    first, second = of(telemetry)
    assert is_child_of(first, enclosing)
    assert second.parent == remote
    assert caplog.records == []


async def test_an_agent_span_that_goes_on_afterwards_is_not_ended(telemetry: Telemetry) -> None:
    async with wired(tracing_to(telemetry)) as (session, server):
        server.answers["tools/call"] = never
        with tool_span(telemetry) as enclosing:
            with anyio.move_on_after(0.01):
                await say(session)
            assert enclosing.is_recording()
            assert enclosing.attributes["error.type"] == "cancelled"


# ---------------------------------------------------------------------------------------------------------------------
# Secrets.


def everything_in(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> str:
    """All that left the process: spans, durations, log records."""
    points = telemetry.take_points()
    assert telemetry.spans
    assert points
    return repr([[span.to_json() for span in telemetry.spans], points, [vars(each) for each in caplog.records]])


def refused(value: str) -> str:
    """What pydantic says of a value."""
    return f"1 validation error\na\n  Input should be valid [type=parsing, input_value={value}, input_type=str]"


LONG = "x" * 200
LEAKS: dict[str, tuple[Any, str]] = {
    "as it is": ({"password": SECRET}, f"bad password: {SECRET}"),
    "quoted": ({"password": SECRET}, f"bad password: '{SECRET}'"),
    "as pydantic shows it": ({"a": SECRET}, refused(f"'{SECRET}'")),
    "cut off, as pydantic does": ({"a": f"{SECRET}{LONG}-end"}, refused(f"'{SECRET}xxxxx...xxxxx-end'")),
    "cut off, after a bracket": ({"a": f"x]{SECRET}{LONG}-end"}, refused(f"'x]{SECRET}xxxxx...xxxxx-end'")),
    "cut off, in a list": ({"a": [["b"], f"{SECRET}{LONG}"]}, refused(f"[['b'], '{SECRET}xxxx...xxxxxxx']")),
    "cut off, by whoever": ({"a": f"{SECRET}{LONG}"}, f"bad a: {SECRET}xxxxxxx..."),
    "deep inside": ({"a": [{"b": [{"c": SECRET}]}]}, f"bad {SECRET}"),
    "as a key": ({"a": {SECRET: 1}}, f"unknown field {SECRET}"),
    "as a number": ({"card": 4111111111111111}, "bad card 4111111111111111"),
    "among many": ({"a": SECRET, "many": ["filler"] * 5000}, f"bad {SECRET}"),
    "with a line break, as JSON": ({"a": f"one\n{SECRET}"}, json.dumps({"a": f"one\n{SECRET}"})),
    "beyond what is looked at": ({"a": "x" * 1900, "b": SECRET * 100}, f"{'x' * 1900} {SECRET * 100}"),
}


@pytest.mark.parametrize("leak", LEAKS)
async def test_what_an_error_repeats_of_the_arguments_is_not_shown(
    leak: str, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    arguments, text = LEAKS[leak]
    async with wired(tracing_to(telemetry)) as (session, server):

        async def refuse(frame: Frame) -> None:
            await server.refuse(frame["id"], -32602, text)

        server.answers["tools/call"] = refuse
        with pytest.raises(Error):
            await say(session, arguments=arguments)
    shown = everything_in(telemetry, caplog)
    assert SECRET not in shown
    assert "4111111111111111" not in shown
    assert facts(of(telemetry)[0])["error.type"] == "-32602"


async def test_the_message_of_an_error_is_shown_without_what_it_repeats(telemetry: Telemetry) -> None:
    async with wired(tracing_to(telemetry)) as (session, server):

        async def refuse(frame: Frame) -> None:
            await server.refuse(frame["id"], -32602, f"bad password: {SECRET}!")

        server.answers["tools/call"] = refuse
        with pytest.raises(Error):
            await say(session, arguments={"password": SECRET})
    assert of(telemetry)[0].status.description == "bad password: [...]!"


ECHOING: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "resources/read": lambda session: session.read_resource(f"https://user:{SECRET}@host/x?sig={SECRET}"),
    "prompts/get": lambda session: session.get_prompt("greet", {"name": SECRET}),
    "completion/complete": lambda session: session.complete(
        T.PromptReference(type="ref/prompt", name="greet"), {"name": "who", "value": SECRET}
    ),
    "acme/do": lambda session: session.send_request(VendorRequest(params={"password": [SECRET]}), AnyResult),
}


@pytest.mark.parametrize("method", ECHOING)
async def test_an_error_that_repeats_what_was_asked_does_not_show_it(
    method: str, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    async with wired(tracing_to(telemetry)) as (session, server):

        async def refuse(frame: Frame) -> None:
            await server.refuse(frame["id"], -32602, f"bad params: {json.dumps(frame['params'])}")

        server.answers[method] = refuse
        with pytest.raises(Error, match=SECRET):
            await ECHOING[method](session)
    assert of(telemetry, method)[0].status.status_code is StatusCode.ERROR
    assert SECRET not in everything_in(telemetry, caplog)


URIS = [
    f"https://user:{SECRET}@host/path",
    f"https://{SECRET}@host/path",
    f"https://user:first@{SECRET}@host/path",
    f"https://user:{SECRET}{'x' * 2000}@host/path",
    f"https://host/path?sig={SECRET}&x=1",
    f"https://host/path?x=1&Signature={SECRET}#fragment",
    f"https://host/path?X-Goog-Signature={SECRET}",
    f"https://host/path?X-Amz-Signature={SECRET}",
    f"https://host/path?AWSAccessKeyId={SECRET}",
    f"https://user:{SECRET}@host/https://user:{SECRET}@host",
    f"ftp://user:{SECRET}\u2028@host/",
]


@pytest.mark.parametrize("place", URIS, ids=range(len(URIS)))
async def test_credentials_in_a_uri_are_not_shown(
    place: str, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"resource_uri_in_name": True, "resource_uri_in_metrics": True}
    async with wired(tracing_to(telemetry, **options)) as (session, _):
        await session.read_resource(place)  # type: ignore[arg-type,unused-ignore]
        await session.subscribe_resource(place)  # type: ignore[arg-type,unused-ignore]
    assert facts(of(telemetry, "resources/read")[0])["mcp.resource.uri"].startswith(place[:4])
    assert SECRET not in everything_in(telemetry, caplog)


async def test_by_default_nothing_holds_what_is_said(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def put_headers(context: Any, call_next: Any) -> Any:
        context.options.headers = {"authorization": SECRET}
        context.metadata["secret"] = SECRET
        return await call_next(context)

    async def fail(context: Any, call_next: Any) -> Any:
        if context.params.name == "raise":
            raise ValueError(SECRET)
        return await call_next(context)

    def behave(name: str) -> Any:
        if name == "roots":
            raise ValueError(SECRET)
        return Ears.RESULTS.get(name)

    ears = Ears(behave)
    names = ("sampling_callback", "elicitation_callback", "list_roots_callback")
    async with wired(
        tracing_to(telemetry, incoming_notifications=True),
        only_calls(put_headers),
        only_calls(fail),
        **{name: ears.options[name] for name in names},
    ) as (session, server):

        async def answer(frame: Frame) -> Frame:
            is_error = frame["params"]["name"] == "fail"
            structured = {"structuredContent": {"secret": SECRET}, "_meta": {"secret": SECRET}}
            return {"content": [{"type": "text", "text": SECRET}], "isError": is_error, **structured}

        server.answers["tools/call"] = answer
        await say(session, "tool", {"password": SECRET, SECRET: 1})
        await say(session, "fail", {"password": SECRET})
        await session.send_request(message(meta={"secret": SECRET}), T.CallToolResult)
        with pytest.raises(ValueError, match=SECRET):
            await say(session, "raise", {"password": SECRET})
        await session.get_prompt("greet", {"name": SECRET, SECRET: "x"})
        await session.read_resource("memo://1")  # type: ignore[arg-type,unused-ignore]
        await report(session, "t", 1, 2, SECRET)
        sampling = {"messages": [{"role": "user", "content": {"type": "text", "text": SECRET}}], "maxTokens": 1}
        await server.ask("sampling/createMessage", {**sampling, "systemPrompt": SECRET}, "s")
        await server.ask("roots/list", {"_meta": {"secret": SECRET}}, "r")
        await server.notify("notifications/message", {"level": "info", "data": SECRET})
        await settled()
    logged = [record for record in caplog.records if record.name.startswith("mcp_intercept")]
    shown = repr(
        [[span.to_json() for span in telemetry.spans], telemetry.take_points(), [vars(each) for each in logged]]
    )
    assert len(ours(telemetry)) >= 11
    assert SECRET not in shown


# ---------------------------------------------------------------------------------------------------------------------
# Durations.


async def test_what_is_not_sampled_is_measured() -> None:
    telemetry = Telemetry(ALWAYS_OFF)
    async with wired(tracing_to(telemetry)) as (session, server):
        await say(session)
        assert int(parent_in(server.sent("tools/call")[0])[-2:], 16) % 2 == 0
    assert telemetry.spans == ()
    points = telemetry.take_points()
    assert [point.count for point in points if point.attributes.get(METHOD) == "tools/call"] == [1]
    assert [point.count for point in points if point.name == SESSIONS] == [1]


def labels_of(points: list[Point], name: str) -> set[Any]:
    return {point.attributes[name] for point in points if name in point.attributes}


async def test_names_that_no_server_knows_are_no_labels(telemetry: Telemetry) -> None:
    async def fail(frame: Frame) -> Frame:
        return {**RESULTS["tools/call"], "isError": frame["params"]["name"] != "tool"}

    async with wired(tracing_to(telemetry)) as (session, server):
        server.answers["tools/call"] = fail
        await session.list_tools()
        for number in range(300):
            await say(session, f"made-up-{number}")
        await say(session, "tool")
        points = telemetry.take_points()
        assert labels_of(points, "gen_ai.tool.name") == {"_OTHER", "tool"}
        assert len([point for point in points if point.attributes.get(METHOD) == "tools/call"]) == 2
        # A server that lists its tools, and answers others well all the same.
        server.answers["tools/call"] = answer_well
        for number in range(300):
            await say(session, f"made-up-{number}")
        assert labels_of(telemetry.take_points(), "gen_ai.tool.name") == {"_OTHER"}


async def answer_well(frame: Frame) -> Frame:
    return dict(RESULTS["tools/call"])


async def test_names_that_a_server_lists_are_labels_whatever_they_look_like(telemetry: Telemetry) -> None:
    names = ["tool", "x" * 150, "ü", "two words", "line\nbreak", "y" * 300]

    async def list_tools(frame: Frame) -> Frame:
        return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names]}

    async with wired(tracing_to(telemetry)) as (session, server):
        server.answers["tools/list"] = list_tools
        await session.list_tools()
        for name in names:
            await say(session, name)
    found = labels_of(points_of(telemetry), "gen_ai.tool.name")
    assert "_OTHER" not in found
    assert len(found) == len(names)


async def test_of_names_answered_well_before_any_list_only_so_many_are_labels(telemetry: Telemetry) -> None:
    tracing = tracing_to(telemetry)
    async with wired(tracing, only_calls(short_cut)) as (session, _):
        for number in range(1100):
            await say(session, f"tool-{number}")
    found = labels_of(points_of(telemetry), "gen_ai.tool.name")
    assert "_OTHER" in found
    assert len(found) <= 1001


async def short_cut(context: Any, call_next: Any) -> Any:
    return T.CallToolResult(content=[])


async def test_what_a_server_invents_does_not_make_labels_without_end(telemetry: Telemetry) -> None:
    codes = iter(range(-50_000, 0))

    async def refuse(context: Any, call_next: Any) -> Any:
        raise rpc_error(next(codes), "no")

    async with wired(tracing_to(telemetry), only_calls(refuse)) as (session, server):
        for _ in range(600):
            with pytest.raises(Error):
                await say(session)
        for number in range(520):
            await session.send_request(VendorRequest(method=f"acme/{number}"), AnyResult)  # type: ignore[arg-type,unused-ignore]
        for number in range(20):
            await server.ask(f"made-up/{number}", {}, f"m{number}")
    points = telemetry.take_points()
    assert len(labels_of(points, "error.type")) <= 501
    assert len(labels_of(points, "rpc.response.status_code")) <= 501
    assert len(labels_of(points, METHOD)) <= 501 + 20
    served = [point for point in points if point.name == "mcp.server.operation.duration"]
    assert labels_of(served, METHOD) == {"_OTHER"}


async def test_a_server_that_floods_with_codes_does_not_hide_how_other_calls_end(telemetry: Telemetry) -> None:
    codes = iter(range(-50_000, 0))

    async def refuse(context: Any, call_next: Any) -> Any:
        if context.params.name == "late":
            raise TimeoutError
        raise rpc_error(next(codes), "no")

    async with wired(tracing_to(telemetry), only_calls(refuse)) as (session, _):
        for _ in range(510):
            with pytest.raises(Error):
                await say(session)
        telemetry.take_points()
        with pytest.raises(TimeoutError):
            await say(session, "late")
    assert labels_of(points_of(telemetry), "error.type") == {"timeout"}


async def test_the_version_that_a_server_claims_is_no_label_without_end(telemetry: Telemetry) -> None:
    async def claim(frame: Frame) -> Frame:
        return {**RESULTS["initialize"], "protocolVersion": "v" * 100_000}

    async with wire() as (streams, server):
        server.answers["initialize"] = claim
        async with intercept(ClientSession(*streams), tracing_to(telemetry)) as session:
            with pytest.raises(RuntimeError):
                await session.initialize()
    assert all(len(str(value)) < 1000 for point in telemetry.take_points() for value in point.attributes.values())
    assert all(len(str(value)) < 1000 for span in telemetry.spans for value in facts(span).values())


class LeftError(Exception):
    pass


async def leave(how: str, to_enter: Any, to_use: Any, server: WireServer) -> None:
    """Enter a session, use it, and leave it in some way."""
    raised: list[Exception] = []
    with anyio.CancelScope() as scope:
        try:
            async with to_enter:
                await to_use.initialize()
                if how == "exception":
                    raise LeftError
                if how == "cancelled":
                    scope.cancel()
                    await anyio.sleep_forever()
                if how == "died":
                    server.answers["tools/call"] = never
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(outcome, say, to_use)
                        await server.wait_for("tools/call")
                        await server.close()
        except Exception as error:
            raised.append(error)
    assert [type(next(iter(parts(error)), error)) for error in raised] == [LeftError] * (how == "exception")


@pytest.mark.parametrize(
    ("how", "error_type"),
    [("normally", None), ("exception", "LeftError"), ("cancelled", "cancelled"), ("died", "connection_closed")],
)
@pytest.mark.parametrize("entered", ["wrapper", "inner"])
async def test_a_session_is_measured_once_however_it_is_left(
    how: str, error_type: str | None, entered: str, telemetry: Telemetry
) -> None:
    async with wire() as (streams, server):
        inner = ClientSession(*streams)
        session = intercept(inner, tracing_to(telemetry))
        with anyio.fail_after(30):
            await leave(how, session if entered == "wrapper" else inner, session, server)
    [point] = points_of(telemetry, SESSIONS)
    assert (point.count, point.unit, point.attributes.get("error.type")) == (1, "s", error_type)
    assert 0 <= point.sum < 10
    assert METHOD not in point.attributes
    assert not [name for name in point.attributes if "session.id" in name or "request.id" in name]


async def test_a_session_used_through_two_wrappers_is_measured_once(telemetry: Telemetry) -> None:
    tracing = tracing_to(telemetry)
    async with wire() as (streams, _):
        inner = intercept(ClientSession(*streams), tracing)
        async with intercept(inner, tracing) as outer:
            await outer.initialize()
            await inner.send_ping()
            await outer.send_ping()
    assert len(of(telemetry, "ping")) == 2
    assert [point.count for point in points_of(telemetry, SESSIONS)] == [1]


async def test_a_server_process_that_dies_ends_the_session_badly(telemetry: Telemetry) -> None:
    path = str(ROOT / "tests" / "misbehaving.py")
    command = [sys.executable, "-I", "-S", path, "is_killed_during_the_call"]
    async with connect(command, tracing_to(telemetry)) as session:
        with anyio.fail_after(30):
            with pytest.raises(Error):
                await say(session, "bad")
    [span] = of(telemetry)
    assert facts(span)["error.type"] == "connection_closed"
    assert "rpc.response.status_code" not in facts(span)
    [point] = points_of(telemetry, SESSIONS)
    assert (point.attributes["error.type"], point.attributes["network.transport"]) == ("connection_closed", "pipe")


# ---------------------------------------------------------------------------------------------------------------------
# What is not to be traced.


async def busy(session: Any, server: WireServer) -> None:
    await session.send_ping()
    await report(session, "t", 1)
    await say(session)
    await server.ask("ping")
    await server.notify("notifications/message", {"level": "info", "data": "x"})
    server.answers["tools/call"] = never
    with pytest.raises(Error):
        await say(session, request_read_timeout_seconds=seconds(0.01))
    await server.wait_for("notifications/cancelled")
    await settled()


async def test_excluded_methods_have_neither_spans_nor_durations(telemetry: Telemetry) -> None:
    with telemetry.as_global():
        tracing = TracingMiddleware(exclude=["ping", "notifications/*"], incoming_notifications=True)
        async with wired(tracing) as (session, server):
            await busy(session, server)
            assert "notifications/cancelled" in server.methods
    assert kinds_of(telemetry) == {("initialize", "CLIENT"): 1, ("tools/call", "CLIENT"): 2}
    points = telemetry.take_points()
    assert labels_of(points, METHOD) == {"initialize", "tools/call"}


async def test_an_excluded_call_still_hands_on_the_trace_that_it_is_in(telemetry: Telemetry) -> None:
    with telemetry.as_global():
        async with wired(TracingMiddleware(exclude=("tools/call",))) as (session, server):
            with telemetry.tracer_provider.get_tracer("tests").start_as_current_span("mine") as mine:
                await say(session)
            assert parent_in(server.sent("tools/call")[0]) == traceparent(mine)


async def test_what_is_suppressed_has_neither_spans_nor_durations(telemetry: Telemetry) -> None:
    with telemetry.as_global():
        async with wire() as (streams, server):
            async with intercept(ClientSession(*streams), TracingMiddleware()) as session:
                token = otel_context.attach(otel_context.set_value("suppress_instrumentation", True))
                await session.initialize()
                await session.send_ping()
                await report(session, "t", 1)
                await say(session)
                otel_context.detach(token)
            assert len(server.methods) == 5
    assert kinds_of(telemetry) == {}
    assert telemetry.take_points() == []


async def test_of_a_suppressed_call_that_is_given_up_nothing_is_traced(telemetry: Telemetry) -> None:
    async with wired(tracing_to(telemetry)) as (session, server):
        server.answers["tools/call"] = never
        token = otel_context.attach(otel_context.set_value("suppress_instrumentation", True))
        with pytest.raises(Error):
            await say(session, request_read_timeout_seconds=seconds(0.01))
        otel_context.detach(token)
        await server.wait_for("notifications/cancelled")
    assert of(telemetry, "notifications/cancelled") == of(telemetry) == []
    assert labels_of(telemetry.take_points(), METHOD) == {"initialize", "notifications/initialized"}


# ---------------------------------------------------------------------------------------------------------------------
# Arguments.


WRONG: list[tuple[str, Any]] = [
    ("tracer_provider", TracerProvider),
    ("tracer_provider", "otlp"),
    ("tracer_provider", trace.NoOpTracer()),
    ("meter_provider", MeterProvider),
    ("meter_provider", 5),
    ("propagator", BrokenPropagator),
    ("propagator", "tracecontext"),
    ("capture_content", "tool"),
    ("capture_content", 1),
    ("capture_content", [1]),
    ("capture_content", b"tool"),
    ("redact", "password"),
    ("redact", ["password"]),
    ("max_content_length", 3),
    ("max_content_length", 0),
    ("max_content_length", -1),
    ("max_content_length", True),
    ("max_content_length", "8192"),
    ("max_content_length", 100.0),
    ("max_content_length", None),
    ("exclude", "ping"),
    ("exclude", 5),
    ("exclude", [None]),
    ("exclude", None),
    ("error_messages", "no"),
    ("enrich_enclosing", "no"),
    ("incoming_notifications", "no"),
    ("resource_uri_in_name", "no"),
    ("resource_uri_in_metrics", 0),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{name}={value!r}"[:60] for name, value in WRONG])
def test_a_wrong_argument_is_refused_with_a_way_out(name: str, value: Any) -> None:
    arguments: Any = {name: value}
    with pytest.raises(InterceptError) as caught:
        TracingMiddleware(**arguments)
    text = str(caught.value)
    assert text.startswith(f"{name} must be ")
    said = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
    assert repr(value) in text or said in text


def test_sound_arguments_are_taken() -> None:
    telemetry = Telemetry()
    for exclude in ([], (), {"ping"}, ["ping"], iter(["ping"])):
        tracing_to(telemetry, exclude=exclude, capture_content=iter(["a"]), max_content_length=16)
    tracing_to(telemetry, capture_content=False, redact=lambda attribute, value: value)


# ---------------------------------------------------------------------------------------------------------------------
# What the server asks.

GOOD = f"00-{7:032x}-{8:016x}-01"


@asynccontextmanager
async def asked(telemetry: Telemetry, behave: Any = Ears.RESULTS.get, **options: Any) -> AsyncGenerator[Any, None]:
    ears = Ears(behave)
    async with wire() as (streams, server):
        inner = ClientSession(*streams, **ears.options)
        with anyio.fail_after(30):
            async with intercept(inner, tracing_to(telemetry, **options)) as session:
                await session.initialize()
                yield server, ears


async def test_what_the_server_asks_is_part_of_its_trace(telemetry: Telemetry) -> None:
    async with asked(telemetry) as (server, ears):
        await server.ask("roots/list", {"_meta": {"traceparent": GOOD, "acme/m": 1}}, 77)
    [span] = of(telemetry, "roots/list")
    assert (span.kind, span.name) == (SpanKind.SERVER, "roots/list")
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id, span.parent.is_remote) == (7, 8, True)
    assert facts(span)["jsonrpc.request.id"] == "77"
    assert not {"server.address", "server.port"} & set(facts(span))
    # The callback gets what the server said, as without tracing.
    assert ears.by("roots")[0][1]["traceparent"] == GOOD
    [point] = [point for point in telemetry.take_points() if point.name == "mcp.server.operation.duration"]
    assert point.attributes[METHOD] == "roots/list"


async def test_what_the_server_asks_within_another_trace_is_linked_to_it(telemetry: Telemetry) -> None:
    tracer = telemetry.tracer_provider.get_tracer("tests")
    with tracer.start_as_current_span("ambient") as ambient:
        async with asked(telemetry) as (server, _):
            await server.ask("roots/list", {"_meta": {"traceparent": GOOD}})
            await server.ask("ping", None, "p")
    [span], [ping] = of(telemetry, "roots/list"), of(telemetry, "ping")
    assert span.parent is not None
    assert span.parent.span_id == 8
    assert [link.context for link in span.links] == [context_of(ambient)]
    assert is_child_of(ping, ambient)
    assert ping.links == ()


HOSTILE: dict[str, Any] = {
    "numbers": {"traceparent": 5, "tracestate": [1], "baggage": {"a": 1}},
    "null": {"traceparent": None, "baggage": None},
    "garbage": {"traceparent": "garbage", "tracestate": "\x00", "baggage": "=;=,,%"},
    "zeros": {"traceparent": f"00-{0:032x}-{0:016x}-01"},
    "a future version": {"traceparent": f"ff-{7:032x}-{8:016x}-01"},
    "huge": {"traceparent": "0" * 1_000_000, "tracestate": "a=b," * 100_000, "baggage": "a=b," * 100_000},
    "lists": {"traceparent": [GOOD, GOOD]},
    "with control characters": {"traceparent": f"{GOOD}\r\nx: y"},
    "many": {f"k{number}": "v" for number in range(20_000)},
}


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_hostile_meta_is_harmless(hostile: str, telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    async with asked(telemetry) as (server, ears):
        answer = await server.ask("roots/list", {"_meta": HOSTILE[hostile]})
        assert answer["result"]["roots"]
        assert ears.by("roots")
    [span] = of(telemetry, "roots/list")
    assert span.parent is None
    assert len(span.to_json()) < 4000
    assert complaints(caplog) == []


async def test_a_huge_id_of_a_request_is_cut(telemetry: Telemetry) -> None:
    async with asked(telemetry) as (server, _):
        await server.ask("ping", None, "i" * 1_000_000)
    assert len(of(telemetry, "ping")[0].to_json()) < 4000


async def test_a_method_that_a_server_made_up_is_shown_on_one_line(telemetry: Telemetry) -> None:
    async with asked(telemetry) as (server, _):
        await server.ask("acme/\n\x1b[31m" + "x" * 10_000)
    [span] = [span for span in ours(telemetry) if span.kind is SpanKind.SERVER]
    assert span.name.isprintable()
    assert len(span.name) < 2000


@pytest.mark.parametrize(
    ("code", "error_type"), [(-32042, "-32042"), (-32602, None), (-32601, None), (-32603, "-32603"), (-32002, None)]
)
async def test_a_refusal_is_an_error_only_if_the_client_is_at_fault(
    code: int, error_type: str | None, telemetry: Telemetry
) -> None:
    refusal = T.ErrorData(code=code, message="no")
    async with asked(telemetry, lambda name: refusal) as (server, _):
        answer = await server.ask("roots/list")
        assert answer["error"]["code"] == code
    [span] = of(telemetry, "roots/list")
    assert facts(span)["rpc.response.status_code"] == str(code)
    assert facts(span).get("error.type") == error_type
    assert span.status.status_code is (StatusCode.ERROR if error_type else StatusCode.UNSET)


async def test_a_callback_that_raises_answers_as_without_tracing(telemetry: Telemetry) -> None:
    def behave(name: str) -> Any:
        raise ValueError(SECRET)

    async def ask(*middlewares: Any) -> Any:
        async with wire() as (streams, server):
            inner = ClientSession(*streams, **Ears(behave).options)
            session = intercept(inner, *middlewares) if middlewares else inner
            with anyio.fail_after(30):
                try:
                    async with session:
                        await session.initialize()
                        return await server.ask("roots/list")
                except Exception as error:
                    return [type(part) for part in parts(error)]

    if LINE_1:
        pytest.skip("on line 1, a callback that raises ends a bare session")
    bare = await ask()
    assert await ask(tracing_to(telemetry)) == bare
    [span] = of(telemetry, "roots/list")
    assert facts(span)["error.type"] == "ValueError"
    assert span.status.status_code is StatusCode.ERROR
    assert SECRET not in span.to_json()
    assert span.events == ()


async def test_a_question_that_the_server_takes_back_is_cancelled(telemetry: Telemetry) -> None:
    started = anyio.Event()

    async def roots(context: Any) -> Any:
        started.set()
        await anyio.sleep_forever()

    async with wire() as (streams, server):
        inner = ClientSession(*streams, list_roots_callback=roots)
        with anyio.fail_after(30):
            async with intercept(inner, tracing_to(telemetry)) as session:
                await session.initialize()
                await server.send({"jsonrpc": "2.0", "id": "q", "method": "roots/list"})
                await started.wait()
    [span] = of(telemetry, "roots/list")
    assert facts(span)["error.type"] == "cancelled"


async def test_callbacks_run_in_the_span_of_the_question_with_its_baggage(telemetry: Telemetry) -> None:
    found: list[Any] = []

    async def roots(context: Any) -> Any:
        found.append((trace.get_current_span(), dict(baggage.get_all())))
        return Ears.RESULTS["roots"]

    async with wire() as (streams, server):
        async with intercept(ClientSession(*streams, list_roots_callback=roots), tracing_to(telemetry)) as session:
            await session.initialize()
            await server.ask("roots/list", {"_meta": {"traceparent": GOOD, "baggage": "user=7"}})
    [(current, carried)] = found
    assert context_of(current) == context_of(of(telemetry, "roots/list")[0])
    assert carried == {"user": "7"}


async def test_notifications_of_the_server_are_traced_only_if_asked_for(telemetry: Telemetry) -> None:
    for wanted in (False, True):
        async with asked(telemetry, incoming_notifications=wanted) as (server, ears):
            await server.notify("notifications/message", {"level": "info", "data": "x"})
            await settled()
            assert ears.by("logging")
    assert len(of(telemetry, "notifications/message")) == 1


# ---------------------------------------------------------------------------------------------------------------------
# The global providers, in a process of its own.


def run_alone(program: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", dedent(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_providers_that_are_set_later_are_used() -> None:
    found, errors = run_alone("""
        import json
        import anyio
        from mcp_intercept import connect
        from mcp_intercept.middleware import MetricsMiddleware, TracingMiddleware
        from opentelemetry import metrics, trace
        from tests.server import make_server
        from tests.telemetry import Telemetry

        tracing = TracingMiddleware()
        telemetry = Telemetry()

        async def call():
            async with connect(make_server(), tracing) as session:
                await session.call_tool("add", {"a": 1, "b": 2})

        anyio.run(call)
        before = len(telemetry.spans)
        trace.set_tracer_provider(telemetry.tracer_provider)
        metrics.set_meter_provider(telemetry.meter_provider)
        anyio.run(call)
        names = [span.name for span in telemetry.spans if span.kind.name == "CLIENT"]
        print(json.dumps([before, names, sorted({point.name for point in telemetry.take_points()})]))
    """)
    before, names, histograms = found
    assert before == 0
    assert names.count("tools/call add") == 1
    assert not [name for name in names if name.startswith("MCP send")]
    assert histograms == [OPERATIONS, SESSIONS]
    assert errors == ""


def test_an_sdk_is_not_needed() -> None:
    found, errors = run_alone("""
        import json, sys
        sys.modules["opentelemetry.sdk"] = None
        import anyio
        from mcp_intercept import connect
        from mcp_intercept.middleware import MetricsMiddleware, TracingMiddleware
        from tests.server import make_server

        async def call():
            async with connect(make_server(), TracingMiddleware(capture_content=True)) as session:
                return (await session.call_tool("add", {"a": 1, "b": 2})).content[0].text

        print(json.dumps(anyio.run(call)))
    """)
    assert found == "3"
    assert errors == ""


async def test_over_stdio_a_call_goes_through_a_pipe(telemetry: Telemetry) -> None:
    async with connect(STDIO, tracing_to(telemetry)) as session:
        with anyio.fail_after(60):
            assert told(await session.call_tool("add", {"a": 1, "b": 2}))
    [span] = of(telemetry)
    assert facts(span)["network.transport"] == "pipe"
    assert not {"server.address", "network.protocol.name"} & set(facts(span))


async def test_http_requests_are_part_of_the_trace_of_their_calls(telemetry: Telemetry) -> None:
    seen: list[tuple[str, int]] = []

    httpx: Any = import_module("httpx" if LINE_1 else "httpx2")

    class Transport(httpx.AsyncHTTPTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            # As an instrumentation of the HTTP client would.
            body = json.loads(request.content or b"{}")
            if body.get("method") == "tools/call":
                seen.append((body["params"]["arguments"]["text"], trace.get_current_span().get_span_context().span_id))
            return await super().handle_async_request(request)

    with http_server() as url:
        async with httpx.AsyncClient(transport=Transport()) as client:
            async with connect(url, tracing_to(telemetry, capture_content=True), http_client=client) as session:
                for number in range(3):
                    await session.call_tool("echo", {"text": f"number {number}"})
    spans = of(telemetry)
    said = {
        json.loads(facts(span)["gen_ai.tool.call.arguments"])["text"]: span.context.span_id
        for span in spans
        if span.context
    }
    assert len(said) == 3
    assert dict(seen) == said


async def test_a_list_that_is_not_traced_teaches_its_names_and_begins_the_session(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("mcp_intercept._otel.tracer.perf_counter", lambda: now)

    async def fail(frame: Frame) -> Frame:
        return {"content": [], "isError": True}

    async with wired(tracing_to(telemetry, exclude=["initialize", "notifications/*", "tools/list"])) as (
        session,
        server,
    ):
        server.answers["tools/call"] = fail
        await session.list_tools()
        now = 60.0
        await say(session)
    points = telemetry.take_points()
    assert labels_of([point for point in points if point.name == OPERATIONS], "gen_ai.tool.name") == {"tool"}
    [lasted] = [point for point in points if point.name == SESSIONS]
    assert lasted.sum == 60.0


async def test_a_span_tells_where_it_went_even_if_nobody_is_there(telemetry: Telemetry) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 - it depends on the transport
        async with connect("http://127.0.0.1:1/mcp", tracing_to(telemetry), connection_id="nobody"):
            pass  # pragma: no cover - never entered
    [span] = of(telemetry, "initialize")
    assert (facts(span)["server.address"], facts(span)["server.port"]) == ("127.0.0.1", 1)
    assert facts(span)["mcp_intercept.connection_id"] == "nobody"


async def test_a_connection_that_ended_has_one_name(telemetry: Telemetry) -> None:
    metrics = MetricsMiddleware()

    async def hang_up(frame: Frame) -> None:
        await server.close()

    with suppress(Exception):
        async with wired(metrics, tracing_to(telemetry)) as (session, server):
            server.answers["tools/call"] = hang_up
            with pytest.raises(Exception):  # noqa: B017, PT011 - line 1 has two
                await say(session)
            with pytest.raises(Exception):  # noqa: B017, PT011
                await say(session)
    assert [facts(span)["error.type"] for span in of(telemetry)] == ["connection_closed"] * 2
    assert {record.error_type for record in metrics.snapshot().recent_errors} == {"connection_closed"}


async def test_as_long_as_a_list_goes_on_what_is_not_on_it_may_still_come(telemetry: Telemetry) -> None:
    async def page(frame: Frame) -> Frame:
        return {**RESULTS["tools/list"], "nextCursor": "2"}

    async with wired(tracing_to(telemetry)) as (session, server):
        server.answers["tools/list"] = page
        await session.list_tools()
        await say(session, "later")
    assert labels_of(points_of(telemetry), "gen_ai.tool.name") == {"later"}


async def test_what_has_no_session_is_traced(telemetry: Telemetry) -> None:
    tracing = tracing_to(telemetry)
    context: Any = MiddlewareContext("id", "tools/call", T.CallToolRequestParams(name="tool"), "own", 0.0)

    async def call(context: Any) -> Any:
        return T.CallToolResult(content=[])

    assert (await MiddlewareManager([tracing]).process_request(context, call)).outcome == "ok"
    assert await tracing(context, call) is not None  # by hand
    assert [span.name for span in of(telemetry)] == ["tools/call tool"] * 2


async def test_the_span_of_somebody_else_keeps_its_name(telemetry: Telemetry) -> None:
    async def rename(context: Any, call_next: Any) -> Any:
        context.params.name = "renamed"
        return await call_next(context)

    async with wired(tracing_to(telemetry), only_calls(rename)) as (session, _):
        with tool_span(telemetry) as enclosing:
            await say(session)
    assert (enclosing.name, enclosing.attributes["gen_ai.tool.name"]) == ("execute_tool tool", "renamed")


def test_values_that_cannot_be_compared_are_not_the_same() -> None:
    class Awkward:
        def __eq__(self, other: object) -> bool:
            raise TypeError("no")

        __hash__ = None  # type: ignore[assignment]

    assert rewritten({"a": Awkward(), "b": 1}, {"a": Awkward(), "b": 1}) == ["a"]


def test_a_message_is_not_shown_if_there_is_too_much_to_look_for() -> None:
    assert without_echoes("bad", {"flags": [True] * 30_000}) is None


def test_a_url_that_is_none_leads_somewhere_over_http() -> None:
    assert http_endpoint("http://host:port/").address is None


@pytest.mark.skipif(LINE_1, reason="line 1 has no tracer")
def test_what_else_the_sdk_may_want_of_its_tracer_is_there() -> None:
    tracing_to(Telemetry())
    assert callable(import_module("mcp.shared._otel")._tracer.start_span)


@pytest.mark.skipif(not LINE_1, reason="line 2 has no such stack")
async def test_what_a_subclass_may_want_of_its_exit_stack_is_there(telemetry: Telemetry) -> None:
    left: list[str] = []
    async with wired(tracing_to(telemetry)) as (session, _):
        await session.send_ping()
        wrapped: Any = session.client_session
        wrapped._exit_stack.callback(left.append, "left")
    assert left == ["left"]


@pytest.mark.skipif(not LINE_1, reason="line 2 carries the context")
def test_what_is_never_sent_over_http_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    line: Any = import_module("mcp_intercept._sdk.line1")
    monkeypatch.setattr(line, "_MAX_TRACED", 2)
    link = line.HttpLink()
    for number in range(5):
        link.trace(number, None)
    assert len(link._traced) <= 2
