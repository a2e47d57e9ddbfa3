"""Wrapping changes nothing but what a middleware changes: frames, results and errors are those of a bare session."""

# How users override methods is part of what is tested.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import gc
import json
import math
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from importlib import import_module
from inspect import isasyncgenfunction, iscoroutinefunction
from traceback import extract_tb
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union, cast, get_args, get_origin
from unittest.mock import AsyncMock, MagicMock

import anyio
import mcp.types
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from mcp import ClientSession
from mcp.shared.memory import create_client_server_memory_streams
from mcp.shared.message import ClientMessageMetadata
from pydantic import AnyUrl, BaseModel, TypeAdapter, ValidationError

from mcp_intercept import (
    CallbackClientSession,
    CallOptions,
    Middleware,
    MiddlewareContext,
    MiddlewareError,
    MiddlewareManager,
    NextFunctionT,
    hook,
    intercept,
)
from mcp_intercept.errors import SessionStateError, UnsupportedTargetError
from mcp_intercept.methods import METHODS
from tests.wire import LINE_1, RESULTS, Frame, WireServer, never, wire

if TYPE_CHECKING:
    from mcp.server.mcpserver import Context
else:
    from tests.server import Context

Server: Any = import_module("tests.server").Server

pytestmark = pytest.mark.anyio

T: Any = mcp.types
"""The models of the installed line; untyped, as the two lines differ."""

subscriptions: Any = None if LINE_1 else import_module("mcp.client.subscriptions")
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"
"""What each frame of a listen stream has in its `_meta`."""

Say = Callable[[Any], Awaitable[Any]]
"""What one test says with a session: `async (session) -> what came back`."""


def seconds(value: float) -> Any:
    """A timeout as the installed line takes it."""
    return timedelta(seconds=value) if LINE_1 else value


def uri(text: str) -> Any:
    return AnyUrl(text) if LINE_1 else text


def named(**values: Any) -> Any:
    """`_meta` as the installed line has it on a params model."""
    return T.RequestParams.Meta(**values) if LINE_1 else values


# ---------------------------------------------------------------------------------------------------------------------
# Layers that change nothing, and the ways to put them round a session.


