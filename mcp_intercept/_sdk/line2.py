"""What only SDK line 2 (`mcp` >=2,<3) does."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any
from weakref import ref

import anyio
import httpx2
import mcp.types as types
from mcp import Client, ClientSession, MCPError
from mcp.client.client import _connect_transport
from mcp.shared import jsonrpc_dispatcher
from mcp.shared.direct_dispatcher import DirectDispatcher
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.message import SessionMessage
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ValidationError

from mcp_intercept._context import CallOptions
from mcp_intercept._sdk.http import HttpLinkBase, merge_headers, without_protocol
from mcp_intercept._sdk.patches import Patches
from mcp_intercept._sdk.seam import IncomingSeam, InterceptionSeam, TapSeam
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
    # `_meta` is a dict on this line.
    found = (
        holder.get("progressToken", holder.get("progress_token")) if isinstance(holder, dict) else holder.progress_token
    )
    token: str | int | None = found
    return token


def write_stream_of(session: ClientSession) -> Any:
    """What a session writes to; `None` where there is no wire."""
    return getattr(session._dispatcher, "_write_stream", None)


def frame_of(item: Any) -> Any:
    """The JSON-RPC message in what passes between a session and its transport; `None` for an exception."""
    return item.message if isinstance(item, SessionMessage) else None


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
        wire: dict[str, Any] = {"asked": _dump(asked), "raw": {}, "answer": None, "failure": None}

        async def send(request: Any, call: CallOptions) -> Any:
            data = _dump(request)
            sent = params if _is_same_json(data, wire["asked"]) else data.get("params")
            # What the SDK stamps wins.
            options = {**(opts or {}), "headers": {**call.headers, **(opts or {}).get("headers", {})}}
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
            wire["answer"] = _dump(result)
            return result

        seconds = (opts or {}).get("timeout")
        try:
            result = await self._seam.intercept_raw(self._wrapper, asked, result_type, seconds, send)
        except Exception as error:
            if method != "subscriptions/listen" or isinstance(error, MCPError) or error is wire["failure"]:
                raise
            # The SDK sends this one in a task of the session's, which another exception of a middleware would end.
            raise MCPError(types.INTERNAL_ERROR, str(error)) from error
        data = _dump(result) if isinstance(result, BaseModel) else result
        return wire["raw"] if _is_same_json(data, wire["answer"]) else data


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
    client._connect = _connect_transport(http_streams(client.server, link, None, None, None))
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


# The questions of a server, which the SDK hands to `dispatch_input_request` in either protocol era.
_QUESTIONS = frozenset({"sampling/createMessage", "elicitation/create", "roots/list"})

_PROGRESS, _CANCELLED = "notifications/progress", "notifications/cancelled"
_ACKNOWLEDGED = "notifications/subscriptions/acknowledged"


def install(session: ClientSession, incoming: IncomingSeam) -> Callable[[], None]:
    """Hand what `session` receives to `incoming`, as long as that wants it.

    Returns:
        Its undo.
    """
    return _Receiving(session, incoming).undo


class _Receiving:
    """The places where a session and its dispatcher hand out messages of the server."""

    def __init__(self, session: ClientSession, incoming: IncomingSeam) -> None:
        self._session = ref(session)
        self._incoming = incoming
        self._patches = Patches()
        self._own: dict[str, Any] = {}
        dispatcher = session.__dict__["_dispatcher"]
        self._patch(session, "dispatch_input_request", self._dispatch_input_request)
        # On the dispatcher, for it may run already.
        if isinstance(dispatcher, jsonrpc_dispatcher.JSONRPCDispatcher | DirectDispatcher):
            self._dispatcher = ref(dispatcher)
        if isinstance(dispatcher, jsonrpc_dispatcher.JSONRPCDispatcher):
            self._patch(dispatcher, "_dispatch_request", self._dispatch_request)
            self._patch(dispatcher, "_dispatch_notification", self._dispatch_notification)
        elif isinstance(dispatcher, DirectDispatcher):
            self._patch(dispatcher, "_dispatch_request", self._dispatch_direct_request)
            self._patch(dispatcher, "_dispatch_notify", self._dispatch_direct_notification)
            self._patch(dispatcher, "send_raw_request", self._send_direct)
        else:
            # Of a dispatcher that somebody wrote, it is known only what it is given when the session is entered.
            self._patch(session, "_on_request", self._on_request)
            self._patch(session, "_on_notify", self._on_notify)

    def undo(self) -> None:
        """Leave the session as it was."""
        self._patches.undo()
        session = self._session()
        stamp = None if session is None else session.__dict__["_stamp"]
        if session is not None and isinstance(stamp, _Stamp):
            session.__dict__["_stamp"] = stamp.stamp

    def _patch(self, target: Any, name: str, function: Any) -> None:
        self._own[name] = vars(target).get(name)
        self._patches.set(target, name, function)

    def _original(self, target: Any, name: str) -> Any:
        return self._own[name] or getattr(type(target), name).__get__(target)

    def _reads_itself(self, method: str) -> bool:
        """Whether the SDK hands such a request to `dispatch_input_request`, and so to the chain."""
        version = self._incoming.owner.__dict__[VERSION_KEY]
        return method in _QUESTIONS and version not in MODERN_PROTOCOL_VERSIONS

    async def _dispatch_input_request(self, context: Any, request: Any) -> Any:
        session = context.session
        # A wrapper stands for the session that it shares its state with.
        original = self._original(session, "dispatch_input_request")
        method = request.method
        if not self._incoming.wants("request", method):
            return await original(context, request)

        async def deliver(params: Any) -> Any:
            changed = params is not request.params
            return await original(context, with_params(request, params) if changed else request)

        within_call = session.__dict__[VERSION_KEY] in MODERN_PROTOCOL_VERSIONS
        return await self._incoming.answer(
            method,
            request.params,
            deliver,
            jsonrpc_id=None if within_call else context.request_id,
            origin=request,
            within_call=within_call,
        )

    async def _dispatch_request(self, request: Any, metadata: Any, on_request: Any, *rest: Any) -> None:
        original = self._original(self._dispatcher(), "_dispatch_request")
        await original(request, metadata, partial(self._answer, on_request), *rest)

    async def _dispatch_direct_request(self, method: str, params: Any, opts: Any) -> Any:
        original = self._original(self._dispatcher(), "_dispatch_request")

        async def on_request(context: Any, method: str, params: Any) -> Any:
            return await original(method, params, opts)

        return await self._answer(on_request, None, method, params)

    async def _on_request(self, context: Any, method: str, params: Any) -> Any:
        return await self._answer(self._original(self._incoming.owner, "_on_request"), context, method, params)

    async def _answer(self, on_request: Any, context: Any, method: str, params: Any) -> Any:
        """Pass a request through the chain, unless the SDK does so further on."""
        incoming = self._incoming
        if self._reads_itself(method) or not incoming.wants("request", method):
            return await on_request(context, method, params)
        try:
            message = _Message(incoming, "request", method, params)
        except ValidationError:
            return await on_request(context, method, params)

        async def deliver(params: Any) -> Any:
            raw = await on_request(context, method, message.wire(params))
            return types.EmptyResult.model_validate(raw) if method == "ping" else raw

        result = await incoming.answer(method, message.params, deliver, jsonrpc_id=getattr(context, "request_id", None))
        if isinstance(result, types.ErrorData):
            raise to_error(result)
        return _dump(result) if isinstance(result, BaseModel) else result

    def _dispatch_notification(self, notification: Any, metadata: Any, on_notify: Any, sender_context: Any) -> None:
        dispatcher: Any = self._dispatcher()
        original = self._original(dispatcher, "_dispatch_notification")
        method, raw = notification.method, notification.params
        message = self._message(method, raw)
        if message is None:
            original(notification, metadata, on_notify, sender_context)
        elif method == _CANCELLED:
            self._dispatch_cancelled(message, notification, metadata, on_notify, sender_context)
        elif method == _PROGRESS:
            # The dispatcher must not call back before the chain has seen it.
            token = raw["progressToken"]
            is_token = isinstance(token, (int, str)) and not isinstance(token, bool)
            pending = dispatcher._pending.get(coerce_request_id(token)) if is_token else None
            callback = None if pending is None else pending.on_progress
            try:
                if pending is not None:
                    pending.on_progress = None
                original(notification, metadata, partial(self._tell, message, on_notify, callback), sender_context)
            finally:
                if pending is not None:
                    pending.on_progress = callback
        elif method == _ACKNOWLEDGED:
            self._dispatch_acknowledged(message, notification, metadata, on_notify, sender_context)
        else:
            original(notification, metadata, partial(self._tell, message, on_notify, None), sender_context)

    def _dispatch_cancelled(
        self, message: _Message, notification: Any, metadata: Any, on_notify: Any, sender_context: Any
    ) -> None:
        """Let the chain see it first: the dispatcher cancels at once."""
        dispatcher: Any = self._dispatcher()
        original = self._original(dispatcher, "_dispatch_notification")
        routes = self._incoming.owner.__dict__["_listen_routes"]
        if notification.params.get("requestId") in routes:
            # It ends a stream of notifications, which is to happen in the order of the wire.
            original(notification, metadata, partial(self._tell, message, on_notify, None), sender_context)
            return

        async def cancel(context: Any, method: str, params: Any) -> None:
            changed = notification.model_copy(update={"params": params})
            original(changed, metadata, on_notify, sender_context)

        dispatcher._spawn(self._tell, message, cancel, None, None, _CANCELLED, None, sender_ctx=sender_context)

    def _dispatch_acknowledged(
        self, message: _Message, notification: Any, metadata: Any, on_notify: Any, sender_context: Any
    ) -> None:
        """Show the chain also what the SDK keeps for itself: the answer to a `listen` of its own."""
        dispatcher: Any = self._dispatcher()
        original = self._original(dispatcher, "_dispatch_notification")
        intercept = dispatcher._on_notify_intercept
        kept: list[bool] = []

        def noting(method: str, params: Any) -> bool:
            kept.append(bool(intercept(method, params)))
            return kept[0]

        async def nothing(context: Any, method: str, params: Any) -> None:
            """The SDK has it already."""

        dispatcher._on_notify_intercept = intercept and noting
        try:
            original(notification, metadata, partial(self._tell, message, on_notify, None), sender_context)
        finally:
            dispatcher._on_notify_intercept = intercept
        if any(kept):
            dispatcher._spawn(self._tell, message, nothing, None, None, "", None, sender_ctx=sender_context)

    async def _dispatch_direct_notification(self, method: str, params: Any) -> None:
        original = self._original(self._dispatcher(), "_dispatch_notify")
        message = self._message(method, params)
        if message is None:
            await original(method, params)
            return

        async def on_notify(context: Any, method: str, params: Any) -> None:
            await original(method, params)

        await self._tell(message, on_notify, None, None, method, params)

    async def _send_direct(self, method: str, params: Any, opts: Any = None) -> Any:
        """Report progress through the chain: in process, it is no notification, but a call of the callback."""
        original = self._original(self._dispatcher(), "send_raw_request")
        callback = (opts or {}).get("on_progress")
        if callback is None:
            return await original(method, params, opts)

        async def report(progress: float, total: float | None = None, message: str | None = None) -> None:
            async def deliver(params: Any) -> None:
                await callback(params.progress, params.total, params.message)

            token = getattr(getattr(callback, "context", None), "id", method)
            reported = types.ProgressNotificationParams(
                progress_token=token, progress=progress, total=total, message=message
            )
            await self._incoming.tell(_PROGRESS, reported, deliver, origin=callback)

        return await original(method, params, {**opts, "on_progress": report})

    async def _on_notify(self, context: Any, method: str, params: Any) -> None:
        original = self._original(self._incoming.owner, "_on_notify")
        message = self._message(method, params)
        if message is None:
            await original(context, method, params)
        else:
            await self._tell(message, original, None, context, method, params)

    def _message(self, method: str, params: Any) -> _Message | None:
        """A notification for the chain; `None` where the SDK alone deals with it."""
        if not self._incoming.wants("notification", method):
            return None
        try:
            return _Message(self._incoming, "notification", method, params)
        except ValidationError:
            return None  # the SDK says so

    async def _tell(
        self, message: _Message, on_notify: Any, callback: Any, context: Any, method: str, params: Any
    ) -> None:
        """Pass a notification through the chain; the arguments after `callback` are those of the SDK's handler."""
        has_callback = callback is not None and _is_number(message.raw["progress"])

        async def deliver(params: Any) -> None:
            wire = message.wire(params)
            if not has_callback:
                await on_notify(context, message.method, wire)
                return
            total, text = wire.get("total"), wire.get("message")
            # Both at once, and the callback first, as the dispatcher does; from what it reads off the wire.
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(on_notify, context, message.method, wire)
                await jsonrpc_dispatcher._shielded_progress(callback)(
                    float(wire["progress"]),
                    float(total) if isinstance(total, (int, float)) else None,
                    text if isinstance(text, str) else None,
                )

        await self._incoming.tell(message.method, message.params, deliver, origin=callback)


