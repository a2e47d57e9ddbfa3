"""`MiddlewareManager`: the list of middlewares, the chains composed from it, and who watches the messages."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from threading import Lock
from time import perf_counter
from types import CoroutineType, MethodType
from typing import Any, Protocol, TypeAlias
from weakref import WeakSet

import anyio

from mcp_intercept._chain import AnyMiddleware, Invocation, Step, compose, describe
from mcp_intercept._context import Exchange, Kind, MCPResponseContext, MiddlewareContext, printable
from mcp_intercept._middleware import check_middleware, hooked_methods, is_plain_function_of_two, layers_of
from mcp_intercept._results import admit_result
from mcp_intercept._sdk import ClientSession, types
from mcp_intercept.errors import BroadcastError, MiddlewareError
from mcp_intercept.methods import METHODS, PROGRESS

logger = logging.getLogger("mcp_intercept")

Observer: TypeAlias = Callable[[MiddlewareContext[Any], MCPResponseContext], object]
"""Called with each message and how it ended; must not be async."""

Undo: TypeAlias = Callable[[], None]
"""Takes back what returned it. Calling it again does nothing."""

MAX_MIDDLEWARES = 100
"""Each layer nests a few Python frames; far beyond this number, the interpreter's recursion limit would end a call."""


class _Attached(Protocol):
    """What a manager needs of the sessions that use it, which stand above."""

    @property
    def session(self) -> ClientSession | None: ...

    @property
    def entered(self) -> bool: ...

    def require_this_loop(self) -> None: ...


class _Chains(dict[str, "Step | None"]):
    """The composed chain of each method, made when the method is first met; `None` where no layer wants it.

    Methods that no row and no hook names share one chain, so that names from outside cannot fill the memory.
    """

    def __init__(self, middlewares: Iterable[AnyMiddleware], kind: Kind) -> None:
        super().__init__()
        self._middlewares = tuple(middlewares)
        self._kind: Kind = kind
        self._named = {*METHODS, *(method for entry in self._middlewares for method in hooked_methods(entry))}
        self.unnamed: Step | None = self._compose(None)

    def __missing__(self, method: str) -> Step | None:
        if method not in self._named:
            return self.unnamed
        self[method] = step = self._compose(method)
        return step

    def _compose(self, method: str | None) -> Step | None:
        layers = [layer for entry in self._middlewares for layer in layers_of(entry, method, self._kind)]
        return compose(layers) if layers else None


class _Entry:
    """One place in the list; the same middleware may stand in several."""

    __slots__ = ("middleware",)

    def __init__(self, middleware: AnyMiddleware) -> None:
        check_middleware(middleware)
        self.middleware = middleware


class _Watcher:
    """An observer, and whether its failure was logged."""

    __slots__ = ("failed", "observer")

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.failed = False

    def notify(self, context: MiddlewareContext[Any], response: MCPResponseContext) -> None:
        try:
            returned = self.observer(context, response)
            if isinstance(returned, CoroutineType):
                returned.close()  # else Python warns, far from here, that it was never awaited
                raise TypeError("it returned a coroutine, which nobody awaits")
        except Exception as failure:
            if not self.failed:
                self.failed = True
                _unchain(failure, response.error)
                # A filter or handler of the user's may fail in its turn.
                with suppress(Exception):
                    logger.exception(
                        "observer %s failed in %s; the message is not affected, and further failures are not logged",
                        describe(self.observer),
                        printable(context.method),
                    )


def _unchain(failure: BaseException, error: BaseException | None) -> None:
    """Keep the error of the message, in whose handling an observer failed, out of the report: it may hold secrets."""
    link: BaseException | None = failure
    while link is not None:
        if link.__context__ is error:
            link.__context__ = None
        link = link.__context__


_SEND: Step = compose(())


