"""`intercept_all()`: every session of the process, whoever makes it.

A session is intercepted in place: its own `send_request` and `send_notification` lead into the chain, and from there
to what its class defines. New ones are found as they are made, live ones by the garbage collector.
"""

# This reaches into sessions that somebody else made.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import gc
import logging
from collections.abc import Generator
from contextlib import contextmanager
from functools import wraps
from threading import RLock
from typing import Any, cast
from weakref import WeakSet, ref

from mcp_intercept._chain import AnyMiddleware
from mcp_intercept._incoming import Incoming
from mcp_intercept._intercept import intercept, manager_of
from mcp_intercept._manager import MiddlewareManager
from mcp_intercept._sdk import ClientSession, line
from mcp_intercept._sdk.patches import Patches
from mcp_intercept._session import CallbackClientSession

logger = logging.getLogger("mcp_intercept")

_KEY = "_mcp_intercept_in_place"


class _Scope:
    """One open `intercept_all()`, and the sessions it has to let go of."""

    def __init__(self, manager: MiddlewareManager) -> None:
        self.manager = manager
        self.sessions: WeakSet[_InPlace] = WeakSet()


class _Own:
    """What a session sends with by itself."""

    def __init__(self, session: ClientSession) -> None:
        self.send_request = session.send_request
        self.send_notification = session.send_notification


class _InPlace:
    """The wrappers that one session itself sends through, innermost first. The state of the session holds it."""

    def __init__(self, session: ClientSession) -> None:
        self._session = ref(session)
        self._wrappers: dict[_Scope, CallbackClientSession] = {}
        # What it patches, must be patched before, and for longer.
        Incoming.of(session)
        self._own = _Own(session)
        self._patches = patches = Patches()
        patches.set(session, _KEY, self)
        patches.set(session, "send_request", self._send_request)
        patches.set(session, "send_notification", self._send_notification)
        line.send_raw_in_place(session, self._top, patches)

    def _top(self) -> Any:
        # Another thread may just have taken the last one away.
        return next(reversed(self._wrappers.values()), self._own)

    async def _send_request(self, *args: Any, **kwargs: Any) -> Any:
        return await self._top().send_request(*args, **kwargs)

    async def _send_notification(self, *args: Any, **kwargs: Any) -> None:
        await self._top().send_notification(*args, **kwargs)

    def add(self, scope: _Scope, session: ClientSession) -> None:
        wrapper = intercept(session, scope.manager)
        wrapper._interception.go_in_place(self._top())
        self._wrappers[scope] = wrapper
        scope.sessions.add(self)

    def __contains__(self, scope: _Scope) -> bool:
        return scope in self._wrappers

    def remove(self, scope: _Scope) -> None:
        gone = self._wrappers.pop(scope)._interception
        for wrapper in self._wrappers.values():
            if wrapper._interception.below is gone.wrapper():
                wrapper._interception.below = gone.below
        if not self._wrappers:
            self._patches.undo()
        gone.incoming.remove(gone)


# Reentrant: the collector may end a session, and what holds on to it, in the middle of anything.
_lock = RLock()
_open: list[_Scope] = []
_plain_init: Any = ClientSession.__init__


@wraps(_plain_init)
def _init(self: ClientSession, *args: Any, **kwargs: Any) -> None:
    _plain_init(self, *args, **kwargs)
    for scope in tuple(_open):
        _attach(scope, self)


def _attach(scope: _Scope, session: ClientSession) -> None:
    try:
        with _lock:
            if scope not in _open:
                return
            in_place: _InPlace = session.__dict__.get(_KEY) or _InPlace(session)
            if scope not in in_place:
                in_place.add(scope, session)
    except Exception:
        # Whoever makes the session knows nothing of this.
        logger.exception("a %s is not intercepted", type(session).__name__)


def _is_live(candidate: Any) -> bool:
    if not issubclass(type(candidate), ClientSession) or issubclass(type(candidate), CallbackClientSession):
        return False
    state = cast("dict[str, Any]", vars(candidate))
    group = state.get("_task_group")
    is_closed = group is not None and group.cancel_scope.cancel_called
    return line.LAST_KEY in state and not is_closed  # without that key, another thread is just making it


@contextmanager
def intercept_all(*middlewares: AnyMiddleware | MiddlewareManager) -> Generator[MiddlewareManager, None, None]:
    """Intercept every `ClientSession` that the process makes or uses while this is open, whoever made it.

    For agent frameworks, which open sessions of their own: `with intercept_all(middleware): ...`. Each session has a
    `connection_id` of its own. A session that was wrapped with `intercept()` passes both chains, the wrapper's first.
    On exit all is as it was before, also for sessions that are still alive; a call on its way stays in its chain.

    May be nested (the inner one is the outer layer), and used from any thread.

    Args:
        middlewares: The middlewares, first outermost; or one `MiddlewareManager`.

    Yields:
        The manager: for `capture()`, observers, and the live sessions.

    Raises:
        MiddlewareError: One of the middlewares is none.
    """
    scope = _Scope(manager_of(middlewares))
    with _lock:
        _open.append(scope)
        # Unless it is still there, below what somebody else has put over it.
        if ClientSession.__init__ is _plain_init:
            ClientSession.__init__ = _init  # type: ignore[method-assign]
    for session in filter(_is_live, gc.get_objects()):
        _attach(scope, session)
    try:
        yield scope.manager
    finally:
        with _lock:
            _open.remove(scope)
            if not _open and ClientSession.__init__ is _init:
                ClientSession.__init__ = _plain_init  # type: ignore[method-assign]
            for in_place in list(scope.sessions):
                in_place.remove(scope)
