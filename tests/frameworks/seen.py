"""What the tests of the frameworks share: a middleware that sees, one that rewrites, and the server, on two transports.

In each test a scripted model calls the tool `add` with `{"a": 1, "b": 2}` of the server in `tests.server`, and then
answers with the text of the result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import Any, NamedTuple

import pytest
from mcp.types import CallToolRequestParams, CallToolResult

from mcp_intercept import Exchange, MCPResponseContext, Middleware, MiddlewareContext, NextFunctionT
from tests.server import STDIO, http_server


class Seen(Middleware):
    """Collects every message that passes and how it ended."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []

    @property
    def methods(self) -> list[str]:
        """The wire names, in the order in which the messages ended."""
        return [exchange.context.method for exchange in self.exchanges]

    def of(self, method: str) -> list[Exchange]:
        """The messages of one method."""
        return [exchange for exchange in self.exchanges if exchange.context.method == method]

    async def on_message(self, context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        try:
            result = await call_next(context)
        except BaseException as error:
            self.exchanges.append(Exchange(context, MCPResponseContext.create(context.id, None, error)))
            raise
        self.exchanges.append(Exchange(context, MCPResponseContext.create(context.id, result)))
        return result


class Rewrite(Middleware):
    """Sends 40 for `b`. It passes on a copy, so that a `Seen` outside it keeps what the agent said."""

    async def on_call_tool(
        self,
        context: MiddlewareContext[CallToolRequestParams],
        call_next: NextFunctionT[CallToolRequestParams, CallToolResult],
    ) -> CallToolResult:
        params = context.params.model_copy(update={"arguments": {**(context.params.arguments or {}), "b": 40}})
        return await call_next(dataclasses.replace(context, params=params))


def assert_seen(seen: Seen) -> None:
    """An agent's run passed: the handshake of either protocol era, the list and the one call, and all ended well."""
    assert {"initialize", "server/discover"} & set(seen.methods)
    assert "tools/list" in seen.methods
    [(call, _)] = seen.of("tools/call")
    assert (call.params.name, call.params.arguments) == ("add", {"a": 1, "b": 2})
    assert call.direction == "outgoing"
    outgoing = [exchange for exchange in seen.exchanges if exchange.context.direction == "outgoing"]
    assert all(context.connection_id for context, _ in outgoing)
    assert {response.outcome for _, response in outgoing} == {"ok"}


class Server(NamedTuple):
    """How to reach the server: the command that speaks stdio, or the URL of streamable HTTP."""

    command: list[str]
    """Empty where the transport is HTTP."""

    url: str
    """Empty where the transport is stdio."""


SERVERS = ["stdio", "http"]


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Generator[Server, None, None]:
    """The real server, on one transport after the other."""
    if request.param == "stdio":
        yield Server(STDIO, "")
    else:
        with http_server("http") as url:
            yield Server([], url)
