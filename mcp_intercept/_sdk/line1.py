"""What only SDK line 1 (`mcp` >=1.24,<2) does. To be deleted with it."""

# What line 1 forgets can only be made good from its own tables.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import json
import logging
import math
import sys
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import FrameType
from typing import Any

import anyio
import anyio.streams.memory
import httpx  # noqa: ASYNC127 - line 1 is built on it
from mcp import ClientSession, McpError
from mcp.client.experimental import ExperimentalClientFeatures
from mcp.shared.message import SessionMessage
from mcp.types import (
    ClientNotification,
    ClientRequest,
    ErrorData,
    InitializeResult,
    JSONRPCMessage,
    JSONRPCNotification,
)
from pydantic import RootModel

from mcp_intercept._context import is_sdk_timeout
from mcp_intercept._sdk.http import HttpLinkBase, without_protocol
from mcp_intercept._sdk.patches import Patches
from mcp_intercept._sdk.spans import Traced, given_up

logger = logging.getLogger("mcp_intercept")

# Where the negotiated protocol version is found in the state of a session. Line 1 forgets it; `transmit` notes it here.
VERSION_KEY = "_mcp_intercept_protocol_version"

# The last attribute that a session gets when it is made.
LAST_KEY = "_task_handlers"

Error = McpError
"""A JSON-RPC error."""

_WRAPPERS = frozenset({ClientRequest, ClientNotification})

# So many requests may wait for their HTTP request.
_MAX_TRACED = 10_000

# As long as line 2 waits to write the notification of an abandoned request.
_ABANDON_SECONDS = 5.0


def to_error(data: ErrorData) -> McpError:
    """The exception that carries a JSON-RPC error."""
    return McpError(data)


def message_of(message: Any) -> Any:
    """The request or notification inside the root model that line 1 wraps it in."""
    # isinstance() of a pydantic model runs Python code of pydantic's, for each call; hence the short way first.
    if type(message) in _WRAPPERS or isinstance(message, RootModel):
        return message.root
    return message


def progress_token_of(holder: Any) -> str | int | None:
    """The progress token in the `_meta` of a request, or the params of a progress notification."""
    token: str | int | None = getattr(holder, "progressToken", None)
    return token


def write_stream_of(session: ClientSession) -> Any:
    """What a session writes to."""
    return session._write_stream


def write_end_of(session: ClientSession) -> Any:
    """What holds, as its `_write_stream`, what a session writes to."""
    return session


def note_exit(session: ClientSession, left: Callable[[BaseException | None], None], patches: Patches) -> None:
    """Have `left` called when a session is left, with the exception that it is left with."""
    patches.set(session, "_exit_stack", _ExitStack(session._exit_stack, left))


class _ExitStack:
    """What a session closes first when it is left."""

    def __init__(self, stack: Any, left: Callable[[BaseException | None], None]) -> None:
        self._stack = stack
        self._left = left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stack, name)

    async def aclose(self) -> None:
        # What it is left with, only the frame of its __aexit__() knows.
        self._left(sys._getframe(1).f_locals.get("exc_val"))
        await self._stack.aclose()


def tells_ids() -> bool:
    """Whether the SDK tells a tracer the JSON-RPC ids; line 1 does not."""
    return False


def injects(session: ClientSession) -> bool:
    """Whether the SDK puts the trace context into requests; line 1 does not."""
    return False


def meta_of(params: Any) -> Mapping[str, Any]:
    """What else than a progress token is in the `_meta` of a message."""
    meta = params.get("_meta") if isinstance(params, dict) else getattr(params, "meta", None)
    return meta if isinstance(meta, dict) else getattr(meta, "model_extra", None) or {}


def version_in(result: Any) -> str:
    """The protocol version that a handshake ended in."""
    return str(result.protocolVersion)


def next_cursor_of(result: Any) -> str | None:
    """Where a list goes on; `None` for its last page."""
    cursor: str | None = result.nextCursor
    return cursor


def with_meta(params: Any, fields: dict[str, Any]) -> Any:
    """A copy of `params`, a model that has one, whose `_meta` has `fields` as well."""
    meta = params.meta
    meta = type(params).Meta(**fields) if meta is None else meta.model_copy(update=fields)
    return params.model_copy(update={"meta": meta})


def frame_of(item: Any) -> Any:
    """The JSON-RPC message in what passes between a session and its transport; `None` for an exception."""
    return item.message.root if isinstance(item, SessionMessage) else None


def item_of(message: Any) -> Any:
    """A JSON-RPC message as it passes between a session and its transport."""
    return SessionMessage(JSONRPCMessage(root=message))


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
    return timedelta(seconds=seconds) if seconds < timedelta.max.total_seconds() else timedelta.max


def is_running(state: dict[str, Any]) -> bool:
    """Whether a session that was not entered can send all the same; here never."""
    return False


async def handshake(session: ClientSession, mode: str) -> None:
    """Negotiate the protocol; line 1 knows only the handshake."""
    _take_what_comes_late(session)
    await session.initialize()


