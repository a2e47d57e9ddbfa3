"""The client of FastMCP, without an agent, on either line. Needs `fastmcp`."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession

if importlib.util.find_spec("fastmcp") is None:
    pytest.skip("fastmcp is not installed", allow_module_level=True)
os.environ["FASTMCP_CHECK_FOR_UPDATES"] = "off"
os.environ["FASTMCP_SHOW_SERVER_BANNER"] = "false"

from fastmcp import Client, FastMCP
from fastmcp.client.transports import ClientTransport, StdioTransport, StreamableHttpTransport

from mcp_intercept import intercept, intercept_all
from tests.frameworks.replayed import assert_replays
from tests.frameworks.seen import Rewrite, Seen, Server, assert_seen

pytestmark = [
    pytest.mark.anyio,
    # It gives line 2 the names of line 1 back, which nothing here should read by mistake. It warns of each only once.
    pytest.mark.filterwarnings("error:Accessing `:DeprecationWarning"),
]

IS_LINE_2 = hasattr(ClientSession, "discover")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # its transports make tasks of asyncio


def transport_of(server: Server) -> Any:
    if server.url:
        return StreamableHttpTransport(server.url)
    return StdioTransport(server.command[0], server.command[1:], keep_alive=False)


async def answer_from(client: Client[Any]) -> str:
    """What a client without an agent does: look for the tool, call it."""
    assert "add" in [tool.name for tool in await client.list_tools()]
    result: Any = await client.call_tool("add", {"a": 1, "b": 2})
    text: str = result.content[0].text
    return text


async def answer_of(transport: Any, **options: Any) -> str:
    async with Client(transport, **options) as client:
        return await answer_from(client)


async def test_everything_a_client_sends_is_seen(server: Server) -> None:
    seen = Seen()
    with intercept_all(seen):
        assert await answer_of(transport_of(server)) == "3"
    assert_seen(seen)
    assert seen.methods[0] == ("server/discover" if IS_LINE_2 else "initialize")
    assert len({context.connection_id for context, _ in seen.exchanges}) == 1


@pytest.mark.skipif(not IS_LINE_2, reason="SDK 1.x knows no other protocols")
async def test_everything_a_client_of_older_protocols_sends_is_seen(server: Server) -> None:
    seen = Seen()
    with intercept_all(seen):
        assert await answer_of(transport_of(server), mode="legacy") == "3"
    assert_seen(seen)
    assert seen.methods[:2] == ["initialize", "notifications/initialized"]


async def test_what_a_middleware_rewrites_is_what_the_client_gets(server: Server) -> None:
    with intercept_all(Rewrite()):
        assert await answer_of(transport_of(server)) == "41"


async def test_after_the_block_nothing_is_seen(server: Server) -> None:
    seen = Seen()
    async with Client(transport_of(server)) as client:
        with intercept_all(seen, Rewrite()):
            assert await answer_from(client) == "41"
        passed = len(seen.exchanges)
        assert await answer_from(client) == "3"
    assert await answer_of(transport_of(server)) == "3"
    assert len(seen.exchanges) == passed


async def test_a_server_in_the_same_process() -> None:
    app: Any = FastMCP("tests")

    def add(a: int, b: int) -> int:
        return a + b

    app.tool(add)
    seen = Seen()
    with intercept_all(seen, Rewrite()):
        assert await answer_of(app) == "41"
    assert_seen(seen)


class Intercepted(ClientTransport):  # type: ignore[misc]
    """A transport of fastmcp, with a chain around the session it makes: the way that needs no `intercept_all`."""

    def __init__(self, transport: ClientTransport, *middlewares: Any) -> None:
        self.transport = transport
        self.middlewares = middlewares

    @asynccontextmanager
    async def connect_session(self, **options: Any) -> AsyncGenerator[Any, None]:
        async with self.transport.connect_session(**options) as session:
            yield intercept(session, *self.middlewares, connection_id="tests")


async def test_a_transport_that_intercepts_its_session(server: Server) -> None:
    seen = Seen()
    assert await answer_of(Intercepted(transport_of(server), seen, Rewrite())) == "41"
    assert_seen(seen)
    assert {context.connection_id for context, _ in seen.exchanges} == {"tests"}


async def test_what_is_recorded_replays_without_the_server(server: Server, tmp_path: Path) -> None:
    await assert_replays(lambda server: answer_of(transport_of(server)), server, tmp_path)
