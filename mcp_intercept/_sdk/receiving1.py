"""Where a session of SDK line 1 receives, and how what it receives is handed over. To be deleted with line 1."""

# The places are in the SDK's receive loop, which has no public ones.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import logging
from collections import UserDict
from collections.abc import Callable
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any
from weakref import ref

import anyio
from mcp import ClientSession
from mcp.shared.message import SessionMessage
from mcp.shared.session import RequestResponder
from mcp.types import (
    INVALID_PARAMS,
    CancelledNotification,
    EmptyResult,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    ProgressNotification,
)
from pydantic import ValidationError

from mcp_intercept._context import Kind
from mcp_intercept._sdk.line1 import VERSION_KEY, message_of
from mcp_intercept._sdk.patches import Patches
from mcp_intercept._sdk.seam import IncomingSeam

logger = logging.getLogger("mcp_intercept")


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


class _Awaited(UserDict[Any, Any]):
    """The table of awaited responses, which notices a request that a handler sends.

    Line 1 runs handlers in its receive loop, so the response would never be read. Here another loop reads on while
    the handler waits, and the first one rests when it is done. Until then all messages are handled like that: each
    begins in its turn, but none can keep the response from being read.
    """

    def __init__(self, loop: _ReceiveLoop, plain: dict[Any, Any]) -> None:
        # The SDK's own table holds the entries throughout: other threads may put this one in its place, and take it
        # away again, in the middle of a call.
        self.data = plain
        self._loop = loop

    def __setitem__(self, key: Any, value: Any) -> None:
        self.data[key] = value
        turn = _turn.get()
        if turn is not None and turn.loop is self._loop:
            turn.loop.release(turn)


class _ReceiveLoop:
    """The places in the SDK's receive loop where messages of the server are handed out."""

    def __init__(self, session: ClientSession, incoming: IncomingSeam) -> None:
        self.incoming = incoming
        self._session: Callable[[], Any] = ref(session)
        self._resting: list[anyio.Event] = []
        # How many turns go on while another loop reads.
        self.waiting = 0
        self._patches = patches = Patches()
        state = session.__dict__
        patches.set(session, "_response_streams", _Awaited(self, state["_response_streams"]))
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
        self._patches.undo()
        vars(self._session()).pop(VERSION_KEY, None)

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
            logger.warning("Failed to validate request: %s", type(error).__name__)
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
            logger.warning(
                "Failed to validate notification: %s", type(error).__name__
            )  # as the loop does, which rests from here on
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
                logger.warning("a message handler failed: %s", type(error).__name__)
        await self._end_turn()
