"""What only SDK line 1 (`mcp` >=1.24,<2) does. To be deleted with it."""

# pyright: reportPrivateUsage=false - what line 1 forgets can only be made good from its own tables

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import anyio
import httpx
from mcp import ClientSession, McpError
from mcp.client.experimental import ExperimentalClientFeatures
from mcp.shared.message import SessionMessage
from mcp.types import ClientNotification, ClientRequest, InitializeResult, JSONRPCMessage, JSONRPCNotification
from pydantic import RootModel

from mcp_intercept._context import is_sdk_timeout
from mcp_intercept._sdk.http import HttpLinkBase, merge_headers

logger = logging.getLogger("mcp_intercept")

# Where the negotiated protocol version is found in the state of a session. Line 1 forgets it; `transmit` notes it here.
VERSION_KEY = "_mcp_intercept_protocol_version"

_WRAPPERS = frozenset({ClientRequest, ClientNotification})

# As long as line 2 waits to write the notification of an abandoned request.
_ABANDON_SECONDS = 5.0


def message_of(message: Any) -> Any:
    """The request or notification inside the root model that line 1 wraps it in."""
    # isinstance() of a pydantic model runs Python code of pydantic's, for each call; hence the short way first.
    if type(message) in _WRAPPERS or isinstance(message, RootModel):
        return message.root
    return message


def with_params(message: Any, params: Any) -> Any:
    """A copy of `message` that carries `params`; `message` may belong to the caller, who may send it again."""
    if isinstance(message, RootModel):
        return message.model_copy(update={"root": with_params(message.root, params)})
    return message.model_copy(update={"params": params})


def to_seconds(timeout: Any) -> Any:
    """The SDK's timeout in seconds. What is no timeout is left for the SDK to refuse."""
    return timeout.total_seconds() if isinstance(timeout, timedelta) else timeout


def to_timeout(seconds: float) -> timedelta:
    """The SDK's own type for a timeout of `seconds`."""
    return timedelta(seconds=seconds)


def is_running(state: dict[str, Any]) -> bool:
    """Whether a session that was not entered can send all the same; here never."""
    return False


async def handshake(session: ClientSession, mode: str) -> None:
    """Negotiate the protocol; line 1 knows only the handshake."""
    await session.initialize()


async def transmit(
    session: ClientSession,
    request: Any,
    result_type: Any,
    read_timeout: Any,
    metadata: Any,
    progress_callback: Any,
) -> Any:
    """Send a request; if it is abandoned, tell the server, which line 1 forgets (python-sdk#2507, #2514)."""
    upcoming = session.__dict__["_request_id"]
    try:
        result = await session.send_request(request, result_type, read_timeout, metadata, progress_callback)
    except GeneratorExit:
        raise  # the coroutine was dropped: there may be no event loop any more to ask or to write with
    except McpError as error:
        if is_sdk_timeout(error):
            _tell_server(session, upcoming, request, metadata, f"{error.error.message}")
        raise
    except anyio.get_cancelled_exc_class() as error:
        if _was_issued(error):
            _tell_server(session, upcoming, request, metadata, "caller cancelled")
        raise
    if type(result) is InitializeResult:
        session.__dict__[VERSION_KEY] = result.protocolVersion
    return result


def _was_issued(error: BaseException) -> bool:
    # A stream checks for a cancellation that is already pending before it takes anything. Where the traceback
    # ends in that check, the server has never heard of the request, and must not hear of its end.
    names: list[str] = []
    traceback = error.__traceback__
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    return "checkpoint_if_cancelled" not in names[names.index("send") :] if "send" in names else True


def _tell_server(session: ClientSession, request_id: int, request: Any, metadata: Any, reason: str) -> None:
    # The specification forbids cancelling the handshake; a request that can be resumed is not over.
    resumable = metadata is not None and (metadata.resumption_token or metadata.on_resumption_token_update)
    if message_of(request).method == "initialize" or resumable:
        return
    # A subclass may have sent other requests first, or none: then the id is not that of this request.
    if session._request_id == request_id or request_id in session._response_streams:
        return
    params = {"requestId": request_id, "reason": reason}
    notification = JSONRPCNotification(jsonrpc="2.0", method="notifications/cancelled", params=params)
    message = SessionMessage(message=JSONRPCMessage(notification))
    # Never await here: the caller's cancellation or timeout must not be delayed or masked.
    try:
        session._write_stream.send_nowait(message)
    except anyio.WouldBlock:
        session._task_group.start_soon(_write_later, session, message)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        logger.debug("the connection is gone; the server is not told of an abandoned request")


async def _write_later(session: ClientSession, message: SessionMessage) -> None:
    try:
        with anyio.move_on_after(_ABANDON_SECONDS):
            await session._write_stream.send(message)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        logger.debug("the connection is gone; the server is not told of an abandoned request")


class SessionSeam:
    """What a wrapper needs on line 1 besides `send_request` and `send_notification`."""

    __slots__ = ()

    @property
    def experimental(self) -> ExperimentalClientFeatures:
        """The experimental tasks API, sending through the chain.

        The SDK caches its own on the session, whose state is shared with the wrapped one, which would then send
        through the chain too; so each wrapper has its own.
        """
        message = getattr(ClientSession.experimental.fget, "__deprecated__", None)
        if message:
            warnings.warn(message, DeprecationWarning, stacklevel=2)
        return ExperimentalClientFeatures(self)  # type: ignore[arg-type]  # a wrapper is a ClientSession


class HttpLink(HttpLinkBase):
    """The HTTP side of one connection; line 1 tells its requests apart by their JSON-RPC id.

    The HTTP requests of line 1 run in the context of connect time, so a context variable does not arrive.
    """

    def __init__(self) -> None:
        super().__init__()
        self._headers: dict[Any, dict[str, str]] = {}

    @contextmanager
    def sending(self, session: ClientSession, headers: dict[str, str]) -> Generator[None, None, None]:
        """Put `headers` on the HTTP request of the JSON-RPC request that `session` sends next."""
        request_id = session._request_id
        self._headers[request_id] = headers
        try:
            yield
        finally:
            del self._headers[request_id]

    async def on_request(self, request: httpx.Request) -> None:
        """Add the headers of the call that this HTTP request carries."""
        if not self._headers or request.method != "POST":
            return
        body = json.loads(request.content)
        # An answer to the server's own request has an id too, but no method.
        if "method" in body:
            merge_headers(request.headers, self._headers.get(body.get("id"), {}))
