"""What SDK line 2 traces by itself: a CLIENT span for each request, with its context in `_meta`.

A second one around it would count each call twice; so while a message is traced here, the SDK makes none. It has no
setting for that, and names of its own that are not public; where a release has others, its span stands inside ours.
"""

# What is reached into has no public way in.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import wraps
from threading import Lock
from typing import Any

from mcp.shared import _otel
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from opentelemetry.trace import INVALID_SPAN, SpanKind

from mcp_intercept._sdk.spans import about_to_be_written, given_up, take_for_wire

_CANCELLED = "notifications/cancelled"

_lock = Lock()


def leave_spans_to_us() -> None:
    """Have the SDK leave to us what we trace; without effect on anything else. It stays so."""
    otel: Any = _otel
    with _lock:
        if isinstance(getattr(otel, "_tracer", None), _Tracer) or not _is_as_known():
            return
        otel._tracer = _Tracer(otel._tracer)
        otel.inject = _injecting(otel.inject)
        JSONRPCDispatcher.notify = _notifying(JSONRPCDispatcher.notify)  # type: ignore[method-assign]


def are_spans_left() -> bool:
    """Whether the SDK does; it then tells the JSON-RPC ids, and injects the trace context."""
    return isinstance(_otel._tracer, _Tracer)


def _is_as_known() -> bool:
    return all(hasattr(_otel, name) for name in ("_tracer", "inject"))


class _Tracer:
    """The SDK's tracer, which makes no span for a message that is traced already."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def start_as_current_span(self, name: str, *args: Any, **options: Any) -> Any:
        """Instead of a span of the SDK's, one that is none: what it writes there, is written here."""
        traced = about_to_be_written()
        attributes: dict[str, Any] = options.get("attributes") or {}
        is_request = options.get("kind") is SpanKind.CLIENT
        if traced is not None and is_request and attributes.get("mcp.method.name") == traced.method:
            traced.issued(attributes.get("jsonrpc.request.id", ""))
            return nullcontext(INVALID_SPAN)
        return self._own.start_as_current_span(name, *args, **options)


def _injecting(own: Any) -> Any:
    @wraps(own)
    def inject(carrier: Any, *args: Any, **options: Any) -> None:
        traced = take_for_wire()
        if traced is None:
            own(carrier, *args, **options)
        else:
            traced.inject(carrier)

    return inject


def _notifying(own: Any) -> Any:
    @wraps(own)
    async def notify(
        self: JSONRPCDispatcher[Any], method: str, params: Mapping[str, Any] | None, *args: Any, **options: Any
    ) -> None:
        traced = given_up(self) if method == _CANCELLED else None
        if traced is not None and traced.method != _CANCELLED:
            # The SDK tells the server by itself that nobody waits for the answer any more.
            params = traced.call_off(dict(params or {}))
        await own(self, method, params, *args, **options)

    return notify
