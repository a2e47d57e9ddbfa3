"""`Middleware`: a hook for each row of the table of methods, when hooks are called, and how more are added."""

from __future__ import annotations

import inspect
import sys
import traceback
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any, get_args

import anyio
import mcp.types as types
import pytest
from pydantic import BaseModel

from mcp_intercept import (
    AnyMiddleware,
    Middleware,
    MiddlewareContext,
    MiddlewareError,
    MiddlewareManager,
    NextFunctionT,
    connect,
    hook,
)
from mcp_intercept.methods import METHODS, Method
from tests.wire import LINE_1, wire

pytestmark = pytest.mark.anyio

CHANGED: Any = types.RootsListChangedNotification()

GENERAL_HOOKS = ["on_message", "on_request", "on_notification"]

NOT_ON_LINE_1 = {
    "DiscoverResult",
    "SubscriptionsListenRequestParams",
    "SubscriptionsListenResult",
    "SubscriptionsAcknowledgedNotificationParams",
}

each_method = pytest.mark.parametrize("row", METHODS.values(), ids=lambda row: row.name)


def message(method: str, kind: Any = "request", direction: Any = "outgoing") -> MiddlewareContext[Any]:
    return MiddlewareContext("id-1", method, None, "connection-1", 1.5, kind=kind, direction=direction)


async def send(context: MiddlewareContext[Any], *middlewares: AnyMiddleware, result: object = "result") -> Any:
    """Pass a message through middlewares; what it is answered is whatever the test wants, or an error."""

    async def end(context: MiddlewareContext) -> Any:
        return result

    response = await MiddlewareManager(middlewares).process_request(context, end)
    if response.error is not None:
        raise response.error
    return response.result


async def log_and_pass(name: str, log: list[str], context: MiddlewareContext, call_next: NextFunctionT) -> Any:
    log.append(name)
    return await call_next(context)


