"""`Received`: what a client sent, and the inbox where it is kept and waited for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anyio

from mcp_intercept._context import Kind, printable
from mcp_intercept.recording.interactions import name_in
from mcp_intercept.testing._line import Frame


@dataclass(frozen=True, slots=True, repr=False)
class Received:
    """A request or notification of a client's, as it arrived.

    Example::

        server = ScriptedServer()
        async with connect(server.transport()):
            [handshake] = server.requests
        assert handshake.method == "initialize"
        assert handshake.params["clientInfo"]["name"] == "mcp"
    """

    frame: Frame
    """The JSON-RPC message."""

    metadata: Any = None
    """What the client told its transport with it (`SessionMessage.metadata`), e.g. HTTP headers."""

    @property
    def method(self) -> str:
        """The wire name."""
        method: str = self.frame["method"]
        return method

    @property
    def params(self) -> dict[str, Any]:
        """The params, with `_meta`; `{}` where there are none."""
        return self.frame.get("params") or {}

    @property
    def kind(self) -> Kind:
        """Whether an answer is due."""
        return "request" if "id" in self.frame else "notification"

    @property
    def name(self) -> str | None:
        """The name of the tool or prompt, or the URI of the resource; `None` where there is no such thing."""
        return name_in(self.method, self.params)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the tool or prompt; `{}` where there are none."""
        return self.params.get("arguments") or {}

    def __repr__(self) -> str:
        return f"<Received {self.kind} {printable(self.method)}>"


class Inbox:
    """Every request and notification that arrived, over all connections of a server."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        """In the order of arrival."""
        self._arrivals: set[anyio.Event] = set()

    def put(self, received: Received) -> None:
        """A message arrived."""
        self.received.append(received)
        for event in self._arrivals:
            event.set()

    def of_kind(self, kind: Kind) -> list[Received]:
        """Those that are answered, or those that are not."""
        return [received for received in self.received if received.kind == kind]

    async def wait_for(self, method: str, count: int, seconds: float) -> Received:
        """See `ScriptedServer.wait_for`."""
        with anyio.move_on_after(seconds):
            while True:
                found = [received for received in self.received if received.method == method]
                if len(found) >= count:
                    return found[count - 1]
                await self._arrival()
        arrived = ", ".join(printable(received.method) for received in self.received) or "nothing"
        number = "no" if count == 1 else f"no {count}."
        raise TimeoutError(f"{number} {method} arrived within {seconds} seconds; what arrived: {arrived}")

    async def _arrival(self) -> None:
        event = anyio.Event()
        self._arrivals.add(event)
        try:
            await event.wait()
        finally:
            self._arrivals.discard(event)
