"""The HTTP side of a connection, as far as both SDK lines share it (`httpx` and `httpx2` have one interface)."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

from mcp_intercept._sdk.spans import Traced

# What the SDK stamps on a request belongs to the protocol, and stays.
_STAMPED = frozenset({"accept", "content-type", "content-length", "host", "last-event-id"})


def without_protocol(headers: Mapping[str, str]) -> dict[str, str]:
    """What of `headers` is not the protocol's own business."""
    return {
        name: value
        for name, value in headers.items()
        if name.lower() not in _STAMPED and not name.lower().startswith("mcp-")
    }


class HttpLinkBase:
    """Listens on an HTTP client: learns the session id, and adds the headers of single calls."""

    has_session_id = True

    def __init__(self) -> None:
        self.session_id: str | None = None
        """The streamable HTTP session id, once the server has given one."""
        self.version: str | None = None
        """The version of HTTP that the server answered with."""

    async def on_request(self, request: Any) -> None:
        """Add the headers of the call that this HTTP request carries."""
        raise NotImplementedError  # the lines tell the calls apart in different ways

    def trace(self, request_id: str | int, traced: Traced) -> None:
        """The HTTP request that is to carry this JSON-RPC request is traced as part of it."""

    async def on_response(self, response: Any) -> None:
        """Note the session id, and what is spoken."""
        self.version = response.http_version.rpartition("/")[2]
        self.session_id = response.headers.get("mcp-session-id", self.session_id)

    def attach(self, client: Any) -> None:
        """Listen on `client`, an `httpx` or `httpx2` async client."""
        hooks = client.event_hooks
        client.event_hooks = {
            **hooks,
            "request": [*hooks["request"], self.on_request],
            "response": [*hooks["response"], self.on_response],
        }

    def found(self) -> HttpLinkBase:
        """The link itself; others have to look for theirs."""
        return self

    def view_of(self, client: Any) -> Any:
        """The same client, but listened on: others may use it for connections of their own."""
        view = copy(client)
        view._event_hooks = _Hooks(client, {"request": self.on_request, "response": self.on_response})
        return view


class _Hooks:
    """The event hooks of a client, as they are at the time, and before them one's own."""

    def __init__(self, client: Any, own: Mapping[str, Any]) -> None:
        self._client = client
        self._own = own

    def __getitem__(self, name: str) -> list[Any]:
        return [self._own[name], *self._client.event_hooks[name]]
