"""How a message of a session leaves its chain, and what a middleware may have made of it.

Above: the state behind a wrapper, which makes these. Below: the chain.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import BaseModel, TypeAdapter, ValidationError

from mcp_intercept._chain import NOTHING, Invocation
from mcp_intercept._context import CallOptions, MiddlewareContext, printable
from mcp_intercept._incoming import Reported
from mcp_intercept._results import admit_result
from mcp_intercept._sdk import line, spans
from mcp_intercept.errors import MiddlewareError

if TYPE_CHECKING:
    from mcp_intercept._interception import Interception

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def of_wrapper(function: FunctionT) -> FunctionT:
    """Mark a `send_request` that is, or leads to, that of a wrapper, which then sees to what the SDK forgets.

    It takes the headers of the call as `_headers`, which that of the SDK does not.
    """
    function.of_wrapper = True  # type: ignore[attr-defined]  # how functions are marked in Python
    return function


def leads_to_wrapper(below: Any) -> bool:
    """Whether what is sent to `below` passes another wrapper."""
    return getattr(below.send_request, "of_wrapper", False)


class _Call(Invocation):
    """A message of a session: knows how its params may change, and what may answer it."""

    __slots__ = ("interception", "message", "params", "result_type")

    def __init__(
        self, interception: Interception, context: MiddlewareContext[Any], message: Any, result_type: Any
    ) -> None:
        # Instead of super().__init__(), as every call of the process passes here.
        self.attempts = 0
        self.context = self.entry = context
        self.method = context.method
        self.result = NOTHING
        self.jsonrpc_response = None
        # What a wrapper further out traces, is traced.
        self.traced = spans.take(interception.inner.__dict__) if spans.sending.get() is not None else None
        self.interception = interception
        self.message = message
        self.params = context.params
        self.result_type = result_type

    def message_with(self, params: Any) -> Any:
        """The message with `params`: the caller's own, unless somebody assigned others."""
        if params is self.params:
            return self.message
        if isinstance(params, BaseModel) or _fits(line.message_of(self.message), params):
            return line.with_params(self.message, params)
        raise MiddlewareError(
            f"a middleware assigned an object of type {type(params).__name__} to context.params of "
            f"{printable(self.method)}; assign a params model, as it was before",
            method=self.method,
        )

    def traced_message(self, message: Any, params: Any) -> Any:
        """The message with the trace context of whoever traces it, which no middleware sees in its params."""
        if self.goes_to_wrapper:
            return message
        injected = self.entry.kind == "request" and line.injects(self.interception.inner)
        sent = self.traced.outgoing(params, injected=injected)
        return message if sent is params else line.with_params(message, sent)

    def handed_over(self, sending: Awaitable[Any]) -> Awaitable[Any]:
        """The sending of a traced message, handed to whoever is next to know that it is traced."""
        inner = self.interception.inner
        if self.goes_to_wrapper:
            return spans.send(self.traced, sending, to=inner.__dict__, on_wire=False)
        end = line.write_end_of(inner)
        return spans.send(self.traced, sending, to=end, on_wire=end is not None)

    @property
    def goes_to_wrapper(self) -> bool:
        """Whether a wrapper further in takes it; then that sees to what is due at the end."""
        return leads_to_wrapper(self.interception.below)

    def issued(self, request_id: str | int) -> None:
        link = None if self.traced is None else self.interception.link.found()
        if link is not None:
            link.trace(request_id, self.traced)

    def admit(self, value: Any) -> Any:
        return admit_result(self.result_type, value)


def _progress_token(params: Any) -> str | int | None:
    meta = getattr(params, "meta", None)
    return None if meta is None else line.progress_token_of(meta)


def _fits(message: BaseModel, params: Any) -> bool:
    """Whether a message may carry `params` that are no model: none, or the dict of a vendor's request."""
    field = type(message).model_fields.get("params")
    wanted: Any = field.annotation if field is not None else None
    try:
        # Where a model is wanted, pydantic would make one of a dict.
        return type(TypeAdapter(wanted).validate_python(params, strict=True)) is type(params)
    except ValidationError:
        return False


