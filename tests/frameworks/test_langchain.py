"""An agent of LangChain with the tools of langchain-mcp-adapters. Needs `langchain-mcp-adapters` and `langchain`."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("langchain_mcp_adapters") is None:
    pytest.skip("langchain-mcp-adapters is not installed", allow_module_level=True)
os.environ["LANGSMITH_TRACING"] = "false"

from langchain.agents import create_agent
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools

from mcp_intercept import intercept, intercept_all
from tests.frameworks.langchain_model import ScriptedModel
from tests.frameworks.replayed import assert_replays
from tests.frameworks.seen import Rewrite, Seen, Server, assert_seen

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # MultiServerMCPClient makes tasks of asyncio


def client_of(server: Server) -> MultiServerMCPClient:
    connection: Any
    if server.url:
        connection = {"transport": "streamable_http", "url": server.url}
    else:
        connection = {"transport": "stdio", "command": server.command[0], "args": server.command[1:]}
    return MultiServerMCPClient({"tests": connection})


async def answer_with(tools: Any) -> str:
    agent: Any = create_agent(ScriptedModel(), tools)
    state = await agent.ainvoke({"messages": [("user", "What is 1 + 2?")]})
    text: str = state["messages"][-1].text
    return text


async def answer_of(server: Server) -> str:
    return await answer_with(await client_of(server).get_tools())


async def test_everything_an_agent_sends_is_seen(server: Server) -> None:
    seen = Seen()
    with intercept_all(seen):
        assert await answer_of(server) == "3"
    assert_seen(seen)
    assert seen.methods[0] == "initialize"
    # The adapters open a session for the list, and one for each call.
    assert len({context.connection_id for context, _ in seen.exchanges}) == 2


async def test_what_a_middleware_rewrites_is_what_the_agent_answers(server: Server) -> None:
    with intercept_all(Rewrite()):
        assert await answer_of(server) == "41"


async def test_after_the_block_nothing_is_seen(server: Server) -> None:
    seen = Seen()
    with intercept_all(seen, Rewrite()):
        tools = await client_of(server).get_tools()
        assert await answer_with(tools) == "41"
    passed = len(seen.exchanges)
    assert await answer_with(tools) == "3"
    assert await answer_of(server) == "3"
    assert len(seen.exchanges) == passed


async def test_a_session_that_was_opened_before_the_block(server: Server) -> None:
    seen = Seen()
    async with client_of(server).session("tests") as session:
        with intercept_all(seen, Rewrite()):
            assert await answer_with(await load_mcp_tools(session)) == "41"
    assert set(seen.methods) == {"tools/list", "tools/call"}


async def test_the_tools_of_one_intercepted_session(server: Server) -> None:
    seen = Seen()
    async with client_of(server).session("tests", auto_initialize=False) as session:
        session = intercept(session, seen, Rewrite(), connection_id="tests")
        await session.initialize()
        assert await answer_with(await load_mcp_tools(session)) == "41"
    assert_seen(seen)
    assert {context.connection_id for context, _ in seen.exchanges} == {"tests"}


async def test_what_is_recorded_replays_without_the_server(server: Server, tmp_path: Path) -> None:
    await assert_replays(answer_of, server, tmp_path)
