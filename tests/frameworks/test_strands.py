"""An agent of Strands with the tools of an MCP server. Needs `strands-agents`."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import pytest

if importlib.util.find_spec("strands") is None:
    pytest.skip("strands-agents is not installed", allow_module_level=True)
os.environ["OTEL_SDK_DISABLED"] = "true"

from mcp import StdioServerParameters, stdio_client
from strands import Agent
from strands.models import Model
from strands.tools.mcp import MCPClient

from mcp_intercept import MiddlewareManager, intercept_all
from tests.frameworks.replayed import assert_replays
from tests.frameworks.seen import Rewrite, Seen, Server, assert_seen

# On line 1 it uses the deprecated name of the transport.
pytestmark = pytest.mark.filterwarnings("ignore:Use `streamable_http_client` instead:DeprecationWarning")


class ScriptedModel(Model):  # type: ignore[misc]
    """Calls `add`, then answers with what came back."""

    def update_config(self, **model_config: Any) -> None: ...

    def get_config(self) -> Any:
        return {}

    def structured_output(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def stream(
        self, messages: Any, tool_specs: Any = None, *args: Any, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        assert "add" in [spec["name"] for spec in tool_specs]
        results = [block["toolResult"] for block in messages[-1]["content"] if "toolResult" in block]
        start: dict[str, Any] = {}
        if results:
            delta = {"text": results[0]["content"][0]["text"]}
        else:
            start = {"toolUse": {"name": "add", "toolUseId": "1"}}
            delta = {"toolUse": {"input": '{"a": 1, "b": 2}'}}
        yield {"messageStart": {"role": "assistant"}}
        yield {"contentBlockStart": {"start": start}}
        yield {"contentBlockDelta": {"delta": delta}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn" if results else "tool_use"}}


def client_of(server: Server) -> MCPClient:
    if server.url:
        return MCPClient(url=server.url)
    parameters = StdioServerParameters(command=server.command[0], args=server.command[1:])
    return MCPClient(lambda: stdio_client(parameters))


def answer_with(client: MCPClient) -> str:
    """Run an agent, which does not speak to the console. It runs in one thread, its session in another."""
    agent = Agent(ScriptedModel(), tools=client.list_tools_sync(), callback_handler=None)
    return str(agent("What is 1 + 2?")).strip()


def answer_of(server: Server) -> str:
    with client_of(server) as client:
        return answer_with(client)


def test_everything_an_agent_sends_is_seen(server: Server) -> None:
    seen = Seen()
    with intercept_all(seen):
        assert answer_of(server) == "3"
    assert_seen(seen)
    assert len({context.connection_id for context, _ in seen.exchanges}) == 1


def test_what_a_middleware_rewrites_is_what_the_agent_answers(server: Server) -> None:
    with intercept_all(Rewrite()):
        assert answer_of(server) == "41"


def test_after_the_block_nothing_is_seen(server: Server) -> None:
    seen = Seen()
    with client_of(server) as client:
        with intercept_all(seen, Rewrite()):
            assert answer_with(client) == "41"
        passed = len(seen.exchanges)
        assert answer_with(client) == "3"
    assert answer_of(server) == "3"
    assert len(seen.exchanges) == passed


def test_an_agent_that_opens_and_closes_the_client_itself(server: Server) -> None:
    manager = MiddlewareManager([Rewrite()])
    with intercept_all(manager), manager.capture() as exchanges:
        agent = Agent(ScriptedModel(), tools=[client_of(server)], callback_handler=None)
        assert str(agent("What is 1 + 2?")).strip() == "41"
        agent.cleanup()
    assert "tools/call" in [exchange.context.method for exchange in exchanges]


def test_what_is_recorded_replays_without_the_server(server: Server, tmp_path: Path) -> None:
    anyio.run(assert_replays, answer_of, server, tmp_path)
