"""State for each session, and a cache for each session, in one middleware that serves them all.

Run it: `python examples/per_session.py`. A `session_id` exists only over streamable HTTP, up to protocol 2025-11-25;
the `connection_id` always does, and so does `context.session` itself, which lets go of the state with the session.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any
from weakref import WeakKeyDictionary

import anyio

from mcp_intercept import Middleware, MiddlewareManager, connect

SERVER = [sys.executable, "-m", "mcp_intercept", "demo-server"]


class Budget(Middleware):
    """State: so many tool calls for each session."""

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self.made: WeakKeyDictionary[Any, int] = WeakKeyDictionary()

    async def on_call_tool(self, context: Any, call_next: Any) -> Any:
        made = self.made[context.session] = self.made.get(context.session, 0) + 1
        if made > self.calls:
            raise RuntimeError(f"{context.session_id or context.connection_id} has made its {self.calls} calls")
        return await call_next(context)


class Cached(Middleware):
    """A cache: what a server may show to one session is not for another, and not for ever."""

    def __init__(self) -> None:
        self.results: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()
        self.hits: Counter[str] = Counter()

    async def on_read_resource(self, context: Any, call_next: Any) -> Any:
        results = self.results.setdefault(context.session, {})
        key = str(context.params.uri)
        if key in results:
            self.hits[context.connection_id] += 1
        else:
            results[key] = await call_next(context)
        return results[key]

    async def on_resource_updated(self, context: Any, call_next: Any) -> None:
        """The server says that it is no longer true."""
        self.results.get(context.session, {}).pop(str(context.params.uri), None)
        await call_next(context)


async def main() -> None:
    cached = Cached()
    manager = MiddlewareManager([Budget(2), cached])
    async with connect(SERVER, manager, connection_id="one") as one, connect(SERVER, manager) as two:
        uri: Any = "memo://notes"
        for session in (one, one, one, two):
            await session.read_resource(uri)
        print("hits:", dict(cached.hits))
        await two.call_tool("forecast", {"city": "Oslo"})
        for city in ("Oslo", "Bergen", "Narvik"):
            try:
                result: Any = await one.call_tool("forecast", {"city": city})
                print(result.content[0].text)
            except RuntimeError as error:
                print("refused:", error)


if __name__ == "__main__":
    anyio.run(main)
