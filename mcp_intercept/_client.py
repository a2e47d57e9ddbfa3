"""Interception of the SDK's `Client` (line 2): its session is one of ours, from the handshake on."""

# The SDK makes the session in a method that has no public name.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from functools import lru_cache
from typing import Any

from mcp_intercept._manager import MiddlewareManager
from mcp_intercept._sdk import ClientSession, line
from mcp_intercept._session import CallbackClientSession, attach_wire
from mcp_intercept._wire import WireTap


class InterceptedClient:
    """What an intercepted client does in its own way. It shares the state of the client inside."""

    __slots__ = ("_connection_id", "_inner", "_intercepted", "_manager")

    _connection_id: str
    _inner: Any
    _intercepted: CallbackClientSession | None
    _manager: MiddlewareManager

    @property
    def session(self) -> ClientSession:
        """The session, intercepted.

        Raises:
            RuntimeError: The client was not entered.
        """
        entered: ClientSession = self._inner.session
        if self._intercepted is None:
            # The client was entered by itself.
            self._intercepted = self._wrap(entered)
        return self._intercepted

    async def _build_session(self, exit_stack: Any) -> ClientSession:
        inner = self._inner
        if isinstance(inner, InterceptedClient):
            self._intercepted = self._wrap(await inner._build_session(exit_stack))
            return self._intercepted
        with line.linked(inner) as link:
            session: ClientSession = await inner._build_session(exit_stack)
        self._intercepted = self._wrap(session)
        tap = WireTap()
        if line.tap(session, tap):
            attach_wire(self._intercepted, tap, link)
        return self._intercepted

    def _wrap(self, session: ClientSession) -> CallbackClientSession:
        return CallbackClientSession(session, self._connection_id, self._manager)


def intercept_client(client: Any, manager: MiddlewareManager, connection_id: str) -> Any:
    """A client that shares the state of `client`, and sends through the chain."""
    bases: tuple[Any, ...] = type(client).__mro__
    client_type = next(base for base in bases if not issubclass(base, InterceptedClient))
    intercepted = object.__new__(_client_class(client_type))
    intercepted.__dict__ = client.__dict__
    intercepted._inner = client
    intercepted._intercepted = None
    intercepted._manager = manager
    intercepted._connection_id = connection_id
    return intercepted


@lru_cache(maxsize=64)
def _client_class(client_type: Any) -> Any:
    return type(f"Intercepted{client_type.__name__}", (InterceptedClient, client_type), {"__slots__": ()})
