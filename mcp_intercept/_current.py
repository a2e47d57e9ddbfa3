"""Which cassette is open here, for those who join one by themselves."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from threading import RLock
from typing import Any, Protocol
from weakref import WeakSet


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


_lock = RLock()
_open: list[Joinable] = []
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
    """The cassette that is open here: the innermost of this context, else of the process."""
    with _lock:
        for cassettes in (_here.get(), _open):
            for cassette in reversed(cassettes):
                if cassette in _open:
                    return cassette
    return None


def enter(cassette: Joinable) -> None:
    """A cassette is open from now on."""
    with _lock:
        _open.append(cassette)
    _here.set((*_here.get(), cassette))


def leave(cassette: Joinable) -> None:
    """A cassette is open no longer."""
    with _lock:
        _open[:] = [other for other in _open if other is not cassette]
    # It may have been opened in another context, as pytest's fixtures are.
    _here.set(tuple(other for other in _here.get() if other is not cassette))
