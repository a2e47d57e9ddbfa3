"""A test of code that talks to a server: recorded once, replayed from then on, with nobody there.

`pytest examples/test_travel.py` replays `cassettes/test_travel/*.mcp.jsonl`; with `--mcp-record=rewrite` it records
them again, and with `--mcp-record=verify` it compares them with the server of today.
"""

from __future__ import annotations

import sys

import mcp.types as types
import pytest

from mcp_intercept import Cassette, connect

# Any MCP server will do; this one comes with the package.
SERVER = [sys.executable, "-m", "mcp_intercept", "demo-server"]

pytestmark = [pytest.mark.anyio, pytest.mark.mcp_tape]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def plan(city: str) -> str:
    """What is tested: any code that opens a session and calls tools."""
    async with connect(SERVER, connection_id="travel") as session:
        forecast = await session.call_tool("forecast", {"city": city})
        trains = await session.call_tool("find_trains", {"city": city})
    return "\n".join(block.text for result in (forecast, trains) for block in result.content)


async def test_a_plan_tells_weather_and_trains() -> None:
    assert "light snow" in await plan("Oslo")


async def test_a_room_that_is_gone_is_an_error_of_the_tool(mcp_tape: Cassette) -> None:
    async with connect(SERVER, connection_id="travel") as session:
        result = await session.call_tool("book_room", {"hotel": "Grand"})
    assert isinstance(result.content[0], types.TextContent)
    assert "Grand" in result.content[0].text
    assert not mcp_tape.misses
