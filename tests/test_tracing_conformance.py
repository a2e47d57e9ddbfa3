"""Spans and metrics against the tables of the semantic conventions for MCP, row by row, wherever a client may be.

Rows: `docs/gen-ai/mcp.md` of open-telemetry/semantic-conventions-genai, as of pull request 404. Columns: protocol era,
transport, and the way that the middleware is attached. A scripted client runs once per column, against a real server;
then each row judges what was exported, and what the server has received.

python -m tests.test_tracing_conformance      prints the score
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import anyio
import mcp
import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState

from mcp_intercept import Middleware, MiddlewareManager, connect, intercept, intercept_all
from mcp_intercept.middleware.tracing import TracingMiddleware
from tests.telemetry import OURS, Point, Telemetry
from tests.telemetry_server import (
    LINE_1,
    QUESTIONS,
    REFUSAL,
    UNLISTED,
    Elsewhere,
    Received,
    T,
    elsewhere,
    make_server,
    memory_transport,
    noting,
)

pytestmark = pytest.mark.anyio

LINE = 1 if LINE_1 else 2
BACKENDS = ("asyncio", "trio")
LEGACY, MODERN = "2025-11-25", "2026-07-28"
SECRET = "hunter2"
URI = "memo://1"
CONTENT_VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
CANCELLED = "notifications/cancelled"
BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
OPERATIONS, SESSIONS = "mcp.client.operation.duration", "mcp.client.session.duration"

# What the application has around its calls.
REMOTE = SpanContext(
    trace_id=0xA << 124,
    span_id=0xA << 60,
    is_remote=True,
    trace_flags=TraceFlags(1),
    trace_state=TraceState([("v", "1")]),
)
UNSAMPLED = SpanContext(
    trace_id=0xB << 124,
    span_id=0xB << 60,
    is_remote=True,
    trace_flags=TraceFlags(0),
    trace_state=TraceState([("v", "1")]),
)


class Column(NamedTuple):
    """Where the client is."""

    era: str
    transport: str
    attached: str

    def __str__(self) -> str:
        return f"{self.era}, {self.transport}, {self.attached}"

    @property
    def is_wired(self) -> bool:
        """Whether there are JSON-RPC messages at all."""
        return self.transport != "in process"


def columns() -> list[Column]:
    """All there are on the installed line."""
    ways = ("memory", "stdio", "http")
    sessions = ("connect()", "intercept()", "intercept_all()")
    legacy = [Column(LEGACY, way, how) for way in ways for how in sessions]
    if LINE_1:
        return legacy
    modern = [Column(MODERN, way, how) for way in ways for how in (*sessions, "intercept(Client)")]
    return [*legacy, *modern, *(Column(MODERN, "in process", how) for how in ("intercept(Client)", "intercept_all()"))]


# What a client does, and what comes of it


class Step(NamedTuple):
    """What came of one thing that the client did."""

    spans: list[ReadableSpan]
    points: list[Point]
    error: BaseException | None


@dataclass
class Run:
    """What came of a client, the server's part included."""

    column: Column
    url: str
    telemetry: Telemetry
    app: ReadableSpan | None = None
    steps: dict[str, Step] = field(default_factory=dict[str, Step])
    received: list[Received] = field(default_factory=list[Received])
    captured: list[ReadableSpan] = field(default_factory=list[ReadableSpan])
    """The spans of a second client, which shows content, and ends badly."""
    badly: list[Point] = field(default_factory=list[Point])
    """The points of its end."""

    @contextmanager
    def step(self, name: str) -> Generator[None, None, None]:
        error: BaseException | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        self.steps[name] = Step(self.telemetry.take_spans(), self.telemetry.take_points(), error)

    # For the rows

    @property
    def is_legacy(self) -> bool:
        return self.column.era == LEGACY

    def named(self, step: str, kind: SpanKind, method: str | None = None) -> list[ReadableSpan]:
        """Our spans of a step, found without what most rows are about."""
        ours = [span for span in self.steps[step].spans if is_ours(span) and span.kind is kind]
        return [span for span in ours if method is None or attributes_of(span).get("mcp.method.name") == method]

    def call(self, step: str) -> ReadableSpan:
        """The span of the call that a step is about: the first that began."""
        ours = [span for span in self.steps[step].spans if is_ours(span)]
        if not ours:
            raise MissingError(f"no span of {step}")
        return min(ours, key=lambda span: span.start_time or 0)

    def clients(self) -> list[ReadableSpan]:
        """Our spans of what the client has sent."""
        return [span for name in self.steps for span in self.named(name, SpanKind.CLIENT)]

    def servers(self) -> list[ReadableSpan]:
        """Our spans of what the server has asked."""
        return [span for name in self.steps for span in self.named(name, SpanKind.SERVER)]

    def question(self, step: str, method: str) -> ReadableSpan:
        """The span of a question of the server's."""
        found = self.named(step, SpanKind.SERVER, method)
        if len(found) != 1:
            raise MissingError(f"{len(found)} SERVER spans of {method}")
        return found[0]

    def sent(self, *, requests: bool) -> list[Received]:
        """What the client has sent, as the server got it."""
        messages = [each for each in self.received if each.sender == "client" and each.method is not None]
        return [each for each in messages if (each.method or "").startswith("notifications/") is not requests]

    def frames_of(self, step: str) -> list[Received]:
        """The requests of a step: each calls a tool of its own."""
        tool = {"timeout": "hang", "cancel": "hang", "unlisted": UNLISTED}.get(step, step)
        return [each for each in self.received if each.method == "tools/call" and each.params["name"] == tool]

    def points(self, step: str, name: str = OPERATIONS) -> list[Point]:
        return [point for point in self.steps[step].points if point.name == name]

    def all_points(self, name: str) -> list[Point]:
        return [point for step in self.steps for point in self.points(step, name)]


