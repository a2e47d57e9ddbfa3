"""A bearer token that runs out: refreshed once for all calls that wait, and each of them sent again.

Run it: `python examples/bearer_token.py`. It starts a server on loopback that takes each token five times.

The token is the business of the HTTP client: a `401` is answered there, before the SDK hears of it (line 1 gives up
the whole connection on one). The server has not acted on a request that it answered with `401`, so any call may be
sent again, once. What belongs to one call is set by a middleware, here the tenant.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import anyio
import uvicorn

from mcp_intercept import Middleware, connect
from mcp_intercept._demo.server import make_server

try:
    from mcp import MCPError as _  # noqa: F401 - SDK line 2, which is built on httpx2
except ImportError:
    import httpx
else:
    import httpx2 as httpx


class RefreshingBearer(httpx.Auth):
    """Sends a bearer token, and gets a new one when the server refuses it."""

    def __init__(self, refresh: Callable[[], Coroutine[Any, Any, str]]) -> None:
        self.refresh = refresh
        self.token = "expired"
        self.lock = anyio.Lock()

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        used = self.token
        request.headers["authorization"] = f"Bearer {used}"
        response = yield request
        if response.status_code == 401:
            async with self.lock:
                # Whoever came first has a new one for all.
                if self.token == used:
                    self.token = await self.refresh()
            request.headers["authorization"] = f"Bearer {self.token}"
            yield request  # once: a second refusal is an answer


class Tenant(Middleware):
    """A header of its own for each tool call."""

    async def on_call_tool(self, context: Any, call_next: Any) -> Any:
        context.options.headers["x-tenant"] = context.params.arguments["city"]
        return await call_next(context)


class Gate:
    """The server's side: every token opens five times."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.uses: Counter[str] = Counter()
        self.tokens: list[str] = []
        self.tenants: set[str] = set()

    async def new_token(self) -> str:
        await anyio.sleep(0.05)
        self.tokens.append(f"token-{len(self.tokens) + 1}")
        return self.tokens[-1]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            token = headers.get("authorization", "").removeprefix("Bearer ")
            self.uses[token] += 1
            if token not in self.tokens[-1:] or self.uses[token] > 5:
                await send({"type": "http.response.start", "status": 401, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return
            self.tenants.add(headers.get("x-tenant", ""))
        await self.app(scope, receive, send)


async def main() -> None:
    gate = Gate(make_server().streamable_http_app())
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(gate, log_level="critical", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await anyio.sleep(0.01)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
            async with connect(url, Tenant(), auth=RefreshingBearer(gate.new_token)) as session:

                async def ask(city: str) -> None:
                    result: Any = await session.call_tool("forecast", {"city": city})
                    print(result.content[0].text)

                async with anyio.create_task_group() as calls:
                    for city in ("Oslo", "Bergen", "Narvik"):
                        calls.start_soon(ask, city)
            server.should_exit = True
    print("tokens:", ", ".join(gate.tokens))
    print("tenants:", ", ".join(sorted(gate.tenants - {""})))


if __name__ == "__main__":
    anyio.run(main)
