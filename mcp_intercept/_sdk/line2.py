"""What only SDK line 2 (`mcp` >=2,<3) does."""

# What is reached into has no public way in.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, cast
from weakref import ref

import httpx2
import mcp.types as types
from mcp import Client, ClientSession, MCPError
from mcp.shared import jsonrpc_dispatcher
from mcp.shared.message import SessionMessage
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import BaseModel, ValidationError

from mcp_intercept._context import CallOptions
from mcp_intercept._sdk.http import HttpLinkBase, without_protocol
from mcp_intercept._sdk.patches import Patches
from mcp_intercept._sdk.seam import InterceptionSeam, TapSeam
from mcp_intercept._sdk.spans2 import are_spans_left
from mcp_intercept._sdk.spans2 import leave_spans_to_us as leave_spans_to_us
from mcp_intercept._sdk.transports import http_streams

# Where the negotiated protocol version is found in the state of a session.
VERSION_KEY = "_negotiated_version"

# The last attribute that a session gets when it is made.
LAST_KEY = "_dispatcher"

Error = MCPError
"""A JSON-RPC error."""

# What the SDK sends below `send_request`, see `_Forwarder`.
_RAW: dict[str, tuple[type[BaseModel], type[BaseModel]]] = {
    "server/discover": (types.DiscoverRequest, types.DiscoverResult),
    "subscriptions/listen": (types.SubscriptionsListenRequest, types.SubscriptionsListenResult),
}


def to_error(data: types.ErrorData) -> MCPError:
    """The exception that carries a JSON-RPC error."""
    return MCPError.from_error_data(data)


def message_of(message: Any) -> Any:
    """The request or notification itself; line 2 wraps none."""
    return message


def progress_token_of(holder: Any) -> str | int | None:
    """The progress token in the `_meta` of a request, or the params of a progress notification."""
    # `_meta` is a dict on this line; what a vendor calls so may be anything.
    fields = cast("dict[str, Any]", holder if isinstance(holder, dict) else getattr(holder, "__dict__", {}))
    token: str | int | None = fields.get("progressToken", fields.get("progress_token"))
    return token


def write_stream_of(session: ClientSession) -> Any:
    """What a session writes to; `None` where there is no wire."""
    return getattr(session._dispatcher, "_write_stream", None)


def write_end_of(session: ClientSession) -> Any:
    """What holds, as its `_write_stream`, what a session writes to; `None` where there is no wire."""
    return None if write_stream_of(session) is None else session._dispatcher


def note_exit(session: ClientSession, left: Callable[[BaseException | None], None], patches: Patches) -> None:
    """Have `left` called when a session is left, with the exception that it is left with."""
    close = type(session)._close_binding_queues
    found = ref(session)

    def close_binding_queues() -> None:
        left_session: Any = found()  # it lives, as it calls this
        close(left_session)
        # What it is left with, only the frame of its __aexit__() knows.
        left(sys._getframe(1).f_locals.get("exc_val"))

    patches.set(session, "_close_binding_queues", close_binding_queues)


def tells_ids() -> bool:
    """Whether the SDK tells a tracer the JSON-RPC ids."""
    return are_spans_left()


def injects(session: ClientSession) -> bool:
    """Whether the SDK puts the trace context into the requests of a session."""
    return isinstance(session._dispatcher, jsonrpc_dispatcher.JSONRPCDispatcher) and are_spans_left()


def meta_of(params: Any) -> Mapping[str, Any]:
    """The `_meta` of a message."""
    fields = cast("dict[str, Any]", params if isinstance(params, dict) else getattr(params, "__dict__", {}))
    meta = fields.get("_meta") or fields.get("meta")
    return cast("dict[str, Any]", meta) if isinstance(meta, dict) else {}


def version_in(result: Any) -> str:
    """The protocol version that a handshake ended in."""
    return str(result.protocol_version)


def next_cursor_of(result: Any) -> str | None:
    """Where a list goes on; `None` for its last page."""
    cursor: str | None = result.next_cursor
    return cursor


def with_meta(params: Any, fields: dict[str, Any]) -> Any:
    """A copy of `params`, a model that has one, whose `_meta` has `fields` as well."""
    return params.model_copy(update={"meta": {**(params.meta or {}), **fields}})


def frame_of(item: Any) -> Any:
    """The JSON-RPC message in what passes between a session and its transport; `None` for an exception."""
    return item.message if isinstance(item, SessionMessage) else None