def is_ours(span: ReadableSpan) -> bool:
    return span.instrumentation_scope is not None and span.instrumentation_scope.name == OURS


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def context_of(span: ReadableSpan) -> SpanContext:
    found: SpanContext | None = span.get_span_context()
    assert found is not None
    return found


class User:
    """A session or a `Client`, with what both can do on either line."""

    def __init__(self, client: Any, column: Column) -> None:
        self._client = client
        self._is_session = isinstance(client, ClientSession)
        self._drives = self._is_session and column.era == MODERN
        self.session: Any = client if self._is_session else client.session

    async def list(self) -> None:
        await self._client.list_tools()
        await self._client.list_prompts()

    async def call(self, name: str, arguments: Any = None, seconds: float | None = None, report: Any = None) -> Any:
        limit: Any = timedelta(seconds=seconds) if LINE_1 and seconds else seconds
        options: dict[str, Any] = {"read_timeout_seconds": limit, "progress_callback": report}
        if self._drives:
            return await self._drive(name, arguments, options)
        return await self._client.call_tool(name, arguments or {}, **options)

    async def _drive(self, name: str, arguments: Any, options: dict[str, Any]) -> Any:
        """Answer the questions of a call, as a `Client` does by itself."""
        contexts = import_module("mcp.client.session").ClientRequestContext
        options["allow_input_required"] = True
        result: Any = await self.session.call_tool(name, arguments or {}, **options)
        while isinstance(result, T.InputRequiredResult):
            answers = {}
            for key, request in result.input_requests.items():
                meta = request.params.meta if request.params else None
                asked = contexts(session=self.session, request_id=key, meta=meta)
                answers[key] = await self.session.dispatch_input_request(asked, request)
                if isinstance(answers[key], T.ErrorData):
                    return answers[key]
            again = {**options, "input_responses": answers, "request_state": result.request_state}
            result = await self.session.call_tool(name, arguments or {}, **again)
        return result

    async def prompt(self, name: str, arguments: dict[str, str]) -> None:
        await self._client.get_prompt(name, arguments)

    async def resource(self, method: str) -> None:
        uri: Any = import_module("pydantic").AnyUrl(URI) if LINE_1 else URI
        await getattr(self._client, f"{method}_resource")(uri)

    async def cancel(self) -> None:
        """Call a tool that never answers, and give up as soon as the server is at it."""
        with anyio.CancelScope() as scope:

            async def give_up(*progress: Any) -> None:
                scope.cancel()

            await self.call("hang", report=give_up)


async def _sample(context: Any, params: Any) -> Any:
    return T.CreateMessageResult(role="assistant", content=T.TextContent(type="text", text=SECRET), model="m")


async def _elicit(context: Any, params: Any) -> Any:
    if params.message == "Refuse":
        return T.ErrorData(code=-32602, message="no such form")
    if params.message == "Break":
        return T.ErrorData(code=-32050, message="out of order")
    return T.ElicitResult(action="accept", content={"answer": SECRET})


async def _roots(context: Any) -> Any:
    return T.ListRootsResult(roots=[T.Root(uri="file:///root")])


CALLBACKS: Mapping[str, Any] = {
    "sampling_callback": _sample,
    "elicitation_callback": _elicit,
    "list_roots_callback": _roots,
}


class Failing(Middleware):
    """A middleware of the user's that fails once the answer is there."""

    async def on_call_tool(self, context: Any, call_next: Any) -> Any:
        result = await call_next(context)
        if context.params.name == "raises":
            raise LookupError(SECRET)
        return result


@dataclass
class Place:
    """Where clients find a server, over each transport."""

    elsewhere: Elsewhere
    _seen: list[Received] = field(default_factory=list[Received])

    @asynccontextmanager
    async def user(self, column: Column, manager: MiddlewareManager) -> AsyncGenerator[User, None]:
        """A client whose handshake is done."""
        async with AsyncExitStack() as stack:
            if column.attached == "intercept_all()":
                stack.enter_context(intercept_all(manager))
            if column.attached == "connect()":
                mode: Any = "legacy" if column.era == LEGACY else "auto"
                client: Any = connect(self._target(column), manager, mode=mode, **CALLBACKS)
                yield User(await stack.enter_async_context(client), column)
            elif column.attached == "intercept(Client)" or not column.is_wired:
                client = mcp.__dict__["Client"](self._transport(column), **CALLBACKS)
                if column.attached == "intercept(Client)":
                    client = intercept(client, manager)
                yield User(await stack.enter_async_context(client), column)
            else:
                read, write, *_ = await stack.enter_async_context(self._transport(column))
                session: Any = ClientSession(read, write, **CALLBACKS)
                if column.attached == "intercept()":
                    session = intercept(session, manager)
                await stack.enter_async_context(session)
                await (session.initialize() if column.era == LEGACY else session.discover())
                yield User(session, column)

    def _target(self, column: Column) -> Any:
        """What a user names the server with."""
        match column.transport:
            case "memory":
                return memory_transport(self._seen.append)
            case "stdio":
                return self.elsewhere.stdio_command
            case "http":
                return self.elsewhere.url
            case _:
                return noting(make_server(), self._seen.append)

    def _transport(self, column: Column) -> Any:
        """The same, opened by hand."""
        target = self._target(column)
        if column.transport == "stdio":
            return stdio_client(StdioServerParameters(command=target[0], args=target[1:]))
        return streamable_http_client(target) if column.transport == "http" else target

    def take_received(self) -> list[Received]:
        """What the server has received from the client that has just ended."""
        received = [*self._seen, *self.elsewhere.take_received()]
        self._seen.clear()
        return received


