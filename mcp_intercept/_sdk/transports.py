"""From what a user names a server with to a pair of streams, the same on both lines."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import wraps
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import anyio
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import StreamableHTTPTransport, streamable_http_client

# The client that the SDK itself would make, with its timeouts and redirect rules; there is no public name for it.
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.memory import create_client_server_memory_streams

from mcp_intercept._context import Endpoint
from mcp_intercept._sdk.http import HttpLinkBase

__all__ = [
    "Reached",
    "StdioServerParameters",
    "http_endpoint",
    "http_streams",
    "in_process_server",
    "link_of",
    "memory_streams",
    "note_links",
    "reached_through",
    "sse_streams",
    "stdio_client",
]

Streams = tuple[Any, Any]
"""What a session reads from and writes to."""

# How long an in-process server may take to end by itself once its input ended, as the SDK's own client has it.
_GRACE_SECONDS = 2.0


def in_process_server(server: Any) -> Any:
    """The low-level server in a server object of either line, or `None` if it is no server."""
    for candidate in (server, getattr(server, "_lowlevel_server", None), getattr(server, "_mcp_server", None)):
        if callable(getattr(candidate, "create_initialization_options", None)):
            return candidate
    return None


# The HTTP side of the streamable HTTP transports that are open, by the stream that their session writes to.
_links: dict[int, HttpLinkBase] = {}


def link_of(write_stream: object) -> HttpLinkBase | None:
    """The HTTP side of the transport that reads `write_stream`, if it was opened while `note_links()` was in force."""
    return _links.get(id(write_stream))


class Reached(NamedTuple):
    """What is at the other end of the stream that a session writes to."""

    endpoint: Endpoint = Endpoint()
    http: StreamableHTTPTransport | None = None

    @property
    def session_id(self) -> str | None:
        """The streamable HTTP session id, once the server has given one."""
        return None if self.http is None else self.http.session_id


def reached_through(write_stream: Any) -> Reached | None:
    """What the messages of a session reach, whoever opened its transport; `None` while that cannot be seen.

    A stream does not know who reads it, but who waits to: a task of the transport's, in a function of the SDK's.
    """
    state = getattr(getattr(write_stream, "_inner", write_stream), "_state", None)
    if state is None:
        return Reached()  # no stream of the SDK's
    for receiver in tuple(state.waiting_receivers.values()):
        coroutine: Any = receiver.task_info.coro
        while (frame := getattr(coroutine, "cr_frame", None)) is not None:
            reached = _reached_by(frame.f_globals.get("__name__"), frame.f_locals)
            if reached is not None:
                return reached
            coroutine = coroutine.cr_await
        return Reached()
    return None


def _reached_by(module: str | None, variables: Mapping[str, Any]) -> Reached | None:
    if module in ("mcp.client.stdio", "mcp.client.websocket"):
        is_pipe = module == "mcp.client.stdio"
        return Reached(Endpoint(transport="pipe") if is_pipe else Endpoint(transport="tcp", protocol="websocket"))
    transport = variables.get("self")
    if isinstance(transport, StreamableHTTPTransport):
        return Reached(http_endpoint(transport.url), transport)
    return Reached(http_endpoint(variables["endpoint_url"])) if module == "mcp.client.sse" else None


def http_endpoint(url: str) -> Endpoint:
    """Where a URL leads."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return Endpoint(transport="tcp", protocol="http")
    return Endpoint(transport="tcp", protocol="http", protocol_version="1.1", address=parts.hostname, port=port)


def note_links(make_link: Callable[[], HttpLinkBase]) -> Callable[[], None]:
    """Listen on every streamable HTTP transport that is opened from now on.

    Returns:
        Its undo.
    """
    plain = StreamableHTTPTransport.post_writer

    @wraps(plain)
    def post_writer(
        self: Any, client: Any, write_stream_reader: Any, read_stream_writer: Any, write_stream: Any, *rest: Any
    ) -> Coroutine[Any, Any, None]:
        # At once, and not when the task first runs: the session may send something before.
        _links[id(write_stream)] = link = make_link()

        async def write() -> None:
            try:
                await plain(self, link.view_of(client), write_stream_reader, read_stream_writer, write_stream, *rest)
            finally:
                _links.pop(id(write_stream), None)

        return write()

    transport_type: Any = StreamableHTTPTransport
    transport_type.post_writer = post_writer

    def undo() -> None:
        if transport_type.post_writer is post_writer:
            transport_type.post_writer = plain

    return undo


@asynccontextmanager
async def memory_streams(server: Any) -> AsyncGenerator[Streams, None]:
    """Run a low-level server in this process while open."""
    async with create_client_server_memory_streams() as (client, (server_read, server_write)):
        ended = anyio.Event()

        async def serve() -> None:
            try:
                await server.run(server_read, server_write, server.create_initialization_options())
            finally:
                ended.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)  # noqa: ASYNC113 - what the client sends before it runs, waits in the stream
            try:
                yield client
            finally:
                await client[1].aclose()  # noqa: ASYNC102 - a cancellation ends the server without grace
                with anyio.move_on_after(_GRACE_SECONDS):
                    await ended.wait()  # noqa: ASYNC102
                tasks.cancel_scope.cancel()


@asynccontextmanager
async def http_streams(
    url: str, link: HttpLinkBase, headers: Mapping[str, str] | None, auth: Any, http_client: Any
) -> AsyncGenerator[Streams, None]:
    """Connect over streamable HTTP, with a client of our own unless the user gave one."""
    if http_client is None:
        make_client: Any = create_mcp_http_client  # of httpx or httpx2, as the line has it
        async with (
            make_client(headers=dict(headers or {}), auth=auth) as own_client,
            http_streams(url, link, None, None, own_client) as streams,
        ):
            yield streams
        return
    async with streamable_http_client(url, http_client=link.view_of(http_client)) as streams:
        yield streams[0], streams[1]


def sse_streams(
    url: str, link: HttpLinkBase, headers: Mapping[str, str] | None, auth: Any
) -> AbstractAsyncContextManager[Streams]:
    """Connect over the older HTTP+SSE transport (protocol version 2024-11-05)."""

    def make_client(headers: Any = None, timeout: Any = None, auth: Any = None) -> Any:
        client = create_mcp_http_client(headers, timeout, auth)
        link.attach(client)
        return client

    return sse_client(url, headers=dict(headers or {}), auth=auth, httpx_client_factory=make_client)
