"""What only SDK line 1 (`mcp` >=1.24,<2) does. To be deleted with it."""

# What line 1 forgets can only be made good from its own tables.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from types import FrameType, SimpleNamespace
from typing import Any
from weakref import ref

import anyio
import httpx  # noqa: ASYNC127 - line 1 is built on it
from mcp import ClientSession, McpError
from mcp.client.experimental import ExperimentalClientFeatures
from mcp.shared.message import SessionMessage
from mcp.shared.session import RequestResponder
from mcp.types import (
    INVALID_PARAMS,
    CancelledNotification,
    ClientNotification,
    ClientRequest,
    EmptyResult,
    ErrorData,
    InitializeResult,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    ProgressNotification,
)
from pydantic import RootModel, ValidationError

from mcp_intercept._context import Kind, is_sdk_timeout
from mcp_intercept._sdk.http import HttpLinkBase, merge_headers
from mcp_intercept._sdk.patches import Patches
from mcp_intercept._sdk.seam import IncomingSeam

logger = logging.getLogger("mcp_intercept")

# Where the negotiated protocol version is found in the state of a session. Line 1 forgets it; `transmit` notes it here.
VERSION_KEY = "_mcp_intercept_protocol_version"

# The last attribute that a session gets when it is made.
LAST_KEY = "_task_handlers"

Error = McpError
"""A JSON-RPC error."""

_WRAPPERS = frozenset({ClientRequest, ClientNotification})

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


def frame_of(item: Any) -> Any:
    """The JSON-RPC message in what passes between a session and its transport; `None` for an exception."""
    return item.message.root if isinstance(item, SessionMessage) else None


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
    notification = JSONRPCNotification(jsonrpc="2.0", method="notifications/cancelled", params=params)
    _write_soon(session, SessionMessage(message=JSONRPCMessage(notification)))


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


def install(session: ClientSession, incoming: IncomingSeam) -> Callable[[], None]:
    """Hand what `session` receives to `incoming`, as long as that wants it.

    Returns:
        Its undo.
    """
    return _ReceiveLoop(session, incoming).undo


class _Veiled:
    """A message that the chain is to see first: the SDK's receive loop takes no way of its own with it."""

    __slots__ = ("data", "failure", "message")

    root = SimpleNamespace(params=None)  # what the loop looks at

    def __init__(self, data: dict[str, Any], message: Any, failure: ValidationError | None) -> None:
        self.data = data
        self.message = message
        self.failure = failure

    @property
    def params(self) -> Any:
        return self.data.get("params") if self.message is None else self.message.root.params

    def with_params(self, params: Any) -> Any:
        """The message as the SDK knows it.

        Raises:
            ValidationError: It does not know such a message.
        """
        if self.failure is not None:
            raise self.failure
        if params is not self.message.root.params:
            self.message.root.params = params
        return self.message


class _Reading:
    """Stands for the model that the receive loop validates each request or notification into."""

    def __init__(self, loop: _ReceiveLoop, kind: Kind, model: Any) -> None:
        self._loop = loop
        self._kind: Kind = kind
        self._model = model

    def model_validate(self, data: dict[str, Any]) -> Any:
        self._loop.begin_turn()
        method = data["method"]
        incoming = self._loop.incoming
        wanted = incoming.wants(self._kind, method)
        if not wanted and not self._loop.waiting:
            return self._model.model_validate(data)
        try:
            return _Veiled(data, self._model.model_validate(data), None)
        except ValidationError as error:
            if not wanted or incoming.is_known(self._kind, method):
                raise
            return _Veiled(data, None, error)


class _Answer(RequestResponder[Any, Any]):
    """Keeps the response instead of sending it."""

    response: Any = None

    def __init__(self, responder: RequestResponder[Any, Any], request: Any) -> None:
        params = request.root.params
        super().__init__(
            responder.request_id,
            params.meta if params else None,
            request,
            responder._session,
            lambda _: None,
            responder.message_metadata,
        )

    async def respond(self, response: Any) -> None:
        self._completed = True
        self.response = response