@contextmanager
def inside_an_application(telemetry: Telemetry) -> Generator[Any, None, None]:
    """A span of the application's, in a trace that came from elsewhere, with baggage."""
    tracer = telemetry.tracer_provider.get_tracer("application")
    token = context.attach(baggage.set_baggage("user", "alice"))
    try:
        around = trace.set_span_in_context(NonRecordingSpan(REMOTE))
        with tracer.start_as_current_span("app", context=around) as span:
            yield span
    finally:
        context.detach(token)


async def script(run: Run, user: User) -> None:
    """Everything that a row is about."""
    with run.step("lists"):
        await user.list()
    with run.step("echo"):
        await user.call("echo", {"text": SECRET})
    with run.step("prompt"):
        await user.prompt("greet", {"name": SECRET})
    with run.step("read"):
        await user.resource("read")
    if run.is_legacy:
        for name in ("subscribe", "unsubscribe"):
            with run.step(name):
                await user.resource(name)
    with run.step("tell"):
        await user.session.send_roots_list_changed()
    for name in ("fail", "refuse", "raises"):
        with run.step(name):
            await user.call(name, {"text": SECRET})
    with run.step("timeout"):
        # In 2026-07-28 the end of a call ends its HTTP request, which is to have arrived by then.
        await user.call("hang", seconds=0.1 if run.is_legacy or run.column.transport != "http" else 0.3)
    with run.step("cancel"):
        await user.cancel()
    with run.step("unlisted"):
        await user.call(UNLISTED)
    for name in QUESTIONS:
        with run.step(name):
            await user.call(name)
    with run.step("enriched"):
        of_tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "enriched"}
        tracer = run.telemetry.tracer_provider.get_tracer("framework")
        with tracer.start_as_current_span("execute_tool enriched", attributes=of_tool):
            await user.call("enriched")
    with run.step("unsampled"):
        with trace.use_span(NonRecordingSpan(UNSAMPLED)):
            await user.call("unsampled")


class BodyError(Exception):
    """What the second client ends with."""


async def run_clients(column: Column, place: Place) -> Run:
    """Two clients, one after the other: one as by default; one that shows content, and ends badly."""
    os.environ.pop(CONTENT_VARIABLE, None)
    run = Run(column, place.elsewhere.url, Telemetry())
    place.take_received()
    try:
        with run.telemetry.as_global(), anyio.fail_after(60):
            with inside_an_application(run.telemetry) as span:
                async with AsyncExitStack() as stack:
                    with run.step("handshake"):
                        manager = MiddlewareManager([TracingMiddleware(), Failing()])
                        user = await stack.enter_async_context(place.user(column, manager))
                    await script(run, user)
                    with run.step("left"):
                        await stack.aclose()
            run.app = span
            run.received = place.take_received()
            run.telemetry.take_spans()
            await _run_badly(run, place)
    finally:
        run.telemetry.shut_down()
    return run


async def _run_badly(run: Run, place: Place) -> None:
    try:
        async with place.user(run.column, MiddlewareManager([TracingMiddleware(capture_content=True)])) as user:
            await user.list()
            await user.call("echo", {"text": SECRET})
            await user.prompt("greet", {"name": SECRET})
            run.captured = run.telemetry.take_spans()
            run.telemetry.take_points()
            raise BodyError
    except Exception:
        run.badly = run.telemetry.take_points()


# The rows: each tells what is wrong


class MissingError(Exception):
    """What a row is about is not there at all."""


class NotApplicableError(Exception):
    """A row is not about such a column."""


Complaints = Iterator[str]


def differing(what: str, found: object, wanted: object) -> Complaints:
    if found != wanted:
        yield f"{what}: {found!r}, not {wanted!r}"


def has(span: ReadableSpan, attribute: str, wanted: object) -> Complaints:
    """`span` has the attribute with this value; with `None`, it has none."""
    return differing(f"{attribute} of {span.name}", attributes_of(span).get(attribute), wanted)


def only_on(run: Run, attribute: str, wanted: Mapping[str, object]) -> Complaints:
    """The spans of these steps have this value, and no others have the attribute."""
    for step in run.steps:
        for span in run.named(step, SpanKind.CLIENT):
            if attributes_of(span).get("mcp.method.name") != CANCELLED:
                yield from has(span, attribute, wanted.get(step))
    for step in wanted.keys() & run.steps.keys():
        yield from has(run.call(step), attribute, wanted[step])


def client_spans_are_of_kind_client(run: Run) -> Complaints:
    for step in run.steps.keys() - {"left", "unsampled", "enriched"}:
        yield from differing(f"kind of {step}", run.call(step).kind, SpanKind.CLIENT)


TOOLS_OF_STEPS = {
    "echo": "echo",
    "fail": "fail",
    "refuse": "refuse",
    "raises": "raises",
    "timeout": "hang",
    "cancel": "hang",
    "unlisted": UNLISTED,
    **{name: name for name in QUESTIONS},
}


