"""Middleware for MCP clients: see, shape, trace and record what an agent says to its MCP servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_intercept._chain import AnyMiddleware, NextFunctionT
from mcp_intercept._connect import connect
from mcp_intercept._context import (
    CallOptions,
    Direction,
    Exchange,
    Kind,
    MCPResponseContext,
    MiddlewareContext,
    Outcome,
    ProgressCallback,
)
from mcp_intercept._everywhere import intercept_all
from mcp_intercept._intercept import intercept
from mcp_intercept._manager import MiddlewareManager
from mcp_intercept._middleware import Middleware, hook
from mcp_intercept._session import CallbackClientSession
from mcp_intercept._wire import FrameListener
from mcp_intercept.errors import InterceptError, MiddlewareError

__all__ = [
    "AnyMiddleware",
    "CallOptions",
    "CallbackClientSession",
    "Direction",
    "Exchange",
    "FrameListener",
    "InterceptError",
    "Kind",
    "MCPResponseContext",
    "Middleware",
    "MiddlewareContext",
    "MiddlewareError",
    "MiddlewareManager",
    "NextFunctionT",
    "Outcome",
    "ProgressCallback",
    "connect",
    "hook",
    "intercept",
    "intercept_all",
]

if TYPE_CHECKING:
    __version__: str
else:
    # Hidden from type checkers, which would take any name for a string.
    def __getattr__(name: str) -> str:
        if name == "__version__":
            # Reading the metadata takes longer than everything else here.
            from importlib.metadata import version

            return version("mcp-intercept-sdk")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
