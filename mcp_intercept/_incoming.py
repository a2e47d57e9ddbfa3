"""What a server sends, passed through the chains of all wrappers around one session.

Above: `CallbackClientSession`, which adds itself here. Below: the line's code, which finds the places where the SDK
receives, and hands over each message with a way to deliver it to the SDK.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from threading import RLock
from typing import TYPE_CHECKING, Any, Protocol, get_args
from weakref import ref

from pydantic import BaseModel, TypeAdapter

from mcp_intercept._chain import Invocation, Step
from mcp_intercept._context import Kind, MiddlewareContext, printable
from mcp_intercept._manager import MiddlewareManager
from mcp_intercept._results import admit_result
from mcp_intercept._sdk import line, receiving, spans, types
from mcp_intercept._sdk.patches import Patches
from mcp_intercept._wire import WireTap
from mcp_intercept.errors import MiddlewareError
from mcp_intercept.methods import METHODS, Method

if TYPE_CHECKING:
    from mcp_intercept._sdk import ClientSession

logger = logging.getLogger("mcp_intercept")

Deliver = Callable[[Any], Awaitable[Any]]
"""Hands params to the SDK, and returns the result; the `ErrorData` that a callback refuses with is a result."""

_KEY = "_mcp_intercept_incoming"

# Wrappers of one session may come and go in several threads. Reentrant, as the collector may end one at any time.
_lock = RLock()


class Receiver(Protocol):
    """What is needed of a wrapper, which stands above."""

    @property
    def manager(self) -> MiddlewareManager: ...

    @property
    def wrapper(self) -> Callable[[], Any]: ...

    def context_of_incoming(
        self, method: str, params: Any, kind: Kind, jsonrpc_id: str | int | None, origin: object
    ) -> MiddlewareContext[Any]:
        """The context of a message that the server sent."""
        ...


class Reported:
    """The progress callback of a call, and the context of the call.

    Args:
        callback: What is to be called.
        context: That of the call.
        receiver: Whose context it is.
        entered: The callback that the call came with, of which a middleware may have made another.
    """

    __slots__ = ("callback", "context", "entered", "receiver")

    def __init__(self, callback: Any, context: MiddlewareContext[Any], receiver: Receiver, entered: Any) -> None:
        self.callback = callback
        self.context = context
        self.receiver = receiver
        self.entered = entered

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        await self.callback(progress, total, message)

    def context_for(self, receiver: Receiver) -> MiddlewareContext[Any] | None:
        """The call as `receiver` knows it; each wrapper around a session has a context of its own for it."""
        reported: Any = self
        while isinstance(reported, Reported):
            if reported.receiver is receiver:
                return reported.context
            reported = reported.entered
        return None


class Incoming:
    """The wrappers around one session, outermost first, and what they do with what its server sends.

    The state of the session holds this, and this holds the wrappers weakly: whoever drops a wrapper is done with it.
    """

    def __init__(self, session: ClientSession) -> None:
        self._session = ref(session)
        self._entered_by: ref[ClientSession] | None = None
        self._around: tuple[ref[Receiver], ...] = ()
        self._in_place: tuple[ref[Receiver], ...] = ()
        self._receivers: tuple[ref[Receiver], ...] = ()
        self.in_place = False
        self.tap: WireTap | None = None
        self._patches = Patches()
        self._exit_callbacks: tuple[Callable[[BaseException | None], None], ...] = ()
        self._uninstall = receiving.install(session, self)

    @classmethod
    def join(cls, session: ClientSession, receiver: Receiver) -> Incoming:
        """Let a wrapper of `session`, which is none itself, take part, outside of those that do already."""
        state = session.__dict__
        with _lock:
            if _KEY not in state:
                state[_KEY] = cls(session)
            found: Incoming = state[_KEY]
            found._set((ref(receiver, found._drop), *found._around), found._in_place)
        return found

    def move_inside(self, receiver: Receiver) -> None:
        """Let a wrapper take part as one that the session itself sends through: inside of those around it."""
        with _lock:
            for reference in self._around:
                if reference() is receiver:
                    around = tuple(other for other in self._around if other is not reference)
                    self._set(around, (reference, *self._in_place))

    def remove(self, receiver: Receiver) -> None:
        """Let a wrapper take part no longer."""
        for reference in self._receivers:
            if reference() is receiver:
                self._drop(reference)

    def _set(self, around: tuple[ref[Receiver], ...], in_place: tuple[ref[Receiver], ...]) -> None:
        # The collector may have ended one of them just now, in this very thread.
        self._around = tuple(reference for reference in around if reference() is not None)
        self._in_place = tuple(reference for reference in in_place if reference() is not None)
        self._receivers = (*self._around, *self._in_place)
        # Whether the session itself sends through a wrapper.
        self.in_place = bool(self._in_place)

    def _drop(self, reference: ref[Receiver]) -> None:
        with _lock:
            self._set(
                tuple(other for other in self._around if other is not reference),
                tuple(other for other in self._in_place if other is not reference),
            )
            session = self._session()
            if not self._receivers and session is not None and session.__dict__.get(_KEY) is self:
                self._patches.undo()
                self._uninstall()
                del session.__dict__[_KEY]

    def know_ids(self) -> None:
        """Have the calls of the session know their JSON-RPC ids from now on, where nobody reads along yet."""
        with _lock:
            session = self._session()
            end = None if session is None or self.tap is not None else line.write_end_of(session)
            if end is not None:
                tap = WireTap()
                self._patches.set(end, "_write_stream", tap.writing(end._write_stream))
                self.tap = tap

    def on_exit(self, callback: Callable[[BaseException | None], None]) -> None:
        """Have `callback` called when the session is left, with the exception that it is left with."""
        with _lock:
            session = self._session()
            if session is not None and not self._exit_callbacks:
                line.note_exit(session, self._leave, self._patches)
            self._exit_callbacks = (*self._exit_callbacks, callback)

    def _leave(self, error: BaseException | None) -> None:
        for callback in self._exit_callbacks:
            callback(error)

    @property
    def owner(self) -> ClientSession | None:
        """The object on which the SDK's code runs: the session, or the wrapper it was entered through."""
        entered_by = self._entered_by and self._entered_by()
        return entered_by or self._session()

    def enter(self, wrapper: ClientSession) -> None:
        """The session was entered through `wrapper`."""
        self._entered_by = ref(wrapper)

    def wants(self, kind: Kind, method: str) -> bool:
        """Whether any wrapper has a use for such a message."""
        for reference in self._receivers:
            receiver = reference()
            if receiver is not None and (receiver.manager.watchers or _chain_of(receiver.manager, kind, method)):
                return True
        return False

    @staticmethod
    def is_known(kind: Kind, method: str) -> bool:
        """Whether a server may send such a message; its params are then a model."""
        return _row_of(kind, method) is not None

    @staticmethod
    def read_params(kind: Kind, method: str, params: Any) -> Any:
        """The typed params of a message, from those of the wire; a vendor's stay as they are.

        Raises:
            ValidationError: They do not fit the method.
        """
        row = _row_of(kind, method)
        if row is None or (params is None and row.optional):
            return params
        return _params_type(row.params).validate_python(params, by_name=False)

    async def answer(
        self,
        method: str,
        params: Any,
        deliver: Deliver,
        *,
        jsonrpc_id: str | int | None = None,
        origin: object = None,
        within_call: bool = False,
    ) -> Any:
        """Pass a request through the chains.

        Args:
            method: The wire name.
            params: The params model, or what a vendor's request carries.
            deliver: Has the SDK answer it.
            jsonrpc_id: Its id.
            origin: What tells which call it belongs to.
            within_call: Whether there is no server to be told of an exception, but the caller of a call.

        Returns:
            The result, or the `ErrorData` to refuse with.

        Raises:
            Exception: What `deliver` raised.
        """
        raised: Any = None
        refusal: Any = None

        async def refusing(params: Any) -> Any:
            nonlocal raised, refusal
            try:
                response = await deliver(params)
            except Exception as error:
                raised = error
                raise
            if isinstance(response, types.ErrorData):
                refusal, raised = response, line.to_error(response)
                raise raised
            return response

        try:
            return await self._pass("request", method, params, refusing, jsonrpc_id, origin)
        except Exception as error:
            if error is raised and refusal is not None:
                return refusal
            if error is raised:
                raise
            if isinstance(error, line.Error):
                return error.error
            if within_call:
                raise
            _report(f"the server is told of an internal error in its {_shown(method)}, as middleware failed", error)
            return types.ErrorData(code=types.INTERNAL_ERROR, message="Internal error")

    async def tell(self, method: str, params: Any, deliver: Deliver, *, origin: object = None) -> None:
        """Pass a notification through the chains.

        Args:
            method: The wire name.
            params: The params model, or what a vendor's notification carries.
            deliver: Has the SDK take it.
            origin: What tells which call it belongs to.

        Raises:
            Exception: What `deliver` raised. What a middleware raises is logged.
        """
        raised: Any = None

        async def delivering(params: Any) -> None:
            nonlocal raised
            try:
                await deliver(params)
            except Exception as error:
                raised = error
                raise

        try:
            await self._pass("notification", method, params, delivering, None, origin)
        except Exception as error:
            if error is raised:
                raise
            _report(f"an incoming {_shown(method)} is lost, as middleware failed", error)

    async def _pass(
        self, kind: Kind, method: str, params: Any, deliver: Deliver, jsonrpc_id: str | int | None, origin: object
    ) -> Any:
        step = deliver
        message = object()
        living = [receiver for reference in reversed(self._receivers) if (receiver := reference()) is not None]
        for receiver in living:
            chain = _chain_of(receiver.manager, kind, method)
            if chain or receiver.manager.watchers:
                step = partial(_receive, receiver, chain, kind, method, step, jsonrpc_id, origin, message)
        return await step(params)


