"""An agent of Google's ADK with the tools of an MCP server. Needs `google-adk[mcp]`."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession, StdioServerParameters

# Other distributions share the namespace `google`.
if importlib.util.find_spec("google") is None or importlib.util.find_spec("google.adk") is None:
    pytest.skip("google-adk is not installed", allow_module_level=True)
os.environ["OTEL_SDK_DISABLED"] = "true"
# Else it looks for credentials of Google's cloud, in the network too, before it connects to any URL.
os.environ["GOOGLE_API_USE_CLIENT_CERTIFICATE"] = "false"

from google.adk.agents import LlmAgent
from google.adk.models import BaseLlm, LlmRequest, LlmResponse
from google.adk.runners import InMemoryRunner
from google.adk.tools.mcp_tool import McpTool, McpToolset, StdioConnectionParams, StreamableHTTPConnectionParams
from google.adk.tools.mcp_tool.mcp_session_manager import MCPSessionManager
from google.genai import types

from mcp_intercept import intercept, intercept_all
from tests.frameworks.replayed import assert_replays
from tests.frameworks.seen import Rewrite, Seen, Server, assert_seen

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # ADK makes tasks of asyncio


class ScriptedModel(BaseLlm):  # type: ignore[misc]
    """Calls `add`, then answers with what came back."""

    async def generate_content_async(self, llm_request: LlmRequest, stream: bool = False) -> AsyncGenerator[Any, None]:
        assert "add" in llm_request.tools_dict
        answer: Any = llm_request.contents[-1].parts[0].function_response
        if answer is None:
            part = types.Part.from_function_call(name="add", args={"a": 1, "b": 2})
        else:
            part = types.Part(text=answer.response["content"][0]["text"])
        yield LlmResponse(content=types.Content(role="model", parts=[part]))


def parameters_of(server: Server) -> Any:
    if server.url:
        return StreamableHTTPConnectionParams(url=server.url)
    command = StdioServerParameters(command=server.command[0], args=server.command[1:])
    return StdioConnectionParams(server_params=command, timeout=30)


@asynccontextmanager
async def toolset_of(server: Server) -> AsyncGenerator[McpToolset, None]:
    toolset = McpToolset(connection_params=parameters_of(server))
    try:
        yield toolset
    finally:
        await toolset.close()


async def answer_with(tools: list[Any]) -> str:
    agent = LlmAgent(name="tests", model=ScriptedModel(model="scripted"), tools=tools)
    events: list[Any] = await InMemoryRunner(agent).run_debug("What is 1 + 2?", quiet=True)
    text: str = events[-1].content.parts[0].text
    return text


async def answer_of(server: Server) -> str:
    async with toolset_of(server) as toolset:
        return await answer_with([toolset])


async def test_everything_an_agent_sends_is_seen(server: Server) -> None:
    seen = Seen()
    with intercept_all(seen):
        assert await answer_of(server) == "3"
    assert_seen(seen)
    assert len({context.connection_id for context, _ in seen.exchanges}) == 1


async def test_what_a_middleware_rewrites_is_what_the_agent_answers(server: Server) -> None:
    with intercept_all(Rewrite()):
        assert await answer_of(server) == "41"


async def test_after_the_block_nothing_is_seen(server: Server) -> None:
    seen = Seen()
    async with toolset_of(server) as toolset:
        with intercept_all(seen, Rewrite()):
            assert await answer_with([toolset]) == "41"
        passed = len(seen.exchanges)
        assert await answer_with([toolset]) == "3"
    assert await answer_of(server) == "3"
    assert len(seen.exchanges) == passed


@pytest.mark.skipif(not hasattr(ClientSession, "discover"), reason="SDK 1.x does not have it")
async def test_the_handshake_of_newer_protocols_is_seen(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADK_ENABLE_MCP_MODERN_PROTOCOL", "1")
    seen = Seen()
    with intercept_all(seen):
        assert await answer_of(server) == "3"
    assert_seen(seen)
    assert seen.methods[0] == "server/discover"


class InterceptedSessions(MCPSessionManager):  # type: ignore[misc]
    """A session manager of ADK whose sessions are wrapped: the way that needs no `intercept_all`."""

    middlewares: tuple[Any, ...] = ()

    async def create_session(self, headers: dict[str, str] | None = None) -> Any:
        return intercept(await super().create_session(headers), *self.middlewares, connection_id="tests")


async def test_the_tools_of_intercepted_sessions(server: Server) -> None:
    seen = Seen()
    sessions = InterceptedSessions(parameters_of(server))
    sessions.middlewares = (seen, Rewrite())
    try:
        session: Any = await sessions.create_session()
        listed = (await session.list_tools()).tools
        tools = [McpTool(mcp_tool=tool, mcp_session_manager=sessions) for tool in listed]
        assert await answer_with(tools) == "41"
    finally:
        await sessions.close()
    assert seen.methods == ["tools/list", "tools/call"]  # ADK has made the handshake by then
    assert {context.connection_id for context, _ in seen.exchanges} == {"tests"}


async def test_what_is_recorded_replays_without_the_server(server: Server, tmp_path: Path) -> None:
    await assert_replays(answer_of, server, tmp_path)
