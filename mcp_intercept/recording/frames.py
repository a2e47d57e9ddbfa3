"""`Frame`: a JSON-RPC message, without anything that only the SDK knows of."""

from __future__ import annotations

from typing import Any, NamedTuple


class Frame(NamedTuple):
    """A JSON-RPC message: a request has an id and a method, a notification a method, a response an id."""

    id: str | int | None = None
    method: str | None = None
    params: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    """`code`, `message` and perhaps `data`."""
