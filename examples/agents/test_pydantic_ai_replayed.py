"""A test of a whole agent of Pydantic AI, replayed with no server: what its toolset opens by itself is on the cassette.

Needs `pip install "pydantic-ai-slim[mcp]" pytest`. The model is a script, so that it runs anywhere; with a real one,
record its HTTP with VCR.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
from fastmcp.client.transports import StdioTransport
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import FunctionModel

# Any MCP server will do; this one comes with the package.
SERVER = [sys.executable, "-m", "mcp_intercept", "demo-server"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def model(messages: Any, info: Any) -> ModelResponse:
    """Ask for the forecast, then repeat it."""
    last = messages[-1].parts[-1]
    if isinstance(last, ToolReturnPart):
        return ModelResponse(parts=[TextPart(last.model_response_str())])
    return ModelResponse(parts=[ToolCallPart("forecast", {"city": "Oslo"})])


@pytest.mark.anyio
@pytest.mark.mcp_tape
async def test_the_agent_knows_the_weather() -> None:
    toolset = MCPToolset(StdioTransport(SERVER[0], SERVER[1:], keep_alive=False))
    result = await Agent(FunctionModel(model), toolsets=[toolset]).run("What will the weather be in Oslo?")
    assert "light snow" in result.output