def the_name_has_the_tool_or_the_prompt(run: Run) -> Complaints:
    for step, tool in TOOLS_OF_STEPS.items():
        yield from differing(f"name of {step}", run.call(step).name, f"tools/call {tool}")
    yield from differing("name of prompt", run.call("prompt").name, "prompts/get greet")


def the_name_has_nothing_else(run: Run) -> Complaints:
    methods = {"lists": "tools/list", "read": "resources/read", "tell": "notifications/roots/list_changed"}
    if run.is_legacy:
        methods |= {name: f"resources/{name}" for name in ("subscribe", "unsubscribe")}
    for step, method in methods.items():
        yield from differing(f"name of {step}", run.call(step).name, method)
    for span in run.servers():
        yield from differing("name of a question", span.name, attributes_of(span).get("mcp.method.name"))


def the_parent_is_the_current_span(run: Run) -> Complaints:
    assert run.app is not None
    app = context_of(run.app)
    for step in run.steps:
        for span in run.named(step, SpanKind.CLIENT):
            parents = {app.span_id}
            if span.name == CANCELLED:  # the SDK sends it in the middle of a call
                parents.add(context_of(run.call(step)).span_id)
            if span.parent is None or span.parent.span_id not in parents:
                yield f"{span.name} has another parent"
            yield from differing(f"trace of {span.name}", context_of(span).trace_id, app.trace_id)


def an_execute_tool_span_around_it_is_enriched(run: Run) -> Complaints:
    around = next(span for span in run.steps["enriched"].spans if span.name == "execute_tool enriched")
    more = [span.name for span in run.steps["enriched"].spans if span.kind is SpanKind.CLIENT]
    yield from differing("CLIENT spans beside it", more, [])
    yield from has(around, "mcp.method.name", "tools/call")
    yield from has(around, "mcp.protocol.version", run.column.era)
    yield from has(around, "network.transport", network_of(run).get("network.transport"))
    for frame in run.frames_of("enriched") if run.column.is_wired else ():
        yield from has(around, "jsonrpc.request.id", str(frame.frame["id"]))
    for frame in run.frames_of("enriched"):
        yield from differing("traceparent", frame.meta.get("traceparent"), traceparent_of(around))


def a_json_rpc_error_is_the_status(run: Run) -> Complaints:
    for step in ("refuse", "unlisted"):
        status = run.call(step).status
        yield from differing(f"status of {step}", status.status_code, StatusCode.ERROR)
    yield from differing("description", run.call("refuse").status.description, REFUSAL[1])
    yield from differing("description", run.call("unlisted").status.description, f"Unknown tool: {UNLISTED}")


def every_failure_is_the_status(run: Run) -> Complaints:
    for step in ("fail", "raises", "timeout", "cancel"):
        yield from differing(f"status of {step}", run.call(step).status.status_code, StatusCode.ERROR)
    for span in [*run.clients(), *run.servers()]:
        is_error = span.status.status_code is StatusCode.ERROR
        yield from differing(f"ERROR of {span.name}", is_error, "error.type" in attributes_of(span))


def success_leaves_the_status_unset(run: Run) -> Complaints:
    for step in ("handshake", "lists", "echo", "prompt", "read", "tell", "ask"):
        for span in run.named(step, SpanKind.CLIENT):
            yield from differing(f"status of {span.name}", span.status.status_code, StatusCode.UNSET)
            yield from has(span, "error.type", None)


def mcp_method_name(run: Run) -> Complaints:
    wanted = dict.fromkeys(TOOLS_OF_STEPS, "tools/call")
    wanted |= {"prompt": "prompts/get", "read": "resources/read", "tell": "notifications/roots/list_changed"}
    for step, method in wanted.items():
        yield from has(run.call(step), "mcp.method.name", method)
    for span in [*run.clients(), *run.servers()]:
        if not isinstance(attributes_of(span).get("mcp.method.name"), str):
            yield f"{span.name} has none"


def error_type_of_a_json_rpc_error(run: Run) -> Complaints:
    yield from has(run.call("refuse"), "error.type", str(REFUSAL[0]))
    yield from has(run.call("unlisted"), "error.type", "-32602")


def error_type_of_a_tool_error(run: Run) -> Complaints:
    yield from has(run.call("fail"), "error.type", "tool_error")


def error_type_of_a_timeout(run: Run) -> Complaints:
    yield from differing("the error", type(run.steps["timeout"].error).__name__[-5:], "Error")
    yield from has(run.call("timeout"), "error.type", "timeout")


def error_type_of_a_cancelled_call(run: Run) -> Complaints:
    yield from differing("the error", run.steps["cancel"].error, None)
    yield from has(run.call("cancel"), "error.type", "cancelled")


def error_type_of_an_exception(run: Run) -> Complaints:
    yield from differing("the error", type(run.steps["raises"].error), LookupError)
    yield from has(run.call("raises"), "error.type", "LookupError")


def rpc_response_status_code(run: Run) -> Complaints:
    yield from only_on(run, "rpc.response.status_code", {"refuse": str(REFUSAL[0]), "unlisted": "-32602"})


def gen_ai_tool_name(run: Run) -> Complaints:
    yield from only_on(run, "gen_ai.tool.name", TOOLS_OF_STEPS)


def gen_ai_prompt_name(run: Run) -> Complaints:
    yield from only_on(run, "gen_ai.prompt.name", {"prompt": "greet"})


