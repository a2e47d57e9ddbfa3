"""From what is at hand of a server, a pair of streams among it, to a transport of the SDK's."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from os import PathLike, fspath
from typing import Any

from mcp_intercept._sdk import ClientSession, transports


def local_streams_of(server: Any) -> AbstractAsyncContextManager[Any] | None:
    """A transport, not entered; `None` if what is given is nothing of the kind."""
    if isinstance(server, transports.StdioServerParameters):
        return transports.stdio_client(server)
    if _is_command(server):
        command, *args = map(fspath, server)
        return transports.stdio_client(transports.StdioServerParameters(command=command, args=args))
    if _is_pair_of_streams(server):
        return nullcontext(server)
    low_level = transports.in_process_server(server)
    if low_level is not None:
        return transports.memory_streams(low_level)
    return server if _is_transport(server) else None


def _is_command(server: Any) -> bool:
    is_list = issubclass(type(server), (list, tuple)) and bool(server)
    return is_list and all(isinstance(part, (str, PathLike)) for part in server)


def _is_pair_of_streams(server: Any) -> bool:
    # Line 1's streamable HTTP yields a third item.
    is_tuple = issubclass(type(server), (list, tuple)) and len(server) in (2, 3)
    return is_tuple and hasattr(server[0], "receive") and hasattr(server[1], "send")


def _is_transport(server: Any) -> bool:
    # A session can be entered, too, but does not yield streams.
    return isinstance(server, AbstractAsyncContextManager) and not isinstance(server, ClientSession)
