"""Which cassette is open here, for those who join one by themselves."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from threading import RLock, get_ident
from typing import Any, NamedTuple, Protocol
from weakref import WeakSet

import anyio


class Joinable(Protocol):
    """A cassette, as `connect()` knows it."""

    def transport_named(
        self, transport: AbstractAsyncContextManager[Any], target: Any, name: str | None = None
    ) -> AbstractAsyncContextManager[Any]:
        """A transport, recorded or replayed: of a server of this name, or else of one named after what leads to it."""
        ...


class Counting(Protocol):
    """What a session sends through."""

    count: int
    """How many requests and notifications it has sent."""


class Led(AbstractAsyncContextManager[Any]):
    """A transport that is led through a cassette already."""

    def __init__(self, transport: AbstractAsyncContextManager[Any]) -> None:
        self._transport = transport

    async def __aenter__(self) -> Any:
        return await self._transport.__aenter__()

    async def __aexit__(self, *exception: Any) -> bool | None:
        return await self._transport.__aexit__(*exception)  # noqa: ASYNC102 - as the transport has it


def is_led(transport: object) -> bool:
    """Whether a transport is led through a cassette already."""
    return isinstance(transport, Led)


class _Opened(NamedTuple):
    cassette: Joinable
    thread: int | None
    """The thread that opened it, unless a task did: then it is there for all tasks that run in this thread."""


_lock = RLock()
_open: list[_Opened] = []
# Of a task, or of whoever started it. What is opened in other threads finds the last of all.
_here: ContextVar[tuple[Joinable, ...]] = ContextVar("mcp_intercept_cassettes", default=())
# What goes past all cassettes, as none was open when it began.
_passing: WeakSet[Counting] = WeakSet()


def pass_by(session: Counting) -> None:
    """A session begins that goes through no cassette."""
    with _lock:
        _passing.add(session)


def passed_by() -> dict[Counting, int]:
    """How many requests and notifications each such session has sent."""
    with _lock:
        return {session: session.count for session in _passing}


def current_cassette() -> Joinable | None:
    """The cassette that is open here: the innermost of this context or thread, else of the process."""
    here, thread = _here.get(), get_ident()
    with _lock:
        for opened in reversed(_open):
            # The task that pytest's plugins run tests in began before what is opened for each of the tests.
            if opened.thread == thread or opened.cassette in here:
                return opened.cassette
        return _open[-1].cassette if _open else None


def enter(cassette: Joinable) -> None:
    """A cassette is open from now on."""
    thread = None if _is_in_task() else get_ident()
    with _lock:
        _open.append(_Opened(cassette, thread))
    _here.set((*_here.get(), cassette))


def _is_in_task() -> bool:
    try:
        anyio.get_current_task()
    except (RuntimeError, TypeError):  # the latter is what older ones raise in a callback
        return False
    return True


def leave(cassette: Joinable) -> None:
    """A cassette is open no longer."""
    with _lock:
        _open[:] = [opened for opened in _open if opened.cassette is not cassette]
    # It may have been opened in another context, as pytest's fixtures are.
    _here.set(tuple(other for other in _here.get() if other is not cassette))
