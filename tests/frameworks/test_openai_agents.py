"""An agent of the OpenAI Agents SDK, which runs on both lines of the MCP SDK. Needs `openai-agents`."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("agents") is None:
    pytest.skip("openai-agents is not installed", allow_module_level=True)
os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "true"

from agents import Agent, Runner
from agents.mcp import MCPServerStdio, MCPServerStreamableHttp
from agents.testing import ModelCall, ModelStep, ScriptedModel, assistant_message, function_call

from mcp_intercept import intercept, intercept_all
from tests.frameworks.replayed import assert_replays
from tests.frameworks.seen import Rewrite, Seen, Server, assert_seen
from tests.wire import LINE_1

pytestmark = [
    pytest.mark.anyio,
    # On line 1 it opens streamable HTTP by the name that the SDK has deprecated.
    pytest.mark.filterwarnings("ignore:Use `streamable_http_client` instead:DeprecationWarning"),
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the Runner makes tasks of asyncio


def answer(call: ModelCall) -> Any:
    """Say what the tool said."""
    output = call.input[-1]["output"]
    return [assistant_message(output["text"] if isinstance(output, dict) else output[0]["text"])]


def open_server(server: Server) -> Any:
    if server.url:
        return MCPServerStreamableHttp({"url": server.url})
    return MCPServerStdio({"command": server.command[0], "args": server.command[1:]}, client_session_timeout_seconds=30)


async def answer_with(mcp_server: Any) -> str:
    call = function_call("add", {"a": 1, "b": 2}, call_id="1")
    model = ScriptedModel([[call], ModelStep.respond(answer)])
    result = await Runner.run(Agent(name="test", model=model, mcp_servers=[mcp_server]), "What is 1 + 2?")
    return str(result.final_output)


async def answer_of(server: Server) -> str:
    async with open_server(server) as mcp_server:
        return await answer_with(mcp_server)


async def test_everything_an_agent_sends_is_seen(server: Server) -> None:
    seen = Seen()
    with intercept_all(seen):
        assert await answer_of(server) == "3"
    assert_seen(seen)
    assert seen.methods[0] == ("initialize" if LINE_1 else "server/discover")
    assert len({context.connection_id for context, _ in seen.exchanges}) == 1


async def test_what_a_middleware_rewrites_is_what_the_agent_answers(server: Server) -> None:
    with intercept_all(Rewrite()):
        assert await answer_of(server) == "41"


async def test_after_the_block_nothing_is_seen(server: Server) -> None:
    seen = Seen()
    with intercept_all(seen, Rewrite()) as manager:
        mcp_server = open_server(server)
        await mcp_server.connect()
        assert await answer_with(mcp_server) == "41"
    passed = len(seen.exchanges)
    try:
        assert await answer_with(mcp_server) == "3"
    finally:
        await mcp_server.cleanup()
    assert await answer_of(server) == "3"
    assert len(seen.exchanges) == passed
    assert not manager.sessions


async def test_a_server_that_was_connected_before_the_block(server: Server) -> None:
    seen = Seen()
    async with open_server(server) as mcp_server:
        with intercept_all(seen, Rewrite()):
            assert await answer_with(mcp_server) == "41"
    assert set(seen.methods) == {"tools/list", "tools/call"}


async def test_the_session_of_one_server(server: Server) -> None:
    seen = Seen()
    async with open_server(server) as mcp_server:
        mcp_server.session = intercept(mcp_server.session, seen, Rewrite(), connection_id="tests")
        assert await answer_with(mcp_server) == "41"
    assert set(seen.methods) == {"tools/list", "tools/call"}
    assert {context.connection_id for context, _ in seen.exchanges} == {"tests"}


async def test_what_is_recorded_replays_without_the_server(server: Server, tmp_path: Path) -> None:
    await assert_replays(answer_of, server, tmp_path)
