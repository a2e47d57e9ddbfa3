"""Where the cassettes of tests are, and what they are called."""

from __future__ import annotations

import os
import re
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest

SUFFIX: Final = ".mcp.jsonl"
_LONGEST: Final = 100
"""Characters of a file's name, the suffix not counted: file systems take 255 bytes, and there are files beside it."""
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.,=+@-]+")
# Windows takes these for devices, whatever stands behind the dot.
_DEVICE: Final = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9])(\.|$)", re.IGNORECASE)


def safe_name(text: str, *, is_unique: bool = True) -> str:
    """A name for a file, on every file system, in no other folder than is meant.

    Args:
        text: What to name it after. What is safe already stays as it is.
        is_unique: Whether no other name is equal to it but for upper and lower case.
    """
    name = _UNSAFE.sub("_", text).lstrip(".")
    if name == text and is_unique and 0 < len(name) <= _LONGEST and not _DEVICE.match(name):
        return name
    digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    kept = name[: _LONGEST - len(digest) - 2].rstrip("_-")
    return f"_{kept}-{digest}" if _DEVICE.match(kept) or not kept else f"{kept}-{digest}"


def default_name(item: pytest.Item) -> str:
    """What the cassette of a test is called, after its class, function and parameters."""
    base, bracket, parameters = item.name.partition("[")
    chain = [node for node in item.listchain() if isinstance(node, pytest.Class)]
    title = ".".join([*(node.name for node in chain), base])
    if bracket:
        title = f"{title}-{parameters.removesuffix(']')}"
    twins = any(_has_twin(node, name) for node, name in [*((node, node.name) for node in chain), (item, base)])
    return safe_name(title, is_unique=parameters == parameters.lower() and not twins)


def _has_twin(node: Any, name: str) -> bool:
    # By what the module has, not by what was collected, which is another thing for each command line.
    siblings = dir(getattr(node.parent, "obj", None))
    return any(other != name and other.lower() == name.lower() for other in siblings)


def default_dir(item: pytest.Item) -> Path:
    """Where the cassette of a test is: `cassettes/<module>` beside the module."""
    return item.path.parent / "cassettes" / item.path.stem


def path_of(item: pytest.Item, marked: str | os.PathLike[str] | None, folder: Path | str, name: str) -> Path:
    """Where the cassette of a test is by what it is called, in a mark or by a fixture.

    Raises:
        InterceptError: A project's own fixture gives something else.
    """
    from mcp_intercept.errors import InterceptError

    for fixture, kinds, found in (("mcp_tape_dir", (str, os.PathLike), folder), ("mcp_tape_name", str, name)):
        if not isinstance(found, kinds):  # pyright: ignore[reportUnnecessaryIsInstance] - users err
            raise InterceptError(f"the fixture {fixture} gives a {'str' if kinds is str else 'path'}, not {found!r}")
    given = name if marked is None else os.fspath(marked)
    is_path = isinstance(marked, os.PathLike) or "/" in given or os.sep in given or given.endswith(SUFFIX)
    if marked is not None and is_path:
        path = item.path.parent / f"{given.removesuffix(SUFFIX)}{SUFFIX}"
    else:
        # What a project's fixture gives is often made of the test's name, which may have anything in it.
        path = item.path.parent / folder / f"{safe_name(given)}{SUFFIX}"
    return Path(os.path.abspath(path))
