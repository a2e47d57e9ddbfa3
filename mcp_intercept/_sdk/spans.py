"""How a request is traced while the SDK sends it: what the SDK would do of that by itself, it leaves to the tracer.

Line 1 traces nothing. What line 2 does, is in `spans2`.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Protocol


class Traced(Protocol):
    """A message that somebody traces."""

    @property
    def method(self) -> str:
        """Its wire name."""
        ...

    def outgoing(self, params: Any, *, injected: bool) -> Any:
        """`params` with the trace context of the message in their `_meta`.

        They stay as they are where they have no such thing, or where the SDK will inject it by itself.
        """
        ...

    def issued(self, request_id: str) -> None:
        """The SDK has given it this JSON-RPC id."""
        ...

    def enter(self) -> None:
        """Make the trace context of the message that of the current task, for the rest of its life."""
        ...

    def inject(self, carrier: dict[str, Any]) -> None:
        """Put the trace context of the message into its `_meta`."""
        ...

    def call_off(self, params: dict[str, Any]) -> dict[str, Any]:
        """Note that the server is told to forget the message; never raises.

        Returns:
            The params of that notification, with its trace context.
        """
        ...


class _Sending:
    """A traced message on its way to whoever takes it: a wrapper further in, or the SDK."""

    __slots__ = ("is_taken", "on_wire", "to", "traced")

    def __init__(self, traced: Traced, to: object, on_wire: bool) -> None:
        self.traced = traced
        self.to = to
        self.on_wire = on_wire
        self.is_taken = False


# What is being sent in this context. Contexts are copied, and the copies kept; where the server is in this process, its
# code may run in one. So what was taken is marked on the object.
sending: ContextVar[_Sending | None] = ContextVar("mcp_intercept_sending", default=None)


def take(to: object) -> Traced | None:
    """The traced message that is being handed to `to` in this context; from now on, it is nobody else's."""
    held = sending.get()
    if held is None or held.is_taken or held.to is not to:
        return None
    held.is_taken = True
    return held.traced


def about_to_be_written() -> Traced | None:
    """The traced message that the SDK is about to write in this context."""
    held = sending.get()
    return held.traced if held is not None and held.on_wire and not held.is_taken else None


def take_for_wire() -> Traced | None:
    """The same; the SDK writes it now."""
    held = sending.get()
    return None if held is None or not held.on_wire else take(held.to)


def given_up(to: object) -> Traced | None:
    """The traced message that was written to `to` in this context, when nobody waits for its answer any more."""
    held = sending.get()
    return held.traced if held is not None and held.on_wire and held.to is to else None


async def send(traced: Traced, awaitable: Awaitable[Any], *, to: object, on_wire: bool) -> Any:
    """Await `awaitable`, which hands `traced` to `to`.

    Args:
        traced: The message.
        awaitable: What sends it.
        to: Who takes it.
        on_wire: Whether that is what the SDK writes to.
    """
    held = _Sending(traced, to, on_wire)
    token = sending.set(held)
    try:
        return await awaitable
    finally:
        with suppress(ValueError):  # a coroutine that was dropped is closed in another context
            sending.reset(token)
        # Copies of the context may be kept.
        held.is_taken, held.to = True, None
