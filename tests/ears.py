"""What the tests of incoming messages share: callbacks that remember, middleware that notes, and what servers send."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import mcp.types
from anyio.lowlevel import checkpoint
from mcp import ClientSession
from pydantic import BaseModel

from mcp_intercept import Middleware, MiddlewareContext, NextFunctionT, hook, intercept
from tests.wire import LINE_1, Frame, WireServer, wire

T: Any = mcp.types
"""The models of the installed line; untyped, as the two lines differ."""

Error: Any = getattr(mcp, "McpError" if LINE_1 else "MCPError")

Wrap = Callable[[ClientSession], "tuple[ClientSession, ClientSession]"]
"""`session -> (what to enter, what to use)`."""


def rpc_error(code: int, message: str) -> Exception:
    data = T.ErrorData(code=code, message=message)
    error: Exception = Error(data) if LINE_1 else Error.from_error_data(data)
    return error


def dumped(value: Any) -> Any:
    """The wire form of a model; of anything else, the thing itself."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True, exclude_none=True)
    return value


def around(*middlewares: Any) -> Wrap:
    def wrap(session: ClientSession) -> tuple[ClientSession, ClientSession]:
        wrapper = intercept(session, *middlewares)
        return wrapper, wrapper

    return wrap


def bare(session: ClientSession) -> tuple[ClientSession, ClientSession]:
    return session, session


def entered_inside(*middlewares: Any) -> Wrap:
    return lambda session: (session, intercept(session, *middlewares))


def hooking(**hooks: Any) -> Middleware:
    """A middleware with these hooks, each `async (context, call_next)`."""
    middleware = Middleware()
    vars(middleware).update(hooks)
    return middleware


def only(respond: Any) -> Any:
    """`respond` for what the server sends; everything else passes."""

    async def middleware(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        return await (respond(context, call_next) if context.direction == "incoming" else call_next(context))

    return middleware


@asynccontextmanager
async def speaking(wrap: Wrap = bare, **options: Any) -> AsyncGenerator[tuple[Any, WireServer], None]:
    """A running session, and the server at the other end of the wire."""
    async with wire() as (streams, server):
        to_enter, session = wrap(ClientSession(*streams, **options))
        with anyio.fail_after(30):
            async with to_enter:
                await session.initialize()
                yield session, server


async def settled() -> None:
    """Everything that was sent has been dealt with."""
    for _ in range(30):
        await checkpoint()
    await anyio.wait_all_tasks_blocked()


class Ears:
    """Every callback of a session: what each was called with, in order, and what it does then."""

    RESULTS: Mapping[str, Any] = {
        "sampling": T.CreateMessageResult(role="assistant", content=T.TextContent(type="text", text="hi"), model="m"),
        "elicitation": T.ElicitResult(action="accept", content={"n": 1}),
        "roots": T.ListRootsResult(roots=[T.Root(uri="file:///root")]),
    }

    def __init__(self, behave: Callable[[str], Any] = RESULTS.get) -> None:
        self.heard: list[Any] = []
        self._behave = behave
        self.options: dict[str, Any] = {
            "sampling_callback": partial(self._ask, "sampling"),
            "elicitation_callback": partial(self._ask, "elicitation"),
            "list_roots_callback": partial(self._ask, "roots"),
            "logging_callback": partial(self._tell, "logging"),
            "message_handler": self._handle,
        }

    async def _ask(self, name: str, context: Any, *params: Any) -> Any:
        self.heard.append((name, context.request_id, dumped(context.meta), *map(dumped, params)))
        return self._behave(name)

    async def _tell(self, name: str, params: Any) -> None:
        self.heard.append((name, dumped(params)))
        self._behave(name)

    async def _handle(self, message: Any) -> None:
        if isinstance(message, Exception):  # on line 1, a handler that raises here ends the session, bare or not
            self.heard.append(("handler", type(message).__name__, str(message)))
        else:
            self.heard.append(("handler", dumped(message)))
            self._behave("handler")

    async def progress(self, *reported: Any) -> None:
        self.heard.append(("progress", *reported))
        self._behave("progress")

    def by(self, name: str) -> list[Any]:
        """What one of them was called with."""
        return [entry[1:] for entry in self.heard if entry[0] == name]


MESSAGE = {"role": "user", "content": {"type": "text", "text": "Hi"}}
SCHEMA = {"type": "object", "properties": {}}

REQUESTS: Mapping[str, Frame | None] = {
    "sampling/createMessage": {"messages": [MESSAGE], "maxTokens": 1, "_meta": {"acme/m": 1}},
    "elicitation/create": {"mode": "form", "message": "Who?", "requestedSchema": SCHEMA, "_meta": {"acme/m": 2}},
    "roots/list": {"_meta": {"acme/m": 3}},
    "ping": None,
    "acme/ask": {"deep": [1]},
}
"""What a server asks."""

NOTIFICATIONS: Mapping[str, Frame | None] = {
    "notifications/progress": {"progressToken": "nobody's", "progress": 0.5, "total": 1, "message": "half"},
    "notifications/message": {"level": "info", "data": "said", "logger": "l"},
    "notifications/tools/list_changed": None,
    "notifications/prompts/list_changed": {"_meta": {"acme/m": 4}},
    "notifications/resources/list_changed": None,
    "notifications/resources/updated": {"uri": "memo://1"},
    "notifications/cancelled": {"requestId": "nobody's", "reason": "r"},
    "notifications/elicitation/complete": {"elicitationId": "e"},
    "notifications/acme/tell": {"deep": [2]},
}
"""What a server tells."""


class Seen(Middleware):
    """Notes which hooks a message of the server's passes."""

    def __init__(self) -> None:
        self.hooks: list[str] = []
        self.contexts: list[MiddlewareContext[Any]] = []

    async def _note(self, name: str, context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        if context.direction == "incoming":
            self.hooks.append(name)
            self.contexts.append(context)
        return await call_next(context)


def _noting(name: str) -> Any:
    async def note(self: Any, context: Any, call_next: Any) -> Any:
        return await self._note(name, context, call_next)

    return note


for _name in [name for name in dir(Middleware) if name.startswith("on_")]:
    setattr(Seen, _name, _noting(_name))


class SeenWithVendors(Seen):
    """The same with hooks for what a vendor has made up."""

    ask = hook("acme/ask")(_noting("ask"))
    tell = hook("notifications/acme/tell")(_noting("tell"))


VENDORS = {"acme/ask": "ask", "notifications/acme/tell": "tell"}


def request(method: str, request_id: Any = "q", **params: Any) -> Frame:
    """The frame of a request with sound params, and some more."""
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {**(REQUESTS.get(method) or {}), **params}}


def notification(method: str, **params: Any) -> Frame:
    return {"jsonrpc": "2.0", "method": method, "params": {**(NOTIFICATIONS.get(method) or {}), **params}}


async def through(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
    return await call_next(context)


async def call(session: Any, name: str, callback: Any = None, token: str | None = None) -> None:
    """Call a tool, without the SDK asking for its schema."""
    meta = {} if token is None else {"_meta": {"progressToken": token}}
    message = T.CallToolRequest.model_validate({"method": "tools/call", "params": {"name": name, **meta}})
    await session.send_request(
        T.ClientRequest(message) if LINE_1 else message, T.CallToolResult, progress_callback=callback
    )
