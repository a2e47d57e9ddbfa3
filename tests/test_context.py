"""The values: what a message, its options and its response are, show and hide; and how a message ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import mcp.types as types
import pytest

from mcp_intercept import (
    CallOptions,
    Exchange,
    MCPResponseContext,
    MiddlewareContext,
    MiddlewareManager,
    NextFunctionT,
    Outcome,
    connect,
)
from tests.wire import Frame, WireServer, never, wire

pytestmark = pytest.mark.anyio

CHANGED: Any = types.RootsListChangedNotification()
SECRET = "hunter2"


def context_of(params: Any = None) -> MiddlewareContext[Any]:
    return MiddlewareContext("id-1", "tools/call", params, "connection-1", 1.5)


def test_a_context_takes_its_values_by_position() -> None:
    params = types.CallToolRequestParams(name="tool")
    metadata = {"note": 1}

    context = MiddlewareContext("id-1", "tools/call", params, "connection-1", 1.5, metadata)

    assert context.id == "id-1"
    assert context.method == "tools/call"
    assert context.params is params
    assert context.connection_id == "connection-1"
    assert context.timestamp == 1.5
    assert context.metadata is metadata


def test_a_context_takes_nothing_else_by_position() -> None:
    make: Any = MiddlewareContext

    with pytest.raises(TypeError, match="positional"):
        make("id-1", "tools/call", None, "connection-1", 1.5, {}, "session-1")


def test_a_context_is_by_default_that_of_a_first_outgoing_request_without_a_session() -> None:
    context = context_of()

    assert (context.direction, context.kind, context.attempt) == ("outgoing", "request", 1)
    assert (context.session_id, context.protocol_version, context.session) == (None, None, None)  # type: ignore[comparison-overlap]
    assert context.metadata == {}
    assert context.options == CallOptions()


def test_a_context_takes_the_rest_by_name() -> None:
    options = CallOptions(timeout=3.0)

    context = MiddlewareContext(
        "id-1",
        "roots/list",
        None,
        "connection-1",
        1.5,
        session_id="session-1",
        protocol_version="2025-11-25",
        direction="incoming",
        kind="notification",
        options=options,
        attempt=2,
    )

    assert (context.session_id, context.protocol_version) == ("session-1", "2025-11-25")
    assert (context.direction, context.kind, context.attempt) == ("incoming", "notification", 2)
    assert context.options is options


def test_contexts_share_neither_metadata_nor_options_nor_headers() -> None:
    first, second = context_of(), context_of()

    first.metadata["note"] = 1
    first.options.timeout = 3.0
    first.options.headers["name"] = "value"

    assert second.metadata == {}
    assert second.options == CallOptions(None, None, {})


def test_a_context_can_be_written_with_the_type_of_its_params() -> None:
    context = MiddlewareContext[int]("id-1", "acme/count", 7, "connection-1", 1.5)

    assert context.params + 1 == 8


def test_a_misspelt_field_of_a_context_is_refused() -> None:
    context: Any = context_of()

    with pytest.raises(AttributeError, match="param"):
        context.param = "typo"


def test_contexts_and_responses_are_themselves_and_nobody_else() -> None:
    context, response = context_of(), MCPResponseContext.create("id-1")

    assert {context: "one", response: "two"}[context] == "one"
    assert context != context_of()
    assert response != MCPResponseContext.create("id-1")


def test_replace_makes_a_copy_that_keeps_everything_else_and_shares_metadata_and_options() -> None:
    context = MiddlewareContext("id-1", "tools/call", "old", "connection-1", 1.5, session_id="session-1", attempt=2)

    copy = dataclasses.replace(context, params="new")

    assert (copy.params, context.params) == ("new", "old")
    kept = [field.name for field in dataclasses.fields(context) if field.name != "params"]
    assert all(getattr(copy, name) is getattr(context, name) for name in kept)


def test_a_context_shows_what_it_is_and_no_secret() -> None:
    context = context_of(types.CallToolRequestParams(name="tool", arguments={"password": SECRET}))
    context.metadata[SECRET] = SECRET
    context.options.headers["Authorization"] = SECRET

    assert repr(context) == (
        "<MiddlewareContext tools/call outgoing request id='id-1' connection_id='connection-1' attempt=1>"
    )
    assert str(context) == repr(context)


def test_a_method_name_from_outside_cannot_break_the_line_that_shows_it() -> None:
    context = MiddlewareContext("id-1", "acme/x\n\x1b[31mforged", None, "connection-1", 1.5)

    assert repr(context).isprintable()


def test_a_long_method_name_from_outside_is_cut_off() -> None:
    for method in ("x" * 10_000, "\n" * 10_000):
        assert len(repr(MiddlewareContext("id-1", method, None, "connection-1", 1.5))) < 1_000


def test_options_show_header_names_and_no_values() -> None:
    options = CallOptions(2.5, None, {"Authorization": SECRET, "X-Trace": SECRET})

    assert repr(options) == "CallOptions(timeout=2.5, progress=False, headers=[Authorization, X-Trace])"


def test_options_show_that_progress_is_wanted_and_not_by_whom() -> None:
    async def report(token: str, progress: float, total: float | None, message: str | None) -> None:
        raise NotImplementedError

    assert repr(CallOptions(progress_callback=partial(report, SECRET))) == (
        "CallOptions(timeout=None, progress=True, headers=[])"
    )


def test_a_response_takes_its_values_by_position() -> None:
    error, metadata, wire_response = ValueError(), {"note": 1}, {"jsonrpc": "2.0"}

    response = MCPResponseContext("id-1", "result", error, 0.25, metadata, wire_response)

    assert (response.request_id, response.result, response.duration) == ("id-1", "result", 0.25)
    assert response.error is error
    assert response.metadata is metadata
    assert response.jsonrpc_response is wire_response


def test_a_response_has_by_default_nothing_from_the_wire() -> None:
    assert MCPResponseContext("id-1", None, None, 0.0, {}).jsonrpc_response is None


def test_create_makes_a_response_that_took_no_time() -> None:
    error = ValueError()

    assert dataclasses.astuple(MCPResponseContext.create("id-1")) == ("id-1", None, None, 0.0, {}, None)
    assert MCPResponseContext.create("id-1", "result").result == "result"
    assert MCPResponseContext.create("id-1", error=error).error is error
    assert MCPResponseContext.create("id-1", None, error).error is error


def test_created_responses_do_not_share_metadata() -> None:
    MCPResponseContext.create("id-1").metadata["note"] = 1

    assert MCPResponseContext.create("id-1").metadata == {}


def test_a_response_shows_its_outcome_and_no_secret() -> None:
    result = types.CallToolResult(content=[types.TextContent(type="text", text=SECRET)])
    response = MCPResponseContext("id-1", result, None, 0.25, {SECRET: SECRET}, {"result": SECRET})
    failure = MCPResponseContext("id-1", None, ValueError(SECRET), 0.25, {SECRET: SECRET})

    assert repr(response) == "<MCPResponseContext ok request_id='id-1' duration=0.250000>"
    assert repr(failure) == "<MCPResponseContext error request_id='id-1' duration=0.250000>"


def test_an_exchange_is_a_pair_of_both_and_shows_no_secret() -> None:
    context, response = context_of(SECRET), MCPResponseContext.create("id-1", SECRET, ValueError(SECRET))

    exchange = Exchange(context, response)

    assert (exchange.context, exchange.response) == (context, response) == exchange
    assert SECRET not in repr(exchange)


def tool_result(**fields: Any) -> types.CallToolResult:
    """A result as the server writes it; its fields have other names in Python on line 2."""
    return types.CallToolResult.model_validate({"content": [], **fields})


@pytest.mark.parametrize(
    ("result", "error", "outcome"),
    [
        (None, None, "ok"),
        (types.EmptyResult(), None, "ok"),
        (tool_result(), None, "ok"),
        (tool_result(isError=False), None, "ok"),
        (tool_result(isError=True), None, "tool_error"),
        (None, ValueError(), "error"),
        (None, TimeoutError(), "timeout"),
        (None, KeyboardInterrupt(), "cancelled"),
        (None, SystemExit(), "cancelled"),
        (None, GeneratorExit(), "cancelled"),
    ],
)
def test_the_outcome_follows_from_result_and_error(result: Any, error: BaseException, outcome: Outcome) -> None:
    assert MCPResponseContext.create("id-1", result, error).outcome == outcome


class CodedError(Exception):
    """In the shape of the SDK's error."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.error = types.ErrorData(code=code, message="no")


