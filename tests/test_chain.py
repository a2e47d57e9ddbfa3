"""The chain: what a layer sees, may do and may not do, around a call of one's own and around a real session."""

from __future__ import annotations

import dataclasses
import gc
import sys
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import anyio
import mcp.types as types
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_intercept import (
    AnyMiddleware,
    CallbackClientSession,
    Middleware,
    MiddlewareContext,
    MiddlewareError,
    MiddlewareManager,
    NextFunctionT,
    connect,
)
from tests.wire import LINE_1, Frame, WireServer, wire

pytestmark = pytest.mark.anyio

CHANGED: Any = types.RootsListChangedNotification()

RESULT = types.CallToolResult(content=[])
PROMPTS = types.ListPromptsResult(prompts=[])

Original = Callable[[MiddlewareContext], Awaitable[Any]]


def tool_call(params: Any = None) -> MiddlewareContext[Any]:
    params = params or types.CallToolRequestParams(name="tool")
    return MiddlewareContext("id-1", "tools/call", params, "connection-1", 1.5)


async def answer(context: MiddlewareContext) -> types.CallToolResult:
    """What the chain is wrapped around where a test does not look at it."""
    return RESULT


async def unreachable(context: MiddlewareContext) -> Any:
    raise AssertionError("the end of the chain was reached")


async def run(*middlewares: AnyMiddleware, call: Original = answer) -> Any:
    """The result of a tool call through the chain, or what it raises."""
    response = await MiddlewareManager(middlewares).process_request(tool_call(), call)
    if response.error is not None:
        raise response.error
    return response.result


@asynccontextmanager
async def session_with(*middlewares: AnyMiddleware) -> AsyncGenerator[tuple[CallbackClientSession, WireServer], None]:
    """A session and the server it talks to, after a handshake that the middlewares did not see."""
    manager = MiddlewareManager()
    with anyio.fail_after(60):
        async with wire() as (streams, server), connect(streams, manager, connection_id="wire") as session:
            await server.wait_for("notifications/initialized")
            server.frames.clear()
            for middleware in middlewares:
                manager.add_middleware(middleware)
            yield session, server


