"""Helpers for your own tests: a server that says what you script, a log of every message, and faults on demand.

Each works by itself, with any test runner, on asyncio and trio.
"""

from __future__ import annotations

from mcp_intercept.testing._faults import Fault, FaultMiddleware, FaultRule
from mcp_intercept.testing._log import Message, MessageLog
from mcp_intercept.testing._received import Received
from mcp_intercept.testing._script import Script
from mcp_intercept.testing._server import ScriptedServer

__all__ = ["Fault", "FaultMiddleware", "FaultRule", "Message", "MessageLog", "Received", "Script", "ScriptedServer"]