async def _receive(
    receiver: Receiver,
    chain: Step | None,
    kind: Kind,
    method: str,
    deliver: Deliver,
    jsonrpc_id: str | int | None,
    origin: object,
    message: object,
    params: Any,
) -> Any:
    if receiver.wrapper() is None:
        return await deliver(params)  # it went while a wrapper further out had the message
    context = receiver.context_of_incoming(method, params, kind, jsonrpc_id, origin)
    return await receiver.manager.run(chain, _IncomingCall(context, deliver, message), context)


class _IncomingCall(Invocation):
    """A message of the server's: delivered to the SDK, and what may answer it."""

    __slots__ = ("_deliver", "_message", "_params")

    def __init__(self, context: MiddlewareContext[Any], deliver: Deliver, message: object) -> None:
        super().__init__(context)
        # What a wrapper further out traces, is traced.
        self.traced = spans.take(message)
        self._message = message
        self._deliver = deliver
        self._params = context.params

    async def send(self, context: MiddlewareContext[Any]) -> Any:
        params = context.params
        if params is not self._params:
            row = _row_of(self.entry.kind, self.method)
            # For elicitation/create, that is a union.
            wanted = dict if row is None else getattr(types, row.params)
            if not isinstance(params, wanted) and type(params) is not type(self._params):
                names = " or ".join(each.__name__ for each in get_args(wanted) or (wanted,))
                raise MiddlewareError(
                    f"a middleware assigned an object of type {type(params).__name__} to context.params of the "
                    f"incoming {_shown(self.method)}; assign {names}",
                    method=self.method,
                )
        if self.traced is None:
            return await self._deliver(params)
        return await spans.send(self.traced, self._deliver(params), to=self._message, on_wire=False)

    def admit(self, value: Any) -> Any:
        if self.entry.kind == "notification":
            if value is not None:
                raise ValueError(f"returned an object of type {type(value).__name__}; a notification has no result")
            return None
        if isinstance(value, types.ErrorData):
            # As a callback refuses. The layers further out meet the error that it is.
            raise line.to_error(value)
        if _row_of("request", self.method) is None and value is not None:
            if not issubclass(type(value), (BaseModel, dict)):
                raise ValueError(f"returned an object of type {type(value).__name__}, not a model or a dict")
            return value
        result_type = _result_type(self.method)
        may_be_one = value is None or issubclass(type(value), (BaseModel, dict))
        if isinstance(result_type, TypeAdapter) and not may_be_one:
            raise ValueError(f"returned an object of type {type(value).__name__}, not {METHODS[self.method].result}")
        return admit_result(result_type, value)


def _row_of(kind: Kind, method: str) -> Method | None:
    # What only a client sends is nothing that a typed hook should meet from a server.
    row = METHODS.get(method)
    return row if row is not None and row.kind == kind and row.sender != "client" else None


def _chain_of(manager: MiddlewareManager, kind: Kind, method: str) -> Step | None:
    chains = manager.requests if kind == "request" else manager.notifications
    return chains[method] if _row_of(kind, method) or method not in METHODS else chains.unnamed


@lru_cache(maxsize=64)
def _params_type(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(getattr(types, name))


@lru_cache(maxsize=64)
def _result_type(method: str) -> Any:
    row = _row_of("request", method)
    if row is None:
        return object
    if method == "sampling/createMessage":
        return TypeAdapter(types.CreateMessageResult | types.CreateMessageResultWithTools)
    return getattr(types, row.result or "")


def _report(what: str, error: Exception) -> None:
    # What a middleware raises is its own business. What made one of ours, shows values: what pydantic refused.
    if isinstance(error, MiddlewareError):
        logger.error("%s: %s", what, error)
    else:
        logger.error("%s", what, exc_info=error)


def _shown(method: str) -> str:
    return printable(method)
