"""The plain values of one message: its context, its options, its response.

Ground floor: knows neither the SDK nor the chain. Whoever attaches a chain fills these in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple

if TYPE_CHECKING:
    from mcp import ClientSession
    from typing_extensions import TypeVar  # pydantic brings it; only type checkers need the default

    ParamsT = TypeVar("ParamsT", default=Any)
else:
    from typing import TypeVar

    ParamsT = TypeVar("ParamsT")

Direction = Literal["outgoing", "incoming"]
"""Seen from the client: `"outgoing"` is what it sends, `"incoming"` what the server sends."""

Kind = Literal["request", "notification"]
"""A request is answered, a notification is not."""

Outcome = Literal["ok", "tool_error", "error", "timeout", "cancelled"]
"""How a message ended, see `MCPResponseContext.outcome`."""

ProgressCallback = Callable[[float, "float | None", "str | None"], Awaitable[None]]
"""`async (progress, total, message)`, as the SDK's `ProgressFnT`."""

# The code of the error that the SDK raises when its own clock ran out: line 1 uses HTTP's 408, line 2 -32001.
_TIMEOUT_CODES = frozenset({408, -32001})


def printable(text: str, limit: int = 200) -> str:
    """A string from outside as part of one line: control characters escaped, and cut off at `limit` characters."""
    return text[:limit] if text.isprintable() else ascii(text[:limit])[1:-1]


def is_sdk_timeout(error: BaseException) -> bool:
    """Whether the SDK raised `error` because its own clock ran out.

    A server may send the same codes. The SDK raises its own in the very frame that caught the `TimeoutError`.
    """
    caught = error.__context__
    if getattr(getattr(error, "error", None), "code", None) not in _TIMEOUT_CODES or not isinstance(
        caught, TimeoutError
    ):
        return False
    raised = error.__traceback__
    while raised is not None and raised.tb_next is not None:
        raised = raised.tb_next
    return raised is not None and caught.__traceback__ is not None and raised.tb_frame is caught.__traceback__.tb_frame


CLOSED = "connection_closed"
"""What observers call an error that means that the connection ended before the answer came."""

# How the SDK says so: as errors that it makes up, and those of its streams.
_CLOSED_MESSAGES = ("Connection closed", "SSE stream ended")
_CLOSED_TYPES = frozenset({"BrokenResourceError", "ClosedResourceError", "EndOfStream"})


def is_closed(error: BaseException | None) -> bool:
    """Whether `error` means that the connection ended before the answer came."""
    data = getattr(error, "error", None)
    if getattr(data, "code", None) != -32000:
        return type(error).__module__.startswith("anyio") and type(error).__name__ in _CLOSED_TYPES
    message = getattr(data, "message", None)
    return isinstance(message, str) and message.startswith(_CLOSED_MESSAGES)


def outcome_of(result: Any, error: BaseException | None) -> Outcome:
    """How a message ended, see `MCPResponseContext.outcome`."""
    if error is None:
        # Not getattr(): pydantic takes its time to say that a model has no such field. Line 1 of the SDK spells it as
        # the wire does, line 2 as Python does.
        fields: dict[str, Any] = getattr(result, "__dict__", _NO_FIELDS)
        failed = fields.get("is_error") is True or fields.get("isError") is True
        return "tool_error" if failed or _says_error(getattr(result, "__pydantic_extra__", None)) else "ok"
    if not isinstance(error, Exception):
        return "cancelled"
    return "timeout" if isinstance(error, TimeoutError) or is_sdk_timeout(error) else "error"


def _says_error(extra: dict[str, Any] | None) -> bool:
    return extra is not None and (extra.get("is_error") is True or extra.get("isError") is True)


_NO_FIELDS: dict[str, Any] = {}

# Where there is none; typed as if there always were, as there is in every middleware.
_NO_SESSION: Any = None


def _empty() -> dict[str, Any]:
    # Not dict[str, Any], which is typed but takes three times as long to call, nor dict, which is not typed.
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a session's messages go, as far as that is known; in this process, nowhere.

    Named as in the OpenTelemetry registry (`network.*`, `server.*`).
    """

    transport: Literal["pipe", "tcp"] | None = None
    """`"pipe"` for stdio, `"tcp"` for HTTP."""

    protocol: str | None = None
    """What is spoken over the transport: `"http"`, `"websocket"`."""

    protocol_version: str | None = None
    """Its version, e.g. `"1.1"`."""

    address: str | None = None
    """The host in the URL."""

    port: int | None = None
    """The port in the URL, or that of its scheme."""


@dataclass(slots=True, repr=False)
class CallOptions:
    """How a request is sent, as opposed to what it says. Middleware may read and set every field."""

    timeout: float | None = None
    """Seconds to wait for the response; `None` leaves it to the session's own read timeout."""

    progress_callback: ProgressCallback | None = None
    """Awaited with each progress notification of this request."""

    headers: dict[str, str] = field(default_factory=_empty)
    """HTTP headers for this one request, over streamable HTTP. What the protocol itself sets, stays.

    On line 1 of the SDK, only connections of `connect()` and those opened inside `intercept_all()` can send them.
    """

    def __repr__(self) -> str:
        # Header values are where bearer tokens live.
        names = ", ".join(self.headers)
        return (
            f"CallOptions(timeout={self.timeout!r}, progress={self.progress_callback is not None}, headers=[{names}])"
        )