class _Message:
    """A message as the wire has it, and its typed params."""

    def __init__(self, incoming: IncomingSeam, kind: Any, method: str, raw: Any) -> None:
        self.method = method
        self.raw = raw
        self.params = incoming.read_params(kind, method, raw)
        self._before = _dump(self.params) if isinstance(self.params, BaseModel) else None

    def wire(self, params: Any) -> Any:
        """What the SDK is to read: what the server sent, unless a middleware changed it."""
        if not isinstance(params, BaseModel):
            return params
        data = _dump(params)
        return self.raw if _is_same_json(data, self._before) else data


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_same_json(one: Any, other: Any) -> bool:
    # Not ==, which takes true for 1.
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _dump(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(by_alias=True, mode="json", exclude_none=True)


# The headers of the call that is being sent in this context, until its HTTP request has them: what the call leads to,
# answers to the server and requests of callbacks among it, runs in contexts derived from this one.
_call_headers: ContextVar[list[Mapping[str, str]]] = ContextVar("mcp_intercept_call_headers")


@contextmanager
def sending_unlinked(session: ClientSession, headers: dict[str, str]) -> Generator[None, None, None]:
    """Hand `headers` to the transport with the request that `session` sends next, as the SDK does with its own."""
    state = session.__dict__
    stamp = state["_stamp"]
    if not isinstance(stamp, _Stamp):
        # The SDK makes a new one with each handshake.
        state["_stamp"] = _Stamp(stamp)
    with _sending(without_protocol(headers)):
        yield


class _Stamp:
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
            merge_headers(request.headers, waiting.pop())