def mcp_resource_uri_of_what_is_read(run: Run) -> Complaints:
    yield from has(run.call("read"), "mcp.resource.uri", URI)
    for step in run.steps.keys() - {"read", "subscribe", "unsubscribe"}:
        for span in [*run.named(step, SpanKind.CLIENT), *run.named(step, SpanKind.SERVER)]:
            yield from has(span, "mcp.resource.uri", None)


def mcp_resource_uri_of_subscriptions(run: Run) -> Complaints:
    if not run.is_legacy:
        raise NotApplicableError("there are no such requests")
    for step in ("subscribe", "unsubscribe"):
        yield from has(run.call(step), "mcp.resource.uri", URI)


def gen_ai_operation_name_of_tool_calls_only(run: Run) -> Complaints:
    yield from only_on(run, "gen_ai.operation.name", dict.fromkeys(TOOLS_OF_STEPS, "execute_tool"))
    for span in run.servers():
        yield from has(span, "gen_ai.operation.name", None)


def jsonrpc_request_id(run: Run) -> Complaints:
    if not run.column.is_wired:
        raise NotApplicableError("there are no messages with ids")
    on_wire = Counter(
        (each.method, str(each.frame["id"]))
        for each in run.sent(requests=True)
        if each.method != "tools/call" or each.params["name"] not in ("enriched", "unsampled")
    )
    spans = [(attributes_of(span).get("mcp.method.name"), span) for span in run.clients()]
    on_spans = Counter(
        (str(method), attributes_of(span).get("jsonrpc.request.id"))
        for method, span in spans
        if not str(method).startswith("notifications/")
    )
    yield from differing("ids", sorted(on_spans, key=str), sorted(on_wire, key=str))
    for method, span in spans:
        if str(method).startswith("notifications/"):
            yield from has(span, "jsonrpc.request.id", None)


def mcp_protocol_version(run: Run) -> Complaints:
    for span in [*run.clients(), *run.servers()]:
        yield from has(span, "mcp.protocol.version", run.column.era)


def mcp_session_id(run: Run) -> Complaints:
    headers = {each.headers.get("mcp-session-id") for each in run.received} - {None}
    is_in_session = run.is_legacy and run.column.transport == "http"
    yield from differing("sessions", len(headers), int(is_in_session))
    session_id = next(iter(headers), None)
    for span in [*run.clients(), *run.servers()]:
        yield from has(span, "mcp.session.id", session_id)


def network_of(run: Run) -> dict[str, Any]:
    http = {"network.transport": "tcp", "network.protocol.name": "http", "network.protocol.version": "1.1"}
    return {"stdio": {"network.transport": "pipe"}, "http": http}.get(run.column.transport, {})


def server_of(run: Run) -> dict[str, Any]:
    parts = urlsplit(run.url)
    return {"server.address": parts.hostname, "server.port": parts.port} if run.column.transport == "http" else {}


def with_prefix(attributes: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name.startswith(prefix)}


def network(run: Run) -> Complaints:
    for span in [*run.clients(), *run.servers()]:
        yield from differing(f"network of {span.name}", with_prefix(attributes_of(span), "network."), network_of(run))


def server_address_and_port(run: Run) -> Complaints:
    for span in run.clients():
        yield from differing(f"server of {span.name}", with_prefix(attributes_of(span), "server."), server_of(run))
    for span in run.servers():  # there, the server is this process
        yield from differing(f"server of {span.name}", with_prefix(attributes_of(span), "server."), {})


ATTRIBUTES = {
    "mcp.method.name", "mcp.protocol.version", "mcp.resource.uri", "mcp.session.id", "jsonrpc.request.id",
    "error.type", "rpc.response.status_code", "gen_ai.tool.name", "gen_ai.prompt.name", "gen_ai.operation.name",
    "network.transport", "network.protocol.name", "network.protocol.version", "server.address", "server.port",
}  # fmt: skip


def nothing_that_the_conventions_do_not_have(run: Run) -> Complaints:
    for span in [*run.clients(), *run.servers()]:
        more = {name for name in attributes_of(span).keys() - ATTRIBUTES if not name.startswith("mcp_intercept.")}
        yield from differing(f"more on {span.name}", more, set())


def content_is_not_shown_by_default(run: Run) -> Complaints:
    for step in run.steps.values():
        for span in step.spans:
            if is_ours(span) and SECRET in span.to_json():
                yield f"{span.name} shows it"
        for point in step.points:
            if SECRET in str(point):
                yield f"{point.name} shows it"


def content_is_shown_on_request(run: Run) -> Complaints:
    spans = {span.name: attributes_of(span) for span in run.captured if is_ours(span)}
    of_tool, of_prompt = spans.get("tools/call echo", {}), spans.get("prompts/get greet", {})
    arguments = json.loads(of_tool.get("gen_ai.tool.call.arguments", "null"))
    yield from differing("arguments", arguments, {"text": SECRET})
    result = json.loads(of_tool.get("gen_ai.tool.call.result", "{}"))
    yield from differing("result", result.get("content"), [{"type": "text", "text": SECRET}])
    yield from differing("variable", of_prompt.get("gen_ai.prompt.variable.name"), SECRET)


