"""`intercept_all()`: every session of the process, whoever makes it.

A session is intercepted in place: its own `send_request` and `send_notification` lead into the chain, and from there
to what its class defines. New ones are found as they are made, live ones by the garbage collector.
"""

# This reaches into sessions that somebody else made.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from functools import wraps
from threading import RLock
from typing import Any
from weakref import WeakSet

from mcp_intercept._calls import of_wrapper
from mcp_intercept._chain import AnyMiddleware
from mcp_intercept._intercept import intercept, manager_of
from mcp_intercept._manager import MiddlewareManager
from mcp_intercept._options import FunctionT, inside
from mcp_intercept._sdk import ClientSession, line, transports
from mcp_intercept._sdk.patches import Patches
from mcp_intercept._session import CallbackClientSession
from mcp_intercept.errors import SessionStateError

logger = logging.getLogger("mcp_intercept")

_KEY = "_mcp_intercept_in_place"


class _Scope:
    """One open `intercept_all()`, and the sessions it has to let go of."""

    def __init__(self, manager: MiddlewareManager) -> None:
        self.manager = manager
        self.sessions: WeakSet[_InPlace] = WeakSet()


class _Own:
    """What a session sends with by itself: what was set on it before, else what its class has at the time."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session
        self._request = vars(session).get("send_request")
        self._notification = vars(session).get("send_notification")

    @property
    def send_request(self) -> Any:
        return self._request or _bind(type(self._session).send_request, self._session)

    @property
    def send_notification(self) -> Any:
        return self._notification or _bind(type(self._session).send_notification, self._session)


def _bind(attribute: Any, session: ClientSession) -> Any:
    """What `session` has as the attribute that its class has."""
    bind = getattr(attribute, "__get__", None)
    return attribute if bind is None else bind(session)


class _InPlace:
    """The wrappers that one session itself sends through, innermost first. The state of the session holds it."""

    def __init__(self, session: ClientSession) -> None:
        self._wrappers: dict[_Scope, CallbackClientSession] = {}
        # What to send with: one attribute, as other threads may change it in the middle of a call.
        self._top: Any = _Own(session)
        self._own = self._top
        self._patches = patches = Patches()
        patches.set(session, _KEY, self)
        patches.set(session, "send_request", self._send_request)
        patches.set(session, "send_notification", self._send_notification)
        line.send_raw_in_place(session, lambda: self._top, patches)

    @of_wrapper
    async def _send_request(self, *args: Any, **kwargs: Any) -> Any:
        return await self._top.send_request(*args, **kwargs)

    async def _send_notification(self, *args: Any, **kwargs: Any) -> None:
        await self._top.send_notification(*args, **kwargs)

    def add(self, scope: _Scope, wrapper: CallbackClientSession) -> None:
        wrapper._interception.go_in_place(self._top)
        self._wrappers[scope] = self._top = wrapper
        scope.sessions.add(self)

    def __contains__(self, scope: _Scope) -> bool:
        return scope in self._wrappers

    def remove(self, scope: _Scope) -> None:
        wrapper = self._wrappers.pop(scope)
        gone = wrapper._interception
        for other in self._wrappers.values():
            if other._interception.below is wrapper:
                other._interception.lead_to(gone.below)
        if self._top is wrapper:
            self._top = gone.below
        if not self._wrappers:
            self._patches.undo()
        gone.incoming.remove(gone)
        gone.manager.unregister(gone)


# Reentrant: the collector may end a session, and what holds on to it, in the middle of anything.
_lock = RLock()
_open: list[_Scope] = []
# What was put over `ClientSession.__init__`, and what is below it. Somebody else may put something over it in turn, and
# then it stays there, idle.
_layers: list[tuple[Any, Any]] = []
# Takes back what listens on the HTTP transports.
_unlink: Callable[[], None] | None = None


def _layer_over(below: Any) -> Any:
    @wraps(below)
    def __init__(self: ClientSession, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it is one
        _bind(below, self)(*args, **kwargs)
        for scope in tuple(_open):
            _attach(scope, self)

    return __init__


def _below(init: Any) -> Any:
    return next((below for layer, below in _layers if layer is init), None)


def _attach(scope: _Scope, session: ClientSession) -> None:
    try:
        with _lock:
            in_place: _InPlace | None = vars(session).get(_KEY)
            if scope in _open and (in_place is None or scope not in in_place):
                # Before anything is patched: not every class can be wrapped. What it patches stays for longer.
                wrapper = intercept(session, scope.manager)
                (in_place or _InPlace(session)).add(scope, wrapper)
    except Exception:
        # Whoever makes the session knows nothing of this.
        logger.exception("a %s is not intercepted", type(session).__name__)


def _classes(base: type[ClientSession]) -> Iterator[type[ClientSession]]:
    if not issubclass(base, CallbackClientSession):
        yield base
        for derived in type.__subclasses__(base):
            yield from _classes(derived)


def _live() -> Iterator[ClientSession]:
    # Neither gc.get_objects() nor a tuple here: who holds a tuple that another thread is just making, breaks it there.
    classes = [*_classes(ClientSession)]
    for candidate in gc.get_referrers(*classes):
        if type(candidate) in classes and _is_live(candidate):
            yield candidate


def _is_live(session: ClientSession) -> bool:
    state = vars(session)
    try:
        is_closed: bool = state["_task_group"].cancel_scope.cancel_called
    except (AttributeError, KeyError, RuntimeError):
        is_closed = False  # it was not entered, or lives in another thread, which trio asks for
    return line.LAST_KEY in state and not is_closed  # without that key, another thread is just making it


def _start(scope: _Scope) -> None:
    global _unlink
    with _lock:
        _open.append(scope)
        _unlink = _unlink or transports.note_links(line.HttpLink)
        init = vars(ClientSession)["__init__"]
        if _below(init) is None:
            layer = _layer_over(init)
            _layers.append((layer, init))
            ClientSession.__init__ = layer  # type: ignore[method-assign]  # taken back by _end()
    # In a function of its own, whose end lets go of the last one.
    for session in _live():
        _attach(scope, session)


def _end(scope: _Scope) -> None:
    global _unlink
    with _lock:
        _open.remove(scope)
        if _unlink is not None and not _open:
            _unlink()
            _unlink = None
        while not _open and (below := _below(init := vars(ClientSession)["__init__"])) is not None:
            ClientSession.__init__ = below  # type: ignore[method-assign]  # as it was
            _layers[:] = [entry for entry in _layers if entry[0] is not init]
        for in_place in list(scope.sessions):
            in_place.remove(scope)


class InterceptAll:
    """What `intercept_all()` returns: to be opened with `with` (or `async with`), or to decorate a function with."""

    def __init__(self, manager: MiddlewareManager) -> None:
        self._manager = manager
        self._scope: _Scope | None = None

    def __repr__(self) -> str:
        return f"<intercept_all {self._manager!r}{'' if self._scope is None else ', open'}>"

    def __enter__(self) -> MiddlewareManager:
        """Start to intercept.

        Returns:
            The manager: for `capture()`, observers, and the live sessions.

        Raises:
            SessionStateError: It is open already.
        """
        if self._scope is not None:
            raise SessionStateError("this intercept_all() is open already; call intercept_all() for each `with`")
        self._scope = scope = _Scope(self._manager)
        _start(scope)
        return self._manager

    def __exit__(self, *exception: object) -> None:
        """Leave everything as it was."""
        scope, self._scope = self._scope, None
        if scope is not None:
            _end(scope)

    def __del__(self) -> None:
        # It was opened by hand, and dropped, or could not be opened to the end.
        self.__exit__()

    async def __aenter__(self) -> MiddlewareManager:
        """The same, for those who write `async with`."""
        return self.__enter__()

    async def __aexit__(self, *exception: object) -> None:
        """The same, for those who write `async with`."""
        self.__exit__()

    def __call__(self, function: FunctionT) -> FunctionT:
        """Intercept while `function`, async or not, runs; calls of it may overlap.

        Raises:
            InterceptError: It is a generator, which stops in the middle.
        """
        return inside(lambda: InterceptAll(self._manager), "intercept_all(...)", function)


def intercept_all(*middlewares: AnyMiddleware | MiddlewareManager) -> InterceptAll:
    """Intercept every `ClientSession` that the process makes or uses while this is open, whoever made it.

    For agent frameworks, which open sessions of their own: `with intercept_all(middleware) as manager: ...`, or
    `@intercept_all(middleware)` over a function. Each session has a `connection_id` of its own. A session that was
    wrapped with `intercept()` passes both chains, the wrapper's first. On exit all is as it was before, also for
    sessions that are still alive; a call on its way stays in its chain.

    May be nested (the inner one is the outer layer), and used from any thread.

    Args:
        middlewares: The middlewares, first outermost; or one `MiddlewareManager`.

    Raises:
        MiddlewareError: One of the middlewares is none.
    """
    return InterceptAll(manager_of(middlewares))
