"""An agent of Pydantic AI, whose toolset is FastMCP's client, on either line. Needs `pydantic-ai-slim[mcp]`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("pydantic_ai") is None:
    pytest.skip("pydantic-ai is not installed", allow_module_level=True)

from fastmcp.client.transports import ClientTransport, StdioTransport, StreamableHttpTransport
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import FunctionModel

from mcp_intercept import intercept, intercept_all
from tests.frameworks.replayed import assert_replays
from tests.frameworks.seen import Rewrite, Seen, Server, assert_seen
from tests.server import ROOT
from tests.wire import LINE_1

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # FastMCP's client makes tasks of asyncio


def script(messages: Any, info: Any) -> ModelResponse:
    """Call `add`, then say what came back."""
    assert "add" in [tool.name for tool in info.function_tools]
    last = messages[-1].parts[-1]
    if isinstance(last, ToolReturnPart):
        return ModelResponse(parts=[TextPart(last.model_response_str())])
    return ModelResponse(parts=[ToolCallPart("add", {"a": 1, "b": 2})])


def transport_of(server: Server) -> ClientTransport:
    if server.url:
        return StreamableHttpTransport(server.url)
    # FastMCP keeps the process of a stdio server unless it is told not to.
    return StdioTransport(server.command[0], server.command[1:], keep_alive=False)


def toolset_of(server: Server) -> Any:
    return MCPToolset(transport_of(server))


async def answer_with(toolset: Any) -> str:
    result = await Agent(FunctionModel(script), toolsets=[toolset]).run("What is 1 + 2?")
    text: str = result.output
    return text


async def answer_of(server: Server) -> str:
    return await answer_with(toolset_of(server))


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
    toolset = toolset_of(server)
    with intercept_all(seen, Rewrite()):
        await toolset.__aenter__()
        assert await answer_with(toolset) == "41"
    passed = len(seen.exchanges)
    try:
        assert await answer_with(toolset) == "3"
    finally:
        await toolset.__aexit__(None, None, None)
    assert await answer_of(server) == "3"
    assert len(seen.exchanges) == passed


async def test_a_toolset_that_was_entered_before_the_block(server: Server) -> None:
    seen = Seen()
    async with toolset_of(server) as toolset:
        with intercept_all(seen, Rewrite()):
            assert await answer_with(toolset) == "41"
    assert set(seen.methods) == {"tools/list", "tools/call"}


class Intercepted(ClientTransport):  # type: ignore[misc]
    """Any transport of FastMCP, its sessions wrapped."""

    def __init__(self, transport: ClientTransport, *middlewares: Any) -> None:
        self.transport = transport
        self.middlewares = middlewares

    @asynccontextmanager
    async def connect_session(self, **options: Any) -> AsyncGenerator[Any, None]:
        async with self.transport.connect_session(**options) as session:
            yield intercept(session, *self.middlewares, connection_id="tests")


async def test_the_sessions_of_one_transport(server: Server) -> None:
    seen = Seen()
    assert await answer_with(MCPToolset(Intercepted(transport_of(server), seen, Rewrite()))) == "41"
    assert_seen(seen)
    assert {context.connection_id for context, _ in seen.exchanges} == {"tests"}


def test_a_traced_run_is_one_tree_with_one_span_a_call() -> None:
    """Also where FastMCP's client has a span of its own for each call."""
    command = [sys.executable, str(ROOT / "examples" / "agents" / "pydantic_ai_traced.py")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[1].startswith("invoke_agent")
    assert [line for line in lines[1:] if not line.startswith("  ")] == [lines[1]]
    [tool] = [at for at, line in enumerate(lines) if line.startswith("  execute_tool forecast (INTERNAL)")]
    assert lines[tool + 1].startswith("    tools/call forecast (CLIENT)")
    assert "'network.transport': 'pipe'" in lines[tool + 1]
    assert "mcp.protocol.version" in lines[tool + 1]
    assert len([line for line in lines if "tools/call" in line.partition(" (")[0]]) == 1


def test_the_example_of_a_test_replays_on_every_line_with_nobody_there() -> None:
    example = ROOT / "examples" / "agents" / "test_pydantic_ai_replayed.py"
    command = [sys.executable, "-m", "pytest", "-q", "--mcp-record=none", "--mcp-block", str(example)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout
    assert "1 passed" in run.stdout


async def test_what_is_recorded_replays_without_the_server(server: Server, tmp_path: Path) -> None:
    await assert_replays(answer_of, server, tmp_path)