class _InFlight:
    """A request that is being answered, for the server to cancel."""

    def __init__(self, session: Any, request_id: Any) -> None:
        self.scope = anyio.CancelScope()
        self._session = session
        self._request_id = request_id

    async def cancel(self) -> None:
        self.scope.cancel()
        # As the SDK answers it.
        refusal = ErrorData(code=0, message="Request cancelled", data=None)
        await self._session._send_response(self._request_id, refusal)


class _Turn:
    """One message in the receive loop, from the SDK reading it to the last of its handlers."""

    __slots__ = ("ended", "loop", "released")

    def __init__(self, loop: _ReceiveLoop) -> None:
        self.loop = loop
        self.ended = False
        self.released = False


_turn: ContextVar[_Turn | None] = ContextVar("mcp_intercept_turn", default=None)


class _Awaited(dict[Any, Any]):
    """The table of awaited responses, which notices a request that a handler sends.

    Line 1 runs handlers in its receive loop, so the response would never be read. Here another loop reads on while
    the handler waits, and the first one rests when it is done. Until then all messages are handled like that: each
    begins in its turn, but none can keep the response from being read.
    """

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        turn = _turn.get()
        if turn is not None and turn.loop.awaited is self:
            turn.loop.release(turn)


class _ReceiveLoop:
    """The places in the SDK's receive loop where messages of the server are handed out."""

    def __init__(self, session: ClientSession, incoming: IncomingSeam) -> None:
        self.incoming = incoming
        self._session = ref(session)
        self._resting: list[anyio.Event] = []
        # How many turns go on while another loop reads.
        self.waiting = 0
        self._patches = patches = Patches()
        state = session.__dict__
        self._plain_awaited: dict[Any, Any] = state["_response_streams"]
        self.awaited = _Awaited(self._plain_awaited)
        patches.set(session, "_response_streams", self.awaited)
        for kind in ("request", "notification"):
            name = f"_receive_{kind}_type"
            patches.set(session, name, _Reading(self, kind, state[name]))
        self._before = {
            name: state.get(name) for name in ("_received_request", "_received_notification", "_handle_incoming")
        }
        patches.set(session, "_received_request", self._received_request)
        patches.set(session, "_received_notification", self._received_notification)
        patches.set(session, "_handle_incoming", self._handle_incoming)

    def undo(self) -> None:
        """Leave the session as it was."""
        self._plain_awaited.clear()
        self._plain_awaited.update(self.awaited)
        self._patches.undo()
        session = self._session()
        if session is not None:
            session.__dict__.pop(VERSION_KEY, None)

    def _original(self, name: str) -> Any:
        # What the SDK, or a subclass, does runs on the object that was entered: callbacks get that as their session.
        owner: Any = self.incoming.owner
        return self._before[name] or getattr(type(owner), name).__get__(owner)

    def begin_turn(self) -> None:
        """The loop has read a message."""
        _turn.set(_Turn(self))

    def release(self, turn: _Turn) -> None:
        """Have another loop read on, from here to the end of a turn."""
        if turn.ended or turn.released:
            return
        turn.released = True
        self.waiting += 1
        owner: Any = self.incoming.owner
        if self._resting:
            self._resting.pop().set()
        else:
            # It takes turns of its own, not the one that it was started in.
            token = _turn.set(None)
            owner._task_group.start_soon(owner._receive_loop)
            _turn.reset(token)

    def _keep_reading(self) -> None:
        """Before a handler: it may be what another one waits for that waits for the server."""
        turn = _turn.get()
        if self.waiting and turn is not None:
            self.release(turn)

    def _drop_turn(self) -> None:
        turn = _turn.get()
        if turn is not None:
            self.waiting -= turn.released
            turn.ended = True
            _turn.set(None)

    async def _end_turn(self) -> None:
        released = self._is_released()
        self._drop_turn()
        if released:
            self._resting.append(wake := anyio.Event())
            await wake.wait()

    async def _received_request(self, responder: RequestResponder[Any, Any]) -> None:
        self._keep_reading()
        try:
            await self._answer(responder)
        except Exception as error:
            if not self._is_released():
                self._drop_turn()
                raise
            # As the loop does, which rests from here on.
            logger.warning("Failed to validate request: %r", error)
            refusal = ErrorData(code=INVALID_PARAMS, message="Invalid request parameters", data="")
            message = JSONRPCMessage(JSONRPCError(jsonrpc="2.0", id=responder.request_id, error=refusal))
            await responder._session._write_stream.send(SessionMessage(message=message))
            responder._completed = True
        if responder._completed:
            await self._end_turn()

    @staticmethod
    def _is_released() -> bool:
        turn = _turn.get()
        return turn is not None and turn.released

    async def _answer(self, responder: RequestResponder[Any, Any]) -> None:
        session: Any = responder._session
        request: Any = responder.request
        is_veiled = type(request) is _Veiled
        unanswered: Any = object()

        async def deliver(params: Any) -> Any:
            answer = _Answer(responder, request.with_params(params) if is_veiled else request)
            await self._original("_received_request")(answer)
            if not answer._completed:
                # Not even the SDK knows; the message handler is asked.
                responder.request, responder.request_meta = answer.request, answer.request_meta
                return unanswered
            return message_of(answer.response)

        # In the place of the responder, whose own way to be cancelled would end the receive loop.
        request_id = responder.request_id
        session._in_flight[request_id] = in_flight = _InFlight(session, request_id)
        response: Any = None
        try:
            with in_flight.scope:
                if is_veiled:
                    method = request.data["method"]
                    response = await self.incoming.answer(method, request.params, deliver, jsonrpc_id=request_id)
                else:
                    response = await deliver(None)
        finally:
            session._in_flight[request_id] = responder
        if in_flight.scope.cancel_called:
            responder._completed = True
            del session._in_flight[request_id]
        elif response is not unanswered:
            with responder:
                await responder.respond(
                    EmptyResult.model_validate(response) if isinstance(response, dict) else response
                )

    async def _received_notification(self, notification: Any) -> None:
        self._keep_reading()
        try:
            if type(notification) is _Veiled:
                await self._tell(notification)
            else:
                await self._original("_received_notification")(notification)
        except Exception as error:
            if not self._is_released():
                self._drop_turn()
                raise
            logger.warning("Failed to validate notification: %r", error)  # as the loop does, which rests from here on
            await self._end_turn()

    async def _tell(self, veiled: _Veiled) -> None:
        state: dict[str, Any] = self.incoming.owner.__dict__
        callback: Any = None
        method = veiled.data["method"]
        if veiled.message is not None and isinstance(veiled.message.root, ProgressNotification):
            callback = state["_progress_callbacks"].get(veiled.params.progressToken)

        async def deliver(params: Any) -> None:
            notification = veiled.with_params(params)
            if isinstance(notification.root, CancelledNotification):
                in_flight = state["_in_flight"].get(notification.root.params.requestId)
                if in_flight is not None:
                    await in_flight.cancel()
                return
            if callback is not None:
                try:
                    await callback(params.progress, params.total, params.message)
                except Exception as error:
                    logging.error("Progress callback raised an exception: %s", error)
            await self._original("_received_notification")(notification)
            await self._original("_handle_incoming")(notification)

        await self.incoming.tell(method, veiled.params, deliver, origin=callback)

    async def _handle_incoming(self, item: Any) -> None:
        if type(item) is not _Veiled:
            turn = _turn.get()
            if turn is None or turn.loop is not self:
                self.begin_turn()  # a failure of the transport, or a response that nobody waits for
                self._keep_reading()
            try:
                await self._original("_handle_incoming")(item)
            except Exception as error:
                if not self._is_released():
                    self._drop_turn()
                    raise
                logger.warning("a message handler failed: %r", error)
        await self._end_turn()


def is_client(target: object) -> bool:
    """Line 1 has no `Client`."""
    return False


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
