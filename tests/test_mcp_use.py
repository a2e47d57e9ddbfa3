"""Middlewares written for mcp-use's client, its own among them, in our chain. Needs `mcp-use`."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import pytest

from mcp_intercept import connect
from tests.server import make_server

if importlib.util.find_spec("mcp_use") is None:
    pytest.skip("mcp-use is not installed", allow_module_level=True)
os.environ["MCP_USE_ANONYMIZED_TELEMETRY"] = "false"

import mcp_use.client.middleware as theirs  # it reads the environment

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the locks in mcp-use's metrics are asyncio's


async def call_everything(*middlewares: Any) -> None:
    async with connect(make_server(), *middlewares) as session:
        await session.list_tools()
        await session.call_tool("echo", {"text": "hello"})
        with pytest.raises(Exception, match="Unknown prompt|nowhere"):
            await session.get_prompt("nowhere")


async def test_its_logging_middleware_runs_unchanged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "mcp_use")
    await call_everything(theirs.default_logging_middleware)
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("mcp_use")]
    assert sum("-> tools/call" in message for message in messages) == 1
    assert sum("<- prompts/get FAILED" in message for message in messages) == 1
    assert not any("notifications/" in message for message in messages)


async def test_its_metrics_middlewares_run_unchanged() -> None:
    metrics, performance, errors = (
        theirs.MetricsMiddleware(),
        theirs.PerformanceMetricsMiddleware(),
        theirs.ErrorTrackingMiddleware(),
    )
    combined = theirs.CombinedAnalyticsMiddleware()
    await call_everything(metrics, performance, errors, combined)
    figures = metrics.get_metrics()
    assert dict(figures["method_counts"]) == {"initialize": 1, "tools/list": 1, "tools/call": 1, "prompts/get": 1}
    assert figures["total_errors"] == 1
    assert figures["active_contexts"] == 0
    assert performance.get_performance_metrics()["method_performance"]["tools/call"]["count"] == 1
    assert errors.get_error_analytics()["total_errors"] == 1
    assert combined.get_combined_analytics()["metrics"]["total_contexts"] == 4


async def test_a_middleware_on_its_base_class_changes_what_is_sent() -> None:
    class Louder(theirs.Middleware):  # type: ignore[misc]
        async def on_call_tool(self, context: Any, call_next: Any) -> Any:
            context.params.arguments["text"] = context.params.arguments["text"].upper()
            return await call_next(context)

    async with connect(make_server(), Louder()) as session:
        result: Any = await session.call_tool("echo", {"text": "hello"})
    assert result.content[0].text == "HELLO"
