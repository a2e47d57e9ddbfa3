"""`CallbackClientSession`: one session, with a chain around everything it sends.

Above: `connect()` and the user. Below: the chain, and the SDK's own session, which does all the work.
"""

# The functions here, and other wrappers, may know what a wrapper keeps to itself.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from itertools import count
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import BaseModel, TypeAdapter

from mcp_intercept._calls import NotificationCall, RequestCall, of_wrapper
from mcp_intercept._context import CallOptions, Endpoint
from mcp_intercept._interception import Interception
from mcp_intercept._manager import MiddlewareManager
from mcp_intercept._rounds import ASKING_METHODS, QUESTIONS, is_answer
from mcp_intercept._sdk import LINE, ClientSession, line, spans, transports
from mcp_intercept._wire import WireTap
from mcp_intercept.errors import SessionStateError, UnsupportedTargetError

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger("mcp_intercept")

ResultT = TypeVar("ResultT", bound=BaseModel)
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_connection_numbers = count(1)


class _Unhidden:
    """A method that the shared state cannot hide: an attribute of the same name there belongs to the session inside.

    Somebody may have patched `send_request` of that session, which goes on below the chain. Patched on the wrapper,
    it goes round the chain.
    """

    def __init__(self, function: Any) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, wrapper: Any, owner: type) -> Any:
        if wrapper is None:
            return self._function
        patches = wrapper._interception.patches
        return patches[self._name] if self._name in patches else MethodType(self._function, wrapper)

    def __set__(self, wrapper: Any, value: Any) -> None:
        wrapper._interception.patches[self._name] = value

    def __delete__(self, wrapper: Any) -> None:
        del wrapper._interception.patches[self._name]


def _unhidden(function: FunctionT) -> FunctionT:
    return cast("FunctionT", _Unhidden(function))  # to type checkers, the method that it is