def raised(code: int, *, in_the_frame_of_the_clock: bool) -> CodedError:
    """An error with a timeout for its context, raised where that was caught, or in a frame further in."""

    def further_in() -> None:
        raise CodedError(code)

    try:
        try:
            raise TimeoutError
        except TimeoutError:
            if in_the_frame_of_the_clock:
                raise CodedError(code) from None
            further_in()
    except CodedError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize("code", [408, -32001])
def test_an_error_with_the_code_of_a_timeout_is_one_only_where_the_clock_was_caught(code: int) -> None:
    never_raised, not_caught = CodedError(code), raised(code, in_the_frame_of_the_clock=True)
    never_raised.__context__ = not_caught.__context__
    not_caught.__context__ = TimeoutError()
    errors = [
        raised(code, in_the_frame_of_the_clock=True),
        raised(code, in_the_frame_of_the_clock=False),
        raised(-32000, in_the_frame_of_the_clock=True),
        CodedError(code),
        never_raised,
        not_caught,
    ]

    outcomes = [MCPResponseContext.create("id-1", error=error).outcome for error in errors]

    assert outcomes == ["timeout", "error", "error", "error", "error", "error"]


async def outcomes_of(prepare: Callable[[WireServer], None], *middlewares: Any) -> list[tuple[Outcome, str]]:
    """The outcome of a tool call to a server that `prepare` prepared, and the type of what the caller caught."""
    manager = MiddlewareManager(middlewares)
    async with wire() as (streams, server), connect(streams, manager) as session:
        prepare(server)
        caught = "nothing"
        with manager.capture() as exchanges, anyio.fail_after(30):
            try:
                await session.call_tool("tool", {})
            except Exception as error:
                caught = type(error).__name__
    return [(response.outcome, caught) for context, response in exchanges if context.method == "tools/call"]


