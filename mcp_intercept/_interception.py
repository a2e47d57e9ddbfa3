"""What a wrapper knows beyond the state it shares with the session it wraps.

Above: `CallbackClientSession`. Below: the chain, and what stands inside: the SDK's own session, or another wrapper.
"""

# What is shared with the session is its own.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import logging
from collections.abc import Awaitable
from dataclasses import replace
from itertools import count
from secrets import token_hex
from time import time
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ref

from anyio.lowlevel import RunVar

from mcp_intercept._calls import RawCall, leads_to_wrapper
from mcp_intercept._context import CallOptions, Endpoint, Kind, MiddlewareContext
from mcp_intercept._incoming import Incoming, Reported
from mcp_intercept._manager import MiddlewareManager
from mcp_intercept._rounds import Rounds
from mcp_intercept._sdk import ClientSession, line, transports
from mcp_intercept._wire import untapped
from mcp_intercept.errors import SessionStateError
from mcp_intercept.methods import PROGRESS

if TYPE_CHECKING:
    from mcp_intercept._session import CallbackClientSession

logger = logging.getLogger("mcp_intercept")

# Each call takes one: made without a frame of Python, and without formatting.
_message_ids = map(f"{token_hex(4)}-".__add__, map(str, count(1)))

# Tells event loops apart: each run has a value of its own.
_loop: RunVar[object] = RunVar("mcp_intercept_loop")


def _this_loop() -> object | None:
    try:
        return _loop.get()
    except LookupError:
        _loop.set(here := object())
        return here
    except RuntimeError:
        return None  # no event loop is running


_UNKNOWN = object()


class _Link(Protocol):
    """The HTTP side of a connection, or what finds it."""

    @property
    def has_session_id(self) -> bool: ...

    @property
    def session_id(self) -> str | None: ...

    def found(self) -> Any: ...


class _Transport:
    """The transport of a session, which anybody may have opened."""

    def __init__(self, session: ClientSession) -> None:
        self._session = ref(session)
        self._reached: transports.Reached | None = None
        # Unless it is known to have none.
        self.has_session_id = True
        # What is known before it is up.
        self.known = Endpoint()

    def found(self) -> Any:
        """The HTTP side that this package listens on, if there is one."""
        session = self._session()
        return None if session is None else transports.link_of(untapped(line.write_stream_of(session)))

    @property
    def session_id(self) -> str | None:
        reached = self._reached or self._look()
        return None if reached is None else reached.session_id

    @property
    def endpoint(self) -> Endpoint:
        reached = self._reached or self._look()
        return self.known if reached is None or reached.endpoint.transport is None else reached.endpoint

    def _look(self) -> transports.Reached | None:
        session = self._session()
        write_stream = None if session is None else untapped(line.write_stream_of(session))
        self._reached = transports.reached_through(write_stream)
        self.has_session_id = self._reached is None or self._reached.http is not None
        return self._reached