@dataclass(slots=True, repr=False, eq=False)
class MiddlewareContext(Generic[ParamsT]):
    """One message on its way through the chain.

    What reaches the wire is what the context that reached the end of the chain says. Change `params` or
    `options` in place, assign new ones, or hand `call_next` a copy: `dataclasses.replace(context, params=...)`.

    The representation shows no params, metadata or header values: they may hold secrets.
    """

    id: str
    """Ours, unique in the process, the same over all retries of one call. Not the JSON-RPC id."""

    method: str
    """The wire name, e.g. `"tools/call"`. Not to be changed: to send another message, use `session`."""

    params: ParamsT
    """The SDK's typed params model, or `None` where the message has none. `_meta` is part of it."""

    connection_id: str
    """Names the wrapped connection: the `connector_id` it was given, else a short generated name."""

    timestamp: float
    """Unix seconds when the message entered the chain. For durations see `MCPResponseContext.duration`."""

    metadata: dict[str, Any] = field(default_factory=_empty)
    """For middlewares to leave each other notes. The response context shows the same dict."""

    _: KW_ONLY

    session_id: str | None = None
    """The streamable HTTP session id, or `None` where there is no such thing (stdio, in memory, 2026-07-28)."""

    protocol_version: str | None = None
    """The negotiated protocol version, or `None` before the handshake (or where it happened unseen)."""

    direction: Direction = "outgoing"
    """Who sent it, seen from the client."""

    kind: Kind = "request"
    """Whether an answer is due."""

    options: CallOptions = field(default_factory=CallOptions)
    """Timeout, progress callback and headers."""

    attempt: int = 1
    """Which sending this is: 1 the first time, counted up each time the end of the chain is reached again."""

    session: ClientSession = _NO_SESSION
    """The `CallbackClientSession` the message belongs to. (There is none only in a context of one's own making.)"""

    jsonrpc_id: str | int | None = None
    """The JSON-RPC id of a request. Of an outgoing one it is known once it was written, over a connection of
    `connect()` or of an intercepted `Client`."""

    related: MiddlewareContext[Any] | None = None
    """The outgoing message this one belongs to, where that is known: the call that a progress notification reports
    on; the call whose answer asked this question, and its first round (multi-round-trip calls of 2026-07-28)."""

    round: int = 1
    """Which round of a multi-round-trip call this is (2026-07-28): 1 the first time, counted up with each answer to
    the server's questions. Later rounds are messages of their own, with the first as `related`."""

    def __repr__(self) -> str:
        return (
            f"<MiddlewareContext {printable(self.method)} {self.direction} {self.kind} "
            f"id={self.id!r} connection_id={self.connection_id!r} attempt={self.attempt}>"
        )


@dataclass(slots=True, repr=False, eq=False)
class MCPResponseContext:
    """How one message ended.

    The representation shows neither result nor error text: they may hold secrets.
    """

    request_id: str
    """The `MiddlewareContext.id` this answers."""

    result: Any
    """The typed result, or `None` for a notification or a failure."""

    error: BaseException | None
    """What was raised, or `None`."""

    duration: float
    """Monotonic seconds from entering the chain to leaving it; never negative."""

    metadata: dict[str, Any]
    """The same dict as the context's."""

    jsonrpc_response: Any = None
    """The JSON-RPC response as read from the wire, where it was captured, else `None`; never a reconstruction."""

    @classmethod
    def create(cls, request_id: str, result: Any = None, error: BaseException | None = None) -> MCPResponseContext:
        """A response with no duration and empty metadata, e.g. for a test.

        Args:
            request_id: The id of the context it answers.
            result: The typed result.
            error: What was raised.
        """
        return cls(request_id, result, error, 0.0, {})

    @property
    def outcome(self) -> Outcome:
        """How it ended.

        - `"ok"`: a result (or a notification that was sent).
        - `"tool_error"`: a `tools/call` result whose `isError` is true.
        - `"timeout"`: the SDK's clock ran out, or a `TimeoutError` was raised.
        - `"cancelled"`: the caller gave up; the error is no `Exception` (cancellation, Ctrl-C).
        - `"error"`: anything else that was raised, a JSON-RPC error of the server included.
        """
        return outcome_of(self.result, self.error)

    def __repr__(self) -> str:
        return f"<MCPResponseContext {self.outcome} request_id={self.request_id!r} duration={self.duration:.6f}>"


class Exchange(NamedTuple):
    """A message and how it ended, as `MiddlewareManager.capture` collects them."""

    context: MiddlewareContext[Any]
    """The context as it reached the end of the chain (as it entered, if it never got there)."""

    response: MCPResponseContext
    """How it ended."""
