"""`TracingMiddleware`: OpenTelemetry spans and durations of every message, as the conventions for MCP have them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context

from mcp_intercept._chain import NextFunctionT, invocation_of
from mcp_intercept._context import MiddlewareContext
from mcp_intercept._faults import Faults
from mcp_intercept._middleware import Middleware, is_plain_function_of_two
from mcp_intercept._otel.capture import Capture, Redactor, wanted_by_environment
from mcp_intercept._otel.content import MIN_LENGTH
from mcp_intercept._otel.tracer import Providers, Tracer, Wishes
from mcp_intercept.errors import InterceptError

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import TracerProvider

__all__ = ["TracingMiddleware"]

# Tells whether a call ends in the context that it began in.
_passing: ContextVar[object] = ContextVar("mcp_intercept_passing")


class TracingMiddleware(Middleware):
    """Trace each message with OpenTelemetry: one span, one duration, and one trace across client and servers.

    Spans are CLIENT for what is sent, requests and notifications, and SERVER for what the server asks. Names,
    attributes, status and metrics are those of the semantic conventions for MCP (`docs/gen-ai/mcp.md` of
    `semantic-conventions-genai`). The trace context goes out in `_meta` of requests and notifications, and comes in
    from there. On SDK 2.x, which makes a CLIENT span of its own for each request, there is this one instead.

    Where it stands in the chain decides what a span is: outside a retry it is the call, with an event for each further
    attempt; inside, each attempt has its own. Attributes that begin with `mcp_intercept.` tell what the wire does not
    show: the connection id, answers of a middleware that nothing was sent for, params that a middleware changed,
    attempts, rounds. Of several around one session, in wrappers of their own, one makes the spans; in one chain, each.

    Metrics, in seconds, also for what is not sampled: `mcp.client.operation.duration`, `mcp.server.operation.duration`
    (for what the server asks) and `mcp.client.session.duration`. The names of tools and prompts that no server knows
    are `_OTHER` there.

    What is said stays out of it, unless it is asked for. The status description is the message of a JSON-RPC error,
    without what it repeats of the arguments (see `error_messages`). Without an OpenTelemetry SDK it does next to
    nothing. Its own faults, and those of providers, processors and propagators, are logged once and never reach a call.

    Args:
        tracer_provider: Instead of the global one.
        meter_provider: Instead of the global one.
        propagator: Instead of the global one, which by default sends the trace and the baggage. One that injects
            nothing keeps them from servers.
        capture_content: Whether spans show the arguments and results of tools, and the variables of prompts; or the
            names of the tools and prompts that may. By default, what the environment variable
            `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` says: `true`, `span_only` or `span_and_event`. With
            it, the text of a tool error is the status description.
        redact: Called as `redact(attribute, value)` with content before it is shown; returns what to show of it,
            `None` for nothing. It gets JSON-like data, for `gen_ai.tool.call.arguments`, `gen_ai.tool.call.result` and
            `gen_ai.prompt.variable.<name>`.
        max_content_length: How many characters of JSON to show of each; what is longer is cut down to valid JSON.
        error_messages: Whether the message of a JSON-RPC error is the status description, as the conventions say.
        exclude: Methods, as on the wire, that get neither spans nor durations, e.g. `["ping", "notifications/*"]`.
        enrich_enclosing: Whether to add to a span of somebody else's that stands for the same call, instead of making
            another: the `execute_tool` span of an agent framework, the CLIENT span of FastMCP's client.
        incoming_notifications: Whether notifications of the server get SERVER spans, too.
        resource_uri_in_name: Whether the URI of a resource is part of the span's name.
        resource_uri_in_metrics: Whether it is a label of durations.

    Raises:
        InterceptError: An argument is not what it should be.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        propagator: TextMapPropagator | None = None,
        capture_content: bool | Iterable[str] | None = None,
        redact: Redactor | None = None,
        max_content_length: int = 8192,
        error_messages: bool = True,
        exclude: Iterable[str] = (),
        enrich_enclosing: bool = True,
        incoming_notifications: bool = False,
        resource_uri_in_name: bool = False,
        resource_uri_in_metrics: bool = False,
    ) -> None:
        _check_has("tracer_provider", tracer_provider, "get_tracer", "an opentelemetry TracerProvider")
        _check_has("meter_provider", meter_provider, "get_meter", "an opentelemetry MeterProvider")
        _check_has("propagator", propagator, "inject", "an opentelemetry TextMapPropagator")
        if redact is not None and not is_plain_function_of_two(redact):
            raise InterceptError(f"redact must be a plain function (attribute, value), not {_kind(redact)}")
        faults = Faults(self)
        limit = _checked_length(max_content_length)
        self._tracer = Tracer(
            Providers(tracer=tracer_provider, meter=meter_provider, propagator=propagator),
            Wishes(
                is_excluded=_method_filter(exclude),
                error_messages=_checked_switch("error_messages", error_messages),
                enrich_enclosing=_checked_switch("enrich_enclosing", enrich_enclosing),
                incoming_notifications=_checked_switch("incoming_notifications", incoming_notifications),
                resource_uri_in_name=_checked_switch("resource_uri_in_name", resource_uri_in_name),
                resource_uri_in_metrics=_checked_switch("resource_uri_in_metrics", resource_uri_in_metrics),
            ),
            Capture(_checked_capture(capture_content), redact, limit, faults),
            faults,
        )

    async def on_message(self, context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        """Every message but those that are not traced."""
        if self._tracer.is_idle():
            return await call_next(context)
        operation = self._tracer.begin(context, invocation_of(call_next))
        if operation is None:
            return await call_next(context)
        here = _passing.set(operation)
        token = otel_context.attach(operation.context)
        try:
            result = await call_next(context)
        except BaseException as error:
            operation.end(None, error)
            raise
        else:
            operation.end(result, None)
            return result
        finally:
            with suppress(ValueError):  # a coroutine that was dropped is closed in another context, which has its own
                _passing.reset(here)
                otel_context.detach(token)


def _checked_capture(capture_content: Any) -> bool | frozenset[str]:
    if capture_content is None:
        return wanted_by_environment()
    if isinstance(capture_content, bool):
        return capture_content
    return _checked_texts("capture_content", capture_content, "True, False, or names of tools and prompts")


def _method_filter(exclude: Any) -> Callable[[str], bool]:
    patterns = _checked_texts("exclude", exclude, 'methods, such as ["ping", "notifications/*"]')

    @lru_cache(256)  # the names of methods may come from outside, so that not all are remembered
    def is_excluded(method: str) -> bool:
        return any(fnmatchcase(method, pattern) for pattern in patterns)

    return is_excluded


def _checked_texts(name: str, values: Any, wanted: str) -> frozenset[str]:
    if isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping)):
        texts: list[Any] = [*values]
        if all(isinstance(text, str) for text in texts):
            return frozenset(texts)
    raise InterceptError(f"{name} must be {wanted}, not {values!r}")


def _checked_switch(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise InterceptError(f"{name} must be True or False, not {value!r}")


def _checked_length(length: Any) -> int:
    if isinstance(length, int) and not isinstance(length, bool) and length >= MIN_LENGTH:
        return length
    raise InterceptError(f"max_content_length must be a number of characters, at least {MIN_LENGTH}, not {length!r}")


def _check_has(name: str, value: object, method: str, wanted: str) -> None:
    if value is not None and (isinstance(value, type) or not callable(getattr(value, method, None))):
        raise InterceptError(f"{name} must be {wanted}, not {_kind(value)}")


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"an object of type {type(value).__name__}"
