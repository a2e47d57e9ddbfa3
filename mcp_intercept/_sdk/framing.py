"""JSON-RPC messages from and to the models of the SDK."""

from __future__ import annotations

from typing import Any

from mcp_intercept._sdk import line, types
from mcp_intercept.recording.frames import Frame


def frame_from(item: Any) -> Frame | None:
    """The message in what passes between a session and its transport; `None` for a failure of the transport."""
    message: Any = line.frame_of(item)
    # To ask a model for what it does not have, takes pydantic longer than all else here.
    kind: Any = type(message)  # pyright: ignore[reportUnknownVariableType]
    if kind is types.JSONRPCResponse:
        return Frame(message.id, None, None, message.result)
    if kind is types.JSONRPCRequest:
        return Frame(message.id, message.method, message.params)
    if kind is types.JSONRPCNotification:
        return Frame(None, message.method, message.params)
    if message is None:
        return None
    method: str | None = getattr(message, "method", None)
    request_id: Any = getattr(message, "id", None)
    if method is not None:
        return Frame(request_id, method, message.params)
    error = getattr(message, "error", None)
    if error is None:
        return Frame(request_id, None, None, message.result)
    wire: dict[str, Any] = {"code": error.code, "message": error.message}
    return Frame(request_id, error=wire if error.data is None else {**wire, "data": error.data})


def item_from(frame: Frame) -> Any:
    """What passes between a session and its transport, with a message in it."""
    message: Any
    if frame.method is not None:
        if frame.id is not None:
            message = types.JSONRPCRequest(jsonrpc="2.0", id=frame.id, method=frame.method, params=frame.params)
        else:
            message = types.JSONRPCNotification(jsonrpc="2.0", method=frame.method, params=frame.params)
    elif frame.error is not None:
        error = types.ErrorData.model_validate(frame.error)
        message = types.JSONRPCError(jsonrpc="2.0", id=frame.id, error=error)
    else:
        message = types.JSONRPCResponse(jsonrpc="2.0", id=frame.id, result=frame.result or {})  # type: ignore[arg-type]
    return line.item_of(message)
