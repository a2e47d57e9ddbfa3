"""The spans and durations of messages: when they begin and end, and what belongs to them.

Above: `TracingMiddleware`, which says what its user wants. Below: what the conventions have, and what a session knows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from time import perf_counter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet, ref

from opentelemetry import context as otel_context
from opentelemetry import metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanContext, SpanKind, Status, StatusCode
from pydantic import BaseModel

from mcp_intercept._chain import Invocation
from mcp_intercept._context import CLOSED, Endpoint, MiddlewareContext, printable
from mcp_intercept._faults import Faults
from mcp_intercept._otel import semconv
from mcp_intercept._otel.capture import Capture
from mcp_intercept._otel.durations import Durations
from mcp_intercept._otel.facts import (
    Ending,
    Subject,
    attributes_of,
    description_of,
    ending_of,
    endpoint_attributes,
    rewritten,
    short_version,
    snapshot,
    subject_of,
)
from mcp_intercept._otel.json_like import is_object
from mcp_intercept._rounds import QUESTIONS
from mcp_intercept._sdk import line, types
from mcp_intercept._session import (
    CallbackClientSession,
    connection_of,
    endpoint_of,
    know_ids,
    note_exit,
    session_id_of,
)
from mcp_intercept.methods import METHODS

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import TracerProvider

_SCOPE = "mcp_intercept"
_LISTS = frozenset({"tools/list", "prompts/list"})
_CANCELLED = "notifications/cancelled"
_VERSION_IN_META = "io.modelcontextprotocol/protocolVersion"

# Set by OpenTelemetry's own instrumentations around what is not to be traced, such as an exporter's requests.
_SUPPRESSED = "suppress_instrumentation"

# What there is without an SDK. That of metrics has no public name.
_NO_PROVIDERS = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)
_API_OF_METRICS = metrics.__name__

# Calls that wait for answers to a server's questions, and are never continued, must not be remembered for ever.
_MAX_OPEN_ROUNDS = 256

# Of a SERVER span, the server is this process.
_NOT_OF_SERVERS = frozenset({semconv.SERVER_ADDRESS, semconv.SERVER_PORT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Providers:
    """What to trace with; `None` stands for the global one."""

    tracer: TracerProvider | None
    meter: MeterProvider | None
    propagator: TextMapPropagator | None

    @property
    def are_global(self) -> bool:
        """Whether none of them is one's own."""
        return self.tracer is None and self.meter is None and self.propagator is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a user wants; see the arguments of `TracingMiddleware`."""

    is_excluded: Callable[[str], bool]
    error_messages: bool
    enrich_enclosing: bool
    incoming_notifications: bool
    resource_uri_in_name: bool
    resource_uri_in_metrics: bool


class Tracer:
    """Makes an operation of each message that is to be traced.

    Args:
        providers: What to trace with.
        wishes: What its user wants.
        capture: What to show of content.
        faults: Where to report.
    """

    def __init__(self, providers: Providers, wishes: Wishes, capture: Capture, faults: Faults) -> None:
        scope = (_SCOPE, version("mcp-intercept-sdk"))
        self._providers = providers
        self._wishes = wishes
        self._capture = capture
        self._faults = faults
        self._tracer = trace.get_tracer(*scope, tracer_provider=providers.tracer)
        meter = metrics.get_meter(*scope, meter_provider=providers.meter)
        self._durations = Durations(meter, uris=wishes.resource_uri_in_metrics)
        self._enriched: WeakSet[Span] = WeakSet()
        self._connections: WeakKeyDictionary[Any, _Connection] = WeakKeyDictionary()
        # The spans of calls that were answered with questions, by the id of the message.
        self._asked: deque[tuple[str, SpanContext]] = deque(maxlen=_MAX_OPEN_ROUNDS)
        line.leave_spans_to_us()

    def is_idle(self) -> bool:
        """Whether nobody is there to trace for, and no trace or baggage of somebody else's to hand on."""
        return (
            self._providers.are_global
            and not otel_context.get_current()
            and isinstance(trace.get_tracer_provider(), _NO_PROVIDERS)
            and type(metrics.get_meter_provider()).__module__.startswith(_API_OF_METRICS)
        )

    def begin(self, context: MiddlewareContext[Any], invocation: Invocation | None) -> Operation | None:
        """The operation that a message is; `None` of one that is not traced here."""
        try:
            outer = None if invocation is None else invocation.traced
            if (
                isinstance(outer, Operation)
                and outer.invocation is not invocation
                and outer.tracing.has_provider(self._providers.tracer)
            ):
                return None  # a wrapper around this one traces the same message already
            if context.direction == "outgoing":
                return self._begin_calling(context, invocation)
            is_wanted = context.kind == "request" or self._wishes.incoming_notifications
            if not is_wanted or self._wishes.is_excluded(context.method) or _is_suppressed():
                return None
            return self._begin_serving(context, invocation)
        except Exception as failure:
            self._faults.report("begin to trace a message", failure)
            return None

    def _begin_calling(self, context: MiddlewareContext[Any], invocation: Invocation | None) -> Operation:
        subject = subject_of(context.method, context.params)
        operation = Operation(self, context, invocation, subject)
        if _is_suppressed():
            return operation
        # A session begins with its first message, whether that is excluded or not.
        operation.connection = self._connection(context)
        if self._wishes.is_excluded(context.method):
            return operation
        operation.started = perf_counter()
        attributes = attributes_of(context, subject)
        enclosing = trace.get_current_span()
        if (
            self._wishes.enrich_enclosing
            and _stands_for(enclosing, context.method, subject)
            and enclosing not in self._enriched
        ):
            self._enriched.add(enclosing)
            operation.span = enclosing
            self.guard("describe a message", enclosing.set_attributes, attributes)
        else:
            operation.begin(self._start(SpanKind.CLIENT, subject, attributes, None, self._links(context)))
        if operation.span.is_recording():
            operation.remember()
            if isinstance(context.session, CallbackClientSession) and not line.tells_ids():
                know_ids(context.session)
        return operation

    def _begin_serving(self, context: MiddlewareContext[Any], invocation: Invocation | None) -> Operation:
        subject = subject_of(context.method, context.params)
        operation = Operation(self, context, invocation, subject)
        operation.connection = self._connection(context)
        operation.started = perf_counter()
        parent = self._extract(context.params)
        links = self._links(context)
        ambient = trace.get_current_span().get_span_context()
        if parent is not None and ambient.is_valid:
            links.append(Link(ambient))
        span = self._start(SpanKind.SERVER, subject, attributes_of(context, subject), parent, links)
        operation.begin(span, parent)
        if span.is_recording():
            operation.remember()
        return operation

    def _links(self, context: MiddlewareContext[Any]) -> list[Link]:
        if context.related is None:
            return []
        return [Link(span) for message_id, span in self._asked if message_id == context.related.id]

    def _start(
        self, kind: SpanKind, subject: Subject, attributes: dict[str, Any], parent: Context | None, links: list[Link]
    ) -> Span:
        name = self._name(attributes[semconv.METHOD_NAME], subject)
        try:
            return self._tracer.start_span(name, context=parent, kind=kind, attributes=attributes, links=links)
        except Exception as failure:
            self._faults.report("start a span", failure)
            return INVALID_SPAN

    def _name(self, method: str, subject: Subject) -> str:
        target = subject.name or (subject.uri if self._wishes.resource_uri_in_name else None)
        return f"{method} {target}" if target else method

    def _extract(self, params: Any) -> Context | None:
        """The context that a message came with, if it brings a trace."""
        carrier = {name: value for name, value in line.meta_of(params).items() if isinstance(value, str)}
        if not carrier:
            return None
        try:
            extracted = (self._providers.propagator or propagate.get_global_textmap()).extract(carrier, Context())
        except Exception as failure:
            self._faults.report("extract a trace context", failure)
            return None
        return extracted if trace.get_current_span(extracted).get_span_context().is_valid else None

    def inject(self, context: Context | None) -> dict[str, str]:
        """What of a trace context goes into `_meta`."""
        carrier: Any = {}  # the propagators agree on no type
        try:
            (self._providers.propagator or propagate.get_global_textmap()).inject(carrier, context)
        except Exception as failure:
            self._faults.report("inject the trace context", failure)
        return dict(carrier)

    # What follows is for operations.

    def has_provider(self, provider: TracerProvider | None) -> bool:
        """Whether `provider`, or the global one, is what it traces with."""
        return (self._providers.tracer or trace.get_tracer_provider()) is (provider or trace.get_tracer_provider())

    def finish(self, operation: Operation, seconds: float, result: Any, error: BaseException | None) -> None:
        """End a span, and record how long it took, in seconds."""
        context, span = operation.message, operation.span
        served = context.direction == "incoming"
        ending = ending_of(result, error, served=served)
        connection = operation.connection
        labels = connection.labels(context.protocol_version or _version_of(context, result))
        if served:
            labels = {name: value for name, value in labels.items() if name not in _NOT_OF_SERVERS}
        if span.is_recording():
            self.guard("describe a message", self._describe, operation, result, ending, labels)
        if ending.error_type == CLOSED:
            connection.failed = ending.error_type
        self.guard(
            "record a duration",
            self._durations.record_operation,
            seconds,
            context.method,
            operation.subject,
            ending,
            labels,
            served=served,
            has_listed=operation.subject.attribute in connection.has_listed,
        )
        if operation.is_own:
            self.guard("end a span", span.end)

    def learn(self, connection: _Connection, method: str, result: Any) -> None:
        """Note the names in a list."""
        self._durations.learn(method, result)
        if line.next_cursor_of(result) is None:
            connection.has_listed.add(semconv.TOOL_NAME if method == "tools/list" else semconv.PROMPT_NAME)

    def note_notification(self, operation: Operation, params: dict[str, Any]) -> dict[str, Any]:
        """Trace a notification that is not sent through a session."""
        if self._wishes.is_excluded(_CANCELLED) or _is_suppressed():
            return params
        context = operation.message
        subject = Subject()
        attributes = {**attributes_of(context, subject), semconv.METHOD_NAME: _CANCELLED}
        attributes.pop(semconv.OPERATION_NAME, None)
        known = self._connection(context).labels(context.protocol_version)
        span = self._start(SpanKind.CLIENT, subject, attributes, operation.context, [])
        self.guard("describe a message", span.set_attributes, known)
        carrier = self.inject(trace.set_span_in_context(span, operation.context))
        self.guard(
            "record a duration",
            self._durations.record_operation,
            0.0,
            _CANCELLED,
            subject,
            Ending(),
            known,
            served=False,
            has_listed=False,
        )
        self.guard("end a span", span.end)
        return {**params, "_meta": {**params.get("_meta", {}), **carrier}} if carrier else params

    def guard(self, aim: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call `function`; if it raises, log that once, and return `None`."""
        try:
            return function(*args, **options)
        except Exception as failure:
            self._faults.report(aim, failure)
            return None

    def _connection(self, context: MiddlewareContext[Any]) -> _Connection:
        session = context.session
        if not isinstance(session, CallbackClientSession):
            return _Connection()
        # Wrappers around one session share it.
        key = connection_of(session)
        connection = self._connections.get(key)
        if connection is None:
            connection = self._connections[key] = _Connection()
            note_exit(session, lambda error: self.guard("record a session", self._end_session, connection, error))
        connection.see(session)
        return connection

    def _end_session(self, connection: _Connection, error: BaseException | None) -> None:
        ending = ending_of(None, error, served=False)
        seconds = perf_counter() - connection.started
        self._durations.record_session(seconds, ending.error_type or connection.failed, connection.labels(None))

    def _describe(self, operation: Operation, result: Any, ending: Ending, known: dict[str, Any]) -> None:
        context, span = operation.message, operation.span
        invocation = operation.invocation
        sent = context if invocation is None else invocation.context
        params = operation.params_sent(sent.params)
        attributes = dict(known)
        if context.protocol_version is not None:
            attributes.pop(semconv.PROTOCOL_VERSION, None)  # it is there from the start
        subject = subject_of(context.method, params)
        if subject != operation.subject:
            operation.subject = subject  # a middleware addressed it to another
            attributes.update(attributes_of(sent, subject))
            if operation.is_own:
                span.update_name(self._name(attributes[semconv.METHOD_NAME], subject))
        request_id: Any = operation.request_id or sent.jsonrpc_id
        if request_id is None:
            request_id = context.jsonrpc_id
        if request_id is not None and context.kind == "request":
            attributes[semconv.REQUEST_ID] = printable(str(request_id))
        if context.session_id is None and isinstance(context.session, CallbackClientSession):
            session_id = session_id_of(context.session)  # the answer to the handshake brings it
            if session_id is not None:
                attributes[semconv.SESSION_ID] = printable(session_id)
        if ending.error_type is not None:
            attributes[semconv.ERROR_TYPE] = ending.error_type
        if ending.status_code is not None:
            attributes[semconv.STATUS_CODE] = ending.status_code
        if context.round > 1:
            attributes[semconv.ROUND] = context.round
        if invocation is not None:
            attributes.update(operation.passage(invocation, params))
        span.set_attributes(attributes)
        captured = context.direction == "outgoing" and self._capture.wants(subject.name)
        if ending.error_type is not None:
            # Before anything that may fail.
            span.set_status(Status(StatusCode.ERROR))
            self.guard("tell why a message failed", self._tell_why, span, params, result, ending, captured)
        if result.__class__ is QUESTIONS:
            self._note_questions(operation, result)
        if captured:
            shown = None if ending.error_type else result
            self.guard("show content", self._capture.show_call, span, context.method, params, shown)

    def _tell_why(self, span: Span, params: Any, result: Any, ending: Ending, captured: bool) -> None:
        text = description_of(ending, params) if self._wishes.error_messages else None
        if captured and ending.error_type == semconv.TOOL_ERROR:
            text = self._capture.tool_error(result)
        if text is not None:
            span.set_status(Status(StatusCode.ERROR, text))

    def _note_questions(self, operation: Operation, result: Any) -> None:
        span = operation.span
        span.add_event(semconv.INPUT_REQUIRED, {semconv.QUESTIONS: len(result.input_requests or ())})
        self._asked.append((operation.message.id, span.get_span_context()))


class Operation:
    """A message while it is traced. What the SDK's code asks of it, see `spans.Traced`."""

    __slots__ = (
        "_before",
        "_carrier",
        "_first_attempt",
        "_outer",
        "_params",
        "_sendings",
        "connection",
        "context",
        "invocation",
        "is_own",
        "message",
        "method",
        "request_id",
        "span",
        "started",
        "subject",
        "tracing",
    )

    def __init__(
        self,
        tracing: Tracer,
        message: MiddlewareContext[Any],
        invocation: Invocation | None,
        subject: Subject,
    ) -> None:
        self.tracing = tracing
        self.message = message
        self.method = message.method
        self.invocation = invocation
        self.subject = subject
        # What has no start is not traced.
        self.started: float | None = None
        self.connection = _NOWHERE
        self.span: Span = INVALID_SPAN
        self.context = otel_context.get_current()
        self.is_own = False
        self._carrier: dict[str, str] = {}
        self.request_id: str | None = None
        self._params: Any = None
        self._sendings = 0
        self._before: dict[str, Any] | None = None
        self._first_attempt = 0
        # The same message may be traced twice in one chain, outside and inside of a retry.
        self._outer: Any = None
        if invocation is not None:
            self._outer, invocation.traced = invocation.traced, self

    def begin(self, span: Span, context: Context | None = None) -> None:
        """It has a span of its own, in `context`, else in the current one."""
        self.span = span
        self.is_own = True
        if span is not INVALID_SPAN:
            self.context = trace.set_span_in_context(span, context)

    def remember(self) -> None:
        """Remember what will tell how the message passed through the chain."""
        self._before = snapshot(self.message.params)
        self._first_attempt = 0 if self.invocation is None else self.invocation.attempts

    def end(self, result: Any, error: BaseException | None) -> None:
        """The message has left this part of the chain."""
        if self.invocation is not None:
            self.invocation.traced = self._outer
        is_list = self.method in _LISTS and self.message.direction == "outgoing"
        if is_list and error is None and self.connection is not _NOWHERE:
            self.tracing.guard("learn names from a list", self.tracing.learn, self.connection, self.method, result)
        if self.started is not None:
            seconds = perf_counter() - self.started
            self.tracing.guard("end to trace a message", self.tracing.finish, self, seconds, result, error)

    def params_sent(self, params: Any) -> Any:
        """The params as they were sent last; `params` where nothing was."""
        return self._params if self._sendings else params

    def passage(self, invocation: Invocation, params: Any) -> dict[str, Any]:
        """What happened between here and the wire."""
        attributes: dict[str, Any] = {}
        # A message of the server's is delivered where ours are sent.
        sent = invocation.attempts - self._first_attempt if self.message.direction == "incoming" else self._sendings
        if sent > 1:
            attributes[semconv.ATTEMPTS] = sent
        elif sent == 0:
            attributes[semconv.SHORT_CUT] = True
        elif invocation.attempts > 1:
            attributes[semconv.ATTEMPT] = invocation.attempts
        if sent and self._before is not None:
            changed = rewritten(self._before, snapshot(params))
            if changed:
                attributes[semconv.REWRITTEN] = changed
        return attributes

    def outgoing(self, params: Any, *, injected: bool) -> Any:
        """The params with the trace context; called each time the message is sent."""
        sent = self.tracing.guard("add the trace context", self._outgoing, params, injected)
        return params if sent is None else sent

    def _outgoing(self, params: Any, injected: bool) -> Any:
        self._count_sending(params)
        self._carrier = self.tracing.inject(self.context)
        return _with_meta(self.method, params, self._carrier) if self._carrier and not injected else params

    def _count_sending(self, params: Any) -> None:
        self._params = params
        self._sendings += 1
        if self._sendings > 1 and self.span.is_recording():
            self.span.add_event(semconv.RETRY, {semconv.ATTEMPT: self._sendings})
        if isinstance(self._outer, Operation):
            self._outer._count_sending(params)

    def issued(self, request_id: str) -> None:
        """The SDK has given the message this JSON-RPC id."""
        self.request_id = request_id

    def enter(self) -> None:
        """The current task does nothing else than to send the message."""
        self.tracing.guard("enter the trace context", otel_context.attach, self.context)

    def inject(self, carrier: dict[str, Any]) -> None:
        """The SDK is about to send the message, with `carrier` as `_meta`."""
        carrier.update(self._carrier)

    def call_off(self, params: dict[str, Any]) -> dict[str, Any]:
        """The server is told to forget the message."""
        noted = self.tracing.guard("trace a notification", self.tracing.note_notification, self, params)
        return params if noted is None else noted


class _Connection:
    """What is known of a session that is traced."""

    def __init__(self) -> None:
        self._session: Callable[[], CallbackClientSession | None] = lambda: None
        self._endpoint: Endpoint | None = None
        self._where: dict[str, Any] = {}
        self._labels: dict[str, Any] | None = None
        self._version: str | None = None
        self.started = perf_counter()
        self.has_listed: set[str | None] = set()
        self.failed: str | None = None

    def see(self, session: CallbackClientSession) -> None:
        """It is used through `session`, which may live longer than another wrapper."""
        if self._session() is not session:
            self._session = ref(session)

    def labels(self, protocol_version: str | None) -> dict[str, Any]:
        """The attributes that all messages of the session have, as far as they are known."""
        session = self._session()
        endpoint = None if session is None else endpoint_of(session)
        if endpoint is not None and endpoint is not self._endpoint:
            self._endpoint = endpoint
            self._where = endpoint_attributes(endpoint)
            self._labels = None
        if protocol_version is not None and protocol_version != self._version:
            self._version = short_version(protocol_version)
            self._labels = None
        if self._labels is None:
            version = {} if self._version is None else {semconv.PROTOCOL_VERSION: self._version}
            self._labels = {**self._where, **version}
        return self._labels


# Of what is not traced; nothing is ever told to it.
_NOWHERE = _Connection()


def _is_suppressed() -> bool:
    return bool(otel_context.get_value(_SUPPRESSED))


def _stands_for(span: Span, method: str, subject: Subject) -> bool:
    """Whether a span of somebody else's is of the same call."""
    if not span.is_recording() or getattr(getattr(span, "instrumentation_scope", None), "name", None) == _SCOPE:
        return False
    attributes: Mapping[str, Any] = getattr(span, "attributes", None) or {}
    if subject.attribute is not None and attributes.get(subject.attribute) not in (None, subject.name):
        return False
    of_method = attributes.get(semconv.METHOD_NAME)
    if of_method is not None:
        return of_method == method and getattr(span, "kind", None) is SpanKind.CLIENT
    # Some frameworks say what a span is at its end, but by its name from the start.
    is_named = getattr(span, "name", None) == f"{semconv.EXECUTE_TOOL} {subject.name}"
    operation = attributes.get(semconv.OPERATION_NAME, semconv.EXECUTE_TOOL if is_named else None)
    return method == "tools/call" and operation == semconv.EXECUTE_TOOL


def _version_of(context: MiddlewareContext[Any], result: Any) -> str | None:
    """The protocol version of a handshake: what it ended in, or what it was asked in."""
    if context.method == "initialize" and result is not None:
        return line.version_in(result)
    version = line.meta_of(context.params).get(_VERSION_IN_META) if context.method == "server/discover" else None
    return version if isinstance(version, str) else None


def _with_meta(method: str, params: Any, fields: dict[str, str]) -> Any:
    """`params` with `fields` in their `_meta`; themselves where they have none."""
    if params is None:
        row = METHODS.get(method)
        model = None if row is None else getattr(types, row.params, None)
        return None if model is None else model.model_validate({"_meta": fields})
    if is_object(params):
        meta: Any = params.get("_meta") or {}
        return {**params, "_meta": {**meta, **fields}}
    field = type(params).model_fields.get("meta") if isinstance(params, BaseModel) else None
    # A vendor's own field may have the same name.
    return line.with_meta(params, fields) if field is not None and field.alias == "_meta" else params
