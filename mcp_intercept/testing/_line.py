"""What the two SDK lines do differently, as far as it shows in a test: frames, timeouts, and connections that end."""

from __future__ import annotations

from typing import Any

import anyio
from mcp.shared.message import SessionMessage

from mcp_intercept._context import MiddlewareContext
from mcp_intercept._sdk import LINE, line, types

Frame = dict[str, Any]
"""A JSON-RPC message as the dict that it is on the wire."""

_CONNECTION_CLOSED = -32000
_TIMEOUT = 408 if LINE == 1 else -32001


def session_message(frame: Frame) -> SessionMessage:
    """A frame as what passes between a session and its transport."""
    if LINE == 1:
        wrapper: Any = types.JSONRPCMessage
        return SessionMessage(wrapper.model_validate(frame))
    return SessionMessage(types.jsonrpc_message_adapter.validate_python(frame))


def dump(model: Any) -> Frame:
    """A model of the SDK's, such as a JSON-RPC message or a result, as the dict that it is on the wire."""
    dumped: Frame = model.model_dump(by_alias=True, mode="json", exclude_none=True)
    return dumped


def make_error(code: int, message: str, data: Any = None) -> Exception:
    """The exception with which the SDK says that a request was answered with a JSON-RPC error."""
    return line.to_error(types.ErrorData(code=code, message=message, data=data))


def closed_error() -> Exception:
    """What a request ends with whose connection ended before the answer came."""
    return make_error(_CONNECTION_CLOSED, "Connection closed")


def closed_before_error() -> Exception:
    """What a request ends with whose connection had ended before it was sent."""
    return anyio.ClosedResourceError() if LINE == 1 else closed_error()


def notify_on_closed() -> None:
    """Do what comes of a notification whose connection had ended before: line 2 forgets it."""
    if LINE == 1:
        raise anyio.ClosedResourceError


def timeout_error(method: str, seconds: float | None) -> Exception:
    """What a request ends with that nobody answered in time; to be raised where the `TimeoutError` is caught."""
    if LINE == 1:
        message = f"Timed out while waiting for response to ClientRequest. Waited {seconds} seconds."
    else:
        message = f"Request {method!r} timed out"
    return make_error(_TIMEOUT, message)


def patience_of(context: MiddlewareContext[Any]) -> float | None:
    """How many seconds the caller of a request waits for its answer; `None` for ever."""
    if context.options.timeout is not None:
        return context.options.timeout
    seconds: float | None = line.to_seconds(getattr(context.session, "_session_read_timeout_seconds", None))
    return seconds
