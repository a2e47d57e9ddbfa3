"""Refuse servers before anything is said to them: an allow list of names and versions.

Run it: `python examples/allow_list.py`. What `on_initialize` (or `on_discover`, the handshake of 2026-07-28) raises
leaves `connect()`, with the connection closed and the server's process gone.
"""

from __future__ import annotations

import sys
from typing import Any

import anyio

from mcp_intercept import Middleware, connect

SERVER = [sys.executable, "-m", "mcp_intercept", "demo-server"]


class ServerRefusedError(Exception):
    """The server is not on the list."""


class AllowList(Middleware):
    def __init__(self, *names: str, capabilities: frozenset[str] = frozenset()) -> None:
        self.names = names
        self.capabilities = capabilities

    async def on_initialize(self, context: Any, call_next: Any) -> Any:
        result = await call_next(context)
        # As the wire has it: the two SDK lines spell the attributes in their own ways.
        said = result.model_dump(by_alias=True, exclude_none=True)
        self.check(said.get("serverInfo", {}), said["capabilities"])
        return result

    async def on_discover(self, context: Any, call_next: Any) -> Any:
        result = await call_next(context)
        said = result.model_dump(by_alias=True, exclude_none=True)
        self.check(said.get("_meta", {}).get("io.modelcontextprotocol/serverInfo", {}), said["capabilities"])
        return result

    def check(self, server: dict[str, Any], capabilities: dict[str, Any]) -> None:
        if server.get("name") not in self.names:
            raise ServerRefusedError(f"{server.get('name')!r} is not on the list: {', '.join(self.names)}")
        missing = self.capabilities - capabilities.keys()
        if missing:
            raise ServerRefusedError(f"{server['name']!r} cannot do {', '.join(sorted(missing))}")


async def main() -> None:
    for rule in (AllowList("travel-desk", capabilities=frozenset({"tools"})), AllowList("weather", "news")):
        try:
            async with connect(SERVER, rule) as session:
                print("allowed,", len((await session.list_tools()).tools), "tools")
        except ServerRefusedError as error:
            print("refused:", error)


if __name__ == "__main__":
    anyio.run(main)
