"""`WireTap`: every JSON-RPC message between a session and its transport, both ways, with its real id.

It reads along where the SDK hands messages to the transport and gets them from it, and changes nothing. What stands
above learns of each call what was sent and received for it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import anyio

from mcp_intercept._chain import Invocation, describe
from mcp_intercept._context import Direction
from mcp_intercept._sdk import line

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger("mcp_intercept")

FrameListener: TypeAlias = Callable[[Direction, Any], None]
"""Called with each JSON-RPC message, a model of `mcp.types`: `JSONRPCRequest`, `JSONRPCResponse`, ... Never awaited."""

# The calls whose request is being written in this context: of several wrappers around one session, outermost first.
# Emptied afterwards, as contexts are copied, and the copies kept.
_writing: ContextVar[list[Invocation]] = ContextVar("mcp_intercept_writing")

_UNSENT: Any = object()


class Tap(Protocol):
    """What reads along on a pair of streams."""

    def sent(self, item: Any) -> None:
        """The session hands `item` to the transport."""
        ...

    def received(self, item: Any) -> None:
        """The session gets `item` from the transport."""
        ...

    def ended(self) -> None:
        """The transport has nothing more to give."""
        ...


class WireTap:
    """Reads along on a pair of streams. Nothing is reordered, dropped, copied or held up.

    Args:
        listener: Gets every message, outgoing ones just before they are written. If it raises, that is logged once.
    """

    def __init__(self, listener: FrameListener | None = None) -> None:
        self.count = 0
        """How many requests and notifications the session has sent."""
        self._listener = listener
        self._failed = False
        self._waiting: dict[str | int | None, tuple[Invocation, ...]] = {}

    def streams(self, read: Any, write: Any) -> tuple[Any, Any]:
        """The same two streams, read along."""
        return read_along(self, read, write)

    def writing(self, write: Any) -> Any:
        """The stream that a session writes to, read along."""
        return _Writing(write, self)

    @asynccontextmanager
    async def transport(self, transport: AbstractAsyncContextManager[Any]) -> AsyncGenerator[tuple[Any, Any], None]:
        """Open a transport of the SDK's, read along."""
        async with transport as pair:
            yield self.streams(pair[0], pair[1])

    async def send(self, call: Invocation, sending: Awaitable[Any]) -> Any:
        """Await `sending`, which writes the request of `call`, and note its id and its response."""
        call.jsonrpc_response = _UNSENT
        calls = [*_writing.get([]), call]
        token = _writing.set(calls)
        try:
            return await sending
        finally:
            with suppress(ValueError):  # a coroutine that was dropped is closed in another context
                _writing.reset(token)
            calls.clear()
            if call.jsonrpc_response is _UNSENT:
                call.jsonrpc_response = None
            elif call.jsonrpc_response is None:
                self._waiting.pop(call.context.jsonrpc_id, None)

    def sent(self, item: Any) -> None:
        """The session hands `item` to the transport."""
        message = line.frame_of(item)
        method = getattr(message, "method", None)
        if method is not None:  # what it answers by itself, a ping, is none of its own
            self.count += 1
        calls = _writing.get([])
        if calls:
            request_id: str | int | None = getattr(message, "id", None)
            # What else is written in the same context belongs to no call.
            unsent = tuple(call for call in calls if call.jsonrpc_response is _UNSENT and call.method == method)
            if unsent and request_id is not None:
                self._waiting[request_id] = unsent
                for call in unsent:
                    call.jsonrpc_response = None
                    call.context.jsonrpc_id = call.entry.jsonrpc_id = request_id
                    call.issued(request_id)
        if self._listener is not None:
            self._tell(self._listener, "outgoing", message)

    def received(self, item: Any) -> None:
        """The session gets `item` from the transport."""
        message = line.frame_of(item)
        if message is None:
            return  # a failure of the transport
        if self._waiting and not hasattr(message, "method"):
            for call in self._waiting.pop(message.id, ()) or self._waiting.pop(_as_number(message.id), ()):
                call.jsonrpc_response = message
        if self._listener is not None:
            self._tell(self._listener, "incoming", message)

    def ended(self) -> None:
        """The transport has nothing more to give."""

    def _tell(self, listener: FrameListener, direction: Direction, message: Any) -> None:
        try:
            listener(direction, message)
        except Exception:
            if not self._failed:
                self._failed = True
                with suppress(Exception):  # a handler of the user's may fail in its turn
                    logger.exception(
                        "frame listener %s failed; the message is not affected, and further failures are not logged",
                        describe(listener),
                    )


def read_along(tap: Tap, read: Any, write: Any) -> tuple[Any, Any]:
    """The same two streams, with `tap` reading along."""
    return _Reading(read, tap), _Writing(write, tap)


def untapped(stream: Any) -> Any:
    """The stream itself."""
    while isinstance(stream, _Tapped):
        stream = stream.untapped
    return stream


def _as_number(request_id: Any) -> Any:
    # Some servers send back "7" for 7, which the SDK takes for the same.
    return int(request_id) if isinstance(request_id, str) and request_id.isdecimal() else request_id


class _Tapped:
    """A stream, and everything that it is besides what is read along."""

    def __init__(self, stream: Any, tap: Tap) -> None:
        self.untapped = stream
        self._tap = tap

    def __getattr__(self, name: str) -> Any:
        return getattr(self.untapped, name)

    async def __aenter__(self) -> Self:
        await self.untapped.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> Any:
        return await self.untapped.__aexit__(*exception)  # noqa: ASYNC102 - it is as the stream has it


class _Reading(_Tapped):
    async def receive(self) -> Any:
        try:
            item = await self.untapped.receive()
        except anyio.EndOfStream:
            self._tap.ended()
            raise
        self._tap.received(item)
        return item

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            item = await self.untapped.__anext__()
        except StopAsyncIteration:
            self._tap.ended()
            raise
        self._tap.received(item)
        return item


class _Writing(_Tapped):
    async def send(self, item: Any) -> None:
        self._tap.sent(item)
        await self.untapped.send(item)

    @property
    def send_nowait(self) -> Any:
        """Only where the stream has it."""
        send_nowait = self.untapped.send_nowait

        def tapped(item: Any) -> None:
            self._tap.sent(item)
            send_nowait(item)

        return tapped