class MiddlewareManager:
    """The middlewares of one or more sessions, first outermost.

    Any number of managers live in one process, each with its own sessions. All methods may be called from any
    thread; changes take effect for the next message, on live sessions too.

    Args:
        middlewares: The initial list, at most 100.

    Raises:
        MiddlewareError: One of them is no middleware, or there are too many.
    """

    def __init__(self, middlewares: Iterable[AnyMiddleware] = ()) -> None:
        self._lock = Lock()
        self._sessions: WeakSet[_Attached] = WeakSet()
        self.watchers: tuple[_Watcher, ...] = ()
        if not isinstance(middlewares, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance] - users err
            raise MiddlewareError("give the middlewares as a list: MiddlewareManager([first, second])")
        self._set_entries(tuple(_Entry(middleware) for middleware in middlewares))

    def __repr__(self) -> str:
        names = ", ".join(describe(middleware) for middleware in self.middlewares)
        return f"<MiddlewareManager [{names}]>"

    @property
    def middlewares(self) -> tuple[AnyMiddleware, ...]:
        """The list as it is now, first outermost."""
        return tuple(entry.middleware for entry in self._entries)

    def add_middleware(self, middleware: AnyMiddleware) -> Undo:
        """Append a middleware, innermost.

        Args:
            middleware: A `Middleware`, or any async callable `(context, call_next)`.

        Returns:
            Its undo, which removes just this entry.

        Raises:
            MiddlewareError: It is no middleware, or there are 100 already.
        """
        entry = _Entry(middleware)
        with self._lock:
            self._set_entries((*self._entries, entry))

        def undo() -> None:
            with self._lock:
                self._set_entries(tuple(other for other in self._entries if other is not entry))

        return undo

    def remove_middleware(self, middleware: AnyMiddleware) -> None:
        """Take a middleware out; where it stands several times, the innermost.

        Args:
            middleware: The object that was added.

        Raises:
            MiddlewareError: It is not in the list.
        """
        with self._lock:
            for entry in reversed(self._entries):
                # A bound method is another object each time it is looked up.
                is_same_method = isinstance(middleware, MethodType) and entry.middleware == middleware
                if entry.middleware is middleware or is_same_method:
                    self._set_entries(tuple(other for other in self._entries if other is not entry))
                    return
        raise MiddlewareError(
            f"middleware {describe(middleware)} is not in {self!r}; give the very object that was added",
            middleware=middleware,
        )

    def _set_entries(self, entries: tuple[_Entry, ...]) -> None:
        if len(entries) > MAX_MIDDLEWARES:
            raise MiddlewareError(
                f"{len(entries)} middlewares are more than the {MAX_MIDDLEWARES} that a chain can hold; "
                f"merge some of them into one"
            )
        self._entries = entries
        middlewares = [entry.middleware for entry in entries]
        self.requests: _Chains = _Chains(middlewares, "request")
        self.notifications: _Chains = _Chains(middlewares, "notification")
        self._note_progress()

    def _note_progress(self) -> None:
        # Whether calls are to be found by what reports on their progress.
        self.sees_progress: bool = bool(self.watchers or self.notifications[PROGRESS])

    def add_observer(self, callback: Observer) -> Undo:
        """Have `callback(context, response)` called after each message of either direction.

        It is never awaited, and one that raises is logged once and never breaks the message.

        Args:
            callback: A plain function.

        Returns:
            Its undo.

        Raises:
            MiddlewareError: It is not callable, or async.
        """
        if not is_plain_function_of_two(callback):
            raise MiddlewareError(
                f"observer {describe(callback)} must be a plain function (context, response); it is never awaited"
            )
        watcher = _Watcher(callback)
        with self._lock:
            self.watchers = (*self.watchers, watcher)
            self._note_progress()

        def undo() -> None:
            with self._lock:
                self.watchers = tuple(other for other in self.watchers if other is not watcher)
                self._note_progress()

        return undo

    @contextmanager
    def capture(self) -> Generator[list[Exchange], None, None]:
        """Collect the messages that end while it is open: `with manager.capture() as exchanges:`."""
        exchanges: list[Exchange] = []

        def collect(context: MiddlewareContext[Any], response: MCPResponseContext) -> None:
            exchanges.append(Exchange(context, response))

        undo = self.add_observer(collect)
        try:
            yield exchanges
        finally:
            undo()

    @property
    def sessions(self) -> set[ClientSession]:
        """The live sessions that use this manager: those wrapped, not closed, and still referenced somewhere.

        Each is a `CallbackClientSession`.
        """
        return {session for attached in self._attached() if (session := attached.session) is not None}

    def _attached(self) -> list[_Attached]:
        with self._lock:
            return list(self._sessions)

    async def broadcast(self, notification: Any) -> None:
        """Send a notification to every live session that was entered, through its chain, all at once.

        Args:
            notification: What `send_notification` takes, e.g. `mcp.types.RootsListChangedNotification()`.

        Raises:
            BroadcastError: It did not reach some of the sessions; it was still sent to all the others.
        """
        failures: dict[ClientSession, Exception] = {}

        async def send(attached: _Attached, session: ClientSession) -> None:
            try:
                attached.require_this_loop()
                await session.send_notification(notification)
            except Exception as error:
                failures[session] = error

        async with anyio.create_task_group() as tasks:
            for attached in self._attached():
                session = attached.session
                if session is not None and attached.entered:
                    tasks.start_soon(send, attached, session)
        if failures:
            reasons = "; ".join(f"{session!r}: {error!r}" for session, error in failures.items())
            complaint = f"the broadcast did not reach {len(failures)} session(s): {reasons}"
            raise BroadcastError(complaint, failures=failures)

    async def process_request(
        self,
        context: MiddlewareContext[Any],
        original_call: Callable[[MiddlewareContext[Any]], Awaitable[Any]],
    ) -> MCPResponseContext:
        """Run the chain around a call of one's own.

        Args:
            context: What enters the chain.
            original_call: Awaited with the context that reaches its end, each time one does.

        Returns:
            How it ended. An `Exception` is reported as `error` instead of being raised; cancellation propagates.
        """
        invocation = _OwnCall(context, original_call)
        started = perf_counter()
        try:
            chains = self.requests if context.kind == "request" else self.notifications
            result = await (chains[context.method] or _SEND)(invocation, context)
        except Exception as error:
            return self._report(invocation, None, error, started)
        except BaseException as error:
            self._report(invocation, None, error, started)
            raise
        return self._report(invocation, result, None, started)

    # What follows, and the attributes without an underscore that are not documented, are for sessions only.

    async def run(self, chain: Step | None, invocation: Invocation, context: MiddlewareContext[Any]) -> Any:
        """Pass one message through its chain, and tell the observers how it ended."""
        started = perf_counter()
        try:
            result = await (chain or _SEND)(invocation, context)
        except BaseException as error:
            self._report(invocation, None, error, started)
            raise
        if self.watchers:
            self._report(invocation, result, None, started)
        else:
            invocation.end()
        return result

    def register(self, attached: _Attached) -> None:
        """Count a session among the live ones, as long as somebody holds it."""
        with self._lock:
            self._sessions.add(attached)

    def unregister(self, attached: _Attached) -> None:
        """Count a session no longer, even if somebody holds it."""
        with self._lock:
            self._sessions.discard(attached)

    def _report(
        self,
        invocation: Invocation,
        result: Any,
        error: BaseException | None,
        started: float,
    ) -> MCPResponseContext:
        duration = perf_counter() - started
        invocation.end()
        entry = invocation.entry
        response = MCPResponseContext(entry.id, result, error, duration, entry.metadata, invocation.jsonrpc_response)
        for watcher in self.watchers:
            watcher.notify(invocation.context, response)
        return response


# What a request of protocol version 2026-07-28 may be answered with instead of its result; line 1 has no such thing.
_QUESTION: tuple[type[Any], ...] = tuple(filter(None, [getattr(types, "InputRequiredResult", None)]))


class _OwnCall(Invocation):
    """What `process_request` runs its chain around."""

    __slots__ = ("_original_call",)

    def __init__(
        self, context: MiddlewareContext[Any], original_call: Callable[[MiddlewareContext[Any]], Awaitable[Any]]
    ) -> None:
        super().__init__(context)
        self._original_call = original_call

    async def send(self, context: MiddlewareContext[Any]) -> Any:
        return await self._original_call(context)

    def admit(self, value: Any) -> Any:
        row = METHODS.get(self.method)
        model = getattr(types, row.result, None) if row and row.result else None
        # A call of one's own may answer with whatever it likes; then the middlewares around it may, too.
        is_free = model is None or (self.attempts and not isinstance(self.result, model))
        if value is not None and (is_free or isinstance(value, _QUESTION)):
            return value
        return admit_result(model or object, value) if self.entry.kind == "request" else value
