"""Every example of mcp-use's page on client middleware, written for mcp_intercept.

Run it: `python examples/coming_from_mcp_use.py`. Only the first line of each section differs from theirs, where at all.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any

import anyio
from mcp.types import CallToolRequestParams, CallToolResult

from mcp_intercept import Middleware, MiddlewareContext, MiddlewareManager, NextFunctionT, connect
from mcp_intercept.middleware import LoggingMiddleware

SERVER = [sys.executable, "-m", "mcp_intercept", "demo-server"]


# Quick start
class CustomMiddleware(Middleware):
    async def on_call_tool(
        self, context: MiddlewareContext[CallToolRequestParams], call_next: NextFunctionT
    ) -> CallToolResult:
        print(f"Calling tool {context.params.name}")
        return await call_next(context)


# A single entry point for all requests
class MyMiddleware(Middleware):
    async def on_request(self, context: MiddlewareContext[Any], call_next: NextFunctionT) -> Any:
        # before
        result = await call_next(context)
        print(f"{context.method} came back")
        return result


# Timing
class TimingMiddleware(Middleware):
    async def on_request(self, context: MiddlewareContext[Any], call_next: NextFunctionT) -> Any:
        start = time.monotonic()
        try:
            return await call_next(context)
        finally:
            print(f"{context.method} took {time.monotonic() - start:.3f}s")


# Error handling
class ErrorAware(Middleware):
    async def on_request(self, context: MiddlewareContext[Any], call_next: NextFunctionT) -> Any:
        try:
            return await call_next(context)
        except Exception as error:
            context.metadata["error"] = str(error)
            raise


# Notes that middlewares leave each other
class Auth(Middleware):
    async def on_request(self, context: MiddlewareContext[Any], call_next: NextFunctionT) -> Any:
        context.metadata["user"] = "alice"
        return await call_next(context)


class Audit(Middleware):
    async def on_request(self, context: MiddlewareContext[Any], call_next: NextFunctionT) -> Any:
        print(f"{context.metadata.get('user', 'unknown')} -> {context.method}")
        return await call_next(context)


# Changing arguments, and HTTP headers, which here are sent without further ado
class AddTraceMiddleware(Middleware):
    async def on_call_tool(
        self, context: MiddlewareContext[CallToolRequestParams], call_next: NextFunctionT
    ) -> CallToolResult:
        context.params.arguments = {**(context.params.arguments or {}), "city": "Bergen"}
        context.options.headers["X-Trace-Id"] = "trace-123"
        return await call_next(context)


async def main() -> None:
    # Default logging, and stacks of one's own: here each manager is one.
    manager = MiddlewareManager(
        [LoggingMiddleware(), CustomMiddleware(), MyMiddleware(), ErrorAware(), Auth(), Audit()]
    )

    # Metrics
    counts: Counter[tuple[str, str]] = Counter()
    manager.add_observer(lambda context, response: counts.update([(context.method, response.outcome)]))

    async with connect(SERVER, manager) as session:
        await session.call_tool("forecast", {"city": "Oslo"})
        # Adding middleware during execution, and taking it out again
        undo = manager.add_middleware(TimingMiddleware())
        await session.list_tools()
        undo()
        manager.add_middleware(AddTraceMiddleware())
        result = await session.call_tool("forecast", {"city": "Oslo"})
        print(getattr(result.content[0], "text", None))
    print(counts["tools/call", "ok"], "calls")


if __name__ == "__main__":
    anyio.run(main)
