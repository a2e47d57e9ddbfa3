"""Interception of the SDK's `Client` (line 2): its session is one of ours, from the handshake on."""

# The SDK makes the session in a method that has no public name.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

from mcp_intercept._manager import MiddlewareManager
from mcp_intercept._sdk import ClientSession, line
from mcp_intercept._session import CallbackClientSession, attach_wire
from mcp_intercept._wire import WireTap


class InterceptedClient:
    """What an intercepted client does in its own way. It shares the state of the client it was made from."""

    __slots__ = ("_intercepted", "_make_session")

    _intercepted: CallbackClientSession | None
    _make_session: Callable[[ClientSession], CallbackClientSession]

    @property
    def session(self) -> ClientSession:
        """The session, intercepted.

        Raises:
            RuntimeError: The client was not entered.
        """
        session: ClientSession = super().session  # type: ignore[misc]  # pyright: ignore
        if isinstance(session, CallbackClientSession) and session is self._intercepted:
            return session
        # The client was entered by itself.
        if self._intercepted is None or self._intercepted.client_session is not session:
            self._intercepted = self._make_session(session)
        return self._intercepted

    async def _build_session(self, exit_stack: Any) -> ClientSession:
        with line.linked(self) as link:
            session: ClientSession = await super()._build_session(exit_stack)  # type: ignore[misc]  # pyright: ignore
        self._intercepted = self._make_session(session)
        tap = WireTap()
        if line.tap(session, tap):
            attach_wire(self._intercepted, tap, link)
        return self._intercepted


def intercept_client(client: Any, manager: MiddlewareManager, connection_id: str) -> Any:
    """A client that shares the state of `client`, and sends through the chain."""
    intercepted = object.__new__(_client_class(type(client)))
    intercepted.__dict__ = client.__dict__
    intercepted._intercepted = None
    intercepted._make_session = lambda session: CallbackClientSession(session, connection_id, manager)
    return intercepted


@lru_cache(maxsize=64)
def _client_class(client_type: type[Any]) -> type[Any]:
    name = f"Intercepted{client_type.__name__}"
    return cast("type[Any]", type(name, (InterceptedClient, client_type), {"__slots__": ()}))
