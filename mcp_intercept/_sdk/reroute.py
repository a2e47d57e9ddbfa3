"""The transports that anybody in the process opens, led through a function of ours while somebody wants that.

Frameworks import `stdio_client` and the like by name, so setting another function in the SDK's modules would come too
late for them. What is changed is the code of the function itself, which every name leads to.
"""

# The SDK's client connects to a server of the same process in functions that have no public name.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from importlib import import_module
from inspect import unwrap
from threading import RLock
from types import CodeType, FunctionType
from typing import Any, Final, TypeAlias

_TRANSPORTS: Final = {
    "stdio_client": "mcp.client.stdio",
    "streamable_http_client": "mcp.client.streamable_http",
    "sse_client": "mcp.client.sse",
    "websocket_client": "mcp.client.websocket",
    "create_client_server_memory_streams": "mcp.shared.memory",
}
_IN_PROCESS: Final = ("mcp.client.client", "_connect_inproc")

Router: TypeAlias = Callable[[AbstractAsyncContextManager[Any]], "AbstractAsyncContextManager[Any] | None"]
"""Gets the transport that somebody opens, not entered, and returns the one to open instead, if any."""

_lock = RLock()
_routers: list[Router] = []
# The functions that are led through here, with the code they had, and the same as they were.
_replaced: dict[str, tuple[FunctionType, CodeType, Callable[..., Any]]] = {}
# Whether a transport is being opened for the router itself.
_passing: ContextVar[bool] = ContextVar("mcp_intercept_passing", default=False)


def reroute(router: Router) -> Callable[[], None]:
    """Lead every transport that is opened from now on through `router`; of several, the last is in force.

    Returns:
        Its undo.
    """
    with _lock:
        _routers.append(router)
        if not _replaced:
            for name, module in _TRANSPORTS.items():
                _replace(module, name, _template.__code__)
            _replace(*_IN_PROCESS, _in_process_template.__code__)

    def undo() -> None:
        with _lock:
            _routers[:] = [other for other in _routers if other is not router]
            if not _routers:
                for function, code, _ in _replaced.values():
                    function.__code__ = code
                _replaced.clear()

    return undo


class Passing(AbstractAsyncContextManager[Any]):
    """A transport, opened without being led through anything, as it has been already."""

    def __init__(self, transport: AbstractAsyncContextManager[Any]) -> None:
        self._transport = transport

    async def __aenter__(self) -> Any:
        token = _passing.set(True)
        try:
            return await self._transport.__aenter__()
        finally:
            _passing.reset(token)

    async def __aexit__(self, *exception: Any) -> bool | None:
        return await self._transport.__aexit__(*exception)  # noqa: ASYNC102 - as the transport has it


def _replace(module: str, name: str, template: CodeType) -> None:
    try:
        decorated = getattr(import_module(module), name)
    except (ImportError, AttributeError):
        return  # of the other line, or in need of a package that is not installed
    function: FunctionType = unwrap(decorated)
    plain = FunctionType(function.__code__, function.__globals__, name, function.__defaults__, function.__closure__)
    plain.__kwdefaults__ = function.__kwdefaults__
    plain.__module__ = module
    _replaced[name] = (function, function.__code__, plain if decorated is function else asynccontextmanager(plain))
    # A function's code knows nothing of its function, so its name has to stand in it.
    constants = tuple(name if constant == "the name" else constant for constant in template.co_consts)
    function.__code__ = template.replace(co_consts=constants, co_name=name)


async def _template(*arguments: Any, **named: Any) -> AsyncGenerator[Any, None]:
    from mcp_intercept._sdk.reroute import routed

    async with routed("the name", arguments, named) as streams:
        yield streams  # noqa: ASYNC119 - it is the code of a function that is decorated


def _in_process_template(server: Any) -> Any:
    from mcp_intercept._sdk.reroute import routed_in_process

    return routed_in_process(server)


def routed(name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> AbstractAsyncContextManager[Any]:
    """What is opened instead of one of the SDK's transports."""
    with _lock:
        make = _replaced[name][2] if name in _replaced else getattr(import_module(_TRANSPORTS[name]), name)
        transport: AbstractAsyncContextManager[Any] = make(*arguments, **named)
        router = _routers[-1] if _routers and not _passing.get() else None
    return transport if router is None else router(transport) or transport


def routed_in_process(server: Any) -> Any:
    """What line 2's `Client` connects with to a server of this process: without a wire, or with one that leads here."""
    from mcp.client import client

    with _lock:
        plain = _replaced[_IN_PROCESS[1]][2]
        router = _routers[-1] if _routers else None
    transport = None if router is None else router(InProcess(server))
    return plain(server) if transport is None else client._connect_transport(transport)


class InProcess(AbstractAsyncContextManager[Any]):
    """A server of this process, to be connected to over streams."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self._transport: AbstractAsyncContextManager[Any] | None = None

    async def __aenter__(self) -> Any:
        from mcp_intercept._sdk.transports import in_process_server, memory_streams

        self._transport = memory_streams(in_process_server(self.server))
        return await self._transport.__aenter__()

    async def __aexit__(self, *exception: Any) -> bool | None:
        return None if self._transport is None else await self._transport.__aexit__(*exception)  # noqa: ASYNC102