def item_of(message: Any) -> Any:
    """A JSON-RPC message as it passes between a session and its transport."""
    return SessionMessage(message)


def with_params(message: Any, params: Any) -> Any:
    """A copy of `message` that carries `params`; `message` may belong to the caller, who may send it again."""
    return message.model_copy(update={"params": params})


def to_seconds(timeout: Any) -> Any:
    """The SDK's timeout in seconds. What is no timeout is left for the SDK to refuse."""
    return timeout


def to_timeout(seconds: float) -> float:
    """The SDK's own type for a timeout of `seconds`."""
    return seconds


def is_running(state: dict[str, Any]) -> bool:
    """Whether a session that was not entered can send all the same: its dispatcher may be run by somebody else."""
    return getattr(state["_dispatcher"], "_running", True)


async def handshake(session: ClientSession, mode: str) -> None:
    """Negotiate the protocol, by `mode` as in the SDK's own `Client`.

    `"auto"` asks `server/discover` first. Whatever is no evidence of a server that speaks only newer versions
    leads to the handshake, as the SDK does it.
    """
    if mode == "auto":
        try:
            await session.discover()
        except (RuntimeError, ValidationError):
            pass  # it answered, but offers no version that needs no handshake
        except MCPError as error:
            if error.code == types.UNSUPPORTED_PROTOCOL_VERSION and not _offers_handshake(error.error.data):
                raise
        else:
            return
    await session.initialize()


def _offers_handshake(data: Any) -> bool:
    try:
        supported = types.UnsupportedProtocolVersionErrorData.model_validate(data).supported
    except ValidationError:
        return True  # it does not say
    return any(version in HANDSHAKE_PROTOCOL_VERSIONS for version in supported)


transmit: Any = None
"""Line 1 sends requests in a way of its own, see there; line 2 needs none."""


class SessionSeam:
    """What a wrapper needs on line 2 besides `send_request` and `send_notification`."""

    __slots__ = ()

    @property
    def _dispatcher(self) -> _Forwarder:
        # SDK code that runs on the wrapper finds this one; the state that both sessions share holds the real one.
        return _Forwarder(self)


