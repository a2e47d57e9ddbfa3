"""Names for servers that nobody has named: short, the same on each machine, and without anything secret."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, cast
from urllib.parse import urlsplit

from mcp_intercept._sdk import transports
from mcp_intercept.recording.redaction import Redaction, Redactor

UNNAMED = "server"

_redactor = Redactor(Redaction())

_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_LAUNCHER = re.compile(
    r"(python|pypy)[0-9.]*|py|uvx?|pipx|poetry|pdm|hatch|conda|node|npx|npm|pnpm|yarn|bunx?|deno|docker|podman|env|sh|bash|cmd",
    re.IGNORECASE,
)
_WORDS = frozenset({"run", "exec", "dlx", "tool", "x"})
# Options that take no value, or the very thing that is run.
_FLAGS = frozenset({"-m", "-u", "-I", "-B", "-y", "-q", "-i", "-it", "--", "--yes", "--quiet", "--rm", "--init"})
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104 - nothing is bound to it


def name_of(target: Any) -> str:
    """A name for what a transport leads to: of a script, module or package, a host, or a server object."""
    leads_to = _end_of(target)
    if isinstance(leads_to, tuple):
        return _of_command(cast("tuple[str, ...]", leads_to))
    if isinstance(leads_to, str):
        return _of_url(leads_to)
    return _checked(getattr(transports.in_process_server(leads_to), "name", None))


def fingerprint(target: Any) -> object:
    """What is equal for transports that lead to the same server; kept in memory only."""
    leads_to: object = _end_of(target)
    return leads_to if isinstance(leads_to, (tuple, str)) else id(leads_to)  # pyright: ignore[reportUnknownVariableType]


def _end_of(target: Any) -> Any:
    """A command as a tuple, a URL as a string, or a server object, as far as a transport shows where it leads."""
    # The SDK's are made by functions, and know what these were called with.
    arguments: tuple[Any, ...] = (*getattr(target, "args", ()), *getattr(target, "kwds", {}).values())
    if hasattr(target, "func") and arguments:
        target = arguments[0]
    target = getattr(target, "server", target)
    if isinstance(target, transports.StdioServerParameters):
        return (target.command, *target.args)
    if isinstance(target, (list, tuple)):
        return tuple(_part(part) for part in cast("Sequence[Any]", target))
    return target


def _part(part: Any) -> str:
    return os.fspath(part) if isinstance(part, (str, os.PathLike)) else str(id(part))  # pyright: ignore[reportUnknownArgumentType]


def _of_command(command: Sequence[str]) -> str:
    before = ""
    for part in command:
        name = PurePath(part.replace("\\", "/")).name
        is_value = before.startswith("-") and before not in _FLAGS  # of an option, and may be anything
        before = part
        if is_value or part.startswith("-") or part in _WORDS or _LAUNCHER.fullmatch(name.removesuffix(".exe")):
            continue
        # Of `@scope/package@1.2`, `server.py` and `weather.server`.
        return _checked(re.sub(r"(?<=.)@.*|\.(py|js|mjs|cjs|ts|exe|sh|jar)$", "", name))
    return UNNAMED


def _of_url(url: str) -> str:
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return UNNAMED
    return UNNAMED if host in _LOCAL else _checked(host)


def _checked(name: Any) -> str:
    is_name = isinstance(name, str) and _NAME.fullmatch(name) is not None
    return name if is_name and _redactor.text(name) == name else UNNAMED
