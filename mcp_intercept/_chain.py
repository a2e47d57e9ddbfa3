"""The chain: middlewares composed around a terminal, as one pure function.

Knows nothing of MCP, sessions or hooks. A chain is composed once and shared by all calls; what belongs to one
call travels with it as an `Invocation`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from inspect import isawaitable
from types import CoroutineType, MethodType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from mcp_intercept._context import MiddlewareContext, printable
from mcp_intercept.errors import MiddlewareError

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # pydantic brings it; only type checkers need the default

    ParamsT = TypeVar("ParamsT", default=Any)
    ResultT_co = TypeVar("ResultT_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    ParamsT = TypeVar("ParamsT")
    ResultT_co = TypeVar("ResultT_co", covariant=True)


class NextFunctionT(Protocol[ParamsT, ResultT_co]):
    """The rest of the chain, as a middleware gets it.

    Called positionally with the context that should go on. It may be called once; never (a short cut: what the
    middleware returns instead is checked against the method's result type, and a wire dict is validated into
    it); or again (a retry, visible as `context.attempt`). It must not be called after the middleware's call has
    ended. It raises what the rest of the chain raises, cancellation included; whoever catches must re-raise what
    is not theirs.

    For an *incoming* message, the rest of the chain ends in the SDK's handling of it: the user's callbacks. Requests
    may be sent while it runs. (Line 1 of the SDK runs handlers in its receive loop; this package reads on meanwhile.)
    """

    async def __call__(self, context: MiddlewareContext[ParamsT], /) -> ResultT_co:
        """Run the rest of the chain."""
        ...


AnyMiddleware: TypeAlias = Callable[[MiddlewareContext[Any], NextFunctionT[Any, Any]], Awaitable[Any]]
"""Anything that can be a layer: an async callable `(context, call_next) -> result`, or a `Middleware`."""

_ENDED = -1
NOTHING: Any = object()
"""What an invocation has for a result before there is one."""


class Invocation:
    """One message's passage through a chain: what is sent, how often it was, and what came back.

    Attributes:
        attempts: How often the terminal was reached; negative once the message has left the chain.
        context: The context that last reached the terminal, else the one that entered.
        entry: The context that entered.
        jsonrpc_response: What was last read from the wire in answer to it, where that was captured.
        result: What the terminal, or a checked short cut, last returned.
        traced: Who traces it, see `_sdk.spans`.
    """

    __slots__ = ("attempts", "context", "entry", "jsonrpc_response", "method", "result", "traced")

    attempts: int
    context: MiddlewareContext[Any]
    entry: MiddlewareContext[Any]
    jsonrpc_response: Any
    method: str
    result: Any
    traced: Any

    def __init__(self, context: MiddlewareContext[Any]) -> None:
        self.attempts = 0
        self.context = self.entry = context
        # Not context.method, which a middleware could have assigned.
        self.method = context.method
        self.result = NOTHING
        self.jsonrpc_response = None
        self.traced = None

    def send(self, context: MiddlewareContext[Any]) -> Awaitable[Any]:
        """Do what the chain is wrapped around."""
        raise NotImplementedError  # up to what the chain stands around

    def admit(self, value: Any) -> Any:
        """Return what a middleware may answer with `value`.

        Raises:
            ValueError: `value` is no answer to this message; the text says why.
        """
        raise NotImplementedError  # the chain knows no results

    def issued(self, request_id: str | int) -> None:
        """Take note that it is being written to the wire, with this JSON-RPC id."""

    def end(self) -> None:
        """Mark the message as gone, so that a kept `call_next` is refused from now on."""
        self.attempts = _ENDED


def invocation_of(call_next: object) -> Invocation | None:
    """The passage that `call_next` goes on with; `None` of one that somebody else made."""
    invocation = getattr(call_next, "__self__", None)
    return invocation if isinstance(invocation, Invocation) else None


Step: TypeAlias = Callable[[Invocation, MiddlewareContext[Any]], Coroutine[Any, Any, Any]]
"""A chain, or the rest of one: `async (invocation, context) -> result`."""


def describe(middleware: object) -> str:
    """The name of a middleware as its author knows it."""
    if isinstance(middleware, partial):
        return describe(middleware.func)
    name = getattr(middleware, "__qualname__", None)
    return name if isinstance(name, str) else type(middleware).__qualname__


def compose(layers: Sequence[AnyMiddleware]) -> Step:
    """The chain of `layers`, outermost first, around the sending of the invocation.

    Each layer costs two frames and no suspension of its own.
    """
    callers: list[AnyMiddleware | None] = [None, *layers]
    step = _terminal(callers[-1])
    for layer, caller in zip(reversed(layers), reversed(callers[:-1]), strict=True):
        step = _layer(layer, step, caller)
    return step


def _terminal(caller: AnyMiddleware | None) -> Step:
    async def call_next(invocation: Invocation, context: MiddlewareContext[Any]) -> Any:
        if context is not invocation.entry or context.method is not invocation.method or invocation.attempts:
            _check(invocation, context, caller)
        invocation.attempts = context.attempt = invocation.attempts + 1
        invocation.context = context
        invocation.result = result = await invocation.send(context)
        return result

    return call_next


def _layer(layer: AnyMiddleware, rest: Step, caller: AnyMiddleware | None) -> Step:
    # The name is what a user reads who forgets the argument: "call_next() missing 1 required ... 'context'".
    async def call_next(invocation: Invocation, context: MiddlewareContext[Any]) -> Any:
        # A few truth tests on the way of a sound call; everything else is out of line.
        if context is not invocation.entry or context.method is not invocation.method or invocation.attempts:
            _check(invocation, context, caller)
        pending = layer(context, MethodType(rest, invocation))
        if pending.__class__ is not CoroutineType and not isawaitable(pending):
            raise _broken(layer, invocation, f"returned {_kind(pending)} instead of an awaitable; make it `async def`")
        result = await pending
        # The very object that the rest of the chain returned needs no check.
        return result if result is invocation.result else _admit(layer, invocation, result)

    return call_next


def _check(invocation: Invocation, context: MiddlewareContext[Any], caller: AnyMiddleware | None) -> None:
    """Refuse a `call_next` that comes too late, or with something that cannot go on; else make it one of this call."""
    if invocation.attempts < 0:
        raise _broken(
            caller, invocation, "called call_next after its call had ended; send anew through context.session"
        )
    if not isinstance(context, MiddlewareContext):  # pyright: ignore[reportUnnecessaryIsInstance] - users err
        way_out = "pass the context, or a copy made with dataclasses.replace(context, ...)"
        raise _broken(caller, invocation, f"passed {_kind(context)} to call_next; {way_out}")
    if context.method != invocation.method:
        way_out = "a chain cannot change the method; send another message through context.session"
        raise _broken(caller, invocation, f"passed call_next a context for {printable(context.method)}; {way_out}")
    entry = invocation.entry
    if context.metadata is not entry.metadata:
        entry.metadata.update(context.metadata)
        context.metadata = entry.metadata
    context.id = entry.id
    # The layers around a retry that passes on copies see the count, too.
    context.attempt = entry.attempt = invocation.attempts + 1


def _admit(layer: AnyMiddleware, invocation: Invocation, result: Any) -> Any:
    if isawaitable(result):
        if isinstance(result, CoroutineType):
            result.close()  # else Python warns, far from here, that it was never awaited
        raise _broken(layer, invocation, "returned an awaitable; write `return await call_next(context)`")
    try:
        admitted = invocation.admit(result)
    except ValueError as error:
        raise _broken(layer, invocation, str(error)) from error.__cause__
    # The layers further out pass it by identity.
    invocation.result = admitted
    return admitted


def _broken(layer: AnyMiddleware | None, invocation: Invocation, complaint: str) -> MiddlewareError:
    return MiddlewareError(
        f"middleware {describe(layer)} {complaint} (in {printable(invocation.method)})",
        middleware=layer,
        method=invocation.method,
    )


def _kind(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"
