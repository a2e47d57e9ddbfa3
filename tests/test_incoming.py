"""What a server sends passes the chain, and is otherwise received as by a bare session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import chain, combinations
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from mcp import ClientSession
from pydantic import AnyUrl

from mcp_intercept import CallbackClientSession, Middleware, MiddlewareContext, MiddlewareManager, connect, intercept
from mcp_intercept.methods import METHODS
from tests.ears import (
    NOTIFICATIONS,
    REQUESTS,
    SCHEMA,
    Ears,
    Error,
    Seen,
    SeenWithVendors,
    T,
    Wrap,
    around,
    bare,
    call,
    dumped,
    hooking,
    notification,
    only,
    request,
    rpc_error,
    settled,
    speaking,
    through,
)
from tests.server import STDIO, make_server
from tests.wire import LINE_1, RESULTS, Frame, wire

pytestmark = pytest.mark.anyio

VENDORS = {"acme/ask": "ask", "notifications/acme/tell": "tell"}


@pytest.mark.parametrize("method", [*REQUESTS, *NOTIFICATIONS])
async def test_what_a_server_sends_passes_its_hooks_and_is_observed(method: str) -> None:
    is_request = method in REQUESTS
    kind = "request" if is_request else "notification"
    params = REQUESTS[method] if is_request else NOTIFICATIONS[method]
    seen = SeenWithVendors()
    manager = MiddlewareManager([seen])
    async with speaking(lambda session: (wrapper := CallbackClientSession(session, "c", manager), wrapper)) as (
        session,
        server,
    ):
        with manager.capture() as exchanges:
            if is_request:
                answer = await server.ask(method, params, "id-7")
                assert set(answer) == {"jsonrpc", "id", "result" if method == "ping" else "error"}
            else:
                await server.send({"jsonrpc": "2.0", "method": method, **({"params": params} if params else {})})
                await settled()
        assert seen.hooks == ["on_message", f"on_{kind}", VENDORS.get(method) or METHODS[method].hook]
        [context] = {id(context): context for context in seen.contexts}.values()
        assert (context.method, context.kind, context.direction) == (method, kind, "incoming")
        assert (context.jsonrpc_id, context.connection_id) == ("id-7" if is_request else None, "c")
        assert context.session is session
        assert context.related is None
        if method in METHODS and params is not None:
            assert isinstance(context.params, getattr(T, METHODS[method].params))
        assert dumped(context.params) == params
        [(observed, response)] = exchanges
        assert observed is context
        # Nobody answers but to the ping, and line 1 has no room for a vendor's notification.
        fails = (method in REQUESTS and method != "ping") or (LINE_1 and method == "notifications/acme/tell")
        assert response.outcome == ("error" if fails else "ok")


@pytest.mark.parametrize("name", ["sampling", "elicitation", "roots"])
async def test_observers_see_what_a_callback_answers(name: str) -> None:
    method = {"sampling": "sampling/createMessage", "elicitation": "elicitation/create", "roots": "roots/list"}[name]
    manager = MiddlewareManager()
    async with speaking(around(manager), **Ears().options) as (_, server):
        with manager.capture() as exchanges:
            answer = await server.ask(method, REQUESTS[method], 7)
        [(context, response)] = exchanges
        assert (context.jsonrpc_id, response.outcome) == (7, "ok")
        assert answer["result"] == dumped(response.result) == dumped(Ears.RESULTS[name])


@pytest.mark.parametrize("method", sorted(row.name for row in METHODS.values() if row.sender == "client"))
async def test_what_only_a_client_sends_passes_no_typed_hook(method: str) -> None:
    async def refused(wrap: Wrap) -> Any:
        async with speaking(wrap) as (_, server):
            as_request = await server.ask(method, {"name": "tool", "uri": "memo://1"})
            await server.notify(method, {"name": "tool"})
            await settled()
            return as_request

    seen = Seen()
    as_bare = await refused(bare)
    assert await refused(around(seen)) == as_bare
    assert "error" in as_bare
    assert seen.hooks == ["on_message", "on_request", "on_message", "on_notification"]


# ---------------------------------------------------------------------------------------------------------------------
# What middleware may do with it.


def in_place(context: Any, update: dict[str, Any]) -> Any:
    for name, value in update.items():
        setattr(context.params, name, value)
    return context


def assigned(context: Any, update: dict[str, Any]) -> Any:
    context.params = context.params.model_copy(update=update)
    return context


def on_a_copy(context: Any, update: dict[str, Any]) -> Any:
    return replace(context, params=context.params.model_copy(update=update))


URI = AnyUrl("memo://2") if LINE_1 else "memo://2"

CHANGES: Mapping[str, tuple[str, dict[str, Any], Callable[[Ears], Any], Any]] = {
    "sampling": ("sampling/createMessage", {"temperature": 0.5}, lambda e: e.by("sampling")[0][2]["temperature"], 0.5),
    "elicitation": ("elicitation/create", {"message": "X?"}, lambda e: e.by("elicitation")[0][2]["message"], "X?"),
    "logging": ("notifications/message", {"data": "changed"}, lambda e: e.by("logging")[0][0]["data"], "changed"),
    "handler of a log message": (
        "notifications/message",
        {"data": "changed"},
        lambda ears: ears.by("handler")[0][0]["params"]["data"],
        "changed",
    ),
    "handler of an update": (
        "notifications/resources/updated",
        {"uri": URI},
        lambda ears: ears.by("handler")[0][0]["params"]["uri"],
        "memo://2",
    ),
    "handler of progress": (
        "notifications/progress",
        {"message": "changed"},
        lambda ears: ears.by("handler")[0][0]["params"]["message"],
        "changed",
    ),
    "progress callback": (
        "notifications/progress",
        {"progress": 0.75, "total": 3.0, "message": "changed"},
        lambda ears: ears.by("progress"),
        [(0.75, 3.0, "changed")],
    ),
}


@pytest.mark.parametrize("way", [in_place, assigned, on_a_copy])
@pytest.mark.parametrize("change", CHANGES)
async def test_callbacks_get_what_the_chain_says(change: str, way: Any) -> None:
    method, update, got, wanted = CHANGES[change]
    ears = Ears()

    async def shape(context: Any, call_next: Any) -> Any:
        return await call_next(way(context, update))

    async with speaking(around(hooking(**{METHODS[method].hook: shape})), **ears.options) as (session, server):

        async def answer(frame: Frame) -> Frame:
            params = REQUESTS.get(method) or NOTIFICATIONS.get(method) or {}
            if method in REQUESTS:
                await server.ask(method, params)
            else:
                token = frame["params"].get("_meta", {}).get("progressToken")
                await server.notify(
                    method, {**params, **({"progressToken": token} if "progressToken" in params else {})}
                )
                await settled()
            return RESULTS["tools/call"]

        server.answers["tools/call"] = answer
        await session.call_tool("tool", progress_callback=ears.progress)
        await settled()
    assert got(ears) == wanted


ANSWERS: Mapping[str, tuple[Any, Frame]] = {
    "sampling/createMessage": (
        T.CreateMessageResult(role="assistant", content=T.TextContent(type="text", text="mine"), model="m"),
        {"role": "assistant", "content": {"type": "text", "text": "mine"}, "model": "m"},
    ),
    "elicitation/create": (T.ElicitResult(action="decline"), {"action": "decline"}),
    "roots/list": (T.ListRootsResult(roots=[]), {"roots": []}),
    "ping": (T.EmptyResult(), {}),
    "acme/ask": ({"yes": True}, {"yes": True}),
}
"""What a middleware answers, and its wire form."""


@pytest.mark.parametrize("as_model", [True, False], ids=["a model", "a wire dict"])
@pytest.mark.parametrize("calls_on", [True, False], ids=["instead of the callback's", "in place of the callback"])
@pytest.mark.parametrize("method", ANSWERS)
async def test_a_middleware_answers(method: str, calls_on: bool, as_model: bool) -> None:
    answer, on_wire = ANSWERS[method]
    ears = Ears()

    async def respond(context: Any, call_next: Any) -> Any:
        if calls_on and method != "acme/ask":
            assert await call_next(context) is not None
        return answer if as_model else dict(on_wire)

    async with speaking(around(only(respond)), **ears.options) as (
        _,
        server,
    ):
        answered = await server.ask(method, REQUESTS[method])
        assert {name: value for name, value in answered["result"].items() if name != "resultType"} == on_wire
        assert len(ears.heard) == (
            calls_on and method in {"sampling/createMessage", "elicitation/create", "roots/list"}
        )


@pytest.mark.parametrize("method", ["sampling/createMessage", "elicitation/create", "roots/list"])
async def test_a_middleware_asks_again(method: str) -> None:
    attempts: list[int] = []
    answers = [fail, lambda name: T.ErrorData(code=1, message="no"), Ears.RESULTS.get]

    async def ask_again(context: Any, call_next: Any) -> Any:
        for _ in range(2):
            try:
                return await call_next(context)
            except Exception:  # noqa: PERF203 - that is what is tested
                attempts.append(context.attempt)
        return await call_next(context)

    async with speaking(around(only(ask_again), through), **Ears(lambda name: answers.pop(0)(name)).options) as (
        _,
        server,
    ):
        assert "result" in await server.ask(method, REQUESTS[method])
    assert attempts == [1, 2]


@pytest.mark.parametrize("how", ["raised", "returned"])
@pytest.mark.parametrize("method", REQUESTS)
async def test_a_middleware_refuses(method: str, how: str) -> None:
    ears, met = Ears(), list[Any]()

    async def refuse(context: Any, call_next: Any) -> Any:
        if how == "raised":
            raise rpc_error(-32042, "not today")
        return T.ErrorData(code=-32042, message="not today")

    async def meet(context: Any, call_next: Any) -> Any:
        try:
            return await call_next(context)
        except Error as error:
            met.append(error.error.code)
            raise

    manager = MiddlewareManager([only(meet), only(refuse)])
    async with speaking(around(manager), **ears.options) as (_, server):
        with manager.capture() as exchanges:
            answer = await server.ask(method, REQUESTS[method])
    assert answer["error"] == {"code": -32042, "message": "not today"}
    assert (met, [response.outcome for _, response in exchanges]) == ([-32042], ["error"])
    assert ears.heard == []


@pytest.mark.parametrize("method", NOTIFICATIONS)
async def test_a_middleware_drops_a_notification(method: str) -> None:
    ears = Ears()

    async def drop(context: Any, call_next: Any) -> None:
        return None

    async with speaking(around(hooking(on_notification=only(drop))), **ears.options) as (session, server):

        async def answer(frame: Frame) -> Frame:
            token = {"progressToken": frame["params"]["_meta"]["progressToken"]} if "progress" in method else {}
            await server.notify(method, {**(NOTIFICATIONS[method] or {}), **token})
            return RESULTS["tools/call"]

        server.answers["tools/call"] = answer
        await session.call_tool("tool", progress_callback=ears.progress)
        await settled()
    assert ears.heard == []


@pytest.mark.parametrize("dropped", [True, False])
async def test_a_request_goes_on_if_its_cancellation_is_dropped(dropped: bool) -> None:
    asked, told, go_on = anyio.Event(), anyio.Event(), anyio.Event()

    async def wait(context: Any, params: Any) -> Any:
        asked.set()
        # On line 1 only a handler that awaits the session lets others in.
        await context.session.send_ping()
        await go_on.wait()
        return Ears.RESULTS["elicitation"]

    async def on_cancelled(context: Any, call_next: Any) -> None:
        if not dropped:
            await call_next(context)
        told.set()

    async with speaking(around(hooking(on_cancelled=only(on_cancelled))), elicitation_callback=wait) as (_, server):
        await server.send(request("elicitation/create", 5))
        await asked.wait()
        await server.notify("notifications/cancelled", {"requestId": 5})
        await told.wait()
        go_on.set()
        await settled()
        if dropped:
            assert (await server.answer_to(5))["result"]["action"] == "accept"
        elif LINE_1:
            assert [answer["error"]["message"] for answer in server.answered(5)] == ["Request cancelled"]
        else:
            assert server.answered(5) == []


class SecretError(Exception):
    """What nobody else may read."""


def fail(_: Any) -> Any:
    raise SecretError("hunter2")


FAILURES: Mapping[str, Callable[[Any], Any]] = {
    "raises": fail,
    "returns a string": lambda context: "hunter2",
    "assigns a number to params": lambda context: setattr(context, "params", 7),
    "assigns a dict to params": lambda context: setattr(context, "params", {"password": "hunter2"}),
}
INTERNAL = {"code": -32603, "message": "Internal error"}
HOOKS = ["on_message", "of its kind", "its own"]


def failing(method: str, at: str, how: str, times: int = 1) -> Middleware:
    """A middleware that fails with the first messages."""
    failures = [FAILURES[how]] * times
    kind = "on_request" if method in REQUESTS else "on_notification"

    async def layer(context: Any, call_next: Any) -> Any:
        returned = failures.pop()(context) if failures else None
        return await call_next(context) if returned is None else returned

    name = {"on_message": "on_message", "of its kind": kind, "its own": METHODS[method].hook}[at]
    return hooking(**{name: only(layer)})


@pytest.mark.parametrize("how", FAILURES)
@pytest.mark.parametrize(("method", "at"), [(method, at) for method in REQUESTS if method in METHODS for at in HOOKS])
async def test_of_a_failure_in_middleware_a_server_that_asks_learns_nothing(
    method: str, at: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with speaking(around(failing(method, at, how)), **Ears().options) as (_, server):
        assert (await server.ask(method, REQUESTS[method], 1))["error"] == INTERNAL
        assert "result" in await server.ask(method, REQUESTS[method], 2)
    assert_logged(caplog)


@pytest.mark.parametrize("answer", [None, "hunter2", 7, ["hunter2"]])
@pytest.mark.parametrize("method", REQUESTS)
async def test_what_is_no_answer_does_not_reach_the_server(
    method: str, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def respond(context: Any, call_next: Any) -> Any:
        return answer

    async with speaking(around(only(respond)), **Ears().options) as (_, server):
        assert (await server.ask(method, REQUESTS[method]))["error"] == INTERNAL
    assert_logged(caplog)


def assert_logged(caplog: pytest.LogCaptureFixture) -> None:
    """One failure of a middleware was logged, with its traceback if it is its own, and no secret in the message."""
    [record] = caplog.records
    assert record.name == "mcp_intercept"
    assert (record.exc_info is None) == (": " in record.getMessage())  # one of ours is told in that line
    assert "hunter2" not in (caplog.text if record.exc_info is None else record.getMessage())


@pytest.mark.parametrize("how", FAILURES)
@pytest.mark.parametrize("at", HOOKS)
@pytest.mark.parametrize(
    "method", ["notifications/message", "notifications/progress", "notifications/resources/updated"]
)
async def test_a_failure_in_middleware_costs_that_notification_only(
    method: str, at: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def heard(wrap: Wrap, times: int) -> Any:
        ears = Ears()
        async with speaking(wrap, **ears.options) as (session, server):

            async def answer(frame: Frame) -> Frame:
                token = frame["params"]["_meta"]["progressToken"]
                for _ in range(times):
                    await server.send(
                        notification(method, **({"progressToken": token} if "progress" in method else {}))
                    )
                return RESULTS["tools/call"]

            server.answers["tools/call"] = answer
            await session.call_tool("tool", progress_callback=ears.progress)
            await settled()
        return sorted(map(repr, ears.heard))

    expected = await heard(bare, 1)
    assert expected
    assert caplog.records == []
    assert await heard(around(failing(method, at, how)), 2) == expected
    assert_logged(caplog)


# ---------------------------------------------------------------------------------------------------------------------
# Pass-through is transparent.


def observed_and_wrapped_twice(session: ClientSession) -> tuple[ClientSession, ClientSession]:
    manager = MiddlewareManager([through])
    manager.add_observer(lambda context, response: None)
    return session, intercept(intercept(session, manager), SeenWithVendors())


WRAPS: Mapping[str, Wrap] = {
    "three layers": around(Seen(), SeenWithVendors(), through),
    "wrapped twice, entered inside": observed_and_wrapped_twice,
}

FRAMES: Mapping[str, Frame] = {
    **{method: request(method) for method in REQUESTS},
    **{method: notification(method) for method in NOTIFICATIONS},
    "int id": request("elicitation/create", 77),
    "a ping with params": request("ping", 78, _meta={"a": 1}),
    "a ping with more than that": request("ping", 79, extra=1),
    "extra params": request("elicitation/create", "x", acme={"x": 1}),
    "no params where they are due": {"jsonrpc": "2.0", "id": "n", "method": "elicitation/create"},
    "no params where they are not": {"jsonrpc": "2.0", "id": "r", "method": "roots/list"},
    "params of the wrong type": request("sampling/createMessage", "w", maxTokens="many"),
    "params that are coerced": request("sampling/createMessage", "c", maxTokens="12"),
    "elicitation by url": request("elicitation/create", "u", mode="url", url="https://a.b", elicitationId="e"),
    "a vendor's request without params": {"jsonrpc": "2.0", "id": "v", "method": "acme/ask"},
    "a notification's method asked": request("notifications/message", "m", level="info", data=1),
    "a request's method told": notification("elicitation/create", message="Who?", requestedSchema=SCHEMA),
    "a task's status asked": request("tasks/get", "t", taskId="t"),
    "all tasks asked": request("tasks/list", "l"),
    "a malformed log message": notification("notifications/message", level="whatever"),
    "a malformed update": notification("notifications/resources/updated", uri=None),
    "malformed progress": notification("notifications/progress", progress="much"),
    "progress of a malformed message": notification("notifications/progress", progressToken=1, message=5),
    "cancelled without an id": notification("notifications/cancelled", requestId=None),
    "progress without params": {"jsonrpc": "2.0", "method": "notifications/progress"},
    "vendor without params": {"jsonrpc": "2.0", "method": "notifications/acme/tell"},
    "a result nobody waits for": {"jsonrpc": "2.0", "id": 999, "result": {}},
    "an error nobody waits for": {"jsonrpc": "2.0", "id": "x9", "error": {"code": 1, "message": "m"}},
}


def misbehave(how: str) -> Callable[[str], Any]:
    def behave(name: str) -> Any:
        if how == "raise":
            raise ValueError(name)
        if how == "raise an error of the protocol":
            raise rpc_error(-32001, name)
        return {"refuse": T.ErrorData(code=-5, message=name, data={"d": 1}), "return garbage": SecretError}.get(
            how, Ears.RESULTS.get(name)
        )

    return behave


@pytest.mark.parametrize(
    "how", ["sound", "raise", "raise an error of the protocol", "refuse", "return garbage", "without callbacks"]
)
@pytest.mark.parametrize("wrap", WRAPS)
async def test_all_a_server_may_send_is_received_as_by_a_bare_session(
    wrap: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def received(wrap: Wrap) -> dict[str, Any]:
        ears = Ears(misbehave(how))
        found: dict[str, Any] = {}
        async with speaking(wrap, **({} if how == "without callbacks" else ears.options)) as (session, server):
            for name, frame in FRAMES.items():
                before = len(server.frames)
                caplog.clear()
                await server.send(frame)
                await settled()
                logged = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
                found[name] = server.frames[before:], ears.heard.copy(), logged
                ears.heard.clear()
            await session.send_ping()
        return found

    expected = await received(bare)
    assert sum(bool(frames) for frames, _, _ in expected.values()) > 10
    found = await received(WRAPS[wrap])
    unlike = {name: (entry, expected[name]) for name, entry in found.items() if entry != expected[name]}
    assert not unlike
    assert expected.keys() == found.keys()


async def test_what_does_not_fit_its_method_is_left_to_the_sdk() -> None:
    """Hooks may rely on the types of params."""
    seen = Seen()
    async with speaking(around(seen), **Ears().options) as (_, server):
        for name in FRAMES:
            if "malformed" in name or "wrong type" in name or "where they are due" in name:
                await server.send(FRAMES[name])
                await settled()
    assert seen.hooks == []


TOKENS: Mapping[str, Callable[[int], Any]] = {
    "itself": lambda token: token,
    "as a string": str,
    "as a float": float,
    "true for 1": lambda token: True,
    "null": lambda token: None,
    "a list": lambda token: [token],
}
REPORTS: Mapping[str, Frame] = {
    "sound": {"progress": 1, "total": 2.5, "message": "m"},
    "alone": {"progress": 0.1},
    "numbers as strings": {"progress": "1", "total": "2"},
    "the total as a string": {"progress": 1, "total": "2"},
    "true": {"progress": True, "total": True},
    "a number for a message": {"progress": 1, "message": 5},
    "with more than that": {"progress": 1, "acme": 1, "_meta": {"m": 1}},
}


@pytest.mark.parametrize("how", ["sound", "raise"])
@pytest.mark.parametrize("wrap", WRAPS)
async def test_progress_is_received_as_by_a_bare_session(wrap: str, how: str, caplog: pytest.LogCaptureFixture) -> None:
    async def received(wrap: Wrap) -> dict[Any, Any]:
        ears = Ears(misbehave(how))
        found: dict[Any, Any] = {}
        async with speaking(wrap, **ears.options) as (session, server):

            async def answer(frame: Frame) -> Frame:
                for form, as_token in TOKENS.items():
                    for name, report in REPORTS.items():
                        caplog.clear()
                        token = as_token(frame["params"]["_meta"]["progressToken"])
                        await server.notify("notifications/progress", {"progressToken": token, **report})
                        await settled()
                        logged = sorted((record.name, record.getMessage()) for record in caplog.records)
                        found[form, name] = sorted(map(repr, ears.heard)), logged
                        ears.heard.clear()
                return RESULTS["tools/call"]

            server.answers["tools/call"] = answer
            await session.call_tool("tool", progress_callback=ears.progress)
        return found

    expected = await received(bare)
    assert any("progress'" in repr(heard) for heard, _ in expected.values())
    found = await received(WRAPS[wrap])
    assert {name: (entry, expected[name]) for name, entry in found.items() if entry != expected[name]} == {}


@pytest.mark.parametrize("pauses", [0, 3])
async def test_a_burst_and_the_response_after_it_keep_their_order(pauses: int, anyio_backend: str) -> None:
    async def received(wrap: Wrap) -> list[Any]:
        ears = Ears()

        async def pause(*reported: Any) -> None:
            ears.heard.append(("progress", *reported))
            for _ in range(pauses):
                await checkpoint()
            if LINE_1:
                ears.heard.append("paused")

        async with speaking(wrap, **ears.options) as (session, server):

            async def answer(frame: Frame) -> Frame:
                token = frame["params"]["_meta"]["progressToken"]
                for step in range(20):
                    await server.notify("notifications/progress", {"progressToken": token, "progress": step})
                    await server.notify("notifications/message", {"level": "info", "data": step})
                return RESULTS["tools/call"]

            server.answers["tools/call"] = answer
            await session.call_tool("tool", progress_callback=pause)
            ears.heard.append("returned")
            await settled()
        # Line 2 runs callbacks in tasks of their own, which trio starts in any order.
        return ears.heard if LINE_1 or anyio_backend == "asyncio" else sorted(map(repr, ears.heard))

    expected = await received(bare)
    assert len(expected) == 20 * (4 + LINE_1) + 1
    for wrap in WRAPS.values():
        assert await received(wrap) == expected


CALLBACKS = ["sampling_callback", "elicitation_callback", "list_roots_callback", "logging_callback", "message_handler"]


@pytest.mark.parametrize("names", chain.from_iterable(combinations(CALLBACKS, size) for size in range(6)), ids="+".join)
async def test_a_client_promises_what_its_own_callbacks_do(names: tuple[str, ...]) -> None:
    async def promised(wrap: Wrap) -> Any:
        async with speaking(wrap, **{name: Ears().options[name] for name in names}) as (_, server):
            return server.sent("initialize")

    expected = await promised(bare)
    capabilities = {
        "sampling_callback": "sampling",
        "elicitation_callback": "elicitation",
        "list_roots_callback": "roots",
    }
    assert set(expected[0]["params"]["capabilities"]) == {capabilities[name] for name in names if name in capabilities}
    assert await promised(around(Seen(), through)) == expected


if LINE_1:

    class Silent(ClientSession):
        """Leaves every request to the message handler."""

        async def _received_request(self, responder: Any) -> None:
            if isinstance(responder.request.root, T.PingRequest):
                with responder:
                    await responder.respond(T.EmptyResult())  # what it is wrapped in makes no difference to the SDK

    @pytest.mark.parametrize("wrap", [bare, *WRAPS.values()])
    async def test_a_message_handler_may_answer_what_a_subclass_leaves_to_it(wrap: Wrap) -> None:
        handled: list[Any] = []

        async def handle(responder: Any) -> None:
            handled.append(
                (dumped(responder.request.root.params), dumped(responder.request_meta), responder.request_id)
            )
            with responder:
                await responder.respond(T.ClientResult(Ears.RESULTS["elicitation"]))

        async with wire() as (streams, server):
            options: dict[str, Any] = {"message_handler": handle}
            to_enter, _session = wrap(Silent(*streams, **options))
            with anyio.fail_after(30):
                async with to_enter:
                    assert (await server.ask("ping"))["result"] == {}
                    answer = await server.ask("elicitation/create", REQUESTS["elicitation/create"], 4)
                    assert answer["result"]["action"] == "accept"
        assert handled == [(REQUESTS["elicitation/create"], {"acme/m": 2}, 4)]


# ---------------------------------------------------------------------------------------------------------------------
# Progress belongs to a call.


class Progress(Middleware):
    """Notes the calls, and to which of them progress belongs."""

    def __init__(self) -> None:
        self.calls: dict[str, MiddlewareContext[Any]] = {}
        self.reported: list[tuple[str, Any]] = []

    async def on_call_tool(self, context: Any, call_next: Any) -> Any:
        self.calls[context.params.name] = context
        return await call_next(context)

    async def on_progress(self, context: Any, call_next: Any) -> Any:
        self.reported.append((context.params.message, context.related))
        return await call_next(context)


@pytest.mark.parametrize("chosen", [False, True], ids=["a progress callback", "a token of the caller's"])
async def test_progress_is_related_to_its_call_among_fifty_in_each_wrapper(chosen: bool) -> None:
    outer, inner, ears = Progress(), Progress(), Ears()
    names = [f"tool-{number}" for number in range(50)]
    all_here, frames = anyio.Event(), list[Frame]()

    async def answer(frame: Frame) -> Frame:
        frames.append(frame)
        if len(frames) == len(names):
            for each in [*frames, *reversed(frames)]:
                token = each["params"]["_meta"]["progressToken"]
                report = {"progressToken": token, "progress": 1, "message": each["params"]["name"]}
                await server.notify("notifications/progress", report)
            await server.notify("notifications/progress", {"progressToken": "x", "progress": 1, "message": "stray"})
            await settled()
            all_here.set()
        await all_here.wait()
        return RESULTS["tools/call"]

    async with speaking(lambda session: around(outer)(intercept(session, inner)), **ears.options) as (session, server):
        server.answers["tools/call"] = answer
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(call, session, name, None if chosen else ears.progress, name if chosen else None)
        # A token is forgotten with its call.
        await server.notify("notifications/progress", {"progressToken": names[0], "progress": 1, "message": "stray"})
        await settled()
    for watching in (outer, inner):
        assert len(watching.reported) == 102
        assert watching.calls.keys() == {*names}
        assert [name for name, related in watching.reported if related is not watching.calls.get(name)] == []
    assert not {id(context) for context in outer.calls.values()} & {id(context) for context in inner.calls.values()}
    assert len(ears.by("progress")) == (0 if chosen else 100)


# ---------------------------------------------------------------------------------------------------------------------
# Real servers.


@pytest.mark.parametrize("server", [make_server, lambda: STDIO], ids=["in process", "stdio"])
async def test_what_a_real_server_sends_within_a_call_passes_the_chain(server: Any) -> None:
    progress, seen, ears = Progress(), Seen(), Ears(lambda name: T.ElicitResult(action="accept", content={"number": 1}))
    with anyio.fail_after(30):
        async with connect(
            server(), progress, seen, elicitation_callback=ears.options["elicitation_callback"]
        ) as connected:
            session: Any = connected
            await session.call_tool("steps", {"count": 3}, progress_callback=ears.progress)
            await settled()
            assert (await session.call_tool("ask", {})).content[0].text == "accept"
    assert sorted(ears.by("progress")) == [(1, 3, None), (2, 3, None), (3, 3, None)]
    assert [related for _, related in progress.reported] == [progress.calls["steps"]] * 3
    assert [context.method for context in seen.contexts if context.kind == "request"] == ["elicitation/create"] * 3
    assert len(ears.by("elicitation")) == 1


async def test_progress_is_related_in_an_outer_wrapper_though_a_middleware_further_in_replaces_the_callback() -> None:
    calls: list[Any] = []
    related: list[Any] = []
    reported: list[float] = []

    async def note(context: Any, call_next: Any) -> Any:
        (related if context.direction == "incoming" else calls).append(
            context.related if context.direction == "incoming" else context
        )
        return await call_next(context)

    async def wrap_callback(context: Any, call_next: Any) -> Any:
        callback = context.options.progress_callback
        if callback is not None:

            async def around_it(*progress: Any) -> None:
                await callback(*progress)

            context.options.progress_callback = around_it
        return await call_next(context)

    async def report(progress: float, total: float | None, message: str | None) -> None:
        reported.append(progress)

    async with connect(make_server(), wrap_callback) as session:
        outer = intercept(session, note)
        await outer.call_tool("steps", {"count": 1}, progress_callback=report)
        with anyio.fail_after(30):
            while not reported:
                await checkpoint()
    assert (reported, related) == ([1], [calls[0]])


async def test_progress_is_related_to_no_call_of_a_wrapper_beside() -> None:
    related: list[Any] = []

    async def note(context: Any, call_next: Any) -> Any:
        if context.direction == "incoming":
            related.append(context.related)
        return await call_next(context)

    reported = anyio.Event()

    async def report(progress: float, total: float | None, message: str | None) -> None:
        reported.set()

    async with connect(make_server(), through) as session:
        session.middleware_manager.add_observer(lambda context, response: None)
        beside = intercept(session.client_session, note)
        await session.call_tool("steps", {"count": 1}, progress_callback=report)
        with anyio.fail_after(30):
            await reported.wait()
            await beside.send_ping()
    assert related == [None]


async def test_progress_is_related_to_its_call_though_no_other_hook_wants_that() -> None:
    progress = Middleware()
    related: list[Any] = []

    async def on_progress(context: Any, call_next: Any) -> None:
        related.append(context.related)
        await call_next(context)

    progress.on_progress = on_progress  # type: ignore[method-assign]
    done = anyio.Event()

    async def report(progress: float, total: float | None, message: str | None) -> None:
        done.set()

    async with connect(make_server(), progress) as session:
        await session.call_tool("steps", {"count": 1}, progress_callback=report)
        with anyio.fail_after(30):
            await done.wait()
    assert [context.method for context in related] == ["tools/call"]
