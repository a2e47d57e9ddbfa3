"""`intercept()`: the short way to attach a chain to what somebody has already made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from mcp_intercept._chain import AnyMiddleware
from mcp_intercept._client import intercept_client
from mcp_intercept._manager import MiddlewareManager
from mcp_intercept._sdk import ClientSession, line
from mcp_intercept._session import CallbackClientSession, new_connection_id
from mcp_intercept.errors import MiddlewareError

if TYPE_CHECKING:
    from mcp import Client

    ClientT = TypeVar("ClientT", bound=Client)


@overload
def intercept(
    session: ClientSession, *middlewares: AnyMiddleware | MiddlewareManager, connection_id: str | None = None
) -> CallbackClientSession: ...


@overload
def intercept(
    session: ClientT, *middlewares: AnyMiddleware | MiddlewareManager, connection_id: str | None = None
) -> ClientT: ...


def intercept(session: Any, *middlewares: AnyMiddleware | MiddlewareManager, connection_id: str | None = None) -> Any:
    """Wrap a session, or the `Client` of SDK line 2.

    Use what is returned instead of `session`, whose state it shares: what is sent through `session` itself does not
    pass the chain. What the server sends does, as long as somebody holds what is returned (or a context, as
    `context.session` does).

    A client may be entered before or after, through either; entered through what is returned, its handshake passes
    the chain, too. What the client answers from its response cache is no call, and passes nothing.

    Args:
        session: The session or client to wrap.
        middlewares: The middlewares, first outermost; or one `MiddlewareManager`.
        connection_id: What `context.connection_id` shows; by default a short generated name.

    Raises:
        MiddlewareError: One of the middlewares is none.
        UnsupportedTargetError: `session` is neither.
    """
    manager = manager_of(middlewares)
    name = connection_id or new_connection_id()
    if line.is_client(session):
        return intercept_client(session, manager, name)
    return CallbackClientSession(session, name, manager)


def manager_of(middlewares: tuple[AnyMiddleware | MiddlewareManager, ...]) -> MiddlewareManager:
    """The one manager that is given, or a new one for the middlewares that are."""
    first = middlewares[0] if middlewares else None
    if isinstance(first, MiddlewareManager):
        if len(middlewares) > 1:
            raise MiddlewareError("give either one MiddlewareManager or middlewares, not both")
        return first
    return MiddlewareManager(cast("tuple[AnyMiddleware, ...]", middlewares))