async def through(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
    return await call_next(context)


async def _hook(self: Middleware, context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
    return await call_next(context)


Through: type[Middleware] = type(
    "Through", (Middleware,), {name: _hook for name in dir(Middleware) if name.startswith("on_")}
)
"""Every hook there is, and each passes on."""


def _by_itself(session: CallbackClientSession) -> tuple[Any, Any]:
    return session, session


def _observed(session: Any) -> tuple[Any, Any]:
    manager = MiddlewareManager()
    manager.add_observer(lambda context, response: None)
    return _by_itself(CallbackClientSession(session, "observed", manager))


def _through_the_one_between(session: Any) -> tuple[Any, Any]:
    between = intercept(session, through)
    return between, intercept(between, Through())


WRAPPINGS: Mapping[str, Callable[[Any], tuple[Any, Any]]] = {
    "no layer": lambda session: _by_itself(intercept(session)),
    "one function": lambda session: _by_itself(intercept(session, through)),
    "three functions": lambda session: _by_itself(intercept(session, through, through, through)),
    "every hook": lambda session: _by_itself(intercept(session, Through())),
    "every hook three times": lambda session: _by_itself(intercept(session, Through(), Through(), Through())),
    "only an observer": _observed,
    "entered inside": lambda session: (session, intercept(session, through, Through())),
    "twice": lambda session: _by_itself(intercept(intercept(session, through), Through())),
    "twice, entered between": _through_the_one_between,
    "twice, entered inside": lambda session: (session, intercept(intercept(session, through), Through())),
}
"""By name: `session -> (what to enter, what to use)`."""

THREE = "every hook three times"


@asynccontextmanager
async def speaking(
    wrapping: str | None = None, make: Callable[..., Any] = ClientSession, **options: Any
) -> AsyncGenerator[tuple[Any, WireServer], None]:
    """A running session, bare or wrapped, and the server at the other end of the wire."""
    async with wire() as (streams, server):
        session = make(*streams, **options)
        to_enter, to_use = WRAPPINGS[wrapping](session) if wrapping else (session, session)
        with anyio.fail_after(60):
            async with to_enter:
                yield to_use, server


def told(value: Any) -> Any:
    """What can be held against another value: type, wire form and which fields were set."""
    if isinstance(value, BaseModel):
        return type(value), value.model_dump(mode="json", by_alias=True), value.model_fields_set
    if isinstance(value, BaseException):
        error: Any = getattr(value, "error", None)
        facts = error and (error.code, error.message, error.data)
        began = [frame.name for frame in extract_tb(value.__traceback__)][-1:]
        origin = value.__cause__, type(value.__context__), value.__suppress_context__
        return type(value), facts, str(value), began, told(origin), [told(part) for part in parts(value)]
    if isinstance(value, (list, tuple)):
        return [told(part) for part in cast("list[Any]", value)]
    return value


def parts(error: BaseException) -> tuple[BaseException, ...]:
    return getattr(error, "exceptions", ())


async def outcome(say: Say, session: Any) -> Any:
    """What came back, be it a result or an error."""
    try:
        return told(await say(session))
    except Exception as error:
        return told(error)


async def unlike(bare: Any, do: Callable[[str | None], Awaitable[Any]]) -> dict[str, Any]:
    """What each wrapping made of `do` where that is not what the bare session did."""
    wrapped = {wrapping: await do(wrapping) for wrapping in WRAPPINGS}
    return {wrapping: {"got": got, "not": bare} for wrapping, got in wrapped.items() if got != bare}


def heard(server: WireServer) -> list[Frame]:
    """The frames that arrived; the numbers of listen streams count up through the whole process."""
    frames: list[Frame] = json.loads(re.sub(r'"listen-\d+"', '"listen-N"', json.dumps(server.frames)))
    return frames


# ---------------------------------------------------------------------------------------------------------------------
# Everything a session can say.


class FrobParams(T.RequestParams):  # type: ignore[misc]
    count: int
    note: str | None = None


class FrobRequest(T.Request[FrobParams, Literal["acme/frob"]]):  # type: ignore[misc]
    method: Literal["acme/frob"] = "acme/frob"
    params: FrobParams


class FrobResult(T.Result):  # type: ignore[misc]
    value: int


class DictRequest(T.Request[dict[str, Any] | None, Literal["acme/dict"]]):  # type: ignore[misc]
    method: Literal["acme/dict"] = "acme/dict"
    params: dict[str, Any] | None = None


class BareRequest(BaseModel):
    """No subclass of the SDK's, and without params: the SDK sends it all the same."""

    method: Literal["acme/bare"] = "acme/bare"
    name_param: ClassVar[str | None] = None


class TickParams(T.NotificationParams):  # type: ignore[misc]
    at: int


class TickNotification(T.Notification[TickParams, Literal["notifications/acme/tick"]]):  # type: ignore[misc]
    method: Literal["notifications/acme/tick"] = "notifications/acme/tick"
    params: TickParams


class DictNotification(T.Notification[dict[str, Any] | None, Literal["notifications/acme/dict"]]):  # type: ignore[misc]
    method: Literal["notifications/acme/dict"] = "notifications/acme/dict"
    params: dict[str, Any] | None = None


class EndNotification(T.Notification[TickParams | None, Literal["notifications/test/end"]]):  # type: ignore[misc]
    method: Literal["notifications/test/end"] = "notifications/test/end"
    params: TickParams | None = None


async def all_heard(session: Any, server: WireServer) -> list[Any]:
    """The frames that arrived, once everything sent so far has, and what the transport was told with each."""
    await session.send_notification(EndNotification())
    await server.wait_for("notifications/test/end")
    return [heard(server), server.metadata]


def request(message: Any) -> Any:
    """A request as the installed line wraps it."""
    return T.ClientRequest(message) if LINE_1 else message


def notification(message: Any) -> Any:
    return T.ClientNotification(message) if LINE_1 else message


class Progress:
    """A progress callback that says when it has heard enough, and what."""

    def __init__(self, count: int = 2) -> None:
        self.heard: list[Any] = []
        self._count = count
        self._enough = anyio.Event()

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        self.heard.append((progress, total, message))
        if len(self.heard) == self._count:
            self._enough.set()

    async def all(self) -> list[Any]:
        # Line 2 runs each callback in a task of its own.
        await self._enough.wait()
        return sorted(self.heard)


async def progress_of_call_tool(session: Any) -> Any:
    progress = Progress()
    result = await session.call_tool("tool", {"a": 1}, progress_callback=progress)
    return told(result), await progress.all()


async def progress_and_meta_of_call_tool(session: Any) -> Any:
    progress = Progress()
    result = await session.call_tool(
        "tool", read_timeout_seconds=seconds(9), progress_callback=progress, meta={"acme/user": "u"}
    )
    return told(result), await progress.all()


def page(cursor: str | None = "next") -> Any:
    return T.PaginatedRequestParams(cursor=cursor, _meta=named(page="p"))


COMPLETE = (T.PromptReference(type="ref/prompt", name="greet"), {"name": "who", "value": "W"})

CALLS: dict[str, Say] = {
    "initialize": lambda session: session.initialize(),
    "call_tool: name only": lambda session: session.call_tool("tool"),
    "call_tool: arguments": lambda session: session.call_tool("tool", {"a": 1, "deep": [{"b": None}, "ü"]}),
    "call_tool: meta": lambda session: session.call_tool("tool", {}, meta={"acme/user": "u"}),
    "call_tool: timeout": lambda session: session.call_tool("tool", {}, seconds(30)),
    "call_tool: progress": progress_of_call_tool,
    "call_tool: everything": progress_and_meta_of_call_tool,
    "list_tools": lambda session: session.list_tools(),
    "list_tools: params": lambda session: session.list_tools(params=page()),
    "list_tools: empty params": lambda session: session.list_tools(params=T.PaginatedRequestParams()),
    "list_prompts": lambda session: session.list_prompts(),
    "list_prompts: params": lambda session: session.list_prompts(params=page()),
    "list_resources": lambda session: session.list_resources(),
    "list_resources: params": lambda session: session.list_resources(params=page()),
    "list_resource_templates": lambda session: session.list_resource_templates(),
    "list_resource_templates: params": lambda session: session.list_resource_templates(params=page()),
    "read_resource": lambda session: session.read_resource(uri("memo://1")),
    "subscribe_resource": lambda session: session.subscribe_resource(uri("memo://1")),
    "unsubscribe_resource": lambda session: session.unsubscribe_resource(uri("memo://1")),
    "get_prompt": lambda session: session.get_prompt("greet", {"name": "World"}),
    "get_prompt: name only": lambda session: session.get_prompt("greet"),
    "complete": lambda session: session.complete(*COMPLETE),
    "complete: context": lambda session: session.complete(*COMPLETE, context_arguments={"x": "y"}),
    "set_logging_level": lambda session: session.set_logging_level("debug"),
    "send_ping": lambda session: session.send_ping(),
    "send_progress_notification": lambda session: session.send_progress_notification("token", 1, 2, "half"),
    "send_roots_list_changed": lambda session: session.send_roots_list_changed(),
    "send_request: vendor": lambda session: session.send_request(FrobRequest(params=FrobParams(count=1)), FrobResult),
    "send_request: everything by name": lambda session: session.send_request(
        request=FrobRequest(params=FrobParams(count=1, _meta=named(x=1))),
        result_type=FrobResult,
        request_read_timeout_seconds=seconds(30),
        metadata=ClientMessageMetadata(resumption_token="r"),
        progress_callback=Progress(),
    ),
    "send_request: a dict for params": lambda session: session.send_request(DictRequest(params={"a": 1}), FrobResult),
    "send_request: no params": lambda session: session.send_request(DictRequest(), FrobResult),
    "send_request: a class of its own": lambda session: session.send_request(BareRequest(), FrobResult),
    "send_notification: vendor": lambda session: session.send_notification(TickNotification(params=TickParams(at=1))),
    "send_notification: by name": lambda session: session.send_notification(
        notification=TickNotification(params=TickParams(at=1))
    ),
    "send_notification: wrapped": lambda session: session.send_notification(
        notification(T.RootsListChangedNotification())
    ),
}

if LINE_1:

    async def poll(session: Any) -> list[Any]:
        return [told(status) async for status in session.experimental.poll_task("t")]

    CALLS.update(
        {
            "list_tools: cursor": lambda session: session.list_tools("next"),
            "list_prompts: cursor": lambda session: session.list_prompts("next"),
            "list_resources: cursor": lambda session: session.list_resources("next"),
            "list_resource_templates: cursor": lambda session: session.list_resource_templates("next"),
            "send_notification: related": lambda session: session.send_notification(
                notification(T.RootsListChangedNotification()), 7
            ),
            "send_notification: related, by name": lambda session: session.send_notification(
                notification(T.RootsListChangedNotification()), related_request_id=7
            ),
            "call_tool_as_task": lambda session: session.experimental.call_tool_as_task(
                "tool", {"a": 1}, meta={"m": 1}
            ),
            "get_task": lambda session: session.experimental.get_task("t"),
            "get_task_result": lambda session: session.experimental.get_task_result("t", T.CallToolResult),
            "list_tasks": lambda session: session.experimental.list_tasks(),
            "list_tasks: cursor": lambda session: session.experimental.list_tasks("next"),
            "cancel_task": lambda session: session.experimental.cancel_task("t"),
            "poll_task": poll,
        }
    )
else:

    async def listen_for_one_event(session: Any) -> Any:
        async with subscriptions.listen(
            session, tools_list_changed=True, resource_subscriptions=["memo://1"]
        ) as subscription:
            return told(subscription.honored), [repr(event) async for event in subscription]

    CALLS.update(
        {
            "send_ping: meta": lambda session: session.send_ping(meta={"acme/user": "u"}),
            "set_logging_level: meta": lambda session: session.set_logging_level("debug", meta={"acme/user": "u"}),
            "get_prompt: meta": lambda session: session.get_prompt("greet", meta={"acme/user": "u"}),
            "read_resource: meta": lambda session: session.read_resource("memo://1", meta={"acme/user": "u"}),
            "subscribe_resource: meta": lambda session: session.subscribe_resource("memo://1", meta={"acme/user": "u"}),
            "unsubscribe_resource: meta": lambda session: session.unsubscribe_resource("memo://1", meta={"a": "u"}),
            "send_progress_notification: meta": lambda session: session.send_progress_notification(
                "t", 1, meta={"a": "u"}
            ),
            "call_tool: second round": lambda session: session.call_tool("tool", input_responses={}, request_state="s"),
            "call_tool: input required": lambda session: session.call_tool("asks", allow_input_required=True),
            "read_resource: input required": lambda session: session.read_resource(
                "ask://1", allow_input_required=True
            ),
            "validate_tool_result": lambda session: session.validate_tool_result("tool", T.CallToolResult(content=[])),
            "send_request: an adapter for the result": lambda session: session.send_request(
                FrobRequest(params=FrobParams(count=1)), TypeAdapter(cast("Any", FrobResult | T.EmptyResult))
            ),
            "discover": lambda session: session.discover(),
            "send_discover": lambda session: session.send_discover("2026-07-28"),
            "listen": listen_for_one_event,
        }
    )

MODERN = {"resultType": "complete"}
CACHED = {**MODERN, "ttlMs": 0, "cacheScope": "public"}


async def converse(server: WireServer, modern: bool) -> None:
    """Teach the server to answer whatever `CALLS` says."""
    task = {"taskId": "t", "status": "completed", "createdAt": DAY, "lastUpdatedAt": DAY, "ttl": 1, "pollInterval": 1}
    results: dict[str, Frame] = {
        **RESULTS,
        "acme/frob": {"value": 1, "extra": True},
        "acme/dict": {"value": 2},
        "acme/bare": {"value": 3},
        "tasks/get": task,
        "tasks/list": {"tasks": [task]},
        "tasks/cancel": task,
        "tasks/result": RESULTS["tools/call"],
    }

    async def answer(frame: Frame) -> Frame:
        method, params = frame["method"], frame.get("params", {})
        token = params.get("_meta", {}).get("progressToken")
        if token is not None and method == "tools/call":
            for step in (1, 2):
                progress = {"progressToken": token, "progress": step, "total": 2, "message": f"step {step}"}
                await server.notify("notifications/progress", progress)
        if "task" in params:
            return {"task": task}
        if modern and "ask" in str(params.get("name", params.get("uri"))):
            return {"resultType": "input_required", "requestState": "s"}
        result = results.get(method, {})
        extra = CACHED if method.endswith(("/list", "/read")) else MODERN
        return {**result, **extra} if modern and not method.startswith("acme/") else result

    async def stream(frame: Frame) -> Frame:
        stamp = {"_meta": {SUBSCRIPTION_ID: frame["id"]}}
        asked = frame["params"]["notifications"]
        await server.notify("notifications/subscriptions/acknowledged", {"notifications": asked, **stamp})
        await server.notify("notifications/resources/updated", {"uri": "memo://1", **stamp})
        return {**MODERN, **stamp}

    for method in (*METHODS, "acme/frob", "acme/dict", "acme/bare"):
        server.answers[method] = answer
    if not LINE_1:
        server.answers["subscriptions/listen"] = stream


ERAS = ["2025-11-25"] if LINE_1 else ["2025-11-25", "2026-07-28"]
# What only one era has, or what negotiates one.
ONLY = {"initialize": ERAS[:1], "discover": ERAS[1:], "send_discover": ERAS[1:], "listen": ERAS[1:]}
SAID = [pytest.param(era, name, id=f"{name} ({era})") for name in CALLS for era in ERAS if era in ONLY.get(name, ERAS)]


async def say_in(era: str, name: str, wrapping: str | None) -> tuple[Any, Any, Any]:
    """What came back, what went out, and what the session has learnt, of one call after the negotiation."""
    async with speaking(wrapping) as (session, server):
        await converse(server, modern=era == "2026-07-28")
        if name not in ("initialize", "discover"):
            await (session.initialize() if era == "2025-11-25" else session.discover())
        result = await outcome(CALLS[name], session)
        learnt = session.get_server_capabilities() if LINE_1 else session.server_capabilities
        return result, await all_heard(session, server), told(learnt)


def test_everything_that_a_session_can_say_is_compared() -> None:
    """A new method of the SDK's fails here until it is listed above."""
    classes: list[type] = [base for base in ClientSession.__mro__ if base.__module__.startswith("mcp.")]
    if LINE_1:
        classes.append(import_module("mcp.client.experimental.tasks").ExperimentalClientFeatures)
    public = {
        name
        for owner in classes
        for name, value in vars(owner).items()
        if not name.startswith("_") and (iscoroutinefunction(value) or isasyncgenfunction(value))
    }
    assert public - {name.partition(":")[0] for name in CALLS} == (set() if LINE_1 else {"dispatch_input_request"})


@pytest.mark.parametrize(("era", "name"), SAID)
async def test_frames_and_results_are_those_of_a_bare_session(era: str, name: str) -> None:
    bare = await say_in(era, name, None)
    assert await unlike(bare, lambda wrapping: say_in(era, name, wrapping)) == {}
    # Else nothing was compared.
    result, (frames, metadata), _ = bare
    assert not (isinstance(result, tuple) and issubclass(result[0], BaseException))
    assert len(frames) == len(metadata) > (1 if name in ("initialize", "discover") else 2)


@pytest.mark.parametrize(("era", "name"), SAID)
async def test_whatever_is_said_passes_the_chain(era: str, name: str) -> None:
    seen: list[str] = []

    async def note(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        if context.direction == "outgoing":
            seen.append(context.method)
        return await call_next(context)

    async with wire() as (streams, server):
        await converse(server, modern=era == "2026-07-28")
        inner = ClientSession(*streams)
        with anyio.fail_after(30):
            async with intercept(inner, note, through) as session:
                if name not in ("initialize", "discover"):
                    await CALLS["initialize" if era == "2025-11-25" else "discover"](session)
                await CALLS[name](session)
                await all_heard(session, server)
                assert seen == server.methods
                # What is said through the session inside does not, not even now.
                count = len(seen)
                await CALLS[name](inner)
                assert len(seen) == count


class Recorder(ClientSession):
    """Keeps what it sent and got, as objects, and who asked."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.requests: list[Any] = []
        self.results: list[Any] = []
        self.tasks: list[int] = []

    async def send_request(self, request: Any, *args: Any, **options: Any) -> Any:
        self.requests.append(request)
        self.tasks.append(anyio.get_current_task().id)
        result: Any = await super().send_request(request, *args, **options)
        self.results.append(result)
        return result


@pytest.mark.parametrize("wrapping", WRAPPINGS)
async def test_neither_request_nor_result_is_copied_and_the_call_stays_in_its_task(wrapping: str) -> None:
    async with speaking(wrapping, Recorder) as (session, server):
        await converse(server, modern=False)
        asked = FrobRequest(params=FrobParams(count=1))
        result = await session.send_request(asked, FrobResult)
        assert session.requests == [asked]
        assert session.requests[0] is asked
        assert session.results[0] is result
        assert session.tasks == [anyio.get_current_task().id]


class Notifier(ClientSession):
    """Keeps the notifications that it sent, as objects, and who asked."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.notified: list[tuple[Any, int]] = []

    async def send_notification(self, notification: Any, *args: Any, **options: Any) -> None:
        self.notified.append((notification, anyio.get_current_task().id))
        await super().send_notification(notification, *args, **options)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
async def test_a_notification_is_not_copied_and_stays_in_its_task(wrapping: str) -> None:
    async with speaking(wrapping, Notifier) as (session, _):
        tick = TickNotification(params=TickParams(at=1))
        await session.send_notification(tick)
        [(notified, task)] = session.notified
        assert notified is tick
        assert task == anyio.get_current_task().id


# ---------------------------------------------------------------------------------------------------------------------
# What the context says is what reaches the wire.


def message_class(method: str) -> Any:
    """The class of the messages of one method, or `None` where the installed line has none."""
    for value in vars(T).values():
        fields: Any = getattr(value, "model_fields", {}) if isinstance(value, type) else {}
        if "method" in fields and value.__name__.isidentifier() and get_args(fields["method"].annotation) == (method,):
            return value
    return None


def params_class(method: str) -> Any:
    return getattr(T, METHODS[method].params)


DAY = "2025-11-25T00:00:00Z"
INFO = {"name": "test", "version": "1"}

# Per method: the params that the caller gives, and those that a middleware wants instead.
EXAMPLES: dict[str, tuple[Frame, Frame]] = {
    "initialize": (
        {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": INFO},
        {"protocolVersion": "2025-06-18", "capabilities": {"roots": {"listChanged": True}}, "clientInfo": INFO},
    ),
    "tools/call": ({"name": "tool", "arguments": {"a": 1}}, {"name": "other", "arguments": {"a": [2], "b": None}}),
    "tools/list": ({"cursor": "1"}, {"cursor": "2"}),
    "resources/list": ({"cursor": "1"}, {"cursor": "2", "_meta": {"a": "b"}}),
    "resources/templates/list": ({"cursor": "1"}, {"cursor": "2"}),
    "resources/read": ({"uri": "memo://1"}, {"uri": "memo://2"}),
    "resources/subscribe": ({"uri": "memo://1"}, {"uri": "memo://2"}),
    "resources/unsubscribe": ({"uri": "memo://1"}, {"uri": "memo://2"}),
    "prompts/list": ({"cursor": "1"}, {"cursor": "2"}),
    "prompts/get": ({"name": "greet"}, {"name": "greet", "arguments": {"who": "you"}}),
    "completion/complete": (
        {"ref": {"type": "ref/prompt", "name": "a"}, "argument": {"name": "b", "value": "c"}},
        {"ref": {"type": "ref/resource", "uri": "memo://{a}"}, "argument": {"name": "d", "value": "e"}},
    ),
    "logging/setLevel": ({"level": "debug"}, {"level": "error"}),
    "ping": ({"_meta": {"a": "b"}}, {"_meta": {"c": {"d": 1}}}),
    "tasks/get": ({"taskId": "1"}, {"taskId": "2"}),
    "tasks/result": ({"taskId": "1"}, {"taskId": "2"}),
    "tasks/list": ({"cursor": "1"}, {"cursor": "2"}),
    "tasks/cancel": ({"taskId": "1"}, {"taskId": "2"}),
    "notifications/initialized": ({"_meta": {"a": "b"}}, {"_meta": {"c": "d"}}),
    "notifications/roots/list_changed": ({"_meta": {"a": "b"}}, {"_meta": {"c": "d"}}),
    "notifications/cancelled": ({"requestId": 99, "reason": "a"}, {"requestId": 98, "reason": "b"}),
    "notifications/progress": ({"progressToken": 1, "progress": 0.5}, {"progressToken": "b", "progress": 1.0}),
    "notifications/tasks/status": (
        {"taskId": "1", "status": "working", "ttl": 1, "createdAt": DAY, "lastUpdatedAt": DAY},
        {"taskId": "2", "status": "failed", "ttl": 2, "createdAt": DAY, "lastUpdatedAt": DAY},
    ),
}
RAW = {"server/discover", "subscriptions/listen"}
"""What line 2 sends in a way of its own; line 1 not at all."""

SENT = [method for method in EXAMPLES if message_class(method)]
ASKED = [method for method in SENT if METHODS[method].kind == "request"]
OPTIONAL = [method for method in SENT if METHODS[method].optional]


def test_every_method_that_a_client_sends_has_an_example() -> None:
    assert {row.name for row in METHODS.values() if row.sender != "server"} == {*EXAMPLES, *RAW}


def params_of(frame: Frame) -> Frame:
    """The params on the wire; mcp 2.0 sends an empty `_meta` where newer versions send none."""
    return {name: value for name, value in frame.get("params", {}).items() if not (name == "_meta" and value == {})}


async def send(session: Any, method: str, params: Any, **options: Any) -> None:
    """Send a message of a method, whatever its kind."""
    message = message_class(method)(params=params)
    row = METHODS[method]
    if row.kind == "notification":
        await session.send_notification(notification(message))
    else:
        await session.send_request(request(message), getattr(T, row.result or ""), **options)


Way = Callable[[MiddlewareContext[Any], Any], MiddlewareContext[Any]]


def in_place(context: MiddlewareContext[Any], params: Any) -> MiddlewareContext[Any]:
    for name in type(params).model_fields:
        setattr(context.params, name, getattr(params, name))
    return context


def assigned(context: MiddlewareContext[Any], params: Any) -> MiddlewareContext[Any]:
    context.params = params
    return context


def copied(context: MiddlewareContext[Any], params: Any) -> MiddlewareContext[Any]:
    return replace(context, params=params)


def changing(method: str, way: Way, params: Any) -> Any:
    """A layer that changes the messages of one method."""

    async def change(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        return await call_next(way(context, params) if context.method == method else context)

    return change


def hooking(method: str, layer: Any) -> Middleware:
    """A `Middleware` with `layer` for its hook of one method."""

    async def run(self: Middleware, context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        return await layer(context, call_next)

    return cast("Middleware", type("Hooked", (Middleware,), {METHODS[method].hook: run})())


@asynccontextmanager
async def wrapped(*layers: Any, **options: Any) -> AsyncGenerator[tuple[Any, WireServer], None]:
    """A running session behind `layers`, and its server, which answers everything."""
    async with wire() as (streams, server):
        await converse(server, modern=False)
        with anyio.fail_after(60):
            async with intercept(ClientSession(*streams, **options), *layers) as session:
                yield session, server


@pytest.mark.parametrize("inner", [(), (through, Through())], ids=["alone", "before others"])
@pytest.mark.parametrize("hooked", [False, True], ids=["function", "hook"])
@pytest.mark.parametrize("way", [in_place, assigned, copied])
@pytest.mark.parametrize("method", SENT)
async def test_changed_params_reach_the_wire(method: str, way: Way, hooked: bool, inner: Any) -> None:
    before, after = EXAMPLES[method]
    layer = changing(method, way, params_class(method).model_validate(after))
    async with wrapped(hooking(method, layer) if hooked else layer, *inner) as (session, server):
        await send(session, method, params_class(method).model_validate(before))
        assert params_of(await server.wait_for(method)) == after


@pytest.mark.parametrize("way", [assigned, copied])
@pytest.mark.parametrize("method", OPTIONAL)
async def test_params_can_be_given_to_a_message_without_and_taken_from_one_with(method: str, way: Way) -> None:
    _, after = EXAMPLES[method]
    params = params_class(method).model_validate(after)
    async with wrapped(changing(method, way, params)) as (session, server):
        await send(session, method, None)
        assert params_of(await server.wait_for(method)) == after
    async with wrapped(changing(method, way, None)) as (session, server):
        await send(session, method, params)
        assert params_of(await server.wait_for(method)) == {}


@pytest.mark.parametrize("method", SENT)
async def test_meta_that_a_middleware_adds_reaches_the_wire(method: str) -> None:
    before, _ = EXAMPLES[method]

    async def stamp(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        if context.method == method:
            meta_class = getattr(type(context.params), "Meta", dict)
            context.params.meta = meta_class(**{"acme/trace": "t", "n": 1})
        return await call_next(context)

    async with wrapped(stamp) as (session, server):
        await send(session, method, params_class(method).model_validate(before))
        frame = await server.wait_for(method)
        assert params_of(frame) == {**before, "_meta": {"acme/trace": "t", "n": 1}}


@pytest.mark.parametrize("method", ASKED)
async def test_a_shorter_timeout_fires_as_the_error_of_the_sdk(method: str) -> None:
    params = params_class(method).model_validate(EXAMPLES[method][0])

    async def hurry(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        assert context.options.timeout == 60
        context.options.timeout = 0.01
        return await call_next(context)

    async with speaking() as (bare, server):
        server.answers[method] = never
        expected = await outcome(
            partial(send, method=method, params=params, request_read_timeout_seconds=seconds(0.01)), bare
        )
    manager = MiddlewareManager([hurry])
    async with wrapped(manager) as (session, server):
        server.answers[method] = never
        with manager.capture() as exchanges:
            say: Say = partial(send, method=method, params=params, request_read_timeout_seconds=seconds(60))
            assert await outcome(say, session) == expected
        assert [exchange.response.outcome for exchange in exchanges] == ["timeout"]


async def test_a_longer_timeout_holds_against_that_of_the_session() -> None:
    async def patience(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        return await call_next(replace(context, options=CallOptions(timeout=60)))

    async with wrapped(patience, read_timeout_seconds=seconds(0.05)) as (session, server):
        asleep = anyio.Event()

        async def late(frame: Frame) -> Frame:
            # Longer than the session would wait; nothing but the clock can tell.
            with anyio.move_on_after(0.15):
                await asleep.wait()
            return RESULTS["tools/call"]

        server.answers["tools/call"] = late
        result = await session.send_request(*call_tool_request())
        assert result.content[0].text == "done"


def call_tool_request(**params: Any) -> tuple[Any, Any]:
    """A request of a tool, without the listing that the SDK's typed method adds."""
    return request(T.CallToolRequest(params=T.CallToolRequestParams(name="tool", **params))), T.CallToolResult


@pytest.mark.parametrize("value", ["soon", True, -1, math.nan, [1], timedelta(seconds=1)], ids=repr)
async def test_a_timeout_that_is_none_is_refused_before_anything_is_sent(value: Any) -> None:
    async def confuse(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        context.options.timeout = value
        return await call_next(context)

    async with wrapped(confuse) as (session, server):
        with pytest.raises(MiddlewareError, match="options.timeout of tools/call"):
            await session.call_tool("tool")
        assert server.frames == []


@pytest.mark.parametrize("value", [0.5, 5, 1e9, 1e15, 1e300, math.inf], ids=repr)
async def test_a_timeout_of_any_length_works(value: float) -> None:
    async def wait(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        context.options.timeout = value
        return await call_next(context)

    async with wrapped(wait) as (session, _):
        assert (await session.call_tool("tool")).content[0].text == "done"


@pytest.mark.parametrize("value", [{"name": "tool"}, "tool", object()], ids=["dict", "str", "object"])
async def test_params_that_are_no_model_are_refused_before_anything_is_sent(value: Any) -> None:
    async with wrapped(changing("tools/call", assigned, value)) as (session, server):
        with pytest.raises(MiddlewareError, match=r"context\.params of tools/call"):
            await session.call_tool("tool")
        assert server.frames == []


async def test_required_params_cannot_be_taken_away() -> None:
    async with wrapped(changing("tools/call", assigned, None)) as (session, server):
        with pytest.raises(MiddlewareError, match=r"context\.params of tools/call"):
            await session.call_tool("tool")
        assert server.frames == []


@pytest.mark.parametrize("given", [False, True], ids=["none before", "one before"])
async def test_a_progress_callback_can_be_set_replaced_and_taken_away(given: bool) -> None:
    callers, middlewares = Progress(), Progress()

    async def listen_in(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        if context.direction == "incoming":
            return await call_next(context)
        assert context.options.progress_callback is (callers if given else None)
        context.options.progress_callback = middlewares
        return await call_next(context)

    async def hush(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        return await call_next(replace(context, options=CallOptions()))

    callback = callers if given else None
    async with wrapped(listen_in) as (session, server):
        await session.send_request(*call_tool_request(), progress_callback=callback)
        assert await middlewares.all() == [(1, 2, "step 1"), (2, 2, "step 2")]
        frame = server.frames[0]
        assert frame["params"]["_meta"] == {"progressToken": frame["id"]}
    async with wrapped(hush) as (session, server):
        await session.send_request(*call_tool_request(), progress_callback=callback)
        assert "_meta" not in params_of(server.frames[0])
    assert callers.heard == []


async def test_headers_of_a_call_leave_the_frame_alone() -> None:
    async def ask(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        context.options.headers["x-acme"] = "1"
        return await call_next(context)

    async with speaking() as (bare, server):
        await converse(server, modern=False)
        await bare.call_tool("tool")
        expected, _ = await all_heard(bare, server)
    async with wrapped(ask) as (session, server):
        await session.call_tool("tool")
        heard, metadata = await all_heard(session, server)
        assert heard == expected
        # Line 2 has a place for them beside the frame, which is up to the transport.
        assert [getattr(each, "headers", None) for each in metadata if "x-acme" in str(each)] == (
            [] if LINE_1 else [{"x-acme": "1"}] * 2
        )


async def test_what_the_caller_gave_is_his_own_when_a_middleware_works_on_a_copy() -> None:
    params = page("mine")
    changed = params.model_copy(update={"cursor": "other"})
    async with wrapped(changing("tools/list", copied, changed)) as (session, server):
        await session.list_tools(params=params)
        assert server.frames[0]["params"]["cursor"] == "other"
        assert params == page("mine")


class Frobs(Middleware):
    """Counts one further, whatever the form of the params."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self.seen: list[str] = []

    async def on_message(self, context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        self.seen.append(context.method)
        return await call_next(context)

    @hook("acme/frob")
    async def frob(self, context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        return await call_next(self._way(context, FrobParams(count=2, note="new")))

    @hook("acme/dict")
    async def dicts(self, context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        if self._way is in_place:
            context.params["b"] = 2
            return await call_next(context)
        return await call_next(self._way(context, {**context.params, "b": 2}))

    @hook("notifications/acme/tick")
    async def tick(self, context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> None:
        await call_next(self._way(context, TickParams(at=2)))


@pytest.mark.parametrize("way", [in_place, assigned, copied])
async def test_messages_of_a_vendor_pass_the_chain_and_can_be_changed(way: Way) -> None:
    frobs = Frobs(way)
    async with wrapped(frobs) as (session, server):
        assert (await session.send_request(FrobRequest(params=FrobParams(count=1)), FrobResult)).value == 1
        await session.send_notification(TickNotification(params=TickParams(at=1)))
        await server.wait_for("notifications/acme/tick")
        assert [params_of(frame) for frame in server.frames] == [{"count": 2, "note": "new"}, {"at": 2}]
        assert frobs.seen == ["acme/frob", "notifications/acme/tick"]


@pytest.mark.parametrize("way", [in_place, assigned, copied])
async def test_a_dict_for_params_can_be_changed(way: Way) -> None:
    async with wrapped(Frobs(way)) as (session, server):
        assert (await session.send_request(DictRequest(params={"a": 1}), FrobResult)).value == 2
        assert params_of(server.frames[0]) == {"a": 1, "b": 2}


class AnyRequest(T.Request[dict[str, Any] | None, str]):  # type: ignore[misc]
    """One class for all methods of a vendor."""

    method: str
    params: dict[str, Any] | None = None


@pytest.mark.parametrize("way", [in_place, assigned, copied])
async def test_a_changed_request_keeps_its_class_and_its_method(way: Way) -> None:
    async with speaking(THREE, Recorder) as (session, server):
        await converse(server, modern=False)
        session.middleware_manager.add_middleware(Frobs(way))
        await session.send_request(AnyRequest(method="acme/dict", params={"a": 1}), FrobResult)
        assert [type(each) for each in session.requests] == [AnyRequest]
        assert (server.frames[0]["method"], params_of(server.frames[0])) == ("acme/dict", {"a": 1, "b": 2})


async def test_a_dict_for_params_can_be_given_to_a_message_without() -> None:
    async def give(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        return await call_next(replace(context, params={"b": 2}))

    async with wrapped(give) as (session, server):
        assert (await session.send_request(DictRequest(), FrobResult)).value == 2
        assert params_of(server.frames[0]) == {"b": 2}


async def test_a_request_class_without_params_passes_the_chain() -> None:
    frobs = Frobs(in_place)
    async with wrapped(frobs) as (session, _):
        assert (await session.send_request(BareRequest(), FrobResult)).value == 3
        assert frobs.seen == ["acme/bare"]


if not LINE_1:
    from mcp import MCPError

    @asynccontextmanager
    async def modern(*layers: Any) -> AsyncGenerator[tuple[Any, WireServer], None]:
        """A running session of protocol 2026-07-28 behind `layers`, and its server."""
        async with wire() as (streams, server):
            await converse(server, modern=True)
            with anyio.fail_after(60):
                async with intercept(ClientSession(*streams), *layers) as session:
                    await session.discover()
                    yield session, server

    ANSWERS: dict[str, Frame] = {
        "keys nobody knows": {"acme/unknown": [1, True, None], "_meta": {"a": {"b": 1}}},
        "a negative time to live": {"ttlMs": -5},
        "a shape that is wrong": {"capabilities": "many"},
        "versions that nobody has": {"supportedVersions": ["1999-01-01"]},
    }

    @pytest.mark.parametrize("name", ["discover", "send_discover"])
    @pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
    async def test_what_a_server_says_of_itself_reaches_the_sdk_as_it_came(answer: Frame, name: str) -> None:
        async def ask(wrapping: str | None) -> Any:
            async with speaking(wrapping) as (session, server):
                answering("server/discover", {**RESULTS["server/discover"], **answer})(server)
                return await outcome(CALLS[name], session), session.protocol_version, told(session.server_capabilities)

        assert await unlike(await ask(None), ask) == {}

    @pytest.mark.parametrize("code", [-32601, -32022])
    @pytest.mark.parametrize("data", [None, {"supported": ["1999-01-01"]}, {"supported": ["2026-07-28"]}], ids=str)
    async def test_what_a_server_that_refuses_discovery_says_reaches_the_sdk(code: int, data: Any) -> None:
        async def ask(wrapping: str | None) -> Any:
            async with speaking(wrapping) as (session, server):
                refusing(code, {**data, "requested": "2026-07-28"} if data else None, "server/discover")(server)
                return await outcome(CALLS["discover"], session), await all_heard(session, server)

        assert await unlike(await ask(None), ask) == {}

    async def test_a_session_without_streams_works_as_well() -> None:
        from mcp.shared.direct_dispatcher import create_direct_dispatcher_pair

        async def talk(wrapping: str | None) -> Any:
            asked: list[Any] = []

            async def on_request(context: Any, method: str, params: Any) -> Frame:
                asked.append((method, params))
                return dict(RESULTS.get(method, {}))

            async def on_notify(context: Any, method: str, params: Any) -> None:
                asked.append((method, params))

            said: list[Any] = []
            client, served = create_direct_dispatcher_pair()
            inner = ClientSession(dispatcher=client)
            to_enter, session = WRAPPINGS[wrapping](inner) if wrapping else (inner, inner)
            with anyio.fail_after(30):
                async with anyio.create_task_group() as tasks:
                    await tasks.start(served.run, on_request, on_notify)
                    async with to_enter:
                        said.append(await outcome(CALLS["initialize"], session))
                        said.append(await outcome(CALLS["call_tool: meta"], session))
                    tasks.cancel_scope.cancel()
            return said, asked

        bare = await talk(None)
        assert len(bare[1]) == 4
        assert await unlike(bare, talk) == {}

    @pytest.mark.parametrize("way", [in_place, assigned, copied])
    async def test_a_changed_filter_of_a_listen_stream_reaches_the_wire(way: Way) -> None:
        wanted = {"promptsListChanged": True, "resourceSubscriptions": ["memo://2"]}

        async def change(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
            params = context.params.model_copy(deep=True)
            params.notifications = T.SubscriptionFilter.model_validate(wanted)
            return await call_next(way(context, params))

        async with modern(hooking("subscriptions/listen", change)) as (session, server):
            async with subscriptions.listen(session, tools_list_changed=True) as subscription:
                assert told(subscription.honored)[1]["resourceSubscriptions"] == ["memo://2"]
                assert len([event async for event in subscription]) == 1
            frame = await server.wait_for("subscriptions/listen")
            assert frame["params"]["notifications"] == wanted
            # What the SDK stamped is still there.
            assert set(frame["params"]["_meta"]) == set(server.frames[0]["params"]["_meta"])

    @pytest.mark.parametrize("method", sorted(RAW))
    async def test_meta_added_to_what_bypasses_send_request_reaches_the_wire(method: str) -> None:
        async def stamp(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
            context.params.meta["acme/trace"] = "t"
            return await call_next(context)

        async with modern(hooking(method, stamp)) as (session, server):
            async with subscriptions.listen(session, tools_list_changed=True) as subscription:
                assert [event async for event in subscription] == []
            assert (await server.wait_for(method))["params"]["_meta"]["acme/trace"] == "t"

    async def test_a_change_that_python_takes_for_equal_still_reaches_the_wire() -> None:
        async def stamp(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
            assert context.params.meta["acme/flag"] is True
            context.params.meta["acme/flag"] = 1
            return await call_next(context)

        async with wire() as (streams, server):
            await converse(server, modern=True)
            with anyio.fail_after(30):
                async with intercept(ClientSession(*streams), hooking("server/discover", stamp)) as session:
                    params = {"_meta": {"acme/flag": True}}
                    dispatcher: Any = session._dispatcher  # pyright: ignore[reportPrivateUsage]
                    await dispatcher.send_raw_request("server/discover", params)
            assert json.dumps(server.frames[0]["params"]["_meta"]["acme/flag"]) == "1"

    @pytest.mark.parametrize("method", sorted(RAW))
    async def test_a_timeout_set_for_what_bypasses_send_request_fires(method: str) -> None:
        async def hurry(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
            context.options.timeout = 0.01
            return await call_next(context)

        async with modern(hooking("subscriptions/listen", hurry)) as (session, server):
            server.answers["subscriptions/listen"] = never
            with pytest.raises(MCPError) as caught:
                async with subscriptions.listen(session, tools_list_changed=True):
                    pass
            assert caught.value.code == T.REQUEST_TIMEOUT

    async def test_progress_of_what_bypasses_send_request_is_heard() -> None:
        progress = Progress(1)

        async def listen_in(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
            context.options.progress_callback = progress
            return await call_next(context)

        async with modern(hooking("subscriptions/listen", listen_in)) as (session, server):
            async with subscriptions.listen(session, tools_list_changed=True) as subscription:
                assert [event async for event in subscription] == []
            frame = await server.wait_for("subscriptions/listen")
            assert frame["params"]["_meta"].get("progressToken") == frame["id"]

    @pytest.mark.parametrize("error", [ValueError, PermissionError, MiddlewareError], ids=lambda error: error.__name__)
    async def test_a_middleware_that_forbids_a_listen_stream_does_not_end_the_session(error: type[Exception]) -> None:
        async def forbid(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
            raise error("no listening here")

        async with modern(hooking("subscriptions/listen", forbid)) as (session, server):
            with pytest.raises((MCPError, subscriptions.SubscriptionLost, error), match="no listening here"):
                async with subscriptions.listen(session, tools_list_changed=True):
                    pytest.fail("it listens")
            await session.send_ping()
            assert server.sent("subscriptions/listen") == []


# ---------------------------------------------------------------------------------------------------------------------
# The law behind it: a message rebuilt from its context is the message.

TEXTS = st.text(st.characters(codec="utf-8"), max_size=6)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
)
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2), max_leaves=4
)
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    Any: JSON,
    object: JSON,
    str: TEXTS,
    int: st.integers(-(2**40), 2**40),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    type(None): st.none(),
    datetime: st.datetimes().map(datetime.isoformat),
    AnyUrl: st.sampled_from(["memo://1", "https://example.org/a?b=c"]),
}


def wire_values(annotation: Any) -> st.SearchStrategy[Any]:
    """Values as they are on the wire of what a field is annotated with."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return wire_models(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return wire_values(arguments[0])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, UnionType):
        return st.one_of([wire_values(argument) for argument in arguments])
    if origin is list:
        return st.lists(wire_values(arguments[0]), max_size=2)
    if origin is dict:
        return st.dictionaries(TEXTS, wire_values(arguments[1]), max_size=2)
    return PLAIN.get(annotation, JSON)


def wire_models(model: type[BaseModel]) -> st.SearchStrategy[Frame]:
    required: dict[str, Any] = {}
    optional: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        fields = required if field.is_required() else optional
        values = st.dictionaries(TEXTS, JSON, max_size=2) if name == "meta" else wire_values(field.annotation)
        fields[field.alias or name] = values
    return st.fixed_dictionaries(required, optional=optional)


def rebuilt(context: MiddlewareContext[Any], way: Way) -> MiddlewareContext[Any]:
    return context if context.params is None else way(context, context.params.model_copy(deep=True))


@pytest.mark.parametrize("way", [assigned, copied])
@pytest.mark.parametrize("method", SENT)
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(data=st.data())
def test_a_message_rebuilt_from_its_context_is_the_same_frame(method: str, way: Way, data: st.DataObject) -> None:
    model = params_class(method)
    values = st.none() | wire_models(model) if METHODS[method].optional else wire_models(model)
    wanted = data.draw(values)
    try:
        params = None if wanted is None else model.model_validate(wanted)
    except ValidationError:
        assume(False)

    async def rebuild(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        return await call_next(rebuilt(context, way))

    async def frames(*layers: Any) -> list[Frame]:
        async with wire() as (streams, server):
            await converse(server, modern=False)
            inner = ClientSession(*streams)
            with anyio.fail_after(60):
                async with intercept(inner, *layers) if layers else inner as session:
                    await outcome(partial(send, method=method, params=params), session)
                    await server.wait_for(method)
                    return server.frames

    assert anyio.run(partial(frames, rebuild)) == anyio.run(frames)


# ---------------------------------------------------------------------------------------------------------------------
# Classes of the user's own.


class Mine(ClientSession):
    """Overrides one of everything."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.log: list[str] = []

    async def __aenter__(self) -> Any:
        self.log.append("enter")
        return await super().__aenter__()

    async def initialize(self) -> Any:
        self.log.append("initialize")
        return await super().initialize()

    async def call_tool(self, name: str, *args: Any, **options: Any) -> Any:
        self.log.append(f"call {name}")
        return await super().call_tool(f"my-{name}", *args, **options)

    async def send_request(self, request: Any, *args: Any, **options: Any) -> Any:
        self.log.append("request")
        return await super().send_request(request, *args, **options)

    async def send_notification(self, *args: Any, **options: Any) -> None:
        self.log.append("notification")
        await super().send_notification(*args, **options)


class ByName(ClientSession):
    """Hands on by name, as the SDK's own typed methods call it."""

    async def send_request(self, request: Any, result_type: Any, **options: Any) -> Any:  # type: ignore[override]
        return await super().send_request(request, result_type, **options)


class InAHurry(ClientSession):
    """Has a timeout of its own for whoever gave none."""

    async def send_request(self, *args: Any, **options: Any) -> Any:
        if options.get("request_read_timeout_seconds") is None:
            options["request_read_timeout_seconds"] = seconds(30)
        return await super().send_request(*args, **options)


class OnlyByName(ClientSession):
    """Takes its options by name only."""

    async def send_request(  # type: ignore[override]
        self,
        request: Any,
        result_type: Any,
        *,
        request_read_timeout_seconds: Any = None,
        metadata: Any = None,
        progress_callback: Any = None,
    ) -> Any:
        return await super().send_request(
            request, result_type, request_read_timeout_seconds, metadata, progress_callback
        )


class Narrow(ClientSession):
    """Knows only what the typed methods of its program use."""

    async def send_request(  # type: ignore[override]
        self, request: Any, result_type: Any, request_read_timeout_seconds: Any = None, progress_callback: Any = None
    ) -> Any:
        return await super().send_request(
            request,
            result_type,
            request_read_timeout_seconds=request_read_timeout_seconds,
            progress_callback=progress_callback,
        )


class Stateful(ClientSession):
    """Keeps notes under names that a wrapper might want for itself."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.entered = "not yet"
        self.closed = "no"

    async def initialize(self) -> Any:
        self.entered = "yes"
        assert (self.entered, self.closed) == ("yes", "no")
        return await super().initialize()


class Equal(ClientSession):
    """Compares by value, which makes it unhashable."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal)


class EmptySlots(ClientSession):
    __slots__ = ()


@pytest.mark.parametrize("make", [Mine, ByName, InAHurry, OnlyByName, Narrow, Stateful, Equal, EmptySlots])
async def test_overrides_of_a_subclass_stay_in_force(make: Any) -> None:
    async def talk(wrapping: str | None) -> Any:
        async with speaking(wrapping, make) as (session, server):
            await converse(server, modern=False)
            said = [
                await outcome(CALLS[name], session) for name in ("initialize", "call_tool: everything", "list_tools")
            ]
            isinstances = isinstance(session, ClientSession), isinstance(session, make)
            return said, isinstances, await all_heard(session, server), getattr(session, "log", None)

    bare = await talk(None)
    assert await unlike(bare, talk) == {}


@pytest.mark.parametrize(
    "wrapping", [wrapping for wrapping in WRAPPINGS if wrapping not in ("no layer", "only an observer")]
)
async def test_the_chain_runs_between_an_overridden_typed_method_and_an_overridden_send_request(wrapping: str) -> None:
    async with speaking(wrapping, Mine) as (session, server):
        await converse(server, modern=False)

        async def note(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
            session.log.append(f"chain {context.method} {getattr(context.params, 'name', '')}")
            return await call_next(context)

        session.middleware_manager.add_middleware(note)
        session.log.clear()
        await session.call_tool("tool")
        assert session.log == ["call tool", "chain tools/call my-tool", "request", "chain tools/list ", "request"]


@pytest.mark.parametrize("wrapping", WRAPPINGS)
async def test_a_send_request_patched_on_the_instance_stays_in_force_below_the_chain(wrapping: str) -> None:
    log: list[str] = []

    def make(*streams: Any) -> ClientSession:
        session = ClientSession(*streams)
        original = session.send_request

        async def patched(request: Any, *args: Any, **options: Any) -> Any:
            log.append("patch")
            return await original(request, *args, **options)

        session.send_request = patched  # type: ignore[method-assign]
        return session

    async def note(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        log.append("chain")
        return await call_next(context)

    async with speaking(wrapping, make) as (session, _):
        session.middleware_manager.add_middleware(note)
        await session.send_ping()
        assert log == ["chain", "patch"]


async def test_a_send_request_patched_on_the_wrapper_runs_round_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    async def note(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        log.append("chain")
        return await call_next(context)

    async with wrapped(note) as (session, server):
        original = session.send_request

        async def patched(request: Any, *args: Any, **options: Any) -> Any:
            log.append("patch")
            assert len(log) < 9, "it calls itself"
            return await original(request, *args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(session, "send_request", patched)
            await session.send_ping()
            assert log == ["patch", "chain"]
        await session.send_ping()
        assert log == ["patch", "chain", "chain"]
        assert server.methods == ["ping", "ping"]


class MyWrapper(CallbackClientSession):
    """A wrapper that somebody builds upon."""

    __slots__ = ("count",)

    count: int

    async def send_request(self, *args: Any, **options: Any) -> Any:
        self.count = getattr(self, "count", 0) + 1
        return await super().send_request(*args, **options)

    async def call_tool(self, name: str, *args: Any, **options: Any) -> Any:
        return await super().call_tool(f"wrapped-{name}", *args, **options)


@pytest.mark.parametrize("make", [ClientSession, Mine])
async def test_a_wrapper_can_be_built_upon(make: Any) -> None:
    frobs = Frobs(in_place)
    async with wire() as (streams, server):
        with anyio.fail_after(30):
            async with MyWrapper(make(*streams), "mine", MiddlewareManager([frobs])) as session:
                assert isinstance(session, MyWrapper)
                assert isinstance(session, make)
                await session.call_tool("tool")
                assert session.count == 2
        assert frobs.seen == ["tools/call", "tools/list"]
        name = "wrapped-tool" if make is ClientSession else "my-wrapped-tool"
        assert server.frames[0]["params"]["name"] == name


class Slotted(ClientSession):
    __slots__ = ("extra",)


async def test_a_subclass_with_slots_is_refused_clearly() -> None:
    async with wire() as (streams, _):
        session = Slotted(*streams)
        with pytest.raises(UnsupportedTargetError, match="Slotted: .*__slots__") as caught:
            intercept(session, through)
        assert caught.value.target is Slotted


def unspecced() -> Any:
    return MagicMock()


def mock_of_a_session() -> Any:
    return MagicMock(spec=ClientSession)


def async_mock_of_a_session() -> Any:
    return AsyncMock(spec=ClientSession)


@pytest.mark.parametrize(
    "make",
    [
        object,
        lambda: None,
        lambda: "session",
        lambda: ClientSession,
        unspecced,
        mock_of_a_session,
        async_mock_of_a_session,
    ],
    ids=["object", "None", "str", "the class", "MagicMock", "MagicMock of a session", "AsyncMock of a session"],
)
async def test_what_is_no_session_is_refused(make: Any) -> None:
    target = make()
    with pytest.raises(UnsupportedTargetError, match="cannot wrap") as caught:
        intercept(target, through)
    assert caught.value.target is target


@pytest.mark.parametrize("connector_id", [None, 7, b"x"])
async def test_a_connector_id_that_is_no_str_is_refused(connector_id: Any) -> None:
    async with wire() as (streams, _):
        with pytest.raises(UnsupportedTargetError, match="connector_id must be a str"):
            CallbackClientSession(ClientSession(*streams), connector_id, MiddlewareManager())


@pytest.mark.parametrize("manager", [None, [], [through], through, MiddlewareManager])
async def test_a_manager_that_is_none_is_refused(manager: Any) -> None:
    async with wire() as (streams, _):
        with pytest.raises(UnsupportedTargetError, match="middleware_manager must be a MiddlewareManager"):
            CallbackClientSession(ClientSession(*streams), "id", manager)


# ---------------------------------------------------------------------------------------------------------------------
# Entering and leaving.


@asynccontextmanager
async def unentered() -> AsyncGenerator[tuple[ClientSession, CallbackClientSession, WireServer], None]:
    async with wire() as (streams, server):
        inner = ClientSession(*streams)
        with anyio.fail_after(30):
            yield inner, intercept(inner, through), server


async def test_both_work_whichever_was_entered() -> None:
    async with unentered() as (inner, session, server), session:
        assert [type(await each.send_ping()) for each in (inner, session)] == [T.EmptyResult] * 2
    async with unentered() as (inner, session, server), inner:
        assert [type(await each.send_ping()) for each in (inner, session)] == [T.EmptyResult] * 2
        assert server.methods == ["ping", "ping"]


async def test_entering_gives_the_wrapper() -> None:
    async with unentered() as (_, session, _server), session as entered:
        assert entered is session
        await entered.send_ping()


async def test_a_wrapper_cannot_be_entered_after_the_session_inside() -> None:
    async with unentered() as (inner, session, _), inner:
        with pytest.raises(SessionStateError, match="enter only one"):
            await session.__aenter__()
        await session.send_ping()


async def test_a_wrapper_cannot_be_entered_twice() -> None:
    async with unentered() as (_, session, _server), session:
        with pytest.raises(SessionStateError, match="enter only one"):
            await session.__aenter__()
        await session.send_ping()


async def test_a_wrapper_cannot_be_entered_again_after_it_was_left() -> None:
    async with unentered() as (_, session, _server):
        async with session:
            pass
        with pytest.raises(SessionStateError, match="enter only one"):
            await session.__aenter__()


async def test_neither_of_two_wrappers_can_be_entered_after_the_other() -> None:
    async with unentered() as (inner, session, _server):
        other = intercept(inner, Through())
        async with session:
            with pytest.raises(SessionStateError, match="enter only one"):
                await other.__aenter__()
            await other.send_ping()


async def test_entering_the_session_inside_as_well_is_refused_at_the_next_call() -> None:
    async with unentered() as (inner, session, server), session:
        group = inner.__dict__["_task_group"]
        async with inner:
            with pytest.raises(SessionStateError, match="entered as well"):
                await session.send_ping()
        # So that it can be left in order.
        inner.__dict__["_task_group"] = group
        assert server.frames == []


@pytest.mark.parametrize(
    "name",
    [
        "initialize",
        "send_ping",
        "call_tool: meta",
        "list_tools",
        "send_request: vendor",
        *([] if LINE_1 else ["discover"]),
    ],
)
async def test_a_request_before_entering_is_refused_clearly(name: str) -> None:
    async with unentered() as (_, session, server):
        with pytest.raises(SessionStateError, match="is not entered"):
            await CALLS[name](session)
        await checkpoint()
        assert server.frames == []
        # And nothing is spoilt.
        async with session:
            await session.send_ping()


async def test_a_notification_before_entering_is_sent_as_by_a_bare_session() -> None:
    async with unentered() as (inner, session, server):
        await inner.send_notification(notification(T.RootsListChangedNotification()))
        await session.send_notification(notification(T.RootsListChangedNotification()))
        await server.wait_for("notifications/roots/list_changed", 2)
        assert server.frames[0] == server.frames[1]


@pytest.mark.parametrize("name", ["send_ping", "call_tool: meta", "send_notification: vendor", "initialize"])
async def test_after_leaving_everything_ends_as_on_a_bare_session(name: str) -> None:
    async def late(wrapping: str | None) -> Any:
        async with wire() as (streams, _):
            inner = ClientSession(*streams)
            to_enter, session = WRAPPINGS[wrapping](inner) if wrapping else (inner, inner)
            with anyio.fail_after(30):
                async with to_enter:
                    pass
                return await outcome(CALLS[name], session)

    bare = await late(None)
    assert await unlike(bare, late) == {}


async def test_a_session_outlives_a_wrapper_that_was_thrown_away() -> None:
    async with wire() as (streams, server):
        inner = ClientSession(*streams)
        with anyio.fail_after(30):
            async with inner:
                for _ in range(3):
                    await intercept(inner, through).send_ping()
                gc.collect()
                assert type(await inner.send_ping()) is T.EmptyResult
        assert server.methods == ["ping"] * 4


async def test_a_session_can_be_wrapped_outside_of_any_event_loop() -> None:
    made: list[Any] = []

    async def make() -> None:
        async with wire() as (streams, _):
            made.append(ClientSession(*streams))

    await make()
    await anyio.to_thread.run_sync(lambda: made.append(intercept(made[0], through)))
    assert isinstance(made[1], ClientSession)


async def test_an_error_in_the_body_leaves_as_it_would_a_bare_session() -> None:
    async def break_off(wrapping: str | None) -> Any:
        try:
            async with speaking(wrapping):
                raise KeyError("in the body")
        except BaseException as error:
            return type(error), [type(part) for part in parts(error)]

    bare = await break_off(None)
    assert await unlike(bare, break_off) == {}


# ---------------------------------------------------------------------------------------------------------------------
# What the server asks.


async def sample(context: Any, params: Any) -> Any:
    return T.CreateMessageResult(role="assistant", content=T.TextContent(type="text", text="sampled"), model="m")


async def elicit(context: Any, params: Any) -> Any:
    return T.ElicitResult(action="accept", content={"name": "elicited"})


async def roots(context: Any) -> Any:
    return T.ListRootsResult(roots=[T.Root(uri="file:///root")])


CALLBACKS: dict[str, Any] = {"sampling_callback": sample, "elicitation_callback": elicit, "list_roots_callback": roots}


@pytest.mark.parametrize(
    "names", [(), *[(name,) for name in CALLBACKS], tuple(CALLBACKS)], ids=lambda names: ",".join(names) or "none"
)
async def test_the_capabilities_advertised_are_those_of_a_bare_session(names: tuple[str, ...]) -> None:
    async def advertised(wrapping: str | None) -> Any:
        options = {name: CALLBACKS[name] for name in names}
        async with speaking(wrapping, client_info=T.Implementation(name="me", version="2"), **options) as (
            session,
            server,
        ):
            await session.initialize()
            return server.frames[0]

    bare = await advertised(None)
    assert await unlike(bare, advertised) == {}
    assert set(bare["params"]["capabilities"]) == {
        {"sampling_callback": "sampling", "elicitation_callback": "elicitation"}.get(name, "roots") for name in names
    }


class Form(BaseModel):
    name: str


def asking_server() -> Any:
    """A real server whose tool asks the client for all there is."""
    server: Any = Server("asking", log_level="ERROR")

    async def ask(ctx: Context) -> str:
        """Ask."""
        elicited: Any = await ctx.elicit("Who?", Form)
        message = T.SamplingMessage(role="user", content=T.TextContent(type="text", text="Hi"))
        session: Any = ctx.session
        sampled = await session.create_message(messages=[message], max_tokens=1)
        listed = await session.list_roots()
        await ctx.report_progress(1, 2, "asked")
        return f"{elicited.data.name} {sampled.content.text} {listed.roots[0].uri}"

    server.tool()(ask)
    return getattr(server, "_mcp_server", None) or server._lowlevel_server


@asynccontextmanager
async def asked(wrapping: str | None, **callbacks: Any) -> AsyncGenerator[tuple[Any, Any], None]:
    """What was entered and what is used of a session with the real server."""
    low = asking_server()
    async with create_client_server_memory_streams() as (client, served), anyio.create_task_group() as tasks:
        tasks.start_soon(low.run, *served, low.create_initialization_options())
        inner: Any = ClientSession(*client, **callbacks)
        to_enter, session = WRAPPINGS[wrapping](inner) if wrapping else (inner, inner)
        with anyio.fail_after(60):
            async with to_enter:
                await session.initialize()
                yield to_enter, session
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("wrapping", WRAPPINGS)
async def test_elicitation_sampling_and_roots_work_inside_a_call(wrapping: str) -> None:
    seen: list[Any] = []
    log: list[Any] = []

    def noting(callback: Any) -> Any:
        async def note(context: Any, *params: Any) -> Any:
            seen.append(context.session)
            return await callback(context, *params)

        return note

    async def collect(message: Any) -> None:
        log.append(type(message))

    callbacks = {name: noting(callback) for name, callback in CALLBACKS.items()}
    progress = Progress(1)
    async with asked(wrapping, **callbacks, message_handler=collect) as (entered, session):
        result = await session.call_tool("ask", progress_callback=progress)
        assert result.content[0].text == "elicited sampled file:///root"
        assert await progress.all() == [(1, 2, "asked")]
        assert len(seen) == 3
        assert all(each is entered for each in seen)
    async with asked(None, **CALLBACKS, message_handler=collect) as (_, bare):
        heard_wrapped = log.copy()
        log.clear()
        await bare.call_tool("ask", progress_callback=Progress(1))
        assert log == heard_wrapped


async def test_what_no_callback_answers_is_declined_as_by_a_bare_session() -> None:
    async def declined(wrapping: str | None) -> Any:
        async with asked(wrapping) as (_, session):
            return await outcome(lambda session: session.call_tool("ask"), session)

    bare = await declined(None)
    assert "not supported" in str(bare)
    assert await unlike(bare, declined) == {}


async def test_errors_of_incoming_messages_reach_the_message_handler_as_before() -> None:
    async def handled(wrapping: str | None) -> Any:
        got: list[Any] = []
        enough = anyio.Event()

        async def handle(message: Any) -> None:
            got.append((type(message), str(message)))
            enough.set()

        async with speaking(wrapping, message_handler=handle) as (session, server):
            await server._write.send(ValueError("torn"))  # pyright: ignore[reportPrivateUsage]
            await enough.wait()
            await session.send_ping()
            return got

    bare = await handled(None)
    assert bare == [(ValueError, "torn")]
    assert await unlike(bare, handled) == {}


# ---------------------------------------------------------------------------------------------------------------------
# Errors.

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


async def call_it(session: Any) -> Any:
    return await session.call_tool("tool", {"a": 1})


def refusing(code: int, data: Any, method: str = "tools/call") -> Callable[[WireServer], None]:
    def teach(server: WireServer) -> None:
        async def refuse(frame: Frame) -> None:
            error = {"code": code, "message": "no", "data": data}
            await server.send({"jsonrpc": "2.0", "id": frame["id"], "error": error})

        server.answers[method] = refuse

    return teach


def structured(content: Any, schema: Any = SCHEMA) -> Callable[[WireServer], None]:
    def teach(server: WireServer) -> None:
        async def tools(frame: Frame) -> Frame:
            return {"tools": [{"name": "tool", "inputSchema": {"type": "object"}, "outputSchema": schema}]}

        async def result(frame: Frame) -> Frame:
            return {**RESULTS["tools/call"], **({} if content is None else {"structuredContent": content})}

        server.answers |= {"tools/list": tools, "tools/call": result}

    return teach


def answering(method: str, result: Any) -> Callable[[WireServer], None]:
    def teach(server: WireServer) -> None:
        async def answer(frame: Frame) -> Frame:
            return dict(result)

        server.answers[method] = answer

    return teach


def silent(server: WireServer) -> None:
    server.answers["tools/call"] = never


def hanging_up(server: WireServer) -> None:
    async def hang_up(frame: Frame) -> None:
        await server.close()

    server.answers["tools/call"] = hang_up


def friendly(server: WireServer) -> None:
    pass


async def initialize(session: Any) -> Any:
    return await session.initialize()


FAILURES: dict[str, tuple[Callable[[WireServer], None], Say, Frame]] = {
    "an error of the server": (refusing(-32602, {"why": ["a", None]}), call_it, {}),
    "an error of the server without data": (refusing(-32601, None), call_it, {}),
    "an error of the server that looks like a timeout": (refusing(408 if LINE_1 else -32001, "x"), call_it, {}),
    "an error of the server that looks like a hang-up": (refusing(-32000, "x"), call_it, {}),
    "structured content that breaks the schema": (structured({"n": "one"}), call_it, {}),
    "no structured content": (structured(None), call_it, {}),
    "a broken schema": (structured({"n": 1}, {"type": "nonsense"}), call_it, {}),
    "a result of the wrong shape": (answering("tools/call", {"content": "text"}), call_it, {}),
    "an empty result": (answering("prompts/get", {}), lambda session: session.get_prompt("x"), {}),
    "an unknown protocol version": (
        answering("initialize", {**RESULTS["initialize"], "protocolVersion": "1999-01-01"}),
        initialize,
        {},
    ),
    "the timeout of the call": (
        silent,
        lambda session: session.call_tool("tool", read_timeout_seconds=seconds(0.01)),
        {},
    ),
    "a timeout of nothing": (silent, lambda session: session.call_tool("tool", read_timeout_seconds=seconds(0)), {}),
    "the timeout of the session": (silent, call_it, {"read_timeout_seconds": seconds(0.1)}),
    "the longer timeout of the session": (
        silent,
        lambda session: session.call_tool("tool", {}, seconds(0.01)),
        {"read_timeout_seconds": seconds(60)},
    ),
    "a connection closed during the call": (hanging_up, call_it, {}),
    "no request at all": (friendly, lambda session: session.send_request(None, T.EmptyResult), {}),
    "a request that is an object": (friendly, lambda session: session.send_request(object(), T.EmptyResult), {}),
    "a request that is a class": (friendly, lambda session: session.send_request(T.PingRequest, T.EmptyResult), {}),
    "too few arguments": (friendly, lambda session: session.call_tool(), {}),
    "a name that is none": (friendly, lambda session: session.call_tool(None), {}),
    "a timeout that is none": (friendly, lambda session: session.call_tool("tool", {}, "soon"), {}),
    "a request that is no JSON": (friendly, lambda session: session.call_tool("tool", {"a": object()}), {}),
    "a notification that is no JSON": (
        friendly,
        lambda session: session.send_notification(DictNotification(params={"a": object()})),
        {},
    ),
    "no notification at all": (friendly, lambda session: session.send_notification(None), {}),
}


# Line 1 leaves its streams open when a request is none.
@pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("failure", FAILURES)
async def test_failures_are_those_of_a_bare_session(failure: str) -> None:
    teach, say, options = FAILURES[failure]

    async def fail(wrapping: str | None) -> Any:
        async with speaking(wrapping, **options) as (session, server):
            teach(server)
            failed = await outcome(say, session)
            again = await outcome(lambda session: session.list_prompts(), session)
            return failed, again

    bare = await fail(None)
    assert issubclass(bare[0][0], Exception)
    assert await unlike(bare, fail) == {}
    if LINE_1 and "request" in failure:
        gc.collect()


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        ("an error of the server", "error"),
        ("an error of the server that looks like a timeout", "error"),
        ("the timeout of the call", "timeout"),
        ("the timeout of the session", "timeout"),
        ("a connection closed during the call", "error"),
        ("a result of the wrong shape", "error"),
        # Found after the chain.
        ("structured content that breaks the schema", "ok"),
    ],
)
async def test_the_outcome_says_how_a_call_failed(failure: str, expected: str) -> None:
    teach, say, options = FAILURES[failure]
    manager = MiddlewareManager([through])
    async with wrapped(manager, **options) as (session, server):
        teach(server)
        with manager.capture() as exchanges:
            await outcome(say, session)
        assert exchanges[0].context.method == "tools/call"
        assert exchanges[0].response.outcome == expected


async def test_an_error_of_the_server_is_no_timeout_where_the_caller_handles_one() -> None:
    manager = MiddlewareManager([through])
    async with wrapped(manager) as (session, server):
        refusing(408 if LINE_1 else -32001, "x")(server)
        with manager.capture() as exchanges:
            try:
                raise TimeoutError("somebody else's")
            except TimeoutError:
                await outcome(call_it, session)
        assert [exchange.response.outcome for exchange in exchanges] == ["error"]


# ---------------------------------------------------------------------------------------------------------------------
# Many at once.


async def test_two_thousand_calls_at_once_each_get_their_own_answer() -> None:
    count = 2000
    contexts: list[str] = []
    answers: dict[int, str] = {}

    async def note(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        contexts.append(context.id)
        return await call_next(context)

    async with wire() as (streams, server):
        waiting: list[Frame] = []
        all_asked = anyio.Event()

        async def collect(frame: Frame) -> None:
            waiting.append(frame)
            if len(waiting) == count:
                all_asked.set()

        server.answers["tools/call"] = collect
        with anyio.fail_after(60):
            async with (
                intercept(ClientSession(*streams), Through(), note, through) as session,
                anyio.create_task_group() as tasks,
            ):

                async def call(number: int) -> None:
                    result: Any = await session.send_request(*call_tool_request(arguments={"number": number}))
                    answers[number] = result.content[0].text

                for number in range(count):
                    tasks.start_soon(call, number)
                await all_asked.wait()
                # In an order that is not that of the requests.
                for frame in sorted(waiting, key=lambda frame: (frame["id"] * 7919) % 10007):
                    number = frame["params"]["arguments"]["number"]
                    await server.reply(frame["id"], {"content": [{"type": "text", "text": f"answer {number}"}]})
    assert answers == {number: f"answer {number}" for number in range(count)}
    assert len(set(contexts)) == len(contexts) == count