def logging_hook(name: str, log: list[str]) -> Any:
    async def method(self: Middleware, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await log_and_pass(name, log, context, call_next)

    return method


def subclass(log: list[str], *names: str) -> type[Middleware]:
    """A subclass that logs the hooks of the given names."""
    return type("Logs", (Middleware,), {name: logging_hook(name, log) for name in names})


# The table


def test_each_hook_has_a_row_and_each_row_a_hook() -> None:
    hooks = {name for name in vars(Middleware) if name.startswith("on_")}

    assert hooks == {*GENERAL_HOOKS, *[row.hook for row in METHODS.values()]}


def test_no_two_rows_share_a_hook() -> None:
    assert len({row.hook for row in METHODS.values()}) == len(METHODS)


def test_the_table_is_found_by_wire_name_and_cannot_be_changed() -> None:
    table: Any = METHODS

    assert all(name == row.name for name, row in METHODS.items())
    with pytest.raises(TypeError):
        table["acme/x"] = METHODS["ping"]
    with pytest.raises(AttributeError):
        table["ping"].hook = "on_pong"


@each_method
def test_a_hook_promises_the_types_of_its_row(row: Method) -> None:
    signature = inspect.signature(getattr(Middleware, row.hook))

    params = f"types.{row.params}" + (" | None" if row.optional else "")
    result = "None" if row.result is None else f"types.{row.result}"
    if row.name == "sampling/createMessage":
        result += " | types.CreateMessageResultWithTools"
    # What the server asks may be refused as a callback refuses it.
    refusal = " | types.ErrorData" if row.sender == "server" and row.result else ""
    assert signature.parameters["context"].annotation == f"MiddlewareContext[{params}]"
    assert signature.parameters["call_next"].annotation == f"NextFunctionT[{params}, {result}]"
    assert signature.return_annotation == result + refusal


@each_method
def test_a_hook_says_which_method_it_is_for(row: Method) -> None:
    assert f"`{row.name}`" in (getattr(Middleware, row.hook).__doc__ or "")


@each_method
def test_only_what_is_new_in_2026_is_missing_from_line_1(row: Method) -> None:
    names = {row.params, row.result} - {None}

    missing = {name for name in names if not hasattr(types, str(name))}
    assert missing == (names & NOT_ON_LINE_1 if LINE_1 else set())


def messages_of_the_sdk() -> Iterator[tuple[str, type[BaseModel]]]:
    for model in vars(types).values():
        if inspect.isclass(model) and issubclass(model, BaseModel) and {"method", "params"} <= {*model.model_fields}:
            for method in get_args(model.model_fields["method"].annotation):
                # The generic bases of line 1 declare the params of every message as required.
                if isinstance(method, str) and "[" not in model.__name__:
                    yield method, model


@pytest.mark.parametrize(("method", "model"), messages_of_the_sdk())
def test_each_message_of_the_sdk_has_a_row_that_agrees_with_it(method: str, model: type[BaseModel]) -> None:
    row, params = METHODS[method], model.model_fields["params"]

    expected = getattr(types, row.params)
    assert params.annotation == (expected | None if row.optional else expected)
    assert params.is_required() is not row.optional
    assert row.kind == ("notification" if model.__name__.endswith("Notification") else "request")


# When hooks are called


def context_for(row: Method) -> MiddlewareContext[Any]:
    return message(row.name, row.kind, "incoming" if row.sender == "server" else "outgoing")


@each_method
async def test_a_message_meets_its_three_hooks_from_the_general_to_its_own(row: Method) -> None:
    log: list[str] = []
    everything = subclass(log, *GENERAL_HOOKS, *[other.hook for other in METHODS.values()])

    assert await send(context_for(row), everything()) == "result"

    assert log == ["on_message", f"on_{row.kind}", row.hook]


@pytest.mark.parametrize("kind", ["request", "notification"])
@pytest.mark.parametrize("direction", ["outgoing", "incoming"])
async def test_a_message_without_a_row_meets_the_general_hooks(kind: str, direction: str) -> None:
    log: list[str] = []
    everything = subclass(log, *GENERAL_HOOKS, *[row.hook for row in METHODS.values()])

    assert await send(message("acme/x", kind, direction), everything()) == "result"

    assert log == ["on_message", f"on_{kind}"]


async def test_a_hook_can_be_set_on_an_instance() -> None:
    log: list[str] = []
    middleware: Any = Middleware()
    middleware.on_call_tool = partial(log_and_pass, "mine", log)
    middleware.on_request = partial(log_and_pass, "request", log)

    await send(message("tools/call"), middleware)
    await send(message("tools/list"), middleware)

    assert log == ["request", "mine", "request"]


async def test_a_hook_of_an_instance_goes_before_that_of_its_class() -> None:
    log: list[str] = []
    middleware: Any = subclass(log, "on_call_tool")()
    middleware.on_call_tool = partial(log_and_pass, "mine", log)

    await send(message("tools/call"), middleware)

    assert log == ["mine"]


async def test_an_inherited_hook_is_called_and_an_override_can_ask_for_it() -> None:
    log: list[str] = []

    class Base(Middleware):
        async def on_request(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
            return await log_and_pass("on_request", log, context, call_next)

        async def on_call_tool(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
            return await log_and_pass("base", log, context, call_next)

    class Derived(Base):
        async def on_call_tool(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
            log.append("derived")
            return await super().on_call_tool(context, call_next)

    await send(message("tools/call"), Derived())

    assert log == ["on_request", "derived", "base"]


@pytest.mark.parametrize("name", [*GENERAL_HOOKS, *[row.hook for row in METHODS.values()]])
async def test_a_hook_passes_on_unless_it_is_overridden(name: str) -> None:
    context, result = message("acme/x"), object()

    async def rest(reached: MiddlewareContext, /) -> object:
        assert reached is context
        return result

    assert await getattr(Middleware(), name)(context, rest) is result


async def depth_around(*middlewares: AnyMiddleware) -> int:
    """How many frames are on the stack where a tool call reaches the end of the chain."""

    async def end(context: MiddlewareContext) -> int:
        # Not inspect.stack(), which reads the source files.
        return len(list(traceback.walk_stack(sys._getframe())))

    response = await MiddlewareManager(middlewares).process_request(message("acme/depth"), end)
    return int(response.result)


async def test_a_hook_that_nobody_overrode_costs_nothing() -> None:
    class OnlyTools(Middleware):
        async def on_call_tool(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
            raise NotImplementedError

    assert await depth_around(*[Middleware()] * 30, *[OnlyTools()] * 30) == await depth_around()


class Everything(Middleware):
    """Overrides `__call__`, which sees each message before the hooks do."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def __call__(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        self.log.append(f"> {context.kind}")
        result = await super().__call__(context, call_next)
        self.log.append("<")
        return result

    async def on_message(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await log_and_pass("on_message", self.log, context, call_next)

    async def on_call_tool(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await log_and_pass("on_call_tool", self.log, context, call_next)


async def test_a_subclass_that_overrides_call_sees_every_message_around_its_hooks() -> None:
    middleware = Everything()

    assert await send(message("tools/call"), middleware) == "result"
    assert await send(message("acme/x"), middleware) == "result"
    assert await send(message("notifications/progress", "notification"), middleware) == "result"

    assert middleware.log == [
        *["> request", "on_message", "on_call_tool", "<"],
        *["> request", "on_message", "<"],
        *["> notification", "on_message", "<"],
    ]


async def test_a_middleware_can_be_called_by_hand() -> None:
    log: list[str] = []
    context = message("tools/call")

    async def end(reached: MiddlewareContext) -> str:
        assert reached is context
        return "result"

    assert await subclass(log, "on_call_tool", "on_message", "on_request")()(context, end) == "result"
    assert log == ["on_message", "on_request", "on_call_tool"]
    assert await Middleware()(context, end) == "result"


# Hooks for methods that have none


class Acme(Middleware):
    def __init__(self) -> None:
        self.log: list[str] = []

    async def on_message(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await log_and_pass("on_message", self.log, context, call_next)

    @hook("acme/x")
    async def on_x(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await log_and_pass("Acme.on_x", self.log, context, call_next)

    @hook("notifications/acme/y")
    async def whatever_its_name(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await log_and_pass("Acme.y", self.log, context, call_next)


async def test_a_subclass_can_name_hooks_for_requests_and_notifications_nobody_here_has_heard_of() -> None:
    middleware = Acme()

    await send(message("acme/x"), middleware)
    await send(message("notifications/acme/y", "notification", "incoming"), middleware)
    await send(message("acme/z"), middleware)

    assert middleware.log == ["on_message", "Acme.on_x", "on_message", "Acme.y", "on_message"]


async def test_a_hook_for_a_vendors_method_is_inherited() -> None:
    class Derived(Acme):
        @hook("acme/z")
        async def on_z(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
            return await log_and_pass("Derived.on_z", self.log, context, call_next)

    middleware, other = Derived(), Acme()
    for method in ("acme/x", "acme/z"):
        await send(message(method), middleware, other)

    assert middleware.log == ["on_message", "Acme.on_x", "on_message", "Derived.on_z"]
    assert other.log == ["on_message", "Acme.on_x", "on_message"]


async def test_an_inherited_hook_for_a_vendors_method_can_be_overridden_by_name() -> None:
    class Derived(Acme):
        async def on_x(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
            return await log_and_pass("Derived.on_x", self.log, context, call_next)

    middleware = Derived()
    await send(message("acme/x"), middleware)

    assert middleware.log == ["on_message", "Derived.on_x"]


async def test_hooks_for_vendors_methods_are_inherited_from_every_base() -> None:
    class Other(Middleware):
        log: list[str]

        @hook("other/x")
        async def on_other(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
            return await log_and_pass("Other.on_other", self.log, context, call_next)

    class Both(Acme, Other):
        pass

    middleware = Both()
    await send(message("acme/x"), middleware)
    await send(message("other/x"), middleware)

    assert middleware.log == ["on_message", "Acme.on_x", "on_message", "Other.on_other"]


async def test_hooks_for_vendors_methods_are_inherited_from_a_mixin() -> None:
    class Mixin:
        log: list[str]

        @hook("mixin/x")
        async def on_mixin(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
            return await log_and_pass("Mixin.on_mixin", self.log, context, call_next)

    class Mixed(Mixin, Acme):
        pass

    middleware = Mixed()
    await send(message("mixin/x"), middleware)

    assert middleware.log == ["on_message", "Mixin.on_mixin"]


async def test_hooks_of_two_subclasses_do_not_mix() -> None:
    class Other(Middleware):
        @hook("acme/other")
        async def on_x(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
            raise NotImplementedError

    assert await send(message("acme/x"), Other()) == "result"


def test_a_method_that_has_a_hook_cannot_be_given_another() -> None:
    with pytest.raises(MiddlewareError) as caught:

        class Second(Middleware):  # pyright: ignore[reportUnusedClass] - making it is what fails
            @hook("tools/call")
            async def on_tool(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
                raise NotImplementedError

    assert str(caught.value).endswith(
        "Second.on_tool is marked as the hook of tools/call, which has one: override on_call_tool instead"
    )
    assert caught.value.method == "tools/call"
    assert getattr(caught.value.middleware, "__name__", None) == "Second"


def test_two_hooks_of_one_class_for_the_same_method_are_refused() -> None:
    with pytest.raises(MiddlewareError, match=r"Twice\.on_second .*acme/x.*on_first") as caught:

        class Twice(Middleware):  # pyright: ignore[reportUnusedClass] - making it is what fails
            @hook("acme/x")
            async def on_first(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
                raise NotImplementedError

            @hook("acme/x")
            async def on_second(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
                raise NotImplementedError

    assert caught.value.method == "acme/x"


async def test_a_subclass_may_give_a_vendors_method_another_hook() -> None:
    class Derived(Acme):
        @hook("acme/x")
        async def on_x_instead(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
            return await log_and_pass("Derived.on_x_instead", self.log, context, call_next)

    middleware = Derived()
    await send(message("acme/x"), middleware)

    assert middleware.log == ["on_message", "Derived.on_x_instead"]


def test_hook_without_a_method_is_refused() -> None:
    mark: Any = hook

    with pytest.raises(MiddlewareError, match=r'hook\("'):
        type("Forgetful", (Middleware,), {"on_x": mark(logging_hook("on_x", []))})


# Misspelt hooks


def test_a_misspelt_hook_warns_where_the_class_is_written() -> None:
    complaint = r"Typo\.on_call_tols is no hook and will not be called; did you mean on_call_tool\?"
    with pytest.warns(UserWarning, match=complaint) as caught:

        class Typo(Middleware):  # pyright: ignore[reportUnusedClass] - making it is what warns
            async def on_call_tols(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
                raise NotImplementedError

    assert [warning.filename for warning in caught] == [__file__]


def test_what_is_like_no_hook_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Fine(Middleware):  # pyright: ignore[reportUnusedClass] - making it is what would warn
            on_call_tols = None

            async def on_fire(self) -> None:
                raise NotImplementedError

            def on_call_toll(self) -> None:
                raise NotImplementedError

            async def call_tool(self) -> None:
                raise NotImplementedError

            @hook("acme/tool")
            async def on_call_tools(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
                raise NotImplementedError


def test_an_inherited_hook_for_a_vendors_method_is_not_taken_for_a_misspelt_one() -> None:
    class Vendor(Middleware):
        @hook("acme/tool")
        async def on_call_tools(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
            raise NotImplementedError

    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Derived(Vendor):  # pyright: ignore[reportUnusedClass] - making it is what would warn
            async def on_call_tools(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
                raise NotImplementedError


# Middlewares that were written for mcp-use's client


class Foreign:
    """In the shape of mcp-use's base class, which knows requests only and hands `call_next` on by name."""

    async def __call__(self, context: Any, call_next: Any) -> Any:
        handler = call_next
        own = {"tools/call": self.on_call_tool, "prompts/list": self.on_list_prompts}.get(context.method)
        if own is not None:
            handler = partial(own, call_next=handler)
        handler = partial(self.on_request, call_next=handler)
        return await handler(context)

    async def on_request(self, context: Any, call_next: Any) -> Any:
        return await call_next(context)

    async def on_call_tool(self, context: Any, call_next: Any) -> Any:
        return await call_next(context)

    async def on_list_prompts(self, context: Any, call_next: Any) -> Any:
        return await call_next(context)


class ForeignLogger(Foreign):
    def __init__(self) -> None:
        self.log: list[str] = []

    async def on_request(self, context: Any, call_next: Any) -> Any:
        self.log.append(f"on_request {context.method}")
        return await super().on_request(context, call_next)

    async def on_call_tool(self, context: Any, call_next: Any) -> Any:
        self.log.append(f"on_call_tool {context.params.name} {context.connection_id}")
        context.metadata["seen"] = True
        result = await call_next(context)
        self.log.append(f"content {result.content[0].text}")
        return result


async def test_a_middleware_written_for_mcp_use_runs_unchanged_and_sees_no_notification() -> None:
    log: list[str] = []
    foreign = ForeignLogger()
    native = subclass(log, "on_call_tool", "on_roots_list_changed")
    manager = MiddlewareManager([native(), foreign, native()])
    with anyio.fail_after(30):
        async with wire() as (streams, server), connect(streams, manager, connection_id="wire") as session:
            foreign.log.clear()
            with manager.capture() as exchanges:
                await session.call_tool("tool", {})
                await session.list_prompts()
                await session.send_notification(CHANGED)
                await server.wait_for("notifications/roots/list_changed")

    assert foreign.log == [
        "on_request tools/call",
        "on_call_tool tool wire",
        "content done",
        "on_request tools/list",
        "on_request prompts/list",
    ]
    assert log == ["on_call_tool", "on_call_tool", "on_roots_list_changed", "on_roots_list_changed"]
    assert exchanges[0].context.metadata == {"seen": True}


async def test_a_foreign_middleware_with_a_hook_for_notifications_sees_them() -> None:
    class Knows(ForeignLogger):
        async def on_notification(self, context: Any, call_next: Any) -> Any:
            raise NotImplementedError

    foreign = Knows()
    await send(message("notifications/progress", "notification"), foreign)

    assert foreign.log == ["on_request notifications/progress"]


async def test_a_foreign_middleware_can_answer_by_itself() -> None:
    class Knows(Foreign):
        async def on_call_tool(self, context: Any, call_next: Any) -> Any:
            return types.CallToolResult(content=[])

    assert await send(message("tools/call"), Knows()) == types.CallToolResult(content=[])