def what_was_sent(run: Run) -> dict[str, list[str]]:
    """The methods that a client sends in each step."""
    sent = {step: ["tools/call"] for step in TOOLS_OF_STEPS}
    sent |= {"lists": ["tools/list", "prompts/list"], "prompt": ["prompts/get"], "read": ["resources/read"]}
    sent |= {"tell": ["notifications/roots/list_changed"], "enriched": [], "unsampled": [], "left": []}
    if run.is_legacy:
        sent |= {"subscribe": ["resources/subscribe"], "unsubscribe": ["resources/unsubscribe"]}
        sent |= {"handshake": ["initialize", "notifications/initialized"]}
    else:
        sent |= {"handshake": ["server/discover"], "ask": ["tools/call"] * 2}
    if run.column.is_wired:
        sent |= {step: ["tools/call", CANCELLED] for step in ("timeout", "cancel")}
    return sent


def notifications_have_spans(run: Run) -> Complaints:
    for step, methods in what_was_sent(run).items():
        for method in methods:
            if method.startswith("notifications/"):
                spans = run.named(step, SpanKind.CLIENT, method)
                yield from differing(f"spans of {method} in {step}", [span.name for span in spans], [method])


def nobody_makes_a_second_client_span(run: Run) -> Complaints:
    """In the whole process; but a server of this process has its own, for what it asks."""
    asked = {method for questions in QUESTIONS.values() for method, _ in questions}
    for step, methods in what_was_sent(run).items():
        spans = [span for span in run.steps[step].spans if span.kind is SpanKind.CLIENT]
        found = [attributes_of(span).get("mcp.method.name", span.name) for span in spans]
        found = [method for method in found if method not in asked]
        yield from differing(f"CLIENT spans in {step}", sorted(found), sorted(methods))


def questions_of_the_server_have_server_spans(run: Run) -> Complaints:
    for step, questions in QUESTIONS.items():
        found = sorted(str(attributes_of(span).get("mcp.method.name")) for span in run.named(step, SpanKind.SERVER))
        yield from differing(f"SERVER spans in {step}", found, sorted(method for method, _ in questions))
        for method, _ in questions:
            if step == "ask":
                status = run.question(step, method).status.status_code
                yield from differing(f"status of {method}", status, StatusCode.UNSET)
    yield from differing("others", len(run.servers()), sum(map(len, QUESTIONS.values())))


def the_parent_of_a_question_is_what_the_server_says(run: Run) -> Complaints:
    assert run.app is not None
    for step, questions in QUESTIONS.items():
        for method, said in questions:
            span = run.question(step, method)
            wanted = said["_meta"]["traceparent"]
            if not LINE_1 and run.is_legacy and run.column.transport == "memory":
                # The SDK's server of this process says that it is its own CLIENT span.
                own = [each for each in run.steps[step].spans if each.name == f"MCP send {method}"]
                wanted = traceparent_of(own[0])
            elif not run.is_legacy and method != "roots/list":
                # The protocol has no `_meta` there.
                wanted = traceparent_of(run.app)
            parent = traceparent_of_context(span.parent) if span.parent else None
            yield from differing(f"parent of {span.name}", parent, wanted)
            if not span.links:
                yield f"{span.name} does not link what is around it"


def not_every_code_is_an_error_of_ours(run: Run) -> Complaints:
    span = run.question("ask_refused", "elicitation/create")
    yield from differing("status", span.status.status_code, StatusCode.UNSET)
    yield from has(span, "error.type", None)
    yield from has(span, "rpc.response.status_code", "-32602")


def other_codes_are_errors_of_ours(run: Run) -> Complaints:
    span = run.question("ask_broken", "elicitation/create")
    yield from differing("status", span.status.status_code, StatusCode.ERROR)
    yield from differing("description", span.status.description, "out of order")
    yield from has(span, "error.type", "-32050")
    yield from has(span, "rpc.response.status_code", "-32050")


def traceparent_of_context(of: SpanContext) -> str:
    return f"00-{of.trace_id:032x}-{of.span_id:016x}-{of.trace_flags:02x}"


def traceparent_of(span: ReadableSpan) -> str:
    return traceparent_of_context(context_of(span))


def spans_by_traceparent(run: Run) -> dict[str, ReadableSpan]:
    spans = [span for step in run.steps.values() for span in step.spans]
    return {
        traceparent_of(span): span
        for span in spans
        if (is_ours(span) and span.kind is SpanKind.CLIENT) or span.name == "execute_tool enriched"
    }


def propagated(run: Run, messages: Iterable[Received]) -> Complaints:
    """Each of what was sent carries its own span."""
    spans = spans_by_traceparent(run)
    for each in messages:
        traceparent = each.meta.get("traceparent")
        if each.params.get("name") == "unsampled":
            start = f"00-{UNSAMPLED.trace_id:032x}-"
            if not (traceparent or "").startswith(start) or not (traceparent or "").endswith("-00"):
                yield f"traceparent of unsampled: {traceparent}"
            continue
        span = spans.pop(traceparent or "", None)
        yield from differing(
            f"method of the span in {each.method}", span and attributes_of(span).get("mcp.method.name"), each.method
        )


def requests_carry_their_span(run: Run) -> Complaints:
    sent = run.sent(requests=True)
    methods = sorted(str(each.method) for each in sent)
    steps = [*what_was_sent(run).values(), ["tools/call"] * 2]
    wanted = sorted(method for step in steps for method in step if not method.startswith("notifications/"))
    yield from differing("what arrived", methods, wanted)
    yield from propagated(run, sent)


def received_notifications(run: Run) -> list[Received]:
    if not run.column.is_wired:
        raise NotApplicableError("no notification leaves the client")
    return run.sent(requests=False)


