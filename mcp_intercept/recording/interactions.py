"""`Interaction`: what a client sent to a server, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from mcp_intercept._context import printable


@dataclass(slots=True)
class Interaction:
    """One request or notification of a client, with everything that its server did about it."""

    n: int
    """Its number in the cassette, from 1."""
    server: str
    """The name of the server within the cassette."""
    connection: int
    """Which connection to that server, from 1."""
    kind: Literal["request", "notification"]
    """What the client sent."""
    method: str
    """The method of it, as on the wire."""
    params: dict[str, Any] | None
    """The params of it, without `_meta`; `None` where it has none."""
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """What followed, in order: the lines of the file below the first, without their `n`."""
    line: int = 0
    """On which line of the file it begins; 0 where it is in none."""

    @property
    def result(self) -> dict[str, Any] | None:
        """The result, if it was answered with one."""
        return next((event["result"] for event in self.events if "result" in event), None)

    @property
    def error(self) -> dict[str, Any] | None:
        """The JSON-RPC error, if it was answered with one."""
        return next((event["error"] for event in self.events if "error" in event), None)

    @property
    def name(self) -> str | None:
        """What is called, read or got: the name of a tool or prompt, or the URI of a resource."""
        return name_in(self.method, self.params)

    @property
    def title(self) -> str:
        """The method, and what it is about, on one line."""
        return title_of(self.method, self.name)


def name_in(method: str, params: dict[str, Any] | None) -> str | None:
    """What a message is about: the name of a tool or prompt, or the URI of a resource."""
    named = (params or {}).get("uri" if method.startswith("resources/") else "name")
    return named if isinstance(named, str) else None


def title_of(method: str, name: str | None) -> str:
    """A method, and what it is about, on one line."""
    return printable(f"{method} {name}" if name else method)