async def pass_on(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
    return await call_next(context)


def recorder(name: str, log: list[str]) -> AnyMiddleware:
    """A layer that logs each message on its way in and on its way out."""

    async def record(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        log.append(f"{name} > {context.method}")
        result = await call_next(context)
        log.append(f"{name} < {context.method}")
        return result

    return record


class Hooked(Middleware):
    """Logs each hook on the way in and on the way out."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    async def through(self, hook: str, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        self.log.append(f"{self.name}.{hook} >")
        result = await call_next(context)
        self.log.append(f"{self.name}.{hook} <")
        return result

    async def on_message(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await self.through("on_message", context, call_next)

    async def on_request(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await self.through("on_request", context, call_next)

    async def on_notification(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await self.through("on_notification", context, call_next)

    async def on_list_prompts(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await self.through("on_list_prompts", context, call_next)

    async def on_roots_list_changed(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await self.through("on_roots_list_changed", context, call_next)


# Order


async def test_layers_run_from_the_first_to_the_end_and_back() -> None:
    log: list[str] = []

    async def end(context: MiddlewareContext) -> types.CallToolResult:
        log.append("end")
        return RESULT

    await run(recorder("outer", log), recorder("inner", log), call=end)

    assert log == ["outer > tools/call", "inner > tools/call", "end", "inner < tools/call", "outer < tools/call"]


async def test_layers_run_in_the_same_order_around_what_a_session_sends() -> None:
    log: list[str] = []
    async with session_with(recorder("outer", log), recorder("inner", log)) as (session, server):

        async def list_prompts(frame: Frame) -> Frame:
            log.append("server")
            return {"prompts": []}

        server.answers["prompts/list"] = list_prompts
        await session.list_prompts()
        await session.send_notification(CHANGED)
        await server.wait_for("notifications/roots/list_changed")

    assert log == [
        "outer > prompts/list",
        "inner > prompts/list",
        "server",
        "inner < prompts/list",
        "outer < prompts/list",
        "outer > notifications/roots/list_changed",
        "inner > notifications/roots/list_changed",
        "inner < notifications/roots/list_changed",
        "outer < notifications/roots/list_changed",
    ]
    assert server.methods == ["prompts/list", "notifications/roots/list_changed"]


async def test_the_hooks_of_one_middleware_nest_and_run_before_those_of_the_next() -> None:
    log: list[str] = []
    async with session_with(Hooked("outer", log), Hooked("inner", log)) as (session, _):
        await session.list_prompts()
        requests = list(log)
        log.clear()
        await session.send_notification(CHANGED)

    inwards = ["outer.on_message", "outer.on_request", "outer.on_list_prompts"]
    inwards += ["inner.on_message", "inner.on_request", "inner.on_list_prompts"]
    assert requests == [f"{hook} >" for hook in inwards] + [f"{hook} <" for hook in reversed(inwards)]
    inwards = ["outer.on_message", "outer.on_notification", "outer.on_roots_list_changed"]
    inwards += ["inner.on_message", "inner.on_notification", "inner.on_roots_list_changed"]
    assert log == [f"{hook} >" for hook in inwards] + [f"{hook} <" for hook in reversed(inwards)]


async def test_calls_at_the_same_time_do_not_mix() -> None:
    arrived = 0
    everybody_is_here = anyio.Event()

    async def meet(context: MiddlewareContext) -> Any:
        nonlocal arrived
        arrived += 1
        if arrived == 50:
            everybody_is_here.set()
        await everybody_is_here.wait()
        return types.CallToolResult.model_validate({"content": [], "_meta": {"for": context.params.name}})

    manager = MiddlewareManager([pass_on, Hooked("any", [])])
    answers: dict[str, Any] = {}

    async def call(name: str) -> None:
        response = await manager.process_request(tool_call(types.CallToolRequestParams(name=name)), meet)
        answers[name] = response.result.meta["for"]

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(call, f"tool {number}")

    assert answers == {f"tool {number}": f"tool {number}" for number in range(50)}


def test_a_chain_that_passes_on_never_suspends() -> None:
    call = MiddlewareManager([pass_on, Hooked("any", []), pass_on]).process_request(tool_call(), answer)

    with pytest.raises(StopIteration) as stop:
        call.send(None)

    assert stop.value.value.result is RESULT


# What can be a layer


class CallableObject:
    async def __call__(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await pass_on(context, call_next)

    async def method(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await pass_on(context, call_next)


async def with_options(prefix: str, context: MiddlewareContext, call_next: NextFunctionT, *, flag: bool) -> Any:
    assert (prefix, flag) == ("prefix", True)
    return await call_next(context)


def returns_a_coroutine(context: MiddlewareContext, call_next: NextFunctionT) -> Awaitable[Any]:
    return pass_on(context, call_next)


class Promise:
    """What is awaitable without being a coroutine."""

    def __init__(self, coroutine: Any) -> None:
        self.coroutine = coroutine

    def __await__(self) -> Any:
        return self.coroutine.__await__()


def returns_an_awaitable_object(context: MiddlewareContext, call_next: NextFunctionT) -> Awaitable[Any]:
    return Promise(pass_on(context, call_next))


def returns_what_call_next_returns(context: MiddlewareContext, call_next: NextFunctionT) -> Awaitable[Any]:
    return call_next(context)


async def names_its_arguments_freely(message: MiddlewareContext, proceed: NextFunctionT, /) -> Any:
    return await proceed(message)


LAYERS: list[AnyMiddleware] = [
    pass_on,
    partial(pass_on),
    partial(with_options, "prefix", flag=True),
    CallableObject(),
    CallableObject().method,
    returns_a_coroutine,
    returns_an_awaitable_object,
    returns_what_call_next_returns,
    names_its_arguments_freely,
    lambda context, call_next: call_next(context),
    Middleware(),
    Hooked("any", []),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: getattr(layer, "__name__", type(layer).__name__))
async def test_any_async_callable_of_two_arguments_is_a_layer(layer: AnyMiddleware) -> None:
    log: list[str] = []

    result = await run(recorder("outer", log), layer, recorder("inner", log))

    assert result is RESULT
    assert log == ["outer > tools/call", "inner > tools/call", "inner < tools/call", "outer < tools/call"]


layer_kinds = st.sampled_from(
    ["function", "callable", "partial", "on_message", "on_request", "on_call_tool", "__call__"]
)


def layer_of(kind: str, name: int, log: list[int]) -> AnyMiddleware:
    """A layer of the given kind that passes everything on and logs that it did."""

    async def record(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        log.append(name)
        result = await call_next(context)
        log.append(-name)
        return result

    if kind == "function":
        return record
    if kind == "partial":
        return partial(record)

    async def method(self: object, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await record(context, call_next)

    bases, attribute = ((), "__call__") if kind == "callable" else ((Middleware,), kind)
    return cast("AnyMiddleware", type("Layer", bases, {attribute: method})())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=50)
@given(kinds=st.lists(layer_kinds, max_size=12))
def test_a_chain_of_layers_that_pass_on_is_its_end(backend: str, kinds: list[str]) -> None:
    log: list[int] = []
    seen: list[Any] = []
    context = tool_call()

    async def end(reached: MiddlewareContext) -> Any:
        await checkpoint()
        seen.append((reached, reached.params))
        return RESULT

    manager = MiddlewareManager(layer_of(kind, number, log) for number, kind in enumerate(kinds, 1))
    params = context.params
    response = anyio.run(manager.process_request, context, end, backend=backend)

    assert response.result is RESULT
    assert seen == [(context, params)]
    assert seen[0][1] is params
    numbers = list(range(1, len(kinds) + 1))
    assert log == numbers + [-number for number in reversed(numbers)]


# Rewriting


async def test_the_end_of_the_chain_gets_what_a_layer_assigned_changed_in_place_or_passed_on_as_a_copy() -> None:
    async def assigns(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        context.params = types.CallToolRequestParams(name="assigned", arguments={})
        return await call_next(context)

    async def changes(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        context.params.arguments["changed"] = True
        return await call_next(context)

    async def copies(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        params = context.params.model_copy(update={"name": f"copy of {context.params.name}"})
        return await call_next(dataclasses.replace(context, params=params))

    reached: list[Any] = []

    async def end(context: MiddlewareContext) -> Any:
        reached.append(context.params)
        return RESULT

    await run(assigns, changes, copies, call=end)

    assert reached == [types.CallToolRequestParams(name="copy of assigned", arguments={"changed": True})]


async def test_a_fresh_context_of_the_same_method_may_be_passed_on() -> None:
    fresh = tool_call(types.CallToolRequestParams(name="fresh"))

    async def renews(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await call_next(fresh)

    reached: list[Any] = []

    async def end(context: MiddlewareContext) -> Any:
        reached.append(context)
        return RESULT

    assert await run(renews, pass_on, call=end) is RESULT
    assert reached == [fresh]


async def test_the_layers_further_in_see_a_fresh_context_as_the_same_call_and_leave_notes_for_those_around() -> None:
    seen: list[Any] = []

    async def renews(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        context.metadata["outer"] = 1
        fresh = MiddlewareContext("id-2", context.method, context.params, "connection-1", 1.5, {"fresh": 2})
        result = await call_next(fresh)
        seen.append(dict(context.metadata))
        return result

    async def notes(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        seen.append((context.id, dict(context.metadata)))
        context.metadata["inner"] = 3
        return RESULT

    await run(renews, notes, call=unreachable)

    assert seen == [("id-1", {"outer": 1, "fresh": 2}), {"outer": 1, "fresh": 2, "inner": 3}]


async def test_a_context_of_a_subclass_may_be_passed_on() -> None:
    class Special(MiddlewareContext[Any]):
        pass

    async def specializes(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await call_next(Special("id-1", context.method, context.params, "connection-1", 1.5))

    assert await run(specializes, pass_on) is RESULT


# Short cuts


async def test_a_short_cut_with_a_typed_result_never_reaches_the_end() -> None:
    async def knows(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return RESULT

    assert await run(knows, call=unreachable) is RESULT


async def test_a_short_cut_in_a_session_gives_the_caller_that_very_result_and_sends_nothing() -> None:
    async def knows(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return PROMPTS

    async with session_with(pass_on, knows, pass_on) as (session, server):
        assert await session.list_prompts() is PROMPTS

    assert server.frames == []


WIRE_SPELLING = {"content": [{"type": "text", "text": "no"}], "isError": True, "structuredContent": {"a": 1}}
PYTHON_SPELLING = {"content": [{"type": "text", "text": "no"}], "is_error": True, "structured_content": {"a": 1}}


@pytest.mark.parametrize(
    "answered",
    [
        WIRE_SPELLING,
        pytest.param(
            PYTHON_SPELLING,
            marks=pytest.mark.skipif(LINE_1, reason="the models of line 1 know only the names of the wire"),
        ),
    ],
    ids=["as on the wire", "as in Python"],
)
async def test_a_short_cut_with_a_dict_is_validated_into_the_result(answered: dict[str, Any]) -> None:
    async def knows(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return answered if context.method == "tools/call" else await call_next(context)

    seen: list[Any] = []

    async def looks(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        seen.append(await call_next(context))
        return seen[-1]

    expected = types.CallToolResult.model_validate(WIRE_SPELLING)
    assert await run(looks, knows, call=unreachable) == expected
    async with session_with(looks, knows) as (session, server):
        assert await session.call_tool("tool", {}) == expected

    assert server.sent("tools/call") == []
    assert seen[:2] == [expected, expected]


async def test_a_layer_may_answer_with_a_dict_after_the_server_did() -> None:
    async def replaces(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        await call_next(context)
        return {"prompts": [{"name": "mine"}]}

    async with session_with(replaces) as (session, _):
        result = await session.list_prompts()

    assert result == types.ListPromptsResult(prompts=[types.Prompt(name="mine")])


# What breaks the contract. A layer is called what its author called it, hence the names.


async def forgets_to_return(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
    await call_next(context)


async def forgets_to_await(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
    return call_next(context)


async def returns_an_awaitable(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
    return Promise(await call_next(context))


def is_not_async(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
    return RESULT


def does_nothing(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
    return None


async def returns_another_model(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
    await call_next(context)
    return types.ListRootsResult(roots=[])


async def returns_a_broken_dict(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
    return {"content": "hunter2", "messages": "hunter2"}


async def passes_the_params(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
    return await call_next(context.params)


async def passes_none(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
    return await call_next(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - the mistake


async def passes_another_method(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
    return await call_next(dataclasses.replace(context, method="tools/list"))


async def assigns_another_method(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
    context.method = "tools/list"
    return await call_next(context)


WAY_OUT: dict[Any, str] = {
    forgets_to_return: "returned None; write `return await call_next(context)`, or return a result",
    forgets_to_await: "returned an awaitable; write `return await call_next(context)`",
    returns_an_awaitable: "returned an awaitable; write `return await call_next(context)`",
    is_not_async: "returned an object of type CallToolResult instead of an awaitable; make it `async def`",
    does_nothing: "returned None instead of an awaitable; make it `async def`",
    returns_another_model: "returned an object of type ListRootsResult, not CallToolResult",
    returns_a_broken_dict: "returned a dict that is no CallToolResult: at content: Input should be a valid list",
    passes_the_params: "passed an object of type CallToolRequestParams to call_next; pass the context, "
    "or a copy made with dataclasses.replace(context, ...)",
    passes_none: "passed None to call_next; pass the context, or a copy made with dataclasses.replace(context, ...)",
    passes_another_method: "passed call_next a context for tools/list; "
    "a chain cannot change the method; send another message through context.session",
    assigns_another_method: "passed call_next a context for tools/list; "
    "a chain cannot change the method; send another message through context.session",
}
broken = pytest.mark.parametrize("culprit", WAY_OUT, ids=lambda culprit: culprit.__name__)


@broken
async def test_a_broken_layer_is_named_with_the_method_and_the_way_out(culprit: Any) -> None:
    with pytest.raises(MiddlewareError) as caught:
        await run(pass_on, culprit, pass_on)
    gc.collect()  # had a coroutine been dropped, Python would complain now

    assert str(caught.value) == f"middleware {culprit.__name__} {WAY_OUT[culprit]} (in tools/call)"
    assert caught.value.middleware is culprit
    assert caught.value.method == "tools/call"


@broken
async def test_a_broken_layer_of_a_session_is_named_instead_of_an_error_of_the_sdk(culprit: Any) -> None:
    async with session_with(pass_on, culprit, pass_on) as (session, _):
        with pytest.raises(MiddlewareError) as caught:
            await session.call_tool("tool", {})
        gc.collect()

    assert str(caught.value).startswith(f"middleware {culprit.__name__} ")
    assert str(caught.value).endswith("(in tools/call)")
    assert "hunter2" not in str(caught.value)
    assert caught.value.middleware is culprit
    assert caught.value.method == "tools/call"


@pytest.mark.parametrize("culprit", [passes_another_method, assigns_another_method])
async def test_a_context_of_another_method_never_reaches_the_layers_further_in(culprit: AnyMiddleware) -> None:
    log: list[str] = []

    with pytest.raises(MiddlewareError):
        await run(culprit, recorder("inner", log), call=unreachable)

    assert log == []


async def test_a_broken_hook_is_named_with_its_class() -> None:
    class Forgetful(Middleware):
        async def on_call_tool(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
            await call_next(context)

    middleware = Forgetful()
    with pytest.raises(MiddlewareError, match=r"^middleware .*Forgetful\.on_call_tool returned None") as caught:
        await run(middleware)

    assert caught.value.middleware == middleware.on_call_tool


async def test_a_broken_callable_object_is_named_by_its_class() -> None:
    class Forgetful:
        async def __call__(self, context: MiddlewareContext, call_next: NextFunctionT) -> None:
            await call_next(context)

    with pytest.raises(MiddlewareError, match=r"^middleware .*Forgetful returned None"):
        await run(Forgetful())


async def test_a_broken_partial_is_named_by_the_function_inside() -> None:
    with pytest.raises(MiddlewareError, match=r"^middleware .*forgets_to_return.* returned None"):
        await run(partial(forgets_to_return))


async def test_a_method_name_from_outside_cannot_break_the_line_of_an_error() -> None:
    context = MiddlewareContext("id-1", "acme/x\n\x1b[31mforged", None, "connection-1", 1.5)

    for culprit in (does_nothing, passes_none, passes_another_method):
        response = await MiddlewareManager([culprit]).process_request(context, answer)
        assert str(response.error).isprintable()


async def test_another_method_from_outside_cannot_break_the_line_of_an_error() -> None:
    async def forges(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await call_next(dataclasses.replace(context, method="acme/x\n\x1b[31mforged"))

    with pytest.raises(MiddlewareError) as caught:
        await run(forges)

    assert str(caught.value).isprintable()


async def test_a_broken_dict_has_its_details_in_the_cause() -> None:
    with pytest.raises(MiddlewareError) as caught:
        await run(returns_a_broken_dict)

    assert type(caught.value.__cause__).__name__ == "ValidationError"


async def test_a_notification_has_no_result() -> None:
    async def invents_one(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        await call_next(context)
        return RESULT

    async with session_with(invents_one) as (session, server):
        with pytest.raises(
            MiddlewareError, match="returned an object of type CallToolResult; a notification has no result"
        ):
            await session.send_notification(CHANGED)
        await server.wait_for("notifications/roots/list_changed")


async def test_a_notification_that_is_not_passed_on_is_dropped() -> None:
    async def drops(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return None

    async with session_with(drops) as (session, server):
        await session.send_notification(CHANGED)
        await checkpoint()

    assert server.frames == []


async def test_to_forget_the_context_is_a_type_error_that_says_so() -> None:
    async def forgets_the_context(context: MiddlewareContext, call_next: Any) -> Any:
        return await call_next()

    with pytest.raises(TypeError, match=r"call_next\(\) missing 1 required positional argument: 'context'"):
        await run(forgets_the_context, pass_on)
    with pytest.raises(TypeError, match=r"call_next\(\) missing 1 required positional argument: 'context'"):
        await run(forgets_the_context)


async def test_to_forget_to_return_is_noticed_whatever_a_call_of_ones_own_answers() -> None:
    async def end(context: MiddlewareContext) -> str:
        return "not a model"

    with pytest.raises(MiddlewareError, match="forgets_to_return returned None"):
        await run(forgets_to_return, call=end)


# Retries


async def test_each_time_the_end_is_reached_is_an_attempt_that_the_layers_further_in_see() -> None:
    log: list[str] = []

    async def retries(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        log.append(f"outer {context.attempt}")
        await call_next(context)
        log.append(f"outer {context.attempt}")
        result = await call_next(context)
        log.append(f"outer {context.attempt}")
        return result

    async def watches(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        log.append(f"inner > {context.attempt}")
        result = await call_next(context)
        log.append(f"inner < {context.attempt}")
        return result

    async with session_with(retries, watches) as (session, server):
        assert await session.list_prompts() == PROMPTS

    first, second = ["inner > 1", "inner < 1"], ["inner > 2", "inner < 2"]
    assert log == ["outer 1", *first, "outer 1", *second, "outer 2"]
    assert server.methods == ["prompts/list", "prompts/list"]


async def test_a_retry_with_a_copy_is_an_attempt_of_the_same_call_that_the_layers_around_it_see() -> None:
    seen: list[tuple[str, int]] = []

    async def looks(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        result = await call_next(context)
        seen.append((context.id, context.attempt))
        return result

    async def retries(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        await call_next(dataclasses.replace(context))
        return await call_next(dataclasses.replace(context))

    async def watches(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        seen.append((context.id, context.attempt))
        return await call_next(context)

    await run(looks, retries, watches)

    assert seen == [("id-1", 1), ("id-1", 2), ("id-1", 2)]


async def test_what_never_reached_the_end_is_no_attempt() -> None:
    failures = [Origin(), Origin()]
    seen: list[int] = []

    async def retries(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        while failures:
            with pytest.raises(Origin):
                await call_next(context)
        return await call_next(context)

    async def fails(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        seen.append(context.attempt)
        if failures:
            raise failures.pop()
        return await call_next(context)

    await run(retries, fails)

    assert seen == [1, 1, 1]


async def test_call_next_can_be_called_again_while_it_runs() -> None:
    both_are_sent = anyio.Event()
    results: list[Any] = []

    async def hedges(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        async def attempt() -> None:
            results.append(await call_next(dataclasses.replace(context)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attempt)
            tasks.start_soon(attempt)
        return results[0]

    attempts: list[int] = []

    async def watches(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        result = await call_next(context)
        attempts.append(context.attempt)
        return result

    async with session_with(hedges, watches) as (session, server):

        async def list_prompts(frame: Frame) -> Frame:
            if len(server.sent("prompts/list")) == 2:
                both_are_sent.set()
            await both_are_sent.wait()
            return {"prompts": [{"name": str(frame["id"])}]}

        server.answers["prompts/list"] = list_prompts
        result = await session.list_prompts()

    assert result is results[0]
    assert len({results[0].prompts[0].name, results[1].prompts[0].name}) == 2
    assert server.methods == ["prompts/list", "prompts/list"]
    assert sorted(attempts) == [1, 2]


async def test_a_layer_may_answer_with_the_first_of_two_results() -> None:
    first: list[Any] = []

    async def compares(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        first.append(await call_next(context))
        await call_next(context)
        return first[0]

    async def end(context: MiddlewareContext) -> Any:
        return types.CallToolResult(content=[])

    assert await run(pass_on, compares, pass_on, call=end) is first[0]


# After the end


async def succeed() -> Any:
    return RESULT


async def fail() -> Any:
    raise ValueError("on purpose")


@pytest.mark.parametrize("ending", [succeed, fail])
@pytest.mark.parametrize("inner", [(), (pass_on,)], ids=["next to the end", "further out"])
async def test_a_call_next_that_is_kept_is_refused_after_the_end(
    ending: Callable[[], Awaitable[Any]], inner: tuple[AnyMiddleware, ...]
) -> None:
    kept: list[Any] = []

    async def keeps(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        kept.extend((context, call_next))
        await call_next(context)
        return await ending()

    reached: list[MiddlewareContext] = []

    async def end(context: MiddlewareContext) -> Any:
        reached.append(context)
        return RESULT

    await MiddlewareManager([keeps, *inner]).process_request(tool_call(), end)
    context, call_next = kept
    with pytest.raises(MiddlewareError) as caught:
        await call_next(context)

    assert len(reached) == 1
    assert str(caught.value).endswith(
        "keeps called call_next after its call had ended; send anew through context.session (in tools/call)"
    )
    assert caught.value.middleware is keeps


async def test_a_call_next_that_is_kept_is_refused_after_the_call_was_cancelled() -> None:
    kept: list[Any] = []

    async def keeps(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        kept.extend((context, call_next))
        return await call_next(context)

    async with session_with(keeps) as (session, server):
        async with anyio.create_task_group() as tasks:

            async def hang(frame: Frame) -> None:
                tasks.cancel_scope.cancel()

            server.answers["prompts/list"] = hang
            tasks.start_soon(session.list_prompts)
        context, call_next = kept
        with pytest.raises(MiddlewareError, match="called call_next after its call had ended"):
            await call_next(context)

        assert len(server.sent("prompts/list")) == 1


async def test_a_call_next_that_is_kept_is_refused_after_a_notification_was_sent() -> None:
    kept: list[Any] = []

    async def keeps(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        kept.extend((context, call_next))
        return await call_next(context)

    async with session_with(keeps) as (session, server):
        await session.send_notification(CHANGED)
        context, call_next = kept
        with pytest.raises(MiddlewareError, match="called call_next after its call had ended"):
            await call_next(context)
        await session.list_prompts()

    assert server.methods == ["notifications/roots/list_changed", "prompts/list"]


async def test_what_call_next_returned_cannot_be_awaited_after_the_end() -> None:
    kept: list[Any] = []

    async def keeps(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        kept.append(call_next(context))
        return RESULT

    await run(keeps, call=unreachable)

    with pytest.raises(MiddlewareError, match="called call_next after its call had ended"):
        await kept[0]


# Exceptions


class Origin(Exception):  # noqa: N818 - it is where the traceback must begin
    pass


async def raise_at_origin(context: MiddlewareContext) -> Any:
    raise Origin


async def raises_before(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
    raise Origin


async def raises_after(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
    await call_next(context)
    raise Origin


def origin_of(error: BaseException) -> str:
    """The function that raised it."""
    return traceback.extract_tb(error.__traceback__)[-1].name


async def test_an_exception_of_the_end_is_reported_unchanged_with_the_traceback_of_where_it_began() -> None:
    seen: list[BaseException] = []

    async def looks(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        try:
            return await call_next(context)
        except Origin as error:
            seen.append(error)
            raise

    manager = MiddlewareManager([looks, pass_on, Hooked("any", [])])
    response = await manager.process_request(tool_call(), raise_at_origin)

    assert response.error is seen[0]
    assert origin_of(seen[0]) == "raise_at_origin"
    assert (seen[0].__cause__, seen[0].__context__) == (None, None)


@pytest.mark.parametrize(("raises", "sent"), [(raises_before, 0), (raises_after, 1)])
async def test_an_exception_of_a_layer_leaves_the_session_unchanged(raises: AnyMiddleware, sent: int) -> None:
    async with session_with(pass_on, raises, pass_on) as (session, server):
        with pytest.raises(Origin) as caught:
            await session.list_prompts()

    assert len(server.sent("prompts/list")) == sent
    assert origin_of(caught.value) == raises.__name__
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


async def test_an_error_of_the_server_leaves_the_session_as_the_sdk_raised_it() -> None:
    seen: list[BaseException] = []

    async def looks(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        try:
            return await call_next(context)
        except Exception as error:
            seen.append(error)
            raise

    async with session_with(pass_on, looks, pass_on) as (session, server):

        async def refuse(frame: Frame) -> None:
            await server.refuse(frame["id"], -32602, "no such prompt")

        server.answers["prompts/list"] = refuse
        with pytest.raises(Exception, match="no such prompt") as caught:
            await session.list_prompts()

    assert caught.value is seen[0]
    assert getattr(caught.value, "error") == types.ErrorData(code=-32602, message="no such prompt")  # noqa: B009
    assert origin_of(caught.value) in ("send_request", "send_raw_request")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()], ids=repr)
async def test_what_is_no_ordinary_exception_passes_through(error: BaseException) -> None:
    async def end(context: MiddlewareContext) -> Any:
        raise error

    with pytest.raises(type(error)) as caught:
        await run(pass_on, Hooked("any", []), call=end)

    assert caught.value is error


async def test_a_cancellation_passes_each_layer_and_leaves_the_session_usable() -> None:
    log: list[str] = []

    async def tidies(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        try:
            return await call_next(context)
        except anyio.get_cancelled_exc_class():
            log.append("cancelled")
            raise
        finally:
            log.append("tidied")

    async with session_with(tidies, tidies) as (session, server):
        async with anyio.create_task_group() as tasks:

            async def hang(frame: Frame) -> None:
                tasks.cancel_scope.cancel()

            server.answers["prompts/list"] = hang
            tasks.start_soon(session.list_prompts)
        assert log == ["cancelled", "tidied"] * 2

        del server.answers["prompts/list"]
        assert await session.list_prompts() == PROMPTS


# Depth


@pytest.fixture
def untraced() -> Generator[None, None, None]:
    """Without coverage or a debugger, which up to Python 3.11 take a part of the stack for each frame they trace."""
    trace = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(trace)


class Plain(Middleware):
    """Overrides every hook that the messages below meet."""

    async def on_message(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await call_next(context)

    async def on_request(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await call_next(context)

    async def on_call_tool(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await call_next(context)

    async def on_notification(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await call_next(context)

    async def on_roots_list_changed(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await call_next(context)


@pytest.mark.usefixtures("untraced")
async def test_a_hundred_middlewares_that_override_all_three_hooks_do_not_exhaust_the_stack() -> None:
    assert await run(*[Plain() for _ in range(100)]) is RESULT


@pytest.mark.usefixtures("untraced")
async def test_a_hundred_middlewares_that_override_all_three_hooks_fit_around_a_session() -> None:
    async with session_with(*[Plain() for _ in range(100)]) as (session, server):
        assert (await session.call_tool("tool", {})).content
        await session.send_notification(CHANGED)
        await server.wait_for("notifications/roots/list_changed")

    assert server.methods == ["tools/call", "tools/list", "notifications/roots/list_changed"]
