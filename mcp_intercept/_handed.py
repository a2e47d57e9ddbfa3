"""What a server is handed beside messages: environment, command line, HTTP headers and the query of its URL."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, TypeGuard
from urllib.parse import parse_qsl, urlsplit

from mcp_intercept._sdk import transports

_OPTION: Final = re.compile(r"--?[A-Za-z][\w.-]*")
# An option with its value, or a variable, as containers are handed theirs.
_ASSIGNED: Final = re.compile(r"-{0,2}([A-Za-z_][\w.-]*)=(.+)", re.DOTALL)
# As in `--env=NAME=value`.
_MOST_ASSIGNED: Final = 2
_HEADER: Final = re.compile(r"([A-Za-z][\w-]*):(?!//)\s*(.+)", re.DOTALL)
# What the password in it goes by, which has no name of its own.
_URL: Final = "url"


def handed_to(transport: object, target: object) -> list[tuple[str, str]]:
    """Names and values, as far as a transport shows what it was made with.

    Args:
        transport: A transport, not entered.
        target: What it was made of.
    """
    # The SDK's are made by functions, and know what these were called with.
    made_with: tuple[Any, ...] = (*getattr(transport, "args", ()), *getattr(transport, "kwds", {}).values())
    return [pair for source in (target, *made_with) for pair in _pairs(source)]


def _pairs(source: Any) -> Iterator[tuple[str, str]]:
    if isinstance(source, str):
        yield from _of_url(source)
        return
    is_environment = isinstance(source, transports.StdioServerParameters)
    if is_environment:
        yield from _of_command(source.args)
        source = source.env
    elif any(base.__module__.partition(".")[0] in ("httpx", "httpx2") for base in type(source).__mro__):
        source = getattr(source, "headers", None)
    if _is_mapping(source):
        for name, value in source.items():
            if isinstance(name, str) and isinstance(value, str):
                yield name if is_environment else name.lower(), value


def _of_url(url: str) -> Iterator[tuple[str, str]]:
    try:
        parts = urlsplit(url)
    except ValueError:
        return
    if parts.password:
        yield _URL, url
    # Where a `+` is no space, as in base64, the server says it as it stands.
    for query in dict.fromkeys([parts.query, parts.query.replace("+", "%2B")]):
        yield from parse_qsl(query)


def _of_command(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    # First what says more: in `-e TOKEN=...`, `TOKEN`.
    for arg in args:
        yield from _of_argument(arg)
    for option, following in pairwise(args):
        if _OPTION.fullmatch(option) and not following.startswith("-"):
            yield option.lstrip("-"), following


def _of_argument(arg: str) -> Iterator[tuple[str, str]]:
    for _ in range(_MOST_ASSIGNED):
        assigned = _ASSIGNED.fullmatch(arg)
        if assigned is None:
            break
        yield assigned[1], (arg := assigned[2])  # which may be a header or URL
    if (header := _HEADER.fullmatch(arg)) is not None:
        yield header[1].lower(), header[2]
    yield from _of_url(arg)


def _is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)
