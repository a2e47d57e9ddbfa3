"""An agent of LlamaIndex with the tools of an MCP server. Needs `llama-index-tools-mcp` and `llama-index-core`."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

# Other distributions share the namespace `llama_index`.
if importlib.util.find_spec("llama_index") is None or importlib.util.find_spec("llama_index.tools.mcp") is None:
    pytest.skip("llama-index-tools-mcp is not installed", allow_module_level=True)

from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.tools.mcp import BasicMCPClient, McpToolSpec

from mcp_intercept import connect, intercept_all
from tests.frameworks.replayed import assert_replays
from tests.frameworks.seen import Rewrite, Seen, Server, assert_seen

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # its workflows make tasks of asyncio


def answer_in(message: Any) -> str:
    """The text of the tool's result; LlamaIndex shows the model the whole of it, as Python prints it."""
    found = re.search(r"text='(\d+)'", message.content)
    assert found
    return found[1]


def call_functions(messages: list[ChatMessage], *, tools: Any, **kwargs: Any) -> ChatMessage:
    """Call `add`, then answer with what came back."""
    if messages[-1].role == "tool":
        return ChatMessage(role="assistant", content=answer_in(messages[-1]))
    assert "add" in [tool.metadata.name for tool in tools]
    call = ToolCallBlock(tool_call_id="1", tool_name="add", tool_kwargs={"a": 1, "b": 2})
    return ChatMessage(role="assistant", blocks=[call])


def act(messages: list[ChatMessage], **kwargs: Any) -> ChatMessage:
    """The same for an agent that reads what to do from the text of the model."""
    if str(messages[-1].content).startswith("Observation:"):
        text = f"Thought: I can answer.\nAnswer: {answer_in(messages[-1])}"
    else:
        text = 'Thought: I need a tool.\nAction: add\nAction Input: {"a": 1, "b": 2}'
    return ChatMessage(role="assistant", content=text)


@asynccontextmanager
async def client_of(server: Server) -> AsyncGenerator[BasicMCPClient, None]:
    command, *arguments = [server.url] if server.url else server.command
    client = BasicMCPClient(command, arguments)
    try:
        yield client
    finally:
        await client.http_client.aclose()  # which it leaves to us


async def answer_with(tools: Any) -> str:
    llm = MockFunctionCallingLLM(response_generator=call_functions)
    return str(await FunctionAgent(tools=tools, llm=llm).run("What is 1 + 2?"))


async def answer_of(client: Any) -> str:
    return await answer_with(await McpToolSpec(client).to_tool_list_async())


async def test_everything_an_agent_sends_is_seen(server: Server) -> None:
    seen = Seen()
    async with client_of(server) as client:
        with intercept_all(seen):
            assert await answer_of(client) == "3"
    assert_seen(seen)
    # The client opens a session for the list, and one for each call.
    assert len({context.connection_id for context, _ in seen.exchanges}) == 2


async def test_everything_an_agent_that_reasons_sends_is_seen(server: Server) -> None:
    seen = Seen()
    async with client_of(server) as client:
        with intercept_all(seen):
            tools = await McpToolSpec(client).to_tool_list_async()
            agent = ReActAgent(tools=tools, llm=MockFunctionCallingLLM(response_generator=act))
            assert str(await agent.run("What is 1 + 2?")) == "3"
    assert_seen(seen)


async def test_what_a_middleware_rewrites_is_what_the_agent_answers(server: Server) -> None:
    async with client_of(server) as client:
        with intercept_all(Rewrite()):
            assert await answer_of(client) == "41"


async def test_after_the_block_nothing_is_seen(server: Server) -> None:
    seen = Seen()
    async with client_of(server) as client:
        with intercept_all(seen, Rewrite()):
            tools = await McpToolSpec(client).to_tool_list_async()
            assert await answer_with(tools) == "41"
        passed = len(seen.exchanges)
        assert await answer_with(tools) == "3"
        assert await answer_of(client) == "3"
    assert len(seen.exchanges) == passed


async def test_the_tools_of_one_intercepted_session(server: Server) -> None:
    seen = Seen()
    async with connect(server.url or server.command, seen, Rewrite()) as session:
        assert await answer_of(session) == "41"
    assert_seen(seen)
    assert len({context.connection_id for context, _ in seen.exchanges}) == 1


async def answer_from(server: Server) -> str:
    async with client_of(server) as client:
        return await answer_of(client)


async def test_what_is_recorded_replays_without_the_server(server: Server, tmp_path: Path) -> None:
    await assert_replays(answer_from, server, tmp_path)