class RequestCall(_Call):
    """A request that goes through the session's `send_request`."""

    __slots__ = ("entered_callback", "metadata", "seconds", "timeout")

    def __init__(
        self,
        interception: Interception,
        context: MiddlewareContext[Any],
        request: Any,
        result_type: Any,
        timeout: Any,
        metadata: Any,
    ) -> None:
        super().__init__(interception, context, request, result_type)
        self.timeout = timeout
        options = context.options
        self.seconds = options.timeout
        self.entered_callback = options.progress_callback
        self.metadata = metadata

    def send(self, context: MiddlewareContext[Any]) -> Awaitable[Any]:
        options = context.options
        if options.__class__ is not CallOptions:
            _check_class(options, self.method)
        request, timeout = self.message, self.timeout
        if context.params is not self.params:
            request = self.message_with(context.params)
        if self.traced is not None:
            request = self.traced_message(request, context.params)
        if options.timeout is not self.seconds:
            timeout = _checked_timeout(options.timeout, self.method)
        interception = self.interception
        progress_callback = options.progress_callback
        if progress_callback is not self.entered_callback:
            _check_callback(progress_callback, self.method)
        token: str | int | None = None
        if interception.manager.sees_progress:
            if progress_callback is not None:
                progress_callback = Reported(progress_callback, self.entry, interception, self.entered_callback)
            else:
                token = _progress_token(context.params)
        arguments = (request, self.result_type, timeout, self.metadata, progress_callback)
        sending: Awaitable[Any]
        if options.headers:
            _check_headers(options.headers, self.method)
            sending = interception.transmit_with(options.headers, *arguments)
        else:
            sending = interception.transmit(*arguments)
        if token is not None:
            sending = self._reporting(token, sending)
        if self.traced is not None:
            sending = self.handed_over(sending)
        tap = interception.incoming.tap
        return sending if tap is None else tap.send(self, sending)

    async def _reporting(self, token: str | int, sending: Awaitable[Any]) -> Any:
        """Send a request with a progress token that the caller chose."""
        tokens = self.interception.tokens
        tokens[token] = self.entry
        try:
            return await sending
        finally:
            tokens.pop(token, None)


class NotificationCall(_Call):
    """A notification that goes through the session's `send_notification`; `arguments` are what came with it there."""

    __slots__ = ("_arguments",)

    def __init__(
        self,
        interception: Interception,
        context: MiddlewareContext[Any],
        notification: Any,
        arguments: tuple[tuple[Any, ...], dict[str, Any]],
    ) -> None:
        super().__init__(interception, context, notification, None)
        self._arguments = arguments

    async def send(self, context: MiddlewareContext[Any]) -> None:
        args, kwargs = self._arguments
        message = self.message_with(context.params)
        if self.traced is None:
            await self.interception.below.send_notification(message, *args, **kwargs)
        else:
            message = self.traced_message(message, context.params)
            await self.handed_over(self.interception.below.send_notification(message, *args, **kwargs))

    def admit(self, value: Any) -> None:
        if value is not None:
            raise ValueError(f"returned an object of type {type(value).__name__}; a notification has no result")


class RawCall(_Call):
    """A request that the SDK sends past `send_request`, see `line.SessionSeam`."""

    __slots__ = ("_send",)

    def __init__(
        self, interception: Interception, context: MiddlewareContext[Any], request: Any, result_type: Any, send: Any
    ) -> None:
        super().__init__(interception, context, request, result_type)
        self._send = send

    def send(self, context: MiddlewareContext[Any]) -> Awaitable[Any]:
        options = context.options
        _check_class(options, self.method)
        _checked_timeout(options.timeout, self.method)
        _check_callback(options.progress_callback, self.method)
        _check_headers(options.headers, self.method)
        request = self.message_with(context.params)
        if self.traced is not None:
            request = self.traced_message(request, context.params)
        sending: Awaitable[Any] = self._send(request, options)
        if self.traced is not None:
            sending = self.handed_over(sending)
        tap = self.interception.incoming.tap
        return sending if tap is None else tap.send(self, sending)


def _wrong_option(name: str, said: str, way_out: str, method: str) -> MiddlewareError:
    return MiddlewareError(
        f"a middleware set context.options{name} of {printable(method)} to {said}; {way_out}", method=method
    )


def _kind(value: object) -> str:
    # Not the value, which may be a secret.
    return f"an object of type {type(value).__name__}"


def _check_class(options: object, method: str) -> None:
    if not isinstance(options, CallOptions):
        raise _wrong_option("", _kind(options), "set its fields instead, or assign a CallOptions", method)


def _check_callback(callback: object, method: str) -> None:
    if callback is not None and not callable(callback):
        raise _wrong_option(".progress_callback", _kind(callback), "set it to an async function, or to None", method)


def _check_headers(headers: object, method: str) -> None:
    way_out = "set it to a dict of str to str"
    if not isinstance(headers, dict):
        raise _wrong_option(".headers", _kind(headers), way_out, method)
    for part in chain.from_iterable(cast("dict[object, object]", headers).items()):
        if not isinstance(part, str):
            raise _wrong_option(".headers", f"a dict with {_kind(part)}", way_out, method)


def _checked_timeout(seconds: Any, method: str) -> Any:
    if seconds is None:
        return None
    if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and seconds >= 0:
        return line.to_timeout(seconds)
    raise _wrong_option(
        ".timeout", repr(seconds), "set it to seconds, or to None for the session's own timeout", method
    )
