"""`connect()`: from a command, a URL, a server object or a pair of streams to an initialized, intercepted session."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from mcp_intercept._chain import AnyMiddleware
from mcp_intercept._current import current_cassette, is_led, pass_by
from mcp_intercept._groups import raise_ungrouped
from mcp_intercept._intercept import intercept, manager_of
from mcp_intercept._manager import MiddlewareManager
from mcp_intercept._middleware import is_plain_function_of_two
from mcp_intercept._options import check_choice, check_seconds
from mcp_intercept._sdk import ClientSession, line, transports
from mcp_intercept._session import CallbackClientSession, attach_wire
from mcp_intercept._streams import local_streams_of
from mcp_intercept._wire import FrameListener, WireTap
from mcp_intercept.errors import InterceptError, UnsupportedTargetError

if TYPE_CHECKING:
    import mcp.types as types
    from mcp.client.session import ElicitationFnT, ListRootsFnT, LoggingFnT, MessageHandlerFnT, SamplingFnT

Mode: TypeAlias = Literal["legacy", "auto"]
"""`"legacy"` is the `initialize` handshake; `"auto"` asks `server/discover` first, where the SDK can (line 2)."""

Transport: TypeAlias = Literal["streamable-http", "sse"]
"""What to speak to a URL."""


@asynccontextmanager
async def connect(
    server: Any,
    *middlewares: AnyMiddleware | MiddlewareManager,
    connection_id: str | None = None,
    timeout: float | None = None,
    mode: Mode = "legacy",
    transport: Transport = "streamable-http",
    headers: Mapping[str, str] | None = None,
    auth: Any = None,
    http_client: Any = None,
    sampling_callback: SamplingFnT | None = None,
    elicitation_callback: ElicitationFnT | None = None,
    list_roots_callback: ListRootsFnT | None = None,
    logging_callback: LoggingFnT | None = None,
    message_handler: MessageHandlerFnT | None = None,
    client_info: types.Implementation | None = None,
    on_frame: FrameListener | None = None,
) -> AsyncGenerator[CallbackClientSession, None]:
    """Open an initialized session whose every message passes the middlewares, the handshake included.

    An exception that leaves the body comes out as it is, not wrapped in the exception groups of the SDK's transports.

    Args:
        server: A command (`StdioServerParameters`, or a list of its arguments), a URL, a server object of this
            process (`FastMCP`, `MCPServer` or a low-level `Server`), a pair of streams, or any of the SDK's
            transports (an async context manager that yields such a pair).
        middlewares: The middlewares, first outermost; or one `MiddlewareManager`.
        connection_id: What `context.connection_id` shows; by default a short generated name.
        timeout: Seconds that a request waits for its response unless it says otherwise; `None` waits for ever.
        mode: How the protocol version is negotiated. SDK line 1 knows only the handshake.
        transport: What to speak to a URL.
        headers: HTTP headers of every request; only for a URL.
        auth: An `httpx.Auth` (line 1) or `httpx2.Auth` (line 2); only for a URL.
        http_client: A client of your own to use for a URL, instead of `headers` and `auth`. It is not closed.
        sampling_callback: As for `ClientSession`; so are the arguments below.
        elicitation_callback: Answers the server's questions to the user.
        list_roots_callback: Tells the server the roots.
        logging_callback: Gets the server's log messages.
        message_handler: Gets every incoming notification, and the errors of the transport.
        client_info: Name and version of the client.
        on_frame: Called with `"outgoing"` or `"incoming"` and each JSON-RPC message as it passes, what the SDK sends
            by itself included. It gets the very message and must not change it; one that raises is logged once.

    Raises:
        UnsupportedTargetError: `server` is none of these.
        InterceptError: Arguments that do not go together.
        MiddlewareError: One of the middlewares is none.
    """
    check_choice("mode", mode, get_args(Mode))
    check_choice("transport", transport, get_args(Transport))
    if timeout is not None:
        check_seconds("timeout", timeout, ", or None for no limit")
    if headers is not None and not isinstance(headers, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - users err
        raise InterceptError(f"headers must be a mapping of str to str, not an object of type {type(headers).__name__}")
    if on_frame is not None and not is_plain_function_of_two(on_frame):
        raise InterceptError("on_frame must be a plain function (direction, message); it is never awaited")
    # Before anything is started.
    manager = manager_of(middlewares)
    link = line.HttpLink()
    streams = _streams_of(server, link, transport, headers, auth, http_client)
    cassette = current_cassette()
    if cassette is not None and not is_led(server):
        streams = cassette.transport_named(streams, server, connection_id)
    body_error: BaseException | None = None
    try:
        tap = WireTap(on_frame)
        if cassette is None and not is_led(server):
            pass_by(tap)
        async with tap.transport(streams) as pair:
            inner = ClientSession(
                *pair,
                read_timeout_seconds=None if timeout is None else line.to_timeout(timeout),
                sampling_callback=sampling_callback,
                elicitation_callback=elicitation_callback,
                list_roots_callback=list_roots_callback,
                logging_callback=logging_callback,
                message_handler=message_handler,
                client_info=client_info,
            )
            session = intercept(inner, manager, connection_id=connection_id)
            if _is_url(server):
                attach_wire(session, tap, link, server)
            else:
                attach_wire(session, tap)
            async with session:
                await line.handshake(session, mode)
                try:
                    yield session
                except BaseException as error:
                    body_error = error
                    raise
    except BaseException as error:  # noqa: ASYNC103 - it is always raised
        raise_ungrouped(error, body_error)


def _is_url(server: object) -> bool:
    return isinstance(server, str) and server.startswith(("http://", "https://"))


def _streams_of(
    server: Any,
    link: line.HttpLink,
    transport: Transport,
    headers: Mapping[str, str] | None,
    auth: Any,
    http_client: Any,
) -> AbstractAsyncContextManager[Any]:
    if _is_url(server):
        if http_client is not None and (headers or auth or transport == "sse"):
            raise InterceptError("give either http_client (for streamable HTTP) or headers and auth, not both")
        if transport == "sse":
            return transports.sse_streams(server, link, headers, auth)
        return transports.http_streams(server, link, headers, auth, http_client)
    if headers or auth or http_client or transport == "sse":
        raise InterceptError("headers, auth, http_client and transport are only for a server that is given as a URL")
    streams = local_streams_of(server)
    if streams is not None:
        return streams
    raise UnsupportedTargetError(
        f"cannot connect to {_described(server)}; give a list of arguments or StdioServerParameters, "
        f"a URL that begins with http:// or https://, a server object, a pair of streams, or a transport",
        target=server,
    )


def _described(server: object) -> str:
    if type(server) in (list, tuple) and not server:
        return "an empty list"
    # A string may be a command line or a URL with a secret in it.
    return "a str that is no URL" if isinstance(server, str) else f"an object of type {type(server).__name__}"
