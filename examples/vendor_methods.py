"""A hook for a method that MCP does not define, and a request that uses it.

Run it: `python examples/vendor_methods.py`. The demo server does not know the method either, and says so.
"""

from __future__ import annotations

import sys
from typing import Any, Literal

import anyio
import mcp.types as types

from mcp_intercept import Middleware, MiddlewareContext, NextFunctionT, connect, hook

SERVER = [sys.executable, "-m", "mcp_intercept", "demo-server"]


class ForecastParams(types.RequestParams):
    city: str


class ForecastRequest(types.Request[ForecastParams, Literal["weather/forecast"]]):
    method: Literal["weather/forecast"] = "weather/forecast"
    params: ForecastParams


class ForecastResult(types.Result):
    sky: str


class Forecasts(Middleware):
    """Answers for one city by itself."""

    @hook("weather/forecast")
    async def on_forecast(
        self,
        context: MiddlewareContext[ForecastParams],
        call_next: NextFunctionT[ForecastParams, ForecastResult],
    ) -> ForecastResult:
        if context.params.city == "London":
            return ForecastResult(sky="rain")
        return await call_next(context)


async def main() -> None:
    async with connect(SERVER, Forecasts()) as session:
        for city in ("London", "Rome"):
            request: Any = ForecastRequest(params=ForecastParams(city=city))
            try:
                print(city, (await session.send_request(request, ForecastResult)).sky)
            except Exception as error:
                print(city, "unknown:", error)


if __name__ == "__main__":
    anyio.run(main)
