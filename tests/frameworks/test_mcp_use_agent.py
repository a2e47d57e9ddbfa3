"""An agent of mcp-use. Needs `mcp-use`; its middlewares are tested in `tests/test_mcp_use.py`."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("mcp_use") is None:
    pytest.skip("mcp-use is not installed", allow_module_level=True)
os.environ["MCP_USE_ANONYMIZED_TELEMETRY"] = "false"
os.environ["MCP_USE_LANGFUSE"] = os.environ["MCP_USE_LAMINAR"] = os.environ["LANGSMITH_TRACING"] = "false"

from mcp_use import MCPAgent, MCPClient

from mcp_intercept import intercept_all
from tests.frameworks.langchain_model import ScriptedModel
from tests.frameworks.replayed import assert_replays
from tests.frameworks.seen import Rewrite, Seen, Server, assert_seen

pytestmark = [
    pytest.mark.anyio,
    # It closes neither its sessions nor their streams: without a middleware, too.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # its connection managers make tasks of asyncio


@asynccontextmanager
async def open_client(server: Server) -> AsyncGenerator[Any, None]:
    if server.url:
        entry: dict[str, Any] = {"url": server.url}
    else:
        entry = {"command": server.command[0], "args": server.command[1:]}
    client = MCPClient({"mcpServers": {"tests": entry}})
    try:
        yield client
    finally:
        await client.close_all_sessions()


async def answer_with(client: Any) -> str:
    agent = MCPAgent(llm=ScriptedModel(), client=client, auto_initialize=True)
    answer: str = await agent.run("What is 1 + 2?", manage_connector=False)
    return answer


async def answer_of(server: Server) -> str:
    async with open_client(server) as client:
        await client.create_all_sessions()
        return await answer_with(client)


async def test_everything_an_agent_sends_is_seen(server: Server) -> None:
    seen = Seen()
    with intercept_all(seen):
        assert await answer_of(server) == "3"
    assert_seen(seen)
    assert seen.methods[0] == "initialize"
    assert len({context.connection_id for context, _ in seen.exchanges}) == 1


async def test_what_a_middleware_rewrites_is_what_the_agent_answers(server: Server) -> None:
    with intercept_all(Rewrite()):
        assert await answer_of(server) == "41"


async def test_after_the_block_nothing_is_seen(server: Server) -> None:
    seen = Seen()
    async with open_client(server) as client:
        with intercept_all(seen, Rewrite()):
            assert await answer_with(client) == "41"
        passed = len(seen.exchanges)
        assert await answer_with(client) == "3"
    assert await answer_of(server) == "3"
    assert len(seen.exchanges) == passed


async def test_a_client_that_was_connected_before_the_block(server: Server) -> None:
    seen = Seen()
    async with open_client(server) as client:
        await client.create_all_sessions()
        with intercept_all(seen, Rewrite()):
            assert await answer_with(client) == "41"
    assert "initialize" not in seen.methods
    assert "tools/call" in seen.methods


async def test_what_is_recorded_replays_without_the_server(server: Server, tmp_path: Path) -> None:
    await assert_replays(answer_of, server, tmp_path)
