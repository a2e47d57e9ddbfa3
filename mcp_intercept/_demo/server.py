"""The server of the demo: a small travel desk, the same on both SDK lines.

It runs as a program of its own (`python server.py`, over stdio), so it imports nothing of this package.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import anyio

# The two lines differ in what these are called, and in nothing else that is used here.
if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer as Server
    from mcp.server.mcpserver.exceptions import ToolError
else:
    try:
        from mcp.server.mcpserver import MCPServer as Server
        from mcp.server.mcpserver.exceptions import ToolError
    except ImportError:
        from mcp.server.fastmcp import FastMCP as Server
        from mcp.server.fastmcp.exceptions import ToolError


def make_server() -> Server:
    """A `FastMCP` (line 1) or `MCPServer` (line 2) that logs nothing."""
    with warnings.catch_warnings():
        # Newer pydantic-settings warn of how line 1 declares its settings.
        warnings.simplefilter("ignore")
        server = Server("travel-desk", log_level="CRITICAL")

    @server.tool()
    async def forecast(city: str) -> str:
        """Tell the weather."""
        await anyio.sleep(0.12)
        return f"{city}: light snow, -3 °C"

    @server.tool()
    async def find_trains(city: str) -> str:
        """Find trains."""
        await anyio.sleep(0.25)
        return f"07:32 to {city}, one change"

    @server.tool()
    async def find_rooms(city: str) -> str:
        """Ask every hotel in town, which takes a while."""
        await anyio.sleep(0.5)
        return f"Hotel Fjord, {city}"

    @server.tool()
    def book_room(hotel: str) -> str:
        """Book a room, or try to."""
        raise ToolError(f"{hotel} is fully booked")

    @server.resource("memo://notes")
    def notes() -> str:
        """What the traveller likes."""
        return "A window seat, and no early trains."

    @server.prompt()
    def packing_list(city: str) -> str:
        """What to pack."""
        return f"What should I pack for {city}?"

    return server


if __name__ == "__main__":
    make_server().run()