def notifications_carry_their_span(run: Run) -> Complaints:
    sent = [each for each in received_notifications(run) if each.method != CANCELLED]
    wanted = ["notifications/initialized"] if run.is_legacy else []
    yield from differing("what arrived", [each.method for each in sent], [*wanted, "notifications/roots/list_changed"])
    yield from propagated(run, sent)


def cancellations_carry_their_span(run: Run) -> Complaints:
    if not run.is_legacy and run.column.transport == "http":
        raise NotApplicableError("what cancels is the end of the HTTP request")
    sent = [each for each in received_notifications(run) if each.method == CANCELLED]
    yield from differing("how many arrived", len(sent), 2)
    hung = [each.frame["id"] for each in run.frames_of("cancel")]
    yield from differing("what is cancelled", [each.params.get("requestId") for each in sent], hung)
    yield from propagated(run, sent)


def tracestate_and_baggage_go_with_it(run: Run) -> Complaints:
    for each in [*run.sent(requests=True), *run.sent(requests=False)]:
        found = (each.meta.get("tracestate"), each.meta.get("baggage"))
        yield from differing(f"_meta of {each.method}", found, ("v=1", "user=alice"))


def durations_are_histograms_in_seconds(run: Run) -> Complaints:
    points = run.all_points(OPERATIONS)
    if not points:
        raise MissingError("no points")
    for point in points:
        yield from differing("unit", point.unit, "s")
        yield from differing("buckets", point.bounds, BUCKETS)
        if not 0 <= point.sum < 20:
            yield f"{point.sum} seconds"
    hung = sum(point.sum for point in run.points("timeout") if point.attributes.get("error.type"))
    if not 0.1 <= hung < 5:
        yield f"a timeout after 0.1 s took {hung} s"


def durations_have_the_attributes_of_the_table(run: Run) -> Complaints:
    always = {"mcp.protocol.version": run.column.era, **network_of(run), **server_of(run)}
    call = {"mcp.method.name": "tools/call", "gen_ai.operation.name": "execute_tool", **always}
    wanted = {
        "echo": {**call, "gen_ai.tool.name": "echo"},
        "fail": {**call, "gen_ai.tool.name": "fail", "error.type": "tool_error"},
        "raises": {**call, "gen_ai.tool.name": "raises", "error.type": "LookupError"},
        "timeout": {**call, "gen_ai.tool.name": "hang", "error.type": "timeout"},
        "cancel": {**call, "gen_ai.tool.name": "hang", "error.type": "cancelled"},
        "refuse": {
            **call,
            "gen_ai.tool.name": "refuse",
            "error.type": str(REFUSAL[0]),
            "rpc.response.status_code": str(REFUSAL[0]),
        },
        "prompt": {**always, "mcp.method.name": "prompts/get", "gen_ai.prompt.name": "greet"},
        "read": {**always, "mcp.method.name": "resources/read"},
        "tell": {**always, "mcp.method.name": "notifications/roots/list_changed"},
    }
    for step, attributes in wanted.items():
        found = [point.attributes for point in run.points(step)]
        yield from differing(
            f"attributes of {step}", [each for each in found if each.get("mcp.method.name") != CANCELLED], [attributes]
        )


def durations_have_no_attributes_of_many_values(run: Run) -> Complaints:
    few = ATTRIBUTES - {"mcp.session.id", "jsonrpc.request.id", "mcp.resource.uri"}
    for step in run.steps.values():
        for point in step.points:
            yield from differing(f"more on {point.name}", point.attributes.keys() - few, set())


def every_operation_has_its_duration(run: Run) -> Complaints:
    for step, methods in what_was_sent(run).items():
        wanted = Counter(methods + ["tools/call"] * (step in ("enriched", "unsampled")))
        found = Counter[str]()
        for point in run.points(step):
            found[str(point.attributes.get("mcp.method.name"))] += point.count
        yield from differing(f"durations in {step}", found, wanted)


def durations_are_recorded_when_spans_are_not(run: Run) -> Complaints:
    yield from differing("spans", [span.name for span in run.steps["unsampled"].spans if is_ours(span)], [])
    found = [(point.attributes.get("gen_ai.tool.name"), point.count) for point in run.points("unsampled")]
    yield from differing("durations", found, [("unsampled", 1)])


def tools_that_are_not_listed_are_other(run: Run) -> Complaints:
    found = [point.attributes.get("gen_ai.tool.name") for point in run.points("unlisted")]
    yield from differing("tools", found, ["_OTHER"])


def sessions_have_their_duration(run: Run) -> Complaints:
    points = run.all_points(SESSIONS)
    yield from differing("how many", [point.count for point in points], [1])
    for point in points:
        yield from differing("when", run.points("left", SESSIONS), [point])
        yield from differing("unit", point.unit, "s")
        yield from differing("buckets", point.bounds, BUCKETS)
        wanted = {"mcp.protocol.version": run.column.era, **network_of(run), **server_of(run)}
        yield from differing("attributes", point.attributes, wanted)


def sessions_have_an_error_type_if_they_end_badly(run: Run) -> Complaints:
    well = [point.attributes.get("error.type") for point in run.all_points(SESSIONS)]
    badly = [point.attributes.get("error.type") for point in run.badly if point.name == SESSIONS]
    yield from differing("well", well, [None])
    yield from differing("badly", badly, ["BodyError"])