def refuse_with(code: int) -> Callable[[WireServer], None]:
    """Make the server answer tool calls with a JSON-RPC error."""

    def prepare(server: WireServer) -> None:
        async def refuse(frame: Frame) -> None:
            await server.refuse(frame["id"], code, "no")

        server.answers["tools/call"] = refuse

    return prepare


def stay_silent(server: WireServer) -> None:
    server.answers["tools/call"] = never


async def in_a_moment(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
    """Have the SDK's own clock run out at once."""
    if context.method == "tools/call":
        context.options.timeout = 0.01
    return await call_next(context)


@pytest.mark.parametrize("code", [-32001, 408, -32000, -32603, 1])
async def test_an_error_of_the_server_is_the_outcome_error_whatever_its_code(code: int) -> None:
    [(outcome, caught)] = await outcomes_of(refuse_with(code))

    assert (outcome, caught.lower()) == ("error", "mcperror")


async def test_the_end_of_the_sdks_own_clock_is_the_outcome_timeout() -> None:
    [(outcome, caught)] = await outcomes_of(stay_silent, in_a_moment)

    assert (outcome, caught.lower()) == ("timeout", "mcperror")


async def test_the_end_of_a_middlewares_clock_is_the_outcome_timeout() -> None:
    async def impatient(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        with anyio.fail_after(0.01 if context.method == "tools/call" else None):
            return await call_next(context)

    assert await outcomes_of(stay_silent, impatient) == [("timeout", "TimeoutError")]


async def test_a_retry_that_the_server_refuses_is_no_timeout_though_the_first_attempt_was() -> None:
    def prepare(server: WireServer) -> None:
        async def refuse_the_second(frame: Frame) -> None:
            if len(server.sent("tools/call")) == 2:
                await server.refuse(frame["id"], -32001, "no")

        server.answers["tools/call"] = refuse_the_second

    async def persistent(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        try:
            with anyio.fail_after(0.01 if context.method == "tools/call" else None):
                return await call_next(context)
        except TimeoutError:
            # Where the last error is being handled, Python makes it the context of the next one.
            return await call_next(context)

    [(outcome, caught)] = await outcomes_of(prepare, persistent)

    assert (outcome, caught.lower()) == ("error", "mcperror")


async def test_a_timeout_stays_one_when_a_middleware_raises_it_again_later() -> None:
    async def tidy(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        caught: Exception | None = None
        try:
            return await call_next(context)
        except Exception as error:
            caught = error
        raise caught

    [(outcome, _)] = await outcomes_of(stay_silent, tidy, in_a_moment)

    assert outcome == "timeout"


async def test_a_call_that_the_caller_gives_up_is_the_outcome_cancelled() -> None:
    manager = MiddlewareManager()
    async with wire() as (streams, server), connect(streams, manager) as session:
        stay_silent(server)
        with manager.capture() as exchanges, anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(session.call_tool, "tool", {})
                await server.wait_for("tools/call")
                tasks.cancel_scope.cancel()

    assert [response.outcome for _, response in exchanges] == ["cancelled"]
    assert isinstance(exchanges[0].response.error, anyio.get_cancelled_exc_class())


async def test_a_result_that_says_is_error_is_the_outcome_tool_error() -> None:
    def prepare(server: WireServer) -> None:
        async def fail(frame: Frame) -> Frame:
            return {"content": [], "isError": True}

        server.answers["tools/call"] = fail

    assert await outcomes_of(prepare) == [("tool_error", "nothing")]


async def test_a_notification_that_was_sent_is_the_outcome_ok_without_a_result() -> None:
    manager = MiddlewareManager()
    async with wire() as (streams, server), connect(streams, manager) as session:
        with manager.capture() as exchanges:
            await session.send_notification(CHANGED)
            await server.wait_for("notifications/roots/list_changed")

    [(context, response)] = exchanges
    assert (context.kind, response.outcome, response.result) == ("notification", "ok", None)
