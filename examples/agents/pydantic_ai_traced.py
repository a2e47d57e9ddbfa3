"""An agent of Pydantic AI, traced: the run, the model, the tool, the MCP server, in one tree.

Needs `pip install "pydantic-ai-slim[mcp]" opentelemetry-sdk`. The model is a script, so that it runs anywhere.
Where the framework has an `execute_tool` span for a tool, the MCP call adds its attributes to that instead of making
another.
"""

from __future__ import annotations

import sys
from typing import Any

import anyio
from fastmcp.client.transports import StdioTransport
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import FunctionModel

from mcp_intercept import intercept_all
from mcp_intercept.middleware import TracingMiddleware

# Any MCP server will do; this one comes with the package.
SERVER = StdioTransport(sys.executable, ["-m", "mcp_intercept", "demo-server"], keep_alive=False)


def model(messages: Any, info: Any) -> ModelResponse:
    """Ask for the forecast, then repeat it."""
    last = messages[-1].parts[-1]
    if isinstance(last, ToolReturnPart):
        return ModelResponse(parts=[TextPart(last.model_response_str())])
    return ModelResponse(parts=[ToolCallPart("forecast", {"city": "Oslo"})])


async def main() -> None:
    agent = Agent(FunctionModel(model), toolsets=[MCPToolset(SERVER)])
    result = await agent.run("What will the weather be in Oslo?")
    print(result.output)


def show(spans: Any) -> None:
    """Print the spans as a tree, with what of MCP is in them."""

    def below(parent: int | None, depth: int) -> None:
        for span in sorted(spans, key=lambda span: span.start_time):
            if (span.parent and span.parent.span_id) == parent:
                mcp = {name: value for name, value in span.attributes.items() if name.startswith(("mcp.", "network."))}
                print("  " * depth + f"{span.name} ({span.kind.name})", mcp or "")
                below(span.context.span_id, depth + 1)

    below(None, 0)


exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))  # an OTLPSpanExporter sends them to a collector instead
trace.set_tracer_provider(provider)
Agent.instrument_all()

with intercept_all(TracingMiddleware()):
    anyio.run(main)
show(exporter.get_finished_spans())
