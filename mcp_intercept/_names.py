"""Names for servers that nobody has named: short, the same on each machine, and without anything secret."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath, PurePosixPath
from typing import Any, NamedTuple, cast
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
# What so many servers are called that the folder says more.
_COMMON = frozenset(
    {"__main__", "app", "cli", "index", "main", "mcp", "mcp-server", "mcp_server", "run", "server", "start"}
    | {"bin", "build", "dist", "lib", "out", "root", "src"}
)
_COMMON_FOLDER = re.compile(rf"{'|'.join(map(re.escape, _COMMON))}|tmp.*|temp|pytest-.*|\.*", re.IGNORECASE)
_HOMES = frozenset({"home", "Users"})
_COMMON_IN_URLS = frozenset({"api", "mcp", "message", "messages", "rpc", "sse", "v1", "v2"})
# Options whose value is the folder that the rest is in.
_IN_FOLDER = frozenset({"--directory", "--project", "--prefix", "--cwd", "-C"})
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104 - nothing is bound to it


class _Command(NamedTuple):
    parts: tuple[str, ...]
    folder: str = ""
    """The one that it is run in, if that is another."""


def name_of(target: Any, names: Mapping[str, str] | None = None) -> str:
    """A name for what a transport leads to: of a script, module or package, a host, or a server object.

    Args:
        target: What leads there.
        names: Names, with a part of the command line or URL of the server that is called so.
    """
    leads_to = _end_of(target)
    if names:
        for name, part in sorted(names.items(), key=lambda pair: len(pair[1]), reverse=True):
            if _is_in(part, _text_of(leads_to)):
                return name
    if isinstance(leads_to, _Command):
        return _of_command(leads_to)
    if isinstance(leads_to, str):
        return _of_url(leads_to)
    return _checked(getattr(transports.in_process_server(leads_to), "name", None))


def _text_of(leads_to: Any) -> str:
    if not isinstance(leads_to, _Command):
        return str(leads_to)
    inside = (f"{leads_to.folder}/{part}" for part in leads_to.parts) if leads_to.folder else ()
    return " ".join((*leads_to.parts, *inside)).replace("\\", "/")


def _is_in(part: str, text: str) -> bool:
    """Whether it is there, and not as a part of a word: `a/server.py` is not in `beta/server.py`."""
    part = part.replace("\\", "/")
    before = r"(?<![\w-])" if part[0].isalnum() else ""
    after = r"(?![\w-])" if part[-1].isalnum() else ""
    return re.search(f"{before}{re.escape(part)}{after}", text) is not None


def fingerprint(target: Any) -> object:
    """What is equal for transports that lead to the same server; kept in memory only."""
    leads_to: object = _end_of(target)
    return leads_to if isinstance(leads_to, (_Command, str)) else id(leads_to)  # pyright: ignore[reportUnknownVariableType]


def _end_of(target: Any) -> Any:
    """A command, a URL as a string, or a server object, as far as a transport shows where it leads."""
    # The SDK's are made by functions, and know what these were called with.
    arguments: tuple[Any, ...] = (*getattr(target, "args", ()), *getattr(target, "kwds", {}).values())
    if hasattr(target, "func") and arguments:
        target = arguments[0]
    target = getattr(target, "server", target)
    if isinstance(target, transports.StdioServerParameters):
        return _Command((target.command, *target.args), os.fspath(target.cwd or ""))
    if isinstance(target, (list, tuple)):
        return _Command(tuple(_part(part) for part in cast("Sequence[Any]", target)))
    return target


def _part(part: Any) -> str:
    return os.fspath(part) if isinstance(part, (str, os.PathLike)) else str(id(part))  # pyright: ignore[reportUnknownArgumentType]


def _of_command(command: _Command) -> str:
    before, folder = "", command.folder
    for part in command.parts:
        name = PurePath(part.replace("\\", "/")).name
        is_value = before.startswith("-") and before not in _FLAGS  # of an option, and may be anything
        if before in _IN_FOLDER:
            folder = part
        before = part
        if is_value or part.startswith("-") or part in _WORDS or _LAUNCHER.fullmatch(name.removesuffix(".exe")):
            continue
        # Of `@scope/package@1.2`, `server.py` and `weather.server`.
        stem = re.sub(r"(?<=.)@.*|\.(py|js|mjs|cjs|ts|exe|sh|jar)$", "", name)
        return next(_folders_of(part, folder), _checked(stem)) if stem.lower() in _COMMON else _checked(stem)
    return UNNAMED


def _folders_of(part: str, folder: str) -> Iterator[str]:
    """The names of the folders that a script is in, the next first, of those that say something."""
    path = os.path.normpath(os.path.join(folder, part)).replace("\\", "/")
    here = f"{os.getcwd()}/".replace("\\", "/")
    # What the folder is called from where all is run, is another thing on each machine; so are a user's, and others.
    for parent in PurePosixPath(path.removeprefix(here)).parents:
        if parent.parent.name in _HOMES:
            return
        if not _COMMON_FOLDER.fullmatch(parent.name) and _checked(parent.name) != UNNAMED:
            yield parent.name


def _of_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return UNNAMED
    if host not in _LOCAL:
        return _checked(host)
    steps = (step for step in parts.path.split("/") if step.lower() not in _COMMON_IN_URLS)
    return next((step for step in steps if _checked(step) != UNNAMED), UNNAMED)


def _checked(name: Any) -> str:
    is_name = isinstance(name, str) and _NAME.fullmatch(name) is not None
    return name if is_name and _redactor.text(name) == name else UNNAMED
