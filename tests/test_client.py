"""The `Client` of SDK line 2, intercepted: from its handshake on, over every transport, in both protocol eras."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp.types as types
import pytest

from mcp_intercept import CallbackClientSession, Exchange, MiddlewareManager, connect, intercept
from mcp_intercept.errors import UnsupportedTargetError
from tests.server import STDIO, http_server, make_server
from tests.wire import LINE_1

if LINE_1:
    pytest.skip("line 1 has no Client", allow_module_level=True)

from mcp import Client, StdioServerParameters, stdio_client
from mcp.server.lowlevel import Server

pytestmark = pytest.mark.anyio

HANDSHAKES = {"legacy": ["initialize", "notifications/initialized"], "auto": ["server/discover"]}


async def through(context: Any, call_next: Any) -> Any:
    return await call_next(context)


def methods(exchanges: list[Exchange], direction: str = "outgoing") -> list[str]:
    return [exchange.context.method for exchange in exchanges if exchange.context.direction == direction]


@pytest.fixture(scope="module")
def url() -> Generator[str, None, None]:
    with http_server() as url:
        yield url


@pytest.fixture(params=["in process", "stdio", "http"])
def target(request: pytest.FixtureRequest, url: str) -> Any:
    """What a client connects to."""
    if request.param == "in process":
        return make_server()
    return stdio_client(StdioServerParameters(command=STDIO[0], args=STDIO[1:])) if request.param == "stdio" else url


@asynccontextmanager
async def intercepted(client: Client, manager: MiddlewareManager) -> AsyncGenerator[Client, None]:
    with anyio.fail_after(60):
        async with intercept(client, manager) as entered:
            yield entered


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_everything_passes_the_chain_from_the_handshake_on(target: Any, mode: Any) -> None:
    manager = MiddlewareManager([through])
    with manager.capture() as exchanges:
        async with intercepted(Client(target, mode=mode), manager) as client:
            result = await client.call_tool("add", {"a": 1, "b": 2})
            assert result.structured_content == {"result": 3}
            await client.read_resource("memo://1")
            assert isinstance(client, Client)
            assert isinstance(client.session, CallbackClientSession)
    # The SDK asks for the list by itself, to learn the tool's output schema.
    assert methods(exchanges) == [*HANDSHAKES[mode], "tools/call", "tools/list", "resources/read"]
    assert {exchange.response.outcome for exchange in exchanges} == {"ok"}
    assert len({exchange.context.connection_id for exchange in exchanges}) == 1


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_progress_passes_the_chain_and_knows_its_call(target: Any, mode: Any) -> None:
    manager = MiddlewareManager()
    reported: list[float] = []

    async def tenfold(context: Any, call_next: Any) -> Any:
        if context.method == "notifications/progress":
            context.params.progress *= 10
        return await call_next(context)

    manager.add_middleware(tenfold)

    async def report(progress: float, total: float | None, message: str | None) -> None:
        reported.append(progress)

    with manager.capture() as exchanges:
        async with intercepted(Client(target, mode=mode), manager) as client:
            await client.call_tool("steps", {"count": 3}, progress_callback=report)
            with anyio.fail_after(30):
                while len(reported) < 3:
                    await anyio.lowlevel.checkpoint()
    assert sorted(reported) == [10, 20, 30]
    calls = [exchange.context for exchange in exchanges if exchange.context.method == "tools/call"]
    incoming = [exchange.context for exchange in exchanges if exchange.context.direction == "incoming"]
    assert [context.method for context in incoming] == ["notifications/progress"] * 3
    assert all(context.related is calls[0] for context in incoming)


async def test_the_questions_of_a_server_pass_the_chain() -> None:
    async def elicit(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        raise AssertionError("a middleware answers")

    async def answer(context: Any, call_next: Any) -> Any:
        if context.method == "elicitation/create":
            return {"action": "accept", "content": {"number": 1}}
        return await call_next(context)

    client = Client(make_server(), mode="legacy", elicitation_callback=elicit)
    async with intercepted(client, MiddlewareManager([answer])) as entered:
        result = await entered.call_tool("ask", {})
        assert result.structured_content == {"result": "accept"}


async def test_a_client_entered_by_itself_is_intercepted_from_then_on() -> None:
    manager = MiddlewareManager([through])
    async with Client(make_server()) as plain:
        client = intercept(plain, manager)
        with manager.capture() as exchanges:
            await client.call_tool("echo", {"text": "hello"})
            count = len(exchanges)
            assert client.session is client.session
            # What is said through the client inside does not pass.
            await plain.call_tool("echo", {"text": "hello"})
            assert len(exchanges) == count
        assert methods(exchanges) == ["tools/call", "tools/list"]
        assert client.server_capabilities == plain.server_capabilities


async def test_interceptions_nest_whichever_is_entered() -> None:
    inner_manager, outer_manager = MiddlewareManager([through]), MiddlewareManager([through])
    for entered_through in ("outer", "inner"):
        inner = intercept(Client(make_server()), inner_manager)
        outer = intercept(inner, outer_manager)
        async with outer if entered_through == "outer" else inner:
            with inner_manager.capture() as below, outer_manager.capture() as above:
                await outer.list_resources()
                await inner.list_prompts()
        assert methods(below) == ["resources/list", "prompts/list"]
        assert methods(above) == ["resources/list"]


async def test_a_subclass_keeps_its_overrides() -> None:
    class Polite(Client):
        async def call_tool(self, name: str, *args: Any, **kwargs: Any) -> Any:
            return await super().call_tool(name.lower(), *args, **kwargs)

    async with intercepted(Polite(make_server()), MiddlewareManager([through])) as client:
        assert isinstance(client, Polite)
        result = await client.call_tool("ECHO", {"text": "hello"})
        assert result.structured_content == {"result": "hello"}


async def test_a_cached_answer_is_no_call() -> None:
    async def list_tools(context: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[], ttl_ms=60_000)

    manager = MiddlewareManager([through])
    client = Client(Server("caching", on_list_tools=list_tools))
    async with intercepted(client, manager) as entered:
        with manager.capture() as exchanges:
            first = await entered.list_tools()
            assert await entered.list_tools() == first
            await entered.list_tools(cache_mode="bypass")
    assert methods(exchanges) == ["tools/list", "tools/list"]


async def test_a_url_has_a_session_id_and_headers_of_single_calls(url: str) -> None:
    async def ask(context: Any, call_next: Any) -> Any:
        context.options.headers["x-acme"] = "1"
        return await call_next(context)

    manager = MiddlewareManager([ask])
    with manager.capture() as exchanges:
        async with intercepted(Client(url, mode="legacy"), manager) as client:
            await client.list_prompts()
    last = exchanges[-1]
    assert last.context.session_id
    assert last.context.jsonrpc_id == last.response.jsonrpc_response.id
    with manager.capture() as exchanges:
        async with intercepted(Client(url), manager) as client:
            await client.list_tools()
    assert exchanges[-1].context.session_id is None  # 2026-07-28 has no sessions


async def test_a_refused_server_leaves_nothing_open(target: Any) -> None:
    async def refuse(context: Any, call_next: Any) -> Any:
        await call_next(context)
        raise PermissionError("not on the list")

    client = intercept(Client(target, mode="legacy"), refuse)
    with (
        anyio.fail_after(60),
        pytest.raises(Exception, match=r"not on the list|unhandled errors|Exceptions from") as error,
    ):
        async with client:
            raise AssertionError("it was refused")
    # The SDK's transports raise groups.
    leaf: Any = error.value
    while len(getattr(leaf, "exceptions", ())) == 1:
        leaf = leaf.exceptions[0]
    assert isinstance(leaf, PermissionError)
    with pytest.raises(RuntimeError, match="within an async context manager"):
        _ = client.session


async def test_a_client_class_is_refused() -> None:
    with pytest.raises(UnsupportedTargetError, match=r"ClientSession"):
        intercept(Client)  # type: ignore[call-overload]


async def test_listening_passes_the_chain() -> None:
    manager = MiddlewareManager([through])
    with manager.capture() as exchanges:
        async with intercepted(Client(make_server()), manager) as client:
            async with client.listen(tools_list_changed=True) as subscription:
                assert subscription.honored.tools_list_changed
    assert "subscriptions/listen" in methods(exchanges)
    assert methods(exchanges, "incoming") == ["notifications/subscriptions/acknowledged"]


async def test_connect_is_no_different() -> None:
    """The session of `connect()` sends what that of an intercepted client does."""
    manager = MiddlewareManager([through])
    with manager.capture() as exchanges:
        async with connect(make_server(), manager, mode="auto") as session:
            await session.list_tools()
    with manager.capture() as others:
        async with intercepted(Client(make_server()), manager) as client:
            await client.list_tools()
    assert methods(exchanges) == methods(others)