ROWS: Mapping[str, Callable[[Run], Complaints]] = {
    "kind is CLIENT": client_spans_are_of_kind_client,
    "name: method and tool or prompt": the_name_has_the_tool_or_the_prompt,
    "name: else the method alone, no URI": the_name_has_nothing_else,
    "parent: current context": the_parent_is_the_current_span,
    "an enclosing execute_tool span is enriched": an_execute_tool_span_around_it_is_enriched,
    "status: ERROR and the message of a JSON-RPC error": a_json_rpc_error_is_the_status,
    "status: ERROR with every error.type": every_failure_is_the_status,
    "status: UNSET on success": success_leaves_the_status_unset,
    "mcp.method.name": mcp_method_name,
    "error.type: JSON-RPC code": error_type_of_a_json_rpc_error,
    "error.type: tool_error": error_type_of_a_tool_error,
    "error.type: timeout": error_type_of_a_timeout,
    "error.type: cancelled": error_type_of_a_cancelled_call,
    "error.type: class of an exception": error_type_of_an_exception,
    "rpc.response.status_code": rpc_response_status_code,
    "gen_ai.tool.name": gen_ai_tool_name,
    "gen_ai.prompt.name": gen_ai_prompt_name,
    "mcp.resource.uri: resources/read": mcp_resource_uri_of_what_is_read,
    "mcp.resource.uri: subscribe, unsubscribe": mcp_resource_uri_of_subscriptions,
    "gen_ai.operation.name": gen_ai_operation_name_of_tool_calls_only,
    "jsonrpc.request.id": jsonrpc_request_id,
    "mcp.protocol.version": mcp_protocol_version,
    "mcp.session.id": mcp_session_id,
    "network.*": network,
    "server.address, server.port": server_address_and_port,
    "no other attributes": nothing_that_the_conventions_do_not_have,
    "content: not by default": content_is_not_shown_by_default,
    "content: on request": content_is_shown_on_request,
    "notifications have spans": notifications_have_spans,
    "one CLIENT span a message in the process": nobody_makes_a_second_client_span,
    "server asks: SERVER spans": questions_of_the_server_have_server_spans,
    "server asks: parent from _meta, link": the_parent_of_a_question_is_what_the_server_says,
    "server asks: codes that are no errors": not_every_code_is_an_error_of_ours,
    "server asks: codes that are": other_codes_are_errors_of_ours,
    "_meta: traceparent of requests": requests_carry_their_span,
    "_meta: traceparent of notifications": notifications_carry_their_span,
    "_meta: traceparent of notifications/cancelled": cancellations_carry_their_span,
    "_meta: tracestate, baggage": tracestate_and_baggage_go_with_it,
    "operation.duration: unit, buckets": durations_are_histograms_in_seconds,
    "operation.duration: attributes": durations_have_the_attributes_of_the_table,
    "operation.duration: low cardinality": durations_have_no_attributes_of_many_values,
    "operation.duration: one a message": every_operation_has_its_duration,
    "operation.duration: also unsampled": durations_are_recorded_when_spans_are_not,
    "operation.duration: _OTHER for unlisted tools": tools_that_are_not_listed_are_other,
    "session.duration: unit, buckets, attributes": sessions_have_their_duration,
    "session.duration: error.type iff it ended badly": sessions_have_an_error_type_if_they_end_badly,
}


class Score(NamedTuple):
    """How a run fares, row by row."""

    column: Column
    wrong: dict[str, list[str]]
    not_applicable: dict[str, str]

    def __str__(self) -> str:
        rows = len(ROWS) - len(self.not_applicable)
        left_out = f" ({len(self.not_applicable)} n/a)" if self.not_applicable else ""
        return f"line {LINE}, {self.column}: {rows - len(self.wrong)} of {rows} rows{left_out}"


def score(run: Run) -> Score:
    verdicts = {name: judged(check, run) for name, check in ROWS.items()}
    wrong = {name: verdict for name, verdict in verdicts.items() if isinstance(verdict, list) and verdict}
    return Score(run.column, wrong, {name: reason for name, reason in verdicts.items() if isinstance(reason, str)})


def judged(check: Callable[[Run], Complaints], run: Run) -> list[str] | str:
    """The complaints of a row; or why it does not apply."""
    try:
        return [*check(run)]
    except NotApplicableError as reason:
        return str(reason)
    except MissingError as missing:
        return [str(missing)]


@pytest.fixture(scope="module")
def place() -> Generator[Place, None, None]:
    with elsewhere() as servers:
        yield Place(servers)


@pytest.mark.parametrize("column", columns(), ids=str)
async def test_what_is_exported_is_what_the_tables_say(column: Column, place: Place) -> None:
    assert score(await run_clients(column, place)).wrong == {}


def main() -> None:
    warnings.simplefilter("ignore")
    left_out: dict[str, str] = {}
    with elsewhere() as servers:
        place = Place(servers)
        for column in columns():
            on = {backend: score(anyio.run(run_clients, column, place, backend=backend)) for backend in BACKENDS}
            for line in dict.fromkeys(map(str, on.values())):
                print(line, "on", " and ".join(backend for backend in BACKENDS if str(on[backend]) == line))
            for judged_on in on.values():
                for name, complaints in judged_on.wrong.items():
                    print(f"    {name}", *complaints[:3], sep="\n        ")
                for name, reason in judged_on.not_applicable.items():
                    left_out[f"{column.era}, {column.transport}: {name}"] = reason
    for where, reason in left_out.items():
        print(f"n/a {where}: {reason}")


if __name__ == "__main__":
    main()
