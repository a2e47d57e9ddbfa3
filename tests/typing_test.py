"""What an editor knows. Nothing here runs: type checkers prove it, on both SDK lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mcp.types as types
from typing_extensions import assert_type  # pydantic brings it

from mcp_intercept import CallbackClientSession, Middleware, MiddlewareContext, NextFunctionT, connect, intercept

if TYPE_CHECKING:
    from mcp import ClientSession


class Typed(Middleware):
    async def on_call_tool(
        self,
        context: MiddlewareContext[types.CallToolRequestParams],
        call_next: NextFunctionT[types.CallToolRequestParams, types.CallToolResult],
    ) -> types.CallToolResult:
        assert_type(context.params, types.CallToolRequestParams)
        assert_type(context.params.name, str)
        assert_type(context.options.timeout, float | None)
        result = await call_next(context)
        assert_type(result, types.CallToolResult)
        return result

    async def on_list_tools(
        self,
        context: MiddlewareContext[types.PaginatedRequestParams | None],
        call_next: NextFunctionT[types.PaginatedRequestParams | None, types.ListToolsResult],
    ) -> types.ListToolsResult:
        assert_type(context.params, types.PaginatedRequestParams | None)
        return await call_next(context)


class AsInMcpUse(Middleware):
    async def on_call_tool(
        self, context: MiddlewareContext[types.CallToolRequestParams], call_next: NextFunctionT
    ) -> types.CallToolResult:
        return await call_next(context)  # type: ignore[no-any-return]  # mcp-use does not say what it returns


async def function(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
    return await call_next(context)


def everything_that_is_a_middleware_is_taken(session: ClientSession) -> None:
    assert_type(intercept(session, Typed(), AsInMcpUse(), function), CallbackClientSession)


async def a_session_is_a_client_session() -> None:
    async with connect(["server"], Typed(), function) as session:
        assert_type(session, CallbackClientSession)
        assert_type(await session.list_tools(), types.ListToolsResult)
        assert_type(await session.call_tool("add"), types.CallToolResult)
