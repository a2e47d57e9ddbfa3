"""What a server sends over the dispatchers of SDK line 2 that have no wire, and over one that somebody wrote."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp.types as types
import pytest
from mcp import ClientSession

from mcp_intercept import Exchange, Middleware, MiddlewareManager, intercept
from tests.wire import LINE_1, WireServer, wire

if LINE_1:
    pytest.skip("line 1 has no dispatchers", allow_module_level=True)

from mcp import Client, MCPError
from mcp.server.lowlevel import Server
from mcp.shared.direct_dispatcher import create_direct_dispatcher_pair
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher

pytestmark = pytest.mark.anyio


class Desk(Middleware):
    """Answers and changes what comes in."""

    async def on_message(self, context: Any, call_next: Any) -> Any:
        if context.method == "acme/ask":
            return {"answer": context.params["question"]}
        return await call_next(context)

    async def on_log_message(self, context: Any, call_next: Any) -> None:
        context.params.data = "changed"
        await call_next(context)


LOG = {"level": "info", "data": "as it was said"}


def incoming(exchanges: list[Exchange]) -> list[tuple[str, str]]:
    return [
        (exchange.context.method, exchange.response.outcome)
        for exchange in exchanges
        if exchange.context.direction == "incoming"
    ]


class Heard:
    def __init__(self) -> None:
        self.logged: list[Any] = []

    async def log(self, params: Any) -> None:
        self.logged.append(params.data)

    async def roots(self, context: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri="file:///here")])  # type: ignore[arg-type]

    @property
    def options(self) -> dict[str, Any]:
        return {"logging_callback": self.log, "list_roots_callback": self.roots}


@asynccontextmanager
async def in_process(middlewares: MiddlewareManager | None, heard: Heard) -> AsyncGenerator[Any, None]:
    """The server's side of a session that has no wire."""
    client, server = create_direct_dispatcher_pair()
    session = ClientSession(dispatcher=client, **heard.options)
    wrapper = session if middlewares is None else intercept(session, middlewares)

    async def nobody(*args: Any) -> Any:
        raise NotImplementedError

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            await tasks.start(server.run, nobody, nobody)
            async with wrapper:
                yield server
            tasks.cancel_scope.cancel()


async def ask(server: Any, method: str, params: Any = None) -> Any:
    try:
        return await server.send_raw_request(method, params)
    except MCPError as error:
        return error.error.code


ASKED: list[tuple[str, Any]] = [
    ("ping", None),
    ("roots/list", None),
    ("sampling/createMessage", {"messages": "none"}),
    ("tools/call", {"name": "mine"}),
    ("acme/other", {}),
    ("ping", {"_meta": 1}),
]


async def test_in_process_requests_and_notifications_pass_the_chain() -> None:
    manager, heard = MiddlewareManager([Desk()]), Heard()
    async with in_process(None, Heard()) as server:
        bare = [await ask(server, *each) for each in ASKED]
    with manager.capture() as exchanges:
        async with in_process(manager, heard) as server:
            assert [await ask(server, *each) for each in ASKED] == bare
            assert await ask(server, "acme/ask", {"question": 1}) == {"answer": 1}
            await server.notify("notifications/message", LOG)
            await server.notify("notifications/message", {"level": "none"})
    assert heard.logged == ["changed"]
    assert incoming(exchanges) == [
        ("ping", "ok"),
        ("roots/list", "ok"),
        ("tools/call", "error"),
        ("acme/other", "error"),
        ("acme/ask", "ok"),
        ("notifications/message", "ok"),
    ]


async def test_in_process_nothing_changes_where_nobody_wants_to_know() -> None:
    heard = Heard()
    async with in_process(MiddlewareManager(), heard) as server:
        assert await ask(server, "ping") == {}
        await server.notify("notifications/message", LOG)
    assert heard.logged == ["as it was said"]


class Own:
    """A dispatcher that somebody wrote, around one of the SDK's."""

    def __init__(self, read: Any, write: Any) -> None:
        self._inside = JSONRPCDispatcher(read, write)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inside, name)


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_dispatcher_that_somebody_wrote_works_too(wanted: bool) -> None:
    manager, heard = MiddlewareManager([Desk()] if wanted else []), Heard()

    async def use(server: WireServer) -> None:
        assert (await server.ask("roots/list", None, 1))["result"] == {"roots": [{"uri": "file:///here"}]}
        assert (await server.ask("ping", None, 2))["result"] == {}
        answer = await server.ask("acme/ask", {"question": 1}, 3)
        assert answer.get("result") == ({"answer": 1} if wanted else None)
        await server.notify("notifications/message", LOG)
        while not heard.logged:
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(30):
        async with wire() as (streams, server):
            dispatcher: Any = Own(*streams)
            async with intercept(ClientSession(dispatcher=dispatcher, **heard.options), manager):
                await use(server)
    assert heard.logged == ["changed" if wanted else "as it was said"]


async def test_a_middleware_that_fails_on_a_question_within_a_call_ends_the_call() -> None:
    schema = {"type": "object", "properties": {}}
    question = types.ElicitRequest(params=types.ElicitRequestFormParams(message="?", requested_schema=schema))

    async def call_tool(context: Any, params: Any) -> Any:
        return types.InputRequiredResult(input_requests={"q": question}, request_state="1")

    async def fail(context: Any, call_next: Any) -> Any:
        if context.direction == "incoming":
            raise PermissionError("not that")
        return await call_next(context)

    async def elicit(context: Any, params: Any) -> Any:
        raise AssertionError("nobody is asked")

    async with intercept(Client(Server("asking", on_call_tool=call_tool), elicitation_callback=elicit), fail) as client:
        with pytest.raises(Exception) as raised:  # noqa: PT011 - a group, as of a callback that fails
            await client.call_tool("ask", {})
    assert isinstance(raised.value.exceptions[0], PermissionError)  # type: ignore[attr-defined]
