"""Record a real server once, replay it without a process or a socket, and read what is said when the agent changes."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import anyio

from mcp_intercept import connect, use_cassette
from mcp_intercept.errors import CassetteMissError

# Any MCP server will do; this one comes with the package.
SERVER = [sys.executable, "-m", "mcp_intercept", "demo-server"]
NOBODY = ["a-server-that-is-not-installed"]


async def agent(server: list[str], city: str) -> str:
    async with connect(server, connection_id="travel") as session:
        result = await session.call_tool("forecast", {"city": city})
        return result.content[0].text


async def careless_agent(server: list[str], city: str) -> str:
    try:
        return await agent(server, city)
    except Exception:
        return "no idea"  # as agents do


with tempfile.TemporaryDirectory() as folder:
    cassette = Path(folder) / "travel.mcp.jsonl"

    with use_cassette(cassette, mode="once"):
        print("live:    ", anyio.run(agent, SERVER, "Oslo"))
    print(cassette.read_text("utf-8"))

    with use_cassette(cassette, mode="none"):
        print("replayed:", anyio.run(agent, NOBODY, "Oslo"))

    try:
        with use_cassette(cassette, mode="none"):
            print("changed: ", anyio.run(careless_agent, NOBODY, "Bergen"))
    except CassetteMissError as miss:
        print(miss)