async def transmit(below: Any, session: ClientSession, request: Any, result_type: Any, options: dict[str, Any]) -> Any:
    """Send a request; if it is abandoned, tell the server, which line 1 forgets (python-sdk#2507, #2514).

    Args:
        below: What to send with.
        session: The session that the server is told through.
        request: What to send.
        result_type: What to validate the answer into.
        options: The other arguments of `send_request`, those that were given.
    """
    try:
        result = await below.send_request(request, result_type, **options)
    except GeneratorExit:
        raise  # the coroutine was dropped: there may be no event loop any more to ask or to write with
    except McpError as error:
        if is_sdk_timeout(error):
            _abandon(session, error, error.error.message)
        raise
    except anyio.get_cancelled_exc_class() as error:
        _abandon(session, error, "caller cancelled")
        raise
    if type(result) is InitializeResult:
        session.__dict__[VERSION_KEY] = result.protocolVersion
    return result


def _abandon(session: ClientSession, error: BaseException, reason: str) -> None:
    sent = _issued_request(error)
    if sent is None:
        return
    data, metadata = sent["request_data"], sent["metadata"]
    # The specification forbids to cancel the handshake, and tasks, which have a method for it. A request that can be
    # resumed is not over.
    is_task = "task" in data.get("params", {})
    is_resumable = getattr(metadata, "resumption_token", None) or getattr(metadata, "on_resumption_token_update", None)
    if data["method"] == "initialize" or is_task or is_resumable:
        return
    params = {"requestId": sent["request_id"], "reason": reason}
    traced = given_up(session)
    if traced is not None:
        params = traced.call_off(params)
    notification = JSONRPCNotification(jsonrpc="2.0", method="notifications/cancelled", params=params)
    _write_soon(session, SessionMessage(message=JSONRPCMessage(notification)))
    _take_what_comes_late(session)


def _take_what_comes_late(session: ClientSession) -> None:
    """Have the stream that a session reads from accept messages after it was closed, and forget them.

    Servers of line 1 answer a call that was called off, and any server may say something as it is left. The SDK's stdio
    transport then fails on the closed stream, and its failure would replace whatever the session was left with.
    """
    stream: Any = session._read_stream
    while (below := getattr(stream, "untapped", None)) is not None:
        stream = below
    if type(stream) is not anyio.streams.memory.MemoryObjectReceiveStream:
        return

    def close() -> None:
        state = stream._state
        if not stream._closed:
            state.open_receive_channels += 1  # it stays counted as open
            state.max_buffer_size = math.inf
            while state.waiting_senders:
                sender, _ = state.waiting_senders.popitem()
                sender.set()
        type(stream).close(stream)

    stream.close = close


def _issued_request(error: BaseException) -> Mapping[str, Any] | None:
    """What `send_request` knew of the request that `error` ended, if the server can have heard of it.

    Read from the traceback: which id the SDK gave a request, nobody else knows for sure, as a subclass may wait, or
    send others, before it sends this one.
    """
    sent: Mapping[str, Any] | None = None
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_globals.get("__name__") == "mcp.shared.session" and frame.f_code.co_name == "send_request":
            sent = frame.f_locals
        elif _was_left_standing(frame):
            return None
        traceback = traceback.tb_next
    return sent


def _was_left_standing(frame: FrameType) -> bool:
    if frame.f_globals.get("__name__") != "anyio.streams.memory" or frame.f_code.co_name != "send":
        return False
    # The stream offers nothing when a cancellation is pending, and takes back what nobody has received yet.
    taken = frame.f_locals.get("send_event")
    return taken is None or not taken.is_set()


def _write_soon(session: ClientSession, message: SessionMessage) -> None:
    # Never awaits and never raises: the caller's cancellation or timeout must be neither delayed nor masked.
    try:
        send_nowait = getattr(session._write_stream, "send_nowait", None)
        if send_nowait is not None:
            with suppress(anyio.WouldBlock):
                send_nowait(message)
                return
        session._task_group.start_soon(_write, session, message)
    except Exception as error:
        logger.debug("the server is not told of an abandoned request: %r", error)


async def _write(session: ClientSession, message: SessionMessage) -> None:
    try:
        with anyio.move_on_after(_ABANDON_SECONDS):
            await session._write_stream.send(message)
    except Exception as error:
        logger.debug("the server is not told of an abandoned request: %r", error)


def leave_spans_to_us() -> None:
    """Line 1 makes none."""


def is_client(target: object) -> bool:
    """Line 1 has no `Client`."""
    return False


# What only a `Client` needs.
linked: Any = None
tap: Any = None

sending_unlinked: Any = None
"""Line 1 hands its transports no headers."""


def send_raw_in_place(session: ClientSession, top: Callable[[], Any], patches: Patches) -> None:
    """Line 1 sends everything through `send_request` and `send_notification`."""


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
        self._traced: dict[Any, Traced] = {}

    def trace(self, request_id: str | int, traced: Traced) -> None:
        """The HTTP request that is to carry this JSON-RPC request is traced as part of it."""
        if len(self._traced) >= _MAX_TRACED:
            self._traced.clear()  # none of them was ever sent
        self._traced[request_id] = traced

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
        """Add the headers of the call that this HTTP request carries, and make it part of its trace."""
        if not (self._headers or self._traced) or request.method != "POST":
            return
        body = json.loads(request.content)
        # An answer to the server's own request has an id too, but no method.
        if "method" not in body or "id" not in body:
            return
        request.headers.update(without_protocol(self._headers.get(body["id"], {})))
        traced = self._traced.pop(body["id"], None)
        if traced is not None:
            traced.enter()  # each request has a task of its own
