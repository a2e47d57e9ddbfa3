"""What a server is handed beside messages: the variables of its environment, and HTTP headers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from mcp_intercept._sdk import transports


def handed_to(transport: object, target: object) -> dict[str, str]:
    """The values by their names, as far as a transport shows what it was made with.

    Args:
        transport: A transport, not entered.
        target: What it was made of.
    """
    # The SDK's are made by functions, and know what these were called with.
    made_with: tuple[Any, ...] = (*getattr(transport, "args", ()), *getattr(transport, "kwds", {}).values())
    return {name: value for source in (target, *made_with) for name, value in _pairs(source)}


def _pairs(source: Any) -> Iterator[tuple[str, str]]:
    is_environment = isinstance(source, transports.StdioServerParameters)
    if is_environment:
        source = source.env
    elif any(base.__module__.partition(".")[0] in ("httpx", "httpx2") for base in type(source).__mro__):
        source = getattr(source, "headers", None)
    if _is_mapping(source):
        for name, value in source.items():
            if isinstance(name, str) and isinstance(value, str):
                yield name if is_environment else name.lower(), value


def _is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)