# On line 2 a property of the seam stands before an attribute of the shared state, hence the ignores.
class CallbackClientSession(  # type: ignore[misc]  # pyright: ignore[reportIncompatibleVariableOverride]
    line.SessionSeam, ClientSession
):
    """A `ClientSession` that sends everything through a chain of middlewares.

    It shares the state of the session it wraps: either may be entered (not both), and both then work. Only what is
    sent through this one passes the chain. Overrides of a subclass of `ClientSession` stay in force.

    What comes out of the chain is what the SDK's typed method goes on with: errors that the SDK raises after that (a
    result that breaks the tool's output schema) are not seen by middleware.

    Args:
        client_session: The session to wrap; may already be entered.
        connector_id: What `context.connection_id` shows. Keep secrets out of it: it ends up in logs and traces.
        middleware_manager: The middlewares; may be shared with other sessions.

    Raises:
        UnsupportedTargetError: One of the arguments is not what it should be.
    """

    __slots__ = ("_interception",)

    _interception: Interception

    def __new__(
        cls, client_session: ClientSession, connector_id: str, middleware_manager: MiddlewareManager
    ) -> CallbackClientSession:
        """Make it an instance of the wrapped session's own class too, so that its overrides stay in force."""
        _check_arguments(client_session, connector_id, middleware_manager)
        wrapped_type: Any = _innermost_type(type(client_session))
        return object.__new__(_wrapper_class(cast("Any", cls), wrapped_type))

    def __init__(self, client_session: ClientSession, connector_id: str, middleware_manager: MiddlewareManager) -> None:
        # Instead of ClientSession.__init__: with its state shared, the SDK's code runs on the wrapper as it is.
        self.__dict__ = client_session.__dict__
        innermost = _innermost(client_session)
        self._interception = Interception(self, client_session, innermost, connector_id, middleware_manager)
        self._interception.receive(innermost)
        middleware_manager.register(self._interception)

    def __hash__(self) -> int:
        # A subclass of ClientSession that compares by value is not hashable, but its wrappers are told apart.
        return object.__hash__(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.connector_id!r}>"

    @property
    def client_session(self) -> ClientSession:
        """The wrapped session. What is sent through it bypasses the chain."""
        return self._interception.inner

    @property
    def connector_id(self) -> str:
        """What `context.connection_id` shows."""
        return self._interception.connection_id

    @property
    def middleware_manager(self) -> MiddlewareManager:
        """The middlewares of this session."""
        return self._interception.manager

    async def __aenter__(self) -> Self:
        """Start the session.

        Raises:
            SessionStateError: It was entered before, through this wrapper or the session inside.
        """
        if self.__dict__.get("_task_group") is not None:
            raise SessionStateError(
                f"{self!r} was entered before, through itself or the session it wraps; enter only one of them, once"
            )
        self._interception.incoming.enter(self)
        await super().__aenter__()
        self._interception.enter(self.__dict__["_task_group"])
        return self

    @_unhidden
    @of_wrapper
    async def send_request(
        self,
        request: Any,
        result_type: type[ResultT] | TypeAdapter[ResultT],
        request_read_timeout_seconds: float | timedelta | None = None,
        metadata: Any = None,
        progress_callback: Any = None,
        *,
        _headers: dict[str, str] | None = None,  # from a wrapper around this one
    ) -> ResultT:
        """Send a request through the chain. Every typed method ends up here.

        Args and errors are those of `ClientSession.send_request`, and besides:

        Raises:
            MiddlewareError: A middleware broke its contract.
            SessionStateError: The session was not entered, or twice.
        """
        interception = self._interception
        state = self.__dict__
        if state.get("_task_group") is not interception.group:
            interception.check_entered(self)
        message = line.message_of(request) if LINE == 1 else request
        manager = interception.manager
        try:
            method = message.method
            chain = manager.requests[method]
            pass_by = chain is None and not manager.sees_progress and spans.sending.get() is None
        except (AttributeError, TypeError):
            # No request at all: the SDK knows how to refuse it.
            method, chain, pass_by = "", None, True
        result: ResultT
        if pass_by:
            arguments = (request, result_type, request_read_timeout_seconds, metadata, progress_callback)
            if _headers:
                result = await interception.transmit_with(_headers, *arguments)
            else:
                result = await interception.transmit(*arguments)
            return result
        options = CallOptions(line.to_seconds(request_read_timeout_seconds), progress_callback, _headers or {})
        # A vendor's request may have no params, not even None.
        params: Any = message.params if "params" in message.__dict__ else None
        context = interception.context(self, method, params, "request", options)
        if method in ASKING_METHODS and is_answer(params):
            interception.rounds.go_on(context)
        call = RequestCall(interception, context, request, result_type, request_read_timeout_seconds, metadata)
        if manager.watchers or chain is None:
            result = await manager.run(chain, call, context)
        else:
            # The same without observers, and with a frame less.
            try:
                result = await chain(call, context)
            finally:
                call.end()
        if result.__class__ is QUESTIONS:
            interception.rounds.ask(context, result)
        return result

    @_unhidden
    async def send_notification(self, notification: Any, *args: Any, **kwargs: Any) -> None:
        """Send a notification through the chain.

        Args and errors are those of `ClientSession.send_notification`, and besides:

        Raises:
            MiddlewareError: A middleware broke its contract.
        """
        interception = self._interception
        message = line.message_of(notification)
        method = getattr(message, "method", None)
        if isinstance(method, str):
            manager = interception.manager
            params = getattr(message, "params", None)
            context = interception.context(self, method, params, "notification", CallOptions())
            call = NotificationCall(interception, context, notification, (args, kwargs))
            await manager.run(manager.notifications[method], call, context)
        else:
            # No notification at all: the SDK knows how to refuse it.
            await interception.below.send_notification(notification, *args, **kwargs)