class Interception:
    """What a wrapper knows beyond the state it shares with the session it wraps."""

    __slots__ = (
        "__weakref__",
        "answered",
        "below",
        "connection_id",
        "group",
        "incoming",
        "inner",
        "link",
        "loop",
        "manager",
        "patches",
        "plain",
        "rounds",
        "tokens",
        "transport",
        "wrapper",
    )

    def __init__(
        self,
        wrapper: CallbackClientSession,
        inner: ClientSession,
        innermost: ClientSession,
        connection_id: str,
        manager: MiddlewareManager,
    ) -> None:
        self.wrapper = ref(wrapper)
        self.inner = inner
        self.connection_id = connection_id
        self.manager = manager
        self.lead_to(inner)
        self.rounds = Rounds()
        # The calls whose caller chose the progress token.
        self.tokens: dict[str | int | None, MiddlewareContext[Any]] = {}
        self.transport = _Transport(innermost)
        # What is known of the transport, and the same with what the server answered over HTTP.
        self.answered: tuple[Endpoint, Endpoint] | None = None
        # What knows the session id, and finds where headers go.
        self.link: _Link = self.transport
        # Attributes that were set on the wrapper and are not to be shared, see _Unhidden.
        self.patches: dict[str, Any] = {}
        # The session's task group, as soon as it is known: tells whether it was entered, and whether only once.
        self.group: object = _UNKNOWN
        # Where nobody has entered the session yet, that may happen in another event loop than this.
        self.loop = _this_loop() if self.entered else None

    def receive(self, innermost: ClientSession) -> None:
        """Let what the server sends pass the chain, from now on.

        It is the last that a new wrapper does: the session may live in another thread, where a message comes just now.
        """
        self.incoming = Incoming.join(innermost, self)

    @property
    def session(self) -> CallbackClientSession | None:
        """The wrapper, as long as somebody holds it and the session was not left."""
        group = self.inner.__dict__.get("_task_group")
        try:
            was_left = group is not None and group.cancel_scope.cancel_called
        except RuntimeError:
            was_left = False  # it lives in another thread, which trio asks for
        return None if was_left else self.wrapper()

    @property
    def entered(self) -> bool:
        """Whether the session was ever entered, through the wrapper or the session inside."""
        return self.inner.__dict__.get("_task_group") is not None

    @property
    def endpoint(self) -> Endpoint:
        """Where the session's messages go, as far as that is known by now; the same object as long as that is so."""
        endpoint = self.transport.endpoint
        version: str | None = getattr(self.link.found(), "version", None)
        if version is None:
            return endpoint
        if self.answered is None or self.answered[0] is not endpoint or self.answered[1].protocol_version != version:
            self.answered = endpoint, replace(endpoint, protocol_version=version)
        return self.answered[1]

    def require_this_loop(self) -> None:
        """Refuse to be used from another event loop than the one the session lives in.

        Raises:
            SessionStateError: It lives in another one.
        """
        if self.loop is not None and self.loop is not _this_loop():
            raise SessionStateError(f"{self.connection_id!r} lives in another event loop; send to it from there")

    def enter(self, group: object) -> None:
        """The session runs, from now on and in this event loop."""
        self.group = group
        self.loop = _this_loop()

    def check_entered(self, session: CallbackClientSession) -> None:
        """Find out why the session's task group is another than it was."""
        group = session.__dict__.get("_task_group")
        if self.group is not _UNKNOWN:
            raise SessionStateError(
                f"the session inside {session!r} was entered as well as the wrapper; enter only one of them, once"
            )
        if group is not None:
            self.enter(group)  # through the session inside
        elif not line.is_running(session.__dict__):
            raise SessionStateError(
                f"{session!r} is not entered; use it inside `async with session:`, or enter the session it wraps"
            )

    def lead_to(self, below: Any) -> None:
        """Have what leaves the chain go on to `below`."""
        self.below = below
        # Whether what is sent there lacks nothing that its SDK line forgets; else a wrapper there sees to it.
        self.plain = line.transmit is None or leads_to_wrapper(below)

    def go_in_place(self, below: Any) -> None:
        """Become what the session itself sends through, instead of what is around it."""
        self.lead_to(below)
        self.incoming.move_inside(self)
        if self.entered:
            # In somebody else's event loop, until it sends something there.
            self.loop = object()

    def context(
        self, session: ClientSession, method: str, params: Any, kind: Kind, options: CallOptions
    ) -> MiddlewareContext[Any]:
        """The context of a message that enters the chain now."""
        link = self.link
        return MiddlewareContext(
            next(_message_ids),
            method,
            params,
            self.connection_id,
            time(),
            {},
            session_id=link.session_id if link.has_session_id else None,
            protocol_version=session.__dict__.get(line.VERSION_KEY),
            kind=kind,
            options=options,
            session=session,
        )

    def context_of_incoming(
        self, method: str, params: Any, kind: Kind, jsonrpc_id: str | int | None, origin: object
    ) -> MiddlewareContext[Any]:
        """The context of a message that the server sent."""
        wrapper: Any = self.wrapper()
        context = self.context(wrapper, method, params, kind, CallOptions())
        context.direction = "incoming"
        context.jsonrpc_id = jsonrpc_id
        if isinstance(origin, Reported):
            context.related = origin.context_for(self)
        elif origin is not None:
            context.related = self.rounds.call_of(origin)
        elif self.tokens and method == PROGRESS:
            context.related = self.tokens.get(line.progress_token_of(params))
        return context

    def transmit(
        self, request: Any, result_type: Any, timeout: Any, metadata: Any, progress_callback: Any
    ) -> Awaitable[Any]:
        """Send a request through the session inside; the arguments are those of its `send_request`."""
        # By name, and only what was given: an override in a subclass may take no more than its callers use.
        options: dict[str, Any] = {}
        if timeout is not None:
            options["request_read_timeout_seconds"] = timeout
        if metadata is not None:
            options["metadata"] = metadata
        if progress_callback is not None:
            options["progress_callback"] = progress_callback
        answer: Awaitable[Any]
        if self.plain or (self.incoming.in_place and self.below is self.inner):
            answer = self.below.send_request(request, result_type, **options)
        else:
            answer = line.transmit(self.below, self.inner, request, result_type, options)
        return answer

    async def transmit_with(self, headers: dict[str, str], *arguments: Any) -> Any:
        """Send a request whose HTTP request is to carry `headers`."""
        if leads_to_wrapper(self.below):
            return await self.below.send_request(*arguments, _headers=headers)
        link: Any = self.link.found()
        if link is not None:
            with link.sending(self.inner, headers):
                return await self.transmit(*arguments)
        if line.sending_unlinked is None:
            logger.debug("headers of a call are not sent: %s has no HTTP connection that is known", self.connection_id)
            return await self.transmit(*arguments)
        logger.debug("headers of a call are sent only if the transport of %s is HTTP", self.connection_id)
        with line.sending_unlinked(self.inner, headers):
            return await self.transmit(*arguments)

    async def intercept_raw(self, session: Any, request: Any, result_type: Any, seconds: Any, send: Any) -> Any:
        """Pass a request that does not go through `send_request` down the chain."""
        if session.__dict__.get("_task_group") is not self.group:
            self.check_entered(session)
        manager = self.manager
        method = request.method
        context = self.context(session, method, request.params, "request", CallOptions(seconds))
        call = RawCall(self, context, request, result_type, send)
        return await manager.run(manager.requests[method], call, context)
