"""Middleware for MCP clients: see, shape, trace and record what an agent says to its MCP servers.

PYTEST_DONT_REWRITE: the pytest plugin is not to complain where this was imported before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcp_intercept._cassette import Cassette, use_cassette
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

    __version__: str

__all__ = [
    "AnyMiddleware",
    "CallOptions",
    "CallbackClientSession",
    "Cassette",
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
    "use_cassette",
]

if not TYPE_CHECKING:  # pragma: no branch - it never is, while it runs
    # Where the names above live. They are imported when first used: most of them import `mcp`, and with it servers that
    # others want to instrument before, in every Python that `opentelemetry-instrument` starts.
    _HOMES = {
        "_cassette": ("Cassette", "use_cassette"),
        "_chain": ("AnyMiddleware", "NextFunctionT"),
        "_connect": ("connect",),
        "_context": (
            "CallOptions",
            "Direction",
            "Exchange",
            "Kind",
            "MCPResponseContext",
            "MiddlewareContext",
            "Outcome",
            "ProgressCallback",
        ),
        "_everywhere": ("intercept_all",),
        "_intercept": ("intercept",),
        "_manager": ("MiddlewareManager",),
        "_middleware": ("Middleware", "hook"),
        "_session": ("CallbackClientSession",),
        "_wire": ("FrameListener",),
        "errors": ("InterceptError", "MiddlewareError"),
    }
    _HOME = {name: home for home, names in _HOMES.items() for name in names}
    _MODULES = frozenset({"errors", "methods", "middleware", "recording", "testing"})

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name == "__version__":
            # Reading the metadata takes longer than everything else here.
            from importlib.metadata import version

            return version("mcp-intercept-sdk")
        if name in _MODULES:
            return import_module(f"{__name__}.{name}")
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # From now on it is found without coming here.
        globals()[name] = value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, *_MODULES})