def _check_arguments(client_session: object, connector_id: object, middleware_manager: object) -> None:
    # Of a mock with the spec of a session, isinstance() says that it is one.
    if not issubclass(type(client_session), ClientSession):
        raise UnsupportedTargetError(
            f"cannot wrap {_described(client_session)}; give an mcp.ClientSession (or, of SDK 2.x, a Client), "
            f"or use connect() to open one",
            target=client_session,
        )
    if line.LAST_KEY not in client_session.__dict__:
        raise UnsupportedTargetError(
            f"this {type(client_session).__name__} has no state of its own, as it never ran ClientSession.__init__; "
            f"use intercept_all() for the sessions that it opens",
            target=client_session,
        )
    if not isinstance(connector_id, str):
        raise UnsupportedTargetError(
            f"connector_id must be a str, not {type(connector_id).__name__}; it is the connection_id of connect()",
            target=connector_id,
        )
    if not isinstance(middleware_manager, MiddlewareManager):
        raise UnsupportedTargetError(
            f"middleware_manager must be a MiddlewareManager, not {type(middleware_manager).__name__}; "
            f"for a few middlewares use intercept(session, *middlewares)",
            target=middleware_manager,
        )


def _described(target: object) -> str:
    if isinstance(target, type):
        return f"the class {target.__name__}"
    return f"an object of type {type(target).__name__}"


def _innermost(session: ClientSession) -> ClientSession:
    while isinstance(session, CallbackClientSession):
        session = session.client_session
    return session


def _innermost_type(session_type: type[ClientSession]) -> type[Any]:
    # Of a wrapper inside a wrapper, what counts is the class that both wrap.
    if not issubclass(session_type, CallbackClientSession):
        return session_type
    bases: tuple[type[Any], ...] = session_type.__mro__
    return next(
        base for base in bases if issubclass(base, ClientSession) and not issubclass(base, CallbackClientSession)
    )


@lru_cache(maxsize=256)
def _wrapper_class(cls: type[Any], session_type: type[Any]) -> type[CallbackClientSession]:
    if issubclass(cls, session_type):
        return cls
    try:
        return cast(
            "type[CallbackClientSession]",
            type(f"{cls.__name__}[{session_type.__name__}]", (cls, session_type), {"__slots__": ()}),
        )
    except TypeError as error:
        raise UnsupportedTargetError(
            f"cannot wrap a {session_type.__qualname__}: {error}; remove its __slots__", target=session_type
        ) from error


def new_connection_id() -> str:
    """A short readable name for a connection that nobody has named."""
    return f"mcp-{next(_connection_numbers)}"


def attach_wire(
    session: CallbackClientSession, tap: WireTap, link: line.HttpLink | None = None, url: str | None = None
) -> None:
    """Make a session know its wire: for JSON-RPC ids and responses, headers of single calls, and the session id."""
    interception = session._interception
    interception.incoming.tap = tap
    interception.link = link or interception.link
    if url is not None:
        interception.transport.known = transports.http_endpoint(url)


# Functions, as a subclass of ClientSession may have attributes of any name.


def connection_of(session: CallbackClientSession) -> object:
    """What all wrappers around one session have in common."""
    return session._interception.incoming


def endpoint_of(session: CallbackClientSession) -> Endpoint:
    """Where messages go, as far as that is known: the transport may not be up before the first answer."""
    return session._interception.endpoint


def session_id_of(session: CallbackClientSession) -> str | None:
    """The streamable HTTP session id by now; `None` where there is no such thing."""
    return session._interception.link.session_id


def know_ids(session: CallbackClientSession) -> None:
    """Have the calls of a session know their JSON-RPC ids from now on."""
    incoming = session._interception.incoming
    # Somebody may read along already.
    incoming.know_ids()


def note_exit(session: CallbackClientSession, callback: Callable[[BaseException | None], None]) -> None:
    """Have `callback` called when a session is left, with the exception that it is left with."""
    session._interception.incoming.on_exit(callback)