class _Forwarder:
    """The session's dispatcher, but for the requests that the SDK hands to it directly.

    `send_discover()` and `subscriptions.listen()` bypass `send_request`. Everything else is passed on.
    """

    def __init__(self, wrapper: Any, send_raw_request: Any = None) -> None:
        self._wrapper = wrapper
        self._seam: InterceptionSeam = wrapper._interception
        self._dispatcher: Any = self._seam.inner._dispatcher
        self._send = send_raw_request or self._dispatcher.send_raw_request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dispatcher, name)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Send through the chain what would bypass it.

        The SDK gets the very dict that the server sent, unless a middleware changed the result.
        """
        if method not in _RAW:
            passed: dict[str, Any] = await self._send(method, params, opts)
            return passed
        request_type, result_type = _RAW[method]
        asked = request_type.model_validate({"method": method, "params": params})
        wire: dict[str, Any] = {"asked": dump(asked), "raw": {}, "answer": None, "failure": None}

        async def send(request: Any, call: CallOptions) -> Any:
            data = dump(request)
            sent = params if is_same_json(data, wire["asked"]) else data.get("params")
            headers = without_protocol(call.headers)
            options = {**(opts or {}), "headers": {**headers, **(opts or {}).get("headers", {})}}
            if call.timeout is not None:
                options["timeout"] = call.timeout
            if call.progress_callback is not None:
                options["on_progress"] = call.progress_callback
            try:
                wire["raw"] = await self._send(method, sent, options)
            except Exception as error:
                wire["failure"] = error
                raise
            try:
                result = result_type.model_validate(wire["raw"])
            except ValidationError:
                return wire["raw"]  # the SDK has its own way with what it cannot read
            wire["answer"] = dump(result)
            return result

        seconds = (opts or {}).get("timeout")
        try:
            result = await self._seam.intercept_raw(self._wrapper, asked, result_type, seconds, send)
        except Exception as error:
            if method != "subscriptions/listen" or isinstance(error, MCPError) or error is wire["failure"]:
                raise
            # The SDK sends this one in a task of the session's, which another exception of a middleware would end.
            raise MCPError(types.INTERNAL_ERROR, str(error)) from error
        data = dump(result) if isinstance(result, BaseModel) else result
        return wire["raw"] if is_same_json(data, wire["answer"]) else data


def is_client(target: object) -> bool:
    """Whether `target` is a `Client`."""
    return issubclass(type(target), Client)


@contextmanager
def linked(client: Any) -> Generator[HttpLink | None, None, None]:
    """Have a client that is to open a URL do so over a connection that is known; the value is its HTTP side."""
    if not isinstance(client.server, str):
        yield None
        return
    link = HttpLink()
    connect = client._connect

    async def connect_linked(exit_stack: AsyncExitStack, *options: Any) -> Any:
        streams = http_streams(client.server, link, None, None, None)
        return jsonrpc_dispatcher.JSONRPCDispatcher(*await exit_stack.enter_async_context(streams))

    client._connect = connect_linked
    try:
        yield link
    finally:
        client._connect = connect


def tap(session: ClientSession, tap: TapSeam) -> bool:
    """Read along with a session that was not yet entered; whether it has a wire at all."""
    dispatcher = session._dispatcher
    if not isinstance(dispatcher, jsonrpc_dispatcher.JSONRPCDispatcher):
        return False
    dispatcher._read_stream, dispatcher._write_stream = tap.streams(dispatcher._read_stream, dispatcher._write_stream)
    return True


def send_raw_in_place(session: ClientSession, top: Callable[[], Any], patches: Patches) -> None:
    """Lead what a session hands directly to its dispatcher through the wrapper that `top` returns, and those below."""
    dispatcher: Any = session._dispatcher
    own = dispatcher.send_raw_request

    def send_below(sender: Any) -> Any:
        if isinstance(sender, ClientSession):
            return _Forwarder(sender, send_below(sender._interception.below)).send_raw_request  # type: ignore[attr-defined]
        return own

    async def send_raw_request(method: str, params: Any, opts: Any = None, **hints: Any) -> Any:
        if method in _RAW:
            return await send_below(top())(method, params, opts)
        return await own(method, params, opts, **hints)

    with suppress(TypeError):  # somebody's own dispatcher may have no attributes of its own
        patches.set(dispatcher, "send_raw_request", send_raw_request)


def is_same_json(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON."""
    # Not ==, which takes true for 1.
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def dump(model: BaseModel) -> dict[str, Any]:
    """A message as the wire has it."""
    return model.model_dump(by_alias=True, mode="json", exclude_none=True)


# The headers of the call that is being sent in this context, until its HTTP request has them: what the call leads to,
# answers to the server and requests of callbacks among it, runs in contexts derived from this one.
_call_headers: ContextVar[list[Mapping[str, str]]] = ContextVar("mcp_intercept_call_headers")


@contextmanager
def sending_unlinked(session: ClientSession, headers: dict[str, str]) -> Generator[None, None, None]:
    """Hand `headers` to the transport with the request that `session` sends next, as the SDK does with its own."""
    state = session.__dict__
    stamp = state["_stamp"]
    if not isinstance(stamp, Stamp):
        # The SDK makes a new one with each handshake.
        state["_stamp"] = Stamp(stamp)
    with _sending(without_protocol(headers)):
        yield


class Stamp:
    """What puts the headers of the protocol on a request, and those of the call in progress before."""

    def __init__(self, stamp: Any) -> None:
        self.stamp = stamp

    def __call__(self, data: dict[str, Any], opts: Any) -> None:
        waiting = _call_headers.get([])
        if waiting:
            opts["headers"] = dict(waiting.pop())
        self.stamp(data, opts)


@contextmanager
def _sending(headers: Mapping[str, str]) -> Generator[None, None, None]:
    token = _call_headers.set([headers])
    try:
        yield
    finally:
        _call_headers.reset(token)


class HttpLink(HttpLinkBase):
    """The HTTP side of one connection; line 2 runs its requests in the context of the call."""

    @contextmanager
    def sending(self, session: ClientSession, headers: dict[str, str]) -> Generator[None, None, None]:
        """Put `headers` on the HTTP request of the JSON-RPC request that `session` sends next."""
        with _sending(headers):
            yield

    async def on_request(self, request: httpx2.Request) -> None:
        """Add the headers of the call that this HTTP request carries."""
        waiting = _call_headers.get([])
        if waiting and request.method == "POST":
            request.headers.update(without_protocol(waiting.pop()))
