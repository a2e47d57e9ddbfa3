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

    def outgoing(self, params: Any) -> Any:
        """`params` with the trace context of the message in their `_meta`; themselves where that cannot be."""
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


# What is being sent in this context, and whether over a wire. Emptied afterwards, as contexts are copied, and the
# copies kept.
_sending: ContextVar[list[tuple[Traced, bool]]] = ContextVar("mcp_intercept_traced")


def being_sent() -> Traced | None:
    """The traced message that is being sent in this context, by the SDK or through a wrapper further in."""
    sending = _sending.get([])
    return sending[0][0] if sending else None


def being_sent_on_wire() -> Traced | None:
    """The traced message that the SDK is sending in this context. In process, the server's own code runs in it."""
    sending = _sending.get([])
    return sending[0][0] if sending and sending[0][1] else None


async def send(traced: Traced, sending: Awaitable[Any], *, on_wire: bool) -> Any:
    """Await `sending`, which has the SDK send `traced`."""
    held = [(traced, on_wire)]
    token = _sending.set(held)
    try:
        return await sending
    finally:
        with suppress(ValueError):  # a coroutine that was dropped is closed in another context
            _sending.reset(token)
        held.clear()
